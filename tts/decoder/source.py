"""Excitation and short-time Fourier transforms of the vocoder, all in float32 and without complex tensors.

Shape letters: B batch, T mel frames, N samples, H harmonics (with the fundamental), K STFT frames, F STFT features
(real parts, then imaginary parts).
"""

import math

import torch
from torch import nn
from torch.nn import functional


def draw_noise(generator: torch.Generator, batch: int, num_frames: int, frame: int, harmonics: int) -> torch.Tensor:
    """Gaussian noise (B, num_frames * frame, H) on the CPU; drawing it in parts gives the same values.

    One draw per mel frame: torch fills in groups of 16, so every draw's size must be a multiple of 16.
    """
    parts = [torch.randn(frame, batch, harmonics, generator=generator) for _ in range(num_frames)]
    return torch.cat([*parts, torch.zeros(0, batch, harmonics)]).transpose(0, 1)


class HarmonicSource(nn.Module):
    """Sines at the multiples of F0 while voiced, noise otherwise, mixed to one channel (neural source-filter model)."""

    def __init__(
        self, num_harmonics: int, sample_rate: int, frame: int, amplitude: float, noise_std: float, threshold_hz: float
    ) -> None:
        super().__init__()
        self.l_linear = nn.Linear(num_harmonics + 1, 1)
        self.sample_rate, self.frame = sample_rate, frame
        self.amplitude, self.noise_std, self.threshold_hz = amplitude, noise_std, threshold_hz

    def advance(self, f0_BT: torch.Tensor, phase_B: torch.Tensor) -> torch.Tensor:
        """Phase (float64, cycles) at the end of every frame (B, T), starting from `phase_B`."""
        return phase_B[:, None] + torch.cumsum(f0_BT.double() * (self.frame / self.sample_rate), dim=1)

    def step_phase(self, f0_BT: torch.Tensor, phase_B: torch.Tensor) -> torch.Tensor:
        """Phase (float64, cycles) of every sample (B, T, frame); F0 holds through a frame: none needs the next."""
        start = self.advance(f0_BT, phase_B) - f0_BT.double() * (self.frame / self.sample_rate)
        count = torch.arange(1, self.frame + 1, dtype=torch.float64, device=f0_BT.device)
        return start[..., None] + f0_BT.double()[..., None] * (count / self.sample_rate)

    def centred_phase(self, f0_BT: torch.Tensor, phase_B: torch.Tensor, first: bool) -> torch.Tensor:
        """The same as the public weights know it: end phases sit at frame centres, straight lines between them.

        `first`: the utterance begins here, so the phase stands still until the first centre; it does so after the last.
        """
        gain = f0_BT.double() * (self.frame / self.sample_rate)
        end = self.advance(f0_BT, phase_B)
        half = self.frame // 2
        ramp = (torch.arange(self.frame, dtype=torch.float64, device=f0_BT.device) + 0.5) / self.frame
        before = (end - gain)[..., None] + gain[..., None] * (ramp[:half] + 0.5)
        if first:
            before = torch.cat([end[:, :1, None].expand(-1, -1, half), before[:, 1:]], dim=1)
        following = functional.pad(gain[:, 1:], (0, 1))
        after = end[..., None] + following[..., None] * (ramp[half:] - 0.5)
        return torch.cat([before, after], dim=2)

    def forward(self, f0_BT: torch.Tensor, phase_BTN: torch.Tensor, noise_BNH: torch.Tensor) -> torch.Tensor:
        """F0 in Hz, phase in cycles (B, T, frame) and unit noise (B, T * frame, H) -> source samples (B, T * frame)."""
        cycles_BN1 = (phase_BTN % 1.0).float().flatten(1)[..., None]
        order = torch.arange(1, self.l_linear.in_features + 1, device=f0_BT.device)
        voiced_BN1 = (f0_BT > self.threshold_hz).float().repeat_interleave(self.frame, dim=1)[..., None]
        sines_BNH = torch.sin(2 * math.pi * (cycles_BN1 * order)) * (self.amplitude * voiced_BN1)
        std_BN1 = torch.lerp(
            torch.full_like(voiced_BN1, self.amplitude / 3), torch.full_like(voiced_BN1, self.noise_std), voiced_BN1
        )
        mixed = functional.linear(
            sines_BNH + noise_BNH * std_BN1, self.l_linear.weight.float(), self.l_linear.bias.float()
        )
        return torch.tanh(mixed)[..., 0]


class ShortFourier(nn.Module):
    """STFT and its inverse with a periodic Hann window, as products with small constant matrices.

    The framing is the caller's: `analyse` takes padded samples, `synthesise` returns plain overlap-add.
    """

    forward_basis: torch.Tensor
    inverse_basis: torch.Tensor
    window_power: torch.Tensor

    def __init__(self, size: int, hop: int) -> None:
        super().__init__()
        self.size, self.hop = size, hop
        window = torch.hann_window(size, dtype=torch.float64)
        angle = 2 * math.pi * torch.outer(torch.arange(size // 2 + 1), torch.arange(size)).double() / size
        forward = torch.cat([torch.cos(angle), -torch.sin(angle)]) * window  # (F, size)
        weight = torch.full((size // 2 + 1, 1), 2.0, dtype=torch.float64)
        weight[0] = weight[-1] = 1.0
        inverse = torch.cat([torch.cos(angle) * weight, -torch.sin(angle) * weight]) * window / size
        self.register_buffer("forward_basis", forward.float(), persistent=False)
        self.register_buffer("inverse_basis", inverse.float(), persistent=False)
        self.register_buffer("window_power", window.square().float(), persistent=False)

    def analyse(self, samples_BN: torch.Tensor) -> torch.Tensor:
        """Real then imaginary parts (B, size + 2, K), K = (N - size) // hop + 1."""
        return self.forward_basis @ samples_BN.unfold(1, self.size, self.hop).transpose(1, 2)

    def synthesise(self, spectrum_BFK: torch.Tensor) -> torch.Tensor:
        """Overlap-add of windowed frames, not yet divided by the window's power: (B, (K - 1) * hop + size)."""
        return self._overlap(spectrum_BFK.transpose(1, 2) @ self.inverse_basis)

    def power(self, num_frames: int) -> torch.Tensor:
        """Sum of the squared windows under `synthesise`'s output: (1, (K - 1) * hop + size)."""
        return self._overlap(self.window_power.expand(1, num_frames, -1))

    @property
    def steady_power(self) -> float:
        """That sum where all windows overlap."""
        return float(self.window_power.sum()) / self.hop

    def _overlap(self, frames_BKS: torch.Tensor) -> torch.Tensor:
        batch, count, _ = frames_BKS.shape
        pieces = self.size // self.hop
        blocks = frames_BKS.reshape(batch, count, pieces, self.hop)
        total = functional.pad(blocks[:, :, 0], (0, 0, 0, pieces - 1))
        for piece in range(1, pieces):
            total = total + functional.pad(blocks[:, :, piece], (0, 0, piece, pieces - 1 - piece))
        return total.flatten(1)
