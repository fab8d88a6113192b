"""The speech tokenizer equals the public model: names, shapes, hidden states and codes."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tts import checkpoint
from tts.base import CheckpointError
from tts.features import log_mel_16k
from tts.tokenizer import SpeechTokenizer, SpeechTokenizerConfig, token_lengths

GOLDEN = Path(__file__).parents[1] / "assets" / "golden"
REDUCED = SpeechTokenizerConfig(width=64, num_heads=1, num_layers=2)


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "features_s3_campplus_io.safetensors")


@pytest.fixture(scope="module")
def model() -> SpeechTokenizer:
    model = SpeechTokenizer(REDUCED)
    state = {name: value.float() for name, value in load_file(GOLDEN / "s3tok_weights.safetensors").items()}
    checkpoint.load_into(model, state, "golden")
    return model.eval()


def test_public_size_has_the_public_names_and_shapes() -> None:
    manifest = json.loads((GOLDEN / "s3tok_weights_manifest.json").read_text())
    with torch.device("meta"):
        own = SpeechTokenizer(SpeechTokenizerConfig()).state_dict()
    assert {name: list(value.shape) for name, value in own.items()} == manifest


@torch.inference_mode()
def test_hidden_states_and_codes_of_a_ragged_batch(model: SpeechTokenizer, golden: dict[str, torch.Tensor]) -> None:
    hidden = model.encoder(golden["s3_mel"], golden["s3_mel_len"])
    codes = model(golden["s3_mel"], golden["s3_mel_len"])
    lengths = token_lengths(golden["s3_mel_len"])
    assert torch.equal(lengths, golden["s3_code_len"])
    for item, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(hidden[item, :length], golden["s3_hidden"][item, :length], atol=1e-3, rtol=0)
        assert torch.equal(codes[item, :length].int(), golden["s3_codes"][item, :length])


@torch.inference_mode()
def test_a_padded_item_gets_the_codes_it_gets_alone(model: SpeechTokenizer, golden: dict[str, torch.Tensor]) -> None:
    alone = model(golden["s3_mel"][1:, :, :121])
    assert torch.equal(alone, model(golden["s3_mel"], golden["s3_mel_len"])[1:, :31])


def test_encode_gives_25_tokens_per_second(model: SpeechTokenizer, golden: dict[str, torch.Tensor]) -> None:
    samples = golden["wav16k"][0].numpy()
    tokens = model.encode(samples)
    assert tokens.dtype == np.int16
    assert len(tokens) == len(samples) // 640 == 15
    whole = model(log_mel_16k(golden["wav16k"][:, : 15 * 640]))[0]
    assert np.array_equal(tokens, whole.numpy())
    assert len(model.encode(samples[:639])) == 0


def test_a_long_recording_is_read_in_windows(golden: dict[str, torch.Tensor]) -> None:
    generator = np.random.default_rng(0)
    samples = (generator.standard_normal(16_000 * 7) * np.linspace(0.01, 0.2, 16_000 * 7)).astype(np.float32)
    torch.manual_seed(0)
    short = SpeechTokenizer(
        SpeechTokenizerConfig(width=32, num_heads=1, num_layers=1, fsmn_kernel=5, window_s=3.0, overlap_s=2.0)
    )
    # Attention sees its window only, so take it away: what is left sees a few tokens and must not notice the seams.
    torch.nn.init.zeros_(short.encoder.blocks[0].attn.out.weight)
    whole = SpeechTokenizer(SpeechTokenizerConfig(width=32, num_heads=1, num_layers=1, fsmn_kernel=5))
    whole.load_state_dict(short.state_dict())
    assert len(short.encode(samples)) == 175
    assert np.array_equal(short.encode(samples), whole.encode(samples))
    for count in range(1, 400):
        kept = [(keep_from, keep_to) for _, _, keep_from, keep_to in short._windows(count)]
        assert kept[0][0] == 0
        assert kept[-1][1] == count
        assert all(before[1] == after[0] for before, after in itertools.pairwise(kept))


def test_a_foreign_folder_is_refused(tmp_path: Path, model: SpeechTokenizer) -> None:
    checkpoint.save(tmp_path, model, {"channels": 3})
    with pytest.raises(CheckpointError, match="not of a speech tokenizer"):
        SpeechTokenizer.load(tmp_path)
    checkpoint.save(tmp_path, model, REDUCED)
    assert SpeechTokenizer.load(tmp_path).config == REDUCED
