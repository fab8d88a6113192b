"""The S3 speech tokenizer: log-mel frames in, one of `levels ** dims` speech tokens per 40 ms out.

Structure and parameter names are those of the public "speech_tokenizer_v2" (CosyVoice 2, arXiv 2412.10117, section 2.1):
two strided convolutions, transformer blocks with rotary positions and an FSMN memory, finite scalar quantisation.
Its size is in `SpeechTokenizerConfig`.

Shape letters: B batch, T log-mel frames (100 Hz), S speech tokens (25 Hz), D width, H heads, M mel bins, Q code dims.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tts import checkpoint
from tts.base import CheckpointError
from tts.features import log_mel_16k

FRAMES_PER_TOKEN = 4  # log-mel frames of 10 ms
SAMPLES_PER_TOKEN_16K = 640


@dataclass(frozen=True, kw_only=True)
class SpeechTokenizerConfig:
    """Shape of a speech tokenizer. The defaults are the public model's."""

    num_mels: int = 128
    width: int = 1280
    num_heads: int = 20
    num_layers: int = 6
    fsmn_kernel: int = 31
    code_dims: int = 8
    code_levels: int = 3  # odd
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    window_s: float = 30.0  # a longer recording is read in windows of this length ...
    overlap_s: float = 4.0  # ... that overlap by this much

    def __post_init__(self) -> None:
        if self.width % (2 * self.num_heads):
            raise ValueError(f"width {self.width} must be an even multiple of num_heads {self.num_heads}")
        if self.code_levels % 2 == 0 or self.fsmn_kernel % 2 == 0:
            raise ValueError("code_levels and fsmn_kernel must be odd")
        if not 0 <= self.overlap_s < self.window_s:
            raise ValueError("overlap_s must be shorter than window_s")

    @property
    def vocabulary_size(self) -> int:
        """Number of different speech tokens."""
        return self.code_levels**self.code_dims


class SpeechTokenizer(nn.Module):
    """The whole tokenizer; `encode` is the way in for recordings."""

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = Quantizer(config)

    @classmethod
    def load(cls, directory: Path, device: torch.device | str = "cpu") -> Self:
        """Read a tokenizer from its weights folder, in evaluation mode. Raises CheckpointError."""
        values = checkpoint.read_config(directory)
        try:
            config = SpeechTokenizerConfig(**values)
        except (TypeError, ValueError) as error:
            known = ", ".join(field.name for field in dataclasses.fields(SpeechTokenizerConfig))
            raise CheckpointError(
                f"{directory}/config.json is not of a speech tokenizer ({error}); its fields are {known}."
            ) from None
        model = cls(config)
        checkpoint.load_into(model, checkpoint.read_state(directory), directory)
        return model.to(device).eval()

    def forward(self, mel_BMT: torch.Tensor, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        """Token ids (B, S), S = ceil(T / 4), of log-mels; with `lengths_B`, ids beyond `token_lengths` mean nothing."""
        return self.quantizer.ids(self.quantizer.levels(self.encoder(mel_BMT, lengths_B)))

    @torch.inference_mode()
    def encode(self, samples: np.ndarray) -> np.ndarray:
        """Speech tokens int16 (N // 640,) of a recording of 16 kHz samples (N,), exactly 25 per second of it."""
        num_tokens = len(samples) // SAMPLES_PER_TOKEN_16K
        if num_tokens == 0:
            return np.zeros(0, dtype=np.int16)
        device = self.encoder.conv1.weight.device
        whole = torch.from_numpy(np.ascontiguousarray(samples[: num_tokens * SAMPLES_PER_TOKEN_16K], dtype=np.float32))
        mel_BMT = log_mel_16k(whole[None].to(device), self.config.num_mels)
        pieces = [
            self(mel_BMT[:, :, first * FRAMES_PER_TOKEN : last * FRAMES_PER_TOKEN])[
                0, keep_from - first : keep_to - first
            ]
            for first, last, keep_from, keep_to in self._windows(num_tokens)
        ]
        return torch.cat(pieces).to(torch.int16).cpu().numpy()

    def _windows(self, num_tokens: int) -> list[tuple[int, int, int, int]]:
        """Windows over a recording, in tokens: (first, last, keep_from, keep_to); overlaps are shared half and half."""
        window, overlap = round(self.config.window_s * 25), round(self.config.overlap_s * 25)
        starts = list(range(0, max(num_tokens - overlap, 1), window - overlap))
        return [
            (
                start,
                min(start + window, num_tokens),
                start + overlap // 2 if start else 0,
                start + window - overlap + overlap // 2 if start != starts[-1] else num_tokens,
            )
            for start in starts
        ]


def token_lengths(frame_lengths_B: torch.Tensor) -> torch.Tensor:
    """Number of tokens of each item, from its number of log-mel frames: ceil(T / 4)."""
    return _halved(_halved(frame_lengths_B))


def _halved(lengths_B: torch.Tensor) -> torch.Tensor:
    return (lengths_B - 1) // 2 + 1


class Encoder(nn.Module):
    """(B, M, T) -> (B, S, D)."""

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.num_mels, config.width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))

    def forward(self, mel_BMT: torch.Tensor, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        x_BDT = mel_BMT
        for conv in (self.conv1, self.conv2):
            if lengths_B is not None:
                x_BDT = x_BDT * _valid(lengths_B, x_BDT.shape[2])[:, None]
                lengths_B = _halved(lengths_B)
            x_BDT = functional.gelu(conv(x_BDT))
        x_BSD = x_BDT.transpose(1, 2)
        valid_BS = None if lengths_B is None else _valid(lengths_B, x_BSD.shape[1])
        rotation = _rotation(x_BSD.shape[1], self.config, x_BSD.device)
        for block in self.blocks:
            x_BSD = block(x_BSD, rotation, valid_BS)
        return x_BSD


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        self.attn = MemoryAttention(config)
        self.attn_ln = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, 4 * config.width), nn.GELU(), nn.Linear(4 * config.width, config.width)
        )
        self.mlp_ln = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(
        self, x_BSD: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], valid_BS: torch.Tensor | None
    ) -> torch.Tensor:
        x_BSD = x_BSD + self.attn(self.attn_ln(x_BSD), rotation, valid_BS)
        return x_BSD + self.mlp(self.mlp_ln(x_BSD))


