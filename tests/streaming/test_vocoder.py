"""The vocoder's golden rule: any chunking of the mel gives the samples of the whole."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tts.decoder.source import draw_noise
from tts.decoder.vocoder import CausalState, Vocoder, VocoderConfig
from tts.decoder.vocoder_layers import Conv
from tts.precision import lower

GOLDEN = Path(__file__).parents[1] / "assets" / "golden"
TOLERANCE = 1e-4
# The rounding of F0 (2e-4 Hz, differing with how many frames are predicted together) adds up in the phase: kernels differ.
TOLERANCE_OF_PHASES = 3e-4
CHUNKINGS = [[1] * 60, [1, 1, 7, 0, 2, 30, 19], [3] * 20, [60], [59, 1], [0, 25, 35]]


def make_causal() -> Vocoder:
    torch.manual_seed(3)
    config = VocoderConfig(
        base_channels=32,
        f0_channels=16,
        resblock_kernels=(3, 7),
        resblock_dilations=((1, 3, 5), (1, 3, 5)),
        source_resblock_kernels=(3, 3, 3),
        source_resblock_dilations=((1,), (1,), (1,)),
        causal=True,
        lookahead_frames=2,
        mel_mean=-4.4,
        mel_scale=2.2,
        f0_scale_hz=900.0,
        phase_scale=3.14159,
    )
    return Vocoder(config).eval().requires_grad_(False)


def make_public() -> Vocoder:
    weights = {name: value.float() for name, value in load_file(GOLDEN / "hift_weights.safetensors").items()}
    return Vocoder.from_state(VocoderConfig(base_channels=32, f0_channels=64), weights, "golden")


@pytest.fixture(scope="module", params=[False, True], ids=["convolutions", "products"])
def causal(request: pytest.FixtureRequest) -> Vocoder:
    return make_causal().pack() if request.param else make_causal()


@pytest.fixture(scope="module", params=[False, True], ids=["convolutions", "products"])
def public(request: pytest.FixtureRequest) -> Vocoder:
    return make_public().pack() if request.param else make_public()


def random_mel(batch: int = 1, frames: int = 60) -> torch.Tensor:
    mel = -4.4 + 2.2 * torch.randn(batch, 80, frames, generator=torch.Generator().manual_seed(5))
    mel[..., 20:25] = -11.5
    return mel


def spoken(vocoder: Vocoder, mel: torch.Tensor, chunks: list[int], **contexts: int) -> torch.Tensor:
    state = vocoder.initial_state(len(mel), **contexts)
    pieces = list(mel.split(chunks, dim=2))
    return torch.cat([vocoder.stream(p, state, last=i + 1 == len(pieces)) for i, p in enumerate(pieces)], dim=1)


@pytest.mark.parametrize("chunks", CHUNKINGS, ids=lambda chunks: f"{len(chunks)} chunks of {chunks[0]}")
@pytest.mark.parametrize("batch", [1, 2])
def test_causal_chunks_equal_the_whole(causal: Vocoder, chunks: list[int], batch: int) -> None:
    mel = random_mel(batch)
    whole = causal(mel)
    assert whole.shape == (batch, 60 * 480)
    assert whole.isfinite().all()
    assert whole.std() > 0.01
    streamed = spoken(causal, mel, chunks)
    assert streamed.shape == whole.shape
    assert (streamed - whole).abs().max() < TOLERANCE


def test_packed_weights_give_the_same_samples_under_the_same_names(causal: Vocoder, public: Vocoder) -> None:
    mel = random_mel(2)
    for vocoder in (causal, public):
        twin = Vocoder(vocoder.config).eval().requires_grad_(False)
        twin.load_state_dict(vocoder.state_dict())
        f0_BT = twin.predict_f0(mel)
        before = twin(mel, f0_BT=f0_BT)
        assert (before - twin.pack()(mel, f0_BT=f0_BT)).abs().max() < TOLERANCE
        assert (f0_BT - twin.predict_f0(mel)).abs().max() < TOLERANCE * f0_BT.max()
        assert all(layer.taps_KOC is not None for layer in twin.modules() if isinstance(layer, Conv))
        assert twin.state_dict().keys() == vocoder.state_dict().keys()


def test_only_float32_on_a_cpu_is_packed() -> None:
    lowered = lower(Vocoder(VocoderConfig(base_channels=32, f0_channels=16)).requires_grad_(False), torch.bfloat16)
    assert all(layer.taps_KOC is None for layer in lowered.pack().modules() if isinstance(layer, Conv))


@pytest.mark.parametrize("chunks", [[1] * 60, [1, 1, 7, 0, 2, 30, 19], [13, 47]], ids=len)
def test_public_weights_chunks_equal_the_whole(public: Vocoder, chunks: list[int]) -> None:
    mel = torch.cat([load_file(GOLDEN / "hift_io.safetensors")["mel"]] * 2, dim=2)
    assert (spoken(public, mel, chunks) - public(mel)).abs().max() < TOLERANCE_OF_PHASES


def test_public_weights_need_their_context(public: Vocoder) -> None:
    mel = torch.cat([load_file(GOLDEN / "hift_io.safetensors")["mel"]] * 2, dim=2)
    short = spoken(public, mel, [20, 20, 20], left_context=2, right_context=2)
    assert (short - public(mel)).abs().max() > 10 * TOLERANCE_OF_PHASES


def test_delay_is_the_lookahead(causal: Vocoder) -> None:
    state = causal.initial_state()
    assert causal.stream(random_mel(frames=1), state).shape == (1, 0)
    assert causal.stream(random_mel(frames=10), state).shape == (1, 9 * 480)


def test_samples_do_not_depend_on_frames_beyond_the_lookahead(causal: Vocoder) -> None:
    mel = random_mel()
    changed = mel.clone()
    changed[..., 32:] = -11.5
    difference = (causal(mel) - causal(changed)).abs()[0]
    assert difference[: 30 * 480].max() == 0
    assert difference[30 * 480 : 31 * 480].max() > 0


def test_state_size_stays_and_reset_and_clone(causal: Vocoder) -> None:
    mel = random_mel()
    state = causal.initial_state()
    assert isinstance(state, CausalState)
    sizes = [tensor.shape for tensor in state.past]
    first = causal.stream(mel, state)
    assert [tensor.shape for tensor in state.past] == sizes
    copy = state.clone()
    ahead = causal.stream(mel, state, last=True)
    assert torch.equal(causal.stream(mel, copy, last=True), ahead)
    state.reset_()
    assert torch.equal(causal.stream(mel, state), first)


def test_window_state_reset_and_clone(public: Vocoder) -> None:
    mel = random_mel()
    state = public.initial_state()
    first = public.stream(mel, state)
    copy = state.clone()
    assert torch.equal(public.stream(mel, copy), public.stream(mel, state))
    state.reset_()
    assert torch.equal(public.stream(mel, state), first)


def test_noise_drawn_in_parts_is_the_same() -> None:
    whole = draw_noise(torch.Generator().manual_seed(1), 2, 7, 480, 9)
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(torch.cat([draw_noise(generator, 2, n, 480, 9) for n in (1, 0, 4, 2)], dim=1), whole)
    assert abs(float(whole.std()) - 1) < 0.02


def test_phase_has_no_jump_between_frames(causal: Vocoder) -> None:
    f0 = torch.tensor([[100.0, 180.0, 0.0, 95.0]])
    phase = causal.m_source.step_phase(f0, torch.zeros(1, dtype=torch.float64)).flatten()
    assert phase.diff().max() <= 180 / 24_000 + 1e-9
    assert phase.diff().min() >= 0
