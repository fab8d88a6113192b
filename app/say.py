"""`launch.py say`: speak a text into a file, while it is still being written."""

import argparse
import asyncio
import codecs
import math
import os
import select
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain

from app import timestamps
from app.about import process_age_s
from app.assemble import build_synthesizer, build_voice, prepare_process
from app.configuration import configuration
from app.progress import seconds_of_speech
from app.worker import Worker
from audio_io.file import WavWriter
from configs.schema import AppConfig, ConfigError
from tts.base import SAMPLE_RATE, PcmChunk, SpeechStep, SynthesisStream, TwoPass

READ_BYTES = 4096


def run(options: argparse.Namespace) -> int:
    """Speak and report how long it took."""
    if options.text != "-" and not options.text.strip():
        raise ConfigError('the text is empty; write for example: say "Good morning."')
    config = configuration(options)
    two_pass = _two_pass(options, config)
    timeline = timestamps.Timeline()
    if options.timestamps:
        timestamps.check(options.timestamps, options.out, config)
    with ExitStack() as files:
        out = files.enter_context(WavWriter(options.out, SAMPLE_RATE))
        if options.timestamps:
            files.enter_context(timestamps.writing(options.timestamps, timeline))
        prepare_process(config)
        synthesizer = build_synthesizer(config)
        voice = build_voice(synthesizer, config)
        stream = synthesizer.stream(voice=voice, speed=config.tts.speed, share_ids=False, two_pass=two_pass)
        shows_typing = options.text == "-" and sys.stdin.isatty()  # a bar would write into the lines
        bar = files.enter_context(seconds_of_speech("say", show=not shows_typing))
        first_s = 0.0
        num_samples = num_capped = 0
        for made in speak(stream, typed() if options.text == "-" else iter([options.text])):
            if isinstance(made, SpeechStep):
                timeline.add(made)
                num_capped += made.capped
                continue
            out.write(made.samples)
            num_samples += len(made.samples)
            bar.update(len(made.samples) / SAMPLE_RATE)
            if len(made.samples) and not first_s:
                first_s = process_age_s()
        if not num_samples:
            raise ConfigError("there is nothing to speak in this text (only emoji, symbols or unknown script).")
    duration_s = num_samples / SAMPLE_RATE
    sys.stdout.write(f"{options.out}: {duration_s:.1f} s of speech; first audio {first_s:.1f} s after the start\n")
    if num_capped:
        sys.stderr.write(f"{num_capped} text tokens were cut to the longest duration that the model can say.\n")
    return 0


def _two_pass(options: argparse.Namespace, config: AppConfig) -> TwoPass | None:
    """How the durations are to be scaled together, if they are. Raises ConfigError where that cannot be."""
    name = "--two-pass" if options.length is None else f"--length {options.length:g}"
    if options.length is None and not options.two_pass:
        return None
    if options.text == "-":
        raise ConfigError(f"{name} needs the whole text before it speaks: give it as an argument instead of -.")
    if config.tts.backend != "syncspeech":
        raise ConfigError(f"{name}: the interleaved model has no durations; use tts.backend=syncspeech.")
    if options.length is not None:
        if options.speed is not None or options.two_pass:
            raise ConfigError(f"{name} decides the rate: leave out --speed and --two-pass.")
        if config.tts.feeding == "sentence":
            raise ConfigError(f"{name} is of the whole text, not of its sentences: use tts.feeding=token.")
        if not 0 < options.length < float("inf"):
            raise ConfigError(f"{name}: give a number of seconds above 0.")
    return TwoPass(length_s=options.length)


def speak(stream: SynthesisStream, pieces: Iterator[str]) -> Iterator[SpeechStep | PcmChunk]:
    """Feed pieces of text as they come and yield steps and samples as they are made: the first soon, then all at least cost."""
    in_hand_s = 0.0
    for piece in chain(pieces, [None]):
        if piece is None:
            stream.finish()
        else:
            stream.push(0, piece)
        while (made := stream.step(in_hand_s)) is not None:
            if isinstance(made, PcmChunk):
                in_hand_s = math.inf  # nobody listens to a file while it is written
            yield made


async def spoken(stream: SynthesisStream, worker: Worker) -> AsyncIterator[PcmChunk]:
    """The sound of an utterance whose text is complete; each chunk is due as if they were played as they come."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while not stream.done:
        in_hand_s = due - loop.time()
        made = await worker.run_within(in_hand_s, partial(stream.step, in_hand_s))
        if isinstance(made, PcmChunk):
            due += len(made.samples) / SAMPLE_RATE
            yield made


def typed() -> Iterator[str]:
    """Text from standard input as it arrives; a character cut in two waits for its other half."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    source = sys.stdin.fileno()
    while True:
        select.select([source], [], [])
        data = os.read(source, READ_BYTES)
        text = decoder.decode(data, final=not data)
        if text:
            yield text
        if not data:
            return
