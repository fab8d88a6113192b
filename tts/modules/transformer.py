"""Parts that the text-to-token models share.

B batch, S positions, K visible positions, H heads, W head width, D width.
"""

import torch
import torch.nn.functional as F


def attend(
    query_BHSW: torch.Tensor, key_BHKW: torch.Tensor, value_BHKW: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Attention (B, H, S, W) with scores shifted by `bias`, which broadcasts to (B, H, S, K); None shifts nothing."""
    if bias is not None:
        bias = bias.to(query_BHSW.dtype)
    if query_BHSW.dtype != torch.bfloat16 or query_BHSW.device.type != "cpu":
        return F.scaled_dot_product_attention(query_BHSW, key_BHKW, value_BHKW, attn_mask=bias)
    # Training on a CPU: plain products are about 3.5 times as fast as the fused kernel and its backward pass.
    with torch.autocast("cpu", enabled=False):
        scores = (query_BHSW * query_BHSW.shape[-1] ** -0.5) @ key_BHKW.transpose(-1, -2)
        return torch.softmax(scores if bias is None else scores + bias, dim=-1) @ value_BHKW


def drop_channels(x_BSD: torch.Tensor, share: float) -> torch.Tensor:
    """Dropout of whole channels of a sequence: as many random numbers as channels, not as positions."""
    keep = torch.empty_like(x_BSD[:, :1]).bernoulli_(1 - share)
    return x_BSD * (keep / (1 - share))
