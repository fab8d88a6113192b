"""Estimator of the flow decoder: noisy mel, condition and time -> velocity (or clean mel, by the weights' config).

Structure and parameter names are those of CosyVoice2's CausalConditionalDecoder (arXiv 2412.10117 §2.4): a U-Net
without down-sampling, of causal residual blocks and transformer layers on a chunk grid.
B batch, T mel frames, M mel bins, C width.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tts.decoder.config import EstimatorConfig
from tts.modules.attention import AttentionCache, chunk_mask, regular_chunks, split_heads
from tts.modules.conv import CausalConv1d, ConvCache
from tts.modules.graphs import outside
from tts.precision import exactly


class _TimeEmbedding(nn.Module):
    """Flow time in [0, 1] -> (B, time_width)."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.in_width = in_width
        self.linear_1 = nn.Linear(in_width, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, time_B: Tensor) -> Tensor:
        half = self.in_width // 2
        rate = torch.exp(torch.arange(half, device=time_B.device).float() * -(math.log(10000) / (half - 1)))
        angle = 1000 * time_B[:, None].float() * rate
        sinusoid = torch.cat([angle.sin(), angle.cos()], dim=1).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(sinusoid)))


class _ConvBlock(nn.Module):
    """Causal convolution, layer norm over channels, Mish."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        # Places 1 and 3 hold transpositions in the public model; the norm keeps its number 2.
        self.block = nn.ModuleDict({"0": CausalConv1d(in_width, width, 3), "2": nn.LayerNorm(width)})

    @property
    def conv(self) -> CausalConv1d:
        return cast(CausalConv1d, self.block["0"])

    def forward(self, x_BTC: Tensor, mask_BT1: Tensor | None, cache: ConvCache | None) -> Tensor:
        return _masked(F.mish(self.block["2"](self.conv(_masked(x_BTC, mask_BT1), cache))), mask_BT1)


class _Resnet(nn.Module):
    """Two convolution blocks with the time embedding added between, and a linear short cut."""

    def __init__(self, in_width: int, width: int, time_width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_width, width))
        self.block1 = _ConvBlock(in_width, width)
        self.block2 = _ConvBlock(width, width)
        self.res_conv = nn.Conv1d(in_width, width, 1)

    def forward(
        self, x_BTC: Tensor, time_BC: Tensor, mask_BT1: Tensor | None, caches: tuple[ConvCache, ConvCache] | None
    ) -> Tensor:
        first, second = caches or (None, None)
        hidden = self.block1(x_BTC, mask_BT1, first) + self.mlp(time_BC)[:, None]
        short_cut = F.linear(_masked(x_BTC, mask_BT1), self.res_conv.weight[..., 0], self.res_conv.bias)
        return self.block2(hidden, mask_BT1, second).float() + short_cut


class _Attention(nn.Module):
    def __init__(self, config: EstimatorConfig) -> None:
        super().__init__()
        inner = config.num_heads * config.head_width
        self.num_heads, self.head_width = config.num_heads, config.head_width
        self.to_q = nn.Linear(config.width, inner, bias=False)
        self.to_k = nn.Linear(config.width, inner, bias=False)
        self.to_v = nn.Linear(config.width, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, config.width)])

    def cache(self, batch: int) -> AttentionCache:
        """State before the first frame."""
        empty = self.to_k.weight.new_zeros(batch, self.num_heads, 0, self.head_width)
        return AttentionCache(empty, empty)

    def forward(self, x_BTC: Tensor, mask: Tensor | None, cache: AttentionCache | None, max_past: int | None) -> Tensor:
        query, key, value = (split_heads(linear(x_BTC), self.num_heads) for linear in (self.to_q, self.to_k, self.to_v))

        def attend(past: AttentionCache) -> Tensor:
            keys, values = past.append(key, value, max_past)
            return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)

        if cache is None:
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            out = outside(attend, cache)
        return self.to_out[0](out.transpose(1, 2).flatten(2))


class _Projection(nn.Module):
    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_width, width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return F.gelu(self.proj(x_BTC))


class _FeedForward(nn.Module):
    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        # Place 1 is a dropout in the public model.
        self.net = nn.ModuleDict({"0": _Projection(width, ratio * width), "2": nn.Linear(ratio * width, width)})

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.net["2"](self.net["0"](x_BTC))


class _Transformer(nn.Module):
    """Pre-norm attention (without positions) and feed-forward."""

    def __init__(self, config: EstimatorConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn1 = _Attention(config)
        self.norm3 = nn.LayerNorm(config.width)
        self.ff = _FeedForward(config.width, config.ffn_ratio)

    def forward(self, x_BTC: Tensor, mask: Tensor | None, cache: AttentionCache | None, max_past: int | None) -> Tensor:
        x_BTC = x_BTC + self.attn1(self.norm1(x_BTC), mask, cache, max_past)
        return x_BTC + self.ff(self.norm3(x_BTC))


@dataclass(slots=True)
class BlockState:
    """Caches of one block: its residual block, its transformers, its tail convolution if it has one."""

    convs: tuple[ConvCache, ConvCache]
    attention: list[AttentionCache]
    tail: ConvCache | None

    def reset_(self) -> None:
        """Back to before the first frame."""
        for conv in (*self.convs, *([self.tail] if self.tail else [])):
            conv.reset_()
        for cache in self.attention:
            cache.reset_()

    def clone(self) -> "BlockState":
        """An independent copy."""
        first, second = self.convs
        tail = self.tail.clone() if self.tail else None
        return BlockState((first.clone(), second.clone()), [cache.clone() for cache in self.attention], tail)


@dataclass(slots=True)
class EstimatorState:
    """What the estimator remembers of the frames before the next one, for one flow step."""

    blocks: list[BlockState]
    final: ConvCache

    def reset_(self) -> None:
        """Back to before the first frame."""
        for block in self.blocks:
            block.reset_()
        self.final.reset_()

    def tensors(self) -> list[Tensor]:
        """The convolutions' last frames; see `tts.modules.graphs.Remembered`."""
        convs = [conv for block in self.blocks for conv in (*block.convs, block.tail) if conv is not None]
        return [conv.frames for conv in (*convs, self.final)]

    def caches(self) -> list[AttentionCache]:
        """Keys and values."""
        return [cache for block in self.blocks for cache in block.attention]

    def clone(self) -> "EstimatorState":
        """An independent copy."""
        return EstimatorState([block.clone() for block in self.blocks], self.final.clone())


