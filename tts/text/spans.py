"""A number as written, with its sign, currency and unit. Reads through a look-ahead function."""

import re
from collections.abc import Callable
from typing import NamedTuple

from tts.text import tables
from tts.text.characters import SPACES, is_digit
from tts.text.number_words import cardinal, fraction, integer, money, ordinal, plural, span

_SEPARATORS = frozenset(".,:/-–")
_MAX_CORE = 48  # characters; a longer run of digits is read in parts

At = Callable[[int], str]
Found = tuple[str, str, int] | None
Find = Callable[[tables.Trie, int], Found]


class NumberSpan(NamedTuple):
    """`size` source characters and their words; `mark` is a pause for the character after them."""

    words: str
    size: int
    mark: str = ""


def read_number(at: At, find: Find, before: str, ends_sentence: Callable[[int], bool], line_start: bool) -> NumberSpan:
    """Read the number at 0. `before`: the word before, lower case; `line_start`: only markers stand before it."""
    k, sign, currency = 0, "", ""
    if at(k) in frozenset("+-"):
        sign, k = ("minus " if at(k) == "-" else "plus "), k + 1
    if at(k) in tables.CURRENCIES:
        currency, k = at(k), k + 1
    core = core_at(at, k, _SEPARATORS)
    k += len(core)
    listed = line_start and not sign and not currency and core.isdigit() and len(core) <= 3
    if listed and at(k) in frozenset(".)") and at(k + 1) in SPACES:
        return NumberSpan(cardinal(int(core)), k, ",")
    if currency:
        return _money(at, find, k, core, sign, currency)
    mixed = core.isdigit() and at(k) == " " and is_digit(at(k + 1)) and at(k + 2) == "/" and is_digit(at(k + 3))
    if mixed and not is_digit(at(k + 4)) and at(k + 4) != "/":
        part = fraction(int(at(k + 1)), int(at(k + 3))).replace("one half", "a half")
        return NumberSpan(f"{sign}{integer(core)} and {part}", k + 4)
    attached = find(tables.SUFFIXES, k)
    if at(k) in tables.CURRENCIES and not is_digit(at(k + 1)):
        return NumberSpan(sign + _sum(core, at(k), ""), k + 1)
    if attached:
        return _suffix(at, attached, core, sign, before, k, ends_sentence)
    if at(k) == " ":
        found = find(tables.NEXT_WORDS, k + 1)
        if found and found[0] == "C" and not is_digit(at(k + 2)):
            return NumberSpan(sign + _sum(core, found[1], ""), k + 2)
        if found and (found[0] == "U" or (found[0] == "H" and _is_hour(core))):
            return _suffix(at, found, core, sign, before, k + 1, ends_sentence)
    return NumberSpan(sign + span(core, before), k)


def core_at(at: At, start: int, separators: frozenset[str]) -> str:
    """The digits at `start` and the separators between digits."""
    core = ""
    while len(core) < _MAX_CORE:
        char = at(start + len(core))
        if not is_digit(char):
            if char not in separators or not is_digit(at(start + len(core) + 1)):
                break
            if char == "," and not _thousands(at, start + len(core) + 1, core):
                break
        core += char
    return core


def _thousands(at: At, k: int, core: str) -> bool:
    """True when the comma before `k` groups thousands: up to three digits before it, exactly three after it."""
    head = re.split("[-–~—]", core)[-1]
    if "." in head or not 1 <= len(head.split(",")[-1]) <= 3 or head.startswith("0"):
        return False
    return all(is_digit(at(k + n)) for n in range(3)) and not is_digit(at(k + 3))


def _is_hour(core: str) -> bool:
    return ":" in core or (core.isdigit() and len(core) <= 2 and 1 <= int(core) <= 12)


def _sum(core: str, currency: str, scale: str) -> str:
    """Money, or a range of it."""
    if core.replace(",", "").replace(".", "", 1).isdigit():
        return money(core, currency, scale)
    many = tables.CURRENCIES[currency][1]
    return f"{span(core, '', True)} {scale} {many}" if scale else f"{span(core, '', True)} {many}"


def _money(at: At, find: Find, k: int, core: str, sign: str, currency: str) -> NumberSpan:
    scale = find(tables.MONEY_SCALES, k)
    if scale is None and at(k) == " ":
        scale = find(tables.MONEY_WORDS, k + 1)
        k += scale is not None
    if scale is None:
        return NumberSpan(sign + _sum(core, currency, ""), k)
    return NumberSpan(sign + _sum(core, currency, scale[1]), k + scale[2])


def _suffix(
    at: At, found: tuple[str, str, int], core: str, sign: str, before: str, k: int, ends_sentence: Callable[[int], bool]
) -> NumberSpan:
    """A number with an ordinal ending, half of the day, or unit at `k`."""
    kind, word, size = found
    if kind == "O":
        words = ordinal(int(core)) if core.isdigit() and len(core) <= 15 else span(core, before)
        return NumberSpan(sign + words, k + size)
    if kind == "H":
        hour = span(core, "", True).removesuffix(" o'clock")
        dotted = size in (3, 4) and ends_sentence(k + size)
        if dotted and size == 4:  # the last dot of "p.m." also ends the sentence
            return NumberSpan(f"{hour} {word}", k + size - 1, ".")
        return NumberSpan(f"{hour} {word}", k + size)
    one, _, many = word.partition("|")
    if one == "second" and size == 1 and core.isdigit() and core[-1] == "0" and (len(core) == 2 or len(core) == 4):
        return NumberSpan(plural(span(core, "in")), k + size)  # "1990s", "80s"
    words = span(core, "", True)
    if word[-1].isalpha() and at(k + size) == "." and not ends_sentence(k + size + 1):
        size += 1  # "5 ft. tall"
    return NumberSpan(f"{sign}{words} {one if core == '1' else many}", k + size)
