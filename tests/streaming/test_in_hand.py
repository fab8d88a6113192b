"""The whole synthesiser with sound in hand: fewer, larger passes, the same speech, and nothing waits for text."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tts
from configs.schema import RuntimeConfig, TtsConfig
from tts.base import PcmChunk

TEXT = "Once there was a little whale named Oscar. One day Oscar found a big cake in the lake."
CHUNK = 10  # speech tokens


@pytest.fixture(scope="module")
def synthesizer():
    return tts.build(TtsConfig(duration_top_k=1, num_flow_steps=1), RuntimeConfig(device="cpu"))


def speak(synthesizer, in_hand):
    """Every chunk, with `in_hand` seconds of sound at each step in turn."""
    stream = synthesizer.stream(share_ids=False)
    stream.push(0, TEXT)
    stream.finish()
    chunks, k = [], 0
    while (made := stream.step(in_hand[k % len(in_hand)])) is not None:
        k += 1
        if isinstance(made, PcmChunk):
            chunks.append(made)
    return chunks


@pytest.fixture(scope="module")
def one_by_one(synthesizer):
    return speak(synthesizer, [0.0])


@settings(max_examples=6, deadline=None)
@given(in_hand=st.lists(st.sampled_from([-1.0, 0.3, 1.7, 5.0, math.inf]), min_size=1, max_size=7))
def test_what_is_in_hand_changes_nothing_of_what_is_said(synthesizer, one_by_one, in_hand):
    chunks = speak(synthesizer, in_hand)
    assert sum(c.num_speech_tokens for c in chunks) == sum(c.num_speech_tokens for c in one_by_one)
    said, before = (np.concatenate([c.samples for c in made]) for made in (chunks, one_by_one))
    np.testing.assert_allclose(said, before, atol=2e-3)
    assert chunks[-1].token_end == one_by_one[-1].token_end


@pytest.mark.parametrize(("in_hand_s", "most"), [(1.59, 1), (1.61, 2), (2.41, 3), (math.inf, 3)])
def test_a_pass_makes_half_of_the_sound_that_is_in_hand(synthesizer, one_by_one, in_hand_s, most):
    assert {c.num_speech_tokens for c in one_by_one[:-1]} == {CHUNK}
    chunks = speak(synthesizer, [in_hand_s])
    assert {c.num_speech_tokens for c in chunks[:-1]} == {most * CHUNK}


@pytest.mark.parametrize("in_hand_s", [0.0, 1.7])
def test_a_long_word_brings_no_larger_pass(synthesizer, in_hand_s):
    """Slowly spoken, a text token completes several chunks at once."""
    stream = synthesizer.stream(share_ids=False, speed=0.25)
    stream.push(0, TEXT)
    stream.finish()
    made = []
    while (step := stream.step(in_hand_s)) is not None:
        made.append(step)
    words, chunks = ([m for m in made if isinstance(m, PcmChunk) is is_chunk] for is_chunk in (False, True))
    assert max(word.num_speech_tokens for word in words) >= 2 * CHUNK
    most = max(1, int(in_hand_s / 0.8)) * CHUNK
    assert max(chunk.num_speech_tokens for chunk in chunks[:-1]) == most
    assert sum(c.num_speech_tokens for c in chunks) == sum(word.num_speech_tokens for word in words)


def test_where_text_is_missing_what_is_complete_is_made(synthesizer):
    stream = synthesizer.stream(share_ids=False)
    for _, text in synthesizer.tokenize(TEXT)[:6]:
        stream.push(0, text)
    made = []
    while (step := stream.step(math.inf)) is not None:
        made.append(step)
    chunks = [step for step in made if isinstance(step, PcmChunk)]
    assert chunks[-1] is made[-1]
    spoken = sum(step.num_speech_tokens for step in made if not isinstance(step, PcmChunk))
    left = spoken - sum(c.num_speech_tokens for c in chunks)
    assert left < CHUNK + 3  # not even one more chunk and its look-ahead
