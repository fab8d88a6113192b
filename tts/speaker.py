"""The speaker encoder: a recording in, one vector that says how the speaker sounds out.

Structure and parameter names are those of the public CAM++ (arXiv 2303.00332) as CosyVoice 2 uses it: a small
two-dimensional convolution head, densely connected time-delay layers with context-aware masks, statistics pooling.
Its size is in `SpeakerConfig`.

Shape letters: B batch, T filterbank frames (100 Hz), C channels, E embedding size.
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
from tts.features import fbank_16k

_SEGMENT = 100  # frames over which the context-aware mask averages


@dataclass(frozen=True, kw_only=True)
class SpeakerConfig:
    """Shape of a speaker encoder. The defaults are the public model's."""

    num_bins: int = 80
    embedding_size: int = 192
    head_channels: int = 32
    init_channels: int = 128
    growth: int = 32
    bottleneck: int = 4  # times growth
    block_layers: tuple[int, ...] = (12, 24, 16)
    block_dilations: tuple[int, ...] = (1, 2, 2)
    kernel: int = 3


class SpeakerEncoder(nn.Module):
    """(B, T, num_bins) filterbank energies without their mean over time -> (B, E), not normalised."""

    def __init__(self, config: SpeakerConfig) -> None:
        super().__init__()
        self.config = config
        self.head = Head(config)
        channels = config.init_channels
        layers: dict[str, nn.Module] = {"tdnn": TimeDelay(self.head.out_channels, channels)}
        sizes = zip(config.block_layers, config.block_dilations, strict=True)
        for index, (num_layers, dilation) in enumerate(sizes, start=1):
            layers[f"block{index}"] = DenseBlock(num_layers, channels, dilation, config)
            channels += num_layers * config.growth
            layers[f"transit{index}"] = Transit(channels, channels // 2)
            channels //= 2
        layers["out_nonlinear"] = _normalised(channels)
        layers["stats"] = StatisticsPool()
        layers["dense"] = Projection(2 * channels, config.embedding_size)
        self.xvector = nn.Sequential()
        for name, layer in layers.items():
            self.xvector.add_module(name, layer)

    @classmethod
    def load(cls, directory: Path, device: torch.device | str = "cpu") -> Self:
        """Read a speaker encoder from its weights folder, in evaluation mode. Raises CheckpointError."""
        values = checkpoint.read_config(directory)
        try:
            values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
            config = SpeakerConfig(**values)
        except TypeError as error:
            known = ", ".join(field.name for field in dataclasses.fields(SpeakerConfig))
            raise CheckpointError(
                f"{directory}/config.json is not of a speaker encoder ({error}); its fields are {known}."
            ) from None
        model = cls(config)
        checkpoint.load_into(model, checkpoint.read_state(directory), directory)
        return model.to(device).eval()

    def forward(self, fbank_BTF: torch.Tensor) -> torch.Tensor:
        return self.xvector(self.head(fbank_BTF))

    @torch.inference_mode()
    def embed(self, samples: np.ndarray) -> np.ndarray:
        """Embedding float32 (E,) of a recording of 16 kHz samples (N,); needs at least 0.1 s."""
        device = next(self.parameters()).device
        fbank = fbank_16k(torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32)).to(device))
        return self(centred(fbank)[None])[0].cpu().numpy()


def centred(fbank: torch.Tensor) -> torch.Tensor:
    """Filterbank energies (..., T, F) without their mean over time: what the encoder expects."""
    return fbank - fbank.mean(dim=-2, keepdim=True)


