import pytest

from asr.endpoint import Endpoint

RULES = Endpoint(complete_silence_ms=250, min_silence_ms=450, incomplete_silence_ms=900)


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
        "what are you good at",
    ],
)
def test_finished_words_end_the_turn_soon(text):
    assert RULES.required_silence_ms(text) == 250


@pytest.mark.parametrize(
    "text", ["i went to the", "what is the", "my name is", "well uh", "tell me about", "and", "i want to"]
)
def test_words_that_call_for_more_wait_longest(text):
    assert RULES.required_silence_ms(text) == 900


@pytest.mark.parametrize("text", ["", "the cat sat down", "seven apples"])
def test_anything_else_waits_the_usual_time(text):
    assert RULES.required_silence_ms(text) == 450
