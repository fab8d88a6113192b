"""CosyVoice 2's folder in the assistant: it loads, speaks, and takes voices by name; all at reduced size."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tts
from configs.schema import InterleavedTtsConfig, RuntimeConfig, TtsConfig
from tests import public_folder
from tts.base import CheckpointError, PcmChunk, VoiceError
from tts.stream import SyncSpeech
from tts.vocabulary import TextVocabulary

REFERENCE = tts.ASSETS / "voice" / "reference.flac"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return public_folder.write(tmp_path_factory.mktemp("CosyVoice2-0.5B"))


def config(folder: Path, **changed: Any) -> TtsConfig:
    path = str(folder)
    chosen = TtsConfig(
        backend="interleaved",
        interleaved=InterleavedTtsConfig(model=path),
        flow=path,
        vocoder=path,
        speech_tokenizer=path,
        speaker=path,
        num_flow_steps=2,
    )
    return replace(chosen, **changed)


@pytest.fixture
def built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> SyncSpeech:
    public_folder.shrink(monkeypatch)
    return tts.build(config(folder), RuntimeConfig(device="cpu"))


def speak(synthesizer: SyncSpeech, voice: Any = None) -> np.ndarray:
    stream = synthesizer.stream(voice=voice, share_ids=False)
    stream.push(0, "Good morning to all of you, and welcome.")
    stream.finish()
    made = []
    while (step := stream.step()) is not None:
        if isinstance(step, PcmChunk):
            made.append(step.samples)
    return np.concatenate(made)


def test_it_speaks_with_its_own_voice_and_those_of_the_table(built: SyncSpeech, folder: Path) -> None:
    samples = {"bundled": speak(built)}
    for name in ("anna", "bert", "clara"):
        samples[name] = speak(built, built.voice(folder / f"spk2info.pt:{name}"))
    samples["recording"] = speak(built, built.voice(REFERENCE))
    for spoken in samples.values():
        assert len(spoken) > 24_000
        assert np.isfinite(spoken).all()
    assert np.array_equal(samples["bundled"], samples["recording"])  # the bundled voice in this decoder's terms
    assert not np.array_equal(samples["anna"], samples["clara"])


def test_named_voices_hold_what_the_table_says(folder: Path) -> None:
    from tts.voice_table import named_voice

    anna = named_voice(folder / "spk2info.pt:anna")
    assert (anna.tokens.shape, anna.mel.shape, anna.embedding.shape) == ((60,), (80, 120), (192,))
    assert anna.tokens.dtype == np.int64
    assert named_voice(folder / "spk2info.pt:bert").mel.dtype == np.float32
    assert named_voice(folder / "spk2info.pt:clara").tokens.shape == (0,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("spk2info.pt", "has no voice ''.*anna, bert, clara"),
        ("spk2info.pt:dora", "has no voice 'dora'.*anna, bert, clara"),
        ("none.pt:anna", "there is no voice table"),
    ],
)
def test_a_voice_that_is_not_there(built: SyncSpeech, folder: Path, name: str, message: str) -> None:
    with pytest.raises(VoiceError, match=message):
        built.voice(folder / name)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "is a int, not the values of a speaker"),
        ({}, "has no speaker vector; it holds nothing"),
        ({"embedding": 3}, "embedding is a int, not a tensor"),
        ({"embedding": torch.zeros(1, 0)}, "expected"),
        ({"embedding": torch.zeros(1, 80)}, "of two releases"),
        (
            {
                "speech_token": torch.full((1, 4), 27),
                "speech_feat": torch.zeros(1, 8, 80),
                "embedding": torch.ones(192),
            },
            "speech tokens up to 27",
        ),
        (
            {"speech_token": torch.zeros(4), "speech_feat": torch.zeros(1, 8, 80), "embedding": torch.zeros(192)},
            "expected",
        ),
    ],
)
def test_a_damaged_voice_is_refused(built: SyncSpeech, tmp_path: Path, entry: Any, message: str) -> None:
    torch.save({"x": entry}, tmp_path / "spk2info.pt")
    with pytest.raises(VoiceError, match=message):
        built.voice(tmp_path / "spk2info.pt:x")


def test_a_table_that_is_cut_or_runs_code_is_refused(built: SyncSpeech, folder: Path, tmp_path: Path) -> None:
    content = (folder / "spk2info.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(VoiceError, match="fetch it again"):
        built.voice(tmp_path / "a.pt:anna")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "b.pt")
    with pytest.raises(VoiceError, match="refused"):
        built.voice(tmp_path / "b.pt:anna")


def test_the_text_is_cut_as_by_the_tokenizer_of_one_file(folder: Path) -> None:
    two, one = TextVocabulary(folder / "CosyVoice-BlankEN"), TextVocabulary(public_folder.TEXT)
    assert two.id == one.id
    text = "I can't say 42 things: wow,  they've  gone!\n\nNew line, naïve café."
    assert two.encode(text) == one.encode(text)


def test_parts_of_two_releases_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public_folder.shrink(monkeypatch)
    with pytest.raises(CheckpointError, match=r"tts\.speech_tokenizer makes 729 .* tts\.flow decodes 27"):
        tts.build(config(folder, speech_tokenizer="bundled", speaker="bundled"), RuntimeConfig(device="cpu"))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("CosyVoice-BlankEN/vocab.json", "vocab.json is missing"),
        ("CosyVoice-BlankEN/config.json", "does not fit InterleavedLm"),
        ("llm.pt", "no weights in"),
    ],
)
def test_a_file_that_is_not_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, message: str
) -> None:
    public_folder.shrink(monkeypatch)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / file).unlink()
    with pytest.raises(CheckpointError, match=message):
        tts.build(config(copy), RuntimeConfig(device="cpu"))
