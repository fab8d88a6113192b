"""The speaker encoder equals the public CAM++: names, shapes, head and embedding."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tts import checkpoint
from tts.base import CheckpointError
from tts.speaker import SpeakerConfig, SpeakerEncoder

GOLDEN = Path(__file__).parents[1] / "assets" / "golden"
REDUCED = SpeakerConfig(embedding_size=24, growth=4, bottleneck=2, init_channels=16)


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "features_s3_campplus_io.safetensors")


@pytest.fixture(scope="module")
def model() -> SpeakerEncoder:
    model = SpeakerEncoder(REDUCED)
    state = load_file(GOLDEN / "campplus_weights.safetensors")
    checkpoint.load_into(model, {n: v.float() if v.is_floating_point() else v for n, v in state.items()}, "golden")
    return model.eval()


def test_public_size_has_the_public_names_and_shapes() -> None:
    manifest = json.loads((GOLDEN / "campplus_weights_manifest.json").read_text())
    with torch.device("meta"):
        own = SpeakerEncoder(SpeakerConfig()).state_dict()
    assert {name: list(value.shape) for name, value in own.items()} == manifest


@torch.inference_mode()
def test_head_and_embedding(model: SpeakerEncoder, golden: dict[str, torch.Tensor]) -> None:
    head = model.head(golden["cam_in"])
    torch.testing.assert_close(head[:, :, :20], golden["cam_head"], atol=1e-4, rtol=0)
    torch.testing.assert_close(model(golden["cam_in"]), golden["cam_emb"], atol=1e-4, rtol=0)


def test_embed_does_not_hear_the_level(model: SpeakerEncoder, golden: dict[str, torch.Tensor]) -> None:
    samples = golden["wav16k"][0].numpy()
    vector = model.embed(samples)
    assert vector.shape == (24,)
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, model.embed(samples * 0.5), atol=0.05)
    assert np.abs(vector - model.embed(samples[::-1].copy())).max() > 0.01


def test_a_foreign_folder_is_refused(tmp_path: Path, model: SpeakerEncoder) -> None:
    checkpoint.save(tmp_path, model, {"width": 3})
    with pytest.raises(CheckpointError, match="not of a speaker encoder"):
        SpeakerEncoder.load(tmp_path)
    checkpoint.save(tmp_path, model, REDUCED)
    assert SpeakerEncoder.load(tmp_path).config == REDUCED
