"""Spoken form of a token stream: language model tokens in, the synthesiser's tokens out, with their owners."""

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from tts.text.characters import PAUSES, after_a_sentence
from tts.text.lexer import Lexer
from tts.text.scanner import Piece

Encode = Callable[[str], list[tuple[int, str]]]
_PARTS = re.compile(r" ?[A-Za-z0-9'\u00c0-\u024f]+|[\s\S]")


@dataclass(frozen=True, slots=True)
class SpokenToken:
    """One text token to speak.

    `owner` is the last language model token that is completely voiced once this token has been voiced (-1: none yet).
    It never falls: after speaking it `owner + 1` language model tokens are voiced. A passed token owns itself; of the
    tokens that replace a span ("$25" -> "twenty five dollars") the last owns the span's end, the earlier ones carry the
    owner from before the span. Dropped tokens (markdown, emoji) count with the next spoken one; nothing owns those
    at the very end, which are over when the text is.
    """

    id: int
    text: str
    owner: int


@dataclass(frozen=True, slots=True)
class _Source:
    """A language model token with text, and the ids without text before it (bytes of an unfinished character)."""

    index: int
    ids: tuple[int, ...]
    text: str
    start: int  # source characters
    end: int


class SpokenStream:
    """Spoken form of one reply, committed monotonically: what was returned never changes, however the text was cut.

    `encode` splits text into (id, text) of the synthesiser's vocabulary, a word with its leading space at a time.
    `share_ids`: pushed ids are of that vocabulary, and a token whose text is spoken as it stands keeps its id.
    `later`: the text follows a sentence of a prompt, so that its first word is encoded with a space before it.
    """

    def __init__(self, encode: Encode, *, share_ids: bool = True, language: str = "en", later: bool = False) -> None:
        self._encode, self._share_ids, self._later = encode, share_ids, later
        self._lexer = Lexer(language)
        self._sources: deque[_Source] = deque()  # not yet voiced to their end
        self._pieces: deque[Piece] = deque()  # decided but not yet returned
        self._waiting: list[int] = []  # ids without text
        self._num_chars = 0
        self._num_pushed = 0
        self._owner = -1
        self._at = 0  # source characters returned
        self._carry = ""  # spoken text before `_at` that waits for the rest of its word

    def push(self, token_id: int, text: str) -> list[SpokenToken]:
        """Take one language model token; return what can be spoken now."""
        self._waiting.append(token_id)
        self._num_pushed += 1
        if not text:
            return []
        end = self._num_chars + len(text)
        self._sources.append(_Source(self._num_pushed - 1, tuple(self._waiting), text, self._num_chars, end))
        self._waiting, self._num_chars = [], end
        self._pieces += self._lexer.feed(text)
        return self._take(final=False)

    def finish(self) -> list[SpokenToken]:
        """The text is complete: return the rest."""
        self._pieces += self._lexer.close()
        return self._take(final=True)

    @property
    def num_pushed(self) -> int:
        """Language model tokens taken so far."""
        return self._num_pushed

    @property
    def held(self) -> str:
        """Source text that waits for its context (at most `HORIZON` characters)."""
        return self._lexer.held

    @property
    def dropped(self) -> list[tuple[str, str]]:
        """What is not spoken: (rule, source text)."""
        return self._lexer.dropped

    def _take(self, final: bool) -> list[SpokenToken]:
        spoken = self._take_tokens(final) if self._share_ids else self._take_words()
        if final and self._carry.strip():
            spoken += self._speak(self._carry, self._at)
            self._carry = ""
        if self._later and spoken:
            self._later = False
            spoken[:1] = self._follow(spoken[0])
        return spoken

    def _follow(self, first: SpokenToken) -> list[SpokenToken]:
        """The first token as it is behind a sentence; its text stays without the space."""
        pairs = self._encode(after_a_sentence(first.text)) if first.text.strip() == first.text != "" else []
        if not pairs:
            return [first]
        tokens = [SpokenToken(i, text, -1) for i, text in pairs]
        tokens[0] = replace(tokens[0], text=tokens[0].text.lstrip())
        tokens[-1] = replace(tokens[-1], owner=first.owner)
        return tokens

    def _take_tokens(self, final: bool) -> list[SpokenToken]:
        """Return decided text token by token of the language model."""
        spoken: list[SpokenToken] = []
        while self._pieces:
            source, text, end = self._sources[0], self._carry, self._at
            group: list[Piece] = []
            while self._pieces and end < source.end:
                piece = self._cut(self._pieces.popleft(), source)
                group.append(piece)
                text, end = text + piece.text, piece.end
            whole = end >= source.end
            if not whole and not final and source.text.startswith(text):
                self._pieces.extendleft(reversed(group))
                break  # the rest of the token is not decided: it may yet pass as it is
            word = text.rstrip()
            self._carry = text[len(word) :]  # a space goes to the word after it
            if whole and word and text == source.text and self._at == source.start:
                spoken += self._pass(source)
                self._carry = ""
            elif word:
                spoken += self._speak(word, end)
            else:
                self._consume(end)
            self._at = end
        return spoken

    def _cut(self, piece: Piece, source: _Source) -> Piece:
        """A piece that begins with the rest of the token as it stands is cut at the token's end."""
        size = source.end - piece.start
        if len(piece.text) == piece.end - piece.start > size and source.text.endswith(piece.text[:size]):
            self._pieces.appendleft(Piece(piece.text[size:], source.end, piece.end))
            return Piece(piece.text[:size], piece.start, source.end)
        return piece

    def _take_words(self) -> list[SpokenToken]:
        """Return decided text word by word."""
        spoken: list[SpokenToken] = []
        while self._pieces:
            piece = self._pieces.popleft()
            parts = _PARTS.findall(piece.text)
            for part, following in pairwise([*parts, None]):
                joins = part[0].isascii() and part[0] != " " and part not in PAUSES
                if not joins and self._carry.strip():
                    spoken += self._speak(self._carry, self._at)
                    self._carry = ""
                self._carry = part if not joins and part == " " else self._carry + part
                if following is None:
                    self._at = piece.end
                if part in PAUSES:
                    spoken += self._speak(self._carry, self._at)
                    self._carry = ""
            if not parts and not self._carry.strip():
                self._at = piece.end
                self._consume(self._at)
        return spoken

    def _pass(self, source: _Source) -> list[SpokenToken]:
        before = self._consume(source.end)
        tokens = [SpokenToken(token_id, "", before) for token_id in source.ids[:-1]]
        return [*tokens, SpokenToken(source.ids[-1], source.text, self._owner)]

    def _speak(self, text: str, end: int) -> list[SpokenToken]:
        """Tokens of replaced text whose source ends at `end`."""
        before = self._consume(end)
        words = re.findall(r"\s?[^\s.,?!]+|\s?[.,?!]", text)
        pairs = [pair for word in words for pair in self._encode(word)]
        if not pairs:
            return []
        last_id, last_text = pairs.pop()
        return [*(SpokenToken(i, t, before) for i, t in pairs), SpokenToken(last_id, last_text, self._owner)]

    def _consume(self, position: int) -> int:
        """Everything up to this source character is voiced or dropped; the owner from before is returned."""
        before = self._owner
        while self._sources and self._sources[0].end <= position:
            self._owner = self._sources.popleft().index
        return before
