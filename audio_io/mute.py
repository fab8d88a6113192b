"""A device for people who type: no microphone; the loudspeaker where there is one, else silence of the right length."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np

from audio_io.base import PLAYBACK_HZ, AudioFrame, Clock, PlaybackReport


class TypedDevice:
    """Plays into the void at the pace of the clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start: float | None = None  # when the running reply began
        self._end = 0.0

    @property
    def clock(self) -> Clock:
        """The conversation's clock."""
        return self._clock

    @property
    def playback_hz(self) -> int:
        """Rate of the replies."""
        return PLAYBACK_HZ

    async def frames(self) -> AsyncIterator[AudioFrame]:
        """No frame ever comes; ends with its cancellation."""
        await asyncio.Event().wait()
        yield AudioFrame(np.zeros(0, np.float32), 0)

    def play(self, samples: np.ndarray, *, last: bool) -> float:
        """Let the time of the samples pass."""
        begin = max(self._clock.now(), self._end)
        self._start = begin if self._start is None else self._start
        self._end = begin + len(samples) / PLAYBACK_HZ
        return begin

    async def drained(self) -> None:
        """Until the time of everything queued has passed."""
        await self._clock.sleep_until(self._end)
        self._start = None

    def duck(self, gain: float, fade_ms: float) -> None:
        """Silence is no louder or fainter."""

    def flush(self, fade_ms: float) -> PlaybackReport:
        """Forget what is queued."""
        report = PlaybackReport(played_samples=self.played_samples, underruns=0)
        self._end, self._start = self._clock.now(), None
        return report

    @property
    def played_samples(self) -> int:
        """Samples of the running reply whose time has passed."""
        if self._start is None:
            return 0
        return round(max(0.0, min(self._clock.now(), self._end) - self._start) * PLAYBACK_HZ)

    @property
    def underruns(self) -> int:
        """Nothing runs dry."""
        return 0
