"""`launch.py ask`: recorded questions in, spoken answers out, through the same session as a live conversation."""

import argparse
import asyncio
import os
import resource
import sys
import time
from pathlib import Path
from typing import TextIO

from app.about import about
from app.assemble import Assistant, prepare_process
from app.clock import never_skip, run_skipping
from app.configuration import configuration
from app.events import BotSpeaking, Failed, Interrupted, ReplyText, SessionEvent, TurnDone, UserText
from app.trace import TurnTrace, waterfall_line, write_json
from asr.base import SAMPLE_RATE
from audio_io.clock import LoopClock
from audio_io.file import Recording, read_audio, write_wav
from audio_io.file_device import FileDevice
from configs.schema import AppConfig, ConfigError

SAMPLE_QUESTION = Path(__file__).parent / "assets" / "question.wav"
PATIENCE_S = 4.0  # silence after a recording in which a turn may still begin


def run(options: argparse.Namespace) -> int:
    """Ask, print the conversation, write the files."""
    config = configuration(options)
    questions = options.questions or [SAMPLE_QUESTION]
    recordings = [read_audio(path, SAMPLE_RATE) for path in questions]
    check_writable(options.out, options.trace, options.record)
    prepare_process(config)
    screen = Screen(sys.stdout)
    began = time.perf_counter()
    play = run_skipping if options.fast else asyncio.run
    turns, device = play(ask(config, recordings, screen=screen))
    for path, recording in zip(questions, recordings, strict=True):
        for note in recording.notes:
            sys.stderr.write(f"{path}: {note}\n")
    if not turns:
        sys.stderr.write(f"no speech was found in {', '.join(map(str, questions))}; no answer was written.\n")
        return 1
    answer = device.answer()
    if len(answer):
        write_wav(options.out, answer, device.playback_hz)
        sys.stdout.write(f"{options.out}: {len(answer) / device.playback_hz:.1f} s")
        sys.stdout.write(f"; peak memory {peak_memory_gib():.1f} GiB\n")
    if options.record:
        write_wav(options.record, device.conversation(), device.playback_hz)
    if options.trace:
        write_json(
            options.trace, turns, about(config, wall_s=time.perf_counter() - began, peak_memory_gib=peak_memory_gib())
        )
    return 1 if any(turn.error for turn in turns) else 0


async def ask(
    config: AppConfig, recordings: list[Recording], *, screen: "Screen"
) -> tuple[list[TurnTrace], FileDevice]:
    """Hold one conversation whose user side are the recordings; the next begins when the reply to the last is over."""
    assistant = await Assistant.load(config, screen.status)
    screen.status("")
    try:
        return await converse(assistant, recordings, screen=screen)
    finally:
        assistant.close()


async def converse(
    assistant: Assistant, recordings: list[Recording], *, screen: "Screen"
) -> tuple[list[TurnTrace], FileDevice]:
    """One conversation with loaded parts, at the pace of the running loop."""
    turns: list[TurnTrace] = []
    state = {"open": 0}  # turns that are heard but not answered to the end

    def notify(event: SessionEvent) -> None:
        screen.show(event)
        if isinstance(event, UserText) and event.final:
            state["open"] += 1
        elif isinstance(event, TurnDone):
            state["open"] -= 1
            turns.append(event.trace)

    device = FileDevice(LoopClock(), [recording.samples for recording in recordings], patience_s=PATIENCE_S)
    device.waiting_for_reply = lambda: state["open"] > 0
    session = assistant.converse(device, notify)
    with never_skip(lambda: session.computing):
        await session.run()
    return turns, device


class Screen:
    """What a person sees: plain lines, the reply's words as they are spoken."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._live = out.isatty()
        self._words: list[str] = []
        self._spoken = 0

    def status(self, text: str) -> None:
        """What is being done before the conversation; only on a terminal."""
        if self._live:
            self._out.write(f"\r\033[K{text}")
            self._out.flush()

    def show(self, event: SessionEvent) -> None:
        """Show one event of the session."""
        match event:
            case UserText(text=text, final=True):
                self.status("")
                self._out.write(f"you: {text}\nassistant: ")
                self._words, self._spoken = [], 0
            case UserText(text=text):
                self.status(f"you: {text} ...")
            case ReplyText(text=text):
                self._words.append(text)
            case BotSpeaking(token_end=end):
                self._out.write("".join(self._words[self._spoken : end]))
                self._spoken = max(self._spoken, end)
            case Interrupted():
                self._out.write(" [interrupted]")
            case Failed(reason=reason):
                self._out.write(f"[{reason}]")
            case TurnDone(trace=trace):
                if not trace.interrupted and not trace.error:
                    self._out.write("".join(self._words[self._spoken :]))
                self._out.write(f"\n{waterfall_line(trace)}\n")
        self._out.flush()


def check_writable(*paths: Path | None) -> None:
    """Say at once when a result could not be written at the end. Raises AudioFileError, ConfigError."""
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise ConfigError(f"{path}: a folder; give the name of a file.")
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: the folder {path.parent} does not exist; make it first.")
        if not os.access(path.parent, os.W_OK):
            raise ConfigError(f"{path}: no permission to write there; choose another folder.")


def peak_memory_gib() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
