"""`launch.py bench gpu --random-weights`: the full-size chain on one GPU, with nothing downloaded.

First every stage alone, then the voice alone and beside a language model that never rests, then conversations at once at the
pace of speech, on the threads of the assistant. Audible is what an energy detector finds in the samples
(-50 dBFS); the voice's own start, which the assistant mutes, is counted apart where it says so.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from app.about import about
from app.assemble import prepare_process
from app.bench.chain import SIZES, Chain, build
from app.bench.conversations import Turn, hold
from app.bench.decoder import timed
from app.bench.gpu_page import page
from app.bench.writer import WriterThread
from app.small.speed import TEXT
from app.trace import first_audible
from app.worker import VOICE_FIRST, use_stream
from configs.loader import DEFAULTS, load
from configs.schema import AppConfig, ConfigError
from tts.base import SAMPLE_RATE, PcmChunk
from tts.precision import resolve

ASR_HZ = 16_000
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx", "cudaGraphLaunch")
BUSY = 8  # conversations that the language model writes for without a rest
Stages = dict[str, Callable[[], Any]]


def run(options: argparse.Namespace) -> int:
    """Build, measure, write the report, print it."""
    config, levels = checked(options)
    prepare_process(config)
    torch.set_num_threads(config.runtime.num_threads)
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    graphs = on_gpu and options.graphs == "on"
    chain = build(
        SIZES[options.size], config.tts, device, num_conversations=max(*levels, BUSY), graphs=graphs, dtype=dtype
    )
    if options.streams == "own":
        use_stream(VOICE_FIRST)  # this thread is the voice's until the conversations begin
    told = about(
        config,
        size=options.size,
        device=torch.cuda.get_device_name() if on_gpu else "cpu",
        backend=config.tts.backend,
        dtype={"language model": str(dtype), "voice": str(resolve(config.tts.dtype, options.device))},
        graphs=graphs,
        weights="random",
        **{name: getattr(options, name) for name in ("streams", "question_s", "reply_tokens", "turns", "repeats")},
    )
    values = {"about": told, **measured(chain, config, options, levels, device)}
    options.report.mkdir(parents=True, exist_ok=True)
    (options.report / "report.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    (options.report / "report.md").write_text(page(values), encoding="utf-8")
    sys.stdout.write(page(values))
    return 0


def measured(
    chain: Chain, config: AppConfig, options: argparse.Namespace, levels: Sequence[int], device: torch.device
) -> dict[str, Any]:
    """All figures."""
    times: dict[str, Any] = {}
    counts: dict[str, int] = {}

    def time_stages(stages: Stages) -> None:
        for name, work in stages.items():
            times[name], counts[name] = alone(work, device, options.repeats), launches(work, device)

    time_stages(stages_of(chain, options, device))
    chain.synthesizer.warm_up()
    if chain.writer.has_graphs:
        time_stages(recorded_stages(chain, options, device))
    values: dict[str, Any] = {
        "weights_gib": chain.weights_gib,
        "stages": times,
        "launches": counts,
        "voice": voice(chain, options),
        "conversations": {},
    }
    for count in tqdm(levels, desc="conversations", disable=not sys.stderr.isatty()):
        turns = hold(
            chain,
            count,
            num_turns=options.turns,
            question=question(options),
            text=reply(chain, options),
            own_streams=options.streams == "own",
        )
        values["conversations"][str(count)] = summary(turns, config)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what the threads' streams have kept serves no others
    return {**values, "memory_gib": memory(device)}


def checked(options: argparse.Namespace) -> tuple[AppConfig, list[int]]:
    """The configuration and the numbers of conversations. Raises ConfigError."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device cuda: PyTorch finds no GPU here (see `python launch.py doctor`). Without one, `--size small --device cpu` "
            "runs the same code at reduced sizes."
        )
    try:
        levels = sorted({int(count) for count in options.concurrency.split(",")})
    except ValueError:
        levels = []
    if not levels or levels[0] < 1:
        raise ConfigError(f"--concurrency {options.concurrency}: give numbers from 1 on, as 1,2,4,8.")
    if min(options.turns, options.repeats, options.reply_tokens) < 1 or options.question_s <= 0:
        raise ConfigError("--turns, --repeats, --reply-tokens and --question-s: give numbers above 0.")
    settings = [f"tts.backend={options.backend}", f"runtime.device={options.device}", *options.settings]
    return load(options.config or DEFAULTS / "gpu.yaml", settings), levels