class _Block(nn.ModuleList):
    """Residual block, transformers, and (in the first and last block) a causal convolution: places 0, 1, 2."""

    def __init__(self, in_width: int, config: EstimatorConfig, *, tail: bool) -> None:
        super().__init__(
            [
                _Resnet(in_width, config.width, config.time_width),
                nn.ModuleList(_Transformer(config) for _ in range(config.num_transformers)),
                *([CausalConv1d(config.width, config.width, 3)] if tail else []),
            ]
        )

    @property
    def resnet(self) -> _Resnet:
        return cast(_Resnet, self[0])

    @property
    def transformers(self) -> list[_Transformer]:
        return list(cast(Iterable[_Transformer], self[1]))

    @property
    def tail_conv(self) -> CausalConv1d:
        return cast(CausalConv1d, self[2])

    def start(self, batch: int) -> BlockState:
        """State before the first frame."""
        return BlockState(
            (self.resnet.block1.conv.cache(batch), self.resnet.block2.conv.cache(batch)),
            [layer.attn1.cache(batch) for layer in self.transformers],
            self.tail_conv.cache(batch) if len(self) == 3 else None,
        )

    def forward(
        self,
        x_BTC: Tensor,
        time_BC: Tensor,
        mask_BT1: Tensor | None,
        attention_mask: Tensor | None,
        state: BlockState | None,
        max_past: int | None,
    ) -> Tensor:
        """Everything but the tail, whose input the last block needs too."""
        x_BTC = self.resnet(x_BTC, time_BC, mask_BT1, None if state is None else state.convs)
        for index, layer in enumerate(self.transformers):
            x_BTC = layer(x_BTC, attention_mask, None if state is None else state.attention[index], max_past)
        return x_BTC

    def tail(self, x_BTC: Tensor, mask_BT1: Tensor | None, state: BlockState | None) -> Tensor:
        """The convolution that ends the first and the last block."""
        return self.tail_conv(_masked(x_BTC, mask_BT1), None if state is None else state.tail)


