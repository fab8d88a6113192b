"""Word and phone times of English from pocketsphinx: its acoustic model and dictionary come with the package."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from tts.alignment.durations import MisalignedError
from tts.alignment.textgrid import Alignment

SAMPLE_HZ = 16_000
_FRAME_S = 0.01
_PAD_S = 0.1  # silence around the recording, in which the model begins and ends
_PEAK = 0.6
_FLOOR = 2e-4  # faint noise: digital silence is nothing that the model was trained on
# Wide, so that an unusual voice is followed to its end; a text that is not what was said mostly still finds no way.
_BEAMS = {"beam": 1e-80, "pbeam": 1e-80, "wbeam": 1e-60}


class SphinxAligner:
    """Finds the words of a known text."""

    def __init__(self) -> None:
        import pocketsphinx

        model = Path(pocketsphinx.get_model_path()) / "en-us"
        self._decoder: Any = pocketsphinx.Decoder(
            hmm=str(model / "en-us"),
            lm=None,
            dict=str(model / "cmudict-en-us.dict"),
            loglevel="FATAL",
            bestpath=False,  # the second look at the lattice may end before the last word
            **_BEAMS,
        )

    def align(self, samples: np.ndarray, text: str) -> Alignment:
        """Times of the words of `text` in 16 kHz samples (N,). Raises MisalignedError."""
        words = re.sub(r"[^a-z']+", " ", text.lower()).split()
        for word in words:
            if self._decoder.lookup_word(word) is None:
                raise MisalignedError(f"the dictionary of pronunciations does not have {word!r}")
        if not words or not np.abs(samples).max(initial=0.0):
            raise MisalignedError("there is nothing to align")
        pcm = _padded(samples)
        self._decoder.set_align_text(" ".join(words))
        self._run(pcm)
        found = (_spelled(segment.word) for segment in self._decoder.seg() or ())
        if [word for word in found if word] != words:
            raise MisalignedError("the text is not found in the recording")
        self._decoder.set_alignment()  # the second run, for the phones
        self._run(pcm)
        end_s = len(samples) / SAMPLE_HZ
        timed, phones = [], []
        for entry in self._decoder.get_alignment():
            start, end = (_seconds(frame, end_s) for frame in (entry.start, entry.start + entry.duration))
            if _spelled(entry.name):
                timed.append((_spelled(entry.name), start, end))
            phones += [(phone.name, _seconds(phone.start + phone.duration, end_s)) for phone in entry]
        return Alignment(timed, phones)

    def _run(self, pcm: bytes) -> None:
        try:
            self._decoder.reinit_feat()  # or what was aligned before would count
            self._decoder.start_utt()
            self._decoder.process_raw(pcm, full_utt=True)
            self._decoder.end_utt()
        except RuntimeError:
            raise MisalignedError("the text is not found in the recording") from None


def _padded(samples: np.ndarray) -> bytes:
    audio = np.pad(samples / np.abs(samples).max() * _PEAK, round(_PAD_S * SAMPLE_HZ))
    audio = audio + _FLOOR * np.random.default_rng(0).standard_normal(len(audio))
    return (audio * 32767).astype(np.int16).tobytes()


def _seconds(frame: int, end_s: float) -> float:
    return min(max(frame * _FRAME_S - _PAD_S, 0.0), end_s)


def _spelled(entry: str) -> str:
    """The word of a dictionary entry, "was" of "was(2)"; empty for silence and noise."""
    return "" if entry[0] in "<[+" else re.sub(r"\(\d+\)$", "", entry)
