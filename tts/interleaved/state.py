"""Everything one utterance of the interleaved model remembers between two steps of streaming decoding."""

import copy
from dataclasses import dataclass, field

import numpy as np
import torch

from tts.interleaved.config import InterleavedConfig


@dataclass(kw_only=True)
class InterleavedState:
    """Key-value cache and counters. The buffers grow by doubling; positions [0, end) are in them."""

    keys: torch.Tensor  # (layers, 1, key-value heads, capacity, head width), rotated
    values: torch.Tensor  # (layers, 1, key-value heads, capacity, head width)
    generator: np.random.Generator  # draws speech tokens
    seed: int
    end: int = 0
    text: list[int] = field(default_factory=list)  # ids that wait to be read, the prompt's first
    prompt: list[int] = field(default_factory=list)  # speech tokens of the prompt that wait to be placed beside text
    pending: list[int] = field(default_factory=list)  # input ids that the next pass reads
    last_read: list[int] = field(default_factory=list)  # input ids that the last pass read; of drafts, the last kept
    last_hidden: torch.Tensor | None = None  # (D,) the hidden state by which the last speech id was chosen
    num_prompt_text: int = 0  # text tokens of the prompt; the counts below are without them
    num_text: int = 0  # text tokens pushed so far
    num_taken: int = 0  # text tokens, the prompt's included, that went from `text` to `pending`
    num_voiced: int = 0  # text tokens taken to be voiced
    num_speech: int = 0  # speech tokens generated
    history: list[int] = field(default_factory=list)  # speech ids generated
    until_fill: int | None = None  # speech tokens before more text is read; None: text is needed now
    finished: bool = False
    final: bool = False  # all text was read
    ended: bool = False  # the speech is complete
    cut: bool = False  # it was ended by the length limit
    num_passes: int = 0  # passes of the model
    num_drafted: int = 0  # those that read drafts
    num_accepted: int = 0  # drafts that were kept

    @classmethod
    def create(
        cls, config: InterleavedConfig, *, seed: int = 0, capacity: int = 1024, like: torch.Tensor | None = None
    ) -> "InterleavedState":
        """An empty state; `like` gives dtype and device (default: float32 on the CPU)."""
        like = torch.empty(0) if like is None else like
        shape = (config.num_layers, 1, config.num_kv_heads, capacity, config.head_dim)
        return cls(
            keys=like.new_empty(shape), values=like.new_empty(shape), generator=np.random.default_rng(seed), seed=seed
        )

    @property
    def done(self) -> bool:
        """True once the speech of the finished text is complete; at once for a text without tokens."""
        return self.ended or (self.finished and not self.num_text)

    @property
    def speaking(self) -> bool:
        """True when the next speech token can be generated without more text."""
        return not self.ended and (self.final or self.until_fill is not None)

    def reset_(self) -> None:
        """Begin a new utterance, without a prompt, in the same buffers."""
        fresh = InterleavedState(
            keys=self.keys, values=self.values, generator=np.random.default_rng(self.seed), seed=self.seed
        )
        self.__dict__.update(fresh.__dict__)

    def clone(self) -> "InterleavedState":
        """An independent copy."""
        return copy.deepcopy(self)

    def keep_(self, past: int, nodes: list[int]) -> None:
        """Of what was cached behind the first `past` positions, keep a tree's root and the given nodes, in this order."""
        rows = past + torch.tensor([0, *nodes], device=self.keys.device)
        self.end = past + len(rows)
        for buffer in (self.keys, self.values):
            buffer[:, :, :, past : self.end] = buffer[:, :, :, rows]

    def reserve_(self, num_positions: int) -> None:
        """Make room for `num_positions` more by doubling."""
        capacity = self.keys.shape[3]
        if self.end + num_positions <= capacity:
            return
        while self.end + num_positions > capacity:
            capacity *= 2
        for name in ("keys", "values"):
            old: torch.Tensor = getattr(self, name)
            grown = old.new_empty((*old.shape[:3], capacity, old.shape[4]))
            grown[:, :, :, : self.end] = old[:, :, :, : self.end]
            setattr(self, name, grown)
