"""Reads the texts of the dialogues: `ways.txt` (what users say, by name) and `settled.txt` (with settled replies)."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Settled:
    """Ways to say it (a template of alternatives) and its replies, the most frequent first."""

    weight: float
    ways: str
    replies: tuple[str, ...]


@cache
def settled(kind: str) -> tuple[Settled, ...]:
    """The intents of a kind: `statement`, `question` or `fact`."""
    found = []
    for head, below in _parts("settled.txt"):
        name, weight = head.split()
        if name == kind:
            replies = tuple(line.removeprefix("> ") for line in below if line.startswith("> "))
            found.append(Settled(float(weight), "|".join(line for line in below if not line.startswith("> ")), replies))
    return tuple(found)


def ways(name: str) -> str:
    """The template of all ways to say something."""
    return "|".join(lines(name))


def lines(name: str) -> tuple[str, ...]:
    """The lines of a name."""
    return _all_lines()[name]


@cache
def _all_lines() -> dict[str, tuple[str, ...]]:
    return {head: tuple(below) for head, below in _parts("ways.txt")}


def _parts(name: str) -> list[tuple[str, list[str]]]:
    text = (_FOLDER / name).read_text(encoding="utf-8")
    parts = [part.strip().splitlines() for part in text.split("\n== ")[1:]]
    return [(part[0], part[1:]) for part in parts]
