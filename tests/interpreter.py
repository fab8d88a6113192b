"""Whether a callback waits for Python's interpreter: it is called from machine code while a thread holds the interpreter.

`python -m tests.interpreter` asks that of the callbacks of the sound system.
"""

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np

from audio_io.callbacks import COUNT, NUM_NOTES, CallbackNotes
from audio_io.local import LocalDevice

_POINTER, _ULONG = ctypes.c_void_p, ctypes.c_ulong
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _POINTER, _ULONG, _POINTER, _ULONG, _POINTER)  # PortAudio's
_usleep = ctypes.CDLL(None).usleep
_usleep.argtypes, _usleep.restype = [ctypes.c_uint], ctypes.c_int


@numba.njit(nogil=True)
def _call(callback: Any, samples: np.ndarray, places: np.ndarray, over: np.ndarray) -> None:
    times = np.zeros(3)
    while not over[0]:
        callback(samples.ctypes, samples.ctypes, len(samples), times.ctypes, 0, places.ctypes)
        _usleep(1_000)


@numba.njit  # without `nogil`: as any function in C that does not give the interpreter away
def _hold(notes: np.ndarray, count: int, tries: int) -> bool:
    for _ in range(tries):
        if notes[COUNT] >= count:
            return True
        _usleep(1_000)
    return False


@contextmanager
def call_often(callback: Any, samples: np.ndarray, places: np.ndarray) -> Iterator[None]:
    """A thread calls it about every millisecond."""
    over = np.array([True])
    _call(callback, samples, places, over)  # compiled here
    over[0] = False
    thread = threading.Thread(target=_call, args=(callback, samples, places, over))
    thread.start()
    try:
        yield
    finally:
        over[0] = True
        thread.join()


def hold_interpreter(notes: CallbackNotes, more: int, tries: int) -> bool:
    """No other thread runs Python until so many more callbacks are noted, or for so many milliseconds: false."""
    noted = np.ctypeslib.as_array((ctypes.c_double * NUM_NOTES).from_address(notes.place))
    _hold(noted, 0, 1)  # compiled here
    return bool(_hold(noted, notes.count + more, tries))


def be_held() -> None:
    """Open the sound device, hold the interpreter, tell whether its callbacks went on; the sound system is the real one."""
    with LocalDevice() as device:
        for notes in (device.output_notes, device.input_notes):
            while not notes.count:
                time.sleep(0.01)
            print("went on" if hold_interpreter(notes, 15, tries=30_000) else "waited", flush=True)


if __name__ == "__main__":
    be_held()
