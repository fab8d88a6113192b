"""Small models trained from nothing on the same data for as many steps, each without one part of the recipe."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from app.bench.spoken_settings import REFERENCE, Sentence, Setting, faulty
from app.small.loop import LoopConfig, train
from app.small.plan import Places
from tts.tmt.config import TmtConfig, small_config
from tts.tmt.layout import IGNORED, Field, Role, TrainingSequence, one_step, packed, steady, visible
from tts.tmt.model import Tmt
from tts.training.tmt import TmtExample, TmtTraining, task


@dataclass(frozen=True, kw_only=True)
class AnalysisPlan:
    """`configs/train/analysis.yaml`."""

    dim: int
    num_layers: int
    num_heads: int
    ff_dim: int
    batch_positions: int
    loop: LoopConfig


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One of the models."""

    name: str
    mask: Literal["prefix", "paper"] = "prefix"
    first_stage: bool = True  # alternating masks before the steps of inference
    parallel: bool = True  # a pass trains all steps of inference of a sequence, else one that is drawn
    causal: bool = False  # a masked token sees only what is before it in its block
    against: str = "full recipe"  # the model from which it differs in one thing


FULL = Ablation(name="full recipe")
ABLATIONS = (
    FULL,
    Ablation(name="without stage 1", first_stage=False),
    Ablation(name="sequential stage 2", parallel=False),
    Ablation(name="causal within a block", causal=True),
    Ablation(name="paper mask", mask="paper", parallel=False, against="sequential stage 2"),
)


def train_all(
    plan: AnalysisPlan, places: Places, folder: Path, sentences: Sequence[Sentence], *, show_bar: bool
) -> dict[str, tuple[Tmt, dict[str, Any]]]:
    """Every model with its figures: losses on held-out speech, steps and computing time."""
    from app.small.steps.text_to_token import text_to_token_data

    data = text_to_token_data(places)
    found = {}
    for ablation in ABLATIONS:
        shape = replace(
            small_config(**data.sizes),
            mask=ablation.mask,
            text_per_step=1,
            dim=plan.dim,
            num_layers=plan.num_layers,
            num_heads=plan.num_heads,
            ff_dim=plan.ff_dim,
        )
        standard = TmtTraining()
        training = replace(
            standard,
            batch_positions=plan.batch_positions,
            alternating_share=standard.alternating_share if ablation.first_stage else 0.0,
            parallel=ablation.parallel,
            early_share=0.0,
            shown_share=0.0,
            prompt_share=0.0,
            num_evaluated=0,
        )
        made = task(shape, data.pieces, data.train, [], training)
        if ablation.causal:
            made.module.tmt.register_forward_pre_hook(hide_later)
        work = folder / "".join(c if c.isalnum() else "_" for c in ablation.name)
        others = {"model": shape, "training": training}
        trained = train(made, plan.loop, work, work / "weights", others=others, progress_bar=show_bar)
        model = Tmt.load(work / "weights")
        if ablation.causal:
            model.register_forward_pre_hook(hide_later)
        losses = held_out_losses(model, [sentence.example for sentence in sentences])
        found[ablation.name] = (model, {**losses, "steps": trained["steps"], "cpu_minutes": trained["cpu_minutes"]})
    return found


def hide_later(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook: positions of a block do not see the later ones of it, which always come in the same pass."""
    rows, mask, *others = inputs
    role, index, frame = rows[:, Field.ROLE], rows[:, Field.INDEX], rows[:, Field.FRAME]
    speaks = (role == Role.SPEECH) | (role == Role.MASKED)
    block = speaks[:, :, None] & (role[:, :, None] == role[:, None]) & (index[:, :, None] == index[:, None])
    mask = mask.clone()
    mask[:, :, -rows.shape[2] :] &= ~(block & (frame[:, None] > frame[:, :, None]))
    return rows, mask, *others


@torch.inference_mode()
def held_out_losses(model: Tmt, examples: Sequence[TmtExample], setting: Setting = REFERENCE) -> dict[str, float]:
    """Figures of all steps of inference behind true speech: cross entropies (nats), accuracy, mean duration error.

    Of the setting, look-ahead and faults count. Under the mask `prefix` one pass holds all steps of an utterance, under
    `paper` each needs its own.
    """
    sums = np.zeros(4)
    num_tokens = num_durations = 0
    rng, lookahead = np.random.default_rng(0), setting.lookahead
    for example in examples:
        for rows, speech, (durations, *_) in _sequences(model.config, example, lookahead):
            said = rows[Field.ROLE] == Role.SPEECH
            offset = model.config.speech_offset
            rows[Field.ID, said] = offset + faulty(
                rows[Field.ID, said] - offset, setting, model.config.num_speech_tokens, rng
            )
            given = torch.from_numpy(rows)[None]
            mask = visible(given, given, model.config.window)
            hidden = model(given, mask)[0]
            at, placed = speech != IGNORED, durations != IGNORED
            tokens, lengths = torch.from_numpy(speech[at]), torch.from_numpy(durations[placed])
            token_scores, length_scores = model.speech_head(hidden[at]), model.duration_head(hidden[placed])
            sums += (
                F.cross_entropy(token_scores, tokens, reduction="sum").item(),
                (token_scores.argmax(-1) == tokens).sum().item(),
                F.cross_entropy(length_scores, lengths, reduction="sum").item(),
                (length_scores.argmax(-1) - lengths).abs().sum().item(),
            )
            num_tokens += len(tokens)
            num_durations += len(lengths)
    names = ("token_ce", "token_accuracy", "duration_ce", "duration_error")
    counts = (num_tokens, num_tokens, num_durations, num_durations)
    return {name: float(total / count) for name, total, count in zip(names, sums, counts, strict=True)}


def _sequences(config: TmtConfig, example: TmtExample, lookahead: int) -> list[TrainingSequence]:
    text, tokens = example.first, example.tokens
    if config.mask == "prefix":
        return [packed(config, *text, tokens, steady(config, len(text.ids), lookahead))]
    return [one_step(config, *text, tokens, lookahead, step) for step in range(len(text.ids) + 1)]
