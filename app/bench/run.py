"""`launch.py bench latency`: plays the cases to one or several assistants, reads the recordings, writes the report."""

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app.about import HostShare, about
from app.ask import peak_memory_gib
from app.assemble import prepare_process
from app.bench import baseline, cases, metrics, page, pauses, simulate, summary, words
from app.bench.acoustic import listen
from app.bench.cases import Case
from app.bench.gpu_time import GpuTime, gpu_busy
from app.bench.parts import Loader, Parts, Variant
from app.bench.simulate import Simulation
from app.bench.summary import Results
from app.bench.talk import Conversation, hold
from app.clock import run_skipping
from app.configuration import configuration, default_config
from app.trace import write_json
from audio_io.file import write_wav
from configs.loader import load
from configs.schema import ConfigError

if TYPE_CHECKING:
    from tqdm import tqdm

AGREE_S = 0.050  # simulated and real pace should not be further apart in the median
APART = 2  # cases between two assistants, so that no shared language model has the question in its cache


@dataclass(kw_only=True)
class Bench:
    """One run: what is played, on which clock, and where its files go."""

    folder: Path
    simulation: Simulation
    virtual: bool
    sessions: int
    repeats: int
    parts: dict[str, Parts] = field(default_factory=dict)  # assistant -> its parts

    def clocked(self, main: Coroutine[Any, Any, None]) -> None:
        """Run on the chosen clock."""
        if self.virtual:
            run_skipping(main, counts_work=not self.simulation.everything)
        else:
            asyncio.run(main)

    async def load(self, loader: Loader, results: Sequence[Results], report: Callable[[str], None]) -> None:
        """Load every assistant's models."""
        for found in results:
            self.parts[found.variant.name] = await loader.parts(found.variant.config, report)

    async def play(self, chosen: Sequence[Case], results: Sequence[Results], bar: "tqdm") -> None:
        """Every case to every assistant, alternately."""
        batches = [
            (repeat, chosen[begin : begin + self.sessions])
            for repeat in range(self.repeats)
            for begin in range(0, len(chosen), self.sessions)
        ]
        for step in range(len(batches)):
            for place, found in enumerate(results):
                repeat, batch = batches[(step + APART * place) % len(batches)]
                parts, cpu_s = self.parts[found.variant.name], time.process_time()
                with GpuTime(gpu_busy()) as gpu:
                    talks = await asyncio.gather(*(hold(parts, case) for case in batch))
                found.cpu_s.append(time.process_time() - cpu_s)
                if gpu.seconds is not None:
                    found.gpu_s.append(gpu.seconds)
                for talk in talks:
                    self._keep(talk, found, repeat)
                    bar.update()

    def _keep(self, talk: Conversation, found: Results, repeat: int) -> None:
        """Write the recording and the trace, and measure on what was written."""
        case, name = talk.case, found.variant.name
        stem = case.name if repeat == 0 else f"{case.name}.{repeat + 1}"
        recording = Path("recordings") / slug(name) / f"{stem}.wav"
        trace = Path("traces") / slug(name) / f"{stem}.json"
        for path in (recording, trace):
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_wav(self.folder / recording, talk.both, talk.rate)
        told = about(found.variant.config, case=case.name, simulated=self.simulation.to_json())
        write_json(self.folder / trace, list(talk.turns), told)
        heard = metrics.with_truth(case, listen(self.folder / recording))
        judged: list[bool | None] = [None] * len(talk.turns)
        if not self.simulation.language_model:
            judged = words.correct(talk)
        turns = metrics.turn_figures(talk, heard, name, repeat, cold=not found.turns, correct=judged)
        found.turns.extend(turns)
        found.manners.append(metrics.manners(talk, heard, name, repeat))
        for turn, marks in zip(turns, (t.marks for t in talk.turns), strict=True):
            found.files[turn.key] = {
                "recording": str(recording),
                "trace": str(trace),
                "last_voiced": marks.last_voiced,
                "first_audible": marks.first_audible_sample,
            }
        found.replies.extend(words.reply_audio(talk))


