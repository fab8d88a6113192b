"""Layers of the vocoder: over a whole sequence or, when causal, over chunks with their last inputs kept in a state.

Shape letters: B batch, C channels, T frames at the layer's own rate, N samples.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional


@dataclass
class CausalState:
    """Where a causal stream stands."""

    past: list[torch.Tensor]  # the last inputs of each convolution, (B, C, history)
    source_past_BN: torch.Tensor  # source samples that the next STFT frames reach back to
    tail_BN: torch.Tensor  # overlap-add of frames that later frames still add to
    phase_B: torch.Tensor  # end phase of the source, cycles, float64
    generator: torch.Generator
    seed: int
    skip: int  # look-ahead frames not yet received
    lookahead: int

    def reset_(self) -> None:
        """Begin a new utterance in place."""
        for tensor in self.tensors():
            tensor.zero_()
        self.generator.manual_seed(self.seed)
        self.skip = self.lookahead

    def tensors(self) -> list[torch.Tensor]:
        """Those of fixed shapes; see `tts.modules.graphs.Remembered`."""
        return [*self.past, self.source_past_BN, self.tail_BN, self.phase_B]

    def caches(self) -> list[Any]:
        """Nothing grows."""
        return []

    def clone(self) -> "CausalState":
        """Return an independent copy."""
        return copy.deepcopy(self)


def extend(past: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return `x` with `past` before it, and keep the new end of both in `past`."""
    joined = torch.cat([past.to(x.dtype), x], dim=-1)
    past.copy_(joined[..., joined.shape[-1] - past.shape[-1] :])
    return joined


def products(x_BCT: torch.Tensor, taps_KOC: torch.Tensor, bias_O: torch.Tensor, spacing: int = 1) -> torch.Tensor:
    """A convolution as a matrix product per tap, `spacing` frames apart: (B, C, T) -> (B, O, T - (K - 1) * spacing).

    For the frames of a chunk and up to 128 channels, a CPU takes 0.6 times as long for these as for a convolution call,
    which brings weights and frames into layouts of its own each time.
    """
    count = x_BCT.shape[2] - (len(taps_KOC) - 1) * spacing
    out_BOT = bias_O[:, None].repeat(len(x_BCT), 1, count)
    for x_CT, out_OT in zip(x_BCT, out_BOT, strict=True):
        for place, tap_OC in enumerate(taps_KOC):
            out_OT.addmm_(tap_OC, x_CT.narrow(1, place * spacing, count))
    return out_BOT


class Conv(nn.Conv1d):
    """1-D convolution: centred as in the public weights, or causal with its last inputs kept in a `CausalState`."""

    taps_KOC: torch.Tensor | None  # weights as `products` takes them; with a stride s, C channels of s frames each

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        causal: bool,
        lookahead: int = 0,
    ) -> None:
        centred = stride // 2 if stride > 1 else dilation * (kernel - 1) // 2
        super().__init__(inputs, outputs, kernel, stride, 0 if causal else centred, dilation)
        self._centred = (0 if causal else centred,)
        self.history = dilation * (kernel - 1) + 1 - stride if causal else 0
        self.lookahead = lookahead
        self.slot = -1  # index into CausalState.past, given by the vocoder
        self.register_buffer("taps_KOC", None, persistent=False)

    def pack(self) -> None:
        """Compute by `products` from now on, with the weights as they are."""
        in_strides_OCKS = self.weight.detach().unflatten(2, (-1, self.stride[0]))
        self.taps_KOC = in_strides_OCKS.permute(2, 0, 1, 3).flatten(2).contiguous()

    def forward(self, x_BCT: torch.Tensor, state: CausalState | None = None) -> torch.Tensor:
        """(B, C, T) -> (B, C', T / stride); with a state, `lookahead` frames late."""
        if state is not None:
            x_BCT = extend(state.past[self.slot], x_BCT)
        elif self.history:
            x_BCT = functional.pad(x_BCT, (self.history - self.lookahead, self.lookahead))
        if x_BCT.shape[2] <= self.history:  # a chunk shorter than the look-ahead
            return x_BCT.new_zeros(x_BCT.shape[0], self.out_channels, 0)
        return super().forward(x_BCT) if self.taps_KOC is None else self._packed(x_BCT, self.taps_KOC)

    def _packed(self, x_BCT: torch.Tensor, taps_KOC: torch.Tensor) -> torch.Tensor:
        x_BCT, stride = functional.pad(x_BCT, 2 * self._centred), self.stride[0]
        if stride > 1:
            whole = x_BCT.shape[2] // stride * stride
            x_BCT = x_BCT[..., :whole].unflatten(2, (-1, stride)).transpose(2, 3).flatten(1, 2)
        assert self.bias is not None
        return products(x_BCT, taps_KOC, self.bias, self.dilation[0])


