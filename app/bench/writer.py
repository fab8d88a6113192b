"""A language model that costs what a real one costs and says nothing: Qwen3's structure with random weights.

All shapes of its step are static (one token of the first N conversations, each against its whole cache), so that a CUDA
graph holds it, as in vLLM. Its tokens are counted, not read: the text of the replies is scripted.
B conversations, S positions, K cached positions, H heads, G key-value heads, W head width, D width.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.worker import use_stream


@dataclass(frozen=True, kw_only=True)
class WriterConfig:
    """Sizes; the defaults are Qwen3-4B's."""

    vocab_size: int = 151_936
    dim: int = 2560
    num_layers: int = 36
    num_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    ff_dim: int = 9728
    rope_base: float = 5_000_000.0
    num_positions: int = 1024  # of a conversation's cache, all of which every step reads
    num_new: int = 32  # tokens that a turn adds to its history


class _Layer(nn.Module):
    def __init__(self, config: WriterConfig) -> None:
        super().__init__()
        heads, kv_heads, width = config.num_heads, config.num_kv_heads, config.head_dim
        self.split = [heads * width, kv_heads * width, kv_heads * width]
        self.heads, self.kv_heads = heads, kv_heads
        self.input_norm, self.ff_norm = (nn.RMSNorm(config.dim, eps=1e-6) for _ in range(2))
        self.query_norm, self.key_norm = (nn.RMSNorm(width, eps=1e-6) for _ in range(2))
        self.qkv = nn.Linear(config.dim, sum(self.split), bias=False)
        self.out = nn.Linear(heads * width, config.dim, bias=False)
        self.gate_up = nn.Linear(config.dim, 2 * config.ff_dim, bias=False)
        self.down = nn.Linear(config.ff_dim, config.dim, bias=False)

    def forward(
        self,
        x_BSD: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask_B1SK: Tensor,
        positions_BS: Tensor,
        cache: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Attend to `cache` (keys and values (B, G, K, W), written at the new positions) and go on."""
        query, key, value = self.qkv(self.input_norm(x_BSD)).split(self.split, dim=-1)
        query = _rotated(self.query_norm(query.unflatten(-1, (self.heads, -1))), rotation)
        key = _rotated(self.key_norm(key.unflatten(-1, (self.kv_heads, -1))), rotation)
        keys, values = cache
        place = positions_BS[:, None, :, None].expand(-1, self.kv_heads, -1, keys.shape[3])
        keys.scatter_(2, place, key.transpose(1, 2))
        values.scatter_(2, place, value.unflatten(-1, (self.kv_heads, -1)).transpose(1, 2))
        # The heads of a group stand behind each other as queries, so that keys and values are not copied per head.
        query = query.unflatten(2, (self.kv_heads, -1)).permute(0, 2, 3, 1, 4)
        group, length = query.shape[2:4]
        mask = mask_B1SK.repeat(1, 1, group, 1)
        mixed = F.scaled_dot_product_attention(query.flatten(2, 3), keys, values, attn_mask=mask)
        mixed = mixed.unflatten(2, (group, length)).permute(0, 3, 1, 2, 4)
        x_BSD = x_BSD + self.out(mixed.flatten(2))
        gate, up = self.gate_up(self.ff_norm(x_BSD)).chunk(2, dim=-1)
        return x_BSD + self.down(F.silu(gate) * up)


class Writer(nn.Module):
    """The model and the caches of `num_slots` conversations."""

    def __init__(
        self, config: WriterConfig, *, num_slots: int, device: torch.device, dtype: torch.dtype, graphs: bool = False
    ) -> None:
        """`graphs`: record the step of each batch size (1, 2, 4, ...) as a CUDA graph."""
        super().__init__()
        self.config = config
        with torch.device(device):
            self.embedding = nn.Embedding(config.vocab_size, config.dim).to(dtype)  # the output layer is tied to it
            self.layers = nn.ModuleList(_Layer(config).to(dtype) for _ in range(config.num_layers))
            self.norm = nn.RMSNorm(config.dim, eps=1e-6).to(dtype)
            shape = (config.num_layers, num_slots, config.num_kv_heads, config.num_positions, config.head_dim)
            self.keys, self.values = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
            self.ids = torch.zeros(num_slots, 1, dtype=torch.long)  # the last token of each conversation
            self.positions = torch.zeros(num_slots, 1, dtype=torch.long)  # where the next one stands
            half = config.head_dim // 2
            self.rates = config.rope_base ** (-torch.arange(half).float() / half)
            self.columns = torch.arange(config.num_positions)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.eval().requires_grad_(False)
        self.sizes = sorted({min(2**power, num_slots) for power in range(num_slots.bit_length() + 1)})
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        if graphs:
            self._record()

    @property
    def has_graphs(self) -> bool:
        """Whether its steps are recorded as CUDA graphs."""
        return bool(self._graphs)

    @torch.inference_mode()
    def begin(self, slot: int) -> int:
        """The first token of a turn: read what the user said behind a history that is cached; returns the token."""
        history = self.config.num_positions // 2
        positions = torch.arange(history, history + self.config.num_new, device=self.ids.device)[None]
        rows = slice(slot, slot + 1)
        token = self._forward(positions % self.config.vocab_size, positions, rows)
        self.ids[rows] = token
        self.positions[rows] = history + self.config.num_new
        return int(token)

    @torch.inference_mode()
    def step(self, count: int, *, graph: bool = True) -> list[int]:
        """One more token of each of the first `count` conversations."""
        size = next(size for size in self.sizes if size >= count)
        if graph and size in self._graphs:
            self._graphs[size].replay()
        else:
            self._advance(size)
        return self.ids[:count, 0].tolist()

    def _advance(self, size: int) -> None:
        rows = slice(0, size)
        self.ids[rows] = self._forward(self.ids[rows], self.positions[rows], rows)
        self.positions[rows] = (self.positions[rows] + 1) % self.config.num_positions

    def _forward(self, ids_BS: Tensor, positions_BS: Tensor, rows: slice) -> Tensor:
        """The likeliest next token (B, 1)."""
        x_BSD = self.embedding(ids_BS)
        angles = positions_BS[..., None, None] * self.rates
        rotation = angles.cos().to(x_BSD.dtype), angles.sin().to(x_BSD.dtype)
        mask_B1SK = (self.columns <= positions_BS[..., None])[:, None]
        for layer, (keys, values) in zip(self.layers, zip(self.keys, self.values, strict=True), strict=True):
            x_BSD = layer(x_BSD, rotation, mask_B1SK, positions_BS, (keys[rows], values[rows]))
        return F.linear(self.norm(x_BSD[:, -1:]), self.embedding.weight).argmax(-1)

    @torch.inference_mode()
    def _record(self) -> None:
        for size in self.sizes:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # libraries set themselves up in the first passes, which no graph may hold
                for _ in range(3):
                    self._advance(size)
            torch.cuda.current_stream().wait_stream(stream)
            self._graphs[size] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graphs[size]):
                self._advance(size)


def _rotated(x_BSHW: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotation
    first, second = x_BSHW.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class WriterThread:
    """Writes for all conversations at once, on a thread of its own: before each step those that wait are let in."""

    def __init__(self, writer: Writer, *, num_busy: int = 0, priority: int | None = None) -> None:
        """`num_busy`: conversations that are always being written for, to keep the GPU busy. `priority`: see `use_stream`."""
        self._writer, self._num_busy, self._priority = writer, num_busy, priority
        self._inbox: queue.SimpleQueue[tuple[int, int, Callable[[], object]] | None] = queue.SimpleQueue()
        self._left: dict[int, int] = {}  # by slot, tokens still to come
        self._tell: dict[int, Callable[[], object]] = {}
        self.num_steps = 0
        self._thread = threading.Thread(target=self._run, name="llm", daemon=True)
        self._thread.start()

    def write(self, slot: int, num_tokens: int, tell: Callable[[], object]) -> None:
        """Write a reply; `tell` is called on this thread with each of its tokens."""
        self._inbox.put((slot, num_tokens, tell))

    def close(self) -> None:
        """End after the running step."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        use_stream(self._priority)
        while self._take_in():
            count = max([self._num_busy, *(slot + 1 for slot in self._left)])
            self._writer.step(count)
            self.num_steps += 1
            for slot in list(self._left):
                self._say(slot)

    def _take_in(self) -> bool:
        """Begin what waits; sleep while there is nothing to write. False when it is over."""
        while not self._inbox.empty() or not (self._left or self._num_busy):
            asked = self._inbox.get()
            if asked is None:
                return False
            slot, count, tell = asked
            self._left[slot], self._tell[slot] = count, tell
            self._writer.begin(slot)
            self._say(slot)
        return True

    def _say(self, slot: int) -> None:
        self._tell[slot]()
        self._left[slot] -= 1
        if not self._left[slot]:
            del self._left[slot], self._tell[slot]
