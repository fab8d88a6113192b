"""The vocoder's trainer: it learns, its batches depend on the step alone, its pitch targets are right."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tts.decoder.vocoder import Vocoder
from tts.features import mel_24k
from tts.training.pitch import f0_24k
from tts.training.vocoder import FRAME, MARGIN, SMALL, Recordings, VocoderTask, VocoderTraining, roughen, spectral_loss

TINY = dataclasses.replace(SMALL, base_channels=32, f0_channels=16, resblock_kernels=(3,), resblock_dilations=((1,),))


def tone(hz: float, seconds: float = 1.2) -> np.ndarray:
    time = np.arange(int(seconds * 24_000)) / 24_000
    samples = sum(np.sin(2 * np.pi * hz * k * time) / k for k in range(1, 12)) * 0.1
    return samples.astype(np.float32)


@pytest.fixture
def task() -> VocoderTask:
    torch.set_num_threads(1)
    voices = [Recordings(0.5, [tone(120), tone(150)]), Recordings(0.5, [tone(210)])]
    return VocoderTask(voices, [tone(170)], TINY, VocoderTraining(batch=3, f0_batch=4, crop_frames=10))


@pytest.mark.parametrize("hz", [62.0, 110.0, 222.0, 333.0, 490.0])
def test_pitch_of_a_tone(hz: float) -> None:
    f0 = f0_24k(torch.from_numpy(tone(hz))[None])[0]
    assert f0.shape == (60,)
    assert (f0[4:-4] - hz).abs().max() < 0.005 * hz


def test_noise_and_silence_have_no_pitch() -> None:
    torch.manual_seed(0)
    assert f0_24k(0.05 * torch.randn(1, 24_000)).max() == 0
    assert f0_24k(torch.zeros(1, 24_000)).max() == 0


def test_pitch_frames_sit_where_the_mel_frames_do() -> None:
    samples = torch.from_numpy(np.concatenate([np.zeros(30 * FRAME, np.float32), tone(200, 0.6)]))[None]
    voiced = f0_24k(samples)[0] > 0
    assert abs(int(voiced.float().argmax()) - 30) <= 1


def test_loss_falls_and_evaluation_is_finite(task: VocoderTask) -> None:
    optimizer = torch.optim.AdamW(task.module.parameters(), 3e-3)
    values = []
    for step in range(15):
        torch.manual_seed(step)
        loss, parts = task.loss(step, step / 15)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert parts.keys() == {"stft", "mel", "f0"}
    assert np.mean(values[-5:]) < 0.8 * np.mean(values[:5])
    with torch.no_grad():
        assert all(np.isfinite(value) for value in task.evaluate().values())


def test_every_parameter_is_trained(task: VocoderTask) -> None:
    task.loss(0, 0.0)[0].backward()
    assert [name for name, p in task.module.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_training_goes_on_with_finished_weights(task: VocoderTask, tmp_path: Path) -> None:
    task.export(tmp_path)
    on = VocoderTask(task.recordings, [tone(170)], SMALL, task.training, first=tmp_path)
    assert on.config == task.config
    assert on.module.training
    for (name, mine), theirs in zip(on.module.named_parameters(), task.module.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3, msg=name)  # they are kept as float16
    on.loss(0, 0.0)[0].backward()
    assert all(p.grad is not None and p.grad.any() for p in on.module.parameters())


def test_batch_depends_on_the_step_alone(task: VocoderTask) -> None:
    def value(step: int) -> float:
        torch.manual_seed(step)
        return task.loss(step, 0.9)[0].item()

    first = value(3)
    assert value(4) != first
    assert value(3) == first


def test_the_decoders_mel_lies_on_the_recording_it_was_made_of() -> None:
    rng = np.random.default_rng(0)
    recordings = [rng.normal(size=60 * FRAME).astype(np.float32) * np.linspace(0.01, 1, 60 * FRAME) ** 2 for _ in "ab"]
    mels = [mel_24k(torch.from_numpy(samples)[None].float())[0].numpy() for samples in recordings]
    training = VocoderTraining(batch=8, f0_batch=40, crop_frames=10, decoded_share=0.5)
    crops, decoded = VocoderTask([Recordings(1.0, recordings, mels)], [], TINY, training)._crops(0)
    there = ~decoded.isnan().any(dim=(1, 2))
    assert 8 <= there.sum() <= 32
    true = mel_24k(crops)[..., MARGIN:-MARGIN]
    inner = slice(2, -2)  # frames whose window lies inside the crop
    assert (decoded - true)[there][..., inner].abs().max() < 1e-3


def test_export_can_be_loaded_and_spoken(task: VocoderTask, tmp_path: Path) -> None:
    task.export(tmp_path)
    vocoder = Vocoder.load(tmp_path)
    assert vocoder.config == TINY
    assert vocoder(torch.full((1, 80, 5), -6.0)).shape == (1, 5 * FRAME)


def test_roughen_changes_only_its_share() -> None:
    torch.manual_seed(0)
    mel = torch.randn(200, 80, 6)
    changed = ((roughen(mel, 0.5, 0.2) - mel).abs().amax(dim=(1, 2)) > 0).float().mean()
    assert 0.35 < changed < 0.65
    assert torch.equal(roughen(mel, 0.0, 0.2), mel)


def test_spectral_loss_is_zero_for_equal_sounds_only() -> None:
    a, b = torch.from_numpy(tone(100))[None], torch.from_numpy(tone(105))[None]
    assert spectral_loss(a, a, (256, 1024)) == 0
    assert spectral_loss(a, b, (256, 1024)) > 0.1
