import json
from dataclasses import replace

import pytest

from asr import turn_end
from asr.base import RecognizerError
from asr.endpoint import Endpoint
from asr.training.turn_end import examples, learn

RULES = Endpoint(
    complete_silence_ms=250,
    probable_silence_ms=350,
    min_silence_ms=450,
    incomplete_silence_ms=900,
    judge=turn_end.bundled(),
)


@pytest.mark.parametrize(
    "text",
    [
        "what is the capital of france",
        "where are you from",
        "hello what time is it",
        "tell me a joke",
        "yes",
        "thank you",
        "i would like to say thank you",
    ],
)
def test_finished_words_end_the_turn_soon(text):
    assert RULES.required_silence_ms(text) <= 350


def test_they_end_it_sooner_where_they_sound_so():
    assert [RULES.required_silence_ms("what is the capital of japan", sound) for sound in (0.0, 4.0)] == [350, 250]


@pytest.mark.parametrize(
    "text",
    [
        "i went to the",
        "what is the",
        "my name is",
        "well uh",
        "tell me about",
        "and",
        "i want to",
        "what is the capital of",
        "what is the capital",
        "how much is",
        "i would like to know",
        "what is seven",
        "tell me",
        "okay i have",
        "hey it's lovely",
    ],
    ids=str,
)
def test_words_that_call_for_more_wait_longest(text):
    assert RULES.required_silence_ms(text) == 900


def test_words_that_could_go_on_need_the_sound_of_an_end():
    assert [RULES.required_silence_ms("what are you good at", sound) for sound in (-4.0, 4.0)] == [900, 350]


@pytest.mark.parametrize("text", ["", "qwertyuiop", "qwertzuiop yxcvbnm"])
def test_words_that_it_does_not_know_waits_the_usual_time(text):
    assert RULES.required_silence_ms(text) == 450


def test_the_judge_learns_what_ends_a_turn_and_not_what_ends_a_sentence_before_another():
    sentences = [
        f"what is the {thing} of {place}" for thing in ("size", "age", "name") for place in ("mars", "rome")
    ] * 9
    weights, bias = learn(examples(sentences))
    judge = turn_end.TurnEnd(weights, bias)
    assert judge("what is the age of rome") > 0 > judge("what is the age of")
    assert judge.knows("what is rome")
    assert not judge.knows("qwertyuiop")
    found = examples(["hello. how are you"])
    assert [example.whole for example in found] == [False] * 6 + [True] * 2
    assert found[0].names != found[2].names


def test_every_sentence_is_learned_as_it_is_and_with_some_of_its_words_misheard():
    found = examples([f"tell me about {thing} and {thing}" for thing in ("rome", "mars", "rain", "tea")])
    said, heard = found[::2], found[1::2]
    assert [example.whole for example in said] == [example.whole for example in heard]
    changed = [a.names != b.names for a, b in zip(said, heard, strict=True)]
    assert 0.2 < sum(changed) / len(changed) < 0.9
    assert found == examples([f"tell me about {thing} and {thing}" for thing in ("rome", "mars", "rain", "tea")])


def judged(log_odds):
    """With a judge that is so sure of any words."""

    class Judge(turn_end.TurnEnd):
        def __call__(self, text):
            assert text == "what is new"
            return log_odds

    return replace(RULES, judge=Judge({}, 0.0))


def test_capitals_do_not_count_and_the_last_mark_does_not_overrule_the_words():
    for text in ("what is the capital of france", "i would like to", "thank you", "tell me about the"):
        written = text[0].upper() + text[1:]
        assert RULES.required_silence_ms(written) == RULES.required_silence_ms(text)
    for text in ("i would like to", "what is the capital of", "tell me about the"):
        for mark in (".", "?", "...", ","):
            assert RULES.required_silence_ms(text + mark) == 900
    for mark in (".", "?", "!", ""):
        assert RULES.required_silence_ms("What is the capital of France" + mark) <= 350


@pytest.mark.parametrize(
    ("written", "doubtful", "likely"),
    [
        ("What is new", 900, 350),
        *((f"What is new{mark}", 350, 250) for mark in (".", "?", "!", '."', "? ")),
        *((f"What is new{mark}", 900, 900) for mark in (",", "...", "\N{HORIZONTAL ELLIPSIS}", "-", " \N{EM DASH}")),
        ("What, is... new", 900, 350),
    ],
)
def test_the_last_mark_tips_the_scale(written, doubtful, likely):
    assert judged(-0.7).required_silence_ms(written, 0.0) == doubtful
    assert judged(-0.2 if likely == 900 else 2.4).required_silence_ms(written, 0.0) == likely


@pytest.mark.parametrize(
    "damage",
    [
        {"kind": "turn_sound"},
        {"weights": {"1 you": "much"}},
        {"weights": {"1 you": float("nan")}},
        {"weights": [1.0]},
        {"bias": None},
    ],
)
def test_weights_of_something_else_are_refused_in_one_line(damage, tmp_path, monkeypatch):
    values = {"kind": "turn_end", "bias": -1.0, "weights": {"1 you": 0.5}}
    monkeypatch.setattr(turn_end, "ASSETS", tmp_path)
    (tmp_path / "weights.json").write_text(json.dumps(values))
    assert turn_end.bundled.__wrapped__()("thank you") == -0.5
    (tmp_path / "weights.json").write_text(json.dumps({**values, **damage}))
    with pytest.raises(RecognizerError, match=r"weights\.json is damaged"):
        turn_end.bundled.__wrapped__()
