"""The speech tokenizer equals the public model: names, shapes, hidden states and codes."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity.golden import EXACT, Golden, Vectors
from tts import checkpoint
from tts.base import CheckpointError
from tts.features import log_mel_16k
from tts.tokenizer import SpeechTokenizer, SpeechTokenizerConfig, token_lengths


@pytest.fixture(scope="module")
def golden(golden_folder: Golden) -> Vectors:
    return golden_folder.vectors("features_s3_campplus_io")


@pytest.fixture(scope="module")
def model(golden_folder: Golden) -> SpeechTokenizer:
    model = SpeechTokenizer(golden_folder.speech_tokenizer())
    state = {name: value.float() for name, value in golden_folder.weights("s3tok_weights").items()}
    checkpoint.load_into(model, state, "golden")
    return model.eval()


def test_public_size_has_the_public_names_shapes_and_order(golden_folder: Golden) -> None:
    with torch.device("meta"):
        own = SpeechTokenizer(SpeechTokenizerConfig()).state_dict()
    assert [(name, list(value.shape)) for name, value in own.items()] == golden_folder.manifest("s3tokenizer_v2")


@torch.inference_mode()
def test_hidden_states_and_codes_of_a_ragged_batch(model: SpeechTokenizer, golden: Vectors) -> None:
    hidden = model.encoder(golden["s3_mel"], golden["s3_mel_len"])
    codes = model(golden["s3_mel"], golden["s3_mel_len"])
    lengths = token_lengths(golden["s3_mel_len"])
    golden.close("s3_code_len", lengths, EXACT)
    projected = model.quantizer._codebook.project_down(hidden).flatten(0, 1)
    golden.close("s3_project_down", projected, "s3_hidden")
    for item, length in enumerate(lengths.tolist()):
        golden.near("s3_hidden", hidden[item, :length], golden["s3_hidden"][item, :length], "s3_hidden")
        golden.near("s3_codes", codes[item, :length], golden["s3_codes"][item, :length], EXACT)


@torch.inference_mode()
def test_a_padded_item_gets_the_codes_it_gets_alone(model: SpeechTokenizer, golden: Vectors) -> None:
    length, num_tokens = int(golden["s3_mel_len"][1]), int(golden["s3_code_len"][1])
    alone = model(golden["s3_mel"][1:, :, :length])
    assert torch.equal(alone, model(golden["s3_mel"], golden["s3_mel_len"])[1:, :num_tokens])


def test_encode_gives_25_tokens_per_second(model: SpeechTokenizer, golden: Vectors) -> None:
    samples = golden["wav16k"][0].numpy()
    tokens = model.encode(samples)
    assert tokens.dtype == np.int16
    assert len(tokens) == len(samples) // 640
    whole = model(log_mel_16k(golden["wav16k"][:, : len(tokens) * 640]))[0]
    assert np.array_equal(tokens, whole.numpy())
    assert len(model.encode(samples[:639])) == 0


def test_a_long_recording_is_read_in_windows() -> None:
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
    checkpoint.save(tmp_path, model, model.config)
    assert SpeechTokenizer.load(tmp_path).config == model.config
