"""Sound files, the device of files, levels, the choice of a device."""

import asyncio
import errno
import wave

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audio_io import file as file_module
from audio_io.base import FRAME_SAMPLES, AudioFileError, DeviceError
from audio_io.clock import LoopClock
from audio_io.file import WavWriter, read_audio, write_wav
from audio_io.file_device import FileDevice
from audio_io.level import Level
from audio_io.local import DeviceInfo, find_device
from tests import virtual_time


def tone(seconds: float, hz: int, level: float = 0.4) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * hz)) / hz)).astype(np.float32)


# --- reading


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "PCM_U8"])
@pytest.mark.parametrize(("hz", "channels"), [(8_000, 1), (16_000, 2), (44_100, 2), (96_000, 1)])
def test_any_format_becomes_mono_16_khz(tmp_path, subtype, hz, channels):
    soundfile.write(tmp_path / "a.wav", np.stack([tone(0.5, hz)] * channels, 1), hz, subtype=subtype)
    recording = read_audio(tmp_path / "a.wav", 16_000)
    assert recording.samples.dtype == np.float32
    assert recording.samples.shape == (8_000,)
    assert recording.notes == ()
    np.testing.assert_allclose(recording.samples[800:-800], tone(0.5, 16_000)[800:-800], atol=0.02)


def test_a_long_recording_is_read_whole(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.zeros(600 * 8_000, np.int16), 8_000)
    assert len(read_audio(tmp_path / "long.wav", 16_000).samples) == 600 * 16_000


def test_blocks_are_joined_without_a_seam(tmp_path):
    soundfile.write(tmp_path / "a.flac", tone(21.0, 8_000), 8_000)
    samples = read_audio(tmp_path / "a.flac", 16_000).samples
    np.testing.assert_allclose(samples[800:-800], tone(21.0, 16_000)[800:-800], atol=0.005)


def broken_files(folder):
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("This is no sound.\n")
    (folder / "notes.raw").write_text("headerless")
    (folder / "bytes.wav").write_bytes(bytes(range(256)))
    soundfile.write(folder / "none.wav", np.zeros(0), 16_000)
    soundfile.write(folder / "nan.wav", np.array([0.1, np.nan], np.float32), 16_000, subtype="FLOAT")
    soundfile.write(folder / "slow.wav", np.zeros(10), 100)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.wav", "no such file"),
        ("", "a folder"),
        ("empty.wav", "is empty"),
        ("text.wav", "text, not sound"),
        ("notes.raw", "text, not sound"),
        ("bytes.wav", "not a sound file"),
        ("none.wav", "no samples"),
        ("nan.wav", "NaN"),
        ("slow.wav", "100 Hz"),
        ("text.wav/x.wav", "cannot be read"),
        ("a\0b.wav", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, name, says):
    broken_files(tmp_path)
    with pytest.raises(AudioFileError, match=says) as caught:
        read_audio(tmp_path / name, 16_000)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("level", "note"), [(0.0, "silent"), (3.0, "clipped")])
def test_silence_and_clipping_are_noted(tmp_path, level, note):
    soundfile.write(tmp_path / "a.wav", np.clip(tone(0.5, 16_000, level), -1, 1), 16_000)
    (said,) = read_audio(tmp_path / "a.wav", 16_000).notes
    assert note in said


def test_levels_above_full_scale_are_scaled(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.5, 16_000, 3.0), 16_000, subtype="FLOAT")
    recording = read_audio(tmp_path / "a.wav", 16_000)
    np.testing.assert_allclose(recording.samples, tone(0.5, 16_000, 1.0), atol=1e-3)
    assert "scaled" in recording.notes[0]


# --- writing


def test_what_is_written_is_read_back(tmp_path):
    write_wav(tmp_path / "a.wav", np.stack([tone(0.1, 24_000), -tone(0.1, 24_000)], 1), 24_000)
    samples, rate = soundfile.read(tmp_path / "a.wav")
    assert rate == 24_000
    np.testing.assert_allclose(samples[:, 1], -tone(0.1, 24_000), atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_samples_are_in_the_file_while_it_is_being_written(tmp_path):
    with WavWriter(tmp_path / "a.wav", 24_000) as out:
        out.write(tone(0.1, 24_000))
        (part,) = tmp_path.iterdir()
        assert part.name != "a.wav"
        with wave.open(str(part)) as begun:
            assert begun.getnframes() == 2_400
        out.write(tone(0.1, 24_000))
    assert soundfile.info(tmp_path / "a.wav").frames == 4_800


def test_a_failure_leaves_no_file_and_keeps_the_old_one(tmp_path):
    write_wav(tmp_path / "a.wav", tone(0.1, 24_000), 24_000)

    def fail() -> None:
        with WavWriter(tmp_path / "a.wav", 24_000) as out:
            out.write(tone(0.5, 24_000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert soundfile.info(tmp_path / "a.wav").frames == 2_400
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "says"), [("no/a.wav", "does not exist"), ("file/a.wav", "not a folder"), (".", "a folder")]
)
def test_an_impossible_place_is_said(tmp_path, name, says):
    (tmp_path / "file").touch()
    with pytest.raises(AudioFileError, match=says):
        write_wav(tmp_path / name, tone(0.1, 24_000), 24_000)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("number", "says"), [(errno.EACCES, "permission"), (errno.ENOSPC, "no space")])
