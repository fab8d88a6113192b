"""Upsampling conformer encoder of the flow decoder: embedded speech tokens -> hidden frames, twice as many.

Structure and parameter names are those of CosyVoice2's UpsampleConformerEncoder (arXiv 2412.10117 §2.4).
B batch, S tokens, T mel frames (2 S), C width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tts.decoder.config import EncoderConfig
from tts.modules.attention import RelativeAttention, RelativeCache, chunk_mask, regular_chunks, relative_positions
from tts.modules.conv import CausalConv1d, ConvCache, convolve
from tts.modules.graphs import Graphs
from tts.precision import exactly

UPSAMPLING = 2


class _Embed(nn.Module):
    """Linear and layer norm, scaled by the square root of the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.scale = math.sqrt(width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        with exactly(x_BTC.device):
            return self.out(x_BTC.float()) * self.scale


class _Lookahead(nn.Module):
    """Lets each token see the next `lookahead` tokens; the only part that looks beyond the chunk."""

    def __init__(self, width: int, lookahead: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, lookahead + 1)
        self.conv2 = CausalConv1d(width, width, 3)

    def forward(self, x_BSC: Tensor, context_BKC: Tensor, cache: ConvCache | None) -> Tensor:
        with exactly(x_BSC.device):
            ahead = convolve(torch.cat([x_BSC, context_BKC], dim=1), self.conv1.weight, self.conv1.bias)
            return x_BSC + self.conv2(F.leaky_relu(ahead), cache)


class _Upsample(nn.Module):
    """Repeats each frame and smooths with a causal convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = CausalConv1d(width, width, 2 * UPSAMPLING + 1)

    def forward(self, x_BSC: Tensor, cache: ConvCache | None) -> Tensor:
        with exactly(x_BSC.device):
            return self.conv(x_BSC.repeat_interleave(UPSAMPLING, dim=1), cache)


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, inner)
        self.w_2 = nn.Linear(inner, width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.w_2(F.silu(self.w_1(x_BTC)))


class EncoderBlock(nn.Module):
    """Pre-norm relative-position attention and feed-forward."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(config.width, config.num_heads)
        self.feed_forward = _FeedForward(config.width, config.ffn_width)
        self.norm_ff = nn.LayerNorm(config.width, eps=1e-12)
        self.norm_mha = nn.LayerNorm(config.width, eps=1e-12)

    def forward(
        self,
        x_BTC: Tensor,
        mask: Tensor | None,
        cache: RelativeCache | None,
        distances_HDR: Tensor | None,
        max_past: int | None,
    ) -> Tensor:
        """One block; arguments as of `RelativeAttention`."""
        x_BTC = x_BTC + self.self_attn(self.norm_mha(x_BTC), mask, cache, distances_HDR, max_past)
        return x_BTC + self.feed_forward(self.norm_ff(x_BTC))


@dataclass(slots=True)
class EncoderState:
    """What the encoder remembers of the tokens before the next one."""

    lookahead: ConvCache
    upsample: ConvCache
    blocks: list[RelativeCache]
    up_blocks: list[RelativeCache]

    def reset_(self) -> None:
        """Back to before the first frame."""
        for conv in (self.lookahead, self.upsample):
            conv.reset_()
        for cache in self.caches():
            cache.reset_()

    def tensors(self) -> list[Tensor]:
        """The convolutions' last frames; see `tts.modules.graphs.Remembered`."""
        return [self.lookahead.frames, self.upsample.frames]

    def caches(self) -> list[RelativeCache]:
        """Keys and values."""
        return [*self.blocks, *self.up_blocks]

    def clone(self) -> "EncoderState":
        """An independent copy."""
        return EncoderState(
            self.lookahead.clone(),
            self.upsample.clone(),
            [cache.clone() for cache in self.blocks],
            [cache.clone() for cache in self.up_blocks],
        )


class UpsampleConformerEncoder(nn.Module):
    """Embedded tokens (B, S, C) -> hidden frames (B, 2 S, C), whole or on a grid of chunks."""

    def __init__(self, config: EncoderConfig, *, lookahead: int, chunk: int, max_left_chunks: int | None) -> None:
        super().__init__()
        width = config.width
        self.lookahead, self.chunk, self.max_left_chunks = lookahead, chunk, max_left_chunks
        self.embed = _Embed(width)
        self.after_norm = nn.LayerNorm(width)
        self.pre_lookahead_layer = _Lookahead(width, lookahead)
        self.encoders = nn.ModuleList(EncoderBlock(config) for _ in range(config.num_blocks))
        self.up_layer = _Upsample(width)
        self.up_embed = _Embed(width)
        self.up_encoders = nn.ModuleList(EncoderBlock(config) for _ in range(config.num_up_blocks))
        self.graphs: Graphs | None = None  # of `one_chunk`

    def start(self, batch: int) -> EncoderState:
        """State before the first token."""
        return EncoderState(
            self.pre_lookahead_layer.conv2.cache(batch),
            self.up_layer.conv.cache(batch),
            *(
                [block.self_attn.cache(batch) for block in _blocks(stack)]
                for stack in (self.encoders, self.up_encoders)
            ),
        )

    def forward(
        self,
        tokens_BSC: Tensor,
        context_BKC: Tensor | None = None,
        *,
        chunked: bool,
        sizes: Sequence[int] | None = None,
        state: EncoderState | None = None,
        context_mask_BK: Tensor | None = None,
    ) -> Tensor:
        """Encode embedded tokens.

        Args:
            tokens_BSC: token embeddings; with a state they begin with a chunk, where the last call ended.
            context_BKC: embeddings of the next `lookahead` tokens; None = the sequence ends here (zeros).
            chunked: attention by chunks (True) or over everything (False; only without state).
            sizes: tokens of the chunks; None: the regular grid.
            context_mask_BK: 1 where the context token exists, for batches of which some rows end.
        """
        new = tokens_BSC.shape[1]
        sizes = (regular_chunks(new, self.chunk) if sizes is None else sizes) if chunked else None
        if state is not None:
            self._reach(state, new, sizes)
            if self.graphs is not None and context_BKC is not None and sizes == [new]:
                return self.graphs((tokens_BSC, context_BKC), state)
        return self._encode(tokens_BSC, context_BKC, sizes, state, context_mask_BK)

    def one_chunk(self, tokens_BSC: Tensor, context_BKC: Tensor, state: EncoderState) -> Tensor:
        """`forward` of a single chunk whose lookahead is there, after distances as far as it sees: what graphs record."""
        return self._encode(tokens_BSC, context_BKC, [tokens_BSC.shape[1]], state, None)

    def _encode(
        self,
        tokens_BSC: Tensor,
        context_BKC: Tensor | None,
        sizes: Sequence[int] | None,
        state: EncoderState | None,
        context_mask_BK: Tensor | None,
    ) -> Tensor:
        x = self.embed(tokens_BSC)
        if context_BKC is None:
            context = x.new_zeros(x.shape[0], self.lookahead, x.shape[2])
        else:
            context = self.embed(context_BKC)
            if context_mask_BK is not None:
                context = context * context_mask_BK[..., None]
        x = self.pre_lookahead_layer(x, context, None if state is None else state.lookahead)
        x = self._run(_blocks(self.encoders), x, 1, sizes, None if state is None else state.blocks)
        x = self.up_embed(self.up_layer(x, None if state is None else state.upsample))
        x = self._run(_blocks(self.up_encoders), x, UPSAMPLING, sizes, None if state is None else state.up_blocks)
        return self.after_norm(x)

    def _max_past(self, sizes: Sequence[int] | None, rate: int) -> int | None:
        """Frames before its chunk that each frame sees, in a stack with `rate` frames per token; None: all."""
        return None if sizes is None or self.max_left_chunks is None else rate * self.chunk * self.max_left_chunks

    def _reach(self, state: EncoderState, new: int, sizes: Sequence[int] | None) -> None:
        """Project the distances that the next `new` tokens need, and some for those after them."""
        for stack, rate, caches in ((self.encoders, 1, state.blocks), (self.up_encoders, UPSAMPLING, state.up_blocks)):
            if not caches:
                continue
            max_past = self._max_past(sizes, rate)
            keys = rate * new + (len(caches[0]) if max_past is None else min(len(caches[0]), max_past))
            if keys - 1 > caches[0].farthest:
                bias_u = _blocks(stack)[0].self_attn.pos_bias_u
                table = relative_positions(2 * keys, bias_u.numel(), bias_u.device)
                for block, cache in zip(_blocks(stack), caches, strict=True):
                    cache.distances_HDR = block.self_attn.project_distances(table)

    def _run(
        self,
        blocks: list[EncoderBlock],
        x_BTC: Tensor,
        rate: int,
        sizes: Sequence[int] | None,
        caches: list[RelativeCache] | None,
    ) -> Tensor:
        """Run one stack of blocks, whose frames are `rate` per token; `sizes` of the chunks in tokens, None = full attention."""
        new, max_past = x_BTC.shape[1], self._max_past(sizes, rate)
        past = len(caches[0]) if caches else 0
        keys = new + (past if max_past is None else min(past, max_past))
        mask = None if sizes is None else chunk_mask(new, keys, [rate * s for s in sizes], max_past, x_BTC.device)
        if caches is not None:
            for block, cache in zip(blocks, caches, strict=True):
                x_BTC = block(x_BTC, mask, cache, None, max_past)
            return x_BTC
        table = relative_positions(keys - 1, x_BTC.shape[2], x_BTC.device).to(x_BTC.dtype)
        for block in blocks:
            x_BTC = block(x_BTC, mask, None, block.self_attn.project_distances(table), max_past)
        return x_BTC


def _blocks(stack: nn.ModuleList) -> list[EncoderBlock]:
    return [cast(EncoderBlock, block) for block in stack]
