"""Words for what is written in signs: abbreviations, units, symbols, emoticons. Data only, plus the trie that reads it."""

from collections.abc import Mapping

Trie = dict[str, "Trie | str"]  # one character -> rest of the key; "" -> the value of the key that ends here


def trie(table: Mapping[str, str]) -> Trie:
    """Turn a table into a trie, so that a reader needs no character beyond the one that decides."""
    root: Trie = {}
    for key, value in table.items():
        node = root
        for char in key:
            child = node.setdefault(char, {})
            assert isinstance(child, dict)
            node = child
        node[""] = value
    return root


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
MONTH_SHORT = {name[:3]: name for name in MONTHS if name != "May"} | {"Sept": "September"}
MONTH_NAMES = frozenset(name.lower() for name in MONTHS)

# Titles and the like: the dot belongs to the word and ends no sentence.
TITLES = {
    "Dr.": "Doctor", "Mr.": "Mister", "Mrs.": "Missus", "Ms.": "Miz", "Prof.": "Professor", "Gov.": "Governor",
    "Gen.": "General", "Sen.": "Senator", "Rep.": "Representative", "Rev.": "Reverend", "Capt.": "Captain",
    "Lt.": "Lieutenant",
    "Col.": "Colonel", "Sgt.": "Sergeant", "Mt.": "Mount", "Ft.": "Fort", "e.g.": "for example", "i.e.": "that is",
    "E.g.": "For example", "I.e.": "That is", "vs.": "versus", "approx.": "approximately", "Approx.": "Approximately",
    "cf.": "compare", "dept.": "department", "Dept.": "Department", "Ph.D.": "P H D", "PhD": "P H D",
    "vs": "versus", "Dr": "Doctor",
    "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "OK": "okay", "w/o": "without", "w/": "with",
}  # fmt: skip
# Their dot may end the sentence as well: it does at the end, at a line break and before a capital.
CLOSERS = {
    "etc.": "et cetera", "etc": "et cetera", "Inc.": "Incorporated", "Ltd.": "Limited", "Corp.": "Corporation",
    "Co.": "Company",
    "Jr.": "Junior", "Sr.": "Senior", "a.m.": "A M", "p.m.": "P M", "A.M.": "A M", "P.M.": "P M",
    "et al.": "and others",
    "Ave.": "Avenue", "Blvd.": "Boulevard", "Rd.": "Road", "Hwy.": "Highway", "B.C.": "B C", "A.D.": "A D",
}  # fmt: skip
# Only before a number; otherwise the word is itself.
BEFORE_NUMBER = {"No.": "number", "no.": "number", "Nos.": "numbers", "Fig.": "figure", "fig.": "figure",
"Vol.": "volume",
                 "vol.": "volume", "Ch.": "chapter", "ch.": "chapter", "p.": "page", "pp.": "pages",
                 "Sec.": "section"}  # fmt: skip
BEFORE_NUMBER |= {f"{short}.": name for short, name in MONTH_SHORT.items()} | MONTH_SHORT

DAY_HALF = {"am": "A M", "pm": "P M", "AM": "A M", "PM": "P M", "a.m.": "A M", "p.m.": "P M", "A.M.": "A M",
"P.M.": "P M",
            "a.m": "A M", "p.m": "P M"}  # fmt: skip

CURRENCIES = {"$": ("dollar", "dollars", "cent"), "€": ("euro", "euros", "cent"), "£": ("pound", "pounds", "penny"),
              "¥": ("yen", "yen", "sen"), "₹": ("rupee", "rupees", "paisa"), "₽": ("rouble", "roubles", "kopek"),
              "₩": ("won", "won", "jeon"), "₿": ("bitcoin", "bitcoins", "cent")}  # fmt: skip
CENTS_PLURAL = {"cent": "cents", "penny": "pence", "sen": "sen", "paisa": "paise", "kopek": "kopeks", "jeon": "jeon"}
SCALES = {"k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million", "b": "billion",
"B": "billion",
          "bn": "billion", "T": "trillion", "tn": "trillion", "thousand": "thousand", "million": "million",
          "billion": "billion", "trillion": "trillion"}  # fmt: skip

