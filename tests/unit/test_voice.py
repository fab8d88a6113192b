"""Reference recordings: what is refused, and with which words; what is mended; voices on disk."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tts.base import VoiceError
from tts.speaker import SpeakerConfig, SpeakerEncoder
from tts.tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from tts.voice import Reference, Voice, VoiceEncoder, read_reference


def talk(seconds: float, rate: int = 24_000, level: float = 0.2) -> np.ndarray:
    """Something like speech: a buzz in syllables of 0.2 s with a pause after every fifth."""
    time = np.arange(round(seconds * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 25))
    envelope = np.abs(np.sin(np.pi * time / 0.2)) ** 0.5 * (time % 1.25 < 1.0)
    return (level * 0.4 * buzz * envelope).astype(np.float32)


def wav(path: Path, samples: np.ndarray, rate: int = 24_000, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def speech_level(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples[np.abs(samples) > 0.01]))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no reference audio .*: check the path"),
        (b"", "is an empty file"),
        (b"Dear Sir or Madam, this is a letter." * 20, "cannot be read as audio"),
        (np.zeros(0), "holds no samples"),
        (np.zeros(48_000), "is silent"),
        (talk(3.0) * 1e-4, "is silent"),
        (np.where(np.arange(48_000) == 7, np.nan, talk(2.0)), "NaN or infinite"),
        (np.where(np.arange(48_000) == 7, np.inf, talk(2.0)), "NaN or infinite"),
        (talk(0.2), "only 0.2 s of speech: give at least 1.0 s"),
        (np.concatenate([talk(0.5), np.zeros(96_000, np.float32)]), "only 0.5 s of speech"),
    ],
)
def test_what_cannot_be_a_voice_is_refused_in_one_sentence(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "reference.wav"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        wav(path, content)
    with pytest.raises(VoiceError, match=message) as caught:
        read_reference(path)
    assert "reference.wav" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VoiceError, match="is a folder"):
        read_reference(tmp_path)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 96_000])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_any_rate_and_two_channels(tmp_path: Path, rate: int, suffix: str) -> None:
    path = tmp_path / f"reference.{suffix}"
    stereo = np.stack([talk(2.25, rate), np.zeros(round(2.25 * rate), np.float32)], axis=1)
    soundfile.write(path, stereo, rate, subtype="PCM_24")
    reference = read_reference(path)
    assert reference.samples.dtype == np.float32
    assert len(reference.samples) % 960 == 0
    assert abs(len(reference.samples) / 24_000 - 2.25) < 0.1
    assert any("Hz only" in note for note in reference.notes) == (rate < 16_000)


def test_level_and_silence_at_the_ends_do_not_matter(tmp_path: Path) -> None:
    plain = read_reference(wav(tmp_path / "a.wav", talk(2.25))).samples
    quiet = np.concatenate([np.zeros(24_000), 0.02 * talk(2.25) + 0.001, np.zeros(48_000)]).astype(np.float32)
    mended = read_reference(wav(tmp_path / "b.wav", quiet)).samples
    assert abs(len(mended) - len(plain)) <= 0.2 * 24_000
    assert speech_level(mended) == pytest.approx(speech_level(plain), rel=0.15)
    assert np.abs(plain).max() <= 0.951


def test_a_long_recording_is_cut_to_its_best_part(tmp_path: Path) -> None:
    sparse = talk(20.0) * (np.arange(20 * 24_000) % 48_000 < 9_600)
    reference = read_reference(wav(tmp_path / "long.wav", np.concatenate([sparse, talk(18.0), sparse])))
    assert 12.5 < len(reference.samples) / 24_000 <= 15.0
    assert "with most speech" in reference.notes[0]
    whole = speech_share(reference.samples)
    assert whole > 0.7
    assert speech_share(sparse) < 0.3


def speech_share(samples: np.ndarray) -> float:
    frames = samples[: len(samples) // 480 * 480].reshape(-1, 480)
    return float(np.mean(np.abs(frames).max(axis=1) > 0.01))


def test_ten_minutes_are_not_read_whole(tmp_path: Path) -> None:
    reference = read_reference(wav(tmp_path / "long.wav", np.tile(talk(10.0, 8_000), 60), 8_000, "PCM_16"))
    assert any("first 120 s" in note for note in reference.notes)


def test_clipping_is_noted(tmp_path: Path) -> None:
    notes = read_reference(wav(tmp_path / "clipped.wav", np.clip(20 * talk(2.0), -1, 1))).notes
    assert any("clipped" in note for note in notes)
    assert read_reference(wav(tmp_path / "fine.wav", talk(2.0))).notes == ()


@pytest.fixture(scope="module")
def encoder() -> VoiceEncoder:
    torch.manual_seed(0)
    tokenizer = SpeechTokenizer(
        SpeechTokenizerConfig(num_mels=40, width=32, num_heads=2, num_layers=1, fsmn_kernel=3, code_dims=3)
    )
    speaker = SpeakerEncoder(
        SpeakerConfig(head_channels=4, init_channels=8, growth=4, block_layers=(1,), block_dilations=(1,))
    )
    return VoiceEncoder(tokenizer.eval(), speaker.eval(), max_prompt_s=3.0)


def test_a_voice_survives_the_disk(tmp_path: Path, encoder: VoiceEncoder) -> None:
    voice = encoder.read(wav(tmp_path / "anna.wav", talk(5.0)))
    assert voice.name == "anna"
    assert voice.embedding.shape == (192,)
    assert 2.0 < len(voice.tokens) / 25 <= 3.0
    assert voice.mel.shape == (80, 2 * len(voice.tokens))
    voice.save(tmp_path / "anna.safetensors")
    again = Voice.load(tmp_path / "anna.safetensors")
    assert again.name == "anna"
    assert again.notes == voice.notes
    for own, read in zip(
        (voice.tokens, voice.mel, voice.embedding), (again.tokens, again.mel, again.embedding), strict=True
    ):
        assert own.dtype == read.dtype
        assert np.array_equal(own, read)


def test_the_speaker_vector_hears_all_of_the_reference(encoder: VoiceEncoder) -> None:
    short = encoder.encode(Reference(talk(3.0), ()), name="a")
    long = encoder.encode(Reference(np.concatenate([talk(3.0), 0.5 * talk(3.84)[::-1]]), ()), name="a")
    assert not np.allclose(short.embedding, long.embedding)


def test_foreign_voice_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "voice.safetensors"
    with pytest.raises(VoiceError, match="there is no voice file"):
        Voice.load(path)
    path.write_bytes(b"1234")
    with pytest.raises(VoiceError, match="not a complete voice file"):
        Voice.load(path)
    Voice("a", np.zeros(3, np.int64), np.zeros((80, 5), np.float32), np.zeros(192, np.float32)).save(path)
    with pytest.raises(VoiceError, match="not a voice"):
        Voice.load(path)
