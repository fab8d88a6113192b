"""Which utterances make up the batch of a step: joined as the sentences of a reply, put together by length."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Size(NamedTuple):
    """What an utterance takes."""

    positions: int  # of a training sequence
    num_text: int  # text tokens


class BatchPlan:
    """A walk through the data epoch by epoch; a step's utterances depend on the step alone."""

    def __init__(
        self, sizes: Sequence[Size], *, joined: Sequence[float], max_text: int, batch_positions: int, seed: int
    ) -> None:
        """Plan for utterances of the given sizes.

        Args:
            sizes: one for each utterance.
            joined: shares of sequences made of 1, 2, ... utterances.
            max_text: text tokens in a joined sequence.
            batch_positions: positions in a batch, padding included.
            seed: of the order.
        """
        self._sizes, self._joined = sizes, joined
        self._max_text, self._batch_positions, self._seed = max_text, batch_positions, seed
        self._batches: list[list[list[int]]] = []
        self._number, self._start = -1, 0  # of the epoch in `_batches`, and its first step

    def groups(self, step: int) -> list[list[int]]:
        """The utterances of a step's sequences."""
        if step < self._start:
            self._number, self._start, self._batches = -1, 0, []
        while step >= self._start + len(self._batches):
            self._start += len(self._batches)
            self._number += 1
            self._batches = self.epoch(self._number)
        return self._batches[step - self._start]

    def epoch(self, number: int) -> list[list[list[int]]]:
        """Batches of one epoch: utterances shuffled, joined, and put together by length."""
        rng = np.random.default_rng((self._seed, 1, number))
        joined, shares = 1 + np.arange(len(self._joined)), np.array(self._joined)
        sequences: list[list[int]] = []
        wanted = 0
        for utterance in rng.permutation(len(self._sizes)):
            num_text = self._sizes[utterance].num_text
            num_text += sum(self._sizes[i].num_text for i in sequences[-1]) if sequences else 0
            if sequences and len(sequences[-1]) < wanted and num_text <= self._max_text:
                sequences[-1].append(int(utterance))
            else:
                sequences.append([int(utterance)])
                wanted = int(rng.choice(joined, p=shares / shares.sum()))
        positions = np.array([sum(self._sizes[i].positions for i in sequence) for sequence in sequences])
        order = np.argsort(positions * rng.uniform(0.97, 1.03, len(positions)))
        batches: list[list[list[int]]] = [[]]
        longest = 0
        for index in order:
            longest = max(longest, positions[index])
            if batches[-1] and longest * (len(batches[-1]) + 1) > self._batch_positions:
                batches.append([])
                longest = positions[index]
            batches[-1].append(sequences[index])
        rng.shuffle(batches)
        return batches
