"""One thread per model: the loop pulls one step at a time, so that back-pressure and cancellation come for free."""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

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


class Worker:
    """A thread that runs one call after the other."""

    def __init__(self, name: str, priority: int | None = None) -> None:
        """`priority` of its work on a GPU, in a stream of its own: no other thread may then make what it works on."""
        self._executor = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix=name, initializer=use_stream, initargs=(priority,)
        )
        self._running = 0

    @property
    def busy(self) -> bool:
        """True while a call runs or waits."""
        return self._running > 0

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a call on the thread. A cancelled call still runs to its end; its result is dropped.

        Raises DeviceMemoryError, and what the call raises.
        """
        self._running += 1
        future = self._executor.submit(guarded, partial(call, *args, **kwargs))
        del call, args, kwargs  # a cancelled call's frame may outlive it, and with it megabytes of a model's state
        result = asyncio.wrap_future(future)
        future.add_done_callback(lambda _: self._finished())  # after the result is on its way to the loop
        return await result

    def _finished(self) -> None:
        self._running -= 1

    def close(self) -> None:
        """Let the running call end and stop the thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)
