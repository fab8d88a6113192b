"""PortAudio's callbacks as machine code: they copy samples, fade over gaps, and never wait for Python's interpreter.

What they share with Python is numpy memory whose addresses they are given. Everything compiled stands in this file, because
the cache of compiled code notices only changes of the file that a function stands in. Importing it takes as long as numba's
import, and seconds where nothing is cached yet.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])

# a ring's counters, int64; the first two only count up, except that a cut takes back from the first
WRITTEN, READ, OVERRUNS, UNDERRUNS, OPEN, DRY, CAPACITY, NUM_COUNTERS = range(8)
# what a callback notes, float64
COUNT, LOSSES, FIRST, LATEST, LONGEST_WAIT, PLAYED, HELD, TAIL, FAINT, NUM_NOTES = range(10)

FADE = 192  # samples, 4 to 8 ms: how fast a reply that runs dry falls silent, and comes back

_INPUT_OVERFLOW, _OUTPUT_UNDERFLOW = 2, 4  # PortAudio's flags
_CURRENT_TIME = 1  # of the three times that a callback is told

OPTIONS = {"error_model": "numpy", "forceinline": True}  # nothing is left that could fail and call the interpreter
_VOID = numba.types.voidptr
_ULONG = numba.from_dtype(np.dtype("L"))
_CALLBACK = numba.types.intc(
    _VOID, _VOID, _ULONG, numba.types.CPointer(numba.types.float64), _ULONG, numba.types.CPointer(_VOID)
)


def _cached(decorator: Callable[..., Any], signature: Any, function: Callable[..., Any], **options: Any) -> Any:
    """Compile, or take it from the cache where one can be written."""
    try:
        return decorator(signature, cache=True, **OPTIONS, **options)(function)
    except (RuntimeError, OSError):  # no folder for it, or none that takes it
        return decorator(signature, **OPTIONS, **options)(function)


def _compiled(signature: str) -> Callable[[F], F]:
    return lambda function: _cached(numba.njit, signature, function, nogil=True)


def _callback(function: Callable[..., Any]) -> Any:
    return _cached(numba.cfunc, _CALLBACK, function)


def _barrier(_: Any) -> Any:
    """Loads and stores before this happen before those after it, as the other side sees them."""

    def generate(context: Any, builder: Any, *_: Any) -> Any:
        builder.fence("acq_rel")
        return context.get_dummy_value()

    return numba.types.void(), generate


_in_order: Any = intrinsic(_barrier)


@_compiled("int64(int64[::1], float32[::1], float32[::1])")
def append(counters: np.ndarray, buffer: np.ndarray, samples: np.ndarray) -> int:
    """Producer: append samples (N,) to a ring; returns how many found room, the rest is dropped and counted."""
    capacity, read = counters[CAPACITY], counters[READ]
    _in_order()
    start = max(counters[WRITTEN], read)  # after a cut the consumer may be a little ahead
    count = min(len(samples), capacity - (start - read))
    begin = start % capacity
    head = min(count, capacity - begin)
    for index in range(head):
        buffer[begin + index] = samples[index]
    for index in range(head, count):
        buffer[index - head] = samples[index]
    _in_order()
    counters[WRITTEN] = start + count
    counters[OVERRUNS] += len(samples) - count
    return count


@_compiled("int64(int64[::1], float32[::1], float32[::1])")
def take(counters: np.ndarray, buffer: np.ndarray, out: np.ndarray) -> int:
    """Consumer: fill `out` (N,) from a ring, with zeros where samples are missing; returns how many there were."""
    capacity, read = counters[CAPACITY], counters[READ]
    count = min(len(out), max(0, counters[WRITTEN] - read))
    _in_order()
    begin = read % capacity
    head = min(count, capacity - begin)
    for index in range(head):
        out[index] = buffer[begin + index]
    for index in range(head, count):
        out[index] = buffer[index - head]
    for index in range(count, len(out)):
        out[index] = 0.0
    _in_order()
    counters[READ] = read + count
    dry = count < len(out)
    if dry and not counters[DRY] and counters[OPEN]:
        counters[UNDERRUNS] += 1
    counters[DRY] = dry
    return count


@_compiled("void(float64[::1], float64, boolean)")
def note(notes: np.ndarray, now: float, lost: bool) -> None:
    """Note a callback that was called at `now`, in seconds of its stream."""
    if notes[COUNT]:
        notes[LONGEST_WAIT] = max(notes[LONGEST_WAIT], now - notes[LATEST])
    else:
        notes[FIRST] = now
    notes[LATEST] = now
    notes[LOSSES] += lost
    _in_order()
    notes[COUNT] += 1


@_compiled("void(float64[::1], float32[::1], int64, boolean)")
def bridge(notes: np.ndarray, samples: np.ndarray, count: int, goes_on: bool) -> None:
    """Where a reply that goes on runs dry in `samples` (N,), of which `count` are its own, let it fade away; fade it in again.

    The notes keep how far that is from one callback to the next: the last sample played, the one that fades away, and for how
    many samples the one is still heard and the other still faint. What does not run dry stays as it is, to the sample.
    """
    for index in range(len(samples)):
        if index < count:
            notes[FAINT] = max(0.0, notes[FAINT] - 1.0)
        elif goes_on and notes[FAINT] < FADE:
            notes[HELD], notes[TAIL], notes[FAINT] = notes[PLAYED], FADE, FADE
        notes[TAIL] = max(0.0, notes[TAIL] - 1.0)
        notes[PLAYED] = samples[index] * (1.0 - notes[FAINT] / FADE) + notes[HELD] * (notes[TAIL] / FADE)
        samples[index] = notes[PLAYED]
    if count < len(samples) and not goes_on:
        notes[FAINT] = 0.0  # the next reply begins at its level


class CallbackNotes:
    """What the callbacks of one stream note of themselves."""

    def __init__(self) -> None:
        self._notes = np.zeros(NUM_NOTES)

    @property
    def place(self) -> int:
        """The address of the notes, good for as long as this is."""
        return self._notes.ctypes.data

    @property
    def count(self) -> int:
        """Callbacks so far."""
        return int(self._notes[COUNT])

    @property
    def losses(self) -> int:
        """Callbacks before which the sound system lost samples."""
        return int(self._notes[LOSSES])

    @property
    def first_s(self) -> float:
        """When the first was called, by the stream's clock; of no meaning before it."""
        return float(self._notes[FIRST])

    @property
    def longest_wait_s(self) -> float:
        """The longest from one to the next, by the stream's clock."""
        return float(self._notes[LONGEST_WAIT])


