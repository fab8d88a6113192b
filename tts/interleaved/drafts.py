"""Draft heads and what they are good for: several speech tokens from one pass of the model (VADUSA, 2410.21951).

Each head guesses, from the hidden state that the next speech token is chosen by, a token further on. A tree of their
candidates is read behind the next token in one pass, and as many are kept as the model itself would have chosen.
Suffix legend: D width, V speech tokens, H heads.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tts import checkpoint
from tts.base import CheckpointError, SynthesisError
from tts.interleaved.config import InterleavedConfig
from tts.interleaved.tree import DraftTree, grow
from tts.precision import computing

NUM_CANDIDATES = 10  # of each head: the children that a node of the full tree has


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """Shape of the draft heads and how good they are; travels as `config.json` beside their weights."""

    dim: int  # of the model that they belong to
    num_speech_tokens: int
    num_heads: int = 4
    # By head, then rank: how often the candidate of that rank is right, measured on speech that was not trained on.
    accuracies: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "HeadsConfig":
        """Read `config.json`'s object. Raises CheckpointError for a key or a size that does not belong."""
        names = {field.name for field in fields(cls)}
        if wrong := sorted((values.keys() - names) | ({"dim", "num_speech_tokens"} - values.keys())):
            raise CheckpointError(f"config.json is not of draft heads: unknown or missing {', '.join(wrong)}.")
        try:
            table = tuple(tuple(float(share) for share in head) for head in values.get("accuracies", ()))
        except (TypeError, ValueError):
            raise CheckpointError("config.json of the draft heads: accuracies must be lists of numbers.") from None
        config = cls(**{**values, "accuracies": table})
        if len(table) != config.num_heads or not all(table):
            raise CheckpointError(
                f"config.json holds the accuracies of {len(table)} draft heads, there are {config.num_heads}: "
                "train them again."
            )
        return config


class DraftHead(nn.Module):
    """A residual block that begins as the identity, and an output."""

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        self.block = nn.Linear(config.dim, config.dim)
        self.output = nn.Linear(config.dim, config.num_speech_tokens, bias=False)
        nn.init.zeros_(self.block.weight)
        nn.init.zeros_(self.block.bias)

    def forward(self, hidden_D: torch.Tensor) -> torch.Tensor:
        """Hidden states (..., D) after the model's last norm -> logits (..., V)."""
        return self.output(hidden_D + F.silu(self.block(hidden_D)))


class DraftHeads(nn.Module):
    """Head 1 guesses the token after the next, head 2 the one after that, and so on. They know speech tokens only."""

    HALF: ClassVar = ("heads",)
    FULL: ClassVar = ()

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        self.config = config
        self.heads = nn.ModuleList(DraftHead(config) for _ in range(config.num_heads))

    @classmethod
    def load(cls, directory: Path) -> "DraftHeads":
        """Read a weights folder for inference (float32). Raises CheckpointError."""
        heads = cls(HeadsConfig.from_values(checkpoint.read_config(directory)))
        checkpoint.load_into(heads, checkpoint.read_state(directory), directory)
        return heads.eval().requires_grad_(False)

    @torch.no_grad()
    def begin_with_(self, output_VD: torch.Tensor) -> None:
        """Take the model's own output as every head's first guess."""
        for number in range(self.config.num_heads):
            self.get_parameter(f"heads.{number}.output.weight").copy_(output_VD[: self.config.num_speech_tokens])

    def take_(self, others: "DraftHeads") -> None:
        """Take the weights of the first of `others`. Raises CheckpointError where they are too few or of another shape."""
        mine, theirs = self.config, others.config
        fits = (mine.dim, mine.num_speech_tokens) == (theirs.dim, theirs.num_speech_tokens)
        if not fits or mine.num_heads > theirs.num_heads:
            raise CheckpointError(
                f"{theirs.num_heads} draft heads of width {theirs.dim} for {theirs.num_speech_tokens} speech tokens cannot "
                f"begin the training of {mine.num_heads} of width {mine.dim} for {mine.num_speech_tokens}: "
                "train them on the same model."
            )
        found = others.state_dict()
        self.load_state_dict({name: found[name] for name in self.state_dict()})

    def forward(self, hidden_D: torch.Tensor, num_heads: int | None = None) -> torch.Tensor:
        """Hidden states (..., D) after the model's last norm -> logits (H, ..., V) of the first `num_heads` (default all)."""
        with computing(self.get_parameter("heads.0.output.weight")):
            return torch.stack([head(hidden_D) for head in self.heads[:num_heads]])


class Draft(NamedTuple):
    """What is read behind the next token."""

    tree: DraftTree
    tokens: list[int]  # speech token of every node but the root


def usual_nodes(device: torch.device) -> int:
    """Size of a tree that pays: to a GPU it matters little how much a pass reads, to a CPU a lot."""
    return 64 if device.type == "cuda" else 16


