"""The temporal masked transformer (SyncSpeech, section 3): Llama-style blocks, a speech token head, a duration head.

Suffix legend: B batch, S positions, K visible positions, H heads, W head width, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from tts import checkpoint
from tts.modules.graphs import Capture, CudaCapture, Graphs, outside
from tts.modules.transformer import attend, drop_channels
from tts.precision import computing
from tts.tmt.config import TmtConfig
from tts.tmt.layout import Field, in_order
from tts.tmt.state import TmtState

_RECORDED_SIZES = (8, 16, 24, 32, 48, 64)  # positions of a step; longer ones, such as prompts, come once
# query (B, H, Q, W) of the last positions, key and value (B, H, S, W) of all -> (B, H, Q, W)
Mix = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(slots=True)
class Reading:
    """New positions and the cache that they read and extend; `tts.modules.graphs.Remembered`."""

    state: TmtState
    bias: torch.Tensor  # (1, 1, S, K) added to the scores
    num_new: int  # of the S positions; the others only fill up a shape that is recorded

    def mix(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attention over the cached positions and the new ones, which enter the cache."""
        state = self.state
        new, live = slice(state.end, state.end + self.num_new), slice(state.start, state.end + self.num_new)
        state.keys[layer, :, :, new] = key[:, :, : self.num_new]
        state.values[layer, :, :, new] = value[:, :, : self.num_new]
        bias = self.bias[:, :, -query.shape[2] :]
        return attend(query, state.keys[layer, :, :, live], state.values[layer, :, :, live], bias)

    def tensors(self) -> list[torch.Tensor]:
        """None of fixed shapes."""
        return []

    def caches(self) -> list["Reading"]:
        """Itself."""
        return [self]

    def clone(self) -> "Reading":
        """An independent copy."""
        return Reading(self.state.clone(), self.bias, self.num_new)


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
        self, x_BSD: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], mix: Mix, num_asked: int = 0
    ) -> torch.Tensor:
        """x (B, S, D), rotation cos and sin (B, S, 1, 1, W) -> x of all positions, or of the last `num_asked`."""
        qkv = self.qkv(self.attention_norm(x_BSD)).unflatten(2, (3, self.num_heads, -1))
        cos, sin = rotation
        qk = qkv[:, :, :2]
        first, second = qk.chunk(2, dim=-1)
        qk = (qk * cos + torch.cat((second, first), dim=-1) * sin).to(qkv.dtype)
        query, key = qk[:, :, 0].transpose(1, 2), qk[:, :, 1].transpose(1, 2)
        value = qkv[:, :, 2].transpose(1, 2)
        mixed = mix(query[:, :, -num_asked:], key, value)  # -0: all
        x_BSD = x_BSD[:, -num_asked:]
        x_BSD = x_BSD + self._drop(self.out(mixed.transpose(1, 2).flatten(2)))
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
        pairs = config.head_dim // (2 if config.positions == "contiguous" else 4)  # of numbers, that turn on an axis
        self.register_buffer("frequencies", config.rope_base ** (-torch.arange(pairs) / pairs), persistent=False)
        self.frequencies: torch.Tensor
        self.graphs: Graphs | None = None
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
        num_asked: int = 0,
    ) -> torch.Tensor:
        """Hidden states of a whole sequence, or of new positions behind a state's cache.

        Args:
            rows: (B, fields, S) sequence as `layout` builds it.
            mask: (B, S, K) bool; K = S, or the cached positions and S with a state.
            state: cache to read and extend; B = 1. Room for S positions must be reserved.
            num_committed: leading positions that stay in the cache; the others are forgotten after this call.
            table: (num_ids, D) input embedding to use instead of the model's own (training composes it from parts).
            num_asked: positions whose hidden states are wanted, the last ones; 0: all. The last layer is spared the others.
        Returns:
            (B, S or num_asked, D) for `speech_head`, `duration_head` and `later_durations`.
        """
        bias = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)[:, None]
        if state is None:
            return self.norm(
                self._read(rows, lambda _, query, key, value: attend(query, key, value, bias), table)[:, -num_asked:]
            )
        num_new = rows.shape[2]
        reading = Reading(state, bias, num_new)
        with computing(self.embedding.weight):
            if self.graphs is None:
                x_BSD = self._read_on(rows, reading, num_asked)
            else:
                fill = _recorded_size(num_new) - num_new
                reading.bias = F.pad(bias, (0, 0, 0, fill))
                x_BSD = self.graphs([F.pad(rows, (0, fill))], reading)[:, :num_new][:, -num_asked:]
        state.rows[:, :, state.end : state.end + num_committed] = rows[:, :, :num_committed]
        state.end += num_committed
        return self.norm(x_BSD)

    def _read_on(self, rows: torch.Tensor, reading: Reading, num_asked: int = 0) -> torch.Tensor:
        """Behind a cache. What the cache holds and how much decides the shapes of its keys: no graph holds that part."""
        return self._read(
            rows, lambda layer, *qkv: outside(lambda past: past.mix(layer, *qkv), reading), num_asked=num_asked
        )

    def _read(
        self,
        rows: torch.Tensor,
        mix: Callable[..., torch.Tensor],
        table: torch.Tensor | None = None,
        num_asked: int = 0,
    ) -> torch.Tensor:
        x_BSD = F.embedding(rows[:, Field.ID], self.embedding.weight if table is None else table)
        if self.index_embedding is not None:
            x_BSD = x_BSD + self.index_embedding(rows[:, Field.SLOT])
        if self.from_start_embedding is not None and self.to_end_embedding is not None:
            x_BSD = x_BSD + self.from_start_embedding(rows[:, Field.FROM_START])
            x_BSD = x_BSD + self.to_end_embedding(rows[:, Field.TO_END])
        x_BSD, rotation = x_BSD.float(), self._rotation(rows)
        for layer, block in enumerate(self.blocks):
            x_BSD = block(x_BSD, rotation, partial(mix, layer), num_asked if layer + 1 == len(self.blocks) else 0)
        return x_BSD

    def use_graphs(self, capture: Callable[[], Capture] = CudaCapture) -> None:
        """Record the steps of a streamed utterance, and run them by these recordings from now on, in this thread."""
        self.graphs = self.graphs or Graphs(self._read_on, "text-to-token model's step", capture=capture)
        state = TmtState.create(self.config, like=self.embedding.weight)
        state.reserve_(_RECORDED_SIZES[-1])
        with self.graphs.learning(), torch.inference_mode():
            for size in _RECORDED_SIZES:
                rows = torch.zeros((1, len(Field), size), dtype=torch.long, device=state.rows.device)
                self(rows, torch.ones((1, size, size), dtype=torch.bool, device=rows.device), state)

    def _rotation(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotary cos and sin (B, S, 1, 1, W): half of the pairs turn with the text index, half with the frame.

        With contiguous positions all turn with the place in the sequence.
        """
        contiguous = self.config.positions == "contiguous"
        axes = [in_order(rows)] if contiguous else [rows[:, Field.INDEX], rows[:, Field.FRAME]]
        angles = torch.cat([axis[..., None] * self.frequencies for axis in axes], dim=-1)[:, :, None, None]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def _recorded_size(num_positions: int) -> int:
    """The next size that is recorded; beyond the largest its own."""
    return next((size for size in _RECORDED_SIZES if size >= num_positions), num_positions)
