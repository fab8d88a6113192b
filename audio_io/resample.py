"""Sample rate conversion with soxr: whole arrays, and streams whose chunks join without a seam."""

import numpy as np
import soxr


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Convert a whole recording, float32 (N,)."""
    samples = np.asarray(samples, np.float32)
    return samples if from_hz == to_hz else np.asarray(soxr.resample(samples, from_hz, to_hz, quality="HQ"), np.float32)


class StreamingResampler:
    """Converts chunk by chunk; the results joined are those of the whole, for any chunking."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        same = from_hz == to_hz
        self._stream = None if same else soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")

    def push(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        """Take float32 (N,) and return what is ready; `last` returns the rest, afterwards a new stream begins."""
        samples = np.asarray(samples, np.float32)
        if self._stream is None:
            return samples
        ready = np.asarray(self._stream.resample_chunk(samples, last=last), np.float32)
        if last:
            self._stream.clear()
        return ready

    def finish(self) -> np.ndarray:
        """The rest."""
        return self.push(np.zeros(0, np.float32), last=True)
