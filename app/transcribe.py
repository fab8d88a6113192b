"""`launch.py transcribe`: what is said in a recording, one line per utterance."""

import argparse
import sys
from collections.abc import AsyncIterator

import numpy as np
from tqdm import tqdm

from app.assemble import build_recognizer, prepare_process
from app.configuration import configuration
from app.progress import seconds_of_speech
from app.worker import Worker
from asr.base import SAMPLE_RATE, Event, FinalTranscript, Recognizer
from audio_io.file import read_audio


def run(options: argparse.Namespace) -> int:
    """Print the transcript."""
    config = configuration(options)
    recording = read_audio(options.recording, SAMPLE_RATE)
    prepare_process(config)
    stream = build_recognizer(config).stream()
    spoken = 0
    with seconds_of_speech("transcribe", len(recording.samples) / SAMPLE_RATE) as bar:
        for start in range(0, len(recording.samples), SAMPLE_RATE):
            second = recording.samples[start : start + SAMPLE_RATE]
            spoken += _show(stream.push(second))
            bar.update(len(second) / SAMPLE_RATE)
        spoken += _show(stream.finish())
    if not spoken:
        sys.stderr.write(f"{options.recording}: no speech found{_because(recording.notes)}.\n")
    return 0


async def utterances(recognizer: Recognizer, worker: Worker, samples: np.ndarray) -> AsyncIterator[str]:
    """What is said in a recording, float32 (N,) at 16 kHz, as it is understood; others' work comes in between."""
    stream = recognizer.stream()
    for start in range(0, len(samples), SAMPLE_RATE):
        for text in _texts(await worker.run(stream.push, samples[start : start + SAMPLE_RATE])):
            yield text
    for text in _texts(await worker.run(stream.finish)):
        yield text


def _show(events: list[Event]) -> int:
    texts = _texts(events)
    for text in texts:
        tqdm.write(text, file=sys.stdout)  # which may be the terminal that shows the bar
    sys.stdout.flush()
    return len(texts)


def _texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, FinalTranscript) and event.text]


def _because(notes: tuple[str, ...]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""
