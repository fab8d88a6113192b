"""Written text to spoken text, character by character.

`Lexer.feed` returns pieces that tile the source: each says which source characters it covers and what is spoken for
them ("" with the name of a rule when nothing is). A rule looks ahead through `_at`, which interrupts the rule when the
character has not arrived; nothing is committed before a rule has seen all it needs. So the pieces depend on the text
alone, never on how it was cut, and what was returned never changes.

What is held (at most `HORIZON` characters; a longer span is read as if the text ended there):
word     what may become an abbreviation, an acronym or an address ("Dr", "e", "U"): until a character excludes it
number   digits with their separators, sign, currency, and the unit after them: until the next word has begun
mark     ". : ) - ' ` #" and other signs that depend on what follows: one or two characters
Everything else flows at once; code blocks, link targets and address paths are dropped as they arrive, without a hold.
"""

import re
from collections.abc import Callable

from tts.text import mandarin, tables
from tts.text.characters import ALONE, SPACES, fold, greek, is_digit, is_upper, is_word, latin, unspoken
from tts.text.number_words import cardinal, digits
from tts.text.scanner import Scanner
from tts.text.spans import NumberSpan, read_number

_CLOSING = frozenset(".,;:!?)]}*_\"'…")
_DASHES = frozenset("-–—")
_BULLETS = frozenset("•·▪◦‣●○■□∙")
_MARKERS = frozenset("-+*>|=:") | _BULLETS  # may stand before the text of a line
_ALONE = re.compile(f"[{ALONE}]")


def _nothing(*_: object) -> None:
    return None


# How characters are folded, and what reads numbers where the rest passes as it is
_LANGUAGES: dict[str, tuple[Callable[[str], str], mandarin.Reader]] = {
    "en": (fold, _nothing),
    "none": (str, _nothing),
    "zh": (mandarin.fold, mandarin.read),
}


