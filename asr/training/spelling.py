"""Syllables as the recogniser's pieces: each has one vowel, so that how many there are, and where, can be heard.

A recogniser that finds its pieces by integrate-and-fire has to hear when one comes. Where plain byte-pair encoding cuts a
word is a matter of spelling; a vowel is a matter of sound. First letters are aligned to the phones they stand for, by
expectation maximisation over (spelling, phones) pairs as in grapheme-to-phoneme conversion (Jiampojamarn et al., NAACL
2007); then every word is cut between its vowels, so that the same syllables come back in as many words as possible.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from asr.units import CONTINUES, SPECIAL, UNKNOWN

_END = "</w>"
_MOST_LETTERS = 4  # of one phone: "ough"
_ROUNDS = 4  # of expectation maximisation
_LEARNED_FROM = 6000  # most common pairs
_SMOOTHING = 0.05
_WORST = -30.0  # log-probability per letter of a word that fits no other way
_UNSEEN_SYLLABLE = 0.2  # counts
_VOWELS = frozenset(
    "aa ae ah ao aw ax ay eh er ey ih iy ow oy uh uw a e i o u y".split()
)  # phones; letters without phones

Phones = tuple[str, ...]


@dataclass(frozen=True)
class Syllable:
    """A piece of a word as it was spoken."""

    id: int
    letters: str
    vowel: int  # index of its vowel among the word's phones


class Aligner:
    """Which letters of a word stand for which of its phones."""

    def __init__(self, pairs: Counter[tuple[str, Phones]]) -> None:
        common = sorted(pairs, key=lambda pair: (-pairs[pair], pair))[:_LEARNED_FROM]
        self._scores: dict[tuple[str, Phones], float] = {}
        self._unseen: dict[Phones, float] = {}
        self._memory: dict[tuple[str, Phones], list[tuple[str, int]]] = {}
        for _ in range(_ROUNDS):
            counts: Counter[tuple[str, Phones]] = Counter()
            for word, phones in common:
                at = 0
                for letters, size in self._best(word, phones):
                    counts[letters, phones[at : at + size]] += 1
                    at += size
            totals: Counter[Phones] = Counter()
            for (_, sounds), count in counts.items():
                totals[sounds] += count
            kinds = len(counts)
            self._scores = {
                pair: math.log((count + _SMOOTHING) / (totals[pair[1]] + _SMOOTHING * kinds))
                for pair, count in counts.items()
            }
            self._unseen = {s: math.log(_SMOOTHING / (n + _SMOOTHING * kinds)) for s, n in totals.items()}

    def parts(self, word: str, phones: Phones) -> list[tuple[str, int]]:
        """(letters, number of phones) from left to right; the letters make up the word, the numbers `len(phones)`."""
        key = (word, phones)
        if key not in self._memory:
            self._memory[key] = self._best(word, phones)
        return self._memory[key]

    def _score(self, letters: str, sounds: Phones) -> float:
        prior = -1.5 * (len(letters) - 1) - 4.0 * (len(sounds) - 1)  # one letter, one phone
        if not self._scores:
            return prior
        return self._scores.get((letters, sounds), self._unseen.get(sounds, -9.0) + prior)

    def _best(self, word: str, phones: Phones) -> list[tuple[str, int]]:
        """Viterbi over (letters read, phones heard)."""
        rows, columns = len(word), len(phones)
        best = [[-math.inf] * (columns + 1) for _ in range(rows + 1)]
        back: list[list[tuple[int, int]]] = [[(0, 0)] * (columns + 1) for _ in range(rows + 1)]
        best[0][0] = 0.0
        for i in range(rows):
            for j in range(columns):
                if best[i][j] == -math.inf:
                    continue
                for letters, size in self._steps(rows - i, columns - j):
                    score = best[i][j] + self._score(word[i : i + letters], phones[j : j + size])
                    if score > best[i + letters][j + size]:
                        best[i + letters][j + size] = score
                        back[i + letters][j + size] = (letters, size)
        if best[rows][columns] <= _WORST * rows:  # an abbreviation, a letter's name: one part
            return [(word, columns)]
        found: list[tuple[str, int]] = []
        i, j = rows, columns
        while i:
            letters, size = back[i][j]
            found.append((word[i - letters : i], size))
            i, j = i - letters, j - size
        return found[::-1]

    @staticmethod
    def _steps(letters_left: int, phones_left: int) -> Iterable[tuple[int, int]]:
        yield from ((n, 1) for n in range(1, min(_MOST_LETTERS, letters_left) + 1))
        yield from ((1, n) for n in (2, 3) if n <= phones_left)


class Units:
    """Syllables learned from (spelling, phones) pairs; the same pairs give the same syllables.

    Spelling in normalised letters; in a word without phones every letter counts as one.
    """

    def __init__(self, pairs: Counter[tuple[str, Phones]], least: int = 2) -> None:
        """`least`: how often a syllable must occur to become a piece."""
        self._aligner = Aligner(Counter({pair: count for pair, count in pairs.items() if pair[1]}))
        self._counts: Counter[str] = Counter()
        candidates = {pair: self._cuts(*pair) for pair in pairs}
        for _ in range(_ROUNDS):
            chosen = {pair: self._likeliest(cuts) for pair, cuts in candidates.items()}
            self._counts = Counter()
            for pair, parts in chosen.items():
                for letters, _ in parts:
                    self._counts[letters] += pairs[pair]
        names = sorted(name for name, count in self._counts.items() if count >= least)
        self._ids = {name: i + len(SPECIAL) for i, name in enumerate(names)}
        shown = [n.removesuffix(_END) if n.endswith(_END) else n + CONTINUES for n in names]
        self.tokens: list[str] = [*SPECIAL, *shown, UNKNOWN]
        self.unknown = len(self.tokens) - 1
        self._spoken: dict[tuple[str, Phones], list[Syllable]] = {}

    def encode(self, word: str, phones: Phones = ()) -> list[Syllable]:
        """The syllables of a normalised word; one that was never learned has the id `unknown`."""
        key = (word, phones)
        if key not in self._spoken:
            cuts = self._cuts(word, phones)
            known = [cut for cut in cuts if all(letters in self._ids for letters, _ in cut)]
            self._spoken[key] = [
                Syllable(self._ids.get(letters, self.unknown), letters.removesuffix(_END), vowel)
                for letters, vowel in self._likeliest(known or cuts)
            ]
        return self._spoken[key]

    def _likeliest(self, cuts: list[list[tuple[str, int]]]) -> list[tuple[str, int]]:
        total = sum(self._counts.values()) + 1
        return max(
            cuts, key=lambda cut: sum(math.log((self._counts[name] + _UNSEEN_SYLLABLE) / total) for name, _ in cut)
        )

    def _cuts(self, word: str, phones: Phones) -> list[list[tuple[str, int]]]:
        """All ways to cut a word between its vowels: (letters, index of the vowel's phone) from left to right."""
        parts = self._aligner.parts(word, phones) if phones else [(letter, 1) for letter in word]
        sounds, starts = phones or tuple(word), list(itertools.accumulate((n for _, n in parts), initial=0))
        vowels = [
            next((i for i in range(starts[p], starts[p + 1]) if sounds[i] in _VOWELS), None) for p in range(len(parts))
        ]
        cores = [p for p, vowel in enumerate(vowels) if vowel is not None] or [0]
        found = []
        for cut in itertools.product(*(range(one + 1, two + 1) for one, two in itertools.pairwise(cores))):
            edges = [0, *cut, len(parts)]
            names = ["".join(letters for letters, _ in parts[a:b]) for a, b in itertools.pairwise(edges)]
            names[-1] += _END
            found.append([(name, vowels[core] or 0) for name, core in zip(names, cores, strict=True)])
        return found