@_callback
def on_input(samples: Any, _: Any, frames: Any, times: Any, flags: Any, places: Any) -> int:
    """Append what was captured to a ring. `places`: notes, the ring's counters, its buffer."""
    counters = numba.carray(places[1], NUM_COUNTERS, np.int64)
    buffer = numba.carray(places[2], counters[CAPACITY], np.float32)
    append(counters, buffer, numba.carray(samples, np.int64(frames), np.float32))
    note(numba.carray(places[0], NUM_NOTES, np.float64), times[_CURRENT_TIME], flags & _INPUT_OVERFLOW != 0)
    return 0


@_callback
def on_output(_: Any, out: Any, frames: Any, times: Any, flags: Any, places: Any) -> int:
    """Play what a ring holds, and append it to another. `places`: notes, counters and buffer of the one, of the other."""
    notes = numba.carray(places[0], NUM_NOTES, np.float64)
    samples = numba.carray(out, np.int64(frames), np.float32)
    counters = numba.carray(places[1], NUM_COUNTERS, np.int64)
    went_on = counters[OPEN]
    count = take(counters, numba.carray(places[2], counters[CAPACITY], np.float32), samples)
    bridge(notes, samples, count, (went_on | counters[OPEN]) != 0)  # before and after: it may change meanwhile
    counters = numba.carray(places[3], NUM_COUNTERS, np.int64)
    append(counters, numba.carray(places[4], counters[CAPACITY], np.float32), samples)
    note(notes, times[_CURRENT_TIME], flags & _OUTPUT_UNDERFLOW != 0)
    return 0
