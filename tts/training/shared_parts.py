"""Tables whose rows share parts, so that what is learned of a token serves those that are like it."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class SharedParts(nn.Module):
    """Rows of a table as sums of learned parts that rows share; added to a plain table, folded into it at the end."""

    def __init__(self, parts: Sequence[Sequence[int]], dim: int) -> None:
        """`parts`: for each row the numbers of its parts."""
        super().__init__()
        counts = [len(row) for row in parts]
        flat = [part for row in parts for part in row]
        self.register_buffer("flat", torch.tensor(flat, dtype=torch.long), persistent=False)
        self.register_buffer("starts", torch.tensor(np.cumsum([0, *counts[:-1]])), persistent=False)
        self.flat: torch.Tensor
        self.starts: torch.Tensor
        self.weight = nn.Parameter(0.02 * torch.randn(max(flat, default=0) + 1, dim))

    def forward(self) -> torch.Tensor:
        """(rows, dim)."""
        return F.embedding_bag(self.flat, self.weight, self.starts, mode="sum")


def text_parts(piece: bytes) -> list[int]:
    """Parts of a text token's embedding: its lower-cased bytes by place from start and from end, and its casing."""
    word = piece.removeprefix(b" ")
    parts = [0] if word != piece else []
    parts += [1] if word[:1].isupper() else []
    parts += [2] if len(word) > 1 and word.isupper() else []
    lowered = word.lower()[:24]
    for place, byte in enumerate(lowered):
        from_end = len(lowered) - 1 - place
        parts += [3 + byte, 3 + 256 * (1 + min(place, 7)) + byte, 3 + 256 * (9 + min(from_end, 3)) + byte]
    return parts


def speech_parts(num_speech_tokens: int) -> list[list[int]]:
    """Parts of the speech tokens' rows: the ternary digits of finite scalar quantisation; none for other codebooks."""
    num_digits = round(np.log(num_speech_tokens) / np.log(3))
    if 3**num_digits != num_speech_tokens:
        return [[] for _ in range(num_speech_tokens)]
    return [[3 * d + token // 3**d % 3 for d in range(num_digits)] for token in range(num_speech_tokens)]
