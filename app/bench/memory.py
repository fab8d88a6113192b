"""How much memory a piece of work takes at its peak beyond what is there before it."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Found = TypeVar("Found")
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)


def peak_mib(device: torch.device, work: Callable[[], Found]) -> tuple[Found, float | None]:
    """What `work` gives, and its peak of memory in MiB; None where the system does not tell.

    On a GPU: of PyTorch's allocations. On a CPU: of the process's resident memory, after the allocator has given back
    what it held for later.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        found = work()
        return found, (torch.cuda.max_memory_allocated(device) - before) / 2**20
    resident = _reset()
    found = work()
    return found, None if resident is None else (_read("VmHWM") - resident) / 1024


def _reset() -> int | None:
    """Make the peak what is resident now; KiB of that."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
        return _read("VmRSS")
    except (OSError, AttributeError):
        return None


def _read(name: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
