"""How long the GPU was at work: NVIDIA's own measure of it, sampled while something runs."""

import threading
import time
from collections.abc import Callable
from types import TracebackType

PERIOD_S = 0.1


class GpuTime:
    """A context that adds up the seconds in which the GPU ran a kernel; `seconds` is None where there is no GPU."""

    def __init__(self, busy: Callable[[], float] | None, now: Callable[[], float] = time.perf_counter) -> None:
        """`busy`: the share of the last moment (0 to 1) in which a kernel ran; None: nothing to measure."""
        self.seconds: float | None = None if busy is None else 0.0
        self._busy, self._now = busy, now
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "GpuTime":
        """Begin to sample."""
        if self._busy is not None:
            self._thread = threading.Thread(target=self._sample, args=(self._busy,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the last sample and stop."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()

    def _sample(self, busy: Callable[[], float]) -> None:
        before, total, stopped = self._now(), 0.0, False
        while not stopped:
            stopped = self._stop.wait(PERIOD_S)
            now = self._now()
            total += busy() * (now - before)
            before = now
        self.seconds = total


def gpu_busy() -> Callable[[], float] | None:
    """What tells how busy the GPU is; None without a GPU, or without the package that asks its driver."""
    import torch

    if not torch.cuda.is_available():
        return None
    try:
        torch.cuda.utilization()
    except (ModuleNotFoundError, RuntimeError):  # nvidia-ml-py is missing, or the driver does not tell
        return None
    return lambda: torch.cuda.utilization() / 100