class Estimator(nn.Module):
    """The network that the flow integrates; frames (B, T, M) in and out."""

    def __init__(self, config: EstimatorConfig, *, mel_bins: int, chunk: int, max_left_chunks: int | None) -> None:
        super().__init__()
        self.chunk, self.max_left_chunks = chunk, max_left_chunks
        in_width, width = 4 * mel_bins, config.width
        self.time_mlp = _TimeEmbedding(in_width, config.time_width)
        self.down_blocks = nn.ModuleList([_Block(in_width, config, tail=True)])
        self.mid_blocks = nn.ModuleList(_Block(width, config, tail=False) for _ in range(config.num_mid_blocks))
        self.up_blocks = nn.ModuleList([_Block(2 * width, config, tail=True)])
        self.final_block = _ConvBlock(width, width)
        self.final_proj = nn.Conv1d(width, mel_bins, 1)

    def start(self, batch: int) -> EstimatorState:
        """State before the first frame."""
        return EstimatorState([block.start(batch) for block in self._blocks()], self.final_block.conv.cache(batch))

    def _blocks(self) -> list[_Block]:
        return [cast(_Block, block) for block in (*self.down_blocks, *self.mid_blocks, *self.up_blocks)]

    def forward(
        self,
        x_BTM: Tensor,
        mu_BTM: Tensor,
        speaker_BM: Tensor,
        cond_BTM: Tensor,
        time_B: Tensor,
        *,
        chunked: bool,
        sizes: Sequence[int] | None = None,
        mask_BT: Tensor | None = None,
        state: EstimatorState | None = None,
    ) -> Tensor:
        """One evaluation.

        Args:
            x_BTM: noisy mel at `time_B`; with a state its frames begin with a chunk, where the last call ended.
            mu_BTM: the encoder's mel. speaker_BM: projected speaker vector. cond_BTM: prompt mel, zeros elsewhere.
            chunked: attention by chunks (True) or over everything (False; only without state).
            sizes: frames of the chunks; None: the regular grid.
            mask_BT: 1 for valid frames of a padded batch; None = all valid. Not together with a state.
        """
        new = x_BTM.shape[1]
        max_past = None if self.max_left_chunks is None or not chunked else self.chunk * self.max_left_chunks
        past = 0 if state is None else len(state.blocks[0].attention[0])
        if max_past is not None:
            past = min(past, max_past)
        sizes = regular_chunks(new, self.chunk) if sizes is None else sizes
        attention_mask = chunk_mask(new, past + new, sizes, max_past, x_BTM.device) if chunked else None
        mask_BT1 = None
        if mask_BT is not None:
            mask_BT1 = mask_BT[..., None].to(x_BTM.dtype)
            keys = mask_BT[:, None, None].bool()
            attention_mask = keys if attention_mask is None else keys & attention_mask
        time = self.time_mlp(time_B)
        blocks = self._blocks()
        states: list[BlockState | None] = [None] * len(blocks) if state is None else [*state.blocks]

        def run(index: int, x: Tensor) -> Tensor:
            return blocks[index](x, time, mask_BT1, attention_mask, states[index], max_past)

        skip = run(0, torch.cat([x_BTM, mu_BTM, speaker_BM[:, None].expand(-1, new, -1), cond_BTM], dim=2))
        x = blocks[0].tail(skip, mask_BT1, states[0])
        for index in range(1, len(blocks) - 1):
            x = run(index, x)
        x = run(-1, torch.cat([x, skip], dim=2))
        x = blocks[-1].tail(x, mask_BT1, states[-1])
        x = self.final_block(x, mask_BT1, None if state is None else state.final)
        with exactly(x.device):
            out = F.linear(x.float(), self.final_proj.weight[..., 0], self.final_proj.bias)
        return _masked(out, mask_BT1)


def _masked(x_BTC: Tensor, mask_BT1: Tensor | None) -> Tensor:
    return x_BTC if mask_BT1 is None else x_BTC * mask_BT1