def run(options: argparse.Namespace) -> int:
    """Measure, write the report, print its table."""
    for name in ("sessions", "repeats", "limit"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}: give a number from 1 on.")
    simulation = simulate.parse(options.simulate)
    variants = assistants(options)
    before = baseline.read(options.baseline) if options.baseline else None
    chosen = chosen_cases(options.cases)[: options.limit]
    options.report.mkdir(parents=True, exist_ok=True)
    prepare_process(variants[0].config)
    bench = Bench(
        folder=options.report,
        simulation=simulation,
        virtual=options.virtual,
        sessions=options.sessions,
        repeats=options.repeats,
    )
    results = [Results(variant=variant) for variant in variants]
    loader = Loader(simulation, options.sessions)
    host = HostShare()
    try:
        measure(bench, loader, chosen, results)
        host_took = host.taken()
        check = compare_paces(bench, chosen, results[0], options.check) if options.virtual and options.check else None
        if options.wer and not simulation.speech:
            judge_speech(bench, results)
    finally:
        loader.close()
    values = report_values(bench, results, chosen, "built-in" if options.cases is None else str(options.cases))
    values["about"]["host_took"] = host_took
    values["check"] = check
    if before is not None:
        values["baseline"] = baseline.slower(values, before)
    write_report(options.report, values, results)
    return show(values, options.report)


def chosen_cases(wanted: Path | None) -> list[Case]:
    """The built-in set, the one with pauses, or a folder. Raises ConfigError, AudioFileError."""
    if wanted is None:
        return cases.built_in()
    return pauses.questions_with_pauses() if str(wanted) == pauses.NAME else cases.from_folder(wanted)


def measure(bench: Bench, loader: Loader, chosen: Sequence[Case], results: Sequence[Results]) -> None:
    """Load and play, with a progress bar."""
    from tqdm import tqdm

    with tqdm(total=len(chosen) * len(results) * bench.repeats, unit="conversation", desc="loading") as bar:
        bench.clocked(bench.load(loader, results, bar.set_description))
        bar.set_description("conversations")
        bench.clocked(bench.play(chosen, results, bar))


def compare_paces(bench: Bench, chosen: Sequence[Case], found: Results, number: int) -> dict[str, Any] | None:
    """Hold a few conversations at the pace of the audio too: the simulated clock must tell the same."""
    from tqdm import tqdm

    plain = [case for case in chosen if case.replies and case.interjection is None][:number]
    talks: list[Conversation] = []

    async def play() -> None:
        for case in tqdm(plain, desc="real pace", unit="conversation"):
            talks.append(await hold(bench.parts[found.variant.name], case))

    asyncio.run(play())
    real = {(t.case.name, i + 1): trace.voice_to_voice_s for t in talks for i, trace in enumerate(t.turns)}
    skipped = {(t.case, t.turn): t.trace_s for t in found.turns if t.repeat == 0}
    pairs = [(a, b) for key, a in real.items() if a is not None and (b := skipped.get(key)) is not None]
    return pace_verdict(pairs) if pairs else None


