"""Training of draft heads on the interleaved text-speech model (VADUSA, 2410.21951): it at rest, or together with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from tts import checkpoint
from tts.interleaved.drafts import NUM_CANDIDATES, DraftHeads, HeadsConfig
from tts.interleaved.model import TIED_HEAD, InterleavedLm
from tts.interleaved.sequence import IGNORED
from tts.interleaved.tree import grow
from tts.training.interleaved import Batch, Batches, InterleavedTraining
from tts.training.tmt import TmtExample

NUM_NODES = 64  # of the tree that the evaluation tells the worth of


@dataclass(frozen=True, kw_only=True)
class DraftTraining:
    """What is trained, apart from the loop."""

    num_heads: int = 6
    together: bool = False  # train the model too (the paper's "wt"); else it stays as it is ("wot")
    # Of the heads' losses, summed, beside the model's own. The paper names none; Medusa's recipe (2401.10774) has 0.2, and
    # its heads learn alone first, but it weighs distant heads less.
    draft_weight: float = 0.2
    sequences: InterleavedTraining = field(default_factory=InterleavedTraining)  # dropout is not used


class Trainee(nn.Module):
    """The model and its draft heads."""

    def __init__(self, lm: InterleavedLm, heads: DraftHeads) -> None:
        super().__init__()
        self.lm, self.heads = lm, heads


def draft_targets(targets_BS: torch.Tensor, ahead: int, num_speech_tokens: int) -> torch.Tensor:
    """Targets (B, S) of head `ahead`: the model's own, that many positions further on; IGNORED where no draft goes.

    Drafts go from speech to speech: not across the end of a group or of the utterance.
    """
    spoken = (targets_BS >= 0) & (targets_BS < num_speech_tokens)
    drafted = targets_BS.new_full(targets_BS.shape, IGNORED)
    length = targets_BS.shape[1]
    if ahead < length:
        reached = spoken.unfold(1, ahead + 1, 1).all(dim=-1)  # (B, S - ahead)
        drafted[:, : length - ahead] = torch.where(reached, targets_BS[:, ahead:], IGNORED)
    return drafted


class DraftTask:
    """A task of the training loop. Trained together, the model is written to the folder `interleaved` in the heads'."""

    name = "vadusa"

    def __init__(
        self,
        model: InterleavedLm,
        examples: Sequence[TmtExample],
        held_out: Sequence[TmtExample],
        training: DraftTraining | None = None,
        start: DraftHeads | None = None,
    ) -> None:
        """The training task.

        Args:
            model: trained, as `InterleavedLm.load` returns it; is changed if it is trained too.
            examples, held_out: utterances (`tts.training.tmt.example`), as the model was trained on.
            training: what is trained, apart from the loop.
            start: heads to begin with, the first of them; None: the model's own output. Together with the model only heads
                that have learnt something are trained well: the errors of others would spoil it first.
        """
        self.training = training or DraftTraining()
        shape = model.config
        self.config = HeadsConfig(
            dim=shape.dim, num_speech_tokens=shape.num_speech_tokens, num_heads=self.training.num_heads
        )
        torch.manual_seed(self.training.sequences.seed)
        heads = DraftHeads(self.config)
        if start is None:
            heads.begin_with_(model.llm_decoder.weight)
        else:
            heads.take_(start)
        self.batches = Batches(shape, examples, held_out, self.training.sequences)
        self.module: Trainee = Trainee(model.requires_grad_(self.training.together), heads)

    def loss(self, step: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Cross entropies of the batch of `step`, summed over the heads and, trained together, the model's own."""
        hidden, targets = self._hidden(self.batches.train(step))
        ahead = range(1, self.training.num_heads + 1)
        drafts = torch.stack([self._cross_entropy(hidden, targets, number) for number in ahead])
        loss, figures = self.training.draft_weight * drafts.sum(), {"draft_ce": drafts.mean().item()}
        if self.training.together:
            own = self._cross_entropy(hidden, targets, 0)
            loss, figures = loss + own, {**figures, "token_ce": own.item()}
        return loss, figures

    def evaluate(self) -> dict[str, float]:
        """The model's cross entropy on held-out utterances; each head's accuracy; drafts to be accepted in a pass."""
        own = sum(
            self._cross_entropy(*self._hidden(batch), 0).item() * share
            for batch, share in self.batches.held_out(interleaved=True)
        )
        table = self.accuracies()
        first = {f"head_{number}_accuracy": head[0] for number, head in enumerate(table, start=1)}
        return {"token_ce": own, **first, "accepted": grow(table, NUM_NODES, len(table)).expected(table)}

    @torch.no_grad()
    def accuracies(self) -> tuple[tuple[float, ...], ...]:
        """By head, then rank: how often its candidate of that rank is the token, on held-out utterances of both forms."""
        num_ranks = min(NUM_CANDIDATES, self.config.num_speech_tokens)
        counts = torch.zeros(self.training.num_heads, num_ranks)
        totals = torch.zeros(self.training.num_heads)
        for form in (True, False):
            for batch, _ in self.batches.held_out(interleaved=form):
                hidden, targets = self._hidden(batch)
                for number, head in enumerate(self.module.heads.heads):
                    drafted = draft_targets(targets, number + 1, self.config.num_speech_tokens)
                    chosen = drafted != IGNORED
                    candidates = head(hidden[chosen]).topk(num_ranks).indices
                    counts[number] += (candidates == drafted[chosen][:, None]).sum(0).cpu()
                    totals[number] += chosen.sum().cpu()
        table = counts / totals.clamp(min=1)[:, None]
        return tuple(tuple(round(share, 5) for share in head) for head in table.tolist())

    def export(self, directory: Path) -> None:
        """Write the heads with their accuracies in float16, and the model if it was trained."""
        module = self.module
        checkpoint.save(directory, module.heads, replace(self.config, accuracies=self.accuracies()))
        if self.training.together:
            checkpoint.save(directory / "interleaved", module.lm, module.lm.config, without=[TIED_HEAD])

    def _hidden(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states (B, S, D) and targets (B, S)."""
        lm = self.module.lm
        ids, targets = (part.to(lm.llm_embedding.weight.device) for part in batch)
        with (
            torch.autocast(ids.device.type),
            torch.set_grad_enabled(self.training.together and torch.is_grad_enabled()),
        ):
            return lm(lm.embed(ids)).float(), targets

    def _cross_entropy(self, hidden_BSD: torch.Tensor, targets_BS: torch.Tensor, ahead: int) -> torch.Tensor:
        """Loss of the model's own output (0 ahead) or of a head; 0 where no draft goes that far."""
        if ahead:
            targets_BS = draft_targets(targets_BS, ahead, self.config.num_speech_tokens)
        chosen = targets_BS != IGNORED
        head = self.module.heads.heads[ahead - 1] if ahead else self.module.lm.llm_decoder
        with torch.autocast(hidden_BSD.device.type):
            logits = head(hidden_BSD[chosen])
        return F.cross_entropy(logits.float(), targets_BS[chosen], reduction="sum") / chosen.sum().clamp(min=1)
