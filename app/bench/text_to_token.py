"""`launch.py bench tts`: the text-to-token models on the same texts, one after the other on every text.

Only the stage from text to speech tokens is timed. FPL, first packet latency: until there are as many speech tokens as the
decoder takes at once. FPL-A has all text at hand; FPL-L has a text token of the language model every 25 ms (SyncSpeech,
2502.11094, appendix B: what it waits for before its first step, plus its own time) and, pipelined, with text that goes on
arriving while the model speaks, which is what a listener waits for.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from app.about import about
from app.assemble import prepare_process
from app.bench.contestants import BASELINE, TMT, VADUSA, Contestant, Field, entered
from app.cli import configuration
from configs.schema import ConfigError
from tts.base import TOKEN_HZ
from tts.interleaved.decode import InterleavedDecoder

TEXT_TOKEN_S = 0.025  # between two tokens of the language model (the paper's: 7 billion parameters on an A800)
CHUNK = 15  # speech tokens that the decoder takes at once
TEXT_LENGTHS = (10, 47)  # text tokens of a text, 28 on average
LONG_TEXT = 240  # text tokens of the long reply: about a minute
WINDOW_S = 10.0


@dataclass(frozen=True)
class Step:
    """One step of a model."""

    num_text: int  # text tokens that it had to have, from the beginning
    seconds: float
    num_tokens: int


@dataclass(frozen=True)
class Played:
    """One text."""

    steps: Sequence[Step]
    num_passes: int
    num_drafted: int  # passes with drafts
    num_accepted: int  # drafts that were kept
    cache_bytes: int

    @property
    def speech_s(self) -> float:
        """Seconds of speech."""
        return sum(step.num_tokens for step in self.steps) / TOKEN_HZ

    @property
    def seconds(self) -> float:
        """Seconds of computing."""
        return sum(step.seconds for step in self.steps)


def play(contestant: Contestant, text: Sequence[int] | np.ndarray, seed: int) -> Played:
    """Speak a text; each token is handed over when the model cannot go on without it, the last one with the text's end."""
    decoder = contestant.begin(seed)
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    hook = contestant.model.register_forward_hook(count)
    steps: list[Step] = []
    given = 0
    while not decoder.done:
        began = time.perf_counter()
        block = decoder.step()
        spent = time.perf_counter() - began
        if block is not None:
            steps.append(Step(given, spent, len(block.tokens)))
            continue
        decoder.push(int(text[given]))
        given += 1
        if given == len(text):
            decoder.finish()
    hook.remove()
    drafts = (
        (decoder.state.num_drafted, decoder.state.num_accepted) if isinstance(decoder, InterleavedDecoder) else (0, 0)
    )
    return Played(steps, passes, *drafts, decoder.state.keys.nbytes + decoder.state.values.nbytes)


def first_packet(steps: Sequence[Step], text_token_s: float, *, pipelined: bool) -> float:
    """Seconds until `CHUNK` speech tokens are there (or all of a shorter speech).

    Args:
        steps: of one text.
        text_token_s: between two text tokens.
        pipelined: later steps wait for their text too; else only the first one does, as the paper has it.
    """
    now, spoken = 0.0, 0
    for number, step in enumerate(steps):
        if pipelined or not number:
            now = max(now, step.num_text * text_token_s)
        now += step.seconds
        spoken += step.num_tokens
        if spoken >= CHUNK:
            break
    return now


def window_cost(steps: Sequence[Step], start_s: float, end_s: float) -> float:
    """Computing seconds per second of speech between two times of the speech."""
    at = speech = compute = 0.0
    for step in steps:
        length = step.num_tokens / TOKEN_HZ
        if start_s <= at < end_s:
            speech, compute = speech + length, compute + step.seconds
        at += length
    return compute / speech if speech else float("nan")


def figures(contestant: Contestant, played: Sequence[Played], long: Played) -> dict[str, float]:
    """All that is reported of a contestant; times in milliseconds."""
    speech = sum(one.speech_s for one in played)
    passes = sum(one.num_passes for one in played)
    weights = {id(weight): weight.nbytes for weight in contestant.model.parameters()}

    def latency(text_token_s: float, pipelined: bool) -> float:
        return 1000 * float(np.mean([first_packet(one.steps, text_token_s, pipelined=pipelined) for one in played]))

    return {
        "rtf": sum(one.seconds for one in played) / speech,
        "fpl_a_ms": latency(0.0, False),
        "fpl_l_paper_ms": latency(TEXT_TOKEN_S, False),
        "fpl_l_pipelined_ms": latency(TEXT_TOKEN_S, True),
        "pass_ms": 1000 * sum(one.seconds for one in played) / passes,
        "passes": passes,
        "tokens_per_pass": speech * TOKEN_HZ / passes,
        "accepted": sum(one.num_accepted for one in played) / max(1, sum(one.num_drafted for one in played)),
        "early_ms_per_s": 1000 * window_cost(long.steps, 1.0, 1.0 + WINDOW_S),
        "late_ms_per_s": 1000 * window_cost(long.steps, long.speech_s - WINDOW_S, long.speech_s),
        "long_reply_s": long.speech_s,
        "weights_mib": sum(weights.values()) / 2**20,
        "cache_mib": long.cache_bytes / 2**20,
        "speech_s": speech,
    }


