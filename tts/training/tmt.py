"""Training of the temporal masked transformer: alternating masks first, then the steps of inference.

Under the mask `prefix` one pass trains every step of a sequence; under `paper`, as published, one step drawn at random.
The paper leaves the losses open: here each is the mean cross entropy over a batch's targets, without label smoothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tts import checkpoint
from tts.tmt.config import TmtConfig
from tts.tmt.layout import IGNORED, Field, Role, alternating, one_step, packed, visible
from tts.tmt.model import Tmt
from tts.training.batches import BatchPlan, Size
from tts.training.durations import after_a_sentence, align


class TimedText(NamedTuple):
    """Text tokens and how many speech tokens each takes."""

    ids: np.ndarray  # (L,)
    durations: np.ndarray  # (L,)


@dataclass(frozen=True, slots=True)
class TmtExample:
    """One utterance: its text as the first sentence of a reply and as a later one, and its speech."""

    first: TimedText
    later: TimedText
    tokens: np.ndarray  # (T,) speech tokens


@dataclass(frozen=True, kw_only=True)
class TmtTraining:
    """What is trained, apart from the loop."""

    batch_positions: int = 4096  # positions in a batch, padding included
    alternating_share: float = 0.25  # of the steps, with stage 1's masks
    lookaheads: Mapping[int, float] = field(default_factory=lambda: {1: 0.6, 2: 0.2, 3: 0.1, 32: 0.1})
    joined: tuple[float, ...] = (0.6, 0.25, 0.15)  # shares of sequences made of 1, 2, 3 utterances
    max_text: int = 96  # text tokens in a joined sequence
    dropout: float = 0.1
    hidden_history: float = 0.05  # share of committed speech tokens that are masked
    duration_weight: float = 0.3
    shared_parts: bool = True  # rows of the tables as sums of parts; without them for a large text vocabulary
    num_evaluated: int = 200
    seed: int = 1


def example(
    text: str,
    words: Sequence[tuple[str, float, float]],
    phones: Sequence[tuple[str, float]],
    tokens: np.ndarray,
    encode: Callable[[str], Sequence[int]],
    pieces: Sequence[bytes],
    max_duration: int = 63,
    max_unmatched: float = 0.0,
) -> TmtExample:
    """Build an example from an aligned utterance. Raises MisalignedError.

    Args:
        text: spoken form.
        words: (word, start, end) in seconds.
        phones: (phone, end) in seconds; may be empty.
        tokens: (T,) speech tokens.
        encode: text -> text token ids.
        pieces: bytes of each text token id (`durations.byte_pieces`).
        max_duration: longest duration the model can say.
        max_unmatched: share of the letters that the aligner may have heard otherwise.
    """
    timed = []
    for variant in (text, after_a_sentence(text)):
        ids = np.array(encode(variant), np.int64)
        durations = align(
            [pieces[i] for i in ids],
            words,
            len(tokens),
            phones=phones,
            max_duration=max_duration,
            max_unmatched=max_unmatched,
        )
        timed.append(TimedText(ids.astype(np.int32), durations.astype(np.int16)))
    return TmtExample(timed[0], timed[1], np.asarray(tokens, np.int16))


def join(parts: Sequence[TmtExample]) -> tuple[TimedText, np.ndarray]:
    """Text and speech tokens (T,) of utterances one after the other, as the sentences of one reply."""
    texts = [parts[0].first, *(part.later for part in parts[1:])]
    ids = np.concatenate([text.ids for text in texts])
    durations = np.concatenate([text.durations for text in texts]).astype(np.int64)
    return TimedText(ids, durations), np.concatenate([part.tokens for part in parts])


def batch_plan(examples: Sequence[TmtExample], **options: Any) -> BatchPlan:
    """Batches by the positions of packed sequences; `options` are those of `BatchPlan`."""
    sizes = [Size(3 * len(u.later.ids) + 2 * len(u.tokens), len(u.later.ids)) for u in examples]
    return BatchPlan(sizes, **options)


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


class Trainee(nn.Module):
    """The model with the parts of its tables, which only training has."""

    def __init__(self, config: TmtConfig, pieces: Sequence[bytes], dropout: float, shared_parts: bool = True) -> None:
        super().__init__()
        self.tmt = Tmt(config, dropout)
        self.shared_parts = shared_parts
        if not shared_parts:
            return
        speech = speech_parts(config.num_speech_tokens)
        text = [text_parts(piece) for piece in pieces]
        text += [[] for _ in range(config.text_vocab_size - len(text))]
        self.text = SharedParts(text, config.dim)
        self.speech = SharedParts(speech, config.dim)
        self.head = SharedParts(speech, config.dim)

    def table(self) -> torch.Tensor:
        """The input embedding, (num_ids, dim)."""
        if not self.shared_parts:
            return self.tmt.embedding.weight
        special = torch.zeros(3, self.tmt.config.dim, device=self.text.weight.device)
        return self.tmt.embedding.weight + torch.cat((self.text(), special, self.speech()))

    def head_weight(self) -> torch.Tensor:
        """The speech token head, (num_speech_tokens, dim)."""
        return self.tmt.speech_head.weight + self.head() if self.shared_parts else self.tmt.speech_head.weight

    def forward(
        self, rows: torch.Tensor, mask: torch.Tensor, has_speech: torch.Tensor, has_duration: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (float32) at the marked positions of rows (B, fields, S): speech tokens, durations."""
        hidden = self.tmt(rows, mask, table=self.table())
        speech = F.linear(hidden[has_speech], self.head_weight())
        return speech.float(), self.tmt.duration_head(hidden[has_duration]).float()

    @torch.no_grad()
    def folded(self) -> Tmt:
        """The plain model for inference, with the parts summed into its tables."""
        plain = Tmt(self.tmt.config)
        plain.load_state_dict(self.tmt.state_dict())
        plain.embedding.weight.copy_(self.table())
        plain.speech_head.weight.copy_(self.head_weight())
        return plain


