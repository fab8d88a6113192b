"""The speaker encoder equals the public CAM++: names, shapes, head and embedding."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity.golden import Golden, Vectors
from tts import checkpoint
from tts.base import CheckpointError
from tts.speaker import SpeakerConfig, SpeakerEncoder


@pytest.fixture(scope="module")
def golden(golden_folder: Golden) -> Vectors:
    return golden_folder.vectors("features_s3_campplus_io")


@pytest.fixture(scope="module")
def model(golden_folder: Golden) -> SpeakerEncoder:
    model = SpeakerEncoder(golden_folder.speaker())
    state = golden_folder.weights("campplus_weights")
    checkpoint.load_into(model, {n: v.float() if v.is_floating_point() else v for n, v in state.items()}, "golden")
    return model.eval()


def test_public_size_has_the_public_names_shapes_and_order(golden_folder: Golden) -> None:
    with torch.device("meta"):
        own = SpeakerEncoder(SpeakerConfig()).state_dict()
    assert [(name, list(value.shape)) for name, value in own.items()] == golden_folder.manifest("campplus_torch")


@torch.inference_mode()
def test_head_and_embedding(model: SpeakerEncoder, golden: Vectors) -> None:
    head = model.head(golden["cam_in"])
    golden.close("cam_head", head[:, :, : golden["cam_head"].shape[2]], "campplus")
    golden.close("cam_emb", model(golden["cam_in"]), "campplus")


def test_embed_does_not_hear_the_level(model: SpeakerEncoder, golden: Vectors) -> None:
    samples = golden["wav16k"][0].numpy()
    vector = model.embed(samples)
    assert vector.shape == (model.config.embedding_size,)
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, model.embed(samples * 0.5), atol=0.05)
    assert np.abs(vector - model.embed(samples[::-1].copy())).max() > 0.01


def test_a_foreign_folder_is_refused(tmp_path: Path, model: SpeakerEncoder) -> None:
    checkpoint.save(tmp_path, model, {"width": 3})
    with pytest.raises(CheckpointError, match="not of a speaker encoder"):
        SpeakerEncoder.load(tmp_path)
    checkpoint.save(tmp_path, model, model.config)
    assert SpeakerEncoder.load(tmp_path).config == model.config
