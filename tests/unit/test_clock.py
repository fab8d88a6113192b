"""The loop that skips waiting but never computing."""

import asyncio
import threading
import time

import pytest

from app.clock import never_skip, run_skipping
from app.worker import Worker
from audio_io.clock import LoopClock


def test_waiting_takes_no_time():
    async def main():
        clock = LoopClock()
        await asyncio.gather(clock.sleep_until(3600.0), clock.sleep_until(60.0))
        return clock.now()

    began = time.monotonic()
    assert run_skipping(main()) >= 3600.0
    assert time.monotonic() - began < 60.0


def test_no_time_is_skipped_between_a_result_and_its_reader():
    async def main():
        clock, worker = LoopClock(), Worker("test")
        sleeper = asyncio.create_task(clock.sleep_until(3600.0))
        with never_skip(lambda: worker.busy):
            times = []
            for _ in range(50):
                await worker.run(time.sleep, 0.0001)
                times.append(clock.now())
        await sleeper
        worker.close()
        return times

    assert run_skipping(main())[-1] < 1800.0


class Late(set):
    """A set whose entries go late, as where the thread that removes them waits for its turn."""

    def discard(self, entry):
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.05)
        super().discard(entry)


def test_time_is_skipped_as_soon_as_a_result_is_read():
    async def main():
        worker, began = Worker("test"), time.monotonic()
        worker._open = Late()
        with never_skip(lambda: worker.busy):
            for _ in range(5):
                await worker.run(int)
                await asyncio.sleep(60.0)
        worker.close()
        return time.monotonic() - began

    assert run_skipping(main()) < 30.0  # one that is waited for takes 60 s


def test_without_work_every_run_is_the_same_and_begins_at_zero():
    async def main():
        loop = asyncio.get_running_loop()
        times = [loop.time()]
        for wait in (0.1, 0.25):
            await asyncio.sleep(wait)
            times.append(loop.time())
        return times

    assert run_skipping(main(), counts_work=False) == pytest.approx([0.0, 0.1, 0.35])


def test_a_conversation_that_cannot_go_on_says_so():
    async def main():
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="never comes"):
        run_skipping(main(), counts_work=False)