class Batch(NamedTuple):
    """Padded sequences and their targets."""

    rows: torch.Tensor  # (B, fields, S)
    mask: torch.Tensor  # (B, S, S) bool
    speech_target: torch.Tensor  # (B, S)
    duration_target: torch.Tensor  # (B, S)


class TmtTask:
    """A task of the training loop; every batch depends on its step alone."""

    name = "tmt"

    def __init__(
        self,
        config: TmtConfig,
        pieces: Sequence[bytes],
        examples: Sequence[TmtExample],
        held_out: Sequence[TmtExample],
        training: TmtTraining,
        text_embedding: torch.Tensor | None = None,
    ) -> None:
        self.config, self.training = config, training
        self._examples, self._held_out = examples, held_out[: training.num_evaluated]
        torch.manual_seed(training.seed)
        self.module: Trainee = Trainee(config, pieces, training.dropout, training.shared_parts)
        if text_embedding is not None:
            with torch.no_grad():
                self.module.tmt.embedding.weight[: len(text_embedding)] = text_embedding
        self.plan = batch_plan(
            examples,
            joined=training.joined,
            max_text=training.max_text,
            batch_positions=training.batch_positions,
            seed=training.seed,
        )

    def loss(self, step: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of the batch of `step`; stage 1's masks while `progress` is below their share."""
        batch = self._train_batch(step, progress < self.training.alternating_share)
        speech_loss, duration_loss, figures = self._losses(batch)
        return speech_loss + self.training.duration_weight * duration_loss, figures

    def evaluate(self) -> dict[str, float]:
        """Cross entropy and accuracy on held-out utterances at the default look-ahead, with true history."""
        sums: dict[str, float] = {}
        order = sorted(range(len(self._held_out)), key=lambda i: len(self._held_out[i].tokens))
        groups = [order[i : i + 16] for i in range(0, len(order), 16)]
        for group in groups:
            sequences = [
                self._inference(
                    self._held_out[i].first, self._held_out[i].tokens, self.config.lookahead, np.random.default_rng(i)
                )
                for i in group
            ]
            _, _, figures = self._losses(self._collate(sequences, [self.config.lookahead] * len(group)))
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value * len(group) / len(order)
        return sums

    def export(self, directory: Path) -> None:
        """Write the folded model in float16."""
        checkpoint.save(directory, self.module.folded(), self.config)

    def _losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        device = batch.rows.device
        rows, mask, speech_target, duration_target = batch
        has_speech, has_duration = speech_target != IGNORED, duration_target != IGNORED
        with torch.autocast(device.type):
            speech, duration = self.module(rows, mask, has_speech, has_duration)
        speech_target, duration_target = speech_target[has_speech], duration_target[has_duration]
        # A batch of single steps may lack one kind of target: steps 0 and L, empty blocks.
        num_speech, num_durations = max(len(speech_target), 1), max(len(duration_target), 1)
        speech_loss = F.cross_entropy(speech, speech_target, reduction="sum") / num_speech
        duration_loss = F.cross_entropy(duration, duration_target, reduction="sum") / num_durations
        figures = {
            "token_ce": speech_loss.item(),
            "token_accuracy": (speech.argmax(-1) == speech_target).sum().item() / num_speech,
            "duration_ce": duration_loss.item(),
            "duration_error": (duration.argmax(-1) - duration_target).abs().sum().item() / num_durations,
        }
        return speech_loss, duration_loss, figures

    def _train_batch(self, step: int, alternate: bool) -> Batch:
        rng = np.random.default_rng((self.training.seed, step))
        choices = list(self.training.lookaheads)
        weights = np.array(list(self.training.lookaheads.values()))
        groups = self.plan.groups(step)
        lookaheads = [int(q) for q in rng.choice(choices, len(groups), p=weights / weights.sum())]
        sequences = []
        for group, lookahead in zip(groups, lookaheads, strict=True):
            text, tokens = join([self._examples[i] for i in group])
            shift = int(rng.integers(self.config.index_slots or 1))
            ids, durations = text
            if alternate:
                first_masked = bool(rng.integers(2))
                sequences.append(alternating(self.config, ids, durations, tokens, lookahead, shift, first_masked))
            else:
                hidden = rng.random(len(tokens)) < self.training.hidden_history
                sequences.append(self._inference(text, tokens, lookahead, rng, shift, hidden))
        return self._collate(sequences, lookaheads)

    def _inference(
        self,
        text: TimedText,
        tokens: np.ndarray,
        lookahead: int,
        rng: np.random.Generator,
        shift: int = 0,
        hidden: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A sequence of stage 2: all steps of inference at once where the mask allows it, else one that is drawn."""
        ids, durations = text.ids, text.durations.astype(np.int64)
        if self.config.mask == "prefix":
            return packed(self.config, ids, durations, tokens, lookahead, shift, hidden)
        step = int(rng.integers(len(ids) + 1))
        return one_step(self.config, ids, durations, tokens, lookahead, step, shift, hidden)

    def _collate(
        self, sequences: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], lookaheads: Sequence[int]
    ) -> Batch:
        longest = max(rows.shape[1] for rows, _, _ in sequences)
        rows = np.zeros((len(sequences), len(Field), longest), np.int64)
        rows[:, Field.ROLE] = Role.PAD
        targets = np.full((2, len(sequences), longest), IGNORED)
        for number, (sequence, speech_target, duration_target) in enumerate(sequences):
            rows[number, :, : sequence.shape[1]] = sequence
            targets[0, number, : len(speech_target)] = speech_target
            targets[1, number, : len(duration_target)] = duration_target
        device = self.module.tmt.embedding.weight.device
        tensor = torch.from_numpy(rows).to(device)
        limits = torch.tensor([self.config.text_limit(lookahead) for lookahead in lookaheads], device=device)
        mask = visible(tensor, tensor, limits, self.config.window)
        speech_target, duration_target = torch.from_numpy(targets).to(device)
        return Batch(tensor, mask, speech_target, duration_target)


def task(
    config: TmtConfig,
    pieces: Sequence[bytes],
    examples: Sequence[TmtExample],
    held_out: Sequence[TmtExample],
    training: TmtTraining | None = None,
    text_embedding: torch.Tensor | None = None,
) -> TmtTask:
    """The training task.

    Args:
        config: shape of the model, e.g. `small_config(...)`.
        pieces: bytes of each text token id.
        examples, held_out: utterances (`example`).
        text_embedding: (rows, dim) to begin with, of the first text token ids.
    """
    for utterance in chain(examples, held_out):
        for text in (utterance.first, utterance.later):
            if len(text.ids) != len(text.durations) or int(text.durations.sum()) != len(utterance.tokens):
                raise ValueError("an utterance's durations do not sum to its number of speech tokens")
    return TmtTask(config, pieces, examples, held_out, training or TmtTraining(), text_embedding)
