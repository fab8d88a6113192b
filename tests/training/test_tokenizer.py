"""The tokenizer trainer learns, is repeatable, and encodes a corpus as the tokenizer itself would."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tts.tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from tts.training.tokenizer import Store, TokenizerTask, TokenizerTraining, encode_all

PHONES = ("low", "high", "pau")
HZ = {"low": 300.0, "high": 2500.0, "pau": 0.0}
TINY = SpeechTokenizerConfig(
    num_mels=40, width=32, num_heads=2, num_layers=1, fsmn_kernel=3, code_dims=3, window_s=2.0, overlap_s=1.0
)
TRAINING = TokenizerTraining(batch_s=8.0, crops_s=(1.0,), decoder_width=24, decoder_layers=1)


@dataclass(frozen=True)
class Tones:
    voice: str
    phones: tuple[tuple[str, float], ...]


def tones(seed: int, voice: str = "a", count: int = 12) -> tuple[np.ndarray, Tones]:
    """Random "phones" of 80 to 200 ms, each a tone or silence."""
    generator = np.random.default_rng(seed)
    pieces, phones, end = [], [], 0.0
    for _ in range(count):
        name = PHONES[generator.integers(3)]
        length = 960 * int(generator.integers(2, 6))
        end += length / 24_000
        pieces.append(0.2 * np.sin(2 * np.pi * HZ[name] * np.arange(length) / 24_000) * (name != "pau"))
        phones.append((name, end))
    return np.concatenate(pieces).astype(np.float32), Tones(voice, tuple(phones))


@pytest.fixture(scope="module")
def task() -> TokenizerTask:
    torch.manual_seed(0)
    train = [tones(seed, voice) for seed, voice in enumerate("abab")]
    return TokenizerTask(train, {"heldout": [tones(99)]}, PHONES, TINY, TRAINING)


def test_labels_follow_the_phone_times() -> None:
    samples, speech = tones(3)
    store = Store([(samples, speech)], PHONES, 40)
    times = (np.arange(len(samples) // 480) + 0.5) * 0.02
    expected = [PHONES.index(next(name for name, end in speech.phones if time < end)) for time in times]
    assert store.phones_F.tolist() == expected
    assert len(store.log_mel_TM) == 2 * len(store.mel_FM) == 2 * len(expected)


def test_utterances_of_a_voice_lie_side_by_side() -> None:
    store = Store([tones(0, "b"), tones(1, "a"), tones(2, "b")], PHONES, 40)
    assert store.voices == ["a", "b"]
    assert store.voice_of.tolist() == [0, 1, 1]
    assert store.voice_span(0) == (0, len(tones(1)[0]) // 960)
    assert store.voice_span(1)[1] * 2 == len(store.mel_FM)


def test_a_batch_depends_on_its_step_alone(task: TokenizerTask) -> None:
    torch.manual_seed(5)
    first, _ = task.loss(3, 0.0)
    task.loss(4, 0.0)
    torch.manual_seed(5)
    again, _ = task.loss(3, 0.0)
    assert first.item() == again.item()


def test_it_learns_and_the_exported_tokenizer_encodes(task: TokenizerTask, tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=5e-3)
    for step in range(60):
        loss, _values = task.loss(step, step / 60)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    task.module.eval()
    with torch.no_grad():
        figures = task.evaluate()
    assert figures["heldout_phone_accuracy"] > 0.8
    assert figures["heldout_tokens_used"] >= 3

    task.export(tmp_path)
    tokenizer = SpeechTokenizer.load(tmp_path)
    recordings = [tones(seed, count=count)[0] for seed, count in ((1, 3), (2, 9), (3, 6), (4, 30))] + [
        np.zeros(0, np.float32)
    ]
    together = encode_all(tokenizer, recordings, batch_s=2.0)
    for samples, tokens in zip(recordings, together, strict=True):
        alone = encode_all(tokenizer, [samples])[0]
        assert tokens.dtype == np.int16
        assert len(tokens) == len(samples) // 960
        assert np.mean(tokens != alone) <= 0.02 if len(tokens) else True
    assert len(np.unique(np.concatenate(together))) >= 3
