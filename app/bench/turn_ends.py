"""`launch.py bench pauses`: the recogniser alone listens to questions with a pause inside. Is the user let finish, and how
long does he wait at the end?

Nothing is timed: everything is read off the sample clock, on which the recogniser decides, so that any machine gets the same.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from app.about import about
from app.assemble import build_recognizer, prepare_process
from app.bench.cases import CLIP_HZ, Case
from app.bench.metrics import Estimate, estimate, mean, p50, p90
from app.bench.pauses import questions_with_pauses
from app.bench.simulate import Simulation
from app.bench.summary import weights
from app.configuration import configuration
from asr import hears_turn_ends, turn_end, turn_sound
from asr.base import FinalTranscript, Recognizer
from configs.schema import AppConfig, ConfigError

FRAME = CLIP_HZ // 50
SILENCE_S = 2.0  # after a recording: longer than any wait


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What came of a case."""

    case: str
    said: str
    turns: tuple[str, ...]  # as recognised
    pause_s: float
    cut_off: bool  # a turn was taken for over before the user had ended
    wait_s: float | None  # last voice of the user -> the decision that his turn is over; None after a cut-off


def listen(recognizer: Recognizer, case: Case) -> Heard:
    """Play a case to the recogniser, frame by frame as a microphone would."""
    samples = np.concatenate([case.samples, np.zeros(round(SILENCE_S * CLIP_HZ), np.float32)])
    stream = recognizer.stream()
    events = [e for at in range(0, len(samples), FRAME) for e in stream.push(samples[at : at + FRAME])]
    turns = [e for e in (*events, *stream.finish()) if isinstance(e, FinalTranscript)]
    ends = max(span.end for span in case.voiced)
    decided = [turn.decided_at / CLIP_HZ for turn in turns]
    cut_off = any(at < ends for at in decided)
    return Heard(
        case=case.name,
        said=case.text,
        turns=tuple(turn.text for turn in turns),
        pause_s=round(sum(end - begin for begin, end in case.pauses), 3),
        cut_off=cut_off,
        wait_s=None if cut_off or not decided else round(decided[0] - ends, 4),
    )


def figures(found: Sequence[Heard]) -> dict[str, Estimate | None]:
    """Share of false cut-offs, and the wait of those who were let finish, in seconds."""
    waits = [heard.wait_s for heard in found if heard.wait_s is not None]
    return {
        "false cut-offs": estimate([float(heard.cut_off) for heard in found], mean),
        "wait, mean": estimate(waits, mean),
        "wait, median": estimate(waits, p50),
        "wait, 90th percentile": estimate(waits, p90),
    }


def page(values: dict[str, Any]) -> str:
    """The report for people."""
    run = values["about"]
    lines = [
        "# Questions with a pause inside: the end of the turn",
        "",
        f"- {run['cases']} questions, part {run['part']} (`app/bench/pauses.py`), with a pause of 0.3 to 0.8 s between two "
        "words, made from synthetic speech.",
        "- The recogniser alone, on the sample clock: computing is not counted, and no figure depends on the machine.",
        f"- Weights: {', '.join(f'{key} {value}' for key, value in run['weights'].items())}.",
        f"- Silences, ms: {', '.join(f'{key} {value}' for key, value in run['silences'].items())}.",
        "- Intervals: 95 % bootstrap over questions.",
        "",
        "| figure | |",
        "|---|---|",
    ]
    for name, value in values["figures"].items():
        if value is None:
            continue
        scale, unit = (100, " %") if name == "false cut-offs" else (1000, " ms")
        low, middle, high = (scale * value[key] for key in ("low", "value", "high"))
        lines.append(f"| {name} | {middle:.{int(scale == 100)}f}{unit} ({low:.0f}-{high:.0f}, n={value['count']}) |")
    cut = [case for case in values["cases"] if case["cut_off"]]
    if cut:
        lines += ["", "| cut off | said | taken for whole | pause, ms |", "|---|---|---|---|"]
        lines += [f"| {c['case']} | {c['said']} | {c['turns'][0]} | {1000 * c['pause_s']:.0f} |" for c in cut]
    return "\n".join([*lines, ""])


def run(options: argparse.Namespace) -> int:
    """Listen, write the report, print it."""
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit {options.limit}: give a number from 1 on.")
    config = configuration(options)
    prepare_process(config)
    recognizer = build_recognizer(config)
    cases = questions_with_pauses(options.part)[: options.limit]
    found = [listen(recognizer, case) for case in tqdm(cases, unit="question", disable=not sys.stderr.isatty())]
    values = {
        "about": about(config, part=options.part, cases=len(found), weights=ears(config), silences=silences(config)),
        "figures": {name: None if value is None else asdict(value) for name, value in figures(found).items()},
        "cases": [asdict(heard) for heard in found],
    }
    write(options.report, values)
    sys.stdout.write(page(values))
    return 0


def ears(config: AppConfig) -> dict[str, str]:
    """Which weights listened."""
    heard = {key: value for key, value in weights(config, Simulation()).items() if key in ("asr.model", "asr.backend")}
    files = {"turn_end": ("bundled", turn_end.ASSETS / "weights.json")}
    chosen = config.asr.endpoint.smart_turn
    if hears_turn_ends(config.asr):
        own = ("bundled", turn_sound.ASSETS / "model.safetensors")
        files["turn_sound"] = ("Smart Turn", Path(chosen).expanduser()) if chosen else own
    judges = {
        name: f"{whose} {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}" for name, (whose, file) in files.items()
    }
    return {**heard, **judges}


def silences(config: AppConfig) -> dict[str, int]:
    """How long they had to be."""
    endpoint = config.asr.endpoint
    return {
        "complete": endpoint.complete_silence_ms,
        "probable": endpoint.probable_silence_ms,
        "unknown": endpoint.min_silence_ms,
        "incomplete": endpoint.incomplete_silence_ms,
    }


def write(folder: Path, values: dict[str, Any]) -> None:
    """`report.md` and `report.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(page(values), encoding="utf-8")
