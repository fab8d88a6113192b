"""Ring buffer between an audio callback and the event loop: one producer, one consumer, no locks, no allocation."""

import numpy as np

from audio_io.callbacks import CAPACITY, NUM_COUNTERS, OPEN, OVERRUNS, READ, UNDERRUNS, WRITTEN, append, take


class SampleRing:
    """Preallocated mono float32 samples. Either side may be a compiled callback, which is given `places`."""

    def __init__(self, capacity: int) -> None:
        self._buffer = np.full(capacity, 0.0, np.float32)  # of `zeros` a callback would be the first to touch the pages
        self._counters = np.zeros(NUM_COUNTERS, np.int64)
        self._counters[CAPACITY] = capacity

    @property
    def places(self) -> list[int]:
        """The addresses of its counters and of its buffer, good for as long as the ring is."""
        return [self._counters.ctypes.data, self._buffer.ctypes.data]

    @property
    def num_read(self) -> int:
        """Samples consumed since the start."""
        return int(self._counters[READ])

    @property
    def end(self) -> int:
        """The number, since the start, of the sample that is written next."""
        read = self.num_read  # after a `cut` the consumer may be a little ahead
        return max(read, int(self._counters[WRITTEN]))

    @property
    def available(self) -> int:
        """Samples that wait."""
        return max(0, int(self._counters[WRITTEN] - self._counters[READ]))

    @property
    def overruns(self) -> int:
        """Samples that found no room."""
        return int(self._counters[OVERRUNS])

    @property
    def underruns(self) -> int:
        """Reads that found too few samples while `open`; one for each gap."""
        return int(self._counters[UNDERRUNS])

    @property
    def open(self) -> bool:
        """More samples are to come: a short read is then an underrun."""
        return bool(self._counters[OPEN])

    @open.setter
    def open(self, value: bool) -> None:
        self._counters[OPEN] = value

    def write(self, samples: np.ndarray) -> int:
        """Producer: append float32 samples (N,); returns how many found room, the rest is dropped and counted."""
        return int(append(self._counters, self._buffer, samples))

    def read_into(self, out: np.ndarray) -> int:
        """Consumer: fill `out`, float32 (N,), with zeros where samples are missing; returns how many there were."""
        return int(take(self._counters, self._buffer, out))

    def multiply(self, begin: int, factors: np.ndarray) -> None:
        """Producer: the waiting samples from number `begin` since the start on times `factors` (N,)."""
        self._buffer[(begin + np.arange(len(factors))) % len(self._buffer)] *= factors

    def cut(self, fade: np.ndarray) -> int:
        """Producer: keep only the next `len(fade)` samples, times `fade`; returns how many are kept."""
        self.open = False
        begin = self.num_read
        count = max(0, min(len(fade), int(self._counters[WRITTEN]) - begin))
        self.multiply(begin, fade[:count])
        self._counters[WRITTEN] = begin + count
        return count