def question(options: argparse.Namespace) -> np.ndarray:
    """What a user says: noise, of which the recogniser makes words of its own."""
    count = round(options.question_s * ASR_HZ)
    return np.random.default_rng(0).normal(0, 0.05, count).astype(np.float32)


def reply(chain: Chain, options: argparse.Namespace) -> list[str]:
    """The text tokens of a reply."""
    return [text for _, text in chain.synthesizer.tokenize(TEXT)][: options.reply_tokens]


def stages_of(chain: Chain, options: argparse.Namespace, device: torch.device) -> Stages:
    """One run of each stage, as it is in the middle of a conversation."""
    config = chain.flow.config
    random = torch.Generator().manual_seed(0)
    size = config.chunk_tokens
    tokens = torch.randint(config.vocabulary_size, (1, size), generator=random).to(device)
    mel = (torch.randn(1, config.mel_bins, 2 * size, generator=random) - 6).to(device)
    spoken = Speaking(chain)
    flow_start = chain.synthesizer.default_voice.state
    vocoder_start = chain.vocoder.initial_state()

    def decode() -> torch.Tensor:
        state = flow_start.clone()
        state.pending = tokens[:, : config.lookahead_tokens]  # of the chunk before: one chunk is ready
        return chain.flow.step(tokens, state)

    @torch.inference_mode()
    def vocode() -> torch.Tensor:
        return chain.vocoder.stream(mel, vocoder_start.clone())

    return {
        f"recogniser, {options.question_s:g} s": partial(chain.recognizer.transcribe, question(options)),
        f"language model, first token ({chain.writer.config.num_new} new)": partial(chain.writer.begin, 0),
        "language model, next token": partial(chain.writer.step, 1, graph=False),
        "text to token, one step": spoken.step,
        f"flow decoder, one chunk ({size} tokens)": decode,
        f"vocoder, one chunk ({2 * size} frames)": vocode,
    }


def recorded_stages(chain: Chain, options: argparse.Namespace, device: torch.device) -> Stages:
    """Those of which there are CUDA graphs, by these."""
    stages = stages_of(chain, options, device)
    stages["language model, next token"] = partial(chain.writer.step, 1)
    kept = ("language model, next token", "text to token", "flow decoder")
    return {f"{name}, CUDA graphs": work for name, work in stages.items() if name.startswith(kept)}


class Speaking:
    """Steps of the text-to-token model, one utterance after the other."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._ids = [index for index, _ in chain.synthesizer.tokenize(TEXT)]
        self._decoder = self._begin()

    def _begin(self) -> Any:
        decoder = self._chain.begin(1.0, None)
        for index in self._ids:
            decoder.push(index)
        decoder.finish()
        return decoder

    def step(self) -> None:
        """The next step; begins anew after the last one."""
        if self._decoder.done:
            self._decoder = self._begin()
        self._decoder.step()


def alone(work: Callable[[], Any], device: torch.device, repeats: int) -> dict[str, float]:
    """Milliseconds of a stage with nothing beside it, after two runs that are not counted."""
    for _ in range(2):
        timed(device, work)
    times = [1000 * timed(device, work)[1] for _ in range(repeats)]
    return {"p50": float(np.percentile(times, 50)), "p95": float(np.percentile(times, 95))}


def launches(work: Callable[[], Any], device: torch.device) -> int:
    """Kernels and graphs that one run starts on a GPU; on a CPU, calls of torch's operators."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its notes are not for our users
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        timed(device, work)
    names = [event.name for event in profiler.events()]
    return sum(name in LAUNCHES if on_gpu else name.startswith("aten::") for name in names)


