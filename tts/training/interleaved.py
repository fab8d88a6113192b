"""Training of the interleaved text-speech model, on the utterances that the temporal masked transformer learns from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tts import checkpoint
from tts.interleaved.config import InterleavedConfig
from tts.interleaved.model import TIED_HEAD, InterleavedLm
from tts.interleaved.sequence import IGNORED, complete, interleavable, interleaved
from tts.training.shared_parts import SharedParts, speech_parts, text_parts
from tts.training.tmt import TmtExample, batch_plan, join

EVALUATED_TOGETHER = 16


@dataclass(frozen=True, kw_only=True)
class InterleavedTraining:
    """What is trained, apart from the loop. With TmtTraining's values a step has the utterances of TmtTask's step."""

    batch_positions: int = 4096  # positions in a batch as TmtTask packs it, which are more than here
    interleaved_share: float = 0.5  # of the sequences with speech enough; the others are text-complete
    joined: tuple[float, ...] = (0.6, 0.25, 0.15)  # shares of sequences made of 1, 2, 3 utterances
    max_text: int = 96  # text tokens in a joined sequence
    dropout: float = 0.1
    num_evaluated: int = 200
    seed: int = 1


class Trainee(nn.Module):
    """The model with the parts of its tables, which only training has."""

    def __init__(self, config: InterleavedConfig, pieces: Sequence[bytes], dropout: float) -> None:
        super().__init__()
        self.lm = InterleavedLm(config, dropout)
        speech = speech_parts(config.num_speech_tokens)
        speech += [[] for _ in range(config.num_speech_ids - len(speech))]
        text = [text_parts(piece) for piece in pieces]
        text += [[] for _ in range(config.text_vocab_size - len(text))]
        self.text = SharedParts(text, config.dim)
        self.speech = SharedParts(speech, config.dim)
        self.head = SharedParts(speech, config.dim)

    def text_table(self) -> torch.Tensor:
        """(text_vocab_size, dim)."""
        return self.lm.llm.model.model.embed_tokens.weight + self.text()

    def speech_table(self) -> torch.Tensor:
        """(num_speech_ids, dim)."""
        return self.lm.speech_embedding.weight + self.speech()

    def head_weight(self) -> torch.Tensor:
        """(num_speech_ids, dim)."""
        return self.lm.llm_decoder.weight + self.head()

    def forward(self, ids_BS: torch.Tensor, has_target_BS: torch.Tensor) -> torch.Tensor:
        """Logits (float32), (N, num_speech_ids), at the N marked positions."""
        hidden = self.lm(self.lm.embed(ids_BS, self.text_table(), self.speech_table()))
        return F.linear(hidden[has_target_BS], self.head_weight(), self.lm.llm_decoder.bias).float()

    @torch.no_grad()
    def folded(self) -> InterleavedLm:
        """The plain model for inference, with the parts summed into its tables."""
        plain = InterleavedLm(self.lm.config)
        plain.load_state_dict(self.lm.state_dict())
        plain.llm.model.model.embed_tokens.weight.copy_(self.text_table())
        plain.speech_embedding.weight.copy_(self.speech_table())
        plain.llm_decoder.weight.copy_(self.head_weight())
        return plain


class Batch(NamedTuple):
    """Sequences, padded at their ends, and their targets."""

    ids: torch.Tensor  # (B, S) int64
    targets: torch.Tensor  # (B, S) int64


class Batches:
    """Utterances as the model's sequences; every batch depends on its step alone."""

    def __init__(
        self,
        config: InterleavedConfig,
        examples: Sequence[TmtExample],
        held_out: Sequence[TmtExample],
        training: InterleavedTraining,
    ) -> None:
        self._config, self._training = config, training
        self._examples, self._held_out = examples, held_out[: training.num_evaluated]
        self.plan = batch_plan(
            examples,
            joined=training.joined,
            max_text=training.max_text,
            batch_positions=training.batch_positions,
            seed=training.seed,
        )

    def train(self, step: int) -> Batch:
        """The batch of a training step."""
        rng = np.random.default_rng((self._training.seed, step))
        return collated(
            [
                self._sequence([self._examples[i] for i in group], self._training.interleaved_share, rng.random())
                for group in self.plan.groups(step)
            ]
        )

    def held_out(self, *, interleaved: bool) -> Iterator[tuple[Batch, float]]:
        """Batches of held-out utterances and each one's share of all: interleaved where possible, or text-complete."""
        order = sorted(self._held_out, key=lambda utterance: len(utterance.tokens))
        for start in range(0, len(order), EVALUATED_TOGETHER):
            group = order[start : start + EVALUATED_TOGETHER]
            sequences = [self._sequence([utterance], float(interleaved), 0.5) for utterance in group]
            yield collated(sequences), len(group) / len(order)

    def _sequence(self, parts: Sequence[TmtExample], share: float, drawn: float) -> tuple[np.ndarray, np.ndarray]:
        """Input ids and targets of joined utterances: interleaved if `drawn` from [0, 1) falls below `share`."""
        text, tokens = join(parts)
        chosen = drawn < share and interleavable(self._config, len(text.ids), len(tokens))
        return (interleaved if chosen else complete)(self._config, text.ids, tokens)