class Head(nn.Module):
    """Two-dimensional convolutions that bring the bins down to an eighth: (B, T, F) -> (B, out_channels, T)."""

    def __init__(self, config: SpeakerConfig) -> None:
        super().__init__()
        channels = config.head_channels
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.layer1 = nn.Sequential(ResidualBlock(channels, 2), ResidualBlock(channels, 1))
        self.layer2 = nn.Sequential(ResidualBlock(channels, 2), ResidualBlock(channels, 1))
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.out_channels = channels * (config.num_bins // 8)

    def forward(self, fbank_BTF: torch.Tensor) -> torch.Tensor:
        x_BCFT = functional.relu(self.bn1(self.conv1(fbank_BTF.transpose(1, 2)[:, None])))
        x_BCFT = self.layer2(self.layer1(x_BCFT))
        return functional.relu(self.bn2(self.conv2(x_BCFT))).flatten(1, 2)


class ResidualBlock(nn.Module):
    """Two convolutions added to their input; `stride` is that of the bins."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, stride=(stride, 1), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut.append(nn.Conv2d(channels, channels, 1, stride=(stride, 1), bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels))

    def forward(self, x_BCFT: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.bn1(self.conv1(x_BCFT)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.shortcut(x_BCFT))


class TimeDelay(nn.Module):
    """Strided convolution over time (B, C, T) -> (B, C', T / 2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, 5, stride=2, padding=2, bias=False)
        self.nonlinear = _normalised(out_channels)

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        return self.nonlinear(self.linear(x_BCT))


class DenseBlock(nn.Module):
    """Layers that each see all channels before them and add `growth` channels."""

    def __init__(self, num_layers: int, in_channels: int, dilation: int, config: SpeakerConfig) -> None:
        super().__init__()
        for index in range(num_layers):
            self.add_module(f"tdnnd{index + 1}", DenseLayer(in_channels + index * config.growth, dilation, config))

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x_BCT = torch.cat([x_BCT, layer(x_BCT)], dim=1)
        return x_BCT


class DenseLayer(nn.Module):
    """(B, C, T) -> (B, growth, T)."""

    def __init__(self, in_channels: int, dilation: int, config: SpeakerConfig) -> None:
        super().__init__()
        inner = config.bottleneck * config.growth
        self.nonlinear1 = _normalised(in_channels)
        self.linear1 = nn.Conv1d(in_channels, inner, 1, bias=False)
        self.nonlinear2 = _normalised(inner)
        self.cam_layer = MaskedConv(inner, config.growth, config.kernel, dilation)

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        return self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x_BCT))))


class MaskedConv(nn.Module):
    """A convolution times a gate computed from the mean of the recording and of the 100-frame segment."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(
            in_channels, out_channels, kernel, padding=kernel // 2 * dilation, dilation=dilation, bias=False
        )
        self.linear1 = nn.Conv1d(in_channels, in_channels // 2, 1)
        self.linear2 = nn.Conv1d(in_channels // 2, out_channels, 1)

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        segments = functional.avg_pool1d(x_BCT, _SEGMENT, _SEGMENT, ceil_mode=True)
        context = x_BCT.mean(dim=2, keepdim=True) + segments
        gate = torch.sigmoid(self.linear2(functional.relu(self.linear1(context))))
        return self.linear_local(x_BCT) * gate.repeat_interleave(_SEGMENT, dim=2)[:, :, : x_BCT.shape[2]]


class Transit(nn.Module):
    """Mixes the channels of a dense block down."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.nonlinear = _normalised(in_channels)
        self.linear = nn.Conv1d(in_channels, out_channels, 1, bias=False)

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        return self.linear(self.nonlinear(x_BCT))


class StatisticsPool(nn.Module):
    """(B, C, T) -> (B, 2 C, 1): mean and unbiased standard deviation over time."""

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        return torch.cat([x_BCT.mean(dim=2), x_BCT.std(dim=2)], dim=1)[:, :, None]


class Projection(nn.Module):
    """(B, C, 1) -> (B, E), each dimension normalised over the training voices."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, 1, bias=False)
        self.nonlinear = nn.Sequential()
        self.nonlinear.add_module("batchnorm", nn.BatchNorm1d(out_channels, affine=False))

    def forward(self, x_BC1: torch.Tensor) -> torch.Tensor:
        return self.nonlinear(self.linear(x_BC1)[:, :, 0])


def _normalised(channels: int) -> nn.Sequential:
    layer = nn.Sequential()
    layer.add_module("batchnorm", nn.BatchNorm1d(channels))
    layer.add_module("relu", nn.ReLU())
    return layer
