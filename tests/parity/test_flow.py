"""The flow decoder against vectors of the public implementation (reduced size, seeded weights)."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.parity.golden import Golden, Vectors
from tts.base import CheckpointError
from tts.decoder.config import FlowConfig
from tts.decoder.flow import FlowDecoder, flow_times
from tts.modules.attention import relative_positions
from tts.training.flow import flow_matching_loss

NOISE_SHA256 = "584a26e6eaad944407a96c5999aaa5cd0a6a359309a841eade68bf805c072322"
ENCODER, ESTIMATOR, MEL = "flow_encoder", "flow_estimator", "flow_mel"  # tolerances


@pytest.fixture(scope="module")
def golden(golden_folder: Golden) -> Vectors:
    return golden_folder.vectors("flow_io")


@pytest.fixture(scope="module")
def flow(golden_folder: Golden) -> FlowDecoder:
    model = FlowDecoder(golden_folder.flow()).eval()
    model.load_state_dict({k: v.float() for k, v in golden_folder.weights("flow_weights").items()})
    return model


def frames_first(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2)


def prompt(golden: Vectors, count: int) -> tuple[Tensor, Tensor] | tuple[None, None]:
    if not count:
        return None, None
    return golden["ptok"][:, :count].long(), frames_first(golden["pmel"])[:, :, : 2 * count]


def test_full_size_names_shapes_and_order(golden_folder: Golden) -> None:
    with torch.device("meta"):
        ours = FlowDecoder(FlowConfig()).state_dict()
    assert [(name, list(value.shape)) for name, value in ours.items()] == golden_folder.manifest("flow")


def test_noise_is_the_public_one(flow: FlowDecoder) -> None:
    noise = flow.decoder.noise(0, 15_000).T.contiguous()
    assert hashlib.sha256(noise.numpy().tobytes()).hexdigest() == NOISE_SHA256
    assert torch.equal(flow.decoder.noise(14_990, 20)[10:], flow.decoder.noise(0, 10))


def test_time_grid(flow: FlowDecoder, golden: Vectors) -> None:
    golden.close("t_span", flow_times(flow.config.num_flow_steps), MEL)


@torch.inference_mode()
@pytest.mark.parametrize("mode", ["full", "stream"])
def test_encoder(flow: FlowDecoder, golden: Vectors, mode: str) -> None:
    tokens = torch.cat([golden["ptok"][:, :25], golden["tok"][:, :38]], dim=1).long()
    embedded = flow.input_embedding(tokens)
    chunked = mode == "stream"
    golden.close(f"enc_{mode}_final", flow.encoder(embedded, chunked=chunked), ENCODER)
    golden.close(f"enc_{mode}_ctx", flow.encoder(embedded[:, :-3], embedded[:, -3:], chunked=chunked), ENCODER)


@torch.inference_mode()
def test_context_that_does_not_exist_counts_as_the_end(flow: FlowDecoder, golden: Vectors) -> None:
    embedded = flow.input_embedding(golden["tok"][:, :33].long()).repeat(2, 1, 1)
    mask = torch.tensor([[1.0, 1, 1], [0, 0, 0]])
    both = flow.encoder(embedded[:, :30], embedded[:, 30:], chunked=True, context_mask_BK=mask)
    alone = flow.encoder(embedded[:1, :30], embedded[:1, 30:], chunked=True)
    torch.testing.assert_close(both[:1], alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(both[1:], flow.encoder(embedded[:1, :30], chunked=True), atol=1e-4, rtol=0)
    assert (both[0] - both[1]).abs().max() > 1e-2


@torch.inference_mode()
def test_encoder_inner_values(flow: FlowDecoder, golden: Vectors) -> None:
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
    assert taps.keys() == places.keys()
    for name, value in taps.items():
        golden.close(name, value, ENCODER)
    positions = relative_positions(62, flow.config.encoder.width, torch.device("cpu"))
    golden.close("tap_posemb", positions[None], ENCODER)
    golden.close("enc_mu_full_final", mu, ENCODER)
    golden.close("spk_proj", flow.project_speaker(golden["spk"]), ENCODER)


@torch.inference_mode()
@pytest.mark.parametrize("mode", ["full", "stream"])
def test_estimator(flow: FlowDecoder, golden: Vectors, mode: str) -> None:
    estimator = flow.decoder.estimator
    inputs = (*(frames_first(golden[f"est_{name}"]) for name in ("x", "mu")), golden["est_spk"])
    inputs = (*inputs, frames_first(golden["est_cond"]), golden["est_t"])
    chunked = mode == "stream"
    golden.close(f"est_out_{mode}", frames_first(estimator(*inputs, chunked=chunked)), ESTIMATOR)
    ragged = estimator(*inputs, chunked=chunked, mask_BT=golden["est_mask_ragged"][:, 0])
    golden.close(f"est_out_{mode}_ragged", frames_first(ragged), ESTIMATOR)
    golden.close("est_temb", estimator.time_mlp(golden["est_t"]), ESTIMATOR)


@torch.inference_mode()
def test_each_euler_step(flow: FlowDecoder, golden: Vectors) -> None:
    path, times = golden["ode_x_per_step"], flow_times(flow.config.num_flow_steps)
    count = golden["ode_mel"].shape[2] // 2
    prompted = path.shape[2] // 2 - count
    tokens = torch.cat([golden["ptok"][:, :prompted], golden["tok"][:, :count]], dim=1).long()
    mu, speaker = flow.encode(tokens, chunked=False), flow.project_speaker(golden["spk"])
    cond = torch.zeros_like(mu)
    cond[:, : 2 * prompted] = golden["pmel"][:, : 2 * prompted]
    golden.near("ode_x_per_step", frames_first(flow.decoder.noise(0, path.shape[2])[None]), path[:1], MEL)
    golden.close("ode_t_per_step", times[:-1], MEL)

    path = frames_first(path)
    both = [torch.cat([part, torch.zeros_like(part)]) for part in (mu, speaker, cond)]
    raw = flow.decoder.estimator(path[:1].repeat(2, 1, 1), *both, times[:1].expand(2), chunked=False)
    golden.close("ode_v_step0_cond_uncond", frames_first(raw), ESTIMATOR)
    guidance = flow.config.guidance
    for i in range(len(path) - 1):
        here = path[i : i + 1]
        velocity = flow.predict_velocity(here, mu, speaker, cond, times[i], chunked=False, guidance=guidance)
        golden.near("ode_x_per_step", here + (times[i + 1] - times[i]) * velocity, path[i + 1 : i + 2], MEL)
    mel = flow.generate(golden["tok"][:, :count].long(), golden["spk"], *prompt(golden, prompted), chunked=False)
    golden.close("ode_mel", mel, MEL)


def test_mel(flow: FlowDecoder, golden: Vectors, recorded_mel: tuple[str, ...]) -> None:
    name, count, length, mode, final = recorded_mel
    mel = flow.generate(
        golden["tok"][:, : int(length)].long(),
        golden["spk"],
        *prompt(golden, int(count)),
        chunked=mode == "stream",
        final=final == "fin",
    )
    golden.close(name, mel, MEL)


def test_cached_steps_give_the_public_mel(flow: FlowDecoder, golden: Vectors, streamed_mel: tuple[str, ...]) -> None:
    name, count, length = streamed_mel
    parts = golden["tok"][:, : int(length)].long().tensor_split(3, dim=1)
    state = flow.start(golden["spk"], *prompt(golden, int(count)), cut_prompt=False)
    mels = [flow.step(part, state, last=i == 2) for i, part in enumerate(parts)]
    golden.close(name, torch.cat(mels, dim=2), MEL)


def test_growing_prefixes(flow: FlowDecoder, golden: Vectors, growing_prompt: int) -> None:
    start = f"mel_P{growing_prompt}_prefix"
    ends = sorted(int(name.removeprefix(start).partition("_")[0]) for name in golden if name.startswith(start))
    state = flow.start(golden["spk"], *prompt(golden, growing_prompt), cut_prompt=False)
    mel, done = torch.zeros(1, flow.config.mel_bins, 0), 0
    for end in ends:
        mel = torch.cat([mel, flow.step(golden["tok"][:, done:end].long(), state)], dim=2)
        done = end
        golden.close(f"{start}{end}_stream_nofin", mel, MEL)


@torch.inference_mode()
def test_loss(flow: FlowDecoder, golden: Vectors) -> None:
    noised = []
    hook = flow.decoder.estimator.register_forward_pre_hook(lambda _module, inputs: noised.append(inputs[0]))
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
    hook.remove()
    golden.close("loss_y", frames_first(noised[0]), ESTIMATOR)
    golden.close("loss_value", loss[None], ESTIMATOR)


def test_config_travels_as_json(golden_folder: Golden) -> None:
    reduced = golden_folder.flow()
    assert FlowConfig.from_dict(json.loads(json.dumps(reduced.to_dict()))) == reduced
    with pytest.raises(CheckpointError, match="num_stepz"):
        FlowConfig.from_dict({"num_stepz": 3})
    with pytest.raises(CheckpointError, match="prediction"):
        FlowConfig.from_dict({**reduced.to_dict(), "prediction": "noise"})
    assert replace(reduced, guidance=0.0) != reduced
