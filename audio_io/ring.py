"""Ring buffer between an audio callback and the event loop: one producer, one consumer, no locks, no allocation."""

import numpy as np


class SampleRing:
    """Preallocated mono float32 samples.

    The producer alone moves `_written`, the consumer alone `_read`; both only count up, except that `cut` (producer) may
    take back what the consumer has not reached.
    """

    def __init__(self, capacity: int) -> None:
        self._buffer = np.zeros(capacity, np.float32)
        self._written = 0
        self._read = 0
        self.overruns = 0  # samples that found no room
        self.underruns = 0  # reads that found too few samples while `open`
        self.open = False  # more samples are to come: a short read is then an underrun
        self._dry = False

    @property
    def capacity(self) -> int:
        """Samples it can hold."""
        return len(self._buffer)

    @property
    def num_read(self) -> int:
        """Samples consumed since the start."""
        return self._read

    @property
    def available(self) -> int:
        """Samples that wait."""
        return max(0, self._written - self._read)

    def write(self, samples: np.ndarray) -> int:
        """Producer: append samples (N,); returns how many found room, the rest is dropped and counted."""
        start = max(self._written, self._read)  # after a `cut` the consumer may be a little ahead
        count = min(len(samples), self.capacity - (start - self._read))
        begin = start % self.capacity
        head = min(count, self.capacity - begin)
        self._buffer[begin : begin + head] = samples[:head]
        self._buffer[: count - head] = samples[head:count]
        self._written = start + count
        self.overruns += len(samples) - count
        return count

    def read_into(self, out: np.ndarray) -> int:
        """Consumer: fill `out` (N,), with zeros where samples are missing; returns how many there were."""
        count = min(len(out), self.available)
        begin = self._read % self.capacity
        head = min(count, self.capacity - begin)
        out[:head] = self._buffer[begin : begin + head]
        out[head:count] = self._buffer[: count - head]
        out[count:] = 0.0
        self._read += count
        dry = count < len(out)
        if dry and not self._dry and self.open:
            self.underruns += 1
        self._dry = dry
        return count

    def multiply(self, begin: int, factors: np.ndarray) -> None:
        """Producer: the waiting samples from number `begin` since the start on times `factors` (N,)."""
        self._buffer[(begin + np.arange(len(factors))) % self.capacity] *= factors

    def cut(self, fade: np.ndarray) -> int:
        """Producer: keep only the next `len(fade)` samples, times `fade`; returns how many are kept."""
        begin = self._read
        count = max(0, min(len(fade), self._written - begin))
        positions = (begin + np.arange(count)) % self.capacity
        self._buffer[positions] *= fade[:count]
        self._written = begin + count
        self.open = False
        return count
