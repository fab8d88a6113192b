"""`launch.py bench soak`: one long conversation in virtual time. Does it leave anything behind, is its end as fast as its start?

The built-in recordings are said again and again, with pauses of thought between them and everything spoken over the replies
that belongs to them. The first ten questions are asked once more at the end, with the same pauses, so that latencies are of
the same questions; and again in a new conversation of the same process, which tells a long history from a tired process or host.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from app.about import about
from app.assemble import Assistant, prepare_process
from app.bench.cases import CLIP_HZ, Case, built_in
from app.clock import never_skip, run_skipping
from app.configuration import configuration
from app.events import BotSpeaking, SessionEvent, TurnDone, UserText
from app.trace import TurnTrace
from audio_io.base import Clock
from audio_io.clock import LoopClock
from audio_io.file_device import FileDevice
from configs.schema import AppConfig, ConfigError

COMPARED = 10  # turns at each end
SEED = 1  # of the pauses
WARM_UP = 0.1  # of the conversation; memory is compared between the tenth after it and the last tenth
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 12.0
PATIENCE_S = 2.0
GROWTH_LIMIT = 0.02


@dataclass(frozen=True, kw_only=True)
class Resident:
    """Memory at one moment."""

    at: float  # seconds on the conversation's clock
    mib: float


@dataclass(kw_only=True)
class Soak:
    """What is kept of the conversation: figures, no sound."""

    memory: list[Resident] = field(default_factory=list)
    voice_to_voice_s: dict[str, list[float]] = field(default_factory=lambda: {"first": [], "last": []})
    cpu_s: dict[str, list[float]] = field(default_factory=lambda: {"first": [], "last": []})  # since the turn before
    turns: int = 0
    interrupted: int = 0
    failed: int = 0
    underruns: int = 0
    most_tasks: int = 0
    left_tasks: list[str] = field(default_factory=list)
    left_threads: list[str] = field(default_factory=list)
    seconds: float = 0.0
    _cpu_s: float = field(default_factory=time.process_time)

    def keep(self, trace: TurnTrace, phase: str, now: float) -> None:
        """What is to be known of a turn that is over."""
        self.turns += 1
        self.interrupted += trace.interrupted
        self.failed += trace.error is not None
        self.underruns += trace.underruns
        self.most_tasks = max(self.most_tasks, len(asyncio.all_tasks()))
        self.memory.append(Resident(at=now, mib=resident_mib()))
        took = trace.voice_to_voice_s
        if phase in self.voice_to_voice_s and took is not None:
            self.voice_to_voice_s[phase].append(took)
            self.cpu_s[phase].append(time.process_time() - self._cpu_s)
        self._cpu_s = time.process_time()


class _User:
    """Says the cases until the time is over, and speaks over replies where a case has it."""

    def __init__(self, clock: Clock, cases: list[Case], end_s: float) -> None:
        self._clock, self._cases, self._end_s = clock, cases, end_s
        self._rng = np.random.default_rng(SEED)
        self.case = cases[0]
        self.spoken_over = True  # of the running case nothing more is to be said
        self.phase = ""  # first, last or between

    def recordings(self) -> Iterator[np.ndarray]:
        """What he says, float32 (N,) at 16 kHz, each behind a pause."""
        compared = [case for case in self._cases if case.replies == 1 and case.interjection is None][:COMPARED]
        yield from self._say("first", compared, np.random.default_rng(SEED))
        while self._clock.now() < self._end_s:
            for case in self._cases:
                if self._clock.now() >= self._end_s:
                    break
                yield from self._say("between", [case], self._rng)
        yield from self._say("last", compared, np.random.default_rng(SEED))

    def _say(self, phase: str, cases: list[Case], pauses: np.random.Generator) -> Iterator[np.ndarray]:
        for self.case in cases:
            self.phase, self.spoken_over = phase, self.case.interjection is None
            pause_s = pauses.uniform(SHORTEST_PAUSE_S, LONGEST_PAUSE_S)
            yield np.concatenate([np.zeros(round(pause_s * CLIP_HZ), np.float32), self.case.samples])


async def hold(assistant: Assistant, cases: list[Case], seconds: float) -> Soak:
    """Converse for about so long on the running loop's clock."""
    found, clock = Soak(), LoopClock()
    user = _User(clock, cases, seconds)
    device = FileDevice(clock, user.recordings(), patience_s=PATIENCE_S, keeps=False)
    tasks, threads, open_turns = asyncio.all_tasks(), set[str](), 0
    device.waiting_for_reply = lambda: open_turns > 0

    def notify(event: SessionEvent) -> None:
        nonlocal open_turns, threads
        if isinstance(event, UserText) and event.final:
            open_turns += 1
        elif isinstance(event, BotSpeaking) and not user.spoken_over and user.case.interjection:
            user.spoken_over = True
            device.interject(user.case.interjection.samples, clock.now() + user.case.interjection.after_s)
        elif isinstance(event, TurnDone):
            open_turns -= 1
            found.keep(event.trace, user.phase, clock.now())
            if clock.now() < WARM_UP * seconds or not threads:
                threads = running_threads()

    session = assistant.converse(device, notify)
    with never_skip(lambda: session.computing):
        await session.run()
    await asyncio.sleep(0.1)  # what was cancelled last ends
    found.seconds = clock.now()
    found.left_tasks = sorted(task.get_name() for task in asyncio.all_tasks() - tasks)
    found.left_threads = sorted(running_threads() - threads)
    return found


