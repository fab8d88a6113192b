"""The ring buffer, the compiled callbacks, the local device; PortAudio is scripted. Through a sound server: tests/e2e/."""

import asyncio
import os
import re
import subprocess
import sys
import threading
import time

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_io.base import FRAME_SAMPLES, DeviceError, DeviceLostError
from audio_io.callbacks import COUNT, OPTIONS, CallbackNotes, on_input, on_output
from audio_io.gaps import LagWatch
from audio_io.local import LocalDevice
from audio_io.ring import SampleRing
from tests.interpreter import CALLBACK, call_often, hold_interpreter
from tests.portaudio import INPUT_OVERFLOW, OUTPUT_UNDERFLOW, PortAudio, Stream

# --- ring buffer


def test_the_ring_keeps_order_over_its_edge():
    ring, out, expected = SampleRing(10), np.zeros(3, np.float32), 0.0
    for start in range(0, 60, 3):
        assert ring.write(np.arange(start, start + 3, dtype=np.float32)) == 3
        assert ring.read_into(out) == 3
        np.testing.assert_array_equal(out, [expected, expected + 1, expected + 2])
        expected += 3


def test_the_ring_counts_what_found_no_room_and_what_was_missing():
    ring, out = SampleRing(4), np.full(3, 9.0, np.float32)
    assert ring.write(np.arange(6, dtype=np.float32)) == 4
    assert ring.overruns == 2
    ring.open = True
    assert ring.read_into(out) == 3
    assert ring.read_into(out) == 1
    np.testing.assert_array_equal(out, [3, 0, 0])
    ring.read_into(out)
    assert ring.underruns == 1  # one gap, however long
    ring.write(np.ones(4, np.float32))
    ring.open = False  # complete: running dry now is the end, not a gap
    ring.read_into(out)
    ring.read_into(out)
    assert ring.underruns == 1


def test_cutting_the_ring_fades_and_forgets():
    ring, out = SampleRing(8), np.zeros(6, np.float32)
    ring.write(np.ones(5, np.float32))
    ring.read_into(out[:2])
    assert ring.cut(np.array([0.5, 0.0], np.float32)) == 2
    ring.write(np.full(2, 7.0, np.float32))
    assert ring.read_into(out) == 4
    np.testing.assert_array_equal(out, [0.5, 0, 7, 7, 0, 0])


def test_samples_keep_their_order_while_both_sides_run_at_once():
    ring, total, found = SampleRing(1_000), 60_000, []

    def produce() -> None:
        written = 0
        while written < total:
            written += ring.write(np.arange(written, min(total, written + 333), dtype=np.float32))

    producing = threading.Thread(target=produce)
    producing.start()
    out = np.zeros(257, np.float32)
    while sum(map(len, found)) < total:
        found.append(out[: ring.read_into(out)].copy())
    producing.join()
    np.testing.assert_array_equal(np.concatenate(found), np.arange(total))


# --- compiled callbacks


def test_a_callback_calls_nothing_of_the_interpreter_and_allocates_nothing():
    """No function at all but its own body and what the processor does in an instruction."""
    for callback in (on_input, on_output):
        compiled = numba.cfunc(callback._sig, **OPTIONS)(callback.__wrapped__)
        for body in re.findall(rf"^define [^\n]*{callback.__name__}.*?^}}", compiled.inspect_llvm(), re.M | re.S):
            called = re.findall(r"\b(?:call|invoke)\b[^@\n]*(@\S+?|%\S+?)\(", body)
            assert [name for name in called if not re.match(r"@(llvm\.|_Z\w*" + callback.__name__ + ")", name)] == []


@pytest.mark.parametrize("compiled", [True, False])
def test_callbacks_go_on_while_a_thread_holds_the_interpreter(compiled):
    """A callback in Python, for comparison, does not."""
    notes, queue, played = CallbackNotes(), SampleRing(4_800), SampleRing(4_800)

    def in_python(*_: object) -> int:
        notes._notes[COUNT] += 1
        return 0

    places = np.array([notes.place, *queue.places, *played.places], np.uintp)
    callback = CALLBACK(on_output.address if compiled else in_python)
    with call_often(callback, np.zeros(480, np.float32), places):
        while not notes.count:
            time.sleep(0.001)
        assert hold_interpreter(notes, 15, tries=30_000 if compiled else 100) == compiled


