"""Chunk-wise attention: masks, key-value caches, and the relative-position attention of Transformer-XL (1901.02860).

B batch, H heads, N queries, K keys, D head width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tts.modules.graphs import outside


def chunk_mask(
    num_queries: int, num_keys: int, sizes: Sequence[int], max_past: int | None, device: torch.device
) -> Tensor | None:
    """Which keys each query sees: its own chunk and up to `max_past` keys before that (None: all before it).

    The queries are the last `num_queries` of the keys and begin with a chunk; `sizes` of their chunks, one after the other,
    cover them at least. Returns bool (N, K), or None when every query sees every key.
    """
    past = num_keys - num_queries
    if num_queries <= sizes[0] and (max_past is None or past <= max_past):
        return None
    ends = past + np.cumsum(sizes)
    first_N, end_N = (
        torch.from_numpy(np.repeat(borders, sizes)[:num_queries]).to(device)[:, None]
        for borders in (ends - sizes, ends)
    )
    key = torch.arange(num_keys, device=device)[None]
    visible = key < end_N
    if max_past is not None:
        visible &= key >= first_N - max_past
    return visible


def regular_chunks(count: int, size: int) -> list[int]:
    """Sizes of the chunks of a regular grid that cover `count`."""
    return [size] * -(-count // size)


@dataclass(slots=True)
class AttentionCache:
    """Keys and values of past frames: buffers (B, H, capacity, D) of which [start:end] is alive.

    Old frames are dropped by moving `start`; the live part moves to the front only when the buffer is full, so the
    cost of a chunk depends on the live frames alone.
    """

    keys: Tensor
    values: Tensor
    start: int = 0
    end: int = 0

    def __len__(self) -> int:
        return self.end - self.start

    def append(self, keys_BHND: Tensor, values_BHND: Tensor, max_past: int | None) -> tuple[Tensor, Tensor]:
        """Keep at most `max_past` old frames (None: all) and add new ones; returns all that live, (B, H, K, D) each."""
        if max_past is not None:
            self.start = max(self.start, self.end - max_past)
        new = keys_BHND.shape[2]
        if self.end + new > self.keys.shape[2]:
            self._make_room(new)
        self.keys[:, :, self.end : self.end + new] = keys_BHND
        self.values[:, :, self.end : self.end + new] = values_BHND
        self.end += new
        return self.keys[:, :, self.start : self.end], self.values[:, :, self.start : self.end]

    def _make_room(self, new: int) -> None:
        live = len(self)
        capacity = 2 * (live + new)
        for name in ("keys", "values"):
            old = getattr(self, name)
            buffer = old
            if capacity > old.shape[2]:
                buffer = old.new_empty(*old.shape[:2], capacity, old.shape[3])
                setattr(self, name, buffer)
            # Within one buffer source and target are apart: it is at least twice as long as what lives.
            buffer[:, :, :live] = old[:, :, self.start : self.end]
        self.start, self.end = 0, live

    def reset_(self) -> None:
        """Back to before the first frame."""
        self.start = self.end = 0

    def clone(self) -> "AttentionCache":
        """An independent copy."""
        return AttentionCache(self.keys.clone(), self.values.clone(), self.start, self.end)


@dataclass(slots=True)
class RelativeCache:
    """Past frames and the distances to them, projected (a constant of the weights, shared by clones)."""

    past: AttentionCache
    distances_HDR: Tensor  # +farthest ... -farthest

    def __len__(self) -> int:
        return len(self.past)

    @property
    def farthest(self) -> int:
        """The largest distance that is projected; -1: none."""
        return (self.distances_HDR.shape[2] + 1) // 2 - 1

    def reset_(self) -> None:
        """Back to before the first frame."""
        self.past.reset_()

    def clone(self) -> "RelativeCache":
        """An independent copy."""
        return RelativeCache(self.past.clone(), self.distances_HDR)


def split_heads(x_BTC: Tensor, num_heads: int) -> Tensor:
    """(B, T, H * D) -> (B, H, T, D)."""
    return x_BTC.unflatten(2, (num_heads, -1)).transpose(1, 2)


def relative_positions(farthest: int, width: int, device: torch.device) -> Tensor:
    """Sinusoids of the distances +farthest ... -farthest (query minus key): (2 * farthest + 1, width)."""
    distance = torch.arange(farthest, -farthest - 1, -1, device=device, dtype=torch.float32)
    rate = torch.exp(torch.arange(0, width, 2, device=device, dtype=torch.float32) * -(math.log(10000.0) / width))
    angle = distance[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


def shift_relative(scores_BHNR: Tensor, num_keys: int) -> Tensor:
    """Turn scores per distance into scores per key (B, H, N, K).

    Column r of the input is distance K - 1 - r; the queries are the last N of K keys, so R = K + N - 1 and query i
    meets key j in column N - 1 - i + j: one flat view with rows a step shorter.
    """
    batch, heads, queries, distances = scores_BHNR.shape
    if queries == 1:  # its row needs no shift, and may have no distance to spare
        return scores_BHNR[..., :num_keys]
    flat = scores_BHNR.flatten(2)[:, :, queries - 1 : queries - 1 + queries * (distances - 1)]
    return flat.view(batch, heads, queries, distances - 1)[..., :num_keys]


class RelativeAttention(nn.Module):
    """Multi-head self-attention with relative positions and two learned query biases."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(num_heads, width // num_heads))
        self.pos_bias_v = nn.Parameter(torch.empty(num_heads, width // num_heads))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def cache(self, batch: int) -> RelativeCache:
        """State before the first frame."""
        heads, depth = self.pos_bias_u.shape
        empty = self.pos_bias_u.new_zeros(batch, heads, 0, depth)
        return RelativeCache(AttentionCache(empty, empty), self.pos_bias_u.new_zeros(heads, depth, 0))

    def project_distances(self, positions_RC: Tensor) -> Tensor:
        """Keys of the distances, (H, D, R): the part of the scores that does not depend on the input."""
        return self.linear_pos(positions_RC).unflatten(1, (self.num_heads, -1)).permute(1, 2, 0)

    def forward(
        self,
        x_BTC: Tensor,
        mask: Tensor | None,
        cache: RelativeCache | None = None,
        distances_HDR: Tensor | None = None,
        max_past: int | None = None,
    ) -> Tensor:
        """Attend; `mask` is bool (N, K), True = visible. Without a cache `distances_HDR` are K - 1 ... -(K - 1)."""
        query, key, value = (
            split_heads(linear(x_BTC), self.num_heads) for linear in (self.linear_q, self.linear_k, self.linear_v)
        )

        def go_on(cache: RelativeCache) -> Tensor:
            keys, values = cache.past.append(key, value, max_past)
            return self._attend(query, keys, values, cache.distances_HDR, mask)

        if cache is not None:
            out = outside(go_on, cache)
        else:
            assert distances_HDR is not None
            out = self._attend(query, key, value, distances_HDR, mask)
        return self.linear_out(out.transpose(1, 2).flatten(2))

    def _attend(
        self, query_BHND: Tensor, keys_BHKD: Tensor, values_BHKD: Tensor, distances_HDR: Tensor, mask: Tensor | None
    ) -> Tensor:
        new, num_keys, zero = query_BHND.shape[2], keys_BHKD.shape[2], distances_HDR.shape[2] // 2
        window_HDR = distances_HDR[..., zero - (num_keys - 1) : zero + new]
        scale = 1 / math.sqrt(query_BHND.shape[3])
        bias = shift_relative((query_BHND + self.pos_bias_v[:, None]) @ window_HDR, num_keys) * scale
        if mask is not None:
            bias = bias.masked_fill(~mask, float("-inf"))
        query_BHND = (query_BHND + self.pos_bias_u[:, None]).to(values_BHKD.dtype)
        return F.scaled_dot_product_attention(
            query_BHND, keys_BHKD, values_BHKD, attn_mask=bias.to(values_BHKD.dtype), scale=scale
        )
