"""Muon: momentum whose update is made orthogonal (K. Jordan, 2024; scaled as in arXiv 2502.16982 §2.2), in any precision.

PyTorch's own computes in bfloat16 always, which a CPU without such instructions emulates at a twentieth of the speed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, steep at zero
_ROUNDS = 5
_MOMENTUM = 0.95
_RMS = 0.2  # of an update's entries, as AdamW's are


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest (roughly) orthogonal matrix of a matrix (R, C), by Newton-Schulz iterations computed in `dtype`."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ROUNDS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """For weights of two or more dimensions, each taken as (rows, all the rest)."""

    def __init__(self, weights: Sequence[nn.Parameter], learning_rate: float, weight_decay: float) -> None:
        super().__init__(weights, {"lr": learning_rate, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients of the weights, computed in the type that `torch.autocast` has on their device."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"]
                momentum.lerp_(weight.grad, 1 - _MOMENTUM)
                ahead = weight.grad.lerp(momentum, _MOMENTUM).flatten(1)
                update = orthogonal(ahead, torch.get_autocast_dtype(weight.device.type))
                scale = _RMS * max(update.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update.view_as(weight), alpha=-group["lr"] * scale)