class Loudspeaker:
    """The compiled callback, called as often as the test wants."""

    def __init__(self) -> None:
        self.notes, self.queue, self.played = CallbackNotes(), SampleRing(100_000), SampleRing(100_000)
        self._places = np.array([self.notes.place, *self.queue.places, *self.played.places], np.uintp)
        self._times = np.zeros(3)
        self._callback = CALLBACK(on_output.address)
        self.heard = np.zeros(0, np.float32)

    def reply(self, samples: np.ndarray, *, last: bool) -> None:
        self.queue.write(samples.astype(np.float32))
        self.queue.open = not last

    def call(self, count: int) -> None:
        out = np.full(count, 9.0, np.float32)
        assert self._callback(None, out.ctypes.data, count, self._times.ctypes.data, 0, self._places.ctypes.data) == 0
        self.heard = np.concatenate((self.heard, out))


sizes = st.integers(1, 700)


@settings(max_examples=60, deadline=None)
@given(chunks=st.lists(st.tuples(st.sampled_from(["reply", "call"]), sizes), max_size=40), level=st.floats(-1, 1))
def test_a_reply_that_runs_dry_fades_away_and_comes_back_without_a_click(chunks, level):
    speaker = Loudspeaker()
    speaker.reply(np.full(300, level), last=False)
    speaker.call(200)
    for what, size in chunks:
        if what == "call":
            speaker.call(size)
        else:
            speaker.reply(np.full(size, level), last=False)
    for size in (300, 1, 400):
        speaker.call(size)
    while speaker.queue.available:
        speaker.call(300)
    speaker.call(300)
    assert not speaker.heard[-50:].any()
    speaker.reply(np.full(500, level), last=True)
    speaker.call(500)
    assert (speaker.heard[-250:] == np.float32(level)).all()
    assert (speaker.heard[:200] == np.float32(level)).all()
    assert np.abs(np.diff(speaker.heard)).max() < 0.012
    recorded = np.zeros(len(speaker.heard), np.float32)
    assert speaker.played.read_into(recorded) == len(recorded)
    np.testing.assert_array_equal(recorded, speaker.heard)  # the echo canceller knows of it


