"""No seams between chunks: nothing is louder or jumps where one chunk ends and the next begins, as it does in the public way."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch import Tensor

import tts
from configs.schema import TtsConfig
from tests.upstream_stream import OVERLAP, UpstreamVocoder
from tts.decoder.vocoder import Vocoder, VocoderConfig
from tts.features import mel_24k

GOLDEN = Path(__file__).parents[1] / "assets" / "golden"
CHUNK, FRAMES = 20, 80
NEAR = 480  # samples, 20 ms, before and after a seam
MOST = 1.02  # times the level and the largest step of the same place without a seam


@pytest.fixture(scope="module", params=["bundled", "public"])
def vocoder(request: pytest.FixtureRequest) -> Vocoder:
    if request.param == "bundled":
        return tts.load_vocoder(TtsConfig(), "cpu")
    weights = {name: value.float() for name, value in load_file(GOLDEN / "hift_weights.safetensors").items()}
    return Vocoder.from_state(VocoderConfig(base_channels=32, f0_channels=64), weights, "golden")


def vowel() -> Tensor:
    """Two seconds of a steady 120 Hz, its harmonics strongest at 600 Hz: samples (1, N)."""
    cycles = 120.0 * torch.arange(2 * 24_000) / 24_000
    waves = sum(torch.sin(2 * torch.pi * (k * cycles % 1)) / (1 + ((120 * k - 600) / 300) ** 2) for k in range(1, 40))
    assert isinstance(waves, Tensor)
    return 0.2 * waves[None] / waves.abs().max()


@pytest.fixture(scope="module", params=["tone", "constant mel", "speech"])
def mel(request: pytest.FixtureRequest) -> Tensor:
    if request.param == "speech":
        samples, rate = soundfile.read(tts.ASSETS / "voice" / "reference.flac", dtype="float32")
        assert rate == 24_000
        return mel_24k(torch.from_numpy(samples)[None])[..., 40 : 40 + FRAMES]
    tone = mel_24k(vowel())[..., 5 : 5 + FRAMES]
    return tone if request.param == "tone" else tone[..., 40:41].repeat(1, 1, FRAMES)


@dataclass(frozen=True)
class Seam:
    """What is heard around one seam, over the same without it."""

    level: float  # root mean square
    step: float  # largest, from sample to sample


def seams(parts: list[Tensor], whole: Tensor, *, after: Iterable[int] = (0,)) -> list[Seam]:
    """Around the ends of all parts but the last, and so many samples `after` them."""
    spoken = torch.cat(parts, dim=1)
    assert spoken.shape == whole.shape
    ends = list(accumulate(part.shape[1] for part in parts))[:-1]
    found = []
    for place in (end + more for end in ends for more in after):
        ours, theirs = (samples[0, place - NEAR : place + NEAR] for samples in (spoken, whole))
        assert theirs.square().mean().sqrt() > 1e-3
        level = ours.square().mean().sqrt() / theirs.square().mean().sqrt()
        found.append(Seam(float(level), float(ours.diff().abs().max() / theirs.diff().abs().max())))
    return found


def smooth(found: list[Seam]) -> bool:
    return all(1 / MOST < seam.level < MOST and seam.step < MOST for seam in found)


@torch.inference_mode()
def test_nothing_is_heard_between_chunks(vocoder: Vocoder, mel: Tensor) -> None:
    state, chunks = vocoder.initial_state(), list(mel.split(CHUNK, dim=2))
    parts = [vocoder.stream(chunk, state, last=i + 1 == len(chunks)) for i, chunk in enumerate(chunks)]
    parts = [part for part in parts if part.shape[1]]
    found = seams(parts, vocoder(mel))
    assert len(found) >= 2
    assert smooth(found), found


@torch.inference_mode()
def test_the_public_way_is_heard(vocoder: Vocoder, mel: Tensor) -> None:
    upstream, chunks = UpstreamVocoder(vocoder), list(mel.split(CHUNK, dim=2))
    parts = [upstream.step(chunk, last=i + 1 == len(chunks)) for i, chunk in enumerate(chunks)]
    noise = mel.new_zeros(1, FRAMES * 480, vocoder.config.num_harmonics + 1)
    found = seams(parts, vocoder(mel, noise_BNH=noise), after=(0, OVERLAP))  # the fade begins there, and ends
    assert not smooth(found), found
