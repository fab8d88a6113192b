"""Half precision at reduced sizes: finite, near to float32, and the same whole and in pieces."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from configs.loader import load
from configs.schema import ConfigError
from tests.public_folder import FLOW, LM, VOCODER
from tts.decoder.flow import FlowDecoder
from tts.decoder.vocoder import Vocoder
from tts.interleaved.drafts import DraftHeads, HeadsConfig
from tts.interleaved.model import InterleavedLm
from tts.interleaved.state import InterleavedState
from tts.precision import lower, pack, ready, resolve, weight_bytes
from tts.tmt.config import TmtConfig
from tts.tmt.decode import DecodeOptions, TmtDecoder
from tts.tmt.model import Tmt

HALVES = [torch.bfloat16, torch.float16]
FLOAT16_MAX = 65_504.0
TMT = TmtConfig(text_vocab_size=40, num_speech_tokens=50, dim=32, num_layers=2, num_heads=2, ff_dim=32)
SPEAKER = torch.randn(1, 192, generator=torch.Generator().manual_seed(5))
TOKENS = torch.randint(27, (1, 60), generator=torch.Generator().manual_seed(6))
MEL = torch.randn(1, 80, 30, generator=torch.Generator().manual_seed(7)) * 2 - 5
half_types = pytest.mark.parametrize("dtype", HALVES, ids=["bfloat16", "float16"])


def flow(dtype: torch.dtype = torch.float32) -> FlowDecoder:
    torch.manual_seed(3)
    return lower(FlowDecoder(FLOW).eval().requires_grad_(False), dtype)


def vocoder(dtype: torch.dtype = torch.float32, **changed) -> Vocoder:
    torch.manual_seed(3)
    made = Vocoder(replace(VOCODER, **changed)).eval().requires_grad_(False)
    made.conv_post.bias[:9] = -1.0
    return lower(made, dtype)


def test_what_auto_means() -> None:
    assert resolve("auto", "cpu") == torch.float32
    assert resolve("auto", "cuda:1") == torch.bfloat16
    assert resolve("float16", "cpu") == torch.float16
    with pytest.raises(ConfigError, match=r"tts\.dtype"):
        load(None, ["tts.dtype=int4"])


def test_matrices_are_lowered_and_the_rest_stays() -> None:
    half = {name for name, weight in flow(torch.bfloat16).named_parameters() if weight.dtype == torch.bfloat16}
    assert "decoder.estimator.mid_blocks.0.1.0.attn1.to_q.weight" in half
    assert "encoder.encoders.0.feed_forward.w_1.weight" in half
    assert not [name for name in half if "norm" in name or "final_proj" in name or name.startswith("encoder_proj")]
    half = {name for name, weight in vocoder(torch.bfloat16).named_parameters() if weight.dtype == torch.bfloat16}
    assert "resblocks.0.convs1.0.weight" in half
    assert not [name for name in half if name.startswith(("f0_predictor", "m_source", "conv_post", "conv_pre"))]
    assert not [name for name in half if "alpha" in name]


@half_types
def test_the_flow_decoder_agrees_with_float32_whole_and_in_pieces(dtype: torch.dtype) -> None:
    exact = flow().generate(TOKENS, SPEAKER, num_flow_steps=3)
    lowered = flow(dtype)
    whole = lowered.generate(TOKENS, SPEAKER, num_flow_steps=3)
    assert whole.dtype == torch.float32
    limit = float(exact.std()) * (0.1 if dtype == torch.bfloat16 else 0.02)
    assert 0 < (whole - exact).abs().max() < limit
    state = lowered.start(SPEAKER, num_flow_steps=3)
    assert state.estimators[0].blocks[0].attention[0].keys.dtype == dtype
    parts = [lowered.step(TOKENS[:, :33], state), lowered.step(TOKENS[:, 33:], state, last=True)]
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, atol=limit / 2, rtol=0)


@half_types
def test_sums_beyond_float16_are_no_trouble(dtype: torch.dtype) -> None:
    """Nothing normalises what the encoder's convolutions read: their outputs may be larger than float16 can hold."""
    made = flow(dtype)
    made.encoder.up_layer.conv.weight *= 1e6
    largest = []
    made.encoder.up_layer.register_forward_hook(lambda _module, _inputs, out: largest.append(float(out.abs().max())))
    mel = made.generate(TOKENS, SPEAKER, num_flow_steps=2)
    assert max(largest) > FLOAT16_MAX
    assert torch.isfinite(mel).all()


@half_types
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "public"])
def test_the_vocoder_agrees_with_float32_whole_and_in_pieces(dtype: torch.dtype, causal: bool) -> None:
    changed = {"causal": True, "lookahead_frames": 1} if causal else {}
    exact, lowered = vocoder(**changed)(MEL), vocoder(dtype, **changed)
    whole = lowered(MEL)
    error = 10 * float(torch.log10((whole - exact).square().mean() / exact.square().mean()))
    assert -120 < error < (-30 if dtype == torch.bfloat16 else -45)  # dB
    state = lowered.initial_state()
    parts = [lowered.stream(MEL[:, :, :13], state), lowered.stream(MEL[:, :, 13:], state, last=True)]
    pieces = torch.cat(parts, dim=1)
    seam = 10 * float(torch.log10((pieces - whole[:, : pieces.shape[1]]).square().mean() / exact.square().mean()))
    assert seam < -30


