"""Reads a text that is still arriving: looks ahead as far as it has come, commits pieces that never change."""

from collections.abc import Callable
from typing import NamedTuple

from tts.text import tables
from tts.text.characters import PAUSES, is_upper, is_word, latin

HORIZON = 64  # characters
BEHIND = 16  # characters that are known of what was written before
_ENDS = PAUSES | frozenset("。，！？；：、…")


class More(Exception):
    """The rule needs a character that has not arrived."""


class Piece(NamedTuple):
    """Source characters [start, end) and what is spoken for them; `rule` names why nothing is."""

    text: str
    start: int
    end: int
    rule: str = ""


class Scanner:
    """The characters of one text, what is committed of them, and what has been spoken so far."""

    def __init__(self, language: str, folded: Callable[[str], str]) -> None:
        self._language, self._folded = language, folded
        self._raw = self._text = ""  # from the first uncommitted character on; `_text` is folded
        self._i = 0  # next character in them
        self._base = 0  # source index of their first character
        self._closed = False
        self._out: list[Piece] = []
        self._dropped: list[tuple[str, list[str]]] = []
        self._dropped_to = -1
        self._prev = ""  # source character before the next one, folded
        self._before = ""  # the last spoken characters as written (folded), white space as one space
        self._last = ""  # last spoken character
        self._word = ""  # last word as written, "" at a sentence start
        self._number = False  # the last content was a number
        self._gap = -1  # where uncommitted white space begins
        self._space = False  # the next content needs a space although the source has none there
        self._newlines = 0  # line breaks since the last content
        self._marked = False  # a list marker or the like stood since then
        self._sentence_start = True
        self._ellipsis = False
        self._indent = True  # in the white space or the markers that begin a line

    def feed(self, text: str) -> list[Piece]:
        """Take the next characters; return what is decided."""
        self._raw = self._raw[self._i :] + text
        self._text = self._text[self._i :] + "".join(map(self._folded, text))
        self._base += self._i
        self._i = 0
        return self._run()

    def close(self) -> list[Piece]:
        """The text is complete: decide the rest."""
        self._closed = True
        pieces = self._run()
        self._drop_gap()
        pieces += self._out
        self._out = []
        return pieces

    @property
    def dropped(self) -> list[tuple[str, str]]:
        """What is not spoken: (rule, source text), neighbours of the same rule joined. White space is not listed."""
        return [(rule, "".join(parts)) for rule, parts in self._dropped]

    @property
    def held(self) -> str:
        """Source characters that wait for their context."""
        return self._raw[self._i :]

    def _run(self) -> list[Piece]:
        size = len(self._text)
        while self._i < size:
            try:
                self._step(self._text[self._i])
            except More:
                break
        out, self._out = self._out, []
        return out

    def _step(self, char: str) -> None:
        """Commit at least one character, beginning with `char`, or raise More with nothing committed."""
        raise NotImplementedError

    # --- looking ahead

    def _at(self, k: int) -> str:
        """The character `k` after the next one, "" past the end. Raises More when it has not arrived."""
        if k >= HORIZON:
            return ""
        if self._i + k < len(self._text):
            return self._text[self._i + k]
        if self._closed:
            return ""
        raise More

    def _find(self, table: tables.Trie, k: int = 0) -> tuple[str, str, int] | None:
        """The longest key of the table at `k`, not inside a longer word: kind, word, number of characters."""
        node, best, length = table, None, 0
        while True:
            value = node.get("")
            if isinstance(value, str):
                inside = k + length > 0 and is_word(self._at(k + length - 1)) and is_word(self._at(k + length))
                best = best if inside else (value[:1], value[1:], length)
            if len(node) == (value is not None):
                return best
            child = node.get(self._at(k + length))
            if not isinstance(child, dict):
                return best
            node, length = child, length + 1

    def _ends_sentence(self, k: int) -> bool:
        """True when what precedes `k` is the last of its sentence: the end, a line break or a capital follows."""
        char = self._at(k)
        if char == " ":
            char = self._at(k + 1)
            return char in ("", "\n") or is_upper(char)
        return char in ("", "\n")

    # --- committing

    def _put(self, text: str, size: int, rule: str = "") -> None:
        """Commit `size` characters as `text`."""
        start = self._base + self._i
        if rule:
            source = self._raw[self._i : self._i + size]
            if self._dropped and self._dropped[-1][0] == rule and self._dropped_to == start:
                self._dropped[-1][1].append(source)
            else:
                self._dropped.append((rule, [source]))
            self._dropped_to = start + size
        self._out.append(Piece(text, start, start + size, rule))
        written = self._text[self._i : self._i + size]
        if size:
            self._prev = written[-1]
            self._i += size
        if text:
            self._before = (self._before + written)[-BEHIND:]
            self._last = text[-1]

    def _drop_gap(self) -> None:
        if self._gap >= 0:
            self._out.append(Piece("", self._gap, self._base + self._i, "space"))
            self._gap = -1
            self._space = True

    def _drop(self, size: int, rule: str, marker: bool = False) -> None:
        """Commit characters that are not spoken."""
        self._drop_gap()
        self._put("", size, rule)
        self._indent = self._indent and marker
        self._marked = self._marked or marker

    def _open(self, lower: bool) -> None:
        """Commit what stands between the last content and the next: line-break pause and space."""
        here, start = self._base + self._i, self._gap
        soft = self._newlines == 1 and lower and not self._marked  # a wrapped line, not a new paragraph
        if self._newlines and not soft and self._last and self._last not in _ENDS:
            mark = "." if self._last.isascii() else "。"
            self._out.append(Piece(mark, start if start >= 0 else here, here))
            self._last, start, self._gap = mark, -1, -1
            self._space = self._space or mark == "."
            self._sentence_start, self._word = True, ""
        if not self._last:
            self._drop_gap()
        elif start >= 0:
            self._out.append(Piece(" ", start, here))
        elif self._space or (self._last in PAUSES and self._language == "en"):
            self._out.append(Piece(" ", here, here))
        self._gap, self._space, self._newlines, self._marked, self._indent = -1, False, 0, False, False
        self._ellipsis = False

    def _flow(self, size: int) -> None:
        """Speak letters as they are."""
        first = self._text[self._i]
        self._open(first.islower())
        letters = self._text[self._i : self._i + size]
        self._put(letters if letters.isascii() else "".join(map(latin, letters)), size)
        self._word += letters
        self._number = self._sentence_start = False

    def _say(self, words: str, size: int, number: bool = False) -> None:
        """Speak other words than the written ones."""
        if not words:
            return self._drop(size, "symbol")
        if self._gap < 0:
            self._space = True
        self._open(False)
        if self._sentence_start:
            words = words[0].upper() + words[1:]
        self._word = "" if number else self._text[self._i : self._i + size]
        self._put(words, size)
        self._space, self._number, self._sentence_start = True, number, False
        return None

    def _pause(self, mark: str, size: int) -> None:
        """Speak a pause mark, unless one was spoken already."""
        mark = "." if self._newlines and mark == "," else mark
        self._drop_gap()
        if not self._last or self._last in PAUSES:
            self._put("", size, "punctuation")
        else:
            self._put(mark, size)
            if mark != ",":
                self._sentence_start, self._word = True, ""
        self._space, self._indent, self._newlines, self._ellipsis = True, False, 0, False
