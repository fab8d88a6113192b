"""Words from word pieces: a beam search over the recogniser's posteriors with a word n-gram language model.

Paraformer names every piece by itself, so that pieces side by side may not make a word. The search adds to their
log-probabilities those of the words that they make (shallow fusion), less a share of the pieces' own prior, which the
recogniser has learned from its transcripts and the language model knows better (Variani et al., arXiv 2003.07705,
section 2.3: the density ratio with a unigram prior). A piece may be skipped at a cost: integrate-and-fire sometimes fires twice.
"""

import heapq
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from asr.base import RecognizerError
from asr.units import CONTINUES, SPECIAL, UNKNOWN, normalise

EN_US = "en-us"  # the trigram model that comes with pocketsphinx: 72 000 words
_ORDER = 3
_START, _END = "<s>", "</s>"
_SMOOTHING = 8.0  # counts: how rare a piece really is cannot be told from few
_LEAST = -12.0  # log-probability of a piece below which it is not considered


class WordModel(Protocol):
    """Log-probabilities of words."""

    words: frozenset[str]

    def log_probability(self, word: str, before: tuple[str, ...]) -> float:
        """Natural logarithm of P(word | the words before, oldest first); at most two of them count."""
        ...


class TrigramModel:
    """A language model that comes with pocketsphinx, by name."""

    def __init__(self, name: str = EN_US) -> None:
        """Raises RecognizerError: pocketsphinx or the model is not there."""
        try:
            from pocketsphinx import Config, LogMath, NGramModel, get_model_path

            folder = Path(get_model_path()) / name
            log_math = LogMath()
            self._model = NGramModel(Config(), log_math, str(folder / f"{name}.lm.bin"))
            spelled = (folder / f"cmudict-{name}.dict").read_text(encoding="utf-8").splitlines()
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            raise RecognizerError(
                f"the recogniser's language model {name!r} cannot be loaded ({error}); install pocketsphinx, "
                "or set asr.word_search=false"
            ) from error
        self._base = math.log(1.0001)  # of pocketsphinx's logarithms
        unknown = self._model.prob([UNKNOWN])
        listed = {line.split(" ", 1)[0].partition("(")[0] for line in spelled}
        self.words = frozenset(w for w in listed if w == normalise(w) and self._model.prob([w]) > unknown)
        self.log_probability = lru_cache(maxsize=200_000)(self._log_probability)

    def _log_probability(self, word: str, before: tuple[str, ...]) -> float:
        return float(self._model.prob([word, *before[::-1]])) * self._base


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How pieces and words are weighed; natural logarithms."""

    weight: float = 0.35  # of the language model
    prior_weight: float = 0.55  # of the pieces' prior, which is taken away
    word_bonus: float = 1.0  # per word: without it a language model likes few words
    unknown_word: float = -25.0  # the language model's log-probability of a word that it does not know
    skipped: float = -6.0  # cost of skipping a piece
    beam: int = 16
    candidates: int = 16  # pieces considered at each place


class _State(NamedTuple):
    """What the future depends on."""

    before: tuple[str, ...]  # the last two whole words
    begun: str  # letters of the word that is being made


class Hypothesis(NamedTuple):
    """What FunASR expects of a beam search."""

    yseq: list[int]
    score: float


class WordSearch:
    """Takes the place of FunASR's own `beam_search` in its Paraformer."""

    def __init__(
        self,
        pieces: Sequence[str],
        model: WordModel,
        config: SearchConfig | None = None,
        counts: Sequence[int] | None = None,
    ) -> None:
        """`pieces`: the recogniser's vocabulary; `counts`: how often each was in the training transcripts, for the prior."""
        self._pieces, self._model, self._config = list(pieces), model, config or SearchConfig()
        self._silent = {i for i, piece in enumerate(pieces) if piece in (*SPECIAL, UNKNOWN)}
        self._begins = frozenset(word[:size] for word in model.words for size in range(1, len(word)))
        self._prior = torch.zeros(len(self._pieces))
        if counts is not None:
            smoothed = torch.tensor(counts, dtype=torch.float32) + _SMOOTHING
            self._prior = self._config.prior_weight * (smoothed / smoothed.sum()).log()

    def __call__(self, am_scores: torch.Tensor, **_: Any) -> list[Hypothesis]:
        """The best sequence of pieces for their log-probabilities, float32 (L, vocabulary), between two end marks."""
        score, ids = self.best(am_scores.float().cpu())
        return [Hypothesis([1, *ids, 2], score)]

    def best(self, scores_LV: torch.Tensor) -> tuple[float, list[int]]:
        """Score and ids of the best sequence; `scores_LV`: log-probabilities of the pieces, float32 (L, V), on the CPU."""
        config = self._config
        beam: dict[_State, tuple[float, tuple[int, ...]]] = {_State((_START,), ""): (0.0, ())}
        likeliest = scores_LV.topk(min(config.candidates, scores_LV.shape[1]), dim=1)
        for values, places in zip(likeliest.values, likeliest.indices, strict=True):
            weighed = (values - self._prior[places]).tolist()
            heard = [
                (i, weight)
                for i, weight, value in zip(places.tolist(), weighed, values.tolist(), strict=True)
                if value > _LEAST and i not in self._silent
            ]
            found: dict[_State, tuple[float, tuple[int, ...]]] = {}
            for state, (score, ids) in beam.items():
                _keep(found, state, score + config.skipped, ids)
                for i, weight in heard:
                    following, gain = self._follow(state, self._pieces[i])
                    _keep(found, following, score + weight + gain, (*ids, i))
            beam = dict(heapq.nlargest(config.beam, found.items(), key=lambda item: item[1][0]))
        return max((score + self._end(state), list(ids)) for state, (score, ids) in beam.items())

    def _follow(self, state: _State, piece: str) -> tuple[_State, float]:
        """The state after a piece, and what the language model gives. A word is unknown once no word begins like it."""
        config, before, begun = self._config, *state
        possible = not begun or begun in self._begins
        unknown = config.weight * config.unknown_word if possible else 0.0
        if piece.endswith(CONTINUES):
            letters = begun + piece.removesuffix(CONTINUES)
            return _State(before, letters), 0.0 if letters in self._begins else unknown
        word = begun + piece
        gain = config.weight * self._model.log_probability(word, before) if word in self._model.words else unknown
        return _State((*before, word)[1 - _ORDER :], ""), gain + config.word_bonus

    def _end(self, state: _State) -> float:
        """What the language model gives for the end; a word that was only begun is unknown."""
        broken = self._config.unknown_word if state.begun in self._begins else 0.0
        return self._config.weight * (self._model.log_probability(_END, state.before) + broken)


def _keep(
    found: dict[_State, tuple[float, tuple[int, ...]]], state: _State, score: float, ids: tuple[int, ...]
) -> None:
    """Of two ways into the same state the better one."""
    if state not in found or score > found[state][0]:
        found[state] = (score, ids)


FILE = "search.json"  # in a recogniser's folder: how its pieces become words; without it the likeliest pieces are taken


def load_search(folder: Path, pieces: Sequence[str]) -> WordSearch | None:
    """The search that a recogniser's folder asks for, or None. Raises RecognizerError."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        name, counts = values.pop("language_model"), values.pop("counts", None)
        unknown = set(values) - {field.name for field in fields(SearchConfig)}
        if unknown:
            raise ValueError(f"unknown keys {', '.join(sorted(unknown))}")
        if counts is not None and len(counts) != len(pieces):
            raise ValueError(f"{len(counts)} counts for {len(pieces)} pieces")
        config = SearchConfig(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecognizerError(f"{path} is damaged: {error}") from error
    return WordSearch(pieces, TrigramModel(name), config, counts)
