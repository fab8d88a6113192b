"""The local microphone and loudspeaker through PortAudio, whose callbacks are compiled (`audio_io.callbacks`)."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from audio_io.base import (
    CAPTURE_HZ,
    FRAME_MS,
    FRAME_SAMPLES,
    PLAYBACK_HZ,
    AudioFrame,
    Clock,
    DeviceError,
    DeviceLostError,
    PlaybackReport,
)
from audio_io.echo import Reference, echo_control
from audio_io.gaps import LagWatch
from audio_io.level import Level
from audio_io.resample import StreamingResampler

if TYPE_CHECKING:
    from audio_io.callbacks import CallbackNotes
    from audio_io.ring import SampleRing

log = logging.getLogger(__name__)

_CAPTURE_RING_S = 10.0
_PLAYBACK_RING_S = 60.0
_STALLED_S = 3.0
_LOOK_S = 0.25  # between looks at a device of which nothing else is awaited
_MOST_FRAMES = 10  # at once, where the session is late
_WARN_EVERY_S = 10.0
_MAX_LAG_S = 0.1  # of captured samples behind the clock


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """One sound device of this machine."""

    id: int
    name: str
    num_inputs: int
    num_outputs: int
    default_hz: int
    default_input: bool
    default_output: bool


def list_devices() -> list[DeviceInfo]:
    """The sound devices of this machine. Raises DeviceError when PortAudio is missing."""
    try:
        import sounddevice
    except OSError as error:
        raise DeviceError(
            f"PortAudio is missing ({error}); install it, on Debian: apt-get install libportaudio2."
        ) from error
    default_input, default_output = sounddevice.default.device
    return [
        DeviceInfo(
            id=index,
            name=device["name"],
            num_inputs=device["max_input_channels"],
            num_outputs=device["max_output_channels"],
            default_hz=round(device["default_samplerate"]),
            default_input=index == default_input,
            default_output=index == default_output,
        )
        for index, device in enumerate(sounddevice.query_devices())
    ]


def restart_audio() -> None:
    """Let PortAudio look for devices again: it knows only those that were there when it started."""
    with suppress(ImportError, OSError):
        import sounddevice

        sounddevice._terminate()
        sounddevice._initialize()


def find_device(wanted: str | int | None, kind: str, devices: list[DeviceInfo]) -> DeviceInfo:
    """The device of an id or a part of a name, or the default. `kind`: "input" or "output". Raises DeviceError."""
    thing = "microphone" if kind == "input" else "loudspeaker"
    usable = [d for d in devices if (d.num_inputs if kind == "input" else d.num_outputs)]
    if not usable:
        raise DeviceError(f"no {thing} was found; connect one, or talk through files: launch.py ask QUESTION.wav.")
    listing = ", ".join(f"{d.id} {d.name!r}" for d in usable)
    if wanted is None or wanted == "":
        for device in usable:
            if device.default_input if kind == "input" else device.default_output:
                return device
        return usable[0]
    if isinstance(wanted, int) or wanted.isdecimal():
        found = [d for d in usable if d.id == int(wanted)]
    else:
        found = [d for d in usable if wanted.lower() == d.name.lower()]
        found = found or [d for d in usable if wanted.lower() in d.name.lower()]
    if not found:
        raise DeviceError(f"no {thing} {wanted!r}; there are: {listing}.")
    if len(found) > 1:
        raise DeviceError(
            f"{wanted!r} fits several {thing}s: {', '.join(f'{d.id} {d.name!r}' for d in found)}; give the id."
        )
    return found[0]


class _Pulse:
    """Whether the callbacks of a stream still come."""

    def __init__(self, notes: "CallbackNotes") -> None:
        self._notes, self._count, self._at = notes, notes.count, time.monotonic()

    @property
    def stopped(self) -> bool:
        """None has come for a while."""
        if self._notes.count != self._count:
            self._count, self._at = self._notes.count, time.monotonic()
        return time.monotonic() - self._at > _STALLED_S


class StreamClock:
    """Seconds since the first captured sample."""

    def __init__(self, first_heard: Callable[[], float | None]) -> None:
        """`first_heard`: when that sample was heard, on `time.monotonic`; None as long as there is none."""
        self._first_heard = first_heard
        self._began: float | None = None

    def now(self) -> float:
        """Seconds since the first captured sample; 0 before it."""
        if self._began is None:
            self._began = self._first_heard()
        return 0.0 if self._began is None else max(0.0, time.monotonic() - self._began)

    async def sleep_until(self, at: float) -> None:
        """Return when `now()` has reached `at`."""
        await asyncio.sleep(max(0.0, at - self.now()))


class LocalDevice:
    """One microphone and one loudspeaker; use it in `with`. Raises DeviceError."""

    def __init__(
        self,
        input_device: str | int | None = None,
        output_device: str | int | None = None,
        *,
        echo: str = "off",
        listen: bool = True,
    ) -> None:
        """`echo`: webrtc, half_duplex or off (see `audio_io.echo`). `listen` false leaves the microphone alone."""
        devices = list_devices()
        self.microphone = find_device(input_device, "input", devices) if listen else None
        self.loudspeaker = find_device(output_device, "output", devices)
        from audio_io.callbacks import CallbackNotes  # slow to import: not before there is a device
        from audio_io.ring import SampleRing

        self._clock = StreamClock(self._first_heard)
        self._capture_hz = _rate(self.microphone, "input", CAPTURE_HZ) if self.microphone else CAPTURE_HZ
        self._output_hz = _rate(self.loudspeaker, "output", PLAYBACK_HZ)
        self._to_session = StreamingResampler(self._capture_hz, CAPTURE_HZ)
        self._to_speaker = StreamingResampler(PLAYBACK_HZ, self._output_hz)
        self._heard = SampleRing(round(_CAPTURE_RING_S * self._capture_hz))
        self._queue = SampleRing(round(_PLAYBACK_RING_S * self._output_hz))
        self._played = SampleRing(round(_CAPTURE_RING_S * self._output_hz))
        self._echo_kind = echo
        self._streams: list[Any] = []
        self._places: list[np.ndarray] = []  # the addresses that their callbacks are given
        self._opened: float | None = None  # on `time.monotonic`
        self._reply_start: int | None = None  # consumed output samples when the running reply began
        self._underruns = 0  # of the replies before the running one
        self._level = Level()  # by output samples since the start
        self.input_notes, self.output_notes = CallbackNotes(), CallbackNotes()

    @property
    def clock(self) -> Clock:
        """The conversation's clock."""
        return self._clock

    @property
    def playback_hz(self) -> int:
        """Rate of the samples that `play` takes."""
        return PLAYBACK_HZ

    def __enter__(self) -> Self:
        import sounddevice

        from audio_io.callbacks import on_input, on_output

        played = [self.output_notes.place, *self._queue.places, *self._played.places]
        heard = [self.input_notes.place, *self._heard.places]
        try:
            self._open("output", self.loudspeaker, self._output_hz, on_output, played)
            if self.microphone:
                self._open("input", self.microphone, self._capture_hz, on_input, heard)
            self._opened = time.monotonic()
            for stream in self._streams:
                stream.start()
        except sounddevice.PortAudioError as error:
            self.close()
            names = " and ".join(repr(device.name) for device in (self.microphone, self.loudspeaker) if device)
            raise DeviceError(f"{names} cannot be opened ({error}); is another program using it?") from error
        return self

    def _open(self, kind: str, device: DeviceInfo, rate: int, callback: Any, places: list[int]) -> None:
        import sounddevice
        from cffi import FFI

        self._places.append(np.array(places, np.uintp))
        stream = sounddevice._StreamBase(  # the class that takes a compiled callback
            kind, samplerate=rate, device=device.id, channels=1, dtype="float32", blocksize=rate * FRAME_MS // 1000,
            latency="low", callback=callback.cffi, userdata=FFI().cast("void *", self._places[-1].ctypes.data),
        )  # fmt: skip
        self._streams.append(stream)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop both streams. Those of a JACK server that has ended are left as they are (see `_deserted`)."""
        if not self._deserted():
            for stream in self._streams:
                stream.close()
        self._streams = []

    def _deserted(self) -> bool:
        """The JACK server has ended. PortAudio then hangs for ten minutes in closing a stream and aborts the process."""
        return any(not (stream.active or stream.stopped) for stream in self._streams) and _is_jack(self.loudspeaker)

    def _first_heard(self) -> float | None:
        """When the first captured sample was heard, or without a microphone when the device was opened."""
        if self.microphone is None or self._opened is None:
            return self._opened
        if not self._streams or not self.input_notes.count:
            return None
        import sounddevice

        now, age = time.monotonic(), 0.0  # since the first callback
        with suppress(sounddevice.PortAudioError):
            age = self._streams[-1].time - self.input_notes.first_s
        if not 0.0 <= age <= now - self._opened:  # the sound system tells no time, or nonsense
            age = 0.0
        return now - age - FRAME_MS / 1000

    async def frames(self) -> AsyncIterator[AudioFrame]:
        """Captured frames as they come, several at once where many wait; silence for those that were lost.

        Raises DeviceError when microphone or loudspeaker stops, DeviceLostError where only a new process helps.
        """
        pulses = [(_Pulse(self.output_notes), f"the loudspeaker {self.loudspeaker.name!r} takes no sound")]
        if self.microphone is None:
            while True:
                self._check(pulses)
                await asyncio.sleep(_LOOK_S)
        pulses.insert(0, (_Pulse(self.input_notes), f"the microphone {self.microphone.name!r} delivers no sound"))
        size = self._capture_hz * FRAME_MS // 1000
        echo = echo_control(self._echo_kind, round(1000 * self._latency_s()))
        reference, to_reference = Reference(), StreamingResampler(self._output_hz, CAPTURE_HZ)
        waiting = np.zeros(0, np.float32)
        lags = LagWatch(_MAX_LAG_S)
        start, warned = 0, 0.0
        while True:
            self._check(pulses)
            num_blocks = min(self._heard.available // size, _MOST_FRAMES)
            if not num_blocks:
                await asyncio.sleep((size - self._heard.available) / self._capture_hz)
                continue
            waiting = np.concatenate((waiting, self._to_session.push(_taken(self._heard, num_blocks * size))))
            late = self._heard.available * self._output_hz // self._capture_hz
            reference.push(to_reference.push(_taken(self._played, max(0, self._played.available - late))))
            now, behind = self._clock.now(), self._heard.available / self._capture_hz
            lag = now - (start + len(waiting)) / CAPTURE_HZ - behind
            if missing := round(lags.gap(now, lag) * CAPTURE_HZ):
                if time.monotonic() - warned > _WARN_EVERY_S:
                    log.warning("the machine is too busy: %.2f s of the microphone were lost", missing / CAPTURE_HZ)
                    warned = time.monotonic()
                yield AudioFrame(np.zeros(missing, np.float32), start)
                start += missing
            ready = range(0, len(waiting) // FRAME_SAMPLES * FRAME_SAMPLES, FRAME_SAMPLES)
            if ready:
                clean = [echo.process(waiting[at : at + FRAME_SAMPLES], reference.frame()) for at in ready]
                yield AudioFrame(np.concatenate(clean), start)
                waiting, start = waiting[ready.stop :], start + ready.stop

    def _check(self, pulses: "list[tuple[_Pulse, str]]") -> None:
        """Raise what `frames` raises when the callbacks of a stream come no more; each with what is said then."""
        for pulse, said in pulses:
            if pulse.stopped:
                if self._deserted():
                    raise DeviceLostError("the JACK server of microphone and loudspeaker has ended.")
                raise DeviceError(f"{said}; was it unplugged?")

    def play(self, samples: np.ndarray, *, last: bool) -> float:
        """Queue samples of the reply; returns when their first is heard. Raises DeviceError when the queue is full."""
        if self._reply_start is None:
            self._reply_start = self._queue.num_read
            self._underruns = self._queue.underruns
        plays_at = self._clock.now() + self._queue.available / self._output_hz + self._latency_s()
        converted = self._to_speaker.push(samples)
        if last:
            converted = np.concatenate((converted, self._to_speaker.finish()))
        converted *= self._level(self._queue.end, len(converted))
        written = self._queue.write(converted)
        self._queue.open = not last
        if written < len(converted):
            raise DeviceError(f"more than {_PLAYBACK_RING_S:g} s of speech wait for the loudspeaker; is it stopped?")
        return plays_at

    async def drained(self) -> None:
        """Return when everything queued has been heard; the reply is then over. That the loudspeaker stops, `frames` tells."""
        while self._queue.available:
            await asyncio.sleep(self._queue.available / self._output_hz)
        await asyncio.sleep(self._latency_s())
        self._end_reply()

    def duck(self, gain: float, fade_ms: float) -> None:
        """Play the running reply at `gain` times its level from now on, reached within `fade_ms`."""
        if self._reply_start is None:
            return
        begin = self._queue.num_read
        waiting = self._queue.end - begin
        before = self._level(begin, waiting)
        self._level.move(begin, gain, round(fade_ms * self._output_hz / 1000))
        self._queue.multiply(begin, self._level(begin, waiting) / before)

    def flush(self, fade_ms: float) -> PlaybackReport:
        """Silence the reply at once, with a short fade, and forget what is queued."""
        report = PlaybackReport(played_samples=self.played_samples, underruns=self.underruns)
        self._queue.cut(np.linspace(1.0, 0.0, round(fade_ms * self._output_hz / 1000), dtype=np.float32))
        self._to_speaker = StreamingResampler(PLAYBACK_HZ, self._output_hz)
        self._end_reply()
        return report

    def _end_reply(self) -> None:
        self._reply_start = None
        if self._level.gain != 1.0:
            self._level.move(self._queue.end, 1.0)

    @property
    def played_samples(self) -> int:
        """Samples of the running reply that left the loudspeaker, at 24 kHz; 0 when none is running."""
        if self._reply_start is None:
            return 0
        consumed = self._queue.num_read - self._reply_start - round(self._latency_s() * self._output_hz)
        return max(0, consumed) * PLAYBACK_HZ // self._output_hz

    @property
    def underruns(self) -> int:
        """How often the queue ran dry inside the running or the last reply."""
        return self._queue.underruns - self._underruns

    def _latency_s(self) -> float:
        return float(self._streams[0].latency) if self._streams else 0.0


def _taken(ring: "SampleRing", count: int) -> np.ndarray:
    """The next so many samples of a ring, float32 (N,)."""
    samples = np.zeros(count, np.float32)
    ring.read_into(samples)
    return samples


def _is_jack(device: DeviceInfo) -> bool:
    import sounddevice

    host = sounddevice.query_devices(device.id)["hostapi"]
    return str(sounddevice.query_hostapis(host)["name"]).startswith("JACK")


def _rate(device: DeviceInfo, kind: str, wanted_hz: int) -> int:
    """The wanted rate where the device takes it, else its own."""
    import sounddevice

    check = sounddevice.check_input_settings if kind == "input" else sounddevice.check_output_settings
    try:
        check(device=device.id, channels=1, dtype="float32", samplerate=wanted_hz)
    except (sounddevice.PortAudioError, ValueError):
        return device.default_hz
    return wanted_hz
