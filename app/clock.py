"""An event loop that skips waiting but never computing: a conversation on files takes only its computing time.

The clock is the loop itself, so that several conversations at once, time-outs and timed stand-ins live on one clock. Clocks
that follow the running loop (`audio_io.clock.LoopClock`) and `asyncio.sleep` need not know of it.
"""

import asyncio
import contextlib
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class _Skipping(selectors.SelectSelector):
    """Waits while something computes; else moves the clock to the next timer."""

    def __init__(self, *, counts_work: bool) -> None:
        super().__init__()
        self._began = time.monotonic() if counts_work else None
        self._skipped_s = 0.0
        self.working: list[Callable[[], bool]] = []

    def now(self) -> float:
        return self._skipped_s + (time.monotonic() - self._began if self._began is not None else 0.0)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # asked first: work that ends after the question has its result seen by the next line
        computing = any(source() for source in self.working)
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self._began is not None and (timeout is None or computing):
            return super().select(timeout)
        if timeout is None:
            raise RuntimeError("the conversation waits for something that never comes")
        self._skipped_s += timeout
        return []


class _SkippingLoop(asyncio.SelectorEventLoop):
    def __init__(self, *, counts_work: bool) -> None:
        self._skipping = _Skipping(counts_work=counts_work)
        super().__init__(self._skipping)

    def time(self) -> float:
        """Seconds on the skipping clock."""
        return self._skipping.now()

    @property
    def working(self) -> list[Callable[[], bool]]:
        """No time is skipped while one of these is true."""
        return self._skipping.working


def run_skipping(main: Coroutine[Any, Any, T], *, counts_work: bool = True) -> T:
    """As `asyncio.run`, but time in which every task only waits is skipped.

    `counts_work`: computing takes the time that it takes (see `never_skip`). Without it only timers move the clock, which
    begins at 0: every run is the same, and no thread may be used.
    """
    with asyncio.Runner(loop_factory=lambda: _SkippingLoop(counts_work=counts_work)) as runner:
        return runner.run(main)


@contextlib.contextmanager
def never_skip(computing: Callable[[], bool]) -> Iterator[None]:
    """Within it no time is skipped while `computing()` is true; nothing on a loop that skips none."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, _SkippingLoop):
        yield
        return
    loop.working.append(computing)
    try:
        yield
    finally:
        loop.working.remove(computing)
