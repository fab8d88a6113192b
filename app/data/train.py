"""`launch.py train tmt`: a temporal masked transformer from a prepared corpus, on one or many processes."""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.small.allocator import keep_memory
from configs.loader import DEFAULTS, load_as
from configs.schema import ConfigError

if TYPE_CHECKING:
    from tts.training.dataset import Dataset
    from tts.training.tmt import TmtExample

HELD_OUT_SHARE = 0.1  # at most, of a small corpus


def run(options: argparse.Namespace) -> int:
    """Train, or go on training."""
    keep_memory()
    import numpy as np

    from app.small.loop import train
    from tts.alignment.durations import text_pieces
    from tts.base import CheckpointError
    from tts.training.dataset import Dataset
    from tts.training.embedding import text_embedding
    from tts.training.tmt import task
    from tts.vocabulary import TextVocabulary

    plan = read_plan(options.plan or DEFAULTS / "train" / "tmt_small.yaml", options.plan_settings)
    data = Dataset(options.data)
    tokenizer = options.data / "tokenizer.json"
    vocabulary = TextVocabulary(tokenizer)
    model = replace(
        plan.model,
        text_vocab_size=len(vocabulary),
        vocabulary_id=vocabulary.id,
        num_speech_tokens=data.settings["num_speech_tokens"],
    )
    try:
        type(model).from_values(asdict(model))
    except CheckpointError as error:
        raise ConfigError(f"model: {str(error).removeprefix('config.json: ')}") from error
    if model.num_duration_classes <= data.settings["max_duration"]:
        raise ConfigError(
            f"model.num_duration_classes is {model.num_duration_classes}: the corpus has durations up to "
            f"{data.settings['max_duration']} speech tokens."
        )
    held_out = min(plan.held_out, int(HELD_OUT_SHARE * len(data)))
    order = np.random.default_rng(0).permutation(len(data)).tolist()
    table = None
    if options.text_embedding:
        table = text_embedding(options.text_embedding, vocabulary.id, len(vocabulary), model.dim)
    made = task(
        model,
        text_pieces(tokenizer) if plan.training.shared_parts else (),
        Part(data, sorted(order[held_out:])),
        Part(data, sorted(order[:held_out])),
        plan.training,
        table,
    )
    others = {"model": model, "training": plan.training, "held_out": plan.held_out}
    figures = train(made, plan.loop, options.work, options.out, others=others, progress_bar=sys.stderr.isatty())
    if figures:  # the main process
        shutil.copyfile(tokenizer, options.out / "tokenizer.json")
        line = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        sys.stdout.write(f"{options.out}: {line}\nspeak with it: --set tts.tmt={options.out}\n")
    return 0


def read_plan(path: Path, settings: Sequence[str] = ()) -> Any:
    """A file of configs/train/tmt_*.yaml, with settings that win over it. Raises ConfigError."""
    from app.small.loop import LoopConfig
    from tts.tmt.config import TmtConfig
    from tts.training.tmt import TmtTraining

    @dataclass(frozen=True, kw_only=True)
    class Plan:
        """Shape, batches and loop."""

        model: TmtConfig
        training: TmtTraining
        loop: LoopConfig
        held_out: int = 200  # utterances that are not trained on but measured

    return load_as(Plan, path, settings, example="--set-plan loop.steps=1000")


class Part(Sequence["TmtExample"]):
    """Some items of a prepared corpus."""

    def __init__(self, data: "Dataset", indices: Sequence[int]) -> None:
        self._data, self._indices = data, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator["TmtExample"]:
        return (self._data[i] for i in self._indices)

    def __getitem__(self, index: Any) -> Any:
        """The example of an index, or those of a slice."""
        if isinstance(index, slice):
            return [self._data[i] for i in self._indices[index]]
        return self._data[self._indices[index]]