class Upsample(nn.ConvTranspose1d):
    """Transposed convolution that multiplies the rate by `rate`; causal: its right end is cut."""

    taps_KOC: torch.Tensor | None  # causal weights as `products` takes them: `rate` frames of every output channel

    def __init__(self, inputs: int, outputs: int, kernel: int, rate: int, *, causal: bool) -> None:
        super().__init__(inputs, outputs, kernel, rate, 0 if causal else (kernel - rate) // 2)
        self.rate = rate
        self.history = (kernel - 1) // rate if causal else 0  # inputs that still reach into later outputs
        self.slot = -1
        self.causal = causal
        self.register_buffer("taps_KOC", None, persistent=False)

    def pack(self) -> None:
        """Compute by `products` from now on, with the weights as they are; causal layers only, others stay."""
        if not self.causal:
            return
        num_taps = self.history + 1
        weight_IOK = functional.pad(self.weight.detach(), (0, num_taps * self.rate - self.weight.shape[2]))
        by_delay_KORI = weight_IOK.unflatten(2, (num_taps, self.rate)).permute(2, 1, 3, 0)
        self.taps_KOC = by_delay_KORI.flip(0).flatten(1, 2).contiguous()

    def forward(self, x_BCT: torch.Tensor, state: CausalState | None = None) -> torch.Tensor:  # type: ignore[override]
        """(B, C, T) -> (B, C', T * rate)."""
        if not self.causal:
            return super().forward(x_BCT)
        num_frames = x_BCT.shape[2]
        if state is not None:
            x_BCT = extend(state.past[self.slot], x_BCT)
        elif self.history:
            x_BCT = functional.pad(x_BCT, (self.history, 0))
        if self.taps_KOC is None:
            start = self.history * self.rate
            return super().forward(x_BCT)[..., start : start + num_frames * self.rate]
        assert self.bias is not None
        out_BRT = products(x_BCT, self.taps_KOC, self.bias.repeat_interleave(self.rate))
        return out_BRT.unflatten(1, (-1, self.rate)).transpose(2, 3).flatten(2)


class Snake(nn.Module):
    """x + sin(a x)^2 / a, one a per channel (arXiv 2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        """Any shape (B, C, T) to the same."""
        alpha = self.alpha.to(x_BCT.dtype)[:, None]
        return torch.addcmul(x_BCT, (alpha * x_BCT).sin_().square_(), (alpha + 1e-9).reciprocal())


class ResBlock(nn.Module):
    """Pairs of convolutions (dilated, then plain) around Snake, each pair residual."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...], *, causal: bool) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(Conv(channels, channels, kernel, dilation=d, causal=causal) for d in dilations)
        self.convs2 = nn.ModuleList(Conv(channels, channels, kernel, causal=causal) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x_BCT: torch.Tensor, state: CausalState | None = None) -> torch.Tensor:
        """(B, C, T) -> (B, C, T)."""
        layers = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for act1, conv1, act2, conv2 in layers:
            x_BCT = x_BCT + conv2(act2(conv1(act1(x_BCT), state)), state)
        return x_BCT
