"""The speaker trainer learns to tell voices apart, also in speech it has not seen."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tts.speaker import SpeakerConfig, SpeakerEncoder
from tts.training.speaker import SpeakerTask, SpeakerTraining

TINY = SpeakerConfig(
    embedding_size=16,
    head_channels=4,
    init_channels=16,
    growth=8,
    bottleneck=2,
    block_layers=(1, 1),
    block_dilations=(1, 2),
)
PITCH = {"a": 110.0, "b": 230.0, "c": 160.0}


@dataclass(frozen=True)
class Hum:
    voice: str


def hum(voice: str, seed: int) -> tuple[np.ndarray, Hum]:
    """1.2 s of a harmonic tone with a random loudness contour."""
    generator = np.random.default_rng(seed)
    time = np.arange(28_800) / 24_000
    contour = np.interp(time, np.linspace(0, 1.2, 9), generator.uniform(0.2, 1.0, 9))
    tone = sum(np.sin(2 * np.pi * PITCH[voice] * k * time + generator.uniform(0, 6)) / k for k in range(1, 20))
    noise = 0.01 * generator.standard_normal(len(time))
    return (0.1 * contour * tone + noise).astype(np.float32), Hum(voice)


def test_it_learns_to_tell_voices_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    train = [hum(voice, seed) for seed in range(4) for voice in PITCH]
    heldout = [hum(voice, 50 + seed) for seed in range(3) for voice in PITCH]
    task = SpeakerTask(train, {"heldout": heldout}, TINY, SpeakerTraining(batch=5, crop_frames=(50, 80)))
    torch.manual_seed(1)
    first = task.loss(2, 0.0)[0].item()
    torch.manual_seed(1)
    assert task.loss(2, 0.0)[0].item() == first

    optimizer = torch.optim.AdamW(task.module.parameters(), lr=1e-2)
    for step in range(40):
        loss, _ = task.loss(step, step / 40)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    task.module.eval()
    with torch.no_grad():
        figures = task.evaluate()
    assert figures["heldout_accuracy"] > 0.8
    assert figures["heldout_nearest_reference"] > 0.8
    assert figures["heldout_same_cosine"] > figures["heldout_different_cosine"] + 0.3

    task.export(tmp_path)
    encoder = SpeakerEncoder.load(tmp_path)
    samples = hum("a", 7)[0]
    assert encoder.embed(samples).shape == (16,)
