"""Which continuations are drafted: a sparse tree of candidates (Medusa, 2401.10774; VADUSA, 2410.21951).

Head d of the draft heads guesses the speech token d places after the one that comes next. A node at depth d stands for one
of that head's candidates, by rank, behind the candidates above it. The root is the token that is already chosen.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True)
class DraftTree:
    """N nodes, each the ranks on the way down to it: the root is (), its likeliest child (0,). Parents come first."""

    paths: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def parents(self) -> list[int]:
        """Index of each node's parent; the root's is -1."""
        index = {path: number for number, path in enumerate(self.paths)}
        return [index[path[:-1]] if path else -1 for path in self.paths]

    @cached_property
    def children(self) -> list[list[int]]:
        """Indices of each node's children, the likeliest first."""
        found: list[list[int]] = [[] for _ in self.paths]
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                found[parent].append(node)
        return found

    @cached_property
    def depths(self) -> torch.Tensor:
        """(N,) int64; 0 is the root."""
        return torch.tensor([len(path) for path in self.paths])

    @cached_property
    def ranks(self) -> torch.Tensor:
        """(N,) int64: which of its head's candidates a node is; the root's is 0."""
        return torch.tensor([path[-1] if path else 0 for path in self.paths])

    @cached_property
    def hidden(self) -> torch.Tensor:
        """(N, N) bool: True where node n (row) must not see node m (column), which is all but itself and its ancestors."""
        hidden_NN = ~torch.eye(len(self), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                hidden_NN[node] &= hidden_NN[parent]
        return hidden_NN

    def expected(self, accuracies: Sequence[Sequence[float]]) -> float:
        """Drafts accepted in a pass on average, if the heads are right independently of each other."""
        return sum(probability(path, accuracies) for path in self.paths if path)


def probability(path: Sequence[int], accuracies: Sequence[Sequence[float]]) -> float:
    """How often a node is accepted: the product over its way down."""
    return math.prod(accuracies[depth][rank] for depth, rank in enumerate(path))


def grow(accuracies: Sequence[Sequence[float]], num_nodes: int, max_depth: int) -> DraftTree:
    """The tree of at most `num_nodes` nodes, root included, with the most accepted drafts on average.

    Greedy: the likeliest neighbour of the tree, a first child or a next sibling, joins it until it is full. As a head's
    accuracies fall with the rank, nothing better is left out.

    Args:
        accuracies: by depth, then rank: how often that head's candidate of that rank is right. Candidates that never
            were are not drafted.
        num_nodes: size of the tree; 1 drafts nothing.
        max_depth: depth of the deepest node.
    """
    chosen: list[tuple[int, ...]] = [()]
    border: list[tuple[float, tuple[int, ...]]] = []

    def consider(path: tuple[int, ...]) -> None:
        if len(path) <= min(max_depth, len(accuracies)) and path[-1] < len(accuracies[len(path) - 1]):
            likely = probability(path, accuracies)
            if likely > 0:
                heapq.heappush(border, (-likely, path))

    consider((0,))
    while border and len(chosen) < num_nodes:
        _, path = heapq.heappop(border)
        chosen.append(path)
        consider((*path[:-1], path[-1] + 1))
        consider((*path, 0))
    return DraftTree(tuple(chosen))
