"""Numbers and the signs around them in Mandarin text, read through a look-ahead function."""

import re
from collections.abc import Callable
from typing import NamedTuple

from tts.text import mandarin_tables as tables
from tts.text.characters import ALONE, is_digit, latin
from tts.text.mandarin_words import UNKNOWN, dialled, named, span
from tts.text.spans import At, Find, core_at

_SEPARATORS = frozenset(".,:/-~—")
_SCALES = frozenset("百千万亿")
_RANGES = frozenset("-~—")
_NAME = re.compile(r"(?:^|[^A-Za-z0-9._/-])[A-Za-z][A-Za-z0-9._/-]*$")
_PRODUCT = re.compile(r"[A-Za-z] $")
_QUANTITY = re.compile(rf"\d[万亿]?[A-Za-z%‰°℃℉²³㎡/]*[{tables.TAIL}]*$")
_PRICED = re.compile(rf"[{''.join(tables.CURRENCY_SIGNS)}][\d.,]+$|\d[万亿]?(?:[A-Za-z]+|[{tables.TAIL}]+)$")
_JOINING = frozenset("到至或、")
_CALCULATED = frozenset("=+×÷")  # after "5-3": it is a difference, no range
_MOBILE = re.compile(r"1[3-9]\d|[48]00")
_BASE = re.compile(r"[\dA-Za-z)）]$")
_OPERAND = re.compile(rf"[\dA-Za-z)）%²³{tables.TAIL}]$")
_ALONE = re.compile(f"[{ALONE}]")
_COMPOUND = frozenset("-=<>+~")  # behind one of these a sign is a part of an arrow or the like
_AT_TIME = re.compile(r":\d\d$")
_DIALLED = re.compile(rf"(?:{tables.DIALLED})[是为: ]*$")


class Reading(NamedTuple):
    """`size` source characters and their words; `number` is False for a sign between numbers."""

    words: str
    size: int
    number: bool = True


Reader = Callable[[At, Find, str, bool], Reading | None]


def fold(char: str) -> str:
    """The plain sign for one that is written in numbers, one for one."""
    return tables.FOLDED.get(char, char)


def read(at: At, find: Find, before: str, line_start: bool) -> Reading | None:
    """Read the number or the sign of arithmetic at 0; None when neither begins there.

    `before`: the last characters written before it, white space as one space; `line_start`: only markers are.
    """
    if is_digit(at(0)):
        return _listed(at) if line_start and _is_listed(at) else _number(at, find, before)
    if not latin(before[-1:]) and (found := find(tables.MONEY, 0)):
        k = found[2] + (at(found[2]) == " ")
        if is_digit(at(k)):
            return _money(at, k, found[1])
    return _sign(at, find, before)


def _is_listed(at: At) -> bool:
    k = 1
    while is_digit(at(k)) and k < 3:
        k += 1
    return (
        at(k) in (".", ")", "）") and at(k + 1) not in ("", "\n") and not (at(k + 1).isascii() and at(k + 1).isalnum())
    )


def _listed(at: At) -> Reading:
    """`2. ` or `2)` before an item of a list."""
    text = ""
    while is_digit(at(len(text))):
        text += at(len(text))
    size = len(text) + 1
    return Reading(f"{span(text)}、", size + (at(size) == " "))


def _money(at: At, start: int, pattern: str) -> Reading:
    """The sum at `start`, behind the sign of its currency."""
    core = core_at(at, start, _SEPARATORS)
    scale = _scale(at, start + len(core))
    size = start + len(core) + len(scale)
    if at(size) == "元":
        pattern = pattern.replace("#元", "#")  # "¥100元"
    core = re.sub(r"\.00$|(?<=\.\d)0$", "", core)
    return Reading(pattern.replace("#", span(core, "U") + scale), size)


