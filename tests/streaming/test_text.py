"""Any cutting of a text gives the same spoken words, nothing is lost, owners never fall, time is linear."""

import time

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit import test_mandarin
from tests.unit.test_text import SPOKEN
from tts.text import SpokenStream, spoken
from tts.text.lexer import Lexer
from tts.text.scanner import HORIZON

WRITTEN = "\n\n".join(SPOKEN)
MANDARIN = "\n\n".join(test_mandarin.SPOKEN)
SIGNS = [
    *".,:;/%-*`[()'\"#|<>…$~^&=+!?_ \n59AeéUgSx中😀",
    "**",
    "```",
    "](",
    "Dr",
    "http://",
    "a.b",
    "p.m",
    "1,234",
    "3rd",
    "km",
    *"２：～¥年个第万点℃×",
    "2024",
    "138 1234 5678",
    "US$",
]
SNIPPETS = st.lists(
    st.one_of(
        st.sampled_from([*SPOKEN, *test_mandarin.SPOKEN]),
        st.sampled_from(SIGNS),
        st.text(max_size=8),
    ),
    max_size=25,
).map("".join)
LANGUAGES = st.sampled_from(["en", "none", "zh"])


def encode(word: str) -> list[tuple[int, str]]:
    """Two characters a token."""
    return [(-1, word[i : i + 2]) for i in range(0, len(word), 2)]


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces, start, turn = [], 0, 0
    while start < len(text):
        size = sizes[turn % len(sizes)]
        pieces.append(text[start : start + size])
        start, turn = start + max(size, 0), turn + 1
    return pieces


@settings(max_examples=30, deadline=None)
@given(SNIPPETS, st.lists(st.integers(1, 9), min_size=1, max_size=5), st.booleans(), LANGUAGES)
@example(WRITTEN, [1], True, "en")
@example(WRITTEN, [3, 1], True, "en")
@example(WRITTEN, [1], False, "en")
@example(MANDARIN, [1], True, "zh")
@example(MANDARIN, [3, 1], True, "zh")
@example(MANDARIN, [1], False, "zh")
@example("1" * 300 + "年" + "2-" * 100 + "2到" + "3" * 200, [1], True, "zh")
def test_any_cut_gives_the_same_words(text: str, sizes: list[int], share_ids: bool, language: str) -> None:
    stream, tokens, pushed = SpokenStream(encode, share_ids=share_ids, language=language), [], cut(text, sizes)
    for index, piece in enumerate(pushed):
        new = stream.push(index, piece)
        assert all(token.owner <= index for token in new)
        assert len(stream.held) <= HORIZON + len(piece)
        tokens += new
    tokens += stream.finish()
    owners = [token.owner for token in tokens]
    assert "".join(token.text for token in tokens).strip() == spoken(text, language).strip()
    assert owners == sorted(owners)
    assert all(token.id == -1 or token.text == pushed[token.id] for token in tokens)


@settings(max_examples=30, deadline=None)
@given(SNIPPETS, LANGUAGES)
@example(WRITTEN, "en")
@example(MANDARIN, "zh")
def test_every_character_is_spoken_or_dropped_by_a_rule(text: str, language: str) -> None:
    lexer = Lexer(language)
    pieces = [piece for char in text for piece in lexer.feed(char)] + lexer.close()
    position = 0
    for piece in pieces:
        assert piece.start == position
        assert piece.text or piece.rule
        position = piece.end
    assert position == len(text)
    reported = sum(len(source) for _, source in lexer.dropped)
    assert reported == sum(piece.end - piece.start for piece in pieces if piece.rule and piece.rule != "space")


@settings(max_examples=30, deadline=None)
@given(SNIPPETS)
def test_english_is_made_of_letters_and_pauses(text: str) -> None:
    words = spoken(text)
    assert all((char.isascii() and char.isalpha()) or char in " .,?!'" for char in words), words
    assert "  " not in words
    assert words == words.strip()


@settings(max_examples=30, deadline=None)
@given(SNIPPETS)
@example(WRITTEN)
def test_mandarin_leaves_no_digit(text: str) -> None:
    words = spoken(text, "zh")
    assert not any(char in "0123456789０１２３４５６７８９" for char in words), words


def test_time_is_linear_in_the_text() -> None:
    def seconds(text: str) -> float:
        stream, start = SpokenStream(encode), time.process_time()
        for index, char in enumerate(text):
            stream.push(index, char)
        stream.finish()
        return time.process_time() - start

    for unit in (WRITTEN, "1", ".", "A", "```x"):
        text = (unit * 4_000)[:4_000]
        assert seconds(text) < 8 * seconds(text[:1_000]) + 0.2
