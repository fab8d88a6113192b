"""Sound on a busy machine: what is counted, without a sound device. The command itself: tests/e2e/test_bench_device.py."""

import itertools
import subprocess
from dataclasses import asdict, replace

import numpy as np
import pytest

from app.bench import device as bench
from app.bench.device import Held, Notes, busy, page
from audio_io.base import FRAME_SAMPLES, AudioFrame, DeviceError
from audio_io.clock import LoopClock
from tests.fakes import InlineWorker, ScriptedChat
from tests.virtual_time import run
from tests.web import assistant


class Device:
    """Every reply runs dry once; of the microphone one frame is lost."""

    playback_hz, underruns = 24_000, 1

    def __init__(self, gone_at_s: float) -> None:
        self.clock, self.played, self._gone_at_s = LoopClock(), 0, gone_at_s

    def play(self, samples, *, last):
        self.played += len(samples)
        return self.clock.now()

    async def drained(self):
        await self.clock.sleep_until(self.clock.now() + 0.1)

    async def frames(self):
        for number in itertools.count():
            await self.clock.sleep_until(number * 0.02)
            if self.clock.now() > self._gone_at_s:
                raise DeviceError("the microphone is gone.")
            yield AudioFrame(np.zeros(FRAME_SAMPLES, np.float32), FRAME_SAMPLES * (number + (number > 10)))


def talk(*, at_rest: bool, gone_at_s: float = float("inf")) -> tuple[bench._Conversation, Device]:
    async def main() -> tuple[bench._Conversation, Device]:
        device = Device(gone_at_s)
        chat = ScriptedChat(*["one two three"] * 50)
        parts = replace(assistant(chat), asr_worker=InlineWorker(), tts_worker=InlineWorker())
        held = bench._Conversation(device, parts, itertools.cycle(["hello"]), at_rest=at_rest)
        await held.hold(5.0, [np.zeros(2_400, np.float32)])
        return held, device

    return run(main())


def test_dry_queues_and_lost_frames_are_counted():
    held, device = talk(at_rest=True)
    assert held.replies == held.underruns >= 4
    assert held.made == 0
    assert held.speech_s == pytest.approx(0.1 * held.replies)
    assert device.played == 2_400 * held.replies
    assert held.lost_s == pytest.approx(0.02)


def test_the_models_make_replies_meanwhile():
    assert talk(at_rest=False)[0].made >= 1


def test_a_device_that_goes_away_ends_it():
    with pytest.raises(DeviceError, match="is gone"):
        talk(at_rest=True, gone_at_s=1.0)


def test_other_processes_compute_meanwhile_and_then_end(monkeypatch):
    begun = []
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: begun.append(real(*a, **k)) or begun[-1])
    with busy(2):
        assert [process.poll() for process in begun] == [None, None]
    assert len(begun) == 2
    assert all(process.poll() is not None for process in begun)


def test_the_report_tells_both_runs():
    notes = Notes(count=500, losses=3, longest_wait_ms=44.0)
    held = Held(
        seconds=60.0, replies=9, made=2, speech_s=30.0, underruns=1, lost_s=0.5, loop_late_ms=12.0, realtime=False,
        microphone=notes, loudspeaker=notes,
    )  # fmt: skip
    load = {"before": [1.0], "after": [2.0]}
    about = {"machine": "a machine", "busy": 2, "device": "a card", "load": load, "host_took": 0.034}
    text = page({"about": about, "figures": {"at rest": asdict(held), "at work": asdict(held)}})
    assert "of 1 minutes" in text
    assert "has no real-time priority" in text
    assert "took 3.4 %" in text
    assert "| 3 and 3 | 3 and 3 |" in text
    assert "| 0.50 s | 0.50 s |" in text