def _number(at: At, find: Find, before: str) -> Reading:
    """The number at 0, with the unit that is written in Latin letters or signs."""
    if _NAME.search(before):
        core = core_at(at, 0, frozenset("."))
        return Reading(named(core), len(core))
    core = core_at(at, 0, _SEPARATORS)
    size = len(core)
    if _MOBILE.fullmatch(core) and (rest := _groups(at, size)):
        return Reading(dialled(core + rest), size + len(rest))
    scale = _scale(at, size)
    end = size + len(scale)
    gap = at(end) == " "
    if unit := find(tables.NEXT_UNITS if gap else tables.NUMBER_UNITS, end + gap):
        pattern = unit[1]
        words = span(core, "U" if pattern[0] == "#" else "V") + scale
        return Reading(pattern.replace("#", words), end + gap + unit[2])
    if core.isdigit() and latin(at(size)):  # 1080p, 5G
        return Reading(named(core), size)
    if core.isdigit() and (part := _part(at, size)):
        return Reading(f"{span(core, 'V')}又{span(part)}", size + 1 + len(part))
    if before.rstrip().endswith("第"):
        return Reading(span(core, "V"), size)
    kind = _counted(at, find, size)
    if kind in UNKNOWN and core.isdigit() and size >= 3:
        if _DIALLED.search(before):
            return Reading(dialled(core), size)
        if _PRODUCT.search(before):
            return Reading(named(core), size)
    after = at(size + (at(size) == " ")) if "-" in core else ""
    return Reading(span(core, kind, minus=after in _CALCULATED), size)


def _scale(at: At, k: int) -> str:
    scale = ""
    while len(scale) < 4 and at(k + len(scale)) in _SCALES:
        scale += at(k + len(scale))
    return scale


def _part(at: At, k: int) -> str:
    """The fraction behind a whole number ("1 1/2") that ends at `k`, else ""."""
    if at(k) != " " or not is_digit(at(k + 1)) or at(k + 2) != "/":
        return ""
    part = core_at(at, k + 1, _SEPARATORS)
    return part if re.fullmatch(r"\d/\d\d?", part) else ""


def _counted(at: At, find: Find, k: int) -> str:
    """The kind of what follows a number that ends at `k`, or follows the one that it is joined with ("2到3个")."""
    if at(k) in _JOINING and is_digit(at(k + 1)):
        k += 1
        while is_digit(at(k)):
            k += 1
    found = find(tables.FOLLOWING, k + (at(k) == " "))
    return found[0] if found else ""


def _groups(at: At, k: int) -> str:
    """The rest of a telephone number written as "138 1234 5678", with "-" for its spaces; else ""."""
    for i, char in enumerate(" 0000 0000"):
        if at(k + i) != " " if char == " " else not is_digit(at(k + i)):
            return ""
    return "" if is_digit(at(k + 10)) else "".join(at(k + i) for i in range(10)).replace(" ", "-")


def _begins(at: At, k: int) -> bool:
    """True when a number begins at `k`, signed or of money."""
    k += at(k) in ("-", "+")
    k += at(k) in tables.CURRENCY_SIGNS
    return is_digit(at(k))


def _sign(at: At, find: Find, before: str) -> Reading | None:
    """The sign at 0 where it belongs to a number."""
    char = at(0)
    if char in _RANGES and (word := _range(at, before)):
        return Reading(word, 1, number=word == "负")
    if char in tables.OPERATORS and _operates(at, before):
        return Reading(tables.OPERATORS[char], 1, number=False)
    if char in tables.POWERS and _BASE.search(before):
        return Reading(tables.POWERS[char], 1)
    if char == "^" and _BASE.search(before):
        minus = "-" if at(1) == "-" else ""
        power = core_at(at, 1 + len(minus), frozenset())
        return Reading(f"的{minus and '负'}{span(power)}次方", 1 + len(minus) + len(power)) if power else None
    if char == "/" and _PRICED.search(before) and _ALONE.match(at(1)):
        return Reading("每", 1, number=False)
    if before[-1:] not in _COMPOUND and (found := find(tables.SIGNS, 0)):
        size = found[2]
        if _begins(at, size) or (char not in "+~" and at(size) == " " and _begins(at, size + 1)):
            return Reading(found[1], size, number=False)
    return None


def _operates(at: At, before: str) -> bool:
    """True when the sign at 0 stands between what is calculated, with a space on both sides or on none; "=" may ask."""
    equals, gap = at(0) == "=", at(1) == " "
    if not _OPERAND.search(before.rstrip()) or not (equals or gap == before.endswith(" ")):
        return False
    return _begins(at, 1 + gap) or (equals and at(1 + gap) in ("?", "？"))


def _range(at: At, before: str) -> str:
    """The word for a dash or a tilde: 到, 减 or 负; "" when it is none of these."""
    char, left = at(0), before.rstrip()
    if before.endswith(" ") and at(1) == " ":
        if not _QUANTITY.search(left) or not _begins(at, 2):
            return ""
        return "减" if char == "-" and is_digit(left[-1]) and not _AT_TIME.search(left) else "到"
    if not _begins(at, 1) or _NAME.search(before):
        return ""
    if _QUANTITY.search(before):
        return "到"
    return "负" if char == "-" and at(1) not in ("-", "+") else ""