def measure(field: Field, num_texts: int) -> dict[str, dict[str, float]]:
    """Figures of every contestant."""
    lengths = np.random.default_rng(1).integers(*TEXT_LENGTHS, num_texts)
    ends = np.cumsum(lengths)
    texts = [
        np.take(field.text, range(end - length, end), mode="wrap") for end, length in zip(ends, lengths, strict=True)
    ]
    long = np.take(field.text, range(LONG_TEXT), mode="wrap")
    played: dict[str, list[Played]] = {contestant.name: [] for contestant in field.contestants}
    for contestant in field.contestants:  # so that no one pays for what is done once
        play(contestant, texts[0], 0)
    for seed, text in enumerate(tqdm(texts, desc="texts", disable=not sys.stderr.isatty())):
        for contestant in field.contestants:
            played[contestant.name].append(play(contestant, text, seed))
    return {
        contestant.name: figures(contestant, played[contestant.name], play(contestant, long, 0))
        for contestant in field.contestants
    }


def ratios(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """How many times one is better than the other."""
    plain, drafted, tmt = found[BASELINE], found[VADUSA], found[TMT]
    return {
        "rtf_interleaved_over_tmt": plain["rtf"] / tmt["rtf"],
        "fpl_a_interleaved_over_tmt": plain["fpl_a_ms"] / tmt["fpl_a_ms"],
        "rtf_interleaved_over_vadusa": plain["rtf"] / drafted["rtf"],
    }


COLUMNS = {
    "rtf": ("real-time factor", ".3f"),
    "fpl_a_ms": ("FPL-A, ms", ".0f"),
    "fpl_l_paper_ms": ("FPL-L as in the paper, ms", ".0f"),
    "fpl_l_pipelined_ms": ("FPL-L pipelined, ms", ".0f"),
    "pass_ms": ("ms per pass", ".1f"),
    "tokens_per_pass": ("speech tokens per pass", ".2f"),
    "accepted": ("drafts accepted per pass with drafts", ".2f"),
    "early_ms_per_s": ("ms per second, seconds 1-11 of a long reply", ".0f"),
    "late_ms_per_s": ("its last ten seconds", ".0f"),
    "weights_mib": ("weights, MiB", ".0f"),
    "cache_mib": ("cache of the long reply, MiB", ".0f"),
}


def page(values: dict[str, Any]) -> str:
    """The report for people."""
    rows = [f"| model | {' | '.join(title for title, _ in COLUMNS.values())} |", f"|{'---|' * (1 + len(COLUMNS))}"]
    for name, found in values["figures"].items():
        rows.append(f"| {name} | {' | '.join(format(found[key], form) for key, (_, form) in COLUMNS.items())} |")
    better = [f"| {name} | {value:.2f} |" for name, value in values["ratios"].items()]
    run = values["about"]
    return "\n".join(
        [
            f"# Text to speech tokens, {run['size']} size",
            "",
            f"{run['machine']}, {run['device']}, {run['threads']} thread(s), {run['num_texts']} texts, {run['weights']}.",
            "",
            *rows,
            "",
            "| ratio | |",
            "|---|---|",
            *better,
            "",
        ]
    )


def run(options: argparse.Namespace) -> int:
    """Measure, write the report, print its tables."""
    if options.texts < 1:
        raise ConfigError(f"--texts {options.texts}: give a number from 1 on.")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no GPU here (see `python launch.py doctor`).")
    config = configuration(options)
    prepare_process(config)
    torch.set_num_threads(config.runtime.num_threads)
    field = entered(options.size, torch.device(options.device), config.tts, grid=options.grid)
    found = measure(field, options.texts)
    told = about(
        config,
        size=options.size,
        device=torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        threads=config.runtime.num_threads,
        num_texts=options.texts,
        weights="trained weights" if field.trained else "random weights, lengths and accepted drafts arranged",
    )
    values = {"about": told, "figures": found, "ratios": ratios(found)}
    options.report.mkdir(parents=True, exist_ok=True)
    (options.report / "report.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    (options.report / "report.md").write_text(page(values), encoding="utf-8")
    sys.stdout.write(page(values))
    return 0
