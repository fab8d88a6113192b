"""`launch.py train small`: every bundled model from nothing but the repository, flite and espeak-ng.

Each step reads what the steps before it left in the work folder and is skipped when its result is there. The trainers live
with their models; here the corpus is handed to them as values.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from app.small.loop import LoopConfig, Task, train
from configs.loader import DEFAULTS, load_as
from configs.schema import ConfigError

ROOT = Path(__file__).parent.parent.parent
ASSETS = {
    "speech_tokenizer": "tts/assets/speech_tokenizer",
    "speaker": "tts/assets/speaker",
    "vocoder": "tts/assets/vocoder",
    "flow": "tts/assets/flow",
    "tmt": "tts/assets/tmt",
    "interleaved": "tts/assets/interleaved",
    "vadusa": "tts/assets/vadusa",
    "vadusa_together_4": "tts/assets/vadusa_together_4",
    "vadusa_together_6": "tts/assets/vadusa_together_6",
    "voice": "tts/assets/voice",
    "paraformer": "asr/assets/paraformer",
    "turn_end": "asr/assets/turn_end",
    "qwen": "llm/assets/qwen-small",
}
# Steps that can begin with finished weights instead of random ones (--start-from)
CONTINUED = ("flow", "tmt", "paraformer", "qwen")
# Steps that run only by name: nothing that ships needs them
ON_REQUEST = ("interleaved", "vadusa", "vadusa_together_4", "vadusa_together_6")
# glibc gives large blocks back at every step otherwise; a trainer spends half of its time in page faults then
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True, kw_only=True)
class CorpusPlan:
    """How much speech is made."""

    prose_hours: float = 20.0
    voices_hours: float = 9.0
    words_hours: float = 8.0
    questions_heard: int = 1600  # that the recogniser hears, so that the language model learns how it mishears
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class SmallTraining:
    """`configs/train/small.yaml`."""

    corpus: CorpusPlan = field(default_factory=CorpusPlan)
    vocabulary_size: int = 2048
    speech_tokenizer: LoopConfig
    speaker: LoopConfig
    vocoder: LoopConfig
    flow_encoder: LoopConfig
    flow: LoopConfig
    tmt: LoopConfig
    tmt_mask: Literal["prefix", "paper"] = "prefix"  # what text a block sees (`tts.tmt.config`)
    interleaved: LoopConfig
    vadusa: LoopConfig
    vadusa_together: LoopConfig
    paraformer: LoopConfig
    qwen: LoopConfig


@dataclass(frozen=True)
class Places:
    """Work folder, where the finished weights go, and where those lie that are trained on (None: begin at random)."""

    work: Path
    out: Path
    start: Path | None = None

    def asset(self, name: str) -> Path:
        """Folder of a model's finished weights."""
        return self.out / ASSETS[name]

    def first_weights(self, name: str) -> Path | None:
        """Folder of the weights that a model begins with, None for random ones."""
        return self.start / ASSETS[name] if self.start else None

    def corpus(self, name: str) -> Path:
        """Folder of a set of the corpus."""
        return self.work / "corpus" / name

    def done(self, step: str) -> Path:
        """Marker of a finished step."""
        return self.work / f"{step}.done"


Step = Callable[[Places, SmallTraining], dict[str, float]]


def run(options: argparse.Namespace) -> int:
    """Run the chosen steps, or all that ship and are not done."""
    keep_memory()
    plan = load_as(SmallTraining, options.config or DEFAULTS / "train" / "small.yaml")
    from app.small.steps import STEPS

    unknown = [name for name in options.models if name not in STEPS]
    if unknown:
        raise ConfigError(f"train small: no step named {', '.join(unknown)}; the steps are {', '.join(STEPS)}.")
    if options.start_from and (not options.models or set(options.models) - set(CONTINUED)):
        raise ConfigError(f"train small --start-from: name the models; {', '.join(CONTINUED)} can begin with weights.")
    places = Places(options.work, options.out or ROOT, options.start_from)
    for name in options.models or [name for name in STEPS if name not in ON_REQUEST]:
        if places.done(name).exists():
            sys.stdout.write(f"{name}: done before ({places.done(name)})\n")
            continue
        began = time.process_time()
        figures = STEPS[name](places, plan)
        line = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        places.done(name).write_text(f"{line}\n", encoding="utf-8")
        sys.stdout.write(f"{name}: {(time.process_time() - began) / 60:.1f} CPU-minutes; {line}\n")
        sys.stdout.flush()
    return 0


def keep_memory() -> None:
    """Begin this process anew with an allocator that keeps what it has got, unless it has one."""
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **ALLOCATOR})


def fit(places: Places, name: str, task: Task, loop: LoopConfig) -> dict[str, float]:
    """Train one model into its assets folder."""
    return train(task, loop, places.work / name, places.asset(name), progress_bar=sys.stderr.isatty())


def chunks(items: list, size: int) -> Iterator[list]:
    """Consecutive pieces of a list."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
