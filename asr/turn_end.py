"""Are these words all that the user wants to say? A logistic regression on the first and the last of them.

Weights and what they were learned from: `assets/turn_end`. Made by `asr/training/turn_end.py`.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from asr.base import RecognizerError

ASSETS = Path(__file__).parent / "assets" / "turn_end"
_NUMBERS = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety".split()
)
_MANY = 9  # words from which it does not matter how many there are


class TurnEnd:
    """The learned judge."""

    def __init__(self, weights: Mapping[str, float], bias: float) -> None:
        self._weights, self._bias = weights, bias

    def __call__(self, text: str) -> float:
        """Log-odds that `text` (lower-case words) is a whole turn; below 0 it is likelier that more comes."""
        return self._bias + sum(self._weights.get(name, 0.0) for name in features(text.split()))

    def knows(self, text: str) -> bool:
        """False when it has seen none of the words: it is another language, or gibberish."""
        return any(name in self._weights for name in features(text.split()) if not name.startswith("count "))


@cache
def bundled() -> TurnEnd:
    """The one that ships. Raises RecognizerError."""
    path = ASSETS / "weights.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return TurnEnd(values["weights"], values["bias"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecognizerError(f"{path} is damaged ({error}); take it from the repository again") from error


def features(words: Sequence[str]) -> list[str]:
    """Names of what is true of the words (at least one)."""
    shown = ["<number>" if word in _NUMBERS else word for word in words]
    third, second, last = ["<s>", "<s>", *shown][-3:]
    first, following = [*shown, "</s>"][:2]
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
        *dict.fromkeys(f"has {word}" for word in shown[:-1]),
    ]