class MemoryAttention(nn.Module):
    """Self-attention with rotary positions, plus an FSMN memory: a depthwise convolution over the values."""

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        width, kernel = config.width, config.fsmn_kernel
        self.num_heads = config.num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.fsmn_block = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)

    def forward(
        self, x_BSD: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], valid_BS: torch.Tensor | None
    ) -> torch.Tensor:
        batch, length, width = x_BSD.shape
        value_BSD = self.value(x_BSD)
        query, key, value = (
            y_BSD.view(batch, length, self.num_heads, -1).transpose(1, 2)
            for y_BSD in (self.query(x_BSD), self.key(x_BSD), value_BSD)
        )
        # Written out: for these short sequences torch's fused kernel is five times slower on a CPU.
        scores = _rotated(query, rotation) @ _rotated(key, rotation).transpose(2, 3) * query.shape[3] ** -0.5
        if valid_BS is not None:
            scores = scores.masked_fill(~valid_BS[:, None, None, :], float("-inf"))
        mixed = scores.softmax(dim=-1).to(value.dtype) @ value
        mixed_BSD = mixed.transpose(1, 2).reshape(batch, length, width)
        return self.out(mixed_BSD) + self._memory(value_BSD, valid_BS)

    def _memory(self, value_BSD: torch.Tensor, valid_BS: torch.Tensor | None) -> torch.Tensor:
        if valid_BS is None:
            return value_BSD + self.fsmn_block(value_BSD.transpose(1, 2)).transpose(1, 2)
        value_BSD = value_BSD * valid_BS[..., None]
        return (value_BSD + self.fsmn_block(value_BSD.transpose(1, 2)).transpose(1, 2)) * valid_BS[..., None]


class Quantizer(nn.Module):
    """Finite scalar quantisation: each of Q numbers is rounded to one of `code_levels` levels."""

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        self.reach = (config.code_levels - 1) // 2
        self.powers = [config.code_levels**i for i in range(config.code_dims)]
        self._codebook = Codebook(config)

    def bounded(self, x_BSD: torch.Tensor) -> torch.Tensor:
        """The numbers before rounding (B, S, Q), within (-reach, reach); 0.999 keeps them off the ends."""
        return 0.9990000128746033 * torch.tanh(self._codebook.project_down(x_BSD).float()) * self.reach

    def levels(self, x_BSD: torch.Tensor) -> torch.Tensor:
        """Rounded numbers (B, S, Q) in -reach..reach; the gradient passes straight through the rounding."""
        bounded = self.bounded(x_BSD)
        return bounded + (bounded.round() - bounded).detach()

    def ids(self, levels_BSQ: torch.Tensor) -> torch.Tensor:
        """Token ids (B, S) int64; the first number is the least significant digit."""
        digits = levels_BSQ.round().long() + self.reach
        return (digits * torch.tensor(self.powers, device=digits.device)).sum(-1)


class Codebook(nn.Module):
    """Holds the projection under the public model's name."""

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        self.project_down = nn.Linear(config.width, config.code_dims)


def _valid(lengths_B: torch.Tensor, size: int) -> torch.Tensor:
    """(B, size) bool, true within each item."""
    return torch.arange(size, device=lengths_B.device) < lengths_B[:, None]


def _rotation(length: int, config: SpeechTokenizerConfig, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (S, D / H) of the rotary positions."""
    half = config.width // config.num_heads // 2
    rates = config.rope_theta ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * rates
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def _rotated(x_BHSD: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    cos, sin = (part.to(x_BHSD.dtype) for part in rotation)
    first, second = x_BHSD.chunk(2, dim=-1)
    return x_BHSD * cos + torch.cat([-second, first], dim=-1) * sin
