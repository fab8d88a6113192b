"""Two passes: durations scaled together to a wanted length or rate, then spoken as they are."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.tmt import TEXT, make, stream
from tts.base import LEFT_OUT, SAMPLE_RATE, TOKEN_HZ, LengthError, TwoPass
from tts.tmt.decode import DecodeOptions
from tts.tmt.pacing import begin, scaled
from tts.tmt.prompt import PreparedPrompt, Prompt


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=30), st.floats(0.25, 4.0))
def test_scaled_durations_sum_to_the_total_and_keep_their_proportions(durations, factor) -> None:
    given_ = np.array(durations)
    total = round(factor * given_.sum())
    spoken = int((given_ > 0).sum())
    assume(max(spoken, np.ceil(given_.sum() / 4)) <= total <= min(given_.sum() * 4, 12 * spoken))
    found = scaled(given_, total, 12)
    assert found.sum() == total
    assert ((found > 0) == (given_ > 0)).all()
    assert found.max() <= 12
    free = factor * given_
    if (free[given_ > 0] >= 1).all() and free.max() <= 12:
        assert np.abs(np.cumsum(found) - total / max(given_.sum(), 1) * np.cumsum(given_)).max() <= 0.51


def test_the_same_length_changes_nothing() -> None:
    durations = np.array([3, 0, 7, 1, 2])
    assert scaled(durations, 13, 7).tolist() == durations.tolist()


def test_what_the_longest_duration_cuts_goes_to_the_others() -> None:
    found = scaled(np.array([6, 2, 2, 0]), 15, 7)
    assert found.tolist() == [7, 4, 4, 0]


@pytest.mark.parametrize(
    ("durations", "total", "message"),
    [
        ([4, 6], 50, "between 0.1 and 0.5 s"),
        ([4, 6], 2, "its own rate this text takes 0.3 s"),
        ([1, 1, 1, 1], 3, "between 0.1 and"),
        ([0, 0], 5, "between 0.0 and 0.0 s"),
    ],
)
def test_a_length_out_of_reach_is_told_with_those_in_reach(durations, total, message) -> None:
    with pytest.raises(LengthError, match=message):
        scaled(np.array(durations), total, 7)


def speak(model, text, options, two_pass, prompt=None) -> list[list[int]]:
    decoder = begin(model, options, prompt, two_pass)
    for token in text:
        decoder.push(token)
        if two_pass is not None:
            assert decoder.step() is None  # the text is not complete
    assert not decoder.done
    decoder.finish()
    blocks = []
    while (block := decoder.step()) is not None:
        assert block.text_token == len(blocks)
        blocks.append(block.tokens.tolist())
    assert decoder.done
    return blocks


@pytest.mark.parametrize("mask", ["prefix", "paper"])
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.2])
def test_a_wanted_length_is_met_to_the_speech_token(mask: str, factor: float) -> None:
    model = make(mask=mask)
    options = DecodeOptions(seed=3, speed=2.0)  # the speed does not count
    own = [len(block) for block in speak(model, TEXT, DecodeOptions(seed=3), None)]
    length_s = factor * sum(own) / TOKEN_HZ - LEFT_OUT / SAMPLE_RATE + 0.011
    found = [len(block) for block in speak(model, TEXT, options, TwoPass(length_s=length_s))]
    assert sum(found) == round((length_s + LEFT_OUT / SAMPLE_RATE) * TOKEN_HZ)
    assert found == scaled(np.array(own), sum(found), 7).tolist()


def test_at_the_models_own_rate_the_second_pass_says_what_the_first_one_did() -> None:
    model = make(window=4)
    expected, _ = stream(model, TEXT, 1, seed=5)
    assert speak(model, TEXT, DecodeOptions(seed=5), TwoPass()) == expected


def test_a_rate_is_reached_whatever_the_history_does_to_the_durations() -> None:
    model = make()
    own = sum(len(block) for block in speak(model, TEXT, DecodeOptions(top_k=1), None))
    for speed in (0.8, 1.25):
        found = sum(len(block) for block in speak(model, TEXT, DecodeOptions(top_k=1, speed=speed), TwoPass()))
        assert abs(found - own / speed) <= 0.5


def test_both_passes_go_on_from_the_prompt() -> None:
    model = make()
    prompt = PreparedPrompt(model, Prompt(tuple(TEXT[:4]), np.array([2, 1, 0, 4]), np.arange(7)))
    options = DecodeOptions(top_k=1)
    own = speak(model, TEXT[4:], options, None, prompt)
    assert own != speak(model, TEXT[4:], options, None)
    assert speak(model, TEXT[4:], options, TwoPass(), prompt) == own


def test_no_text_is_no_speech() -> None:
    decoder = begin(make(), DecodeOptions(), None, TwoPass(length_s=1.0))
    assert decoder.step() is None
    decoder.finish()
    assert decoder.done
    assert decoder.step() is None