def running_threads() -> set[str]:
    """Every thread of this process, Python's and others: number and name."""
    tasks = Path("/proc/self/task")
    return {f"{task.name} {(task / 'comm').read_text().strip()}" for task in tasks.iterdir()}


def resident_mib() -> float:
    """Memory of this process that is in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def figures(found: Soak, afterwards: Soak) -> dict[str, Any]:
    """What the conversation says of itself, and the short one after it."""
    after_warm_up = [m.mib for m in found.memory if WARM_UP <= m.at / found.seconds <= 2 * WARM_UP]
    at_end = [m.mib for m in found.memory if m.at / found.seconds >= 1 - WARM_UP]
    first, last = (found.voice_to_voice_s[phase] for phase in ("first", "last"))
    first_cpu, last_cpu = (found.cpu_s[phase] for phase in ("first", "last"))
    return {
        "minutes": found.seconds / 60,
        "turns": found.turns,
        "interrupted": found.interrupted,
        "failed": found.failed,
        "underruns": found.underruns,
        "memory_after_warm_up_mib": median(after_warm_up),
        "memory_at_end_mib": median(at_end),
        "memory_growth": median(at_end) / median(after_warm_up) - 1,
        "most_tasks": found.most_tasks,
        "left_tasks": found.left_tasks,
        "left_threads": found.left_threads,
        "voice_to_voice_first_s": median(first),
        "voice_to_voice_last_s": median(last),
        "cpu_first_s": median(first_cpu),
        "cpu_last_s": median(last_cpu),
        "voice_to_voice_new_s": median(afterwards.voice_to_voice_s["first"]),
        "cpu_new_s": median(afterwards.cpu_s["first"]),
        "compared_turns": [len(first), len(last)],
    }


def page(values: dict[str, Any]) -> str:
    """The report for people."""
    told, found = values["about"], values["figures"]
    shown = values["memory"][:: max(1, len(values["memory"]) // 12)]
    first, last = found["compared_turns"]
    return "\n".join(
        [
            f"# One conversation of {found['minutes']:.0f} minutes",
            "",
            f"{told['machine']}; load average {told['load']['before'][0]:.1f} before, {told['load']['after'][0]:.1f} after; "
            f"bundled weights, one thread per model. Simulated clock: waiting is skipped, computing counted; it took "
            f"{told['wall_s'] / 60:.0f} minutes. The built-in recordings of `bench latency`, again and again, with pauses of "
            f"{SHORTEST_PAUSE_S:g} to {LONGEST_PAUSE_S:g} s between them.",
            "",
            "| figure | value | goal |",
            "|---|---|---|",
            f"| turns answered (of these interrupted, failed) | {found['turns']} ({found['interrupted']}, {found['failed']}) | |",
            f"| memory after the first tenth, at the end (medians of a tenth each) | {found['memory_after_warm_up_mib']:.0f}, "
            f"{found['memory_at_end_mib']:.0f} MiB: {100 * found['memory_growth']:+.1f} % | below {100 * GROWTH_LIMIT:g} % |",
            f"| tasks left at the end (most at once) | {len(found['left_tasks'])} ({found['most_tasks']}) | 0 |",
            f"| threads more than after the first tenth | {len(found['left_threads'])} | 0 |",
            f"| voice-to-voice, median of the first {first} turns, of the same questions at the end ({last}), of these "
            f"in a new conversation afterwards | {1000 * found['voice_to_voice_first_s']:.0f}, "
            f"{1000 * found['voice_to_voice_last_s']:.0f}, {1000 * found['voice_to_voice_new_s']:.0f} ms | alike |",
            f"| CPU time per turn, medians of the same | {found['cpu_first_s']:.2f}, {found['cpu_last_s']:.2f}, "
            f"{found['cpu_new_s']:.2f} s | alike |",
            f"| underruns | {found['underruns']} | |",
            "",
            "| minute | memory, MiB |",
            "|---|---|",
            *(f"| {at / 60:.0f} | {mib:.0f} |" for at, mib in shown),
            "",
        ]
    )


async def _converse(config: AppConfig, seconds: float) -> tuple[Soak, Soak]:
    assistant = await Assistant.load(config, lambda text: None)
    try:
        cases = built_in()
        return await hold(assistant, cases, seconds), await hold(assistant, cases, 0.0)
    finally:
        assistant.close()


def run(options: argparse.Namespace) -> int:
    """Converse, write the report, print it; 1 when memory grew or something was left behind."""
    if not 0.5 <= options.minutes <= 600:
        raise ConfigError(f"--minutes {options.minutes:g}: give a length from 0.5 to 600.")
    config = configuration(options)
    prepare_process(config)
    before, began = os.getloadavg(), time.perf_counter()
    found, afterwards = run_skipping(_converse(config, 60 * options.minutes))
    load = {"before": before, "after": os.getloadavg()}
    told = figures(found, afterwards)
    values = {
        "about": about(config, wall_s=time.perf_counter() - began, load=load),
        "figures": told,
        "memory": [[round(m.at), round(m.mib, 1)] for m in found.memory],
        "voice_to_voice_s": {**found.voice_to_voice_s, "new": afterwards.voice_to_voice_s["first"]},
        "cpu_s": {**found.cpu_s, "new": afterwards.cpu_s["first"]},
    }
    options.report.mkdir(parents=True, exist_ok=True)
    (options.report / "report.json").write_text(json.dumps(values) + "\n", encoding="utf-8")
    (options.report / "report.md").write_text(page(values), encoding="utf-8")
    sys.stdout.write(page(values))
    clean = not found.left_tasks and not found.left_threads
    return 0 if clean and told["memory_growth"] < GROWTH_LIMIT else 1
