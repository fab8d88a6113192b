"""What crosses the border of the audio devices: frames of the microphone in, samples to play out.

One conversation has one clock. Its zero is the first captured sample: sample `n` is heard at `n / CAPTURE_HZ`.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

CAPTURE_HZ = 16_000
PLAYBACK_HZ = 24_000
FRAME_MS = 20
FRAME_SAMPLES = CAPTURE_HZ * FRAME_MS // 1000


class DeviceError(Exception):
    """An audio device is missing, busy or gone; the message says which and what to do."""


class DeviceLostError(DeviceError):
    """Sound is gone in a way from which only a new process recovers."""


class AudioFileError(Exception):
    """A recording cannot be read or written; the message says which, why and what to do."""


@dataclass(frozen=True, slots=True)
class AudioFrame:
    """20 ms of the microphone; a multiple of it where more wait."""

    samples: np.ndarray  # float32 mono in [-1, 1], (N,): 320 or a multiple
    start: int  # index of the first sample on the capture sample clock


@dataclass(frozen=True, slots=True)
class PlaybackReport:
    """What became of a reply."""

    played_samples: int  # of the reply, at 24 kHz
    underruns: int  # times playback ran dry within the reply


class Clock(Protocol):
    """Seconds on the capture sample clock: 0 is the first captured sample."""

    def now(self) -> float: ...

    async def sleep_until(self, at: float) -> None:
        """Return when `now()` has reached `at`; lets other tasks run even if that is past."""
        ...


class AudioDevice(Protocol):
    """A microphone and a loudspeaker on one clock.

    A reply begins with the first `play` after the last one was over; it is over when `drained` returns or `flush` is
    called.
    """

    @property
    def clock(self) -> Clock: ...

    @property
    def playback_hz(self) -> int:
        """Rate of the samples that `play` takes."""
        ...

    def frames(self) -> AsyncIterator[AudioFrame]:
        """Captured frames, each when its last sample was captured. Raises DeviceError when either side is gone."""
        ...

    def play(self, samples: np.ndarray, *, last: bool) -> float:
        """Queue samples of the reply, float32 (N,); returns when the first of them sounds.

        `last`: the reply is complete.
        """
        ...

    async def drained(self) -> None:
        """Until everything queued was played; a device that is gone is told by `frames`."""
        ...

    def duck(self, gain: float, fade_ms: float) -> None:
        """Play the running reply at `gain` times its level from now on, reached within `fade_ms`; 1 brings it back.

        The next reply begins at its own level.
        """
        ...

    def flush(self, fade_ms: float) -> PlaybackReport:
        """Silence the reply at once, with a fade, and forget what is queued."""
        ...

    @property
    def played_samples(self) -> int:
        """Samples of the running reply that were played; 0 when none runs."""
        ...

    @property
    def underruns(self) -> int:
        """Times playback ran dry within the running or, when none runs, the last reply."""
        ...
