"""Recordings instead of a microphone, an array instead of a loudspeaker, on one sample clock."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import numpy as np

from audio_io.base import CAPTURE_HZ, FRAME_SAMPLES, PLAYBACK_HZ, AudioFrame, Clock, PlaybackReport
from audio_io.level import Level
from audio_io.resample import resample

# A turn at the very end of a recording is decided within this time; before it the next recording does not begin.
_SETTLE_S = 1.0


class FileDevice:
    """Plays recordings to the session in turn and collects the replies where they would have been heard.

    Capture sample `n` and playback sample `m` belong to the clock's `n / 16000` and `m / 24000` seconds. The pace is the
    clock's: real, skipping or virtual. After a recording silence is fed until its reply is over (`waiting_for_reply`
    turned false), or for `patience_s` when no reply begins; then the next one begins, or the frames end.
    """

    def __init__(
        self, clock: Clock, recordings: Iterable[np.ndarray], *, patience_s: float = 4.0, keeps: bool = True
    ) -> None:
        """`keeps` false: nothing is kept of what was said and played, for conversations without end."""
        self._clock = clock
        self._recordings = recordings  # float32 mono 16 kHz, (N,) each
        self._patience_s, self._keeps = patience_s, keeps
        self.waiting_for_reply: Callable[[], bool] = lambda: False
        self._captured: list[tuple[int, np.ndarray]] = []  # first sample, recording
        self._played: list[tuple[int, np.ndarray]] = []  # first sample, chunk: everything heard or queued
        self._reply: list[tuple[int, int]] = []  # first sample, count of the running reply's chunks
        self._end = 0  # playback sample after the last queued one
        self._level = Level()  # by playback samples
        self._expecting = False  # the running reply is not complete
        self._underruns = 0
        self._interjections: list[tuple[float, np.ndarray]] = []  # second, recording

    @property
    def clock(self) -> Clock:
        """The conversation's clock."""
        return self._clock

    @property
    def playback_hz(self) -> int:
        """Rate of the replies."""
        return PLAYBACK_HZ

    async def frames(self) -> AsyncIterator[AudioFrame]:
        """The recordings and the silence between them, each frame when its last sample is due."""
        start = 0
        silent = np.zeros(FRAME_SAMPLES, np.float32)
        for recording in self._recordings:
            self._capture(start, recording)
            for samples in _split(recording):
                yield await self._due(samples, start)
                start += FRAME_SAMPLES
            ended, replied = start, False
            while True:
                if self._interjections and self._interjections[0][0] * CAPTURE_HZ <= start:
                    _, recording = self._interjections.pop(0)
                    self._capture(start, recording)
                    for samples in _split(recording):
                        yield await self._due(samples, start)
                        start += FRAME_SAMPLES
                    ended, replied = start, False
                waiting = self.waiting_for_reply()
                replied = replied or waiting
                quiet_s = (start - ended) / CAPTURE_HZ
                waiting = waiting or bool(self._interjections)  # the user is going to speak
                if not waiting and quiet_s >= (min(_SETTLE_S, self._patience_s) if replied else self._patience_s):
                    break
                yield await self._due(silent, start)
                start += FRAME_SAMPLES

    def interject(self, samples: np.ndarray, at: float) -> float:
        """The user will speak `samples` (16 kHz, (N,)) over the reply from second `at` of the clock on.

        Returns the time rounded to the frame at which they begin. For the time after a recording, while its reply is made.
        """
        frame = -(-round(at * CAPTURE_HZ) // FRAME_SAMPLES)
        begins = frame * FRAME_SAMPLES / CAPTURE_HZ
        self._interjections.append((begins, samples))
        return begins

    def _capture(self, start: int, recording: np.ndarray) -> None:
        if self._keeps:
            self._captured.append((start, recording))

    async def _due(self, samples: np.ndarray, start: int) -> AudioFrame:
        await self._clock.sleep_until((start + FRAME_SAMPLES) / CAPTURE_HZ)
        return AudioFrame(samples, start)

    def play(self, samples: np.ndarray, *, last: bool) -> float:
        """Queue a chunk behind what is queued, or from now on; returns when its first sample is heard."""
        now = self._now()
        if not self._reply:
            self._underruns = 0
        elif self._expecting and now > self._end and len(samples):
            self._underruns += 1
        begin = max(now, self._end)
        if len(samples):
            if self._keeps:
                self._played.append((begin, np.asarray(samples, np.float32)))
            self._reply.append((begin, len(samples)))
            self._end = begin + len(samples)
        self._expecting = not last
        return begin / PLAYBACK_HZ

    async def drained(self) -> None:
        """Return when everything queued has been heard; the reply is then over."""
        while self._now() < self._end:
            await self._clock.sleep_until(self._end / PLAYBACK_HZ)
        self._end_reply()

    def duck(self, gain: float, fade_ms: float) -> None:
        """Play the running reply at `gain` times its level from now on, reached within `fade_ms`."""
        if self._reply:
            self._level.move(self._now(), gain, round(fade_ms * PLAYBACK_HZ / 1000))

    def flush(self, fade_ms: float) -> PlaybackReport:
        """Cut the reply now; `fade_ms` of it are heard fading out."""
        now = self._now()
        report = PlaybackReport(played_samples=self._heard(now), underruns=self._underruns if self._reply else 0)
        fade = np.linspace(1.0, 0.0, round(fade_ms * PLAYBACK_HZ / 1000) + 1, dtype=np.float32)[1:]
        while self._played and self._played[-1][0] >= now + len(fade):
            self._played.pop()
        for index, (begin, samples) in enumerate(self._played):
            if begin + len(samples) > now:
                kept = samples[: now + len(fade) - begin].copy()
                faded = kept[max(0, now - begin) :]
                faded *= fade[max(0, begin - now) :][: len(faded)]
                self._played[index] = (begin, kept)
        self._end = min(self._end, now + len(fade))
        self._end_reply()
        return report

    def _end_reply(self) -> None:
        self._reply.clear()
        self._expecting = False
        if self._level.gain != 1.0:
            self._level.move(self._end, 1.0)

    @property
    def played_samples(self) -> int:
        """Samples of the running reply that were heard by now."""
        return self._heard(self._now())

    @property
    def underruns(self) -> int:
        """How often the running or the last reply ran dry before its end."""
        return self._underruns

    def answer(self) -> np.ndarray:
        """What the loudspeaker played, without the waiting between: float32 (N,) at 24 kHz; empty when nothing was."""
        return np.concatenate([np.zeros(0, np.float32), *(samples for _, samples in self._sounded())])

    def timeline(self) -> np.ndarray:
        """What the loudspeaker played since the clock's zero, float32 (N,) at 24 kHz."""
        return self._timeline(self._sounded())

    def own_level(self) -> np.ndarray:
        """The same as it would have sounded, had nothing ducked it."""
        return self._timeline(self._played)

    def _sounded(self) -> list[tuple[int, np.ndarray]]:
        return [(begin, samples * self._level(begin, len(samples))) for begin, samples in self._played]

    def conversation(self) -> np.ndarray:
        """Both sides since the clock's zero, float32 (N, 2) at 24 kHz: left the user, right the assistant."""
        user = resample(self._timeline(self._captured), CAPTURE_HZ, PLAYBACK_HZ)
        reply = self.timeline()
        both = np.zeros((max(len(user), len(reply)), 2), np.float32)
        both[: len(user), 0] = user
        both[: len(reply), 1] = reply
        return both

    def _now(self) -> int:
        # rounded: a sleep until a sample's time must count that sample
        return round(self._clock.now() * PLAYBACK_HZ)

    def _heard(self, now: int) -> int:
        return sum(min(count, max(0, now - begin)) for begin, count in self._reply)

    @staticmethod
    def _timeline(pieces: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
        out = np.zeros(max((begin + len(samples) for begin, samples in pieces), default=0), np.float32)
        for begin, samples in pieces:
            out[begin : begin + len(samples)] = samples
        return out


def _split(recording: np.ndarray) -> list[np.ndarray]:
    """Whole frames of a recording, the last filled with silence."""
    padded = np.pad(recording, (0, -len(recording) % FRAME_SAMPLES))
    return list(padded.reshape(-1, FRAME_SAMPLES))
