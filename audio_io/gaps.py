"""Gaps in what a microphone delivers, told from late samples: a sound system that lost some says so seldom."""

import math

WINDOW_S = 2.0  # a lag that no frame of this time undercuts is a gap of the microphone, not a slow way to us


class LagWatch:
    """Watches by how much captured samples are behind the clock; once a gap is filled they are so no more."""

    def __init__(self, longest_s: float) -> None:
        """`longest_s`: a lag that is borne, in seconds."""
        self._longest_s = longest_s
        self._begin, self._smallest = 0.0, math.inf  # of the window that runs

    def begin(self, now: float) -> None:
        """Forget the lags so far, at `now` of the clock in seconds."""
        self._begin, self._smallest = now, math.inf

    def gap(self, now: float, lag: float) -> float:
        """Seconds that nothing was captured for and nobody made up for, by the lag of the samples that came at `now`."""
        missing = 0.0
        if now - self._begin >= WINDOW_S:
            if min(self._smallest, lag) > self._longest_s:
                missing = min(self._smallest, lag)
            self.begin(now)
        self._smallest = min(self._smallest, lag)
        return missing
