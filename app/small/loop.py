"""The one training loop of all small models: steps, schedule, checkpoints, log. A task brings the model and its loss."""

import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from tqdm import tqdm

log = logging.getLogger(__name__)


class Task(Protocol):
    """A model, its data and its loss. Batches depend on the step alone, so that a resumed run equals an unbroken one."""

    name: str

    @property
    def module(self) -> nn.Module:
        """Everything that is trained."""
        ...

    def loss(self, step: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of the batch of `step`; `progress` runs from 0 to 1. The second value is logged."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out data."""
        ...

    def export(self, directory: Path) -> None:
        """Write the weights folder that is shipped."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How to train."""

    steps: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    final_rate: float = 0.01  # learning rate at the end, as a share of the highest
    average_decay: float = 0.0  # exponential moving average of the weights; 0 = off
    seed: int = 1
    num_threads: int = 1
    evaluate_every: int = 500
    checkpoint_every: int = 200


def rate(config: LoopConfig, step: int) -> float:
    """Learning rate of a step: linear warm-up, then cosine."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return config.learning_rate * warm * (config.final_rate + (1 - config.final_rate) * cosine)


def train(task: Task, config: LoopConfig, work: Path, out: Path, *, progress_bar: bool = True) -> dict[str, float]:
    """Run (or resume) a task; write checkpoints and a log to `work`, the finished weights to `out`."""
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.num_threads)
    torch.manual_seed(config.seed)
    wide = [p for p in task.module.parameters() if p.requires_grad and p.dim() > 1]
    thin = [p for p in task.module.parameters() if p.requires_grad and p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": wide, "weight_decay": config.weight_decay}, {"params": thin, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=config.betas,
    )
    average = {n: p.detach().clone() for n, p in task.module.named_parameters()} if config.average_decay else {}
    checkpoint, log_path = work / "checkpoint.pt", work / "log.jsonl"
    start, spent = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        task.module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        average = saved["average"]
        start, spent = saved["step"], saved["cpu_minutes"]
        log.info("%s resumes at step %d", task.name, start)
    began = time.process_time()

    def minutes() -> float:
        return spent + (time.process_time() - began) / 60

    def save(step: int) -> None:
        state = {"module": task.module.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
        partial = checkpoint.with_suffix(".part")
        torch.save({**state, "step": step, "cpu_minutes": minutes()}, partial)
        partial.replace(checkpoint)

    def record(step: int, values: dict[str, float]) -> None:
        line = {"step": step, "cpu_minutes": round(minutes(), 2), **{k: round(float(v), 5) for k, v in values.items()}}
        with log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    figures: dict[str, float] = {}
    bar = tqdm(range(start, config.steps), initial=start, total=config.steps, desc=task.name, disable=not progress_bar)
    for step in bar:
        task.module.train()
        for group in optimizer.param_groups:
            group["lr"] = rate(config, step)
        torch.manual_seed(config.seed * 1_000_003 + step)
        loss, values = task.loss(step, step / config.steps)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{task.name}: the loss is {loss.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(task.module.parameters(), config.clip_norm)
        optimizer.step()
        if average:
            decay = min(config.average_decay, (step + 1) / (step + 10))
            with torch.no_grad():
                for name, parameter in task.module.named_parameters():
                    average[name].lerp_(parameter, 1 - decay)
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", cpu_min=f"{minutes():.1f}")
            record(step, {"loss": loss.item(), "grad_norm": float(norm), **values})
        last = step + 1 == config.steps
        if not last and (step + 1) % config.evaluate_every == 0:
            record(step, {f"eval_{k}": v for k, v in _evaluate(task).items()})
        if not last and (step + 1) % config.checkpoint_every == 0:
            save(step + 1)
    if average:
        task.module.load_state_dict({**task.module.state_dict(), **average})
    figures = _evaluate(task)
    record(config.steps, {f"eval_{k}": v for k, v in figures.items()})
    save(config.steps)
    task.export(out)
    return {**figures, "cpu_minutes": round(minutes(), 1), "steps": config.steps}


def _evaluate(task: Task) -> dict[str, float]:
    task.module.eval()
    with torch.no_grad():
        return task.evaluate()
