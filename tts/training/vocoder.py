"""Training of the vocoder without a discriminator: multi-resolution STFT, mel and F0 losses.

The bundled voices come from speech programs whose phase is regular, so spectral losses are enough; recorded speech
would need the adversarial training of HiFi-GAN. Shape letters: B batch, M mel bins, T mel frames, N samples.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from tts import checkpoint
from tts.decoder.vocoder import Vocoder, VocoderConfig
from tts.features import mel_24k
from tts.training.pitch import cents, f0_24k

FRAME = 480
LOG_FLOOR = 1e-3  # STFT magnitude below which nothing is heard: about -85 dB of full scale at 1024 points
MARGIN = 4  # mel frames around a crop, so that its features equal those of the whole recording

SMALL = VocoderConfig(
    base_channels=256,
    f0_channels=128,
    resblock_kernels=(3, 7),
    resblock_dilations=((1, 3), (1, 3, 5)),
    source_resblock_kernels=(3, 3, 3),
    source_resblock_dilations=((), (), ()),
    voiced_threshold_hz=40.0,
    causal=True,
    lookahead_frames=2,
    mel_mean=-4.4,
    mel_scale=2.2,
    f0_scale_hz=50.0,
    phase_scale=3.14159265,
)


@dataclass(frozen=True, kw_only=True)
class VocoderTraining:
    """How batches are made and losses weighed."""

    batch: int = 12
    f0_batch: int = 24  # crops for the F0 predictor, which learns slower and costs little; the first `batch` are spoken
    crop_frames: int = 30
    fft_sizes: tuple[int, ...] = (256, 512, 1024, 2048)  # hop is a quarter
    mel_weight: float = 0.5
    f0_weight: float = 1.0
    predicted_f0_from: float = 0.3  # progress at which the predicted F0 begins to drive the source
    predicted_f0_share: float = 0.6  # share of crops it drives at the end
    decoded_share: float = 0.6  # crops whose mel is the decoder's, where the recordings bring it
    rough_share: float = 0.5  # of the others: blurred and noised as a mel from the decoder is
    rough_noise: float = 0.25  # largest standard deviation, natural log units
    seed: int = 1


@dataclass(frozen=True)
class Recordings:
    """Recordings that share a part of the batches: float32 mono 24 kHz arrays (N,), drawn evenly."""

    share: float
    samples: Sequence[np.ndarray]
    decoded: Sequence[np.ndarray] | None = None  # (M, T) natural-log mel that the decoder makes of each, from frame 0


class VocoderTask:
    """Vocoder training as a task of the training loop."""

    name = "vocoder"

    def __init__(
        self,
        recordings: Sequence[Recordings],
        heldout: Sequence[np.ndarray],
        config: VocoderConfig = SMALL,
        training: VocoderTraining | None = None,
        first: Path | None = None,
    ) -> None:
        """`first`: folder of weights to train further, in the shape of theirs; None: random ones of `config`."""
        self.training = training or VocoderTraining()
        torch.manual_seed(self.training.seed)
        self.module = Vocoder.load(first).train().requires_grad_(True) if first else Vocoder(config)
        self.config = self.module.config
        self.recordings = list(recordings)
        self._shares = np.array([group.share for group in recordings], dtype=np.float64)
        self._shares /= self._shares.sum()
        self._heldout = [torch.from_numpy(np.array(samples[: len(samples) // FRAME * FRAME])) for samples in heldout]

    def loss(self, step: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of the batch of `step`; true F0 drives the source at first, the predicted one more and more."""
        training = self.training
        device = next(self.module.parameters()).device
        crops, decoded = self._crops(step)
        crops_BN, decoded_BMT = crops.to(device), decoded.to(device)
        mel_BMT = mel_24k(crops_BN)[..., MARGIN:-MARGIN]
        f0_BT = f0_24k(crops_BN)[:, MARGIN:-MARGIN]
        mel_BMT = roughen(mel_BMT, training.rough_share, training.rough_noise)
        mel_BMT = torch.where(decoded_BMT.isnan(), mel_BMT, decoded_BMT)
        predicted_BT = self.module.predict_f0(mel_BMT)
        f0_loss = ((predicted_BT + 50.0).log() - (f0_BT + 50.0).log()).abs().mean()

        spoken = slice(0, training.batch)
        target_BN = crops_BN[spoken, MARGIN * FRAME : -MARGIN * FRAME]
        ramp = (progress - training.predicted_f0_from) / (1 - training.predicted_f0_from)
        own_B1 = torch.rand(training.batch, 1).to(device) < training.predicted_f0_share * max(0.0, ramp)
        source_f0_BT = torch.where(own_B1, predicted_BT.detach()[spoken], f0_BT[spoken])
        noise_BNH = torch.randn(*target_BN.shape, self.config.num_harmonics + 1).to(device)
        with torch.autocast(device.type):
            samples_BN = self.module(mel_BMT[spoken], f0_BT=source_f0_BT, noise_BNH=noise_BNH)

        stft_loss = spectral_loss(samples_BN, target_BN, training.fft_sizes)
        mel_loss = (mel_24k(samples_BN, 12_000.0) - mel_24k(target_BN, 12_000.0)).abs().mean()
        loss = stft_loss + training.mel_weight * mel_loss + training.f0_weight * f0_loss
        return loss, {"stft": stft_loss.item(), "mel": mel_loss.item(), "f0": f0_loss.item()}

    def evaluate(self) -> dict[str, float]:
        """Held-out figures with the predicted F0: losses, F0 error in cents, voicing accuracy, real-time factor."""
        rows, seconds, spent = [], 0.0, 0.0
        for samples_N in self._heldout:
            mel_BMT, f0_BT = mel_24k(samples_N[None]), f0_24k(samples_N[None])
            began = time.process_time()
            made_BN = self.module(mel_BMT)
            spent += time.process_time() - began
            seconds += samples_N.numel() / self.config.sample_rate
            own_BT = self.module.predict_f0(mel_BMT)
            voiced, own_voiced = f0_BT > 0, own_BT > self.config.voiced_threshold_hz
            both = voiced & own_voiced
            rows.append(
                {
                    "stft": float(spectral_loss(made_BN, samples_N[None], self.training.fft_sizes)),
                    "mel": float((mel_24k(made_BN, 12_000.0) - mel_24k(samples_N[None], 12_000.0)).abs().mean()),
                    "f0_median_cents": float(cents(own_BT[both], f0_BT[both]).median()),
                    "voicing_accuracy": float((voiced == own_voiced).float().mean()),
                }
            )
        return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} | {"rtf": spent / seconds}

    def export(self, directory: Path) -> None:
        """Write the weights folder."""
        checkpoint.save(directory, self.module, self.config)

    def _crops(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random crops (B, N) with their margins, at about the recordings' own level, and the decoder's mel of them.

        The mel is (B, M, T) without the margins, NaN where there is none. Both depend on the step alone.
        """
        rng = np.random.default_rng((self.training.seed, step))
        frames = self.training.crop_frames
        length = (frames + 2 * MARGIN) * FRAME
        crops = np.zeros((self.training.f0_batch, length), dtype=np.float32)
        mels = np.full((len(crops), self.config.mel_bins, frames), np.nan, dtype=np.float32)
        groups = rng.choice(len(self.recordings), len(crops), p=self._shares)
        for row, mel, group in zip(crops, mels, (self.recordings[i] for i in groups), strict=True):
            pick = int(rng.integers(len(group.samples)))
            recording = group.samples[pick]
            first = int(rng.integers(-MARGIN, max(1, len(recording) // FRAME - frames + 1)))
            gain = rng.uniform(0.5, 1.2)
            start = first * FRAME
            piece = recording[max(start, 0) : start + length]
            row[max(-start, 0) : max(-start, 0) + len(piece)] = piece * gain
            if rng.random() < self.training.decoded_share and group.decoded is not None:
                inside = group.decoded[pick][:, first + MARGIN : first + MARGIN + frames]
                mel[:, : inside.shape[1]] = inside + math.log(gain)
        return torch.from_numpy(crops), torch.from_numpy(mels)


def roughen(mel_BMT: torch.Tensor, share: float, noise: float) -> torch.Tensor:
    """Blur (3 x 3, random strength) and noise a share of the items: what a mel from the flow decoder looks like."""
    strength_B11 = (torch.rand(len(mel_BMT)) < share)[:, None, None] * torch.rand(len(mel_BMT), 2, 1)
    strength_B11 = strength_B11.to(mel_BMT.device)
    padded = functional.pad(mel_BMT[:, None], (1, 1, 1, 1), mode="replicate")
    blurred = functional.avg_pool2d(padded, 3, stride=1)[:, 0]
    mixed = torch.lerp(mel_BMT, blurred, strength_B11[:, :1])
    return mixed + noise * strength_B11[:, 1:] * torch.randn_like(mixed)


def spectral_loss(made_BN: torch.Tensor, target_BN: torch.Tensor, fft_sizes: Sequence[int]) -> torch.Tensor:
    """Spectral convergence plus log-magnitude L1, mean over the STFT sizes (Parallel WaveGAN, arXiv 1910.11480)."""
    total = made_BN.new_zeros(())
    for fft_size in fft_sizes:
        made, target = _magnitude(made_BN, fft_size), _magnitude(target_BN, fft_size)
        error, size_B = (
            torch.linalg.vector_norm(target - made, dim=(1, 2)),
            torch.linalg.vector_norm(target, dim=(1, 2)),
        )
        total = total + (error / size_B.clamp_min(1.0)).mean()
        total = total + (made.clamp_min(LOG_FLOOR).log() - target.clamp_min(LOG_FLOOR).log()).abs().mean()
    return total / len(fft_sizes)


def _magnitude(samples_BN: torch.Tensor, size: int) -> torch.Tensor:
    window = torch.hann_window(size, device=samples_BN.device)
    spectrum = torch.stft(samples_BN, size, size // 4, size, window, return_complex=True)
    return torch.view_as_real(spectrum).square().sum(-1).add(1e-8).sqrt()
