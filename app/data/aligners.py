"""Which aligner `data prepare` takes: what lies in the folder that it is given decides."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app import hub
from app.weights_table import ALIGNER
from configs.schema import ConfigError

if TYPE_CHECKING:
    from asr.timestamps import TimestampModel
    from tts.alignment.textgrid import Alignment
    from tts.prompt import Aligner

FUNASR_FILE = "config.yaml"  # transformers' folders have a config.json


def located(named: str) -> Path:
    """The folder that is named, or the one that a hub's cache has under that name. Raises ConfigError."""
    folder = Path(named).expanduser()
    if folder.is_dir():
        return folder
    wanted = ALIGNER.wanted(named)
    if wanted is None:
        raise ConfigError(
            f"--aligner {named}: there is no such folder; it takes a transformers folder of a wav2vec 2.0 model with CTC, "
            "a FunASR folder of a timestamp model, or fa-zh."
        )
    found = hub.local(wanted)
    if found is None:
        raise ConfigError(
            f"--aligner {named}: there is no such folder, and no hub's cache on this machine holds "
            f"{', '.join(wanted.patterns)} of {wanted.repository.name}: `launch.py weights get {named}` fetches them; "
            "a transformers model is given as a folder."
        )
    return found


def load(folder: Path, device: str) -> "Aligner":
    """The aligner in a folder. Raises CheckpointError or RecognizerError."""
    if (folder / FUNASR_FILE).is_file():
        from asr.timestamps import TimestampModel

        return FunasrAligner(TimestampModel.load(folder, device))
    from tts.alignment.ctc import CtcAligner

    return CtcAligner.load(folder, device)


class FunasrAligner:
    """The recogniser's room tells when words are said; here they are cut and given as the voice's room takes them."""

    def __init__(self, model: "TimestampModel") -> None:
        self._model = model

    def align(self, samples: np.ndarray, text: str) -> "Alignment":
        """Times of the words of `text` in 16 kHz samples (N,). Raises MisalignedError."""
        from asr.timestamps import TimesError
        from tts.alignment.durations import MisalignedError
        from tts.alignment.textgrid import Alignment

        words = spoken_words(text)
        try:
            times = self._model.times(samples, words)
        except TimesError as error:
            raise MisalignedError(str(error)) from None
        return Alignment([(word, start, end) for word, (start, end) in zip(words, times, strict=True)])


def spoken_words(text: str) -> list[str]:
    """Characters of scripts without spaces, words of the others ("don't" is one), punctuation left out."""
    from tts.text.characters import ALONE

    run = rf"[^\W_{ALONE}]+"
    return re.findall(rf"[{ALONE}]|{run}(?:'{run})*", text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
