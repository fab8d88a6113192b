"""The speed part of `eval small`: every figure is a ratio or a time of this run on this machine, in streaming form."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from app.about import HostShare, processor
from app.assemble import build_synthesizer
from app.trace import first_audible
from configs.schema import AppConfig
from tts.base import SAMPLE_RATE, PcmChunk, SpeechStep

LONG_S = 60.0
TEXT = (
    "The old lighthouse keeper climbed the stairs every evening, just before the sun went down. He carried a small lamp, "
    "a book, and a cup of tea. From the top he could see the boats come home. One night the fog was so thick that he "
    "could not see his own hand. He rang the bell until the morning, and every boat found its way. "
)
REPEATS = 7


def measure(config: AppConfig, report: Any, name: str) -> None:
    """Add the speed table to a report; `name` of the voice is for the title."""
    synthesizer = build_synthesizer(config)
    synthesizer.warm_up()
    report.heading(
        f"Speed (bundled models, voice {name}, {processor()}, {config.runtime.num_threads} thread per model)",
        "figure", "value", "goal",
    )  # fmt: skip
    host, began = HostShare(), time.process_time()
    chunks = list(long_reply(synthesizer))
    worked, taken = time.process_time() - began, host.taken()
    spoken = sum(len(samples) for samples, _ in chunks) / SAMPLE_RATE
    compute = sum(seconds for _, seconds in chunks)
    report.row(
        "rtf", "real-time factor of the whole TTS, streaming (CPU time alone; share of the work time that the host took)",
        f"{compute / spoken:.3f} ({worked / spoken:.3f}; {100 * taken:.0f} %)", "0.15", rtf=compute / spoken,
        cpu_rtf=worked / spoken, host_took=taken,
    )  # fmt: skip
    early, late = cost(chunks, 1.0, 11.0), cost(chunks, spoken - 10.0, spoken)
    report.row(
        "flat", f"cost per second of speech, seconds 1-11 and the last ten of {spoken:.0f}",
        f"{1000 * early:.0f} and {1000 * late:.0f} ms (ratio {late / early:.2f})", "flat", early=early, late=late,
    )  # fmt: skip
    firsts = [first_sample(synthesizer) for _ in range(REPEATS)]
    report.row(
        "first_audible", "first audible sample after the second text token, text at hand (median, max of "
        f"{REPEATS}; leading silence counted)", f"{np.median(firsts):.0f}, {max(firsts):.0f} ms", "200 ms",
        milliseconds=firsts,
    )  # fmt: skip
    cold = say_cold()
    report.row(
        "cold_say", "start of `say` to first audio, new process, imports counted", f"{cold:.1f} s", "10 s", seconds=cold
    )
    turn, memory = ask_at_audio_pace()
    stages = ", ".join(
        f"{key.removesuffix('_s').replace('_', ' ')} {1000 * value:.0f}" for key, value in turn["waterfall"].items()
    )
    report.row(
        "voice_to_voice", f"voice-to-voice of `ask` on the sample question at audio pace ({stages})",
        f"{1000 * turn['voice_to_voice_s']:.0f} ms", "1000 ms", seconds=turn["voice_to_voice_s"], waterfall=turn["waterfall"],
    )  # fmt: skip
    report.row("memory", "peak resident memory of `ask`", f"{memory:.2f} GiB", "2.5 GiB", gib=memory)


def long_reply(synthesizer: Any) -> Iterator[tuple[np.ndarray, float]]:
    """A reply of at least a minute, as if played from its first chunk on: (samples, computing seconds since the chunk before)."""
    stream = synthesizer.stream(share_ids=False)
    stream.push(0, TEXT * 5)
    stream.finish()
    seconds = ends = 0.0
    while (made := stream.step(ends - time.perf_counter())) is not None:
        seconds += made.synth_ms / 1000
        if isinstance(made, PcmChunk):
            ends = max(ends, time.perf_counter()) + len(made.samples) / SAMPLE_RATE
            yield made.samples, seconds
            seconds = 0.0


def cost(chunks: list[tuple[np.ndarray, float]], start_s: float, end_s: float) -> float:
    """Computing seconds per spoken second between two times of the reply."""
    at = spoken = compute = 0.0
    for samples, seconds in chunks:
        length = len(samples) / SAMPLE_RATE
        if start_s <= at < end_s:
            spoken, compute = spoken + length, compute + seconds
        at += length
    return compute / spoken


def first_sample(synthesizer: Any) -> float:
    """Milliseconds of computing, and of silence at the start of the audio, from the second text token on."""
    stream = synthesizer.stream(share_ids=False)
    tokens = synthesizer.tokenize("Good morning, it is nice to hear from you again after such a long time.")
    began = time.perf_counter()
    for _, text in tokens:
        stream.push(0, text)
        while (made := stream.step()) is not None:
            if isinstance(made, SpeechStep):
                continue
            offset = first_audible(made.samples)
            if offset is not None:
                return 1000 * (time.perf_counter() - began + offset / SAMPLE_RATE)
    raise AssertionError("the sentence is longer than the first chunk")


def say_cold() -> float:
    """Seconds from the start of a new process to its first audio, as the process reports them."""
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(
            [sys.executable, "launch.py", "say", "Good morning.", "--out", str(Path(folder) / "speech.wav")],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        return float(result.stdout.split("first audio ")[1].split(" s")[0])


def ask_at_audio_pace() -> tuple[dict[str, Any], float]:
    """The sample question in a new process: its first turn, and the process's peak memory in GiB."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        subprocess.run(
            [sys.executable, "launch.py", "ask", "--out", f"{folder}/answer.wav", "--trace", str(trace)],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        values = json.loads(trace.read_text(encoding="utf-8"))
        return values["turns"][0], values["about"]["peak_memory_gib"]
