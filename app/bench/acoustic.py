"""What a stereo recording says by itself: who speaks when. An energy detector with hysteresis, none of the assistant's own.

User and assistant are judged by different rules. The user's voice is what stands within 35 dB of its loudest 5 ms and above
the noise around it, in a frame and over the 15 ms around it: a decaying voice flickers about every threshold. The assistant is
audible from -50 dBFS on, and sounds shorter than 15 ms are ticks, not speech.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.trace import AUDIBLE
from audio_io.base import AudioFileError

FRAME_S = 0.005
USER_RANGE_DB, USER_ENTER_DB = 35.0, 25.0  # below the loudest frame: a voice stays down to one, begins above the other
ABOVE_NOISE_DB = 8.0
NOISE_PERCENTILE = 10
LOUDEST_NOISE_DB = 20.0  # below the loudest frame; a recording without any pause has no quiet frames to judge it by
FAINTEST_DB = -55.0  # a recording that is never louder has nobody in it
REGION_GAP_S = 0.3  # digital silence that separates two recordings in the user's channel
MIN_VOICE_S = 0.06
MIN_SOUND_S = 0.015
JOIN_S = 0.12  # shorter gaps are closures of consonants
_LSB = 1.5 / 32768


@dataclass(frozen=True, slots=True)
class Span:
    """From the first sample of a sound to the end of its last; seconds of the recording."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Heard:
    """A conversation as its recording has it."""

    user: tuple[Span, ...]
    assistant: tuple[Span, ...]

    def user_end_before(self, at: float) -> float | None:
        """End of the last voice of the user that ended before a time."""
        return max((span.end for span in self.user if span.end <= at), default=None)

    def knowing(self, user: tuple[Span, ...], until: float) -> "Heard":
        """With what is known of the user's voice up to a time instead of what the recording says of it."""
        return Heard((*user, *(span for span in self.user if span.start >= until)), self.assistant)

    def onset_near(self, at: float, within_s: float) -> float | None:
        """The start of the assistant's sound nearest to a time."""
        starts = [span.start for span in self.assistant if abs(span.start - at) <= within_s]
        return min(starts, key=lambda start: abs(start - at), default=None)


def listen(path: Path) -> Heard:
    """Read a stereo recording (left the user, right the assistant). Raises AudioFileError."""
    import soundfile

    try:
        both, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioFileError(f"{path}: cannot be read again ({error}).") from error
    if both.shape[1] != 2:
        raise AudioFileError(f"{path}: {both.shape[1]} channel; a conversation has the user left, the assistant right.")
    return Heard(user_spans(both[:, 0], rate), assistant_spans(both[:, 1], rate))


def user_spans(samples: np.ndarray, rate: int) -> tuple[Span, ...]:
    """Where the user speaks: float32 (N,)."""
    spans: list[Span] = []
    for first, last in _regions(np.abs(samples) >= _LSB, round(REGION_GAP_S * rate)):
        level = _level(samples[first:last], rate)
        loudest = float(level.max())
        if loudest < FAINTEST_DB:
            continue
        noise = min(float(np.percentile(level, NOISE_PERCENTILE)), loudest - LOUDEST_NOISE_DB)
        stay = max(loudest - USER_RANGE_DB, noise + ABOVE_NOISE_DB)
        enter = max(loudest - USER_ENTER_DB, noise + ABOVE_NOISE_DB + 4.0)
        for begin, end in _regions(_lasting(level) > stay, round(JOIN_S / FRAME_S)):
            if (end - begin) * FRAME_S >= MIN_VOICE_S and (level[begin:end] > enter).any():
                spans.append(Span(first / rate + begin * FRAME_S, min(first / rate + end * FRAME_S, last / rate)))
    return tuple(spans)


def assistant_spans(samples: np.ndarray, rate: int) -> tuple[Span, ...]:
    """Where the assistant is audible: float32 (N,). The edges are exact to the sample."""
    spans: list[Span] = []
    for first, last in _regions(np.abs(samples) > AUDIBLE, round(JOIN_S * rate)):
        if (last - first) / rate >= MIN_SOUND_S:
            spans.append(Span(first / rate, last / rate))
    return tuple(spans)


def _level(samples: np.ndarray, rate: int) -> np.ndarray:
    """dB of each frame."""
    size = round(FRAME_S * rate)
    padded = np.pad(samples.astype(np.float64), (0, -len(samples) % size))
    return np.asarray(10 * np.log10(np.square(padded).reshape(-1, size).mean(1) + 1e-12))


def _lasting(level: np.ndarray) -> np.ndarray:
    """The fainter of each frame's level and that of the three frames around it."""
    power = np.pad(10 ** (level / 10), 1, "edge")
    around = (power[:-2] + power[1:-1] + power[2:]) / 3
    return np.minimum(level, 10 * np.log10(around))


def _regions(mask: np.ndarray, gap: int) -> list[tuple[int, int]]:
    """Runs of true, joined over gaps of at most `gap`: (first, one past the last)."""
    found = np.flatnonzero(mask)
    if not len(found):
        return []
    breaks = np.flatnonzero(np.diff(found) > gap)
    firsts = found[np.concatenate(([0], breaks + 1))]
    lasts = found[np.concatenate((breaks, [len(found) - 1]))] + 1
    return [(int(a), int(b)) for a, b in zip(firsts, lasts, strict=True)]
