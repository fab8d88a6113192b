"""Numbers in Mandarin: pure functions on complete spans. The characters of whole numbers are cn2an's.

`kind` is what the number is used for: a kind of `mandarin_tables.FOLLOWING`, "U" where a unit is counted, "V" in a
fixed form where 2 is never 两 ("百分之二", "第二"), "" where nothing is known.
"""

import re
from functools import lru_cache

import cn2an

_DIGITS = "零一二三四五六七八九"
_MAX_CARDINAL_DIGITS = 16  # that cn2an takes
_SEVERAL = frozenset("UMYO")  # kinds before which 2 is 两
_CALENDAR = frozenset("DO")
_YEARS = frozenset("YE")
UNKNOWN = frozenset(("", "X"))
_YEAR = r"1[1-9]\d\d|20\d\d"
_AMOUNT = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+")
_CLOCK = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?")
_DATE = re.compile(rf"({_YEAR})([-/.])(0?[1-9]|1[0-2])\2(0?[1-9]|[12]\d|3[01])")
_MONTH = re.compile(rf"({_YEAR})[-/](0[1-9]|1[0-2])")
_PHONE = re.compile(r"(?=(?:-?\d){7})(?:\d+(?:-\d+){2,}|\d{3,4}-\d{7,8})")
_REST = {":": "比", "-": "到", "~": "到", "—": "到", ".": "点"}


@lru_cache(maxsize=4096)
def cardinal(number: int) -> str:
    """`2025` -> "两千零二十五"."""
    return re.sub(r"二(?=千)|^二(?=[万亿])", "两", cn2an.an2cn(number))


def digits(text: str) -> str:
    """Digit by digit."""
    return "".join(_DIGITS[int(char)] for char in text if char.isdigit())


def dialled(text: str) -> str:
    """Digit by digit as on the telephone, where 1 is 幺; groups with a pause between them."""
    return digits(text).replace("一", "幺") if "-" not in text else "，".join(map(dialled, text.split("-")))


def named(text: str) -> str:
    """The number in a name: `15` -> "十五", but `747` -> "七四七"; `2.5` -> "二点五"."""
    short = len(text) <= 2 or text.endswith("00")
    return span(text) if "." in text or (short and text[0] != "0") else digits(text)


def integer(text: str, kind: str = "") -> str:
    """A run of digits; years, codes (leading zero) and phone-like lengths digit by digit."""
    if (kind in _YEARS and re.fullmatch(_YEAR, text)) or (kind == "B" and re.fullmatch(r"\d0", text)):
        return digits(text)
    if kind == "N":
        return named(text)
    if kind in _CALENDAR and len(text) == 2:
        text = text.removeprefix("0")
    if text == "2" and kind in _SEVERAL:
        return "两"
    if kind in UNKNOWN and len(text) >= 7 and not text.endswith("00000"):
        return dialled(text)
    coded = (len(text) > 1 and text[0] == "0") or len(text) > _MAX_CARDINAL_DIGITS
    return digits(text) if coded else cardinal(int(text))


def amount(text: str, kind: str = "") -> str:
    """An integer or a decimal, thousands commas allowed."""
    whole, dot, rest = text.replace(",", "").partition(".")
    counted = kind if not dot and "," not in text else "V"
    return integer(whole, counted) + (f"点{digits(rest)}" if dot else "")


def clock(hour: str, minute: str, second: str | None) -> str:
    """`10:05` -> "十点零五分", `2:00` -> "两点"."""
    words = f"{integer(hour.zfill(2), 'O')}点"
    for value, unit in ((minute, "分"), (second, "秒")):
        if value and (value != "00" or second):
            words += f"{integer(value, 'V') if value != '00' else '零'}{unit}"
    return words


def span(text: str, kind: str = "", minus: bool = False) -> str:
    """A run of digits with inner separators (`. , : / - ~ —`). `minus`: a hyphen subtracts, it is no range."""
    if text.isdigit():
        return integer(text, kind)
    if _AMOUNT.fullmatch(text):
        return amount(text, kind)
    for separator, word in (("~", "到"), ("—", "到"), ("-", "减" if minus else "")):
        if word and text.count(separator) == 1:
            return word.join(span(part, kind) for part in text.split(separator))
    if match := _DATE.fullmatch(text):
        return f"{digits(match[1])}年{cardinal(int(match[3]))}月{cardinal(int(match[4]))}日"
    if match := _CLOCK.fullmatch(text):
        return clock(*match.groups())
    if match := _PHONE.fullmatch(text):
        return dialled(text)
    if re.fullmatch(r"\d+(-\d+){2,}", text):  # 3-2-501, a building, an entrance and a flat
        return "，".join(named(part) for part in text.split("-"))
    if match := _MONTH.fullmatch(text):
        return f"{digits(match[1])}年{cardinal(int(match[2]))}月"
    if text.count("-") == 1:
        years = kind in UNKNOWN and re.fullmatch(rf"({_YEAR})-({_YEAR})", text)
        return "到".join(span(part, "Y" if years else kind) for part in text.split("-"))
    if match := re.fullmatch(r"(\d+)/(\d+)", text):
        return f"{integer(match[2], 'V')}分之{integer(match[1], 'V')}"
    if re.fullmatch(r"\d+(\.\d+){2,}", text):
        return "点".join(named(part) for part in text.split("."))
    return "".join(
        _REST.get(part, "，") if not part.isdigit() else integer(part, kind) for part in re.findall(r"\d+|\D", text)
    )
