"""A microphone and a loudspeaker at the other end of a connection, such as a page in a browser.

The far end sends what it captured and reports how many samples of the running reply its loudspeaker took; between two
reports the position is extrapolated. One that does not report is taken to play what it is sent when it arrives. Resampling
happens here, so that the far end only copies. The connection may break and come back: what the far end has not received is
sent again, and the time in between is silence.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

import numpy as np

from audio_io.base import CAPTURE_HZ, FRAME_SAMPLES, PLAYBACK_HZ, AudioFrame, Clock, DeviceError, PlaybackReport
from audio_io.gaps import LagWatch
from audio_io.resample import StreamingResampler

MIN_HZ, MAX_HZ = 8_000, 192_000
_MAX_LAG_S = 0.3  # of a slow network
_MAX_LEAD_S = 3.0  # more sound than time: not a microphone
_MAX_WAITING_S = 20.0  # captured sound that the recogniser has not taken
_REPORT_PATIENCE_S = 1.0  # after the expected end of a reply
_MOST_FRAMES = 10  # at once, where the session is late
_DRY_S = 0.05  # the far queue counts as run dry when it should have ended this long ago: its position is an estimate


class Outlet(Protocol):
    """Where samples and orders for the far loudspeaker go. Must not block."""

    def audio(self, reply: int, start: int, samples: np.ndarray, *, last: bool) -> None:
        """Samples of a reply, float32 (N,) at the far end's rate; `start`: position of the first within the reply."""
        ...

    def duck(self, reply: int, gain: float, fade_ms: float) -> None:
        """Play the reply at `gain` times its level from now on, reached within `fade_ms`."""
        ...

    def silence(self, reply: int, fade_ms: float) -> None:
        """Stop the reply at once, with a fade, and forget the rest of it."""
        ...


class _LoopClock:
    """Seconds since the first captured sample, by the event loop's clock."""

    def __init__(self) -> None:
        self.began: float | None = None

    def now(self) -> float:
        """Seconds since the first captured sample; 0 before the far end is there."""
        return 0.0 if self.began is None else asyncio.get_running_loop().time() - self.began

    async def sleep_until(self, at: float) -> None:
        """Return when `now()` has reached `at`."""
        await asyncio.sleep(max(0.0, at - self.now()))