def test_a_tone_of_a_minute_stays_in_tune() -> None:
    """The source of a half-precision vocoder: the phase of the last second is that of an exact sine, to a thousandth."""
    made, hz, frames = vocoder(torch.bfloat16, causal=True), 219.7, 3000
    f0 = torch.full((1, frames), hz)
    phase = torch.zeros(1, dtype=torch.float64)
    for part in f0.split(25, dim=1):
        cycles = made.m_source.step_phase(part, phase)
        phase = made.m_source.advance(part, phase)[:, -1] % 1.0
    wanted = hz * (np.arange(frames * 480 - 25 * 480, frames * 480) + 1) / 24_000
    apart = (cycles.flatten().numpy() - wanted + 0.5) % 1.0 - 0.5
    assert cycles.dtype == torch.float64
    assert np.abs(apart).max() < 1e-3


class Three(torch.nn.Module):
    """Every text token lasts three speech tokens."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.arange(TMT.num_duration_classes, device=hidden.device).eq(3).float().expand(*hidden.shape[:-1], -1)


@half_types
def test_the_temporal_masked_transformer_agrees_with_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    exact = Tmt(TMT).eval().requires_grad_(False)
    torch.manual_seed(3)
    lowered = lower(Tmt(TMT).eval().requires_grad_(False), dtype)
    logits = []
    for model in (exact, lowered):
        model.duration_head = Three()
        decoder = TmtDecoder(model, DecodeOptions(top_k=1))
        for token in (1, 2, 3):
            decoder.push(token)
        seen: list[torch.Tensor] = []
        model.norm.register_forward_hook(lambda _module, _inputs, out, seen=seen: seen.append(out))
        assert decoder.step() is not None
        logits.append(model.speech_head(seen[-1]))
    assert decoder.state.keys.dtype == dtype
    assert logits[1].dtype == torch.float32
    difference = (logits[0] - logits[1]).abs().max()
    assert 0 < difference < (0.05 if dtype == torch.bfloat16 else 0.01) * logits[0].std()


@half_types
@torch.inference_mode()
def test_the_interleaved_model_agrees_with_float32_whole_and_in_pieces(dtype: torch.dtype) -> None:
    models = []
    for wanted in (torch.float32, dtype):
        torch.manual_seed(3)
        models.append(lower(InterleavedLm(LM).eval().requires_grad_(False), wanted))
    lowered = models[1]
    ids = torch.tensor([[LM.sos, 5, 6, 7, LM.task, LM.speech_offset + 3]])
    logits = [model.llm_decoder(model(model.embed(ids))) for model in models]
    assert logits[1].dtype == torch.float32
    limit = (0.05 if dtype == torch.bfloat16 else 0.01) * logits[0].std()
    assert 0 < (logits[0] - logits[1]).abs().max() < limit
    state = InterleavedState.create(LM, like=lowered.llm_embedding.weight)
    assert state.keys.dtype == dtype
    parts = [lowered(lowered.embed(ids[:, :4]), state), lowered(lowered.embed(ids[:, 4:]), state)]
    assert (lowered.llm_decoder(torch.cat(parts, dim=1)) - logits[1]).abs().max() < limit
    assert lowered.llm.model.lm_head.weight is lowered.llm.model.model.embed_tokens.weight


@pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="PyTorch's own, on x86 only")
@torch.inference_mode()
def test_packed_matrices_give_the_same_products() -> None:
    """Those of float16 numbers only, and only large ones."""
    generator = torch.Generator().manual_seed(1)
    large, other, small = torch.nn.Linear(300, 700), torch.nn.Linear(300, 700, bias=False), torch.nn.Linear(300, 60)
    for linear in (large, small):
        linear.half().float()
    model = torch.nn.ModuleList([large, other, small])
    exact = [linear.weight.clone() for linear in model]
    pack(model)
    assert [type(linear.forward).__name__ for linear in model] == ["_Packed", "method", "method"]
    assert weight_bytes(model) == sum(weight.nbytes for weight in model.parameters()) + 2 * 300 * 700
    assert all(torch.equal(linear.weight, weight) for linear, weight in zip(model, exact, strict=True))
    for shape in ((300,), (1, 300), (11, 300), (2, 5, 300), (0, 300)):
        x = torch.randn(shape, generator=generator)
        torch.testing.assert_close(
            large(x), torch.nn.functional.linear(x, large.weight, large.bias), atol=2e-5, rtol=1e-5
        )


@half_types
@torch.inference_mode()
def test_draft_heads_propose_the_same(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    shape = HeadsConfig(dim=32, num_speech_tokens=50, num_heads=3, accuracies=((0.5,),) * 3)
    heads = DraftHeads(shape).eval().requires_grad_(False)
    hidden = torch.randn(32)
    exact = heads(hidden)
    name = str(dtype).removeprefix("torch.")
    lowered = ready(heads, name, "cpu")
    assert {weight.dtype for weight in lowered.parameters()} == {dtype}
    assert (lowered(hidden, 2) - exact[:2]).abs().max() < 0.03 * exact.abs().max()
