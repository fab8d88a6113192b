"""A clock that skips waiting but never computing, so that a conversation on files takes only its computing time."""

import asyncio
import time
from collections.abc import Callable

POLL_S = 0.0005


class SkippingClock:
    """Seconds since the start; a sleep jumps ahead unless `computing()` is true or an earlier sleeper is due first."""

    def __init__(self, computing: Callable[[], bool]) -> None:
        self._computing = computing
        self._began = time.monotonic()
        self._skipped_s = 0.0
        self._sleepers: list[float] = []

    def now(self) -> float:
        """Seconds: wall time plus what was skipped."""
        return time.monotonic() - self._began + self._skipped_s

    async def sleep_until(self, at: float) -> None:
        """Return when `now()` has reached `at`."""
        self._sleepers.append(at)
        try:
            while (left := at - self.now()) > 0:
                # two turns of the loop let whoever was just woken start its work before time is skipped
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                if self._computing() or at > min(self._sleepers):
                    await asyncio.sleep(POLL_S)
                else:
                    self._skipped_s += left
        finally:
            self._sleepers.remove(at)
