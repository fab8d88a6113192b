"""The microphone and loudspeaker at the other end of a connection, in virtual time."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_io.base import CAPTURE_HZ, FRAME_SAMPLES, PLAYBACK_HZ, DeviceError
from audio_io.browser import BrowserDevice
from audio_io.resample import StreamingResampler
from tests import virtual_time

HZ = 48_000


class FarEnd:
    """A page: plays what it is sent at the pace of the clock and reports now and then."""

    def __init__(self, device: BrowserDevice) -> None:
        self.device, self.silenced, self.deaf = device, [], False
        self.ducked = []
        self.reply, self.samples, self.last = 0, np.zeros(0, np.float32), False

    def audio(self, reply, start, samples, *, last):
        if reply != self.reply:
            self.reply, self.samples = reply, np.zeros(0, np.float32)
        assert start <= len(self.samples)
        self.samples = np.concatenate([self.samples[:start], samples])
        self.last = last

    def duck(self, reply, gain, fade_ms):
        self.ducked.append((reply, gain, fade_ms))

    def silence(self, reply, fade_ms):
        self.silenced.append(reply)

    def report(self, consumed, underruns=0):
        self.device.report(self.reply, consumed, underruns)


def attached(output_hz=HZ, capture_hz=HZ):
    device = BrowserDevice()
    far = FarEnd(device)
    assert device.attach(far, capture_hz=capture_hz, output_hz=output_hz)
    return device, far


def second_of_tone(rate, seconds=1.0):
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


async def collect(device, count):
    """So many frames of 20 ms, alone or together."""
    frames = []
    async for frame in device.frames():
        frames.append(frame)
        if frame.start + len(frame.samples) == count * FRAME_SAMPLES:
            break
    return frames


def assert_contiguous(frames):
    """Each frame begins where the one before ended and has 20 ms, or a multiple that is not too long."""
    lengths = [len(frame.samples) for frame in frames]
    assert [frame.start for frame in frames] == list(np.cumsum([0, *lengths[:-1]]))
    assert all(FRAME_SAMPLES <= length <= 10 * FRAME_SAMPLES and length % FRAME_SAMPLES == 0 for length in lengths)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, HZ - 1), max_size=12), rate=st.sampled_from([16_000, 44_100, 48_000]))
def test_any_chunking_of_the_captured_sound_gives_the_same_frames(cuts, rate):
    sound = np.random.default_rng(1).normal(0, 0.1, rate).astype(np.float32)

    async def main():
        device, _ = attached(capture_hz=rate)
        for piece in np.split(sound, sorted(cut for cut in cuts if cut < rate)):
            await asyncio.sleep(len(piece) / rate)
            device.capture(piece)
        device.close()
        return [frame async for frame in device.frames()]

    frames = virtual_time.run(main())
    assert_contiguous(frames)
    heard = np.concatenate([frame.samples for frame in frames])
    whole = StreamingResampler(rate, CAPTURE_HZ).push(sound)
    assert len(heard) >= CAPTURE_HZ - 2 * FRAME_SAMPLES
    lead = int(np.flatnonzero(heard)[0] - np.flatnonzero(whole)[0])  # the resampler's delay is filled with silence
    assert 0 <= lead <= CAPTURE_HZ // 10
    count = min(len(heard) - lead, len(whole))
    np.testing.assert_allclose(heard[lead : lead + count], whole[:count], atol=1e-4)


def test_a_break_of_the_connection_is_silence_of_its_length():
    async def main():
        device, far = attached(capture_hz=CAPTURE_HZ)
        for _ in range(50):
            await asyncio.sleep(0.02)
            device.capture(np.full(320, 0.5, np.float32))
        device.detach()
        await asyncio.sleep(3.0)
        device.attach(far, capture_hz=CAPTURE_HZ, output_hz=HZ)
        await asyncio.sleep(0.02)
        device.capture(np.full(320, 0.5, np.float32))
        device.close()
        frames = [frame async for frame in device.frames()]
        return np.concatenate([frame.samples for frame in frames]), device.clock.now()

    heard, now = virtual_time.run(main())
    assert len(heard) / CAPTURE_HZ == pytest.approx(now, abs=0.03)
    assert np.count_nonzero(heard) == 51 * 320


def test_a_slow_network_is_no_gap_but_a_sleeping_microphone_is():
    async def main(burst):
        device, _ = attached(capture_hz=CAPTURE_HZ)
        for tick in range(400):
            await asyncio.sleep(0.02)
            if not 100 <= tick < 200:
                for _ in range(101 if burst and tick == 200 else 1):
                    device.capture(np.full(320, 0.5, np.float32))
        device.close()
        return sum([len(frame.samples) async for frame in device.frames()]) / CAPTURE_HZ

    assert virtual_time.run(main(burst=True)) == pytest.approx(8.02, abs=0.03)
    assert virtual_time.run(main(burst=False)) == pytest.approx(8.0, abs=0.1)


def test_frames_that_wait_come_together():
    sound = np.random.default_rng(2).normal(0, 0.1, CAPTURE_HZ).astype(np.float32)

    async def main(late_s):
        device, _ = attached(capture_hz=CAPTURE_HZ)
        heard = []

        async def listen():
            async for frame in device.frames():
                heard.append(frame)
                await asyncio.sleep(late_s)

        listening = asyncio.create_task(listen())
        for piece in np.split(sound, 50):
            await asyncio.sleep(0.02)
            device.capture(piece)
        device.close()
        await listening
        assert_contiguous(heard)
        np.testing.assert_array_equal(np.concatenate([frame.samples for frame in heard])[-len(sound) :], sound)
        return [len(frame.samples) // FRAME_SAMPLES for frame in heard]

    assert set(virtual_time.run(main(0.0))) == {1}
    assert set(virtual_time.run(main(0.07))[1:-1]) <= {3, 4}
    assert max(virtual_time.run(main(0.5))) == 10


def test_more_sound_than_time_is_refused():
    async def main():
        device, _ = attached(capture_hz=CAPTURE_HZ)
        for _ in range(300):
            device.capture(np.zeros(320, np.float32))

    with pytest.raises(DeviceError, match="more sound than time"):
        virtual_time.run(main())


def test_what_is_heard_follows_the_reports_not_what_was_sent():
    async def main():
        device, far = attached()
        device.play(second_of_tone(PLAYBACK_HZ, 2.0), last=False)
        await asyncio.sleep(0.5)
        far.report(round(0.2 * HZ))  # it began late
        await asyncio.sleep(0.1)
        return device.played_samples, device.flush(5.0), far

    played, report, far = virtual_time.run(main())
    assert played == report.played_samples
    assert played / PLAYBACK_HZ == pytest.approx(0.3, abs=0.001)
    assert far.silenced == [1]


def test_latency_of_the_loudspeaker_and_of_the_line_are_counted():
    async def main():
        device, far = attached()
        device.output_latency_s, device.round_trip_s = 0.1, 0.2
        plays_at = device.play(second_of_tone(PLAYBACK_HZ, 2.0), last=True)
        await asyncio.sleep(1.0)
        far.report(round(0.8 * HZ))  # taken 0.1 s ago, when the report left
        return plays_at, device.played_samples, device.flush(5.0).played_samples

    plays_at, played, flushed = virtual_time.run(main())
    assert plays_at == pytest.approx(0.2)
    assert played / PLAYBACK_HZ == pytest.approx(0.8, abs=0.001)  # 0.9 taken, 0.1 not yet in the air
    assert flushed / PLAYBACK_HZ == pytest.approx(1.0, abs=0.001)  # the order needs 0.1 s to get there


def test_chunks_follow_each_other_without_a_gap_though_reports_jitter():
    async def main():
        device, far = attached()
        chunk = second_of_tone(PLAYBACK_HZ, 0.4)
        plays_at = [device.play(chunk, last=False)]
        for jitter in (0.03, -0.02, 0.01, 0.04):
            await asyncio.sleep(0.2)
            far.report(round((device.clock.now() - jitter) * HZ))
            plays_at.append(device.play(chunk, last=False))
        await asyncio.sleep(3.0)  # it runs dry
        plays_at.append(device.play(chunk, last=True))
        return plays_at

    *together, after_gap = virtual_time.run(main())
    np.testing.assert_allclose(np.diff(together), 0.4, atol=1e-9)
    assert after_gap == pytest.approx(3.8, abs=0.01)


def test_drained_waits_for_the_far_loudspeaker():
    async def main(final_report):
        device, far = attached()
        device.play(second_of_tone(PLAYBACK_HZ), last=True)
        loop = asyncio.get_running_loop()
        loop.call_later(0.9, far.report, round(0.5 * HZ))  # 0.4 s late
        if final_report:
            loop.call_later(1.4, lambda: far.report(len(far.samples)))
        await device.drained()
        return device.clock.now()

    assert virtual_time.run(main(final_report=True)) == pytest.approx(1.4, abs=0.01)
    assert virtual_time.run(main(final_report=False)) == pytest.approx(2.4, abs=0.05)  # a lost report is no deadlock


@settings(max_examples=30, deadline=None)
@given(received_s=st.floats(0, 1), chunks=st.integers(1, 6), complete=st.booleans())
def test_after_a_break_the_rest_of_the_reply_is_sent_again(received_s, chunks, complete):
    speech = second_of_tone(PLAYBACK_HZ, 2.0)

    async def main():
        device, far = attached()
        pieces = np.array_split(speech, 2 * chunks)
        for piece in pieces[:chunks]:
            device.play(piece, last=False)
        received = min(len(far.samples), round(received_s * HZ))
        device.detach()
        assert not device.attached
        lost, far.samples = far.samples, far.samples[:received]
        for piece in pieces[chunks:]:
            device.play(piece, last=complete and piece is pieces[-1])
        assert len(far.samples) == received
        assert device.attach(far, capture_hz=HZ, output_hz=HZ, reply=1, received=received)
        np.testing.assert_array_equal(far.samples[: len(lost)], lost)
        return len(far.samples), far.last

    count, last = virtual_time.run(main())
    assert last is complete
    if complete:
        assert count == 2 * HZ


def test_the_running_reply_is_ducked_at_the_far_end_after_a_break_too():
    async def main():
        device, far = attached()
        device.duck(0.2, 20.0)  # nothing runs
        device.play(second_of_tone(PLAYBACK_HZ, 2.0), last=True)
        device.duck(0.2, 20.0)
        device.detach()
        assert device.attach(far, capture_hz=HZ, output_hz=HZ, reply=1, received=100)
        device.duck(1.0, 20.0)
        device.detach()
        assert device.attach(far, capture_hz=HZ, output_hz=HZ, reply=1, received=100)
        device.duck(0.2, 20.0)
        device.flush(5.0)
        device.play(second_of_tone(PLAYBACK_HZ, 2.0), last=True)
        device.detach()
        assert device.attach(far, capture_hz=HZ, output_hz=HZ, reply=2, received=100)
        return far.ducked

    assert virtual_time.run(main()) == [(1, 0.2, 20.0), (1, 0.2, 0.0), (1, 1.0, 20.0), (1, 0.2, 20.0)]


def test_a_page_that_was_loaded_again_does_not_know_the_reply():
    async def main():
        device, far = attached()
        device.play(second_of_tone(PLAYBACK_HZ, 2.0), last=False)
        await asyncio.sleep(0.5)
        far.report(round(0.5 * HZ))
        device.detach()
        goes_on = device.attach(far, capture_hz=HZ, output_hz=HZ)
        return goes_on, device.flush(5.0).played_samples

    goes_on, heard = virtual_time.run(main())
    assert not goes_on
    assert heard / PLAYBACK_HZ == pytest.approx(0.5, abs=0.001)


def test_nothing_is_heard_of_what_was_made_while_nobody_was_there():
    async def main():
        device, _ = attached()
        device.play(second_of_tone(PLAYBACK_HZ, 0.5), last=False)
        device.detach()
        device.play(second_of_tone(PLAYBACK_HZ, 2.0), last=True)
        await asyncio.sleep(10.0)
        return device.flush(5.0).played_samples

    assert virtual_time.run(main()) <= 0.5 * PLAYBACK_HZ


@pytest.mark.parametrize("rate", [0, 4_000, 1_000_000, -1])
def test_rates_that_no_device_has_are_refused(rate):
    async def main():
        device = BrowserDevice()
        device.attach(FarEnd(device), capture_hz=rate, output_hz=HZ)

    with pytest.raises(DeviceError, match="sample rate"):
        virtual_time.run(main())


def test_a_far_end_that_does_not_report_is_taken_to_play_what_it_is_sent():
    async def main():
        device = BrowserDevice(live=False)
        device.attach(FarEnd(device), capture_hz=24_000, output_hz=24_000)
        device.play(second_of_tone(PLAYBACK_HZ), last=True)
        await asyncio.sleep(0.4)
        assert device.played_samples == pytest.approx(0.4 * PLAYBACK_HZ, abs=2)
        await device.drained()
        assert device.clock.now() == pytest.approx(1.0, abs=0.02)
        # it may say more than that after all
        device.play(second_of_tone(PLAYBACK_HZ), last=True)
        await asyncio.sleep(0.2)
        device.report(2, PLAYBACK_HZ, 0)
        await device.drained()
        assert device.clock.now() == pytest.approx(1.2, abs=0.02)

    virtual_time.run(main())


def test_sound_may_come_faster_than_time_and_is_taken_piece_by_piece():
    async def main():
        device = BrowserDevice(live=False)
        device.attach(FarEnd(device), capture_hz=CAPTURE_HZ, output_hz=24_000)
        heard = []

        async def listen():
            async for frame in device.frames():
                await asyncio.sleep(0.001)
                heard.append(frame)

        listening = asyncio.create_task(listen())
        for _ in range(40):
            device.capture(second_of_tone(CAPTURE_HZ, 0.5))
            await device.taken()
            assert_contiguous(heard)
        assert heard[-1].start + len(heard[-1].samples) == 20 * CAPTURE_HZ
        assert all(frame.samples.any() for frame in heard)
        assert device.clock.now() == pytest.approx(20.0, abs=2.0)  # the clock is that of the sound
        device.close()
        await listening

    virtual_time.run(main())


def test_no_time_passes_while_a_program_sends_no_sound():
    async def main():
        device = BrowserDevice(live=False)
        device.attach(FarEnd(device), capture_hz=CAPTURE_HZ, output_hz=24_000)
        await asyncio.sleep(600.0)
        frames = asyncio.create_task(collect(device, 100))
        for seconds in (0.0, 300.0):
            await asyncio.sleep(seconds)
            device.resume()
            for _ in range(5):  # at the pace of a microphone
                device.capture(second_of_tone(CAPTURE_HZ, 0.2))
                await asyncio.sleep(0.2)
        heard = await frames
        assert all(frame.samples.any() for frame in heard)  # no silence was put between
        assert device.clock.now() == pytest.approx(2.0, abs=0.21)

    virtual_time.run(main())
