"""How loud a reply is along its samples: at its own level, except where it is ducked."""

import numpy as np

_FAINTEST = 1e-3  # samples that wait in a queue are ducked in place and brought back: they must not be lost


class Level:
    """A gain for every sample position: 1 at first; positions before the last change keep theirs."""

    def __init__(self) -> None:
        self._at, self._gains = [0.0], [1.0]

    @property
    def gain(self) -> float:
        """The gain that the last change leads to."""
        return self._gains[-1]

    def move(self, at: int, gain: float, num_samples: int = 0) -> None:
        """From position `at` on go to `gain` within so many samples, and stay there."""
        begin = at - 0.5  # between two samples: a change within no sample is a step
        now = float(np.interp(begin, self._at, self._gains))
        kept = sum(point < begin for point in self._at)
        kept += begin in self._at  # the first point of a step that stands there: what leads to it stays
        self._at[kept:] = [begin, begin + num_samples]
        self._gains[kept:] = [now, max(gain, _FAINTEST)]

    def __call__(self, begin: int, num_samples: int) -> np.ndarray:
        """Gains of samples from position `begin` on, float32 (N,)."""
        return np.interp(begin + np.arange(num_samples), self._at, self._gains).astype(np.float32)
