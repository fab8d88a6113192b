"""The one training loop of all models: steps, schedule, checkpoints, log. A task brings the model and its loss.

Started by torchrun or `accelerate launch`, several processes share each step: its micro-batches are dealt out to them, so
that a step learns from the same batch however many there are.
"""

import json
import logging
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from app.small.muon import Muon
from configs.schema import ConfigError

log = logging.getLogger(__name__)

AT_LEAST_1 = {"at_least": 1}
# Settings of the loop that a training may go on with, whatever they were when it began: they are not what is learned
FREE = {
    "num_threads", "device", "evaluate_every", "evaluate_on", "checkpoint_every", "log_every", "tensorboard",
}  # fmt: skip
HIDDEN = (32, 1024)  # fewest rows and columns, most rows, of a weight that Muon may train: not a vocabulary's


class Task(Protocol):
    """A model, its data and its loss. Batches depend on the step alone, so that a resumed run equals an unbroken one."""

    name: str

    @property
    def module(self) -> nn.Module:
        """Everything that is trained."""
        ...

    def loss(self, step: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of batch number `step`, on the device of `module`; `progress` runs from 0 to 1. The second is logged."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out data; `module` is where `LoopConfig.evaluate_on` says."""
        ...

    def export(self, directory: Path) -> None:
        """Write the weights folder that is used."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How to train."""

    steps: int = field(metadata=AT_LEAST_1)
    learning_rate: float
    # Batches of the task in a step, dealt out to the processes; the gradients are their mean
    micro_batches: int = field(default=1, metadata=AT_LEAST_1)
    muon_learning_rate: float = 0.0  # of the weights between hidden layers; 0: AdamW trains all
    warmup_steps: int = field(default=100, metadata=AT_LEAST_1)
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    final_rate: float = 0.01  # learning rate at the end, as a share of the highest
    average_decay: float = 0.0  # exponential moving average of the weights; 0 = off
    seed: int = 1
    num_threads: int = field(default=1, metadata=AT_LEAST_1)
    device: str = "auto"  # auto: the GPU if there is one
    evaluate_every: int = field(default=500, metadata=AT_LEAST_1)
    evaluate_on: Literal["cpu", "device"] = "cpu"
    checkpoint_every: int = field(default=200, metadata=AT_LEAST_1)
    log_every: int = field(default=20, metadata=AT_LEAST_1)
    tensorboard: bool = False  # write the log for TensorBoard too


def rate(config: LoopConfig, step: int) -> float:
    """Share of the highest learning rate at a step: linear warm-up, then cosine."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return warm * (config.final_rate + (1 - config.final_rate) * cosine)


def make_optimizers(module: nn.Module, config: LoopConfig) -> list[tuple[torch.optim.Optimizer, float]]:
    """The optimizers of a module's parameters, each with its highest learning rate."""
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    hidden, wide, thin = [], [], []
    for weight in module.parameters():
        if not weight.requires_grad:
            continue
        rows, columns = weight.shape[0] if weight.dim() else 0, weight[0].numel() if weight.dim() else 0
        if weight.dim() <= 1:
            thin.append(weight)
        elif (
            config.muon_learning_rate
            and id(weight) not in embeddings
            and HIDDEN[0] <= rows <= HIDDEN[1]
            and columns >= HIDDEN[0]
            and weight.is_contiguous()
        ):
            hidden.append(weight)
        else:
            wide.append(weight)
    groups = [{"params": wide, "weight_decay": config.weight_decay}, {"params": thin, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, betas=config.betas)
    optimizers: list[tuple[torch.optim.Optimizer, float]] = [(adamw, config.learning_rate)]
    if hidden:
        optimizers.append((Muon(hidden, config.muon_learning_rate, config.weight_decay), config.muon_learning_rate))
    return optimizers


def training_device(name: str) -> torch.device:
    """The device that `auto` stands for, or the named one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


# Instructions that multiply bfloat16, as torch.cpu names them. oneDNN calls bfloat16 supported where AVX-512 lacks them
# too, and converts then: a training step takes three times as long as in float32.
BFLOAT16_MULTIPLIES = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16", "sve_bf16")


def mixed_precision(device: torch.device) -> torch.dtype:
    """The type that `torch.autocast(device.type)` computes in from now on: bfloat16, but float32 where a CPU emulates that."""
    emulated = device.type == "cpu" and not any(torch.cpu.get_capabilities().get(name) for name in BFLOAT16_MULTIPLIES)
    dtype = torch.float32 if emulated else torch.bfloat16
    if emulated:  # torch says that it leaves float32 as it is, which is what is wanted
        warnings.filterwarnings("ignore", "In CPU autocast")
    torch.set_autocast_dtype(device.type, dtype)
    return dtype


class Losses(nn.Module):
    """The loss of a task as a module: what processes that share their gradients must call."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.module = task.module
        self._task = task

    def forward(self, batch: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """See `Task.loss`."""
        return self._task.loss(batch, progress)


class Log:
    """Figures by step, in log.jsonl and, if asked for, for TensorBoard."""

    def __init__(self, work: Path, start: int, tensorboard: bool) -> None:
        """Go on at step `start`: what a killed run wrote beyond it is forgotten."""
        self._path = work / "log.jsonl"
        self._board: Any = None
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            self._path.write_text("".join(line for line in lines if _belongs(line, start)), encoding="utf-8")
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(work / "tensorboard"), purge_step=start)

    def write(self, step: int, minutes: float, values: dict[str, float]) -> None:
        """Add a line."""
        line = {"step": step, "cpu_minutes": round(minutes, 2), **{k: round(float(v), 5) for k, v in values.items()}}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()


def _belongs(line: str, start: int) -> bool:
    """Whether a line of the log is of a step before `start`; figures on held-out data are of the step that comes next."""
    try:
        values = json.loads(line)
    except ValueError:  # cut off in the middle
        return False
    return values["step"] < start + any(name.startswith("eval_") for name in values)


def train(
    task: Task,
    config: LoopConfig,
    work: Path,
    out: Path,
    *,
    others: Mapping[str, Any] | None = None,
    progress_bar: bool = True,
) -> dict[str, float]:
    """Run (or resume) a task; write checkpoints and a log to `work`, the finished weights to `out`.

    `others` are the settings (numbers, texts, dataclasses of them) that beside the loop's decide what is learned.
    Returns figures in the main process, nothing in others. Raises ConfigError where a checkpoint was made with others.
    """
    accelerator = Accelerator(cpu=training_device(config.device).type == "cpu")
    main, share = accelerator.is_main_process, accelerator.num_processes
    if config.micro_batches % share:
        raise ConfigError(f"micro_batches is {config.micro_batches}: {share} processes need a multiple of {share}.")
    device = accelerator.device if share > 1 else training_device(config.device)
    if main:
        work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.num_threads)
    torch.manual_seed(config.seed)
    mixed_precision(device)
    task.module.to(device)
    optimizers = make_optimizers(task.module, config)
    average = {n: p.detach().clone() for n, p in task.module.named_parameters()} if config.average_decay else {}
    settings = {name: value for name, value in _flat("", config) if name not in FREE}
    settings |= dict(pair for name, value in (others or {}).items() for pair in _flat(name, value))
    checkpoint = work / "checkpoint.pt"
    start, spent = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        _check_same(checkpoint, saved.get("settings"), settings)
        task.module.load_state_dict(saved["module"])
        for (optimizer, _), state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        average = saved["average"]
        start, spent = saved["step"], saved["cpu_minutes"]
        log.info("%s resumes at step %d", task.name, start)
    losses: Any = accelerator.prepare_model(Losses(task)) if share > 1 else Losses(task)
    accelerator.wait_for_everyone()  # nobody writes before all have read
    began = time.process_time()
    journal = Log(work, start, config.tensorboard) if main else None

    def minutes() -> float:
        return spent + (time.process_time() - began) / 60

    def save(step: int) -> None:
        state = {
            "module": task.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer, _ in optimizers],
            "average": average,
            "settings": settings,
            "step": step,
            "cpu_minutes": minutes(),
        }
        partial = checkpoint.with_suffix(".part")
        torch.save(state, partial)
        partial.replace(checkpoint)

    def record(step: int, values: dict[str, float]) -> None:
        if journal is not None:
            journal.write(step, minutes(), values)

    show = progress_bar and main
    bar = tqdm(range(start, config.steps), initial=start, total=config.steps, desc=task.name, disable=not show)
    for step in bar:
        task.module.train()
        for optimizer, highest in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = highest * rate(config, step)
            optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(config.seed * 1_000_003 + step + 10**12 * accelerator.process_index)
        logged = step % config.log_every == 0
        values = accumulate(accelerator, losses, config, step, task.name, logged)
        norm = nn.utils.clip_grad_norm_(task.module.parameters(), config.clip_norm)
        for optimizer, _ in optimizers:
            optimizer.step()
        if average:
            decay = min(config.average_decay, (step + 1) / (step + 10))
            with torch.no_grad():
                for name, parameter in task.module.named_parameters():
                    average[name].lerp_(parameter, 1 - decay)
        if logged:
            bar.set_postfix(loss=f"{values['loss']:.3f}", cpu_min=f"{minutes():.1f}")
            record(step, {**values, "grad_norm": float(norm)})
        last = step + 1 == config.steps
        if main and not last and (step + 1) % config.evaluate_every == 0:
            record(step + 1, {f"eval_{k}": v for k, v in _evaluate(task, device, config).items()})
        if main and not last and (step + 1) % config.checkpoint_every == 0:
            save(step + 1)
    figures: dict[str, float] = {}
    if main:
        if average:
            task.module.load_state_dict({**task.module.state_dict(), **average})
        figures = _evaluate(task, device, config)
        record(config.steps, {f"eval_{k}": v for k, v in figures.items()})
        save(config.steps)
        task.module.cpu()
        task.export(out)
        figures = {**figures, "cpu_minutes": round(minutes(), 1), "steps": config.steps}
    accelerator.wait_for_everyone()
    if share > 1:
        accelerator.end_training()
    return figures


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(name, value), or those of a dataclass's fields, each named `name.field`."""
    if not is_dataclass(value):
        yield name, value
        return
    for one in fields(value):
        yield from _flat(f"{name}.{one.name}".lstrip("."), getattr(value, one.name))