def voice(chain: Chain, options: argparse.Namespace) -> dict[str, Any]:
    """First sound, alone and beside a busy language model, and the real-time factor of a long reply."""
    found: dict[str, Any] = {"alone": firsts(chain, options.repeats)}
    writing = WriterThread(chain.writer, num_busy=BUSY, priority=0 if options.streams == "own" else None)
    began, before = time.perf_counter(), writing.num_steps
    found["busy"] = firsts(chain, options.repeats)
    found["busy_tokens_per_s"] = BUSY * (writing.num_steps - before) / (time.perf_counter() - began)
    writing.close()
    found["later_by"] = found["busy"]["p50"] / found["alone"]["p50"] - 1
    chunks = list(spoken(chain, [text for _, text in chain.synthesizer.tokenize(TEXT)][: 4 * options.reply_tokens]))
    seconds = sum(len(chunk.samples) for chunk, _ in chunks) / SAMPLE_RATE
    found["rtf"] = sum(ms for _, ms in chunks) / 1000 / seconds
    found["spoken_s"] = seconds
    return found


def firsts(chain: Chain, repeats: int) -> dict[str, float]:
    """From the second text token, the others at hand, to the first chunk of sound, in ms; and the silence at its beginning."""
    texts = [text for _, text in chain.synthesizer.tokenize(TEXT)]
    computed, silent = [], []
    for _ in range(repeats):
        stream = chain.synthesizer.stream(share_ids=False)
        stream.push(0, texts[0])
        while stream.step() is not None:
            pass
        began = time.perf_counter()
        for text in texts[1:]:
            stream.push(0, text)
            offset = next((found for made in _steps(stream) if (found := audible(made)) is not None), None)
            if offset is not None:
                computed.append(1000 * (time.perf_counter() - began))
                silent.append(1000 * offset / SAMPLE_RATE)
                break
    if not computed:
        raise ConfigError("the voice of random weights is silent: its first sound cannot be measured.")
    return {
        "p50": float(np.percentile(computed, 50)),
        "p95": float(np.percentile(computed, 95)),
        "silence_ms": statistics.median(silent),
    }


def _steps(stream: Any) -> Iterator[Any]:
    while (made := stream.step()) is not None:
        yield made


def audible(made: Any) -> int | None:
    """Where in a chunk sound begins, in samples; None for silence and for steps without sound."""
    return first_audible(made.samples) if isinstance(made, PcmChunk) and len(made.samples) else None


def spoken(chain: Chain, texts: Sequence[str]) -> Iterator[tuple[PcmChunk, float]]:
    """Chunks of a text that is all at hand, each with the milliseconds of computing since the one before."""
    stream = chain.synthesizer.stream(share_ids=False)
    for text in texts:
        stream.push(0, text)
    stream.finish()
    spent = 0.0
    for made in _steps(stream):
        spent += made.synth_ms
        if isinstance(made, PcmChunk):
            yield made, spent
            spent = 0.0


def summary(turns: Sequence[Turn], config: AppConfig) -> dict[str, Any]:
    """Percentiles of the turns of one number of conversations, in ms."""
    silence = config.asr.endpoint.complete_silence_ms

    def both(values: list[float]) -> dict[str, float]:
        return {"p50": float(np.percentile(values, 50)), "p95": float(np.percentile(values, 95))}

    stages = {name: both([asdict(turn)[name] for turn in turns]) for name in Turn.STAGES}
    return {
        "turns": len(turns),
        "decision_to_audible_ms": both([turn.first_audible_ms for turn in turns]),
        "voice_to_voice_ms": both([silence + turn.first_audible_ms for turn in turns]),
        "stages_ms": stages,
        "underruns_per_min": 60 * sum(turn.underruns for turn in turns) / sum(turn.spoken_s for turn in turns),
        "rtf": sum(turn.synthesis_s for turn in turns) / sum(turn.spoken_s for turn in turns),
    }


def memory(device: torch.device) -> dict[str, float]:
    """Peaks of this process."""
    found = {"resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if device.type == "cuda":
        found["gpu, allocated"] = torch.cuda.max_memory_allocated() / 2**30
        found["gpu, reserved"] = torch.cuda.max_memory_reserved() / 2**30
    return found
