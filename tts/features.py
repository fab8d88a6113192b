"""Acoustic features of the speech models, computed as the public CosyVoice2 models expect them.

Shape letters: B batch, N samples, T frames, M mel bins. Samples are float32 mono in [-1, 1].
"""

from functools import lru_cache

import numpy as np
import soxr
import torch
from torch.nn import functional

_LINEAR_END_HZ = 1000.0  # the Slaney mel scale is linear below, logarithmic above


def mel_24k(samples_BN: torch.Tensor, fmax: float = 8000.0) -> torch.Tensor:
    """Log-magnitude mel spectrogram (B, 80, N // 480) of 24 kHz samples: 50 frames per second.

    `fmax` is the upper edge in Hz: 8000 for prompts and the flow decoder, 12000 for the vocoder's mel loss.
    Natural logarithm, floor 1e-5 (silence is -11.513). Needs at least 721 samples.
    """
    padded = functional.pad(samples_BN[:, None], (720, 720), mode="reflect")[:, 0]
    spectrum = torch.stft(padded, 1920, 480, 1920, _hann(1920, samples_BN.device), center=False, return_complex=True)
    magnitude = torch.view_as_real(spectrum).square().sum(-1).add(1e-9).sqrt()
    mel_BMT = _slaney_bank(24_000, 1920, 80, fmax, samples_BN.device) @ magnitude
    return mel_BMT.clamp_min(1e-5).log()


def log_mel_16k(samples_BN: torch.Tensor, num_mels: int = 128) -> torch.Tensor:
    """Whisper-style log-mel (B, num_mels, N // 160) of 16 kHz samples: 100 frames per second.

    The dynamic range is cut to 8 decades below each item's own maximum. Needs at least 201 samples.
    """
    spectrum = torch.stft(samples_BN, 400, 160, 400, _hann(400, samples_BN.device), return_complex=True)[..., :-1]
    power = torch.view_as_real(spectrum).square().sum(-1)
    log_BMT = (_slaney_bank(16_000, 400, num_mels, 8000.0, samples_BN.device) @ power).clamp_min(1e-10).log10()
    floor = log_BMT.amax(dim=(1, 2), keepdim=True) - 8.0
    return (torch.maximum(log_BMT, floor) + 4.0) / 4.0


def fbank_16k(samples_N: torch.Tensor) -> torch.Tensor:
    """Kaldi log filterbank (T, 80) of 16 kHz samples, T = 1 + (N - 400) // 160, without mean subtraction.

    25 ms Povey window every 10 ms, no dither, DC removed, pre-emphasis 0.97, 20-8000 Hz. Needs at least 400 samples.
    """
    frames = samples_N.unfold(0, 400, 160)
    frames = frames - frames.mean(dim=1, keepdim=True)
    previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = (frames - 0.97 * previous) * _povey(400, samples_N.device)
    power = torch.view_as_real(torch.fft.rfft(frames, 512)).square().sum(-1)
    energies = power @ _kaldi_bank(16_000, 512, 80, 20.0, samples_N.device).T
    return energies.clamp_min(torch.finfo(torch.float32).eps).log()


def resample(samples_N: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Resample a whole recording (N,) -> (round(N * to_hz / from_hz),), float32."""
    if from_hz == to_hz:
        return np.asarray(samples_N, dtype=np.float32)
    return np.asarray(soxr.resample(np.asarray(samples_N, dtype=np.float32), from_hz, to_hz, quality="HQ"))


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept tensors must also serve training
def _hann(size: int, device: torch.device) -> torch.Tensor:
    return torch.hann_window(size, device=device)


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # kept tensors must also serve training
def _povey(size: int, device: torch.device) -> torch.Tensor:
    return torch.hann_window(size, periodic=False, device=device) ** 0.85


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept tensors must also serve training
def _slaney_bank(sample_rate: int, fft_size: int, num_mels: int, fmax: float, device: torch.device) -> torch.Tensor:
    """Triangles of equal area on the Slaney mel scale: (num_mels, fft_size // 2 + 1)."""
    edges = _slaney_hz(np.linspace(0.0, _slaney_mel(fmax), num_mels + 2))
    bins = np.linspace(0.0, sample_rate / 2, fft_size // 2 + 1)
    distance = edges[:, None] - bins[None]
    width = np.diff(edges)[:, None]
    bank = np.minimum(-distance[:-2] / width[:-1], distance[2:] / width[1:]).clip(min=0.0)
    bank *= 2.0 / (edges[2:] - edges[:-2])[:, None]
    return torch.from_numpy(bank.astype(np.float32)).to(device)


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # kept tensors must also serve training
def _kaldi_bank(sample_rate: int, fft_size: int, num_mels: int, fmin: float, device: torch.device) -> torch.Tensor:
    """Triangles of height 1 on the mel scale 1127 ln(1 + f / 700): (num_mels, fft_size // 2 + 1), Nyquist bin 0.

    In float32 on purpose: the reference rounds its narrow low triangles the same way.
    """
    low, high = (1127.0 * float(np.log1p(hz / 700.0)) for hz in (fmin, sample_rate / 2))
    step = (high - low) / (num_mels + 1)
    left = low + torch.arange(num_mels)[:, None] * step
    centre, right = left + step, left + 2 * step
    mel = 1127.0 * (1.0 + torch.arange(fft_size // 2) * (sample_rate / fft_size) / 700.0).log()
    bank = torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clamp_min(0.0)
    return functional.pad(bank, (0, 1)).to(device)


def _slaney_mel(hz: float) -> float:
    """Slaney mel number of a frequency of at least 1 kHz."""
    return 15.0 + 27.0 * float(np.log(hz / _LINEAR_END_HZ) / np.log(6.4))


def _slaney_hz(mel: np.ndarray) -> np.ndarray:
    """Frequency of each Slaney mel number."""
    return np.where(mel < 15.0, mel * 200.0 / 3.0, _LINEAR_END_HZ * np.exp(np.log(6.4) / 27.0 * (mel - 15.0)))
