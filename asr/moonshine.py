"""Moonshine (arXiv 2410.15608) through its own package: a small English recogniser that learned from people's speech.

The package brings its model with it, so that real voices are understood without a download. It reads whole recordings; a
partial transcript is the reading of what there is so far.
"""

from pathlib import Path
from typing import Any

import numpy as np

from asr.base import SAMPLE_RATE, RecognizerError

_MODEL = "tiny-en"  # the one inside the package
_MIN_SAMPLES = SAMPLE_RATE // 10
_PAD_SAMPLES = 3 * SAMPLE_RATE // 10  # silence around a recording, as around what it learned from
# its own voice detector is switched off: it remembers what it heard before, so that the same recording reads otherwise the
# next time
_OPTIONS = {"vad_threshold": "0", "vad_max_segment_duration": "0"}


class Moonshine:
    """The loaded model. Use from one thread at a time."""

    def __init__(self) -> None:
        """Raises RecognizerError: the package is missing, or is a release without the model."""
        try:
            from moonshine_voice import ModelArch, MoonshineError, Transcriber, get_assets_path
        except (ImportError, OSError) as error:
            raise RecognizerError(
                f"asr.backend=moonshine needs the package moonshine-voice ({error}): pip install -r requirements.txt"
            ) from error
        folder = Path(get_assets_path()) / _MODEL
        try:
            self._model: Any = Transcriber(model_path=folder, model_arch=ModelArch.TINY, options=_OPTIONS)
        except (MoonshineError, OSError) as error:
            raise RecognizerError(
                f"Moonshine's model in {folder} cannot be loaded ({error}): install the release of moonshine-voice that "
                "requirements.txt names, later ones come without it"
            ) from error

    def transcribe(self, samples: np.ndarray) -> str:
        """Text of one utterance, float32 mono at 16 kHz, shape (N,), with capitals and punctuation.

        Where nobody speaks it invents words; `asr.stream` gives it voices only.
        """
        if len(samples) < _MIN_SAMPLES:
            return ""
        heard = self._model.transcribe_without_streaming(np.pad(samples, _PAD_SAMPLES).tolist(), SAMPLE_RATE)
        return " ".join(line.text.strip() for line in heard.lines if line.text.strip())

    def stream(self) -> None:
        """None: it reads what there is so far again for each partial transcript."""
