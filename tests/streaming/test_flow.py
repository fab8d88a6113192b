"""The flow decoder: any way of handing over the tokens gives the mel of the whole sequence."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tts
from configs.schema import ConfigError, TtsConfig
from tts import checkpoint
from tts.decoder.config import EncoderConfig, EstimatorConfig, FlowConfig
from tts.decoder.flow import FlowDecoder
from tts.decoder.flow_state import FlowState
from tts.modules.attention import AttentionCache, chunk_mask

BOUNDED = FlowConfig(
    vocabulary_size=50,
    chunk_tokens=4,
    max_left_chunks=2,
    prediction="residual",
    num_flow_steps=2,
    guidance=0.0,
    mel_mean=-4.4,
    mel_scale=2.2,
    encoder=EncoderConfig(width=32, num_heads=2, ffn_width=32, num_blocks=2, num_up_blocks=1),
    estimator=EstimatorConfig(width=16, num_heads=2, head_width=8, num_transformers=1, num_mid_blocks=2, time_width=32),
)
GUIDED = replace(BOUNDED, max_left_chunks=None, prediction="velocity", num_flow_steps=3, guidance=0.7)
SPEAKER = torch.randn(1, 192, generator=torch.Generator().manual_seed(5))
TOKENS = torch.randint(50, (1, 47), generator=torch.Generator().manual_seed(6))
PROMPT = TOKENS.flip(1)[:, :19]
PROMPT_MEL = torch.randn(1, 80, 38, generator=torch.Generator().manual_seed(7)) * 2 - 4


def build(config: FlowConfig) -> FlowDecoder:
    torch.manual_seed(3)
    return FlowDecoder(config).eval()


@pytest.fixture(scope="module", params=["bounded", "guided"])
def flow(request: pytest.FixtureRequest) -> FlowDecoder:
    return build(BOUNDED if request.param == "bounded" else GUIDED)


def stream(flow: FlowDecoder, state: FlowState, sizes: list[int]) -> Tensor:
    parts = TOKENS.split(sizes, dim=1)
    return torch.cat([flow.step(part, state, last=i + 1 == len(parts)) for i, part in enumerate(parts)], dim=2)


@pytest.mark.parametrize("sizes", [[47], [1] * 47, [7] + [4] * 10, [0, 13, 0, 30, 4], [44, 3], [45, 2], [47, 0]])
def test_any_chunking_gives_the_whole(flow: FlowDecoder, sizes: list[int]) -> None:
    whole = flow.generate(TOKENS, SPEAKER)
    assert whole.shape == (1, 80, 94)
    torch.testing.assert_close(stream(flow, flow.start(SPEAKER), sizes), whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sizes", [[47], [1] * 47, [7] + [4] * 10])
def test_any_chunking_after_a_prompt(flow: FlowDecoder, sizes: list[int]) -> None:
    whole = flow.generate(TOKENS, SPEAKER, PROMPT, PROMPT_MEL)
    state = flow.start(SPEAKER, PROMPT, PROMPT_MEL, cut_prompt=False)
    torch.testing.assert_close(stream(flow, state, sizes), whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sizes", [[47], [1] * 47, [7] + [4] * 10, [44, 3]])
@pytest.mark.parametrize("first", [(2, 3), (9,), (1, 1, 1)])
def test_any_chunking_with_other_first_chunks(flow: FlowDecoder, first: tuple[int, ...], sizes: list[int]) -> None:
    whole = flow.generate(TOKENS, SPEAKER, sizes=[*first, *([4] * 12)])
    torch.testing.assert_close(stream(flow, flow.start(SPEAKER, first_chunks=first), sizes), whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sizes", [[47], [1] * 47, [44, 3]])
def test_other_first_chunks_come_after_the_prompt(flow: FlowDecoder, sizes: list[int]) -> None:
    state = flow.start(SPEAKER, PROMPT, PROMPT_MEL, first_chunks=(2, 3))
    made = stream(flow, state.clone(), sizes)
    torch.testing.assert_close(made, stream(flow, state.clone(), [47]), atol=1e-4, rtol=0)
    first = flow.step(TOKENS[:, :5], state)  # a chunk of two and its lookahead
    torch.testing.assert_close(first, made[:, :, :4], atol=1e-4, rtol=0)


def test_a_small_first_chunk_leaves_sooner(flow: FlowDecoder) -> None:
    state = flow.start(SPEAKER, first_chunks=(2, 3))
    assert (flow.due(state), flow.due(state, 3)) == (5, 12)
    lengths = [flow.step(TOKENS[:, i : i + 1], state).shape[2] for i in range(16)]
    assert [(i + 1, length) for i, length in enumerate(lengths) if length] == [(5, 4), (8, 6), (12, 8), (16, 8)]
    assert (flow.due(state), flow.due(state, 3)) == (7, 15)


def test_each_chunk_leaves_as_soon_as_its_lookahead_is_there(flow: FlowDecoder) -> None:
    state = flow.start(SPEAKER)
    lengths = [flow.step(TOKENS[:, i : i + 1], state).shape[2] for i in range(15)]
    assert [i + 1 for i, length in enumerate(lengths) if length] == [7, 11, 15]
    assert set(lengths) == {0, 8}


def test_cut_prompt_begins_on_the_grid_and_is_prefilled(flow: FlowDecoder) -> None:
    state = flow.start(SPEAKER, PROMPT, PROMPT_MEL)
    assert state.num_frames == state.prompt_frames == 2 * 16
    assert state.pending.shape[1] == 0
    assert flow.step(TOKENS[:, :7], state).shape[2] == 8
    # The same as keeping the whole prompt and going on after its 16th token, which has seen its true lookahead.
    kept = flow.start(SPEAKER, PROMPT, PROMPT_MEL, cut_prompt=False)
    kept.pending, kept.prompt, kept.prompt_frames = kept.pending[:, :0], kept.prompt[:, :0], kept.num_frames
    ours = stream(flow, flow.start(SPEAKER, PROMPT, PROMPT_MEL), [47])
    torch.testing.assert_close(ours, stream(flow, kept, [47]), atol=1e-4, rtol=0)


def test_prompt_shorter_than_a_chunk_leaves_the_speaker_alone(flow: FlowDecoder) -> None:
    state = flow.start(SPEAKER, PROMPT[:, :5], PROMPT_MEL[:, :, :10])
    torch.testing.assert_close(stream(flow, state, [47]), flow.generate(TOKENS, SPEAKER), atol=1e-4, rtol=0)


def test_prompt_and_speaker_matter(flow: FlowDecoder) -> None:
    plain = flow.generate(TOKENS, SPEAKER)
    assert (flow.generate(TOKENS, -SPEAKER) - plain).abs().max() > 1e-2
    state = flow.start(SPEAKER, PROMPT, PROMPT_MEL)
    louder = flow.start(SPEAKER, PROMPT, PROMPT_MEL + 2)
    assert (stream(flow, state, [47]) - stream(flow, louder, [47])).abs().max() > 1e-3


def test_clones_and_reset_are_independent(flow: FlowDecoder) -> None:
    voice = flow.start(SPEAKER, PROMPT, PROMPT_MEL)
    first = stream(flow, voice.clone(), [11, 36])
    assert torch.equal(stream(flow, voice.clone(), [11, 36]), first)
    used = voice.clone()
    flow.step(TOKENS[:, :30], used)
    branch = used.clone()
    assert torch.equal(flow.step(TOKENS[:, 30:], used, last=True), flow.step(TOKENS[:, 30:], branch, last=True))
    used.reset_()
    assert torch.equal(stream(flow, used, [11, 36]), stream(flow, flow.start(SPEAKER), [11, 36]))


def test_run_time_options() -> None:
    flow = build(BOUNDED)
    plain = flow.generate(TOKENS, SPEAKER)
    for options in ({"num_flow_steps": 5}, {"guidance": 0.5}, {"temperature": 0.5}):
        whole = flow.generate(TOKENS, SPEAKER, **options)
        assert (whole - plain).abs().max() > 1e-4
        torch.testing.assert_close(stream(flow, flow.start(SPEAKER, **options), [20, 27]), whole, atol=1e-4, rtol=0)


def test_memory_is_flat_with_bounded_left_context() -> None:
    flow = build(BOUNDED)
    state = flow.start(SPEAKER)

    sizes = capacities(flow, state)
    assert sizes[-1] == sizes[10]
    assert len(state.estimators[0].blocks[0].attention[0]) == (2 + 1) * 8


def capacities(flow: FlowDecoder, state: FlowState) -> list[int]:
    """Numbers that the caches hold after each of 40 chunks."""
    sizes = []
    for _ in range(40):
        flow.step(TOKENS[:, :4], state)
        sizes.append(sum(cache.keys.numel() + cache.values.numel() for cache in state.caches()))
    return sizes


def test_a_setting_bounds_the_left_context_of_weights_that_look_back_at_everything(tmp_path: Path) -> None:
    endless = build(replace(BOUNDED, max_left_chunks=None))
    checkpoint.save(tmp_path, endless, endless.config.to_dict(), dtype=torch.float32)
    as_made = tts.load_flow(TtsConfig(flow=str(tmp_path)), "cpu")
    assert torch.equal(as_made.generate(TOKENS, SPEAKER), endless.generate(TOKENS, SPEAKER))
    sizes = capacities(as_made, as_made.start(SPEAKER))
    assert sizes[-1] > 2 * sizes[10]
    flow = tts.load_flow(TtsConfig(flow=str(tmp_path), max_left_chunks=2), "cpu")
    assert flow.config == BOUNDED
    state = flow.start(SPEAKER)
    sizes = capacities(flow, state)
    assert sizes[-1] == sizes[10]
    assert {len(cache) for cache in state.encoder.blocks} == {(2 + 1) * 4}
    assert {len(cache) for cache in state.caches()} == {(2 + 1) * 4, (2 + 1) * 8}
    whole = flow.generate(TOKENS, SPEAKER)
    torch.testing.assert_close(whole, build(BOUNDED).generate(TOKENS, SPEAKER), atol=1e-5, rtol=0)
    assert (whole - endless.generate(TOKENS, SPEAKER)).abs().max() > 1e-3
    torch.testing.assert_close(stream(flow, flow.start(SPEAKER), [7, 33, 7]), whole, atol=1e-4, rtol=0)


def test_a_negative_left_context_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tts\.max_left_chunks is -1: give 0"):
        tts.load_flow(TtsConfig(max_left_chunks=-1), "cpu")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_shortest_utterances(flow: FlowDecoder, count: int) -> None:
    made = flow.step(TOKENS[:, :count], flow.start(SPEAKER), last=True)
    torch.testing.assert_close(made, flow.generate(TOKENS[:, :count], SPEAKER), atol=1e-4, rtol=0)


def test_rows_of_a_batch_do_not_mix(flow: FlowDecoder) -> None:
    tokens, speakers = torch.cat([TOKENS, TOKENS.flip(1)]), torch.cat([SPEAKER, -SPEAKER])
    state = flow.start(speakers)
    both = torch.cat([flow.step(tokens[:, :21], state), flow.step(tokens[:, 21:], state, last=True)], dim=2)
    for row in range(2):
        alone = flow.generate(tokens[row : row + 1], speakers[row : row + 1])
        torch.testing.assert_close(both[row : row + 1], alone, atol=1e-4, rtol=0)


def test_mask_shows_the_chunk_and_what_is_left_of_it() -> None:
    mask = chunk_mask(4, 8, [2, 2], 2, torch.device("cpu"))
    assert mask is not None
    assert mask.int().tolist() == [[0, 0, 1, 1, 1, 1, 0, 0]] * 2 + [[0, 0, 0, 0, 1, 1, 1, 1]] * 2
    assert chunk_mask(2, 8, [2], 6, torch.device("cpu")) is None
    assert chunk_mask(2, 8, [2], None, torch.device("cpu")) is None


def test_cache_returns_what_went_in() -> None:
    frames = torch.arange(200.0).view(1, 1, 200, 1)
    cache, done = AttentionCache(torch.zeros(1, 1, 0, 1), torch.zeros(1, 1, 0, 1)), 0
    for size in (3, 1, 20, 5, 5, 5, 5, 5, 30, 2, 2, 2, 60, 1, 54):
        new = frames[:, :, done : done + size]
        keys, values = cache.append(new, -new, 12)
        expected = frames[:, :, max(0, done - 12) : done + size]
        done += size
        assert torch.equal(keys, expected)
        assert torch.equal(values, -expected)
    assert done == 200


@pytest.mark.parametrize("num_flow_steps", [1, 3])
def test_a_residual_of_nothing_gives_the_encoders_mel(num_flow_steps):
    flow = FlowDecoder(BOUNDED).eval()
    assert BOUNDED.prediction == "residual"
    torch.nn.init.zeros_(flow.decoder.estimator.final_proj.weight)
    torch.nn.init.zeros_(flow.decoder.estimator.final_proj.bias)
    tokens = torch.arange(20)[None] % BOUNDED.vocabulary_size
    with torch.inference_mode():
        mel = flow.generate(tokens, torch.randn(1, BOUNDED.speaker_width), num_flow_steps=num_flow_steps)
        mu = flow.encode(tokens, chunked=True)
    torch.testing.assert_close(mel, flow.denormalise(mu).transpose(1, 2), atol=1e-4, rtol=1e-4)
