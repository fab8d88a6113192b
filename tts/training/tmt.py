"""Training of the temporal masked transformer: alternating masks first, then the steps of inference.

Under the mask `prefix` one pass trains every step of a sequence; under `paper` (and without `TmtTraining.parallel`), as
published, one step drawn at random.
What the paper has not is trained on shares of the sequences, under `prefix` alone: text that arrives ahead of the speech
(opportunistic look-ahead, several text tokens per step), speech tokens that are known already (refinement passes), the
first of several utterances without its text (a prompt that nobody transcribed).
The paper leaves the losses open: here each is the mean cross entropy over a batch's targets, without label smoothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tts import checkpoint
from tts.alignment.durations import after_a_sentence, align
from tts.base import CheckpointError
from tts.tmt.config import TmtConfig
from tts.tmt.layout import (
    IGNORED,
    Field,
    Role,
    Schedule,
    TrainingSequence,
    ahead,
    alternating,
    one_step,
    packed,
    steady,
    visible,
)
from tts.tmt.model import Tmt
from tts.training.batches import BatchPlan, Size
from tts.training.shared_parts import SharedParts, speech_parts, text_parts


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
    parallel: bool = True  # a pass trains all steps of a sequence where the mask allows it; False: one, as published
    hidden_history: float = 0.05  # share of committed speech tokens that are masked
    early_share: float = 0.5  # of the sequences, text arrives ahead of the speech
    shown_share: float = 0.3  # of the sequences, some speech tokens of each step are known
    prompt_share: float = 0.25  # of the sequences of several utterances, the first one is a prompt without text
    arrivals: tuple[float, float] = (0.5, 8.0)  # slowest and fastest arrival of early text, in text tokens per step
    duration_weight: float = 0.3  # of the durations' loss beside the speech tokens' (1); the paper names no weights
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

    @torch.no_grad()
    def begin_with(self, model: Tmt) -> None:
        """Take a trained model's weights; what it has not stays random. Raises CheckpointError."""
        found, own = model.state_dict(), self.tmt.state_dict()
        wrong = [name for name, weight in found.items() if name not in own or own[name].shape != weight.shape]
        if wrong:
            raise CheckpointError(
                f"the weights to begin with are of another shape: {wrong[0]}, and {len(wrong) - 1} more."
            )
        self.tmt.load_state_dict(found, strict=False)
        for parts in (self.text, self.speech, self.head) if self.shared_parts else ():
            parts.weight.zero_()  # they are summed into the tables already

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
        self, rows: torch.Tensor, mask: torch.Tensor, has_speech: torch.Tensor, duration_target: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits (float32) where rows (B, fields, S) are asked for them: speech tokens, and the N kinds of durations.

        Those after the first kind are given the true duration before (`duration_target`, (B, N, S)).
        """
        hidden = self.tmt(rows, mask, table=self.table())
        speech = F.linear(hidden[has_speech], self.head_weight())
        durations = [self.tmt.duration_head(hidden[duration_target[:, 0] != IGNORED])]
        for later, head in enumerate(self.tmt.later_durations, start=1):
            asked = duration_target[:, later] != IGNORED
            durations.append(head(hidden[asked], duration_target[:, later - 1][asked]))
        return speech.float(), [logits.float() for logits in durations]

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
    duration_target: torch.Tensor  # (B, N, S), as `layout.TrainingSequence` has them


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
        start: Path | None = None,
    ) -> None:
        self.config, self.training = config, training
        self._examples, self._held_out = examples, held_out[: training.num_evaluated]
        torch.manual_seed(training.seed)
        self.module: Trainee = Trainee(config, pieces, training.dropout, training.shared_parts)
        if text_embedding is not None:
            with torch.no_grad():
                self.module.tmt.embedding.weight[: len(text_embedding)] = text_embedding
        if start is not None:
            self.module.begin_with(Tmt.load(start))
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
        """Cross entropy and accuracy on held-out utterances with true history.

        At the default look-ahead; where the model can, with all text there at once too (`ahead_`, as many text tokens per
        step as it has learnt).
        """
        sums: dict[str, float] = {}
        order = sorted(range(len(self._held_out)), key=lambda i: len(self._held_out[i].tokens))
        forms = ("", "ahead_") if self.config.mask == "prefix" else ("",)
        for group, form in product([order[i : i + 16] for i in range(0, len(order), 16)], forms):
            sequences = [self._evaluated(self._held_out[i], form == "ahead_", i) for i in group]
            _, _, figures = self._losses(self._collate(sequences))
            for name, value in figures.items():
                sums[form + name] = sums.get(form + name, 0.0) + value * len(group) / len(order)
        return sums

    def _evaluated(self, utterance: TmtExample, early: bool, seed: int) -> TrainingSequence:
        config, (text, tokens) = self.config, (utterance.first, utterance.tokens)
        if config.mask == "paper":
            return self._drawn_step(text, tokens, config.lookahead, np.random.default_rng(seed))
        length = len(text.ids)
        arrived = np.full(length, length + 1)
        there = ahead(config, arrived, config.lookahead, config.text_per_step)
        return packed(config, *text, tokens, there if early else steady(config, length, config.lookahead))

    def export(self, directory: Path) -> None:
        """Write the folded model in float16."""
        checkpoint.save(directory, self.module.folded(), self.config)

    def _losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        rows, mask, speech_target, duration_target = batch
        has_speech = speech_target != IGNORED
        with torch.autocast(rows.device.type):
            speech, durations = self.module(rows, mask, has_speech, duration_target)
        speech_target = speech_target[has_speech]
        targets = [target[target != IGNORED] for target in duration_target.unbind(1)]
        # A batch of single steps may lack one kind of target: steps 0 and L, empty blocks.
        num_speech, num_durations = max(len(speech_target), 1), max(len(targets[0]), 1)
        speech_loss = F.cross_entropy(speech, speech_target, reduction="sum") / num_speech
        losses = [
            F.cross_entropy(logits, target, reduction="sum") / max(len(target), 1)
            for logits, target in zip(durations, targets, strict=True)
        ]
        figures = {
            "token_ce": speech_loss.item(),
            "token_accuracy": (speech.argmax(-1) == speech_target).sum().item() / num_speech,
            "duration_ce": losses[0].item(),
            "duration_error": (durations[0].argmax(-1) - targets[0]).abs().sum().item() / num_durations,
        }
        duration_loss = torch.stack(losses).sum()
        return speech_loss, duration_loss, figures

    def _train_batch(self, step: int, alternate: bool) -> Batch:
        rng = np.random.default_rng((self.training.seed, step))
        sequences = []
        for group in self.plan.groups(step):
            parts = [self._examples[i] for i in group]
            lookahead = self._lookahead(rng)
            shift = int(rng.integers(self.config.index_slots or 1))
            if alternate:
                text, tokens = join(parts)
                schedule, first_masked = steady(self.config, len(text.ids), lookahead), bool(rng.integers(2))
                sequences.append(alternating(self.config, *text, tokens, schedule, shift, first_masked))
            elif self.config.mask == "paper" or not self.training.parallel:
                sequences.append(self._drawn_step(*join(parts), lookahead, rng, shift))
            else:
                sequences.append(self._all_steps(parts, lookahead, rng, shift))
        return self._collate(sequences)

    def _lookahead(self, rng: np.random.Generator) -> int:
        weights = np.array(list(self.training.lookaheads.values()))
        return int(rng.choice(list(self.training.lookaheads), p=weights / weights.sum()))

    def _all_steps(
        self, parts: Sequence[TmtExample], lookahead: int, rng: np.random.Generator, shift: int
    ) -> TrainingSequence:
        """Every step of inference."""
        training = self.training
        prompt = parts[0].tokens if len(parts) > 1 and rng.random() < training.prompt_share else None
        text, tokens = join(parts if prompt is None else parts[1:])
        early = rng.random() < training.early_share
        schedule = self._early(len(text.ids), rng) if early else steady(self.config, len(text.ids), lookahead)
        shown = None
        if rng.random() < training.shown_share:
            shown = rng.random(len(tokens)) < rng.random(len(text.ids)).repeat(text.durations)
        hidden = rng.random(len(tokens)) < training.hidden_history
        return packed(self.config, *text, tokens, schedule, shift, hidden_history=hidden, shown=shown, prompt=prompt)

    def _early(self, length: int, rng: np.random.Generator) -> Schedule:
        """Text that arrives at a rate of its own, in gushes, whatever the speech does."""
        slowest, fastest = np.log(self.training.arrivals)
        arrived = 2 + np.cumsum(rng.poisson(np.exp(rng.uniform(slowest, fastest)), length))
        return ahead(self.config, arrived, 1, int(rng.integers(1, self.config.text_per_step + 1)))

    def _drawn_step(
        self, text: TimedText, tokens: np.ndarray, lookahead: int, rng: np.random.Generator, shift: int = 0
    ) -> TrainingSequence:
        """One step of inference, as published."""
        hidden = rng.random(len(tokens)) < self.training.hidden_history
        step = int(rng.integers(len(text.ids) + 1))
        return one_step(self.config, *text, tokens, lookahead, step, shift, hidden_history=hidden)

    def _collate(self, sequences: Sequence[TrainingSequence]) -> Batch:
        longest = max(sequence.rows.shape[1] for sequence in sequences)
        rows = np.zeros((len(sequences), len(Field), longest), np.int64)
        rows[:, Field.ROLE] = Role.PAD
        speech_target = np.full((len(sequences), longest), IGNORED)
        duration_target = np.full((len(sequences), self.config.text_per_step, longest), IGNORED)
        for number, sequence in enumerate(sequences):
            length = sequence.rows.shape[1]
            rows[number, :, :length] = sequence.rows
            speech_target[number, :length] = sequence.speech_target
            duration_target[number, :, :length] = sequence.duration_target
        device = self.module.tmt.embedding.weight.device
        tensor = torch.from_numpy(rows).to(device)
        mask = visible(tensor, tensor, self.config.window)
        return Batch(
            tensor, mask, torch.from_numpy(speech_target).to(device), torch.from_numpy(duration_target).to(device)
        )


def task(
    config: TmtConfig,
    pieces: Sequence[bytes],
    examples: Sequence[TmtExample],
    held_out: Sequence[TmtExample],
    training: TmtTraining | None = None,
    text_embedding: torch.Tensor | None = None,
    start: Path | None = None,
) -> TmtTask:
    """The training task.

    Args:
        config: shape of the model, e.g. `small_config(...)`.
        pieces: bytes of each text token id.
        examples, held_out: utterances (`example`).
        training: how; None: `TmtTraining()`.
        text_embedding: (rows, dim) to begin with, of the first text token ids.
        start: weights folder to begin with, of this shape; raises CheckpointError.
    """
    for utterance in chain(examples, held_out):
        for text in (utterance.first, utterance.later):
            if len(text.ids) != len(text.durations) or int(text.durations.sum()) != len(utterance.tokens):
                raise ValueError("an utterance's durations do not sum to its number of speech tokens")
    return TmtTask(config, pieces, examples, held_out, training or TmtTraining(), text_embedding, start)
