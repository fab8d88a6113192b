"""What every step of `train small` is given: how much to make and how long to train, and where all of it lies."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from app.small.loop import LoopConfig, Task, train

ROOT = Path(__file__).parent.parent.parent
ASSETS = {
    "speech_tokenizer": "tts/assets/speech_tokenizer",
    "speaker": "tts/assets/speaker",
    "vocoder": "tts/assets/vocoder",
    "flow": "tts/assets/flow",
    "student": "tts/assets/student",
    "tmt": "tts/assets/tmt",
    "interleaved": "tts/assets/interleaved",
    "vadusa": "tts/assets/vadusa",
    "vadusa_together_4": "tts/assets/vadusa_together_4",
    "vadusa_together_6": "tts/assets/vadusa_together_6",
    "voice": "tts/assets/voice",
    "paraformer": "asr/assets/paraformer",
    "turn_end": "asr/assets/turn_end",
    "turn_sound": "asr/assets/turn_sound",
    "qwen": "llm/assets/qwen-small",
}
# Steps that run only by name: nothing that ships needs them
ON_REQUEST = ("student", "interleaved", "vadusa", "vadusa_together_4", "vadusa_together_6")


@dataclass(frozen=True, kw_only=True)
class CorpusPlan:
    """How much speech and text is made."""

    prose_hours: float = 20.0
    voices_hours: float = 9.0
    words_hours: float = 8.0
    questions_heard: int = 1600  # that the recogniser hears, so that the language model learns how it mishears
    prose_lines: int = 6000  # that the language model reads beside its dialogues
    turn_end_dialogues: int = 10_000  # that tell where a turn ends
    turn_end_lines: int = 3000  # of prose, which do too
    turn_sound_lines: int = 8000  # that are spoken to learn how a turn ends
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class SmallTraining:
    """`configs/train/small.yaml`."""

    corpus: CorpusPlan = field(default_factory=CorpusPlan)
    speech_tokenizer: LoopConfig
    speaker: LoopConfig
    vocoder: LoopConfig
    flow_encoder: LoopConfig
    flow: LoopConfig
    student: LoopConfig
    tmt: LoopConfig
    tmt_mask: Literal["prefix", "paper"] = "prefix"  # what text a block sees (`tts.tmt.config`)
    interleaved: LoopConfig
    vadusa: LoopConfig
    vadusa_together: LoopConfig
    paraformer: LoopConfig
    turn_sound: LoopConfig
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


def fit(
    places: Places, name: str, task: Task, loop: LoopConfig, others: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """Train one model into its assets folder; `others` of the plan that decide what it learns are kept with its checkpoint."""
    start = str(places.start.resolve()) if places.start else "random weights"
    return train(
        task,
        loop,
        places.work / name,
        places.asset(name),
        others={"--start-from": start, **(others or {})},
        progress_bar=sys.stderr.isatty(),
    )