def test_a_gap_sounds_the_same_however_the_callbacks_cut_it():
    heard = []
    for size in (1, 7, 60, 420):
        speaker = Loudspeaker()
        speaker.reply(np.linspace(0.2, 0.8, 420), last=False)
        for count in (420, 420):
            for _ in range(count // size):
                speaker.call(size)
        speaker.reply(np.full(420, -0.5), last=True)
        for _ in range(840 // size):
            speaker.call(size)
        heard.append(speaker.heard)
    for other in heard[1:]:
        np.testing.assert_array_equal(other, heard[0])
    assert heard[0][420] == pytest.approx(0.8, abs=0.005)
    assert not heard[0][-420:].any()  # complete: that is the end, which is its own


@settings(max_examples=30, deadline=None)
@given(blocks=st.lists(sizes, min_size=1, max_size=20), dry_before=st.booleans())
def test_what_does_not_run_dry_is_played_to_the_sample(blocks, dry_before):
    speaker = Loudspeaker()
    if dry_before:
        speaker.reply(np.full(100, 0.7), last=False)
        speaker.call(400)
        speaker.queue.cut(np.zeros(0, np.float32))
        speaker.call(1)
    begun = len(speaker.heard)
    samples = np.random.default_rng(0).uniform(-1, 1, sum(blocks) - 1).astype(np.float32)
    speaker.reply(samples, last=False)
    for block in blocks[:-1]:
        speaker.call(block)
    speaker.reply(np.zeros(0), last=True)
    speaker.call(blocks[-1])
    np.testing.assert_array_equal(speaker.heard[begun:], [*samples, 0.0])


def test_where_no_folder_keeps_what_is_compiled_it_is_compiled_again(tmp_path):
    code = (
        "from audio_io.ring import SampleRing; import numpy; print(SampleRing(9).write(numpy.zeros(5, numpy.float32)))"
    )
    (tmp_path / "file").touch()  # where no folder can be made, whoever asks
    nowhere = {"NUMBA_CACHE_DIR": str(tmp_path / "file"), "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **nowhere}, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("5\n", "")


# --- local device


def test_the_local_device_resamples_counts_and_cuts(monkeypatch):
    """The loudspeaker takes only 48 kHz."""

    def refuse(**_):
        raise ValueError("invalid sample rate")

    portaudio = PortAudio(check_output_settings=refuse, default_hz=48_000.0)
    monkeypatch.setitem(sys.modules, "sounddevice", portaudio)

    async def main() -> None:
        with LocalDevice() as local:
            speaker, microphone = local._streams
            assert (speaker.options["samplerate"], microphone.options["samplerate"]) == (48_000, 16_000)
            microphone.call(np.full(FRAME_SAMPLES, 0.5, np.float32))
            frame = await anext(local.frames())
            assert frame.start == 0
            assert (frame.samples == 0.5).all()
            assert local.play(np.full(2_400, 0.5, np.float32), last=True) == pytest.approx(local.clock.now(), abs=0.05)
            out = np.zeros(2_400, np.float32)
            speaker.call(out, flags=OUTPUT_UNDERFLOW)
            assert local.played_samples == 1_200
            assert out[1_000:] == pytest.approx(np.full(1_400, 0.5), abs=1e-3)
            assert local.flush(5.0).played_samples == 1_200
            speaker.call(out)
            assert not out[240:].any()
            assert local.underruns == 0
            assert local.played_samples == 0
            await local.drained()
            local.play(np.full(4_800, 0.5, np.float32), last=False)
            speaker.call(out)
            for gain in (0.2, 1.0, 0.2):  # what waits in the queue is ducked and brought back
                local.duck(gain, 20.0)
            local.play(np.full(4_800, 0.5, np.float32), last=True)
            speaker.call(out)
            assert out[960:] == pytest.approx(np.full(1_440, 0.1), abs=1e-3)
            assert np.abs(np.diff(out)).max() < 0.002  # no click
            local.duck(1.0, 20.0)
            speaker.call(out)
            assert out[960:] == pytest.approx(np.full(1_440, 0.5), abs=1e-3)
            local.duck(0.2, 20.0)
            local.flush(5.0)
            speaker.call(out)
            local.play(np.full(2_400, 0.5, np.float32), last=True)
            speaker.call(out)
            assert out[1_000:] == pytest.approx(np.full(1_400, 0.5), abs=1e-3)

    asyncio.run(main())


def test_callbacks_note_their_number_their_losses_and_the_longest_wait(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", PortAudio())
    with LocalDevice() as local:
        speaker, microphone = local._streams
        for number, at in enumerate((5.0, 5.02, 5.13, 5.15)):
            flags = INPUT_OVERFLOW if number == 2 else OUTPUT_UNDERFLOW
            microphone.call(np.zeros(FRAME_SAMPLES, np.float32), flags, at=at)
        speaker.call(np.zeros(480, np.float32), INPUT_OVERFLOW, at=5.0)
        speaker.call(np.zeros(480, np.float32), INPUT_OVERFLOW | OUTPUT_UNDERFLOW, at=5.0)
        assert (local.input_notes.count, local.input_notes.losses) == (4, 1)
        assert local.input_notes.longest_wait_s == pytest.approx(0.11)
        assert (local.output_notes.count, local.output_notes.losses) == (2, 1)
        assert local.output_notes.longest_wait_s == 0.0


@pytest.mark.parametrize(
    ("first", "later", "age"),
    [
        (1_000.0, 1_000.5, 0.5),
        (1_000.0, 999.0, 0.0),  # a time to come
        (0.0, 1_000.5, 0.0),  # none told to callbacks
        (1_000.0, None, 0.0),  # none told at all
    ],
)
def test_the_clock_begins_with_the_first_captured_sample(monkeypatch, first, later, age):
    class Told(Stream):
        @property
        def time(self):
            if later is None:
                raise PortAudio.PortAudioError("Error getting stream time")
            return later

    now = [70.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setitem(sys.modules, "sounddevice", PortAudio(_StreamBase=Told))
    with LocalDevice() as local:
        assert local.clock.now() == 0.0
        now[0] += 3.0
        assert local.clock.now() == 0.0
        local._streams[1].call(np.zeros(FRAME_SAMPLES, np.float32), at=first)
        now[0] += 0.5
        assert local.clock.now() == pytest.approx(0.02 + age)
        now[0] += 2.0
        assert local.clock.now() == pytest.approx(2.02 + age)
    assert local.clock.now() == pytest.approx(2.02 + age)


def test_without_a_microphone_the_clock_begins_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", PortAudio())
    with LocalDevice(listen=False) as local:
        first = local.clock.now()
        time.sleep(0.01)
        assert local.clock.now() > first


def test_the_streams_of_a_jack_server_that_has_ended_are_left_alone(monkeypatch):
    """PortAudio hangs and then aborts where one closes them."""
    closed = []

    class Counted(Stream):
        def close(self):
            closed.append(self)

    monkeypatch.setitem(sys.modules, "sounddevice", PortAudio(_StreamBase=Counted, host="JACK Audio Connection Kit"))
    monkeypatch.setattr("audio_io.local._STALLED_S", 0.05)

    async def main() -> None:
        with LocalDevice():
            pass
        assert len(closed) == 2
        with pytest.raises(DeviceError, match="delivers no sound"), LocalDevice() as local:
            await anext(local.frames())
        assert len(closed) == 4
        Counted.active = False
        with pytest.raises(DeviceLostError, match="the JACK server"), LocalDevice() as local:
            await anext(local.frames())
        assert len(closed) == 4

    asyncio.run(main())


def test_of_two_streams_of_which_one_cannot_be_opened_none_is_left(monkeypatch):
    closed = []

    class Busy(Stream):
        def __init__(self, kind, **options):
            super().__init__(kind, **options)
            if kind == "input":
                raise PortAudio.PortAudioError("Device unavailable")

        def close(self):
            closed.append(self.kind)

    monkeypatch.setitem(sys.modules, "sounddevice", PortAudio(_StreamBase=Busy))
    with pytest.raises(DeviceError, match="is another program using it"), LocalDevice():
        pass
    assert closed == ["output"]


@pytest.mark.parametrize("listen", [True, False])
def test_a_loudspeaker_that_takes_no_sound_any_more_ends_the_frames(monkeypatch, listen):
    monkeypatch.setitem(sys.modules, "sounddevice", PortAudio())
    monkeypatch.setattr("audio_io.local._STALLED_S", 0.2)
    monkeypatch.setattr("audio_io.local._LOOK_S", 0.02)

    async def main() -> None:
        with LocalDevice(listen=listen) as local:

            async def hear() -> None:
                async for _ in local.frames():
                    pass

            async def capture() -> None:
                while True:
                    for stream in local._streams[1:]:
                        stream.call(np.zeros(320, np.float32))
                    await asyncio.sleep(0.02)

            local.play(np.ones(24_000, np.float32), last=True)
            capturing = asyncio.create_task(capture())
            async with asyncio.timeout(20):
                with pytest.raises(DeviceError, match="loudspeaker 'x' takes no sound"):
                    await hear()
            capturing.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("lost_s", [0.0, 0.05, 1.0, 2.5])
def test_silence_stands_for_what_the_sound_system_lost_without_a_word(monkeypatch, lost_s):
    """Else all that is heard afterwards would seem to be said so much earlier than it was."""
    monkeypatch.setitem(sys.modules, "sounddevice", PortAudio())
    now = [0.0]

    async def main() -> list:
        got = []
        with LocalDevice() as local:
            _, microphone = local._streams
            local._clock.now = lambda: now[0]
            frames = local.frames()
            for number in range(400):  # 8 s
                now[0] += 0.02 + lost_s * (number == 150)
                microphone.call(np.full(320, 0.5, np.float32))
                got.append(await anext(frames))
                if not got[-1].samples.any():
                    got.append(await anext(frames))
            assert (got[-1].start + len(got[-1].samples)) / 16_000 == pytest.approx(now[0], abs=0.1)
        return got

    got = asyncio.run(main())
    assert [frame.start for frame in got] == np.cumsum([0, *(len(frame.samples) for frame in got[:-1])]).tolist()
    silent = [frame for frame in got if not frame.samples.any()]
    assert len(silent) == (lost_s > 0.1)
    for frame in silent:
        assert len(frame.samples) / 16_000 == pytest.approx(lost_s, abs=0.02)
        assert frame.start / 16_000 < 3.0 + 4.0  # two windows later at most


def test_a_lag_that_passes_is_no_gap():
    watch = LagWatch(0.1)
    watch.begin(0.0)
    lags = [0.0, 0.8, 0.9, 0.02, 0.7, 0.7, 0.7, 0.7, 0.7, 0.0]
    assert [watch.gap(0.5 * number, lag) for number, lag in enumerate(lags)] == [0.0] * 8 + [0.7, 0.0]


def test_frames_that_wait_come_together_beside_what_was_played_then(monkeypatch):
    """A machine that is too busy to wake the session for each frame loses none; the echo canceller stays in step."""
    monkeypatch.setitem(sys.modules, "sounddevice", PortAudio())
    near, far = [], []

    class Control:
        def process(self, captured, played):
            near.append(captured)
            far.append(played)
            return captured

    monkeypatch.setattr("audio_io.local.echo_control", lambda *_: Control())

    async def main() -> None:
        with LocalDevice() as local:
            speaker, microphone = local._streams
            local.play(np.repeat(np.linspace(0.0, 0.9, 25), 480).astype(np.float32), last=True)
            for number in range(25):
                speaker.call(np.zeros(480, np.float32))
                microphone.call(np.full(320, number / 25, np.float32))
            frames = local.frames()
            got = [await anext(frames) for _ in range(3)]
            assert [(frame.start, len(frame.samples)) for frame in got] == [(0, 3200), (3200, 3200), (6400, 1600)]

    asyncio.run(main())
    heard, played = np.concatenate(near), np.concatenate(far)
    assert len(near) == 25
    assert all(len(part) == 320 for part in near + far)
    np.testing.assert_allclose(heard, np.repeat(np.arange(25) / 25, 320), atol=1e-6)
    late = np.repeat(np.linspace(0.0, 0.9, 25), 320) - played
    assert np.median(late) < 0.1  # some 50 ms, which the resampler holds back
    assert (late[-320:] < 0.1).all()
