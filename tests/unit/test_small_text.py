"""The text of the synthetic corpus: spoken form, coverage, and nothing of what is held out."""

import re

import pytest

from app.small import corpus
from app.small.text import SpokenText, key, mentions, spoken


@pytest.fixture(scope="module")
def source() -> SpokenText:
    return SpokenText()


@pytest.fixture(scope="module")
def prose(source: SpokenText) -> list[str]:
    return source.prose(3, 120)


def test_prose_is_in_spoken_form(prose: list[str]) -> None:
    for text in prose:
        assert re.fullmatch(r"[A-Z][A-Za-z',.?! -]*[.?!]", text), text
        assert 3 <= len(text.split()) <= 24, text
        assert not re.search(r"\bi\b|\bi'm\b|\b(monday|france|london)\b", text), text


def test_prose_is_varied_and_seeded(source: SpokenText, prose: list[str]) -> None:
    words = [word for text in prose for word in key(text).split()]
    assert len(set(prose)) == 120
    assert len(set(words)) > 0.4 * len(words)
    assert sum("?" in text for text in prose) > 10
    assert sum(len(re.findall(r"[.?!]", text)) > 1 for text in prose) > 10
    assert source.prose(3, 5) == source.prose(3, 5) != source.prose(4, 5)


def test_coverage_says_every_word_of_its_chunk_once_more(source: SpokenText) -> None:
    first, second = source.coverage(0, 30), source.coverage(1, 30)
    words = [{word for text in texts for word in key(text).split()} for texts in (first, second)]
    rare = set(source.vocabulary[3000:]) | {w for w in words[0] | words[1] if w not in source.vocabulary}
    assert len(words[0] & rare) > 15
    assert not set(first) & set(second)
    assert source.coverage(0, 30) == first


def test_prose_is_polite(source: SpokenText) -> None:
    assert not {"shit", "damn", "sex", "fucking", "assholes"} & set(source.vocabulary)
    assert {"the", "table", "friday", "don't"} <= set(source.vocabulary)
    assert len(source.vocabulary) == 9000


@pytest.mark.parametrize(
    ("line", "pieces"),
    [
        ("2 plus 3 is 5.", ["two plus three is five."]),
        ("I said: the moon.", ["I said, the moon."]),
        ("It costs $5 now.", []),
        ("I know Dr. Smith.", []),
        ("Hello there 🙂", []),
        ("Wait... what", ["Wait. what."]),
    ],
)
def test_spoken(line: str, pieces: list[str]) -> None:
    assert [piece.lower() for piece in spoken(line)] == [piece.lower() for piece in pieces]


def test_a_long_reply_is_said_in_pieces_without_loss() -> None:
    story = "Once there was a fox who lived near a lake. " * 5
    pieces = spoken(story)
    assert len(pieces) > 1
    assert max(len(piece.split()) for piece in pieces) <= 24
    assert " ".join(pieces) == story.strip()


def test_a_recognisers_line_gets_capitals_and_its_mark(source: SpokenText) -> None:
    assert source.written("what is the capital of france") == "What is the capital of France?"
    assert source.written("my name is anna and i'm happy") == "My name is Anna and I'm happy."
    assert source.written("Good morning!") == "Good morning!"


def test_held_out_text_is_complete_and_in_spoken_form() -> None:
    sentences = corpus.held_out_sentences()
    questions = [question for name in corpus.QUESTIONS for question in corpus.held_out_questions(name)]
    assert len({key(s) for s in sentences}) == len(sentences) >= 200
    assert len({key(q["text"]) for q in questions}) == len({q["id"] for q in questions}) == len(questions) == 80
    for text in [*sentences, *(q["text"] for q in questions)]:
        assert re.fullmatch(r"[A-Z][A-Za-z',.?! -]*[.?!]", text), text
    for question in questions:
        assert question["keywords"]
        assert all(group and all(word == word.lower() for word in group) for group in question["keywords"])
    assert {key(question["text"]) for question in questions} <= corpus.held_out_keys()


def test_held_out_text_is_recognised_inside_longer_text() -> None:
    forbidden = corpus.held_out_keys()
    sentence = corpus.held_out_sentences()[0]
    assert mentions(sentence.upper(), forbidden)
    assert mentions(f"Well then. {sentence}", forbidden)
    assert not mentions("The bus was late.", forbidden)