class Lexer(Scanner):
    """The spoken form of one text.

    `language`: "en"; "none", where all but markdown, emoji and line breaks passes as it is; or "zh", where numbers and
    the signs between them are spoken in Mandarin, and the rest passes so.
    """

    def __init__(self, language: str = "en") -> None:
        folded, self._read = _LANGUAGES[language]
        super().__init__(language, folded)
        self._swallow = ""  # what is dropped as it arrives: "code", "link", "address path"
        self._address = False

    def _step(self, char: str) -> None:
        if self._swallow and self._swallowed(char):
            return None
        if char in SPACES:
            return self._white(char)
        if self._indent and self._line_marker(char):
            return None
        if self._language != "en":
            return self._plain(char)
        if self._address and self._in_address(char):
            return None
        if latin(char):
            inside = self._gap < 0 and latin(self._prev) and not self._space
            return self._flow(self._letters()) if inside or self._address else self._begin_word(char)
        if self._numeric(char):
            return self._read_number()
        return self._sign(char)

    def _letters(self) -> int:
        end = self._i
        while end < len(self._text) and latin(self._text[end]):
            end += 1
        return end - self._i

    def _white(self, char: str) -> None:
        if self._gap < 0:
            self._gap = self._base + self._i
        self._before = self._before.rstrip() + " "
        if char == "\n":
            self._newlines += 1
            self._indent = True
        self._address = False
        self._prev = char
        self._i += 1

    def _swallowed(self, char: str) -> bool:
        """Drop what is inside a code block, a link target or an address path; False when it ends before `char`."""
        rule = self._swallow
        if rule == "code":
            if char == "`" and self._at(1) == "`" and self._at(2) == "`":
                self._swallow = ""
                self._drop(3, rule)
                self._newlines += 1
            else:
                self._drop(1, rule)
            return True
        ends = char == "\n" if rule == "link" else char in SPACES or char in frozenset('"<>)]')
        ends = ends or (rule == "address path" and char in frozenset(".,;:!?") and not is_word(self._at(1)))
        if ends:
            self._swallow = ""
            return False
        self._drop(1, rule)
        if rule == "link" and char == ")":
            self._swallow = ""
        return True

    def _line_marker(self, char: str) -> bool:
        """Drop the heading, list, quote, table and rule signs that begin a line."""
        if char == "#":
            marker = self._at(1) in ("#", " ")
        elif char == "[":
            marker = self._at(1) in (" ", "x", "X") and self._at(2) == "]"
        elif char in _MARKERS:
            follows = self._at(1)
            marker = char in _BULLETS or char in frozenset(">|") or follows in ("", " ", "\n", "|", char)
            marker = marker or (char == "-" and follows == ":") or (char == "*" and not is_digit(follows))
            if char == ":" and marker:
                marker = self._marked
        else:
            return False
        if marker:
            self._drop(3 if char == "[" else 1, "markdown", marker=True)
        return marker

    def _plain(self, char: str) -> None:
        """Everything but markdown, emoji and what the language's reader takes is spoken as it is."""
        if self._markdown(char):
            return None
        read = self._read(self._at, self._find, self._before, self._indent)
        if read is None and unspoken(char) in ("emoji", "control"):
            return self._drop(1, unspoken(char))
        words, size, number = read or (self._raw[self._i], 1, False)
        if self._number != number and _ALONE.match(self._last) and _ALONE.match(words) and not self._newlines:
            self._drop_gap()  # "有 3 个": no space between the characters of a number and their neighbours
        if self._gap < 0 and not self._newlines:
            self._space = False
        self._open(char.islower())
        self._put(words, size)
        self._number = number
        return None

    def _markdown(self, char: str) -> bool:
        """Inline markdown: code, emphasis, links, images, table bars."""
        if char == "`":
            if self._at(1) == "`" and self._at(2) == "`":
                if self._language == "en":
                    self._newlines = max(1, self._newlines)
                    self._say("code block omitted", 3)
                    self._newlines += 1
                else:
                    self._drop(3, "code")
                self._swallow = "code"
            else:
                self._drop(1, "markdown")
        elif char == "*":
            if (is_digit(self._prev) and is_digit(self._at(1))) or (
                self._gap >= 0 and self._number and self._at(1) == " " and is_digit(self._at(2))
            ):
                return False
            self._drop(1, "markdown")
        elif char == "]" and self._at(1) == "(":
            self._drop(2, "link")
            self._swallow = "link"
        elif char in frozenset("[]"):
            size = 1
            while char == "[" and is_digit(self._at(size)) and size < 4:
                size += 1
            citation = size > 1 and self._at(size) == "]" and self._at(size + 1) != "("
            self._drop(size + 1 if citation else 1, "citation" if citation else "bracket")
        elif char == "|":
            if self._at(1) in ("", "\n"):
                self._drop(1, "markdown", marker=True)
            else:
                self._pause(",", 1)
        else:
            return False
        return True

    def _in_address(self, char: str) -> bool:
        """Inside an address: signs by name; what follows the host is dropped."""
        if is_word(char):
            return False
        if char in frozenset("/?#"):
            self._swallow, self._address = "address path", False
            self._drop(1, self._swallow)
            return True
        word = {".": "dot", "-": "dash", "_": "underscore", "@": "at", ":": "colon"}.get(char)
        if word and is_word(self._at(1)):
            self._say(word, 1)
            return True
        self._address = False
        return False

    def _begin_word(self, char: str) -> None:
        """The first letter of a word: abbreviation, capitals, address, or a word that flows."""
        found = self._find(tables.WORDS)
        before = self._word
        if found and self._abbreviation(*found):
            return None
        capitals = 1
        while is_upper(char) and is_upper(self._at(capitals)):
            capitals += 1
        if capitals > 1:
            return self._capitals(capitals)
        if is_upper(char) and self._at(1) == ".":
            size = 2
            while is_upper(self._at(size)) and self._at(size + 1) == ".":
                size += 2
            if is_upper(self._at(size)) and not is_word(self._at(size + 1)) and size > 2:
                size += 1
            letters = [self._text[self._i + k] for k in range(0, size, 2)]
            if len(letters) > 1:
                dotted = self._at(size - 1) == "."
                ends = dotted and self._at(size) in ("", "\n")
                self._say(" ".join(letters), size - ends)
                return self._pause(".", 1) if ends else None
            name = before.lower() not in tables.LETTERED
            if name and char != "I" and self._at(2) == " " and is_upper(self._at(3)):
                return self._say(char, 2)
        self._word = ""
        return self._flow(self._letters())

    def _abbreviation(self, kind: str, word: str, size: int) -> bool:
        """Speak an entry of the word table; False when the context says that it is an ordinary word."""
        if kind == "E":
            self._drop(size, "emoticon")
        elif kind == "U":
            self._address = True
            self._drop(size, "address")
        elif kind == "T":
            self._say(word, size)
        elif kind == "S":
            street = is_upper(self._word[:1])
            ends = street and self._ends_sentence(size)
            self._say("Street" if street else "Saint", size - ends)
            if ends:
                self._pause(".", 1)
        elif kind == "C":
            ends = self._text[self._i + size - 1] == "." and self._ends_sentence(size)
            self._say(word, size - ends)
            if ends:
                self._pause(".", 1)
        else:
            skip = self._at(size) == " "
            if not is_digit(self._at(size + skip)):
                return False
            self._say(word, size)
            self._word = word
        return True

    def _capitals(self, size: int) -> None:
        """A run of capitals: letters, a word written loud, a Roman numeral, or a name such as NVidia."""
        run, follows = self._text[self._i : self._i + size], self._at(size)
        plural = follows == "s" and not is_word(self._at(size + 1))
        if latin(follows) and not plural:
            self._word = ""
            return self._flow(self._letters())
        if run in tables.ROMAN and is_upper(self._word[:1]):
            return self._say(cardinal(tables.ROMAN[run]), size)
        if run in tables.ACRONYM_WORDS:
            self._word = ""
            return self._flow(size)
        if run in tables.SHOUTED or size > 5:
            return self._say(run.lower(), size)
        return self._say(" ".join(run) + ("'s" if plural else ""), size + plural)

    def _numeric(self, char: str) -> bool:
        """True when a number begins here."""
        k = 0
        if char in frozenset("+-") and not is_word(self._prev) and self._prev != ")":
            k = 1
        elif is_digit(char):
            return True
        elif not (char in tables.CURRENCIES or (char == "." and not is_word(self._prev))):
            return False
        if self._at(k) in tables.CURRENCIES:
            k += 1
        return is_digit(self._at(k)) or (self._at(k) == "." and is_digit(self._at(k + 1)))

    def _read_number(self) -> None:
        span: NumberSpan = read_number(self._at, self._find, self._word.lower(), self._ends_sentence, self._indent)
        self._say(span.words, span.size, number=True)
        if span.mark:
            self._pause(span.mark, 1)

    def _sign(self, char: str) -> None:
        """Everything that is neither letter nor number."""
        fresh = not is_word(self._prev)
        if fresh and (found := self._find(tables.FACES)):
            return self._drop(found[2], "emoticon")
        if self._markdown(char):
            return None
        if char in frozenset(",?") or (char == "!" and not fresh):
            return self._pause(char, 1)
        if char == "!" and self._at(1) == "[":
            return self._drop(1, "markdown")
        if char in frozenset("._…'#(<>~^*") or char in _DASHES:
            if self._marks(char, fresh):
                return None
        elif char in frozenset(":;"):
            return self._pause("." if char == ":" and self._at(1) in ("\n", "") else ",", 1)
        elif char == ")":
            follows = self._at(1)
            if follows in _CLOSING or follows in ("", "\n"):
                return self._drop(1, "bracket")
            return self._pause(",", 1)
        if found := self._find(tables.SIGNS):
            return self._say(found[1], found[2])
        if char == "!":
            return self._pause(char, 1)
        if name := greek(char):
            alone = not greek(self._prev) and not greek(self._at(1))
            return self._say(name, 1) if alone else self._drop(1, "script greek")
        return self._drop(1, "bracket" if char in frozenset("[]{}()") else "quote" if char == '"' else unspoken(char))

    def _marks(self, char: str, fresh: bool) -> bool:
        """Marks whose reading depends on both sides; False when the table of signs shall decide."""
        follows = self._at(1)
        if char == "." or char == "…":
            if not fresh and char == "." and (is_digit(follows) or follows.islower()):
                self._say("dot", 1)
            elif follows in (".", "…"):
                self._drop(1, "ellipsis")
                self._ellipsis = True
            elif self._ellipsis or char == "…":
                self._pause("." if self._ends_sentence(1) else ",", 1)
            else:
                self._pause(".", 1)
        elif char == "'":
            if not fresh and latin(follows):
                self._space = False
                self._put("'", 1)
            else:
                self._drop(1, "quote")
        elif char in _DASHES:
            return self._dash(char, follows, fresh)
        elif char == "_":
            self._drop(1, "separator" if not fresh and is_word(follows) else "markdown")
            self._space = self._space or (not fresh and is_word(follows))
        elif char == "#":
            word = "number" if is_digit(follows) else "hashtag" if latin(follows) else "" if fresh else "sharp"
            self._say(word, 1)
        elif char == "(":
            if all(is_digit(self._at(k)) for k in (1, 2, 3)) and self._at(4) == ")":
                skip = 5 + (self._at(5) == " ")
                if is_digit(self._at(skip)):
                    self._say(digits(self._text[self._i + 1 : self._i + 4]), 4, number=True)
                    self._pause(",", skip - 4)
                    return True
            if self._gap >= 0 or self._newlines:
                self._pause(",", 1)
            else:
                self._drop(1, "bracket")
                self._space = True
        elif char == "<" and (latin(follows) or follows in frozenset("/|!")):
            size = 2
            while self._at(size) not in (">", ""):
                size += 1
            if self._at(size) != ">":
                return False
            self._drop(size + 1, "tag")
            self._space = True
        elif char in frozenset("<>"):
            if self._find(tables.SIGNS):
                return False
            spoken = char == "<" or (self._last and (follows == " " or is_digit(follows)))
            self._say(("less than" if char == "<" else "greater than") if spoken else "", 1)
        elif char == "~":
            self._say("about" if is_digit(follows) else "", 1)
        elif char == "^":
            self._say("to the power of" if not fresh and (is_word(follows) or follows in ("(", "{")) else "", 1)
        else:
            self._say("times", 1)
        return True

    def _dash(self, char: str, follows: str, fresh: bool) -> bool:
        """Hyphen, minus or a dash between clauses."""
        if char == "-" and follows in ("-", ">") and self._find(tables.SIGNS):
            return False
        if char == "-" and not fresh and follows != "-":
            if follows in tables.CURRENCIES and self._number:
                self._say("to", 1)
            else:
                self._drop(1, "hyphen")
                self._space = True
        elif self._number and self._gap >= 0 and follows == " " and is_digit(self._at(2)):
            self._say("minus" if char == "-" else "to", 1)
        else:
            self._pause(",", 1)
        return True
