"""Causal convolutions over (B, T, C) sequences, whole or chunk by chunk."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(slots=True)
class ConvCache:
    """The last `kernel - 1` input frames of one causal convolution: (B, kernel - 1, C), zeros at the start."""

    frames: Tensor

    def reset_(self) -> None:
        """Back to before the first frame."""
        self.frames.zero_()

    def clone(self) -> "ConvCache":
        """An independent copy."""
        return ConvCache(self.frames.clone())


class CausalConv1d(nn.Conv1d):
    """Convolution of stride 1 whose output at a frame sees that frame and the `kernel - 1` frames before it.

    Weights are those of `nn.Conv1d`; inputs and outputs are (B, T, C), the layout of the attention layers around it.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)

    def cache(self, batch: int) -> ConvCache:
        """State before the first frame."""
        return ConvCache(self.weight.new_zeros(batch, self.kernel_size[0] - 1, self.in_channels))

    def forward(self, x_BTC: Tensor, cache: ConvCache | None = None) -> Tensor:
        """Convolve; with a cache, go on where the last call ended and update it in place."""
        past = self.kernel_size[0] - 1
        if cache is None:
            x_BTC = F.pad(x_BTC, (0, 0, past, 0))
        else:
            x_BTC = torch.cat([cache.frames, x_BTC], dim=1)
            cache.frames.copy_(x_BTC[:, x_BTC.shape[1] - past :])
        return convolve(x_BTC, self.weight, self.bias)


def convolve(x_BTC: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Unpadded convolution: (B, T, C) -> (B, T - kernel + 1, C_out).

    One matrix product over stacked frames: on a CPU, with these widths, it costs less than a convolution call with its
    two transpositions, forwards and backwards.
    """
    kernel = weight.shape[2]
    num_frames = x_BTC.shape[1] - kernel + 1
    windows = torch.stack([x_BTC[:, i : i + num_frames] for i in range(kernel)], dim=3)
    return F.linear(windows.flatten(2), weight.flatten(1), bias)
