"""The clock of recordings played as if into a microphone."""

import asyncio


class LoopClock:
    """Seconds of the running event loop since this was made: as real, or as simulated, as the loop's time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    def now(self) -> float:
        """Seconds."""
        return self._loop.time() - self._began

    async def sleep_until(self, at: float) -> None:
        """Return when `now()` has reached `at`."""
        await asyncio.sleep(max(0.0, at - self.now()))
