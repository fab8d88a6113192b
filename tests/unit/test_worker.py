"""The models' threads: whose call runs first, several threads, and what becomes of calls that nobody waits for."""

import asyncio
import gc
import threading
import weakref
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from app import assemble
from app.assemble import speaking_threads
from app.worker import Worker, num_cores
from configs.schema import AppConfig, ConfigError, RuntimeConfig


@asynccontextmanager
async def held(worker: Worker):
    """Until its end the worker's thread is held, so that calls wait."""
    taken, free = threading.Event(), threading.Event()
    holding = asyncio.create_task(worker.run(lambda: (taken.set(), free.wait())))
    await asyncio.to_thread(taken.wait)
    try:
        yield free
    finally:
        free.set()
        await holding


async def begun(*calls):
    """Calls that wait."""
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


async def test_whose_result_is_needed_first_runs_first():
    worker, ran = Worker("test"), []
    slacks = {"far ahead": 4.0, "nearly dry": 0.1, "dry": -0.5, "ahead": 1.5}
    calls = [worker.run_within(slack, lambda name=name: ran.append(name)) for name, slack in slacks.items()]
    async with held(worker):
        waiting = await begun(*calls, worker.run(ran.append, "now"))
    await asyncio.gather(*waiting)
    assert ran == ["dry", "now", "nearly dry", "ahead", "far ahead"]
    assert not worker.busy
    worker.close()


async def test_calls_that_are_due_at_once_keep_their_order():
    worker, ran = Worker("test"), []
    async with held(worker):
        waiting = await begun(*(worker.run(ran.append, i) for i in range(20)))
    await asyncio.gather(*waiting)
    assert ran == list(range(20))
    worker.close()


async def test_several_threads_run_as_many_calls_at_once():
    worker = Worker("test", num_threads=3)
    together = threading.Barrier(3, timeout=60)
    assert sorted(await asyncio.gather(*(worker.run(together.wait) for _ in range(3)))) == [0, 1, 2]
    worker.close()


async def test_many_short_calls_of_many_people_on_several_threads():
    worker = Worker("test", num_threads=3)

    async def person(number):
        return [await worker.run_within(number - step, partial(max, number, step)) for step in range(300)]

    made = await asyncio.gather(*(person(number) for number in range(8)))
    assert made == [[max(number, step) for step in range(300)] for number in range(8)]
    assert not worker.busy
    worker.close()


async def test_an_error_is_the_callers_and_the_thread_goes_on():
    worker = Worker("test")
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda: 1 / 0)
    assert await worker.run(max, 1, 2) == 2
    worker.close()


async def test_a_call_that_is_cancelled_while_it_waits_never_runs():
    worker, ran = Worker("test"), []
    async with held(worker):
        first, second = await begun(worker.run(ran.append, 1), worker.run(ran.append, 2))
        first.cancel()
        await asyncio.sleep(0)
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert ran == [2]
    assert not worker.busy
    worker.close()


async def test_nothing_is_kept_of_a_call_that_is_over():
    class State:
        def fail(self):
            raise ValueError("this one")

    worker, state = Worker("test"), State()
    kept = weakref.ref(state)
    with pytest.raises(ValueError, match="this one"):
        await worker.run_within(0.0, state.fail)
    del state
    await worker.run(gc.collect)
    gc.collect()
    assert kept() is None
    worker.close()


async def test_nobody_waits_for_a_closed_worker():
    worker, ran = Worker("test"), []
    async with asyncio.timeout(60):
        async with held(worker) as free:
            waiting = await begun(*(worker.run(ran.append, i) for i in range(3)))
            threading.Timer(0.05, free.set).start()
            worker.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [i not in ran for i in range(3)]
    assert not worker.busy


def config(**runtime):
    return replace(AppConfig(), runtime=RuntimeConfig(**runtime))


def test_threads_that_speak_are_as_many_as_conversations_and_cores(monkeypatch):
    assert num_cores() >= 1
    monkeypatch.setattr(assemble, "num_cores", lambda: 6)
    assert speaking_threads(config(device="cpu"), 1) == 1
    assert speaking_threads(config(device="cpu"), 4) == 4
    assert speaking_threads(config(device="cpu"), 50) == 6
    assert speaking_threads(config(device="cpu", num_threads=4), 4) == 1
    assert speaking_threads(config(device="cpu", tts_workers=3), 1) == 3
    monkeypatch.setattr(assemble, "resolve", lambda device: "cuda")
    assert speaking_threads(config(), 4) == 1
    assert speaking_threads(config(tts_workers=2), 4) == 2
    with pytest.raises(ConfigError, match="tts_workers is -1"):
        speaking_threads(config(tts_workers=-1), 4)
