"""What a single character is: folding to plain Latin, letters, pause marks, names of scripts."""

import re
import unicodedata
from functools import lru_cache

from anyascii import anyascii

PAUSES = frozenset(".,?!")
SPACES = frozenset(" \t\n")
_QUOTES = {**dict.fromkeys("’‘‛ʼ′´", "'"), **dict.fromkeys("“”„‟″«»‹›「」『』", '"')}
_LIKE = {**_QUOTES, **dict.fromkeys("−‐‑﹣", "-"), **dict.fromkeys("。｡", "."), "、": ",",
         "\r": " ", "\v": "\n", "\f": "\n", "\u2028": "\n", "\u2029": "\n", "\u0085": "\n", "‒": "–", "―": "—"}  # fmt: skip
# Letters of scripts that write no spaces stand alone: kana, han
ALONE = r"\u3041-\u30fa\u30fc-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_GREEK = "GREEK SMALL LETTER ", "GREEK CAPITAL LETTER "


def after_a_sentence(text: str) -> str:
    """How a sentence is written behind another one: after a space, but for scripts that write none."""
    return text if re.match(f"[{ALONE}]", text) else f" {text}"


@lru_cache(maxsize=8192)
def fold(char: str) -> str:
    """The plain character that stands for `char`, one for one: no accents, full width or typography."""
    if char.isascii() and char not in "\r\v\f":
        return char
    if char in _LIKE:
        return _LIKE[char]
    category = unicodedata.category(char)
    if category == "Zs":
        return " "
    if category == "Nd":
        return str(unicodedata.decimal(char))
    plain = unicodedata.normalize("NFKC", char)
    if category != "No" and len(plain) == 1 and plain.isascii() and plain.isprintable():
        return plain
    if char.isalpha() and unicodedata.name(char, "").startswith("LATIN"):
        latin = anyascii(char)
        return latin if len(latin) == 1 and latin.isalpha() else char
    return char


@lru_cache(maxsize=8192)
def latin(char: str) -> str:
    """The Latin letters of a folded letter ("ß" -> "ss"); "" when it is no letter that we can speak."""
    if char.isascii():
        return char if char.isalpha() else ""
    if char.isalpha() and unicodedata.name(char, "").startswith("LATIN"):
        letters = anyascii(char)
        return letters if letters.isalpha() and letters.isascii() else ""
    return ""


@lru_cache(maxsize=1024)
def greek(char: str) -> str:
    """The name of a Greek letter ("alpha"), else ""."""
    name = unicodedata.name(char, "") if len(char) == 1 else ""
    for prefix in _GREEK:
        if name.startswith(prefix):
            return name.removeprefix(prefix).split()[0].lower().replace("lamda", "lambda")
    return "mu" if char == "µ" else ""


def is_upper(char: str) -> bool:
    """True for A to Z."""
    return len(char) == 1 and "A" <= char <= "Z"


def is_digit(char: str) -> bool:
    """True for 0 to 9."""
    return len(char) == 1 and "0" <= char <= "9"


def is_word(char: str) -> bool:
    """True for a digit or a letter that we can speak."""
    return char != "" and (is_digit(char) or bool(latin(char)))


@lru_cache(maxsize=8192)
def unspoken(char: str) -> str:
    """The rule by which a character without a spoken form is dropped."""
    category = unicodedata.category(char)
    if category[0] in "LN":
        return f"script {unicodedata.name(char, 'unknown').split()[0].lower()}"
    if category[0] == "M" or category in ("So", "Sk", "Cf"):
        return "mark" if category in ("Mn", "Mc") and not "\ufe00" <= char <= "\ufe0f" else "emoji"
    return "control" if category[0] == "C" else "symbol"
