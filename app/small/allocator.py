"""Memory as training needs it: kept from step to step."""

import os
import sys

# glibc gives large blocks back at every step otherwise; a trainer spends half of its time in page faults then
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_NUM_THREADS": "1",
}


def keep_memory() -> None:
    """Begin this process anew with an allocator that keeps what it has got, unless it has one."""
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **ALLOCATOR})