class BrowserDevice:
    """The far end as an `AudioDevice`. `attach` and `detach` follow the connection; all calls belong to one event loop."""

    def __init__(self, *, live: bool = True) -> None:
        """`live`: the far end captures at the pace of time and reports what it plays.

        Another one, such as a program, sends what it has when it has it: the clock follows its sound, and while none comes
        and no reply runs, no time passes.
        """
        self._live = self.reports = live
        self._clock = _LoopClock()
        self._outlet: Outlet | None = None
        self._changed = asyncio.Event()  # attached, or a report came
        self._closed = False
        self.round_trip_s = 0.0  # of the connection
        self.output_latency_s = 0.0  # from the loudspeaker's queue to the air
        # microphone
        self._capture_hz = CAPTURE_HZ
        self._to_session = StreamingResampler(CAPTURE_HZ, CAPTURE_HZ)
        self._captured: deque[np.ndarray] = deque()
        self._captured_waiting = 0
        self._position = 0  # captured samples so far, silence for gaps included
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()  # the session waits for samples
        self._fill = True  # the next captured samples follow a gap
        self._lags = LagWatch(_MAX_LAG_S)
        self._attached_at = 0.0  # by the loop's clock
        self._captured_s = 0.0  # since then
        # loudspeaker
        self._output_hz = PLAYBACK_HZ
        self._to_speaker = StreamingResampler(PLAYBACK_HZ, PLAYBACK_HZ)
        self._reply = 0
        self._sent: list[np.ndarray] = []  # of the running reply, at the far end's rate
        self._num_sent = 0
        self._reachable = 0  # of these, what the far end can have
        self._complete = False
        self._running = False
        self._anchor = (0.0, 0)  # at this time of the clock, this many samples of the reply were consumed
        self._sounds_until = 0.0  # when the last queued sample is over
        self._underruns = 0
        self._gain = 1.0  # of the running reply

    @property
    def clock(self) -> Clock:
        """The conversation's clock."""
        return self._clock

    @property
    def playback_hz(self) -> int:
        """Rate of the samples that `play` takes."""
        return PLAYBACK_HZ

    @property
    def attached(self) -> bool:
        """True while the far end is there."""
        return self._outlet is not None

    # the connection's side

    def attach(
        self, outlet: Outlet, *, capture_hz: int, output_hz: int, reply: int | None = None, received: int = 0
    ) -> bool:
        """The far end is there, for the first time or again. Raises DeviceError for rates that no device has.

        `reply`, `received`: the reply that it knows and how many of its samples. True when the running reply goes on
        there; False when the far end knows nothing of it, so that it must be flushed.
        """
        for rate in (capture_hz, output_hz):
            if not MIN_HZ <= rate <= MAX_HZ:
                raise DeviceError(f"a sample rate of {rate} Hz; use {MIN_HZ} to {MAX_HZ} Hz.")
        self._attached_at, self._captured_s = asyncio.get_running_loop().time(), 0.0
        if self._clock.began is None:
            self._clock.began = self._attached_at
        if not self._reachable:  # the running reply began while nobody was there
            reply, received = self._reply, 0
        goes_on = not self._running or (
            reply == self._reply and output_hz == self._output_hz and 0 <= received <= self._num_sent
        )
        self._outlet, self._fill = outlet, True
        self._capture_hz, self._to_session = capture_hz, StreamingResampler(capture_hz, CAPTURE_HZ)
        if output_hz != self._output_hz:
            self._output_hz, self._to_speaker = output_hz, StreamingResampler(PLAYBACK_HZ, output_hz)
        if self._running and goes_on:
            rest = np.concatenate([np.zeros(0, np.float32), *self._sent])[received:]
            if len(rest) or self._complete:
                outlet.audio(self._reply, received, rest, last=self._complete)
            if self._gain != 1.0:
                outlet.duck(self._reply, self._gain, 0.0)
            self._reachable = self._num_sent
        self._changed.set()
        return goes_on

    def detach(self) -> None:
        """The far end is gone; it can still play what it has received."""
        self._outlet = None

    def close(self) -> None:
        """No more frames will come."""
        self._outlet, self._closed = None, True
        self._arrived.set()
        self._taken.set()

    def capture(self, samples: np.ndarray) -> None:
        """Take captured samples, float32 (N,) at the far end's rate. Raises DeviceError for a live microphone that is none."""
        self._captured_s += len(samples) / self._capture_hz
        if self._live and self._captured_s > asyncio.get_running_loop().time() - self._attached_at + _MAX_LEAD_S:
            raise DeviceError("the microphone sends more sound than time passes.")
        converted = self._to_session.push(samples)
        now = self._clock.now()
        lag = now - (self._position + len(converted)) / CAPTURE_HZ
        if lag < 0 and self._clock.began is not None:  # this frame came faster than any before it
            self._clock.began += lag
        if self._live:
            self._fill_gap(now, lag)
        elif self._fill and not self._running and self._clock.began is not None:
            self._clock.began += max(0.0, lag)
            self._fill = False
        self._append(converted)

    def resume(self) -> None:
        """The next captured samples follow a gap."""
        self._fill = True

    def _fill_gap(self, now: float, lag: float) -> None:
        """Silence for the time in which nothing was captured."""
        if self._fill:
            self._append_silence(lag)
            self._lags.begin(now)
            self._fill = False
        self._append_silence(self._lags.gap(now, lag))

    async def taken(self) -> None:
        """Return when the session has dealt with all captured samples, or no more are wanted."""
        await self._taken.wait()

    def report(self, reply: int, consumed: int, underruns: int) -> None:
        """The far loudspeaker has taken this many samples of a reply, and ran dry so often."""
        if self._running and reply == self._reply:
            consumed = max(0, min(consumed, self._num_sent))
            self._anchor = (self._clock.now() - self.round_trip_s / 2, consumed)
            self._underruns = underruns
            self._changed.set()

    def _append_silence(self, seconds: float) -> None:
        missing = round(seconds * CAPTURE_HZ)
        for start in range(0, missing, CAPTURE_HZ):
            self._append(np.zeros(min(CAPTURE_HZ, missing - start), np.float32))

    def _append(self, samples: np.ndarray) -> None:
        self._captured.append(samples)
        self._captured_waiting += len(samples)
        self._position += len(samples)
        self._taken.clear()
        self._arrived.set()

    # the session's side

    async def frames(self) -> AsyncIterator[AudioFrame]:
        """Captured frames as they come, several at once where many wait; they end with `close`."""
        waiting, start = np.zeros(0, np.float32), 0
        while True:
            while not self._captured:
                if self._closed:
                    return
                self._taken.set()
                self._arrived.clear()
                await self._arrived.wait()
            if self._captured_waiting > _MAX_WAITING_S * CAPTURE_HZ:
                self._catch_up()
            while self._captured and len(waiting) < _MOST_FRAMES * FRAME_SAMPLES:
                taken = self._captured.popleft()
                self._captured_waiting -= len(taken)
                waiting = np.concatenate((waiting, taken))
            while len(waiting) >= FRAME_SAMPLES:
                count = min(len(waiting) // FRAME_SAMPLES, _MOST_FRAMES) * FRAME_SAMPLES
                yield AudioFrame(waiting[:count], start)
                waiting, start = waiting[count:], start + count

    def _catch_up(self) -> None:
        """The machine is too busy to listen: sound that waits too long becomes silence, which costs little to hear."""
        self._captured = deque(np.zeros_like(piece) for piece in self._captured)

    def play(self, samples: np.ndarray, *, last: bool) -> float:
        """Queue samples of the reply; returns when their first is heard, as far as that can be known."""
        now = self._clock.now()
        if not self._running:
            self._begin_reply(now)
        at, consumed = self._anchor
        arrives = now + self.round_trip_s / 2
        if self._num_sent and at + (self._num_sent - consumed) / self._output_hz > arrives - _DRY_S:
            plays_at = self._sounds_until  # chunk after chunk without a gap
        else:  # it starts, or goes on after it ran dry, when this chunk arrives
            self._anchor = (arrives, self._num_sent)
            plays_at = arrives + self.output_latency_s
        self._sounds_until = plays_at + len(samples) / PLAYBACK_HZ
        converted = self._to_speaker.push(samples)
        if last:
            converted = np.concatenate((converted, self._to_speaker.finish()))
        start, self._complete = self._num_sent, last
        self._sent.append(converted)
        self._num_sent += len(converted)
        if self._outlet:
            self._reachable = self._num_sent
            self._outlet.audio(self._reply, start, converted, last=last)
        return plays_at

    def _begin_reply(self, now: float) -> None:
        self._reply += 1
        self._running, self._complete = True, False
        self._sent, self._num_sent, self._reachable, self._underruns = [], 0, 0, 0
        self._anchor = (now, 0)

    async def drained(self) -> None:
        """Return when the far end has played everything queued; the reply is then over."""
        while self._running:
            now = self._clock.now()
            left_s = (self._num_sent - self._anchor[1]) / self._output_hz - (now - self._anchor[0])
            reached = self._anchor[1] >= self._num_sent
            late_s = _REPORT_PATIENCE_S if self.reports else 0.0
            if (reached and now >= self._anchor[0] + self.output_latency_s) or (self.attached and left_s <= -late_s):
                break
            self._changed.clear()
            patience = self.output_latency_s if reached else max(0.0, left_s) + late_s + 0.01
            try:
                async with asyncio.timeout(patience if self.attached or reached else None):
                    await self._changed.wait()
            except TimeoutError:
                continue
        self._end_reply()

    def duck(self, gain: float, fade_ms: float) -> None:
        """Play the running reply at `gain` times its level from now on, reached within `fade_ms`."""
        if self._running:
            self._gain = gain
            if self._outlet:
                self._outlet.duck(self._reply, gain, fade_ms)

    def flush(self, fade_ms: float) -> PlaybackReport:
        """Silence the reply at once, and forget what is queued."""
        heard = self._consumed(self._clock.now() + self.round_trip_s / 2)  # until the order is there
        report = PlaybackReport(played_samples=self._at_24k(heard), underruns=self._underruns)
        if self._running and self._outlet:
            self._outlet.silence(self._reply, fade_ms)
        self._to_speaker = StreamingResampler(PLAYBACK_HZ, self._output_hz)
        self._end_reply()
        return report

    def _end_reply(self) -> None:
        self._running, self._sent, self._num_sent, self._gain = False, [], 0, 1.0
        self._changed.set()

    @property
    def played_samples(self) -> int:
        """Samples of the running reply that were heard, at 24 kHz; 0 when none runs."""
        return self._at_24k(self._consumed(self._clock.now() - self.output_latency_s))

    @property
    def underruns(self) -> int:
        """How often playback ran dry within the running or the last reply."""
        return self._underruns

    def _consumed(self, now: float) -> int:
        """Samples of the running reply that the far loudspeaker took by then, at its rate."""
        if not self._running:
            return 0
        at, samples = self._anchor
        return max(0, min(self._reachable, samples + round((now - at) * self._output_hz)))

    def _at_24k(self, samples: int) -> int:
        return samples * PLAYBACK_HZ // self._output_hz
