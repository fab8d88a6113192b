"""Prompts and prescribed durations: what is given is taken exactly as if it had been generated."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tmt import TEXT, Recorded, check_against_full_passes, make, stream
from tts.base import SynthesisError
from tts.tmt.decode import DecodeOptions, TmtDecoder
from tts.tmt.layout import Field, Role, one_step, visible
from tts.tmt.model import Tmt
from tts.tmt.prompt import PreparedPrompt, Prompt


class Spoken:
    """What a decoder says from here on: blocks, and the logits behind them."""

    def __init__(self, model: Tmt, decoder: TmtDecoder, text: list[int], arrivals: list[int]) -> None:
        self.blocks: list[list[int]] = []
        self.indices: list[int] = []
        self.logits: list[torch.Tensor] = []
        heads = (model.speech_head, model.duration_head)
        hooks = [head.register_forward_hook(lambda *call: self.logits.append(call[-1].clone())) for head in heads]
        rest = list(text)
        for size in [*arrivals, len(text)]:
            for token in rest[:size]:
                decoder.push(token)
            rest = rest[size:]
            if not rest:
                decoder.finish()
            while (block := decoder.step()) is not None:
                self.blocks.append(block.tokens.tolist())
                self.indices.append(block.text_token)
        for hook in hooks:
            hook.remove()
        assert decoder.done


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    text=st.lists(st.integers(0, 39), min_size=2, max_size=14),
    share=st.floats(0.01, 0.99),
    arrivals=st.lists(st.integers(0, 4), max_size=8),
    lookahead=st.sampled_from([1, 2, 3, 32]),
    window=st.sampled_from([0, 4]),
    mask=st.sampled_from(["prefix", "paper"]),
)
def test_a_primed_decoder_goes_on_as_one_that_generated_the_prompt(
    text, share, arrivals, lookahead, window, mask
) -> None:
    """Also with what the prompt's last blocks have seen of the text to come; under `paper`, for the same arrival."""
    model = make(mask=mask, window=window)
    count = 1 + int(share * (len(text) - 1))
    options = DecodeOptions(lookahead=lookahead, top_k=1)
    generating, head = TmtDecoder(model, options), []
    for token in text:
        generating.push(token)
    generating.finish()
    for _ in range(count):
        head.append(generating.step())
    expected = Spoken(model, generating, [], [])
    primed = TmtDecoder(model, options)
    primed.prime(text[:count], [block.tokens for block in head])
    found = Spoken(model, primed, text[count:], arrivals if mask == "prefix" else [])
    assert found.blocks == expected.blocks
    assert found.indices == list(range(len(text) - count))
    for mine, theirs in zip(found.logits[len(found.logits) - len(expected.logits) :], expected.logits, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mask", ["prefix", "paper"])
@pytest.mark.parametrize("window", [0, 4])
def test_behind_a_foreign_prompt_every_step_equals_one_pass_over_its_training_sequence(mask: str, window: int) -> None:
    model, lookahead = make(mask=mask, window=window), 1
    rng = np.random.default_rng(2)
    prompt_durations = np.array([3, 0, 5, 1])
    prompt = rng.integers(0, 27, 9)
    decoder = TmtDecoder(model, DecodeOptions(lookahead=lookahead, top_k=1))
    decoder.prime(TEXT[:4], np.split(prompt, np.cumsum(prompt_durations)[:-1]))
    spoken = Spoken(model, decoder, TEXT[4:], [])
    durations = np.array([*prompt_durations, *map(len, spoken.blocks)])
    tokens = np.concatenate([prompt, *spoken.blocks]).astype(np.int64)
    for step in range(4, len(TEXT) + 1):
        num_text = None if mask == "prefix" else min(len(TEXT) + 1, step + model.config.max_lookahead)
        rows, _, _ = one_step(model.config, np.array(TEXT), durations, tokens, lookahead, step, num_text=num_text)
        tensor = torch.from_numpy(rows)[None]
        hidden = model(tensor, visible(tensor, tensor, window))[0]
        if step > 4:
            found = model.speech_head(hidden[rows[Field.ROLE] == Role.MASKED]).argmax(-1).tolist()
            assert found == spoken.blocks[step - 5]
        if step < len(TEXT):
            assert int(model.duration_head(hidden[-1]).argmax()) == durations[step]


def test_a_prepared_prompt_is_read_once_and_cloned(monkeypatch) -> None:
    model = make(window=4)
    prompt = Prompt(tuple(TEXT[:5]), np.array([2, 1, 0, 4, 3]), np.arange(10) % 27)
    prepared = PreparedPrompt(model, prompt)
    options = DecodeOptions(top_k=1, speed=0.8)
    said = [Spoken(model, TmtDecoder(model, options, prepared.state(options)), TEXT[5:], []) for _ in range(2)]
    assert said[0].blocks == said[1].blocks
    alone, _ = stream(model, TEXT[5:], 1, top_k=1, speed=0.8)
    assert said[0].blocks != alone
    monkeypatch.setattr(TmtDecoder, "prime", None)
    prepared.state(DecodeOptions(top_k=1, speed=1.3))  # nothing of it depends on the speed
    with pytest.raises(TypeError):
        prepared.state(DecodeOptions(lookahead=2, top_k=1))


def test_a_prompt_alone_says_nothing() -> None:
    decoder = TmtDecoder(make())
    decoder.prime(TEXT[:3], [np.zeros(2, np.int64)] * 3)
    assert decoder.step() is None
    decoder.finish()
    assert decoder.step() is None
    assert decoder.done


@pytest.mark.parametrize("options", [{"text_per_step": 2}, {"opportunistic": True}, {"refinements": 2}])
def test_other_ways_of_decoding_go_on_from_a_prompt(options) -> None:
    model = make(text_per_step=2)
    prepared = PreparedPrompt(model, Prompt(tuple(TEXT[:5]), np.array([2, 1, 0, 4, 3]), np.arange(10)))
    chosen = DecodeOptions(top_k=1, **options)
    spoken = Spoken(model, TmtDecoder(model, chosen, prepared.state(chosen)), TEXT[5:], [])
    assert spoken.indices == list(range(len(TEXT) - 5))
    durations = tuple(map(len, spoken.blocks))
    given_ = dataclasses.replace(chosen, durations=durations)
    assert Spoken(model, TmtDecoder(model, given_, prepared.state(given_)), TEXT[5:], []).blocks == spoken.blocks


def test_bad_prompts_are_named() -> None:
    block = np.zeros(2, np.int64)
    for ids, blocks, message in (
        ([1, 2], [block], "2 text tokens of a prompt, 1 blocks"),
        ([1], [np.zeros(9, np.int64)], "up to 9"),
        ([1], [np.full(2, 27)], "speech tokens that"),
        ([40], [block], "text tokens that"),
    ):
        with pytest.raises(SynthesisError, match=message):
            TmtDecoder(make()).prime(ids, blocks)
    decoder = TmtDecoder(make())
    decoder.push(1)
    with pytest.raises(SynthesisError, match="before the text"):
        decoder.prime([1], [block])


@pytest.mark.parametrize("mask", ["prefix", "paper"])
@pytest.mark.parametrize("window", [0, 4])
def test_prescribed_durations_are_obeyed_and_equal_full_passes(mask: str, window: int) -> None:
    model = make(mask=mask, window=window)
    durations = tuple(int(d) for d in np.random.default_rng(8).integers(0, 8, len(TEXT)))
    blocks, decoder = stream(model, TEXT, 1, [1, 3, 2] if mask == "prefix" else [], durations=durations)
    assert tuple(map(len, blocks)) == durations
    assert decoder.state.num_frames == sum(durations)
    tokens = np.concatenate(blocks).astype(np.int64)
    for step in range(1, len(TEXT) + 1):
        num_text = None if mask == "prefix" else min(len(TEXT) + 1, step + model.config.max_lookahead)
        rows, _, _ = one_step(model.config, np.array(TEXT), np.array(durations), tokens, 1, step, num_text=num_text)
        tensor = torch.from_numpy(rows)[None]
        hidden = model(tensor, visible(tensor, tensor, window))[0]
        speech = model.speech_head(hidden[rows[Field.ROLE] == Role.MASKED])
        assert speech.argmax(-1).tolist() == blocks[step - 1]


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    text=st.lists(st.integers(0, 39), min_size=1, max_size=12),
    arrivals=st.lists(st.integers(0, 4), max_size=8),
    lookahead=st.sampled_from([1, 3]),
    seed=st.integers(0, 3),
)
def test_the_durations_that_it_would_draw_itself_change_nothing(text, arrivals, lookahead, seed) -> None:
    model = make(window=4)
    own = Recorded(model, text, lookahead, [], seed)
    check_against_full_passes(model, text, lookahead, own)
    durations = tuple(len(block) for block in own.blocks)
    blocks, _ = stream(model, text, lookahead, arrivals, durations=durations)
    assert blocks == [block.tolist() for block in own.blocks]


def test_prescribed_durations_behind_a_prompt_count_from_its_end() -> None:
    model = make()
    durations = (2, 5, 0, 1)
    options = DecodeOptions(durations=durations)
    decoder = TmtDecoder(model, options)
    decoder.prime(TEXT[:3], [np.zeros(3, np.int64)] * 3)
    assert tuple(map(len, Spoken(model, decoder, TEXT[3:7], [1]).blocks)) == durations


def test_prescribed_durations_that_do_not_fit_are_named() -> None:
    with pytest.raises(SynthesisError, match="between 0 and 7"):
        TmtDecoder(make(), DecodeOptions(durations=(3, 8)))
    decoder = TmtDecoder(make(), DecodeOptions(durations=(3, 2)))
    decoder.push(1)
    with pytest.raises(SynthesisError, match="2 text tokens, the text has 1"):
        decoder.finish()
    decoder.push(1)
    with pytest.raises(SynthesisError, match="2 text tokens only"):
        decoder.push(1)
