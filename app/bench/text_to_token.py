"""`launch.py bench tts`: the text-to-token models on the same texts, one after the other on every text.

The stage from text to speech tokens is timed. FPL, first packet latency: until there are as many speech tokens as the
decoder takes at once. FPL-A has all text at hand; FPL-L has a text token of the language model every 25 ms (SyncSpeech,
2502.11094, appendix B: what it waits for before its first step, plus its own time) and, pipelined, with text that goes on
arriving while the model speaks, which is what a listener waits for. Decoder and vocoder cost the same for every model: they
are timed once in the same run, on speech tokens of the same texts, and added for the whole synthesiser.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import tts
from app.about import about
from app.assemble import prepare_process
from app.bench.contestants import BASELINE, NUM_NODES, PAPER, SPEECH_PER_TEXT, TMT, VADUSA, Contestant, Field, entered
from app.bench.listening import Listening, decoding_cost
from app.bench.memory import peak_mib
from app.bench.text_to_token_page import drawings, page
from app.configuration import configuration
from app.needs import located
from app.small.judges import error_rate
from configs.schema import AppConfig, ConfigError
from tts.base import TOKEN_HZ
from tts.decoder.config import FlowConfig
from tts.decoder.flow import FlowDecoder
from tts.decoder.vocoder import Vocoder, VocoderConfig
from tts.interleaved.decode import InterleavedDecoder
from tts.precision import weight_bytes
from tts.text import SpokenStream
from tts.tmt.model import Tmt
from tts.vocabulary import TextVocabulary

TEXT_TOKEN_S = 0.025  # between two tokens of the language model (the paper's: 7 billion parameters on an A800)
CHUNK = 15  # speech tokens that the decoder takes at once
TEXT_LENGTHS = (10, 47)  # text tokens of a text, 28 on average
LONG_S, LONG_FULL_CPU_S = 60.0, 15.0  # of the long reply; the paper's mask pays with its square
WINDOW_S = 10.0
CURVE_S = 2.0  # of the long reply: a point of the curve of its cost
WARM_UP = 8  # text tokens
NUM_DECODED = 5  # texts on which decoder and vocoder are timed


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
    tokens: np.ndarray  # all speech tokens

    @property
    def speech_s(self) -> float:
        """Seconds of speech."""
        return sum(step.num_tokens for step in self.steps) / TOKEN_HZ

    @property
    def seconds(self) -> float:
        """Seconds of computing."""
        return sum(step.seconds for step in self.steps)


def play(contestant: Contestant, text: Sequence[int] | np.ndarray, seed: int) -> Played:
    """Speak a text; each token is handed over when the model cannot go on without it, the last one with the text's end.

    To a model that is made for text ahead of the speech all of it is handed over at once.
    """
    decoder = contestant.begin(seed)
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    hook = contestant.model.register_forward_hook(count)
    steps: list[Step] = []
    tokens: list[np.ndarray] = [np.zeros(0, np.int64)]
    given = 0
    while not decoder.done:
        began = time.perf_counter()
        block = None if contestant.ahead and given < len(text) else decoder.step()
        spent = time.perf_counter() - began
        if block is not None:
            steps.append(Step(given, spent, len(block.tokens)))
            tokens.append(block.tokens)
            continue
        decoder.push(int(text[given]))
        given += 1
        if given == len(text):
            decoder.finish()
    hook.remove()
    drafts = (
        (decoder.state.num_drafted, decoder.state.num_accepted) if isinstance(decoder, InterleavedDecoder) else (0, 0)
    )
    cache = decoder.state.keys.nbytes + decoder.state.values.nbytes
    return Played(steps, passes, *drafts, cache, np.concatenate(tokens))


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


def figures(
    contestant: Contestant, played: Sequence[Played], long: Played, working_mib: float | None
) -> dict[str, Any]:
    """All that is reported of a contestant; times in milliseconds.

    Args:
        contestant: whose figures.
        played: the texts.
        long: the long reply.
        working_mib: by how much the memory grew while it was spoken.
    """
    speech = sum(one.speech_s for one in played)
    passes = sum(one.num_passes for one in played)
    modules = [module for module in (contestant.model, contestant.heads) if module is not None]
    weights = sum(map(weight_bytes, modules)) / 2**20
    cached = contestant.name != PAPER

    def latency(text_token_s: float, pipelined: bool) -> float | None:
        if text_token_s and contestant.ahead:
            return None
        return 1000 * float(np.mean([first_packet(one.steps, text_token_s, pipelined=pipelined) for one in played]))

    return {
        "rtf": sum(one.seconds for one in played) / speech,
        "fpl_a_ms": latency(0.0, False),
        "fpl_l_paper_ms": latency(TEXT_TOKEN_S, False),
        "fpl_l_pipelined_ms": latency(TEXT_TOKEN_S, True),
        "passes": passes,
        "pass_ms": 1000 * sum(one.seconds for one in played) / passes,
        "tokens_per_pass": speech * TOKEN_HZ / passes,
        "accepted": sum(one.num_accepted for one in played) / max(1, sum(one.num_drafted for one in played)),
        "early_ms_per_s": 1000 * window_cost(long.steps, 1.0, 1.0 + WINDOW_S),
        "late_ms_per_s": 1000 * window_cost(long.steps, long.speech_s - WINDOW_S, long.speech_s),
        "long_reply_s": long.speech_s,
        "weights_mib": weights,
        "cache_mib": long.cache_bytes / 2**20 if cached else 0.0,
        "peak_mib": None if working_mib is None else weights + working_mib,
        "speech_s": speech,
    }


@dataclass(frozen=True)
class Measured:
    """All contestants on the same texts."""

    figures: dict[str, dict[str, Any]]
    curves: dict[str, list[list[float]]]  # of the long reply: (second, computing ms per second of speech)
    spoken: Sequence[np.ndarray]  # speech tokens of the texts, by the model with durations


def measure(field: Field, num_texts: int, long_s: float, device: torch.device) -> Measured:
    """Every contestant speaks every text and a long reply."""
    lengths = np.random.default_rng(1).integers(*TEXT_LENGTHS, num_texts)
    ends = np.cumsum(lengths)
    texts = [
        np.take(field.text, range(end - length, end), mode="wrap") for end, length in zip(ends, lengths, strict=True)
    ]
    long = np.take(field.text, range(round(long_s * TOKEN_HZ / SPEECH_PER_TEXT)), mode="wrap")
    played: dict[str, list[Played]] = {contestant.name: [] for contestant in field.contestants}
    for contestant in field.contestants:  # so that no one pays for what is done once
        play(contestant, texts[0][:WARM_UP], 0)
    for seed, text in enumerate(tqdm(texts, desc="texts", disable=not sys.stderr.isatty())):
        for contestant in field.contestants:
            played[contestant.name].append(play(contestant, text, seed))
    found, curves = {}, {}
    for contestant in tqdm(field.contestants, desc="long reply", disable=not sys.stderr.isatty()):
        whole, working_mib = peak_mib(device, partial(play, contestant, long, 0))
        found[contestant.name] = figures(contestant, played[contestant.name], whole, working_mib)
        curves[contestant.name] = [
            [at + CURVE_S, 1000 * window_cost(whole.steps, at, at + CURVE_S)]
            for at in np.arange(0.0, whole.speech_s - CURVE_S, CURVE_S).tolist()
        ]
    return Measured(found, curves, [one.tokens for one in played[TMT]])


def decoder_rtf(size: str, config: AppConfig, device: torch.device, spoken: Sequence[np.ndarray]) -> float | None:
    """Seconds of decoder and vocoder per second of speech; None at full size on a CPU, where they take too long."""
    chosen = located(config, "tts").tts
    if size == "small":
        flow, vocoder = tts.load_flow(chosen, str(device)), tts.load_vocoder(chosen, str(device))
        return decoding_cost(flow, vocoder, spoken, chosen.num_flow_steps)
    if device.type == "cpu":
        return None
    torch.manual_seed(1)
    full = FlowDecoder(FlowConfig()).eval().requires_grad_(False).to(device)
    vocoder = Vocoder(VocoderConfig()).eval().requires_grad_(False).to(device)
    return decoding_cost(full, vocoder, spoken, full.config.num_flow_steps)


def judge(field: Field, config: AppConfig, count: int) -> dict[str, dict[str, float]]:
    """Word error rates of held-out sentences, the same for every contestant whose weights were trained for it."""
    from app.small.corpus import held_out_sentences

    vocabulary = field.vocabulary
    if vocabulary is None:
        raise ConfigError(
            "--words needs trained weights of all models: `python launch.py train small interleaved vadusa`, and "
            "--size small."
        )
    sentences = held_out_sentences()[:count]
    judged = [contestant for contestant in field.contestants if contestant.judged]
    heard = {}
    with Listening(config) as listening:
        for contestant in judged:
            heard[contestant.name] = [
                listening.tokens(play(contestant, token_ids(text, vocabulary, config.tts.language), seed).tokens)
                for seed, text in enumerate(tqdm(sentences, desc=contestant.name, disable=not sys.stderr.isatty()))
            ]
        return {
            name: asdict(error_rate(sentences, [future.result() for future in futures]))
            for name, futures in heard.items()
        }


def token_ids(text: str, vocabulary: TextVocabulary, language: str) -> list[int]:
    """Text tokens of the spoken form of a text."""
    stream = SpokenStream(vocabulary.encode, share_ids=False, language=language)
    return [token.id for token in (*stream.push(0, text), *stream.finish())]


def ratios(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """How many times one is better than the other."""
    plain, drafted, paper, tmt = found[BASELINE], found[VADUSA], found[PAPER], found[TMT]
    return {
        "rtf_interleaved_over_tmt": plain["rtf"] / tmt["rtf"],
        "fpl_a_interleaved_over_tmt": plain["fpl_a_ms"] / tmt["fpl_a_ms"],
        "rtf_interleaved_over_vadusa": plain["rtf"] / drafted["rtf"],
        "rtf_tmt_paper_over_prefix": paper["rtf"] / tmt["rtf"],
        **{
            f"rtf_interleaved_over_{name}": plain["rtf"] / one["rtf"]
            for name, one in found.items()
            if name.startswith(f"{TMT},")
        },
    }


def check(options: argparse.Namespace) -> None:
    """Raises ConfigError for options that cannot be."""
    if min(options.grid or [1]) < 1:
        raise ConfigError("--grid: a tree has at least 1 node.")
    for name, least in (("texts", 1), ("words", 0)):
        if getattr(options, name) < least:
            raise ConfigError(f"--{name} {getattr(options, name)}: give a number from {least} on.")
    if options.long is not None and not 2 * CURVE_S <= options.long <= 600.0:
        raise ConfigError(f"--long {options.long:g}: give a length from {2 * CURVE_S:g} to 600 seconds.")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no GPU here (see `python launch.py doctor`).")


def run(options: argparse.Namespace) -> int:
    """Measure, write the report, print its tables."""
    check(options)
    config = configuration(options)
    prepare_process(config)
    torch.set_num_threads(config.runtime.num_threads)
    device = torch.device(options.device)
    grid = NUM_NODES if options.grid == [] else options.grid or ()
    field = entered(options.size, device, config.tts, grid=grid, paper=options.paper)
    words = judge(field, config, options.words) if options.words else {}
    long_s = options.long or (LONG_FULL_CPU_S if (options.size, options.device) == ("full", "cpu") else LONG_S)
    measured = measure(field, options.texts, long_s, device)
    decoding = decoder_rtf(options.size, config, device, measured.spoken[:NUM_DECODED])
    for name, found in measured.figures.items():
        found["rtf_whole"] = None if decoding is None else found["rtf"] + decoding
        found["word_error_rate"] = words[name]["rate"] if name in words else None
    values = {
        "about": about(
            config,
            size=options.size,
            device=torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
            dtype=str(next(field.contestants[0].model.parameters()).dtype).removeprefix("torch."),
            threads=config.runtime.num_threads,
            num_texts=options.texts,
            weights="trained weights" if field.trained else "random weights, lengths and accepted drafts arranged",
            num_nodes=field.num_nodes,
            paper_weights="its own" if options.paper else "those of the prefix mask",
            windows={c.model.config.mask: c.model.config.window for c in field.contestants if isinstance(c.model, Tmt)},
            decoder_rtf=decoding,
        ),
        "figures": measured.figures,
        "ratios": ratios(measured.figures),
        "words": words,
        "curves": measured.curves,
    }
    options.report.mkdir(parents=True, exist_ok=True)
    for name, text in (("json", json.dumps(values, indent=1) + "\n"), ("md", page(values)), ("html", drawings(values))):
        (options.report / f"report.{name}").write_text(text, encoding="utf-8")
    sys.stdout.write(page(values))
    return 0
