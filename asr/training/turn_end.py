"""Learns where a turn ends: whole turns against their own beginnings, by logistic regression."""

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr.turn_end import features
from asr.units import normalise

_MISHEARD = 0.2  # share of the words that are replaced by others
_RAREST = 3  # times a feature is seen at least
_KEPT = 6000  # features, those of the largest weights; then these are learned again
_STRENGTH = 5.0  # of the pull towards zero
_ITERATIONS = 120


@dataclass(frozen=True)
class Example:
    """The words up to a place, and whether they are all."""

    names: tuple[str, ...]
    whole: bool


def examples(sentences: Iterable[str], seed: int = 0) -> list[Example]:
    """Every different turn whole, and cut after each of its words; each as it is, and misheard.

    It is cut too where a sentence ends and another follows: so it is known after which of them people go on. Misheard, some
    words are replaced by any others, so that the judge hangs on no single one: the recogniser errs, and people say what no
    grammar has.
    """
    different = list(dict.fromkeys(sentences))
    counts = Counter(word for sentence in different for word in normalise(sentence).split())
    others = [word for word, count in counts.items() if count > 1]
    rng = random.Random(seed)
    found = []
    for sentence in different:
        parts = sentence.split()
        for count in range(1, len(parts) + 1):
            words = normalise(" ".join(parts[:count])).split()
            whole = count == len(parts)
            if words:
                heard = [rng.choice(others) if others and rng.random() < _MISHEARD else word for word in words]
                found += [Example(tuple(features(shown)), whole) for shown in (words, heard)]
    return found


def learn(found: Sequence[Example]) -> tuple[dict[str, float], float]:
    """Weights by the features' names, and the bias."""
    counts = Counter(name for example in found for name in example.names)
    names = [name for name, count in counts.items() if count >= _RAREST]
    weights, _ = _fit(found, names)
    largest = np.sort(np.argsort(-np.abs(weights), kind="stable")[:_KEPT])
    names = [names[i] for i in largest]
    weights, bias = _fit(found, names)
    return {name: round(float(weight), 2) for name, weight in zip(names, weights, strict=True)}, round(bias, 2)


def _fit(found: Sequence[Example], names: Sequence[str]) -> tuple[np.ndarray, float]:
    from scipy.optimize import minimize
    from scipy.sparse import csr_matrix

    places = {name: index for index, name in enumerate(names)}
    rows = [[places[name] for name in example.names if name in places] for example in found]
    ends = np.cumsum([0, *map(len, rows)])
    columns = np.array([place for row in rows for place in row])
    seen = csr_matrix((np.ones(len(columns)), columns, ends), shape=(len(rows), len(names)))
    truth = np.array([example.whole for example in found], float)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = values[:-1], values[-1]
        logits = seen @ weights + bias
        wrong = 1 / (1 + np.exp(-logits)) - truth
        value = np.logaddexp(0, logits).sum() - truth @ logits + _STRENGTH / 2 * weights @ weights
        return value, np.append(seen.T @ wrong + _STRENGTH * weights, wrong.sum())

    done = minimize(loss, np.zeros(len(names) + 1), jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS})
    return done.x[:-1], float(done.x[-1])


def save(weights: dict[str, float], bias: float, folder: Path) -> None:
    """Write `weights.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"kind": "turn_end", "bias": bias, "weights": weights}, indent=0, ensure_ascii=False)
    (folder / "weights.json").write_text(text + "\n", encoding="utf-8")
