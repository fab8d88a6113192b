"""Number words: pure functions on complete spans. Spaces, no hyphens, no "and", as the training text has them."""

import re
from functools import lru_cache

from num2words import num2words

from tts.text.tables import CENTS_PLURAL, CURRENCIES, MONTH_NAMES, MONTHS, YEAR_WORDS

_MAX_CARDINAL_DIGITS = 15
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_PARTS = {2: ("half", "halves"), 4: ("quarter", "quarters")}


def _plain(words: str) -> str:
    return words.replace("-", " ").replace(",", "").replace(" and ", " ")


@lru_cache(maxsize=4096)
def cardinal(number: int) -> str:
    """`25` -> "twenty five"."""
    return _plain(num2words(number))


@lru_cache(maxsize=1024)
def ordinal(number: int) -> str:
    """`25` -> "twenty fifth"."""
    return _plain(num2words(number, to="ordinal"))


def digits(text: str) -> str:
    """Digit by digit."""
    return " ".join(_DIGITS[int(char)] for char in text if char.isdigit())


def year(number: int) -> str:
    """`1999` -> "nineteen ninety nine", `2005` -> "two thousand five"."""
    return _plain(num2words(number, to="year"))


def plural(words: str) -> str:
    """`nineteen ninety` -> "nineteen nineties"."""
    return words[:-1] + "ies" if words.endswith("y") else words + ("es" if words.endswith("x") else "s")


def integer(text: str) -> str:
    """A run of digits, thousands commas allowed; codes (leading zero, phone-like length) are read digit by digit."""
    run = text.replace(",", "")
    coded = (len(run) > 1 and run[0] == "0") or (len(run) >= 7 and "," not in text and not run.endswith("00000"))
    return digits(run) if coded or len(run) > _MAX_CARDINAL_DIGITS else cardinal(int(run))


def amount(text: str) -> str:
    """An integer or a decimal."""
    whole, dot, rest = text.partition(".")
    words = integer(whole) if whole else ("zero" if not dot else "")
    return f"{words} point {digits(rest)}".strip() if dot else words


def fraction(top: int, bottom: int) -> str:
    """`3/4` -> "three quarters"; large or odd ones "x over y"."""
    if bottom < 2 or (bottom > 20 and bottom not in (100, 1000)):
        return f"{cardinal(top)} over {cardinal(bottom)}"
    one, many = _PARTS.get(bottom) or (ordinal(bottom), ordinal(bottom) + "s")
    return f"{cardinal(top)} {one if top == 1 else many}"


def clock(text: str) -> str:
    """`3:30` -> "three thirty", `3:05` -> "three oh five", `15:00` -> "fifteen hundred", `3:00` -> "three o'clock"."""
    hour, minute, *second = (int(part) for part in text.split(":"))
    if minute == 0:
        words = f"{cardinal(hour)} o'clock" if 0 < hour <= 12 else f"{cardinal(hour)} hundred"
    else:
        words = f"{cardinal(hour)} {'oh ' if minute < 10 else ''}{cardinal(minute)}"
    return words + (f" and {cardinal(second[0])} seconds" if second else "")


def date(month: int, day: int, of_year: int | None) -> str:
    """Month, day as ordinal, year."""
    words = f"{MONTHS[month - 1]} {ordinal(day)}"
    return words if of_year is None else f"{words}, {year(of_year)}"


def money(text: str, sign: str, scale: str) -> str:
    """`3.50` with "$" -> "three dollars and fifty cents"; `scale` is "" or a word such as "million"."""
    one, many, cent = CURRENCIES[sign]
    whole, dot, rest = text.partition(".")
    if scale:
        return f"{amount(text)} {scale} {many}"
    if dot and len(rest) == 2:
        units, cents = int(whole.replace(",", "") or 0), int(rest)
        cents_words = f"{cardinal(cents)} {cent if cents == 1 else CENTS_PLURAL[cent]}"
        if not units and cents:
            return cents_words
        words = f"{money(whole or '0', sign, '')}"
        return f"{words} and {cents_words}" if cents else words
    if not dot and len(whole) >= 7 and "," not in whole and len(whole) <= _MAX_CARDINAL_DIGITS:
        return f"{cardinal(int(whole))} {many}"
    return f"{amount(text)} {one if text == '1' else many}"


def is_year(text: str, before: str, unit_follows: bool) -> bool:
    """True for four digits that the context makes a year. `before` is the word before, lower case."""
    if not re.fullmatch(r"1[1-9]\d\d|20\d\d", text) or unit_follows:
        return False
    return text >= "1900" or before in YEAR_WORDS or before in MONTH_NAMES


def span(text: str, before: str = "", unit_follows: bool = False) -> str:
    """Words of a run of digits with inner separators (`. , : / - –`). `before` is the word before, lower case."""
    text = text.replace("–", "-")
    if text.isdigit():
        if is_year(text, before, unit_follows):
            return year(int(text))
        if before in MONTH_NAMES and len(text) <= 2 and 1 <= int(text) <= 31:
            return ordinal(int(text))
        return integer(text)
    if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?|\d*\.\d+", text):
        return amount(text)
    if match := re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)", text):
        if 1 <= int(match[2]) <= 12 and 1 <= int(match[3]) <= 31:
            return date(int(match[2]), int(match[3]), int(match[1]))
    elif match := re.fullmatch(r"(\d\d?)/(\d\d?)/(\d{4}|\d\d)", text):
        month, day, of_year = int(match[1]), int(match[2]), int(match[3])
        if month > 12:
            month, day = day, month
        if 1 <= month <= 12 and 1 <= day <= 31:
            return date(month, day, of_year if of_year > 99 else 2000 + of_year)
    elif match := re.fullmatch(r"(\d\d?):([0-5]\d)(:[0-5]\d)?", text):
        if int(match[1]) <= 24:
            return clock(text)
    elif text == "24/7":
        return "twenty four seven"
    elif match := re.fullmatch(r"(\d{1,4})/(\d{1,4})", text):
        return fraction(int(match[1]), int(match[2]))
    elif match := re.fullmatch(r"([\d.,]+)-([\d.,]+)", text):
        if re.fullmatch(r"\d{3}-\d{4}", text):
            return f"{digits(match[1])}, {digits(match[2])}"
        return f"{span(match[1], before, unit_follows)} to {span(match[2], before, unit_follows)}"
    return _parts(text)


def _parts(text: str) -> str:
    """Anything else: phone numbers in groups, versions with "point", ratios with "to", the rest piece by piece."""
    if re.fullmatch(r"\d+(-\d+){2,}", text):
        return ", ".join(digits(part) for part in text.split("-"))
    if re.fullmatch(r"\d+(\.\d+){2,}", text):
        phone = max(len(part) for part in text.split(".")) >= 4
        if phone:
            return ", ".join(digits(part) for part in text.split("."))
        return " point ".join(
            cardinal(int(part)) if len(part) <= 2 and part[0] != "0" else digits(part) for part in text.split(".")
        )
    words = {":": "to", "/": "slash", "-": "to", ".": "point", ",": ","}
    pieces = [words.get(part) or integer(part) for part in re.split(r"([.,:/-])", text) if part]
    return " ".join(pieces).replace(" ,", ",")
