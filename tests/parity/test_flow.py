"""The flow decoder against vectors of the public implementation (reduced size, seeded weights)."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tts.base import CheckpointError
from tts.decoder.config import EncoderConfig, EstimatorConfig, FlowConfig
from tts.decoder.flow import FlowDecoder, flow_times
from tts.modules.attention import relative_positions
from tts.training.flow import flow_matching_loss

GOLDEN = Path(__file__).parents[1] / "assets" / "golden"
REDUCED = FlowConfig(
    vocabulary_size=243,
    encoder=EncoderConfig(width=48, num_heads=4, ffn_width=96, num_blocks=2, num_up_blocks=2),
    estimator=EstimatorConfig(
        width=32, num_heads=2, head_width=16, num_transformers=2, num_mid_blocks=2, time_width=128
    ),
)
NOISE_SHA256 = "584a26e6eaad944407a96c5999aaa5cd0a6a359309a841eade68bf805c072322"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "flow_io.safetensors")


@pytest.fixture(scope="module")
def flow() -> FlowDecoder:
    model = FlowDecoder(REDUCED).eval()
    model.load_state_dict({k: v.float() for k, v in load_file(GOLDEN / "flow_weights.safetensors").items()})
    return model


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def frames_first(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2)


def prompt(golden: dict[str, Tensor], count: int) -> tuple[Tensor, Tensor] | tuple[None, None]:
    if not count:
        return None, None
    return golden["ptok"][:, :count].long(), frames_first(golden["pmel"])[:, :, : 2 * count]


def test_full_size_names_shapes_and_order() -> None:
    manifest = json.loads((GOLDEN / "flow_manifest.json").read_text())
    with torch.device("meta"):
        ours = FlowDecoder(FlowConfig()).state_dict()
    assert [(name, list(value.shape)) for name, value in ours.items()] == list(manifest.items())


def test_noise_is_the_public_one(flow: FlowDecoder) -> None:
    noise = flow.decoder.noise(0, 15_000).T.contiguous()
    assert hashlib.sha256(noise.numpy().tobytes()).hexdigest() == NOISE_SHA256
    assert torch.equal(flow.decoder.noise(14_990, 20)[10:], flow.decoder.noise(0, 10))


def test_time_grid(golden: dict[str, Tensor]) -> None:
    close(flow_times(10), golden["t_span"])


@torch.inference_mode()
@pytest.mark.parametrize("mode", ["full", "stream"])
def test_encoder(flow: FlowDecoder, golden: dict[str, Tensor], mode: str) -> None:
    tokens = torch.cat([golden["ptok"][:, :25], golden["tok"][:, :38]], dim=1).long()
    embedded = flow.input_embedding(tokens)
    chunked = mode == "stream"
    close(flow.encoder(embedded, chunked=chunked), golden[f"enc_{mode}_final"])
    close(flow.encoder(embedded[:, :-3], embedded[:, -3:], chunked=chunked), golden[f"enc_{mode}_ctx"])


@torch.inference_mode()
def test_context_that_does_not_exist_counts_as_the_end(flow: FlowDecoder, golden: dict[str, Tensor]) -> None:
    embedded = flow.input_embedding(golden["tok"][:, :33].long()).repeat(2, 1, 1)
    mask = torch.tensor([[1.0, 1, 1], [0, 0, 0]])
    both = flow.encoder(embedded[:, :30], embedded[:, 30:], chunked=True, context_mask_BK=mask)
    close(both[:1], flow.encoder(embedded[:1, :30], embedded[:1, 30:], chunked=True))
    close(both[1:], flow.encoder(embedded[:1, :30], chunked=True))
    assert (both[0] - both[1]).abs().max() > 1e-2


@torch.inference_mode()
def test_encoder_inner_values(flow: FlowDecoder, golden: dict[str, Tensor]) -> None:
    taps: dict[str, Tensor] = {}
    encoder = flow.encoder
    places = {
        "tap_embed": encoder.embed,
        "tap_prelookahead": encoder.pre_lookahead_layer,
        "tap_enc0": encoder.encoders[0],
    }
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, out, name=name: taps.update({name: out}))
        for name, module in places.items()
    ]
    mu = flow.encode(torch.cat([golden["ptok"][:, :25], golden["tok"][:, :38]], dim=1).long(), chunked=False)
    for hook in hooks:
        hook.remove()
    for name, value in taps.items():
        close(value, golden[name])
    close(relative_positions(62, 48, torch.device("cpu"))[None], golden["tap_posemb"])
    close(mu, golden["enc_mu_full_final"])
    close(flow.project_speaker(golden["spk"]), golden["spk_proj"])


@torch.inference_mode()
@pytest.mark.parametrize("mode", ["full", "stream"])
def test_estimator(flow: FlowDecoder, golden: dict[str, Tensor], mode: str) -> None:
    estimator = flow.decoder.estimator
    inputs = (*(frames_first(golden[f"est_{name}"]) for name in ("x", "mu")), golden["est_spk"])
    inputs = (*inputs, frames_first(golden["est_cond"]), golden["est_t"])
    chunked = mode == "stream"
    close(estimator(*inputs, chunked=chunked), frames_first(golden[f"est_out_{mode}"]))
    ragged = estimator(*inputs, chunked=chunked, mask_BT=golden["est_mask_ragged"][:, 0])
    close(ragged, frames_first(golden[f"est_out_{mode}_ragged"]))
    close(estimator.time_mlp(golden["est_t"]), golden["est_temb"])


@torch.inference_mode()
def test_each_euler_step(flow: FlowDecoder, golden: dict[str, Tensor]) -> None:
    tokens = torch.cat([golden["ptok"][:, :10], golden["tok"][:, :20]], dim=1).long()
    mu, speaker = flow.encode(tokens, chunked=False), flow.project_speaker(golden["spk"])
    cond = torch.zeros_like(mu)
    cond[:, :20] = golden["pmel"][:, :20]
    path, times = frames_first(golden["ode_x_per_step"]), flow_times(10)
    close(flow.decoder.noise(0, 60)[None], path[:1])
    close(times[:-1], golden["ode_t_per_step"])

    both = [torch.cat([part, torch.zeros_like(part)]) for part in (mu, speaker, cond)]
    raw = flow.decoder.estimator(path[:1].repeat(2, 1, 1), *both, times[:1].expand(2), chunked=False)
    close(raw, frames_first(golden["ode_v_step0_cond_uncond"]))
    for i in range(9):
        velocity = flow.predict_velocity(path[i : i + 1], mu, speaker, cond, times[i], chunked=False, guidance=0.7)
        close(path[i : i + 1] + (times[i + 1] - times[i]) * velocity, path[i + 1 : i + 2])
    mel = flow.generate(golden["tok"][:, :20].long(), golden["spk"], *prompt(golden, 10), chunked=False)
    close(mel, golden["ode_mel"])


@pytest.mark.parametrize("final", ["fin", "nofin"])
@pytest.mark.parametrize("mode", ["full", "stream"])
@pytest.mark.parametrize("count", [0, 25, 40])
def test_mel(flow: FlowDecoder, golden: dict[str, Tensor], count: int, mode: str, final: str) -> None:
    mel = flow.generate(
        golden["tok"].long(), golden["spk"], *prompt(golden, count), chunked=mode == "stream", final=final == "fin"
    )
    close(mel, golden[f"mel_P{count}_N90_{mode}_{final}"])


@pytest.mark.parametrize("count", [0, 25, 40])
def test_cached_steps_give_the_public_mel(flow: FlowDecoder, golden: dict[str, Tensor], count: int) -> None:
    tokens = golden["tok"].long()
    state = flow.start(golden["spk"], *prompt(golden, count), cut_prompt=False)
    parts = [flow.step(part, state, last=i == 2) for i, part in enumerate(tokens.split([28, 31, 31], dim=1))]
    close(torch.cat(parts, dim=2), golden[f"mel_P{count}_N90_stream_fin"])


def test_growing_prefixes(flow: FlowDecoder, golden: dict[str, Tensor]) -> None:
    state = flow.start(golden["spk"], *prompt(golden, 25), cut_prompt=False)
    mel, done = torch.zeros(1, 80, 0), 0
    for end in (28, 53, 78):
        mel = torch.cat([mel, flow.step(golden["tok"][:, done:end].long(), state)], dim=2)
        done = end
        close(mel, golden[f"mel_P25_prefix{end}_stream_nofin"])


@torch.inference_mode()
def test_loss(flow: FlowDecoder, golden: dict[str, Tensor]) -> None:
    time, noise, target = golden["loss_t"][:, 0, 0], frames_first(golden["loss_z"]), frames_first(golden["loss_x1"])
    loss = flow_matching_loss(
        flow,
        target,
        frames_first(golden["loss_mu"]),
        golden["loss_spk"],
        frames_first(golden["loss_cond"]),
        time_B=time,
        noise_BTM=noise,
        keep_B=(golden["loss_cfg_draw"] > 0.2).float(),
        chunked=True,
        mask_BT=golden["loss_mask"][:, 0],
    )
    close(loss[None], golden["loss_value"])


def test_config_travels_as_json() -> None:
    assert FlowConfig.from_dict(json.loads(json.dumps(REDUCED.to_dict()))) == REDUCED
    with pytest.raises(CheckpointError, match="num_stepz"):
        FlowConfig.from_dict({"num_stepz": 3})
    with pytest.raises(CheckpointError, match="prediction"):
        FlowConfig.from_dict({**REDUCED.to_dict(), "prediction": "noise"})
    assert replace(REDUCED, guidance=0.0) != REDUCED
