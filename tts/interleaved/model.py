"""The interleaved text-speech language model (CosyVoice 2, 2412.10117, section 2.3; IST-LM, 2412.16102).

A Qwen2 decoder with two more input tables and a speech output. Names are those of the public weights.
Suffix legend: B batch, S positions, K visible positions, G key-value heads, W head width, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from tts import checkpoint
from tts.interleaved.config import InterleavedConfig
from tts.interleaved.state import InterleavedState
from tts.interleaved.tree import DraftTree
from tts.modules.graphs import Capture, CudaCapture, Graphs, outside
from tts.modules.transformer import attend, drop_channels
from tts.precision import computing

TIED_HEAD = "llm.model.lm_head.weight"
TEXT_TABLE = "llm.model.model.embed_tokens.weight"


Mix = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor
]  # query, key, value -> values per query, (B, G, N, W)


@dataclass(slots=True)
class Reading:
    """New positions and the cache that they read and extend; `tts.modules.graphs.Remembered`."""

    state: InterleavedState
    bias: torch.Tensor | None  # (queries of a group, K) added to the scores; None: every position sees all

    def mix(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attention over the cached positions and the new ones, which enter the cache."""
        state, stop = self.state, self.state.end + key.shape[2]
        state.keys[layer, :, :, state.end : stop] = key
        state.values[layer, :, :, state.end : stop] = value
        return attend(query, state.keys[layer, :, :, :stop], state.values[layer, :, :, :stop], self.bias)

    def tensors(self) -> list[torch.Tensor]:
        """None of fixed shapes."""
        return []

    def caches(self) -> list["Reading"]:
        """Itself."""
        return [self]

    def clone(self) -> "Reading":
        """An independent copy."""
        return Reading(self.state.clone(), self.bias)


class Attention(nn.Module):
    """Causal attention; groups of query heads share one key-value head."""

    def __init__(self, config: InterleavedConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        kv_dim = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.dim, config.dim)
        self.k_proj = nn.Linear(config.dim, kv_dim)
        self.v_proj = nn.Linear(config.dim, kv_dim)
        self.o_proj = nn.Linear(config.dim, config.dim, bias=False)

    def forward(
        self,
        x_BSD: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        mix: Mix,
    ) -> torch.Tensor:
        """x (B, S, D), rotation cos and sin (S, 1, W)."""
        size, length, dim = x_BSD.shape
        query = _rotated(self.q_proj(x_BSD).view(size, length, -1, self.head_dim), rotation)
        key = _rotated(self.k_proj(x_BSD).view(size, length, -1, self.head_dim), rotation).transpose(1, 2)
        value = self.v_proj(x_BSD).view(size, length, -1, self.head_dim).transpose(1, 2)
        # The heads of a group stand behind each other as queries, so that keys and values are not copied per head.
        query = query.unflatten(2, (key.shape[1], -1)).permute(0, 2, 3, 1, 4)
        mixed = mix(query.flatten(2, 3), key, value).unflatten(2, (-1, length))
        return self.o_proj(mixed.permute(0, 3, 1, 2, 4).reshape(size, length, dim))


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, config: InterleavedConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.dim, config.ff_dim, bias=False)
        self.up_proj = nn.Linear(config.dim, config.ff_dim, bias=False)
        self.down_proj = nn.Linear(config.ff_dim, config.dim, bias=False)

    def forward(self, x_BSD: torch.Tensor) -> torch.Tensor:
        """(B, S, D) -> (B, S, D)."""
        return self.down_proj(F.silu(self.gate_proj(x_BSD)) * self.up_proj(x_BSD))