def test_a_refusing_disk_is_said(tmp_path, monkeypatch, number, says):
    def refuse(*_: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(file_module.wave.Wave_write, "writeframes", refuse)
    with pytest.raises(AudioFileError, match=says):
        write_wav(tmp_path / "a.wav", tone(0.1, 24_000), 24_000)
    assert list(tmp_path.iterdir()) == []


# --- device of files


def device(*seconds: float, patience_s: float = 0.5) -> FileDevice:
    return FileDevice(LoopClock(), [tone(length, 16_000) for length in seconds], patience_s=patience_s)


def test_frames_come_on_time_and_in_order():
    async def main() -> None:
        files = device(0.05, patience_s=0.1)
        frames = [(files.clock.now(), frame) async for frame in files.frames()]
        assert [frame.start for _, frame in frames] == [i * FRAME_SAMPLES for i in range(len(frames))]
        assert [at for at, _ in frames] == pytest.approx([0.02 * (i + 1) for i in range(len(frames))])
        heard = np.concatenate([frame.samples for _, frame in frames])
        np.testing.assert_array_equal(heard[:800], tone(0.05, 16_000))
        assert not heard[800:].any()
        assert len(heard) == 960 + 1_600  # the recording in whole frames and the patience

    virtual_time.run(main())


def test_the_next_recording_waits_for_the_reply():
    async def main() -> None:
        files = device(0.1, 0.1, patience_s=0.5)
        files.waiting_for_reply = lambda: 0.2 < files.clock.now() < 3.0
        starts = [frame.start for _ in [0] async for frame in files.frames() if frame.samples.any()]
        second = min(start for start in starts if start > 1_600)
        assert second / 16_000 == pytest.approx(3.0, abs=0.021)

    virtual_time.run(main())


def test_a_reply_is_heard_in_order_and_counted():
    async def main() -> None:
        files = device(0.1)
        await files.clock.sleep_until(1.0)
        assert files.played_samples == 0
        assert files.play(np.full(2_400, 0.1, np.float32), last=False) == 1.0
        assert files.play(np.full(2_400, 0.2, np.float32), last=True) == pytest.approx(1.1)
        await files.clock.sleep_until(1.15)
        assert files.played_samples == 3_600
        await files.drained()
        assert files.clock.now() == pytest.approx(1.2)
        assert files.underruns == 0
        assert files.played_samples == 0  # no reply runs
        heard = files.timeline()
        assert len(heard) == 28_800
        assert not heard[:24_000].any()
        np.testing.assert_array_equal(heard[24_000:], np.repeat(np.float32([0.1, 0.2]), 2_400))
        np.testing.assert_array_equal(files.answer(), heard[24_000:])

    virtual_time.run(main())


def test_running_dry_inside_a_reply_is_an_underrun():
    async def main() -> None:
        files = device(0.1)
        files.play(np.ones(2_400, np.float32), last=False)
        await files.clock.sleep_until(0.3)
        assert files.play(np.ones(2_400, np.float32), last=True) == pytest.approx(0.3)
        await files.drained()
        assert files.underruns == 1
        await files.clock.sleep_until(2.0)
        files.play(np.ones(2_400, np.float32), last=True)  # another reply
        assert files.underruns == 0

    virtual_time.run(main())


def test_flush_fades_reports_and_forgets():
    async def main() -> None:
        files = device(0.1)
        for _ in range(3):
            files.play(np.ones(2_400, np.float32), last=False)
        await files.clock.sleep_until(0.15)
        report = files.flush(5.0)
        assert report.played_samples == 3_600
        assert files.flush(5.0).played_samples == 0  # nothing runs any more
        assert files.play(np.full(100, 0.5, np.float32), last=True) == pytest.approx(0.155)
        answer = files.timeline()
        assert (answer[:3_600] == 1.0).all()
        fade = answer[3_600:3_720]
        assert (np.diff(fade) < 0).all()
        assert fade[-1] == 0.0
        assert len(answer) == 3_820

    virtual_time.run(main())


@settings(max_examples=50, deadline=None)
@given(
    moves=st.lists(st.tuples(st.integers(0, 300), st.floats(0.05, 1.0), st.integers(0, 100)), max_size=5),
    cut=st.integers(0, 400),
)
@example(moves=[(2, 0.5, 0), (0, 1.0, 0), (0, 0.5, 0)], cut=0)  # steps at one position
def test_a_level_changes_the_future_alone_and_goes_on_from_where_it_was(moves, cut):
    level, now = Level(), 0
    for step, gain, fade in moves:
        before, now = level(0, 2_000), now + step
        level.move(now, gain, fade)
        after = level(0, 4_000)
        np.testing.assert_array_equal(after[:now], before[:now])
        assert after[now + fade :] == pytest.approx(gain)
        if fade > 1:
            assert np.abs(np.diff(after[now : now + fade + 1])).max() <= 1.0 / fade + 1e-6
            assert abs(after[now] - before[now]) <= 1.0 / fade + abs(before[now + 1] - before[now])
        np.testing.assert_array_equal(np.concatenate([level(0, cut), level(cut, 400)]), level(0, cut + 400))


def test_a_ducked_reply_comes_back_and_the_next_begins_at_its_own_level():
    async def main() -> None:
        files = device(0.1)
        files.duck(0.1, 20.0)  # nothing runs
        files.play(np.ones(4_800, np.float32), last=False)
        await files.clock.sleep_until(0.05)
        files.duck(0.25, 20.0)
        files.play(np.ones(4_800, np.float32), last=True)
        await files.clock.sleep_until(0.25)
        files.duck(1.0, 20.0)
        await files.clock.sleep_until(0.3)
        files.duck(0.25, 20.0)
        await files.drained()
        files.play(np.ones(100, np.float32), last=True)
        heard = files.timeline()
        assert (heard[:1_200] == 1.0).all()
        assert (np.diff(heard[1_199:1_680]) < 0).all()
        assert heard[1_681:6_000] == pytest.approx(0.25)
        assert heard[6_481:7_200] == pytest.approx(1.0)
        assert heard[7_681:9_600] == pytest.approx(0.25)
        assert (heard[9_600:] == 1.0).all()
        assert len(heard) == 9_700

    virtual_time.run(main())


def test_both_sides_share_one_time_line():
    async def main() -> None:
        files = device(0.5)
        async for frame in files.frames():
            if frame.start == FRAME_SAMPLES * 30:
                files.play(np.ones(480, np.float32), last=True)
        both = files.conversation()
        assert both.shape[1] == 2
        np.testing.assert_allclose(both[1_000:11_000, 0], tone(0.5, 24_000)[1_000:11_000], atol=0.01)
        assert np.flatnonzero(both[:, 1])[0] == round(31 * 0.02 * 24_000)

    virtual_time.run(main())


def test_the_real_clock_waits():
    async def main() -> None:
        clock = LoopClock()
        await clock.sleep_until(0.03)
        assert 0.03 <= clock.now() < 0.5

    asyncio.run(main())


# --- choice of a device


def info(number: int, name: str, inputs: int, outputs: int, default: str = "") -> DeviceInfo:
    return DeviceInfo(
        id=number, name=name, num_inputs=inputs, num_outputs=outputs, default_hz=48_000,
        default_input=default == "input", default_output=default == "output",
    )  # fmt: skip


DEVICES = [info(0, "Built-in", 2, 2, "output"), info(1, "USB Headset", 1, 2, "input"), info(2, "USB Headset 2", 1, 0)]


@pytest.mark.parametrize(
    ("wanted", "kind", "found"),
    [
        (None, "input", 1),
        ("", "output", 0),
        ("built", "input", 0),
        (2, "input", 2),
        ("2", "input", 2),
        ("usb headset", "input", 1),
    ],
)
def test_a_device_is_found_by_id_or_name(wanted, kind, found):
    assert find_device(wanted, kind, DEVICES).id == found


@pytest.mark.parametrize(
    ("wanted", "kind", "devices", "says"),
    [
        ("radio", "input", DEVICES, "no microphone 'radio'; there are: 0 'Built-in', 1"),
        ("2", "output", DEVICES, "no loudspeaker '2'"),
        ("usb", "input", DEVICES, "fits several"),
        (None, "input", [], "no microphone was found"),
    ],
)
def test_a_wrong_device_is_said_with_the_choice(wanted, kind, devices, says):
    with pytest.raises(DeviceError, match=says):
        find_device(wanted, kind, devices)
