"""The models' threads: the loop pulls one step at a time, so that back-pressure and cancellation come for free."""

import asyncio
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from queue import PriorityQueue
from typing import Any, ParamSpec, TypeVar

VOICE_FIRST = -1  # priority of the voice's CUDA stream, where threads have their own
P = ParamSpec("P")
R = TypeVar("R")


class DeviceMemoryError(Exception):
    """A model's step found no room on the GPU; its work is lost, the model is not."""


def guarded(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a call. Raises DeviceMemoryError where torch has no more memory."""
    try:
        return call(*args, **kwargs)
    except RuntimeError as error:
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(error, torch.OutOfMemoryError):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise DeviceMemoryError(
            "the GPU's memory is full. End other programs that use it, or see `launch.py doctor` for what takes how much; "
            "llm.gpu_share and llm.max_context_tokens bound the language model."
        ) from None


def use_stream(priority: int | None) -> None:
    """Give this thread a CUDA stream of its own where there is a GPU; lower priorities go first, 0 is the last.

    None: all threads share one stream.
    """
    torch = sys.modules.get("torch")
    if priority is not None and torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()  # what other streams have begun, such as loading, is done
        torch.cuda.set_stream(torch.cuda.Stream(priority=priority))


def num_cores() -> int:
    """CPU cores that this process may use; the hardware threads of one core count once."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


class Worker:
    """A thread, or several that share the calls: of those that wait, the one whose result is needed first goes first."""

    def __init__(self, name: str, priority: int | None = None, *, num_threads: int = 1) -> None:
        """`priority` of its work on a GPU, in a stream of its own: no other thread may then make what it works on."""
        self._executor = ThreadPoolExecutor(
            max_workers=num_threads, thread_name_prefix=name, initializer=use_stream, initargs=(priority,)
        )
        # when due, number of the call, its future, the call
        self._waiting: PriorityQueue[tuple[float, int, Future[Any], Callable[[], Any]]] = PriorityQueue()
        self._number = count()
        self._open: set[Future[Any]] = set()  # calls that run or wait

    @property
    def busy(self) -> bool:
        """True while a call runs or waits."""
        return bool(self._open)

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a call that is due now. A cancelled call that has begun runs to its end; its result is dropped.

        Raises DeviceMemoryError, and what the call raises.
        """
        running = self.run_within(0.0, partial(call, *args, **kwargs))
        del call, args, kwargs  # a cancelled call's frame may outlive it, and with it megabytes of a model's state
        return await running

    async def run_within(self, slack_s: float, call: Callable[[], R]) -> R:
        """Run a call whose result is needed in so many seconds; below 0: it was needed then."""
        future: Future[R] = Future()
        loop = asyncio.get_running_loop()
        self._open.add(future)
        self._waiting.put((loop.time() + slack_s, next(self._number), future, call))
        del call
        result = asyncio.wrap_future(future)
        future.add_done_callback(partial(self._done, loop))  # after the result is on its way to the loop
        self._executor.submit(self._run_first)
        try:
            return await result
        finally:
            if future.done():  # with its result, not when its thread has its turn again
                self._open.discard(future)

    def _done(self, loop: asyncio.AbstractEventLoop, future: Future[Any]) -> None:
        """Of a call that nobody awaits. The loop is woken, since one that skips waiting (`app.clock`) waits while `busy`."""
        with suppress(RuntimeError):  # it was closed meanwhile
            loop.call_soon_threadsafe(self._open.discard, future)

    def _run_first(self) -> None:
        """Run the call that is due first; a thread does this once for each call."""
        _, _, future, call = self._waiting.get_nowait()
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(guarded(call))
        except BaseException as error:
            future.set_exception(error)
        finally:
            del future, call  # the error keeps this frame

    def close(self) -> None:
        """Let the running calls end and stop the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        while not self._waiting.empty():
            _, _, future, _ = self._waiting.get_nowait()
            future.cancel()
