"""Everything one utterance remembers between two steps of streaming decoding."""

import copy
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch

from tts.tmt.config import TmtConfig
from tts.tmt.layout import Field


@dataclass(kw_only=True)
class TmtState:
    """Key-value cache and counters. The buffers grow by doubling; a history window keeps them at a fixed size.

    Cached positions lie in [start, end) of the buffers, in the order in which they were read.
    """

    keys: torch.Tensor  # (layers, 1, heads, capacity, head width), rotated
    values: torch.Tensor  # (layers, 1, heads, capacity, head width)
    rows: torch.Tensor  # (1, fields, capacity) what the cached positions are
    generator: np.random.Generator  # draws durations
    seed: int
    start: int = 0
    end: int = 0
    # each remembered step and the buffer position where it begins
    read_starts: deque[tuple[int, int]] = field(default_factory=deque)
    text: list[int] = field(default_factory=list)  # ids that are not in the cache
    num_text: int = 0  # text tokens pushed so far (L once finished), the prompt's included
    num_prompt: int = 0  # text tokens of a prompt, which are spoken already
    given: deque[np.ndarray] = field(default_factory=deque)  # the prompt's blocks that are not taken yet
    num_read: int = 0  # text tokens, E included, in the cache
    finished: bool = False
    num_spoken: int = 0  # blocks generated or taken from a prompt
    num_placed: int = 0  # placeholders in the cache
    placeholder: torch.Tensor | None = None  # (D,) hidden state that gives the next durations; None: not computed
    ready: deque = field(
        default_factory=deque
    )  # blocks (`tts.tmt.decode.TokenBlock`) that are spoken, not yet returned
    blocks: list[np.ndarray] = field(default_factory=list)  # the last blocks' speech tokens, not in the cache
    num_frames: int = 0  # speech tokens generated
    rounding: float = 0.0  # duration still owed after rounding to whole speech tokens

    @classmethod
    def create(
        cls, config: TmtConfig, *, seed: int = 0, capacity: int = 1024, like: torch.Tensor | None = None
    ) -> "TmtState":
        """An empty state; `like` gives dtype and device (default: float32 on the CPU)."""
        like = torch.empty(0) if like is None else like
        shape = (config.num_layers, 1, config.num_heads, capacity, config.head_dim)
        return cls(
            keys=like.new_empty(shape),
            values=like.new_empty(shape),
            rows=torch.zeros((1, len(Field), capacity), dtype=torch.long, device=like.device),
            generator=np.random.default_rng(seed),
            seed=seed,
        )

    @property
    def done(self) -> bool:
        """True once every text token of the finished text is spoken."""
        return self.finished and self.num_spoken == self.num_text and not self.ready

    def reset_(self) -> None:
        """Begin a new utterance in the same buffers."""
        fresh = TmtState(
            keys=self.keys,
            values=self.values,
            rows=self.rows,
            generator=np.random.default_rng(self.seed),
            seed=self.seed,
        )
        self.__dict__.update(fresh.__dict__)

    def clone(self) -> "TmtState":
        """An independent copy."""
        return copy.deepcopy(self)

    def reserve_(self, num_positions: int) -> None:
        """Make room for `num_positions` more: first by moving the live part to the front, then by doubling."""
        capacity = self.keys.shape[3]
        if self.end + num_positions <= capacity:
            return
        live = slice(self.start, self.end)
        length = self.end - self.start
        grown = capacity
        while length + num_positions > grown // 2:  # half stays free, so that moves are rare
            grown *= 2
        for name in ("keys", "values", "rows"):
            old: torch.Tensor = getattr(self, name)
            axis = old.dim() - 2 if name != "rows" else 2
            kept = old.narrow(axis, self.start, length).clone()
            if grown > capacity:
                new_shape = list(old.shape)
                new_shape[axis] = grown
                old = old.new_empty(new_shape)
                setattr(self, name, old)
            old.narrow(axis, 0, length).copy_(kept)
        self.read_starts = deque((step, position - live.start) for step, position in self.read_starts)
        self.start, self.end = 0, length
