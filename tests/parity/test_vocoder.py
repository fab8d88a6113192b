"""The vocoder against numbers of the public implementation (reduced size) and the names of its file."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tests.parity.golden import Golden, Vectors
from tts import checkpoint
from tts.base import CheckpointError
from tts.decoder.vocoder import Vocoder, VocoderConfig

F0, SOURCE, SAMPLES = "hift_f0_hz", "hift_source", "hift_wav"  # tolerances


@pytest.fixture(scope="module")
def weights(golden_folder: Golden) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in golden_folder.weights("hift_weights").items()}


@pytest.fixture(scope="module")
def golden(golden_folder: Golden) -> Vectors:
    return golden_folder.vectors("hift_io")


@pytest.fixture(scope="module")
def vocoder(golden_folder: Golden, weights: dict[str, torch.Tensor]) -> Vocoder:
    return Vocoder.from_state(golden_folder.vocoder(), weights, "golden")


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


def test_public_names_shapes_and_order(golden_folder: Golden) -> None:
    with torch.device("meta"):
        own = Vocoder(VocoderConfig(), weight_norm=True).state_dict()
    assert [(name, list(value.shape)) for name, value in own.items()] == golden_folder.manifest("hift")


def test_f0(vocoder: Vocoder, golden: Vectors) -> None:
    golden.close("f0", vocoder.predict_f0(golden["mel"]), F0)


@pytest.mark.parametrize("name", ["source", "source_zero_noise"])
def test_source(vocoder: Vocoder, golden: Vectors, name: str) -> None:
    noise = golden["noise"] if name == "source" else torch.zeros_like(golden["noise"])
    source = vocoder.source(golden["f0"], noise, torch.zeros(1, dtype=torch.float64))
    golden.close(name, source[:, None], SOURCE)


def test_short_fourier(vocoder: Vocoder, golden: Vectors) -> None:
    padded = torch.nn.functional.pad(golden["source_zero_noise"], (8, 8), mode="reflect")[:, 0]
    real, imaginary = vocoder.fourier.analyse(padded)[..., : golden["stft_re"].shape[2]].chunk(2, dim=1)
    golden.close("stft_re", real, 1e-5)
    golden.close("stft_im", imaginary, 1e-5)


def test_inner_layers(vocoder: Vocoder, golden: Vectors) -> None:
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out, key=key: seen.setdefault(key, out))
        for key, layer in (("tap_conv_pre", vocoder.conv_pre), ("tap_up0", vocoder.ups[0]))
    ]
    hooks.append(vocoder.ups[1].register_forward_pre_hook(lambda _m, args: seen.setdefault("stage0", args[0])))
    vocoder.decode(golden["mel"], golden["source_zero_noise"][:, 0])
    for hook in hooks:
        hook.remove()
    golden.close("tap_conv_pre", seen["tap_conv_pre"], 1e-4)
    golden.close("tap_up0", seen["tap_up0"], 1e-4)
    stage0 = torch.nn.functional.leaky_relu(golden["tap_stage0"], vocoder.config.leaky_slope)
    golden.near("tap_stage0", seen["stage0"], stage0, 1e-3)


@pytest.mark.parametrize("name", ["wav", "wav_zero_noise"])
def test_samples(vocoder: Vocoder, golden: Vectors, name: str) -> None:
    noise = golden["noise"] if name == "wav" else torch.zeros_like(golden["noise"])
    golden.close(name, vocoder(golden["mel"], noise_BNH=noise), SAMPLES)


def test_samples_of_a_given_source(vocoder: Vocoder, golden: Vectors) -> None:
    source = golden["source_zero_noise"].clone()
    source[..., : golden["cache_source"].shape[2]] = golden["cache_source"]
    golden.close("wav_cached_source_zero_noise", vocoder.decode(golden["mel"], source[:, 0]), SAMPLES)


def test_older_weight_norm_names_and_gan_prefix(
    vocoder: Vocoder, weights: dict[str, torch.Tensor], golden: Vectors
) -> None:
    def older(name: str) -> str:
        name = name.replace("parametrizations.weight.original0", "weight_g")
        return "generator." + name.replace("parametrizations.weight.original1", "weight_v")

    state = {older(name): value for name, value in weights.items()} | {"discriminator.x": torch.zeros(1)}
    source = golden["source"][:, 0]
    renamed = Vocoder.from_state(vocoder.config, state, "old").decode(golden["mel"], source)
    assert difference(renamed, vocoder.decode(golden["mel"], source)) == 0


def test_fused_weights_survive_a_folder(vocoder: Vocoder, golden: Vectors, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, vocoder, vocoder.config, dtype=torch.float32)
    again = Vocoder.load(tmp_path)
    assert again.config == vocoder.config
    assert difference(again.predict_f0(golden["mel"]), vocoder.predict_f0(golden["mel"])) == 0
    (tmp_path / "config.json").write_text(json.dumps({**dataclasses.asdict(vocoder.config), "layers": 3}))
    with pytest.raises(CheckpointError, match="layers"):
        Vocoder.load(tmp_path)


def test_missing_tensor_is_named(vocoder: Vocoder, weights: dict[str, torch.Tensor]) -> None:
    state = {name: value for name, value in weights.items() if name != "conv_post.bias"}
    with pytest.raises(CheckpointError, match=r"conv_post\.bias"):
        Vocoder.from_state(vocoder.config, state, "broken")