class Layer(nn.Module):
    """Attention, then SwiGLU; both pre-normalised."""

    def __init__(self, config: InterleavedConfig, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = Attention(config)
        self.mlp = Mlp(config)
        self.input_layernorm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.dim, eps=config.norm_eps)

    def forward(
        self,
        x_BSD: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        mix: Mix,
    ) -> torch.Tensor:
        """See `Attention.forward`."""
        x_BSD = x_BSD + self._drop(self.self_attn(self.input_layernorm(x_BSD), rotation, mix))
        return x_BSD + self._drop(self.mlp(self.post_attention_layernorm(x_BSD)))

    def _drop(self, x_BSD: torch.Tensor) -> torch.Tensor:
        return drop_channels(x_BSD, self.dropout) if self.training and self.dropout else x_BSD


class Backbone(nn.Module):
    """The text embedding, the layers and the final norm."""

    def __init__(self, config: InterleavedConfig, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.text_vocab_size, config.dim)
        self.layers = nn.ModuleList(Layer(config, dropout) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        rates = config.rope_base ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)
        self.register_buffer("rates", rates, persistent=False)
        self.rates: torch.Tensor
        self.group = config.dim // config.head_dim // config.num_kv_heads  # query heads that share a key-value head
        self.graphs: Graphs | None = None

    def forward(self, x_BSD: torch.Tensor, state: InterleavedState | None, tree: DraftTree | None) -> torch.Tensor:
        """(B, S, D) -> (B, S, D); extends the state's cache."""
        length, past = x_BSD.shape[1], 0 if state is None else state.end
        steps = torch.arange(length, device=x_BSD.device) if tree is None else tree.depths.to(x_BSD.device)
        angles = (past + steps)[:, None, None] * self.rates
        rotation = torch.cat((angles.cos(),) * 2, dim=-1), torch.cat((-angles.sin(), angles.sin()), dim=-1)
        bias = None
        if length > 1:
            hidden_SS = torch.ones(length, length, dtype=torch.bool).triu(1) if tree is None else tree.hidden
            bias = torch.zeros(length, past + length, device=x_BSD.device)
            bias[:, past:].masked_fill_(hidden_SS.to(x_BSD.device), -torch.inf)
            bias = bias.repeat(self.group, 1)
        x_BSD = x_BSD.float()
        with computing(self.embed_tokens.weight):
            if state is None:
                x_BSD = self._run(x_BSD, rotation, lambda _, query, key, value: attend(query, key, value, bias))
            else:
                state.reserve_(length)
                reading = Reading(state, bias)
                inputs = (x_BSD, *rotation)
                x_BSD = self._run_on(*inputs, reading) if self.graphs is None else self.graphs(inputs, reading)
                state.end += length
        return self.norm(x_BSD)

    def _run_on(self, x_BSD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, reading: Reading) -> torch.Tensor:
        """Behind a cache. What the cache holds decides the shapes of its keys: no graph holds that part."""
        return self._run(x_BSD, (cos, sin), lambda layer, *qkv: outside(lambda past: past.mix(layer, *qkv), reading))

    def _run(
        self, x_BSD: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], mix: Callable[..., torch.Tensor]
    ) -> torch.Tensor:
        for layer, block in enumerate(self.layers):
            x_BSD = block(x_BSD, rotation, partial(mix, layer))
        return x_BSD


class CausalLm(nn.Module):
    """Qwen2 as released: the backbone and a text output, tied to the text embedding and unused here."""

    def __init__(self, config: InterleavedConfig, dropout: float) -> None:
        super().__init__()
        self.model = Backbone(config, dropout)
        self.lm_head = nn.Linear(config.dim, config.text_vocab_size, bias=False)
        self.lm_head.weight = self.model.embed_tokens.weight


class Qwen2Encoder(nn.Module):
    """One more level of names in the public weights."""

    def __init__(self, config: InterleavedConfig, dropout: float) -> None:
        super().__init__()
        self.model = CausalLm(config, dropout)


