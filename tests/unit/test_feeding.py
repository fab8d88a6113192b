"""Sentence by sentence: nothing before a sentence is complete, nothing lost, whenever the tokens arrive."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.bench.simulate import Delays, SimulatedSynthesizer
from tts.base import SAMPLES_PER_TOKEN, PcmChunk, SpeechStep
from tts.feeding import SentenceFed

TEXT = "one two three. is it four five? yes! and then"
TOKENS = [(i, word if i == 0 else f" {word}") for i, word in enumerate(TEXT.split())]


def speak(arrivals):
    """Push so many tokens before each drain; the results in order."""
    stream = SentenceFed(SimulatedSynthesizer(Delays())).stream()
    left, made = list(TOKENS), []
    for count in [*arrivals, len(TOKENS)]:
        for token in left[:count]:
            stream.push(*token)
        del left[:count]
        if not left:
            stream.finish()
        while (step := stream.step()) is not None:
            made.append(step)
    assert stream.done
    return made


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=8))
def test_any_arrival_gives_the_same_speech(arrivals):
    made, whole = speak(arrivals), speak([])
    assert [m.token_end for m in made if isinstance(m, SpeechStep)] == list(range(1, len(TOKENS) + 1))
    chunks = [m for m in made if isinstance(m, PcmChunk)]
    assert [c.last for c in chunks[:-1]] == [False] * (len(chunks) - 1)
    assert chunks[-1].last
    assert chunks[-1].token_end == len(TOKENS)
    spoken = sum(m.num_speech_tokens for m in made if isinstance(m, SpeechStep))
    assert sum(len(c.samples) for c in chunks) == spoken * SAMPLES_PER_TOKEN
    expected = np.concatenate([c.samples for c in whole if isinstance(c, PcmChunk)])
    np.testing.assert_array_equal(np.concatenate([c.samples for c in chunks]), expected)


@pytest.mark.parametrize(("pushed", "speaks"), [(2, False), (3, True)])
def test_it_waits_for_the_end_of_the_sentence(pushed, speaks):
    stream = SentenceFed(SimulatedSynthesizer(Delays())).stream()
    for token in TOKENS[:pushed]:
        stream.push(*token)
    assert (stream.step() is not None) is speaks
