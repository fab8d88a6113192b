"""Choosing the next speech id: repetition-aware sampling (VALL-E 2, 2406.05370, with CosyVoice 2's figures) or greedy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Chooser(Protocol):
    """Picks the next speech id."""

    def __call__(self, scores: np.ndarray, history: Sequence[int], generator: np.random.Generator) -> int:
        """An id for scores (V,) float64, log-probabilities up to a constant, -inf where forbidden.

        Args:
            scores: one for each speech id.
            history: speech ids generated so far.
            generator: where chance comes from.
        """
        ...


def greedy(scores: np.ndarray, history: Sequence[int], generator: np.random.Generator) -> int:
    """The likeliest id."""
    return int(scores.argmax())


@dataclass(frozen=True, kw_only=True)
class RepetitionAware:
    """Draws from the likeliest ids; one that was spoken just before is drawn anew from all others."""

    top_p: float = 0.8  # ids are taken until their probabilities sum to this; the one that crosses is in
    top_k: int = 25  # at most this many
    window: int = 10  # speech ids looked back at
    max_share: float = 0.1  # an id that makes up this much of the window counts as a repetition
    may_repeat: bool = False  # the second draw may give the same id again, as upstream's did before 2026-02-04

    def __call__(self, scores: np.ndarray, history: Sequence[int], generator: np.random.Generator) -> int:
        """See `Chooser`."""
        ids, weights = nucleus(scores, self.top_p, self.top_k)
        drawn = int(generator.choice(ids, p=weights))
        if list(history[-self.window :]).count(drawn) < self.window * self.max_share:
            return drawn
        return int(generator.choice(len(scores), p=fallback(scores, None if self.may_repeat else drawn)))


def nucleus(scores: np.ndarray, top_p: float, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and probabilities (sum 1) of the first draw."""
    probabilities = fallback(scores, None)
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    before = np.cumsum(probabilities[order]) - probabilities[order]
    order = order[(before < top_p) & (probabilities[order] > 0)]
    return order, probabilities[order] / probabilities[order].sum()


def fallback(scores: np.ndarray, repeated: int | None) -> np.ndarray:
    """Probabilities (V,) of the second draw: all ids but the repeated one."""
    if repeated is not None:
        scores = scores.copy()
        scores[repeated] = -np.inf
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()