class Drafter:
    """Draft heads with their candidate trees; one for all utterances."""

    def __init__(
        self,
        heads: DraftHeads,
        *,
        num_heads: int | None = None,
        num_nodes: int = 0,
        tolerance: int = 1,
        avoid: int = 0,
    ) -> None:
        """Grow the trees. Raises SynthesisError.

        Args:
            heads: with measured accuracies.
            num_heads: use only the first ones, as if there were no others; None: all.
            num_nodes: nodes of the tree, the root included; 0: `usual_nodes`.
            tolerance: how many times the model chooses where a draft awaits its judgement. A draft is accepted if it is
                chosen at least once; 1 is the model's own speech, more is faster and strays from it.
            avoid: so many of the last speech tokens are not drafted: the window of repetition-aware sampling, which
                seldom lets one of them come again.
        """
        there = len(heads.config.accuracies)
        num_heads = there if num_heads is None else num_heads
        num_nodes = num_nodes or usual_nodes(heads.get_parameter("heads.0.output.weight").device)
        if not 1 <= num_heads <= there:
            raise SynthesisError(f"num_heads {num_heads}: there are {there} draft heads with measured accuracies.")
        if num_nodes < 1 or tolerance < 1:
            raise SynthesisError(f"nodes {num_nodes} and tolerance {tolerance}: both must be at least 1.")
        self.heads, self.num_nodes, self.tolerance, self._avoid = heads, num_nodes, tolerance, avoid
        accuracies = heads.config.accuracies[:num_heads]
        # The nearer the end of what may be spoken, the shallower the tree, with all its nodes where they serve.
        self._trees = [grow(accuracies, num_nodes, depth) for depth in range(num_heads + 1)]

    def check(self, config: InterleavedConfig) -> None:
        """Raises CheckpointError unless the heads are of a model of this shape."""
        mine, theirs = self.heads.config, (config.dim, config.num_speech_tokens)
        if (mine.dim, mine.num_speech_tokens) != theirs:
            raise CheckpointError(
                f"the draft heads are of a model of width {mine.dim} with {mine.num_speech_tokens} speech tokens, this "
                f"one has {theirs[0]} and {theirs[1]}: take both from the same training."
            )

    def draft(self, hidden_D: torch.Tensor, max_depth: int, history: list[int]) -> Draft:
        """Candidates behind a token that was chosen by `hidden` (D,), at most `max_depth` deep.

        `history` is the speech ids so far, that token the last of them.
        """
        tree = self._trees[min(max_depth, len(self._trees) - 1)]
        if len(tree) == 1:
            return Draft(tree, [])
        depths, ranks = tree.depths[1:], tree.ranks[1:]
        logits_HV = self.heads(hidden_D, int(depths.max()))
        if self._avoid:
            # Upstream's history holds fill too, which the heads do not know.
            repeated = [token for token in history[-self._avoid :] if token < logits_HV.shape[1]]
            logits_HV[:, repeated] = -torch.inf
        candidates = logits_HV.topk(int(ranks.max()) + 1).indices.cpu()
        return Draft(tree, candidates[depths - 1, ranks].tolist())


NOTHING = Draft(grow((), 1, 0), [])


class Choice(NamedTuple):
    """What the model chooses at a node."""

    ids: list[int]  # speech ids, as often as it was asked
    scores: np.ndarray  # (V,) float64: log-probability of every speech id


class Accepted(NamedTuple):
    """The drafts that are kept."""

    nodes: list[int]  # from the root's child down
    next_id: int  # what the model chose first at the last of them (at the root if there are none)


def accept(draft: Draft, choose: Callable[[int, list[int], int], Choice], tolerance: int) -> Accepted:
    """The longest way down the tree on which the model's choices include every node.

    Ways of the same length: the likeliest by the model, then the likeliest by the heads. With a tolerance of 1 there is
    one way only, and the model chooses what it would choose, in the same order, without drafts.

    Args:
        draft: the tree and its tokens.
        choose: the model's choices at a node, from its index, the tokens down to it, and how many are wanted.
        tolerance: choices at a node with children; elsewhere one.
    """
    tree, tokens = draft

    def below(node: int, nodes: list[int]) -> tuple[float, Accepted]:
        """Log-probability of the best way on from an accepted node, and where it leads."""
        children = tree.children[node]
        choice = choose(node, [tokens[i - 1] for i in nodes], tolerance if children else 1)
        best = 0.0, Accepted(nodes, choice.ids[0])
        for child in children:
            token = tokens[child - 1]
            if token in choice.ids:
                likely, end = below(child, [*nodes, child])
                likely += float(choice.scores[token])
                if (len(end.nodes), likely) > (len(best[1].nodes), best[0]):
                    best = likely, end
        return best

    return below(0, [])[1]
