"""Times of words as they are written -> times of words as they are spoken ("25" -> "二十五")."""

from collections.abc import Sequence
from itertools import groupby

from tts.text.characters import fold
from tts.text.lexer import Lexer

Word = tuple[str, float, float]  # start and end in seconds


def as_spoken(text: str, words: Sequence[Word], language: str) -> list[Word]:
    """What an aligner said of the written `text`, for its spoken form.

    Only words with digits show that the aligner was given the written text: without them, and where words and text
    differ, `words` are returned as they are. A digit, and each letter of a word, has its share of the word's time; a
    number takes the time of its digits; what is spoken for a sign alone the time between its neighbours.
    """
    letters = [(i, *span) for i, word in enumerate(words) for span in _letters(*word)]
    places = [place for place, char in enumerate(text) if char.isalnum()]
    if not any(char.isdecimal() for word, *_ in words for char in word):
        return list(words)
    if [letter for _, letter, *_ in letters] != [_plain(text[place]) for place in places]:
        return list(words)
    timed = dict(zip(places, letters, strict=True))
    lexer = Lexer(language)
    found: list[tuple[object, str, float, float]] = []  # what belongs together, its text, its start and end
    now = 0.0
    for number, piece in enumerate(lexer.feed(text) + lexer.close()):
        spans = [timed[place] for place in range(piece.start, piece.end) if place in timed]
        start, end = (spans[0][2], spans[-1][3]) if spans else (now, now)
        passed = piece.text == text[piece.start : piece.end] and spans
        if any(char.isalnum() for char in piece.text):
            found.append((spans[0][0] if passed else (number,), piece.text, start, end))
        now = end
    joined = [list(group) for _, group in groupby(found, key=lambda part: part[0])]
    spoken = [("".join(part[1] for part in group), group[0][2], group[-1][3]) for group in joined]
    nexts = [start for _, start, _ in spoken[1:]] + [now]
    return [
        (word, start, end if end > start else following)
        for (word, start, end), following in zip(spoken, nexts, strict=True)
    ]


def _letters(word: str, start: float, end: float) -> list[tuple[str, float, float]]:
    """Each letter and digit of a word with its share of the time."""
    plain = [_plain(char) for char in word if char.isalnum()]
    step = (end - start) / max(len(plain), 1)
    return [(letter, start + k * step, start + (k + 1) * step) for k, letter in enumerate(plain)]


def _plain(char: str) -> str:
    return fold(char).lower()