# Unit -> "singular|plural".
UNITS = {
    "km": "kilometer|kilometers", "m": "meter|meters", "cm": "centimeter|centimeters", "mm": "millimeter|millimeters",
    "nm": "nanometer|nanometers", "mi": "mile|miles", "ft": "foot|feet", "yd": "yard|yards", "kg": "kilogram|kilograms",
    "g": "gram|grams", "mg": "milligram|milligrams", "lb": "pound|pounds", "lbs": "pound|pounds", "oz": "ounce|ounces",
    "L": "liter|liters", "ml": "milliliter|milliliters", "mL": "milliliter|milliliters", "B": "byte|bytes",
    "KB": "kilobyte|kilobytes", "kB": "kilobyte|kilobytes", "MB": "megabyte|megabytes", "GB": "gigabyte|gigabytes",
    "TB": "terabyte|terabytes", "KiB": "kibibyte|kibibytes", "MiB": "mebibyte|mebibytes", "GiB": "gibibyte|gibibytes",
    "Mbps": "megabit per second|megabits per second", "Gbps": "gigabit per second|gigabits per second",
    "Hz": "hertz|hertz",
    "kHz": "kilohertz|kilohertz", "MHz": "megahertz|megahertz", "GHz": "gigahertz|gigahertz", "W": "watt|watts",
    "kW": "kilowatt|kilowatts", "MW": "megawatt|megawatts", "kWh": "kilowatt hour|kilowatt hours", "V": "volt|volts",
    "mV": "millivolt|millivolts", "mA": "milliamp|milliamps", "dB": "decibel|decibels",
    "ms": "millisecond|milliseconds",
    "min": "minute|minutes", "mins": "minute|minutes", "sec": "second|seconds", "secs": "second|seconds",
    "hr": "hour|hours",
    "hrs": "hour|hours", "mph": "mile per hour|miles per hour", "kph": "kilometer per hour|kilometers per hour",
    "km/h": "kilometer per hour|kilometers per hour", "m/s": "meter per second|meters per second",
    "px": "pixel|pixels", "fps": "frame per second|frames per second", "kcal": "kilocalorie|kilocalories",
    "°C": "degree Celsius|degrees Celsius", "°F": "degree Fahrenheit|degrees Fahrenheit", "°": "degree|degrees",
    "° C": "degree Celsius|degrees Celsius", "° F": "degree Fahrenheit|degrees Fahrenheit",
    "km²": "square kilometer|square kilometers", "m²": "square meter|square meters", "m³": "cubic meter|cubic meters",
    "µs": "microsecond|microseconds", "μs": "microsecond|microseconds", "µm": "micrometer|micrometers",
    "%": "percent|percent", "‰": "per mille|per mille",
}  # fmt: skip
# Written onto the number only: with a space before they are words of their own.
ATTACHED = {"s": "second|seconds", "h": "hour|hours", "l": "liter|liters", "in": "inch|inches", "x": "times|times",
"A": "amp|amps",
            "k": "thousand|thousand", "K": "thousand|thousand", "M": "million|million",
            "bn": "billion|billion"}  # fmt: skip

# Runs of signs. Spoken with a space on both sides.
SYMBOLS = {
    "&": "and", "&amp;": "and", "&nbsp;": "", "&quot;": "", "&lt;": "less than", "&gt;": "greater than",
    "&#39;": "", "@": "at",
    "+": "plus", "=": "equals", "==": "equals", "===": "equals", "!=": "does not equal", "<=": "less than or equal to",
    ">=": "greater than or equal to", "->": "to", "-->": "to", "=>": "to", "<-": "from", "→": "to", "⇒": "to",
    "←": "from",
    "↔": "to", "%": "percent", "/": "slash", "×": "times", "÷": "divided by", "±": "plus or minus", "≈": "about",
    "≠": "does not equal",
    "≤": "less than or equal to", "≥": "greater than or equal to", "√": "square root of", "∞": "infinity",
    "°": "degrees",
    "²": "squared", "³": "cubed", "½": "one half", "¼": "one quarter", "¾": "three quarters", "⅓": "one third",
    "⅔": "two thirds",
    "§": "section", "№": "number", "°C": "degrees Celsius", "°F": "degrees Fahrenheit", "∑": "sum of",
    "∫": "integral of",
    "∆": "delta", "¢": "cents", "€": "euros", "£": "pounds", "¥": "yen",
}  # fmt: skip

EMOTICONS = (
    ":)", ":-)", ":(", ":-(", ":D", ":-D", ";)", ";-)", ":P", ":-P", ":p", ":-p", ":/", ":-/", ":o", ":O", ":-O",
    ":3", ":|", ":*",
    ":'(", ":')", "<3", "</3", "xD", "XD", "=)", "=D", "=(", "^_^", "^^", "-_-", ">_<", "o_O", "O_o", "T_T", ";_;",
    "¯\\_(ツ)_/¯",
    "\\o/", "(:",
)  # fmt: skip