def pace_verdict(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Whether turns take as long at the real pace (first) as on the simulated clock (second); seconds."""
    apart = float(np.median([a - b for a, b in pairs]))
    agree = abs(apart) <= AGREE_S
    text = (
        f"{len(pairs)} turns held at the pace of the audio too: real pace {1000 * apart:+.0f} ms in the median; "
        + ("they agree" if agree else "THEY DISAGREE: trust the real pace")
        + f" (within {1000 * AGREE_S:.0f} ms)"
    )
    return {"turns": len(pairs), "apart_s": apart, "agree": agree, "text": text}


def judge_speech(bench: Bench, results: Sequence[Results]) -> None:
    """Word error rate of what was said, and of the same texts by `say`."""
    from tqdm import tqdm

    for found in results:
        parts, speed = bench.parts[found.variant.name], found.variant.config.tts.speed
        texts = [text for text, _ in found.replies][: words.MAX_JUDGED]
        whole = [
            (text, words.said_at_once(parts.synthesizer, parts.voice, speed, text))
            for text in tqdm(texts, desc="say", leave=False)
        ]
        found.words["reply"] = words.spoken_error_rate(found.replies, "judging replies")
        found.words["say"] = words.spoken_error_rate(whole, "judging say")


def assistants(options: argparse.Namespace) -> list[Variant]:
    """Which assistants a command line asks for. Raises ConfigError."""
    if options.compare and (options.sweep or options.config):
        raise ConfigError("--compare names all configurations: it goes with neither --sweep nor --config.")
    if options.compare:
        return compared(options.compare, options.settings)
    if options.sweep:
        key, equals, listed = options.sweep.partition("=")
        chosen = list(dict.fromkeys(value for value in listed.split(",") if value))
        if not equals or "." not in key or len(chosen) < 2:
            raise ConfigError(f"--sweep {options.sweep}: write section.key=v1,v2 with at least two values.")
        file = options.config or default_config()
        return [
            Variant(name=f"{key}={value}", config=load(file, [*options.settings, f"{key}={value}"])) for value in chosen
        ]
    return [Variant(name=(options.config or default_config()).stem, config=configuration(options))]


def compared(paths: Sequence[Path], settings: Sequence[str]) -> list[Variant]:
    """One assistant per configuration file, the reference first. Raises ConfigError."""
    told = " ".join(map(str, paths))
    if len(paths) < 2:
        raise ConfigError(f"--compare {told}: name at least two configuration files.")
    if len(set(paths)) < len(paths):
        raise ConfigError(f"--compare {told}: the same file twice; to see the noise use --repeats.")
    short = len({path.stem for path in paths}) == len(paths)
    return [Variant(name=path.stem if short else str(path), config=load(path, settings)) for path in paths]


def report_values(bench: Bench, results: Sequence[Results], chosen: Sequence[Case], name: str) -> dict[str, Any]:
    """Everything that the report says."""
    pace = (
        "simulated clock (waiting skipped, computing measured)" if bench.virtual else "real time, as from a microphone"
    )
    if bench.virtual and bench.simulation.everything:
        pace = "simulated clock, every stage a stand-in: nothing is measured"
    return summary.to_json(
        results,
        bench.simulation,
        {
            "pace": pace,
            "sessions": bench.sessions,
            "repeats": bench.repeats,
            "cases": len(chosen),
            "set": name,
            "peak_memory_gib": peak_memory_gib(),
            "gpu_peak_memory_gib": gpu_peak_memory_gib(),
        },
    )


def gpu_peak_memory_gib() -> float | None:
    """Most GPU memory that this process's torch held; None without a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return float(torch.cuda.max_memory_allocated()) / 2**30


def write_report(folder: Path, values: dict[str, Any], results: Sequence[Results]) -> None:
    """The three forms of the report, each whole or not at all."""
    for name, text in (
        ("report.json", json.dumps(values, indent=1) + "\n"),
        ("report.md", page.markdown(values)),
        ("report.html", page.page(values, results, folder)),
    ):
        part = folder / f".{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / name)


def show(values: dict[str, Any], folder: Path) -> int:
    """Print what matters; 1 when a turn failed or nothing was answered."""
    out = sys.stdout
    if page.simulated_line(values):
        out.write(f"{page.simulated_line(values)}\n")
    table = page.figures_table(values)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        out.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
    told = [*page.comparison_lines(values), *values.get("baseline", [])]
    told += [values["check"]["text"]] if values.get("check") else []
    for line in told:
        out.write(f"{line}\n")
    out.write(f"{folder / 'report.html'}, report.md, report.json, recordings/, traces/\n")
    for line in page.problem_lines(values):
        sys.stderr.write(f"{line}\n")
    turns = [turn for variant in values["variants"].values() for turn in variant["turns"]]
    if not any(turn["voice_to_voice_s"] is not None for turn in turns):
        sys.stderr.write("bench latency: no case was answered with a sound; there is nothing to report.\n")
        return 1
    return 1 if any(turn["error"] for turn in turns) else 0


def slug(name: str) -> str:
    """A name as a folder's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)
