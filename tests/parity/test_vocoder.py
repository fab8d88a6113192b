"""The vocoder against numbers of the public implementation (reduced size) and the names of its file."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tts import checkpoint
from tts.base import CheckpointError
from tts.decoder.vocoder import Vocoder, VocoderConfig

GOLDEN = Path(__file__).parents[1] / "assets" / "golden"
REDUCED = VocoderConfig(base_channels=32, f0_channels=64)
SOURCE_TOLERANCE, SAMPLE_TOLERANCE, F0_TOLERANCE_HZ = 2e-3, 5e-3, 5e-3


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in load_file(GOLDEN / "hift_weights.safetensors").items()}


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "hift_io.safetensors")


@pytest.fixture(scope="module")
def vocoder(weights: dict[str, torch.Tensor]) -> Vocoder:
    return Vocoder.from_state(REDUCED, weights, "golden")


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


def test_public_names_shapes_and_order() -> None:
    expected = json.loads((GOLDEN / "hift_manifest.json").read_text())
    with torch.device("meta"):
        own = Vocoder(VocoderConfig(), weight_norm=True).state_dict()
    assert [(name, list(value.shape)) for name, value in own.items()] == list(expected.items())


def test_f0(vocoder: Vocoder, golden: dict[str, torch.Tensor]) -> None:
    assert difference(vocoder.predict_f0(golden["mel"]), golden["f0"]) < F0_TOLERANCE_HZ


@pytest.mark.parametrize("name", ["source", "source_zero_noise"])
def test_source(vocoder: Vocoder, golden: dict[str, torch.Tensor], name: str) -> None:
    noise = golden["noise"] if name == "source" else torch.zeros_like(golden["noise"])
    source = vocoder.source(golden["f0"], noise, torch.zeros(1, dtype=torch.float64))
    assert difference(source[:, None], golden[name]) < SOURCE_TOLERANCE


def test_short_fourier(vocoder: Vocoder, golden: dict[str, torch.Tensor]) -> None:
    padded = torch.nn.functional.pad(golden["source_zero_noise"], (8, 8), mode="reflect")[:, 0]
    spectrum = vocoder.fourier.analyse(padded)[..., :400]
    assert difference(spectrum, torch.cat([golden["stft_re"], golden["stft_im"]], dim=1)) < 1e-5


def test_inner_layers(vocoder: Vocoder, golden: dict[str, torch.Tensor]) -> None:
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out, key=key: seen.setdefault(key, out))
        for key, layer in (("tap_conv_pre", vocoder.conv_pre), ("tap_up0", vocoder.ups[0]))
    ]
    hooks.append(vocoder.ups[1].register_forward_pre_hook(lambda _m, args: seen.setdefault("stage0", args[0])))
    vocoder.decode(golden["mel"], golden["source_zero_noise"][:, 0])
    for hook in hooks:
        hook.remove()
    assert difference(seen["tap_conv_pre"], golden["tap_conv_pre"]) < 1e-4
    assert difference(seen["tap_up0"], golden["tap_up0"]) < 1e-4
    assert difference(seen["stage0"], torch.nn.functional.leaky_relu(golden["tap_stage0"], 0.1)) < 1e-3


@pytest.mark.parametrize("name", ["wav", "wav_zero_noise"])
def test_samples(vocoder: Vocoder, golden: dict[str, torch.Tensor], name: str) -> None:
    noise = golden["noise"] if name == "wav" else torch.zeros_like(golden["noise"])
    assert difference(vocoder(golden["mel"], noise_BNH=noise), golden[name]) < SAMPLE_TOLERANCE


def test_samples_of_a_given_source(vocoder: Vocoder, golden: dict[str, torch.Tensor]) -> None:
    source = golden["source_zero_noise"].clone()
    source[..., :3840] = golden["cache_source"]
    samples = vocoder.decode(golden["mel"], source[:, 0])
    assert difference(samples, golden["wav_cached_source_zero_noise"]) < SAMPLE_TOLERANCE


def test_older_weight_norm_names_and_gan_prefix(
    vocoder: Vocoder, weights: dict[str, torch.Tensor], golden: dict[str, torch.Tensor]
) -> None:
    def older(name: str) -> str:
        name = name.replace("parametrizations.weight.original0", "weight_g")
        return "generator." + name.replace("parametrizations.weight.original1", "weight_v")

    state = {older(name): value for name, value in weights.items()} | {"discriminator.x": torch.zeros(1)}
    source = golden["source"][:, 0]
    renamed = Vocoder.from_state(REDUCED, state, "old").decode(golden["mel"], source)
    assert difference(renamed, vocoder.decode(golden["mel"], source)) == 0


def test_fused_weights_survive_a_folder(vocoder: Vocoder, golden: dict[str, torch.Tensor], tmp_path: Path) -> None:
    checkpoint.save(tmp_path, vocoder, vocoder.config, dtype=torch.float32)
    again = Vocoder.load(tmp_path)
    assert again.config == vocoder.config
    assert difference(again.predict_f0(golden["mel"]), vocoder.predict_f0(golden["mel"])) == 0
    (tmp_path / "config.json").write_text(json.dumps({**dataclasses.asdict(vocoder.config), "layers": 3}))
    with pytest.raises(CheckpointError, match="layers"):
        Vocoder.load(tmp_path)


def test_missing_tensor_is_named(weights: dict[str, torch.Tensor]) -> None:
    state = {name: value for name, value in weights.items() if name != "conv_post.bias"}
    with pytest.raises(CheckpointError, match=r"conv_post\.bias"):
        Vocoder.from_state(REDUCED, state, "broken")