# Capital runs that are read as a word, and short words that are only shouted.
ACRONYM_WORDS = _words(
    """
    AIDS ASAP ASCII BERT COVID CUDA DAX FAQ FIFA GAN GIF JPEG LAN LASER LORA MIDI NAFTA NAND NASA NATO OPEC PIN
    RADAR RAM ROM SCUBA SIM SONAR SWAT UNESCO UNICEF WAN
    """
)
SHOUTED = _words(
    """
    ALL AND ANY ARE ASK BAD BE BIG BUT BUY BY CAN COLD DAY DID DO DON DONE DOWN EACH END EVEN EVER EVERY FAST FEW
    FIND FIRST FOR FREE FROM FULL GET GIVE GO GOOD GOT GREAT HAD HAPPY HAS HATE HAVE HE HELLO HELP HER HERE HEY HI
    HIGH HIM HIS HOT HOW IF IN INTO IS ITS JUST KEEP KNOW LAST LESS LET LIKE LITTLE LONG LOOK LOT LOVE LOW MAKE MANY
    MAY ME MORE MOST MUCH MUST MY NEED NEVER NEW NEXT NICE NO NONE NOT NOTE NOW OF OFF OFTEN OLD ON ONCE ONE ONLY
    OPEN OR OTHER OUR OUT OVER PLEASE PUT READ REAL RED RIGHT RUN SAD SAFE SAME SAY SEE SHE SHOULD SIX SO SOME SOON
    SORRY STILL STOP SUCH SURE TAKE TEN TEXT THAN THANK THAT THE THEIR THEM THEN THERE THESE THEY THING THIS THOSE
    TIME TIPS TO TODAY TOO TRUE TRY TWO UNTIL UP USE VERY WAIT WANT WAS WAY WE WELL WENT WERE WHAT WHEN WHERE WHICH
    WHO WHY WILL WITH WORD WORK WOW WRONG YEAR YES YET YOU YOUR ZERO
    """
)
ROMAN = {"II": 2, "III": 3, "IV": 4, "VI": 6, "VII": 7, "VIII": 8, "IX": 9, "XI": 11, "XII": 12, "XIII": 13, "XIV": 14, "XV": 15,
         "XVI": 16, "XVII": 17, "XVIII": 18, "XIX": 19, "XX": 20, "XXI": 21}  # fmt: skip
YEAR_WORDS = _words(
    """
    ad after and around autumn before between by circa during early fall from in late mid of since spring summer the
    till to until winter year
    """
)
# A capital after these is a letter and its dot ends the sentence; elsewhere it is the initial of a name.
LETTERED = _words(
    """
    a an answer appendix choice class column exhibit gate grade group hepatitis letter option or part plan point
    room row section size step team terminal the type vitamin
    """
)

# value = kind + word; kinds: T title, C closer, N before a number, U address that begins here, E emoticon
WORDS = trie(
    {key: f"T{word}" for key, word in TITLES.items()}
    | {key: f"C{word}" for key, word in CLOSERS.items()}
    | {key: f"N{word}" for key, word in BEFORE_NUMBER.items()}
    | dict.fromkeys(
        ("http://", "https://", "www.", "http://www.", "https://www.", "HTTP://", "HTTPS://", "ftp://"), "U"
    )
    | {key: "E" for key in EMOTICONS if key[0].isalpha()}
    | {"St.": "S"}
)
SIGNS = trie({key: f"S{word}" for key, word in SYMBOLS.items()})
FACES = trie({key: "E" for key in EMOTICONS if not key[0].isalnum()})
SUFFIXES = trie(
    {key: f"U{word}" for key, word in (UNITS | ATTACHED).items()}
    | {key: f"H{word}" for key, word in DAY_HALF.items()}
    | dict.fromkeys(("st", "nd", "rd", "th", "ST", "ND", "RD", "TH"), "O")
)
NEXT_WORDS = trie(
    {key: f"U{word}" for key, word in UNITS.items()}
    | {key: f"H{word}" for key, word in DAY_HALF.items()}
    | {sign: f"C{sign}" for sign in CURRENCIES}
)
MONEY_SCALES = trie({key: f"M{word}" for key, word in SCALES.items()})
MONEY_WORDS = trie({word: f"M{word}" for word in ("thousand", "million", "billion", "trillion")})