class InterleavedLm(nn.Module):
    """Reads text and speech in one sequence and predicts the next speech id."""

    HALF: ClassVar = ("llm.model.model.embed_tokens", "llm.model.model.layers", "llm_embedding", "speech_embedding")
    FULL: ClassVar = ()

    def __init__(self, config: InterleavedConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.llm_embedding = nn.Embedding(2, config.dim)  # row 0 sos, row 1 task id
        self.llm = Qwen2Encoder(config, dropout)
        self.llm_decoder = nn.Linear(config.dim, config.num_speech_ids)
        self.speech_embedding = nn.Embedding(config.num_speech_ids, config.dim)
        for module in self.modules():
            if isinstance(module, nn.Embedding | nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, weight in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.normal_(weight, std=0.02 / (2 * config.num_layers) ** 0.5)

    @classmethod
    def load(cls, directory: Path) -> "InterleavedLm":
        """Read a weights folder for inference (float32). Raises CheckpointError."""
        model = cls(InterleavedConfig.from_values(checkpoint.read_config(directory)))
        model.load_weights(checkpoint.read_state(directory), directory)
        return model.eval().requires_grad_(False)

    def load_weights(self, state: dict[str, torch.Tensor], source: Path | str) -> None:
        """Fill the model strictly; the unused text output may be there or not. Raises CheckpointError."""
        if TEXT_TABLE in state:
            state = {**state, TIED_HEAD: state[TEXT_TABLE]}
        checkpoint.load_into(self, state, source)

    def embed(
        self,
        ids_BS: torch.Tensor,
        text_table: torch.Tensor | None = None,
        speech_table: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Input (B, S, D) of input ids (`InterleavedConfig`).

        Args:
            ids_BS: (B, S) int64.
            text_table: (text_vocab_size, D) instead of the model's own (training composes it from parts).
            speech_table: (num_speech_ids, D), likewise.
        """
        config = self.config
        text_table = self.llm.model.model.embed_tokens.weight if text_table is None else text_table
        speech_table = self.speech_embedding.weight if speech_table is None else speech_table
        text = F.embedding(ids_BS.clamp(max=config.text_vocab_size - 1), text_table)
        special = self.llm_embedding((ids_BS - config.sos).clamp(0, 1))
        speech = F.embedding((ids_BS - config.speech_offset).clamp(min=0), speech_table)
        kind_BS1 = ids_BS[..., None]
        later = torch.where(kind_BS1 < config.speech_offset, special, speech)
        return torch.where(kind_BS1 < config.text_vocab_size, text, later)

    def use_graphs(self, capture: Callable[[], Capture] = CudaCapture, *, num_positions: Sequence[int] = (1,)) -> None:
        """Record the passes over so many positions, and run them by these recordings from now on, in this thread."""
        backbone = self.llm.model.model
        backbone.graphs = backbone.graphs or Graphs(backbone._run_on, "interleaved model's step", capture=capture)
        with backbone.graphs.learning(), torch.inference_mode():
            for count in num_positions:
                state = InterleavedState.create(self.config, like=self.llm_embedding.weight)
                self(self.embed(torch.zeros((1, count), dtype=torch.long, device=state.keys.device)), state)

    def forward(
        self, x_BSD: torch.Tensor, state: InterleavedState | None = None, tree: DraftTree | None = None
    ) -> torch.Tensor:
        """Hidden states (B, S, D), for `llm_decoder`, of a whole sequence or of positions behind a state's cache.

        Args:
            x_BSD: (B, S, D) from `embed`; shorter sequences of a batch are padded at their end.
            state: cache to read and extend; B = 1.
            tree: of which the positions are the nodes, each seeing what is cached, its ancestors and itself, at the
                place that its depth gives it; None: they follow each other.
        """
        return self.llm.model.model(x_BSD, state, tree)


def _rotated(x_BSHW: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn number pairs (w, w + W/2) by their position's angle, computed in float32."""
    cos, sin = rotation
    first, second = x_BSHW.chunk(2, dim=-1)
    return (x_BSHW * cos + torch.cat((second, first), dim=-1) * sin).to(x_BSHW.dtype)
