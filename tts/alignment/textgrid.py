"""Word and phone times from TextGrid files, as the Montreal Forced Aligner and Praat write them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tts.alignment.durations import MisalignedError

# In the long and the short form alike, what counts are quoted strings, numbers and flags that stand free
_VALUE = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)(-?[\d.]+(?:[eE][-+]?\d+)?)(?!\S)')
_SILENCES = frozenset(("", "sil", "sp", "<eps>", "<sil>", "<p:>", "<s>", "</s>"))


@dataclass(frozen=True, slots=True)
class Alignment:
    """When each word and phone of a recording is spoken, in seconds."""

    words: Sequence[tuple[str, float, float]]  # (word, start, end), silences left out
    phones: Sequence[tuple[str, float]] = ()  # (phone, end), contiguous from 0, silences included


def read_textgrid(path: Path) -> Alignment:
    """Read the tiers `words` (or `word`, or the only one) and, where there is one, `phones`. Raises MisalignedError."""
    try:
        tiers = dict(_tiers(_text(path)))
    except FileNotFoundError:
        raise MisalignedError(f"there is no alignment {path.name}") from None
    except (OSError, ValueError, IndexError, StopIteration, RuntimeError):
        raise MisalignedError(f"{path.name} is not a whole TextGrid") from None
    words = _named(tiers, "words", "word", "characters")
    words = next(iter(tiers.values())) if words is None and len(tiers) == 1 else words
    if words is None:
        raise MisalignedError(f"{path.name} has no tier 'words', but {', '.join(tiers) or 'none'}")
    phones = _named(tiers, "phones", "phone") or []
    return Alignment(
        [(text, start, end) for start, end, text in words if text.lower() not in _SILENCES],
        [(text, end) for _, end, text in phones],
    )


def _text(path: Path) -> str:
    data = path.read_bytes()
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def _tiers(text: str) -> Iterator[tuple[str, list[tuple[float, float, str]]]]:
    """(name, intervals) of every interval tier."""
    found = ((match[1], match[2]) for match in _VALUE.finditer(text))
    values = iter([quoted.replace('""', '"') if not number else float(number) for quoted, number in found])
    if (next(values), next(values)) != ("ooTextFile", "TextGrid"):
        raise ValueError("another kind of file")
    next(values), next(values)
    for _ in range(int(next(values))):
        kind, name = next(values), str(next(values)).strip()
        next(values), next(values)
        size = int(next(values))
        if kind == "IntervalTier":
            yield name, [(float(next(values)), float(next(values)), str(next(values)).strip()) for _ in range(size)]
        else:
            for _ in range(2 * size):
                next(values)


def _named(tiers: dict[str, list[tuple[float, float, str]]], *names: str) -> list[tuple[float, float, str]] | None:
    """The tier of one of the names; with several speakers the first one's ("ann - words")."""
    for title, intervals in tiers.items():
        if title.lower().rpartition(" - ")[2] in names:
            return intervals
    return None
