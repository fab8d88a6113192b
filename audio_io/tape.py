"""A conversation as it sounded: what the microphone gave and what was really played, on one time line."""

from collections import deque

import numpy as np

from audio_io.base import CAPTURE_HZ, PLAYBACK_HZ
from audio_io.level import Level
from audio_io.resample import resample

Piece = tuple[int, np.ndarray]  # first sample on the time line, int16 samples


class Tape:
    """Collects both sides; positions are seconds since the first captured sample."""

    def __init__(self, keep_s: float = float("inf")) -> None:
        """`keep_s`: of a longer conversation only its latest part is kept."""
        self._keep_s = keep_s
        self._user: deque[Piece] = deque()
        self._assistant: list[Piece] = []
        self._first_of_reply = 0  # index of the running reply's first piece
        self._level = Level()  # by playback samples of the time line

    def captured(self, start: int, samples: np.ndarray) -> None:
        """A frame of the microphone, float32 at 16 kHz, from sample `start` on."""
        self._user.append((start, _int16(samples)))
        while self._user[0][0] < start - self._keep_s * CAPTURE_HZ:
            self._user.popleft()

    def played(self, at: float, samples: np.ndarray) -> None:
        """A chunk of the reply, float32 at 24 kHz, that sounds from `at` on."""
        self._assistant.append((round(at * PLAYBACK_HZ), _int16(samples)))

    def duck(self, at: float, gain: float, fade_ms: float) -> None:
        """From second `at` on the running reply sounds at `gain` times its level."""
        self._level.move(round(at * PLAYBACK_HZ), gain, round(fade_ms * PLAYBACK_HZ / 1000))

    def reply_over(self) -> None:
        """The running reply was played to its end."""
        if self._level.gain != 1.0:
            self._level.move(max((start + len(piece) for start, piece in self._assistant), default=0), 1.0)
        if self._user:
            begin = self._user[0][0] / CAPTURE_HZ * PLAYBACK_HZ
            self._assistant = [piece for piece in self._assistant if piece[0] >= begin or self._keep_s == float("inf")]
        self._first_of_reply = len(self._assistant)

    def cut(self, played_samples: int) -> None:
        """Only this many samples of the running reply were heard."""
        for index in range(self._first_of_reply, len(self._assistant)):
            start, samples = self._assistant[index]
            self._assistant[index] = (start, samples[:played_samples])
            played_samples = max(0, played_samples - len(samples))
        self.reply_over()

    def both(self) -> np.ndarray:
        """Float32 (N, 2) at 24 kHz from the earliest sample kept: left the user, right the assistant."""
        begin = self._user[0][0] if self._user and self._keep_s < float("inf") else 0
        user = resample(_line(list(self._user), begin), CAPTURE_HZ, PLAYBACK_HZ)
        first = round(begin / CAPTURE_HZ * PLAYBACK_HZ)
        assistant = _line(self._assistant, first)
        assistant *= self._level(first, len(assistant))
        out = np.zeros((max(len(user), len(assistant)), 2), np.float32)
        out[: len(user), 0] = user
        out[: len(assistant), 1] = assistant
        return out


def _int16(samples: np.ndarray) -> np.ndarray:
    return (np.clip(samples, -1.0, 1.0) * 32767).astype(np.int16)


def _line(pieces: list[Piece], begin: int) -> np.ndarray:
    """The pieces that start at position `begin` or later, on a line that starts there."""
    pieces = [(start - begin, samples) for start, samples in pieces if start >= begin]
    out = np.zeros(max((start + len(samples) for start, samples in pieces), default=0), np.float32)
    for start, samples in pieces:
        out[start : start + len(samples)] = samples / np.float32(32767)
    return out
