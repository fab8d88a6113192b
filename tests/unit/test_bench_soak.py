"""The long conversation: what it counts, and that it tells what was left behind."""

import asyncio

import numpy as np
import pytest

from app.bench import soak
from app.bench.cases import CLIP_HZ, Case
from app.bench.soak import Resident, Soak, figures, hold, page
from app.clock import run_skipping
from tests.fakes import ScriptedChat, user_says
from tests.web import assistant


def held(monkeypatch, minutes=0.5, per_turn=lambda: None):
    monkeypatch.setattr(soak, "resident_mib", lambda: 100.0)
    cases = [Case(name=str(i), samples=np.full(CLIP_HZ, 0.1, np.float32), text="hello") for i in range(2)]
    script = [event for at in range(2, 200, 4) for event in user_says("hello there", at, at + 1.0)]
    chat = ScriptedChat(*["one two three four"] * 60)
    stream = chat.stream

    def counted(*given, **how):
        per_turn()
        return stream(*given, **how)

    chat.stream = counted
    parts = assistant(chat, script)

    async def main():
        try:
            return await hold(parts, cases, 60 * minutes)
        finally:
            parts.close()

    return run_skipping(main())


def test_every_turn_is_counted_and_nothing_is_left(monkeypatch):
    found = held(monkeypatch)
    assert found.seconds > 30
    assert found.turns >= 5
    assert len(found.memory) == found.turns
    assert (found.left_tasks, found.left_threads) == ([], [])
    assert all(found.voice_to_voice_s.values())
    told = figures(found, found)
    assert told["memory_growth"] == 0.0
    assert told["voice_to_voice_first_s"] == pytest.approx(told["voice_to_voice_last_s"], abs=0.2)


def test_a_task_that_is_left_is_named(monkeypatch):
    kept = []

    async def forever():
        await asyncio.Event().wait()

    def leave():
        kept.append(asyncio.get_running_loop().create_task(forever(), name="forgotten"))

    assert set(held(monkeypatch, per_turn=leave).left_tasks) == {"forgotten"}


def test_memory_is_compared_between_the_second_tenth_and_the_last():
    found = Soak(seconds=100.0, turns=101)
    found.memory = [Resident(at=float(at), mib=50.0 + at) for at in range(101)]
    found.voice_to_voice_s = {"first": [0.5, 0.7, 0.6], "last": [0.8]}
    found.cpu_s = {"first": [2.0], "last": [2.5]}
    afterwards = Soak(voice_to_voice_s={"first": [0.65, 0.65, 0.1]}, cpu_s={"first": [2.25]})
    told = figures(found, afterwards)
    assert (told["memory_after_warm_up_mib"], told["memory_at_end_mib"]) == (65.0, 145.0)
    assert told["memory_growth"] == pytest.approx(145 / 65 - 1)
    about = {"machine": "a machine", "load": {"before": [1.0], "after": [2.0]}, "wall_s": 60.0}
    text = page({"about": about, "figures": told, "memory": [[1, 50.0], [2, 51.0]]})
    assert "+123.1 %" in text
    assert "600, 800, 650 ms" in text
    assert "2.00, 2.50, 2.25 s" in text