class InterleavedTask:
    """A task of the training loop."""

    name = "interleaved"

    def __init__(
        self,
        config: InterleavedConfig,
        pieces: Sequence[bytes],
        examples: Sequence[TmtExample],
        held_out: Sequence[TmtExample],
        training: InterleavedTraining | None = None,
    ) -> None:
        """The training task.

        Args:
            config: shape of the model, e.g. `small_config(...)`.
            pieces: bytes of each text token id.
            examples, held_out: utterances (`tts.training.tmt.example`); their durations are not used.
            training: what is trained, apart from the loop.
        """
        training = training or InterleavedTraining()
        self.config = config
        self.batches = Batches(config, examples, held_out, training)
        torch.manual_seed(training.seed)
        self.module: Trainee = Trainee(config, pieces, training.dropout)

    def loss(self, step: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Cross entropy of the batch of `step`."""
        return self._loss(self.batches.train(step))

    def evaluate(self) -> dict[str, float]:
        """Cross entropy and accuracy on held-out utterances: interleaved where possible, and text-complete."""
        sums: dict[str, float] = {}
        for prefix, form in (("", True), ("complete_", False)):
            for batch, share in self.batches.held_out(interleaved=form):
                for name, value in self._loss(batch)[1].items():
                    sums[prefix + name] = sums.get(prefix + name, 0.0) + value * share
        return sums

    def export(self, directory: Path) -> None:
        """Write the folded model in float16, without its unused text output."""
        checkpoint.save(directory, self.module.folded(), self.config, without=[TIED_HEAD])

    def _loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        device = self.module.lm.llm_embedding.weight.device
        ids, targets = (part.to(device) for part in batch)
        has_target = targets != IGNORED
        with torch.autocast(device.type):
            logits = self.module(ids, has_target)
        targets = targets[has_target]
        loss = F.cross_entropy(logits, targets)
        accuracy = (logits.argmax(-1) == targets).float().mean()
        return loss, {"token_ce": loss.item(), "token_accuracy": accuracy.item()}


def collated(sequences: Sequence[tuple[np.ndarray, np.ndarray]]) -> Batch:
    """A batch of sequences, each input ids (S,) and targets (S,). Padding comes last, where a causal model ignores it."""
    longest = max(len(ids) for ids, _ in sequences)
    ids_BS = torch.zeros(len(sequences), longest, dtype=torch.long)
    targets_BS = torch.full((len(sequences), longest), IGNORED)
    for row, (ids, targets) in enumerate(sequences):
        ids_BS[row, : len(ids)] = torch.from_numpy(ids)
        targets_BS[row, : len(targets)] = torch.from_numpy(targets)
    return Batch(ids_BS, targets_BS)
