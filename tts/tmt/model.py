"""The temporal masked transformer (SyncSpeech, section 3): Llama-style blocks, a speech token head, a duration head.

Suffix legend: B batch, S positions, K visible positions, H heads, W head width, D width.
"""

from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from tts import checkpoint
from tts.modules.transformer import attend, drop_channels
from tts.precision import computing
from tts.tmt.config import TmtConfig
from tts.tmt.layout import Field
from tts.tmt.state import TmtState


class Block(nn.Module):
    """Attention with rotary positions, then SwiGLU; both pre-normalised."""

    def __init__(self, config: TmtConfig, dropout: float) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = dropout
        self.attention_norm = nn.RMSNorm(config.dim, eps=1e-6)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        self.ff_norm = nn.RMSNorm(config.dim, eps=1e-6)
        self.gate_up = nn.Linear(config.dim, 2 * config.ff_dim, bias=False)
        self.down = nn.Linear(config.ff_dim, config.dim, bias=False)

    def forward(
        self,
        x_BSD: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        bias: torch.Tensor,
        state: TmtState | None,
        layer: int,
    ) -> torch.Tensor:
        """x (B, S, D), rotation cos and sin (B, S, 1, 1, W), bias (B, 1, S, K) added to the scores."""
        size, length, dim = x_BSD.shape
        qkv = self.qkv(self.attention_norm(x_BSD)).view(size, length, 3, self.num_heads, -1)
        cos, sin = rotation
        qk = qkv[:, :, :2]
        first, second = qk.chunk(2, dim=-1)
        qk = (qk * cos + torch.cat((second, first), dim=-1) * sin).to(qkv.dtype)
        query, key = qk[:, :, 0].transpose(1, 2), qk[:, :, 1].transpose(1, 2)
        value = qkv[:, :, 2].transpose(1, 2)
        if state is not None:
            state.keys[layer, :, :, state.end : state.end + length] = key
            state.values[layer, :, :, state.end : state.end + length] = value
            key = state.keys[layer, :, :, state.start : state.end + length]
            value = state.values[layer, :, :, state.start : state.end + length]
        mixed = attend(query, key, value, bias)
        x_BSD = x_BSD + self._drop(self.out(mixed.transpose(1, 2).reshape(size, length, dim)))
        gate, up = self.gate_up(self.ff_norm(x_BSD)).chunk(2, dim=-1)
        return x_BSD + self._drop(self.down(F.silu(gate) * up))

    def _drop(self, x_BSD: torch.Tensor) -> torch.Tensor:
        return drop_channels(x_BSD, self.dropout) if self.training and self.dropout else x_BSD


class LaterDuration(nn.Module):
    """Duration of a text token from a placeholder before its own, given the duration in between."""

    def __init__(self, config: TmtConfig) -> None:
        super().__init__()
        self.before = nn.Embedding(config.num_duration_classes, config.dim)
        self.hidden = nn.Linear(config.dim, config.dim, bias=False)
        self.head = nn.Linear(config.dim, config.num_duration_classes, bias=False)

    def forward(self, hidden: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Logits (..., classes) from the placeholder's hidden states (..., D) and durations (...) int64."""
        return self.head(F.silu(self.hidden(hidden) + self.before(before)))


class Tmt(nn.Module):
    """Reads sequences of `layout` and predicts speech tokens at masked positions and durations at placeholders."""

    HALF: ClassVar = ("embedding", "index_embedding", "from_start_embedding", "to_end_embedding", "blocks")
    FULL: ClassVar = ()

    def __init__(self, config: TmtConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.num_ids, config.dim)
        self.index_embedding = nn.Embedding(config.index_slots, config.dim) if config.index_slots else None
        frames = config.num_duration_classes + 1
        self.from_start_embedding = nn.Embedding(frames, config.dim) if config.frame_embeddings else None
        self.to_end_embedding = nn.Embedding(frames, config.dim) if config.frame_embeddings else None
        self.blocks = nn.ModuleList(Block(config, dropout) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.dim, eps=1e-6)
        self.speech_head = nn.Linear(config.dim, config.num_speech_tokens, bias=False)
        self.duration_head = nn.Linear(config.dim, config.num_duration_classes, bias=False)
        self.later_durations = nn.ModuleList(LaterDuration(config) for _ in range(config.text_per_step - 1))
        pairs = config.head_dim // 4
        self.register_buffer("frequencies", config.rope_base ** (-torch.arange(pairs) / pairs), persistent=False)
        self.frequencies: torch.Tensor
        for module in self.modules():
            if isinstance(module, nn.Embedding | nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        for name, weight in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(weight, std=0.02 / (2 * config.num_layers) ** 0.5)

    @classmethod
    def load(cls, directory: Path) -> "Tmt":
        """Read a weights folder for inference (float32). Raises CheckpointError."""
        model = cls(TmtConfig.from_values(checkpoint.read_config(directory)))
        checkpoint.load_into(model, checkpoint.read_state(directory), directory)
        return model.eval().requires_grad_(False)

    def forward(
        self,
        rows: torch.Tensor,
        mask: torch.Tensor,
        state: TmtState | None = None,
        num_committed: int = 0,
        table: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states of a whole sequence, or of new positions behind a state's cache.

        Args:
            rows: (B, fields, S) sequence as `layout` builds it.
            mask: (B, S, K) bool; K = S, or the cached positions and S with a state.
            state: cache to read and extend; B = 1. Room for S positions must be reserved.
            num_committed: leading positions that stay in the cache; the others are forgotten after this call.
            table: (num_ids, D) input embedding to use instead of the model's own (training composes it from parts).
        Returns:
            (B, S, D) for `speech_head`, `duration_head` and `later_durations`.
        """
        x_BSD = F.embedding(rows[:, Field.ID], self.embedding.weight if table is None else table)
        if self.index_embedding is not None:
            x_BSD = x_BSD + self.index_embedding(rows[:, Field.SLOT])
        if self.from_start_embedding is not None and self.to_end_embedding is not None:
            x_BSD = x_BSD + self.from_start_embedding(rows[:, Field.FROM_START])
            x_BSD = x_BSD + self.to_end_embedding(rows[:, Field.TO_END])
        x_BSD = x_BSD.float()
        rotation = self._rotation(rows)
        bias = torch.zeros(mask.shape, dtype=x_BSD.dtype, device=mask.device).masked_fill_(~mask, -torch.inf)[:, None]
        if state is None:
            for layer, block in enumerate(self.blocks):
                x_BSD = block(x_BSD, rotation, bias, None, layer)
            return self.norm(x_BSD)
        with computing(self.embedding.weight):
            for layer, block in enumerate(self.blocks):
                x_BSD = block(x_BSD, rotation, bias, state, layer)
        state.rows[:, :, state.end : state.end + num_committed] = rows[:, :, :num_committed]
        state.end += num_committed
        return self.norm(x_BSD)

    def _rotation(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotary cos and sin (B, S, 1, 1, W): half of the pairs turn with the text index, half with the frame."""
        index = rows[:, Field.INDEX, :, None] * self.frequencies
        frame = rows[:, Field.FRAME, :, None] * self.frequencies
        angles = torch.cat((index, frame), dim=-1)[:, :, None, None]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
