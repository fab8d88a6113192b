"""What a person can do to a live conversation beside talking: mute, push to talk, see levels, keep a recording."""

from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np

from audio_io.base import AudioDevice, AudioFrame, Clock, PlaybackReport
from audio_io.tape import Tape


class LiveDevice:
    """A device with a switch at the microphone and meters on both sides; everything else is the device's own."""

    def __init__(self, device: AudioDevice, tape: Tape | None = None) -> None:
        self._device, self._tape = device, tape
        self.open = True  # the microphone is switched on
        self.input_level = self.output_level = 0.0  # of the last frame and chunk, root mean square

    @property
    def clock(self) -> Clock:
        """The conversation's clock."""
        return self._device.clock

    @property
    def playback_hz(self) -> int:
        """Rate of the samples that `play` takes."""
        return self._device.playback_hz

    async def frames(self) -> AsyncIterator[AudioFrame]:
        """Captured frames; silent ones while the microphone is switched off."""
        async for frame in self._device.frames():
            heard = frame if self.open else replace(frame, samples=np.zeros_like(frame.samples))
            self.input_level = level(heard.samples)
            if self._tape:
                self._tape.captured(heard.start, heard.samples)
            yield heard

    def play(self, samples: np.ndarray, *, last: bool) -> float:
        """Queue samples of the reply."""
        plays_at = self._device.play(samples, last=last)
        self.output_level = level(samples)
        if self._tape:
            self._tape.played(plays_at, samples)
        return plays_at

    async def drained(self) -> None:
        """Until everything queued was played."""
        await self._device.drained()
        self.output_level = 0.0
        if self._tape:
            self._tape.reply_over()

    def duck(self, gain: float, fade_ms: float) -> None:
        """Play the running reply at `gain` times its level from now on, reached within `fade_ms`."""
        self._device.duck(gain, fade_ms)
        if self._tape:
            self._tape.duck(self.clock.now(), gain, fade_ms)

    def flush(self, fade_ms: float) -> PlaybackReport:
        """Silence the reply at once."""
        report = self._device.flush(fade_ms)
        self.output_level = 0.0
        if self._tape:
            self._tape.cut(report.played_samples)
        return report

    @property
    def played_samples(self) -> int:
        """Samples of the running reply that were played."""
        return self._device.played_samples

    @property
    def underruns(self) -> int:
        """Times playback ran dry."""
        return self._device.underruns


def level(samples: np.ndarray) -> float:
    """Root mean square of samples in [-1, 1]."""
    return float(np.sqrt(np.dot(samples, samples) / len(samples))) if len(samples) else 0.0
