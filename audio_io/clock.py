"""The clock of real devices and of files played at the pace of the audio."""

import asyncio
import time


class RealClock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def now(self) -> float:
        """Seconds."""
        return time.monotonic() - self._began

    async def sleep_until(self, at: float) -> None:
        """Return when `now()` has reached `at`."""
        await asyncio.sleep(max(0.0, at - self.now()))