def _check_same(checkpoint: Path, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Raise ConfigError where a training would go on otherwise than it began."""
    if before is None:  # versions before wrote none
        log.warning("%s does not say which settings it was made with; going on with those given now", checkpoint)
        return
    changed = [
        f"{name} was {before[name]} and is {value}"
        for name, value in now.items()
        if name in before and before[name] != value
    ]
    if changed:
        raise ConfigError(
            f"{checkpoint} was made with other settings ({', '.join(changed)}): train with those, or delete it to begin anew."
        )


def accumulate(
    accelerator: Accelerator, losses: Any, config: LoopConfig, step: int, name: str, wanted: bool
) -> dict[str, float]:
    """Gradients of a step: the mean over its micro-batches, of which each process takes its share.

    Returns their mean loss and figures if `wanted`. Raises FloatingPointError.
    """
    own = range(accelerator.process_index, config.micro_batches, accelerator.num_processes)
    sums: dict[str, float] = {}
    for number in own:
        waits = accelerator.num_processes > 1 and number != own[-1]
        with accelerator.no_sync(losses) if waits else nullcontext():
            loss, values = losses(step * config.micro_batches + number, step / config.steps)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"{name}: the loss is {loss.item()} at step {step}")
            (loss / len(own)).backward()
        for key, value in {"loss": loss.item(), **values}.items():
            sums[key] = sums.get(key, 0.0) + value / len(own)
    if not wanted or accelerator.num_processes == 1:
        return sums
    means = torch.tensor(list(sums.values()), device=loss.device, dtype=torch.float64)
    return dict(zip(sums, accelerator.reduce(means, "mean").tolist(), strict=True))


def _evaluate(task: Task, device: torch.device, config: LoopConfig) -> dict[str, float]:
    """On the CPU unless told otherwise, like everything that uses the finished weights."""
    task.module.eval()
    if config.evaluate_on == "cpu":
        task.module.cpu()
    with torch.no_grad():
        figures = task.evaluate()
    task.module.to(device)
    return figures
