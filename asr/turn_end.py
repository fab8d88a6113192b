"""Are these words all that the user wants to say? A logistic regression on the first and the last of them, and on their shape:
the words that carry no meaning of their own, with the others only hinted at. The shape tells of phrasings never seen before.

Weights and what they were learned from: `assets/turn_end`. Made by `asr/training/turn_end.py`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from asr.base import RecognizerError

ASSETS = Path(__file__).parent / "assets" / "turn_end"
_NUMBERS = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety".split()
)
_FUNCTION = frozenset(
    "a an the this that these those my your his her its our their some any every each no another other one "
    "i you he she it we they me him us them who whom whose which what when where why how "
    "is are was were am be been being do does did have has had having can could will would shall should may might must "
    "let lets of in on at to from by with for about into over under after before between through during without up down "
    "out off than as like and or but so because if then while although not please just only very too really also still "
    "yet there here now today tomorrow yesterday more most many much few less least tell say know think want need make "
    "give get go take see i'm you're it's that's what's i'd i'll i've don't doesn't isn't can't uh um er".split()
)
_ENDINGS = ("ing", "ed", "ly", "est", "er", "s")  # by which the other words are told apart
_STEM = 2  # letters before an ending, at least one more
_MANY = 9  # words from which it does not matter how many there are


class TurnEnd:
    """The learned judge."""

    def __init__(self, weights: Mapping[str, float], bias: float) -> None:
        self._weights, self._bias = weights, bias

    def __call__(self, text: str) -> float:
        """Log-odds that `text` (lower-case words) is a whole turn; below 0 it is likelier that more comes."""
        return self._bias + sum(self._weights.get(name, 0.0) for name in features(text.split()))

    def knows(self, text: str) -> bool:
        """False when it knows none of the words: it is another language, or gibberish."""
        words = text.split()
        own = (name for name in features(words) if not name.startswith(("count ", "shape ")))
        return not _FUNCTION.isdisjoint(words) or any(name in self._weights for name in own)


@cache
def bundled() -> TurnEnd:
    """The one that ships. Raises RecognizerError."""
    path = ASSETS / "weights.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        weights, bias = values["weights"], values["bias"]
        if values["kind"] != "turn_end" or not all(map(math.isfinite, (bias, *weights.values()))):
            raise ValueError("not the weights of a judge of turn ends")
        return TurnEnd(weights, bias)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecognizerError(f"{path} is damaged ({error}); take it from the repository again") from error


def features(words: Sequence[str]) -> list[str]:
    """Names of what is true of the words (at least one)."""
    shown = ["<number>" if word in _NUMBERS else word for word in words]
    third, second, last = ["<s>", "<s>", *shown][-3:]
    first, following = [*shown, "</s>"][:2]
    d, c, b, a = ["<s>", "<s>", "<s>", *map(_shape, shown)][-4:]
    begin, then = [*map(_shape, shown), "</s>"][:2]
    return [
        f"1 {last}",
        f"2 {second} {last}",
        f"3 {third} {second} {last}",
        f"skip {third} {last}",
        f"suffix {last[-3:]}",
        f"count {min(len(shown), _MANY)}",
        f"first {first}",
        f"first {first} {following}",
        f"ends {first} {last}",
        f"shape {b} {a}",
        f"shape {c} {b} {a}",
        f"shape {d} {c} {b} {a}",
        f"shape {begin} .. {a}",
        f"shape {begin} {then} .. {b} {a}",
        *dict.fromkeys(f"has {word}" for word in shown[:-1]),
    ]


def _shape(word: str) -> str:
    """A word that only joins others as it is, any other by its ending."""
    if word in _FUNCTION or word == "<number>":
        return word
    return next(("-" + end for end in _ENDINGS if word.endswith(end) and len(word) > len(end) + _STEM), "*")
