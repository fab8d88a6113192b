"""`launch.py train student`: a flow-matching decoder that needs few steps and no guidance, from one that needs many."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from app.configuration import configuration
from app.data.sources import Item, read_source
from app.small.allocator import keep_memory
from configs.device import resolve
from configs.loader import DEFAULTS, load_as
from configs.schema import ConfigError, TtsConfig

if TYPE_CHECKING:
    from tts.training.flow import FlowUtterance

HZ = 24_000
MIN_S, MAX_S = 1.0, 30.0


def run(options: argparse.Namespace) -> int:
    """Read the recordings, train, or go on training."""
    keep_memory()
    from dataclasses import replace

    import tts
    from app.assemble import prepare_process
    from app.small.loop import train
    from tts.training.student import StudentTask

    plan = read_plan(options.plan or DEFAULTS / "train" / "student.yaml", options.plan_settings)
    config = configuration(options)
    prepare_process(config)
    speech = list(utterances(read_source(options.data), config.tts, resolve(config.runtime.device), plan.hours))
    held_out = min(plan.held_out, len(speech) // 10)
    if len(speech) - held_out < 1:
        raise ConfigError(f"{options.data}: no recording of {MIN_S:g} to {MAX_S:g} s can be read.")
    teacher = tts.load_flow(replace(config.tts, dtype="float32"), "cpu")
    try:
        task = StudentTask(teacher, speech[held_out:], plan.training, validation=speech[:held_out])
    except ValueError as error:
        raise ConfigError(f"train student: {error}") from None
    others = {"training": plan.training, "hours": plan.hours, "held_out": plan.held_out}
    figures = train(task, plan.loop, options.work, options.out, others=others, progress_bar=sys.stderr.isatty())
    if figures:  # the main process
        line = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        steps = plan.training.student_steps
        sys.stdout.write(
            f"{options.out}: {line}\nspeak with it: --set tts.flow={options.out} --set tts.num_flow_steps={steps}\n"
        )
    return 0


def utterances(items: list[Item], config: TtsConfig, device: str, hours: float) -> Iterator["FlowUtterance"]:
    """Recordings as the decoder sees them, of all speakers alike, up to a number of hours; what cannot be read is left out."""
    import torch

    import tts
    from audio_io.base import AudioFileError
    from audio_io.file import read_audio
    from tts.features import mel_24k, resample
    from tts.training.flow import FlowUtterance

    tokenizer, encoder = tts.load_speech_tokenizer(config, device), tts.load_speaker(config, device)
    order = np.random.default_rng(0).permutation(len(items))
    seconds = 0.0
    for index in tqdm(order, desc="recordings", disable=not sys.stderr.isatty()):
        if seconds >= 3600 * hours:
            return
        item = items[index]
        try:
            samples = read_audio(item.audio, HZ).samples
        except AudioFileError:
            continue
        if not MIN_S <= len(samples) / HZ <= MAX_S:
            continue
        with torch.inference_mode():
            heard = resample(samples, HZ, 16_000)
            tokens, speaker = tokenizer.encode(heard), encoder.embed(heard)
            mel = mel_24k(torch.from_numpy(samples)[None])[0]
        count = min(len(tokens), mel.shape[1] // 2)
        seconds += len(samples) / HZ
        yield FlowUtterance(tokens[:count], mel[:, : 2 * count].half().numpy(), speaker, item.speaker)


def read_plan(path: Path, settings: Sequence[str] = ()) -> Any:
    """A file like configs/train/student.yaml, with settings that win over it. Raises ConfigError."""
    from app.small.loop import LoopConfig
    from tts.training.student import StudentTraining

    @dataclass(frozen=True, kw_only=True)
    class Plan:
        """What to distil, and the loop."""

        training: StudentTraining = field(default_factory=StudentTraining)
        loop: LoopConfig
        hours: float = 20.0  # of speech that is read and kept in memory, 30 MB each
        held_out: int = 16  # recordings that are not trained on but measured

    return load_as(Plan, path, settings, example="--set-plan loop.steps=1000")
