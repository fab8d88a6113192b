"""The words a small model was trained on, and how they follow each other: turns near-words into words.

A noisy channel: each recognised word is kept or replaced by a known word of similar spelling, so that the spelling
distance and the bigram probability of the whole sentence cost least (Viterbi). Two known words written as one are split.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

_START = "<s>"
_MOST_LETTERS = 20
_CANDIDATES = 12
_LETTER_COST = 2.5  # of one changed letter, in nats
_UNKNOWN_COST = 12.0  # of keeping what is no word
_BACKOFF = 0.4


class Lexicon:
    """Word and word pair counts of the training text."""

    def __init__(self, words: dict[str, int], pairs: dict[str, int]) -> None:
        """`pairs` has keys of two words with a space between."""
        self._words = words
        self._pairs = pairs
        self._total = sum(words.values())
        self._spelled = [word for word in words if len(word) <= _MOST_LETTERS]
        self._letters = np.zeros((len(self._spelled), _MOST_LETTERS), np.uint8)
        for row, word in zip(self._letters, self._spelled, strict=True):
            row[: len(word)] = np.frombuffer(word.encode("ascii", "replace"), np.uint8)
        self._lengths = np.array([len(word) for word in self._spelled])
        self._nearest: dict[str, list[tuple[str, float]]] = {}

    @classmethod
    def learn(cls, texts: Iterable[str], fewest_pairs: int = 2) -> "Lexicon":
        """Count normalised texts; pairs seen fewer than `fewest_pairs` times are left out."""
        words: Counter[str] = Counter()
        pairs: Counter[str] = Counter()
        for text in texts:
            spoken = text.split()
            words.update(spoken)
            pairs.update(f"{a} {b}" for a, b in zip([_START, *spoken], spoken, strict=False))
        return cls(dict(words), {pair: n for pair, n in pairs.items() if n >= fewest_pairs})

    @classmethod
    def load(cls, path: Path) -> "Lexicon":
        """Read what `save` wrote."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(values["words"], values["pairs"])

    def save(self, path: Path) -> None:
        """Write a JSON file."""
        values = {"words": self._words, "pairs": self._pairs}
        path.write_text(json.dumps(values, separators=(",", ":")), encoding="utf-8")

    def correct(self, text: str) -> str:
        """The likeliest sentence of known words near `text`."""
        best: dict[str, tuple[float, list[str]]] = {_START: (0.0, [])}
        for heard in text.split():
            reached: dict[str, tuple[float, list[str]]] = {}
            for said, channel in self._candidates(heard):
                parts = said.split()
                for before, (cost, path) in best.items():
                    total, previous = cost + channel, before
                    for part in parts:
                        total += self._follows(previous, part)
                        previous = part
                    if parts[-1] not in reached or total < reached[parts[-1]][0]:
                        reached[parts[-1]] = (total, [*path, *parts])
            best = reached
        return " ".join(min(best.values(), key=lambda entry: entry[0])[1])

    def _follows(self, before: str, word: str) -> float:
        """Negative log probability of `word` after `before`, backed off to the word alone."""
        pair = self._pairs.get(f"{before} {word}", 0)
        base = self._words.get(before, self._total / 10)
        alone = _BACKOFF * (self._words.get(word, 0) + 0.1) / self._total
        return -math.log(0.7 * pair / base + 0.3 * alone if before != _START else 0.7 * pair / 20_000 + 0.3 * alone)

    def _candidates(self, heard: str) -> list[tuple[str, float]]:
        """Known words near `heard` with their costs."""
        if heard not in self._nearest:
            found = [(heard, 0.0 if heard in self._words else _UNKNOWN_COST)]
            distances = self._distances(heard)
            limit = max(1, len(heard) // 3) if heard in self._words else max(2, len(heard) // 2)
            for i in np.argsort(distances, kind="stable")[:_CANDIDATES]:
                if 0 < distances[i] <= limit:
                    found.append((self._spelled[i], _LETTER_COST * float(distances[i])))
            if heard not in self._words:
                for cut in range(1, len(heard)):
                    if heard[:cut] in self._words and heard[cut:] in self._words:
                        found.append((f"{heard[:cut]} {heard[cut:]}", _LETTER_COST))
            self._nearest[heard] = found
        return self._nearest[heard]

    def _distances(self, heard: str) -> np.ndarray:
        """Levenshtein distance to every known word, all words at once."""
        letters = np.frombuffer(heard[:_MOST_LETTERS].encode("ascii", "replace"), np.uint8)
        row = np.tile(np.arange(_MOST_LETTERS + 1), (len(self._spelled), 1))
        for i, letter in enumerate(letters, 1):
            diagonal = row[:, :-1] + (self._letters != letter)
            fresh = np.minimum(diagonal, row[:, 1:] + 1)
            following = np.empty_like(row)
            following[:, 0] = i
            for j in range(_MOST_LETTERS):
                np.minimum(fresh[:, j], following[:, j] + 1, out=following[:, j + 1])
            row = following
        return np.take_along_axis(row, self._lengths[:, None], 1)[:, 0]
