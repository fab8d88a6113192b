"""`launch.py transcribe`: what is said in a recording, one line per utterance."""

import argparse
import sys

from app.assemble import build_recognizer, prepare_process
from app.cli import configuration
from asr.base import SAMPLE_RATE, FinalTranscript
from audio_io.file import read_audio


def run(options: argparse.Namespace) -> int:
    """Print the transcript."""
    config = configuration(options)
    recording = read_audio(options.recording, SAMPLE_RATE)
    prepare_process(config)
    stream = build_recognizer(config).stream()
    spoken = 0
    for start in range(0, len(recording.samples), SAMPLE_RATE):
        spoken += _show(stream.push(recording.samples[start : start + SAMPLE_RATE]))
    spoken += _show(stream.finish())
    if not spoken:
        sys.stderr.write(f"{options.recording}: no speech found{_because(recording.notes)}.\n")
    return 0


def _show(events: list) -> int:
    texts = [event.text for event in events if isinstance(event, FinalTranscript) and event.text]
    for text in texts:
        sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    return len(texts)


def _because(notes: tuple[str, ...]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""
