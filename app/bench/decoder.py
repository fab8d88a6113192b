"""`launch.py bench decoder`: a long reply through the flow decoder with its caches, and by computing all anew at each chunk.

Computing anew is what the public streaming decoder does: at every chunk the prompt and all speech tokens so far go through
encoder and estimator, and only the newest mel frames are kept. Both ways take turns chunk by chunk in one run and give the
same mel. The vocoder is not counted, it has a cache in both. What the caches cost is memory, which is counted too.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from app.about import about
from app.assemble import prepare_process
from app.configuration import configuration
from configs.schema import ConfigError, TtsConfig
from tts.base import MEL_HZ, TOKEN_HZ
from tts.decoder.config import FlowConfig
from tts.decoder.flow import FlowDecoder
from tts.decoder.flow_state import FlowState

PROMPT_S = 4.0  # of the reference recording
CACHED, ANEW = "caches", "all anew"
_MIB = 2**20


@dataclass(frozen=True)
class Chunk:
    """One chunk of the reply, decoded both ways."""

    end_s: float  # of the reply
    seconds: dict[str, float]  # computing time of each way
    difference: float  # largest, of the log mel


@dataclass(frozen=True)
class Memory:
    """What the keys and values of one voice that speaks take, in MiB of 2**20 bytes."""

    per_second: float  # of one second of speech, prompt or reply, while attention keeps it
    kept: float  # of all that attention keeps after the reply
    allocated: float  # by then, with the room that is kept for what follows


def memory(state: FlowState) -> Memory:
    """Of a state that has decoded something; its other tensors have fixed sizes, and small ones."""
    per_second = kept = allocated = 0
    at_tokens = len(state.encoder.blocks)
    for place, cache in enumerate(state.caches()):
        rate = TOKEN_HZ if place < at_tokens else MEL_HZ
        both = (cache.keys, cache.values)
        of_frame = sum(tensor[:, :, :1].numel() * tensor.element_size() for tensor in both)
        per_second += rate * of_frame
        kept += len(cache) * of_frame
        allocated += sum(tensor.nbytes for tensor in both)
    return Memory(per_second / _MIB, kept / _MIB, allocated / _MIB)


@torch.inference_mode()
def play(flow: FlowDecoder, seconds: float, *, show_bar: bool = False) -> tuple[list[Chunk], Memory]:
    """Decode a reply of random speech tokens behind a random prompt, whole chunks only."""
    size, lookahead = flow.config.chunk_tokens, flow.config.lookahead_tokens
    count = max(1, round(seconds * TOKEN_HZ / size)) * size
    speaker, before, mel = prompt(flow)
    device, prompted = before.device, before.shape[1]
    random = torch.Generator().manual_seed(2)
    reply = torch.randint(flow.config.vocabulary_size, (1, count + lookahead), generator=random).to(device)
    ids = torch.cat([before, reply], dim=1)
    state = flow.start(speaker, before, mel, cut_prompt=False)
    flow.step(reply[:, :lookahead], state)  # the last chunk of the prompt: once per voice
    chunks = []
    for end in tqdm(range(size, count + 1, size), desc="chunks", disable=not show_bar):
        given = ids[:, prompted : prompted + end + lookahead]
        cached, cached_s = timed(device, partial(flow.step, given[:, -size:], state))
        anew, anew_s = timed(device, partial(flow.generate, given, speaker, before, mel, final=False))
        difference = float((cached - anew[:, :, -2 * size :]).abs().max())
        chunks.append(Chunk(end / TOKEN_HZ, {CACHED: cached_s, ANEW: anew_s}, difference))
    return chunks, memory(state)


def prompt(flow: FlowDecoder) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A random voice: speaker vector (1, E), whole chunks of speech tokens (1, S), their mel (1, M, 2 S)."""
    config, device = flow.config, flow.encoder_proj.weight.device
    random = torch.Generator().manual_seed(1)
    count = max(1, round(PROMPT_S * TOKEN_HZ / config.chunk_tokens)) * config.chunk_tokens
    ids = torch.randint(config.vocabulary_size, (1, count), generator=random)
    mel = config.mel_mean + config.mel_scale * torch.randn(1, config.mel_bins, 2 * count, generator=random)
    speaker = torch.randn(1, config.speaker_width, generator=random)
    return speaker.to(device), ids.to(device), mel.to(device)


def timed(device: torch.device, work: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
    """What `work` gives, and the seconds that it took; a GPU has finished then."""
    began = time.perf_counter()
    made = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return made, time.perf_counter() - began


def ratios(chunks: list[Chunk]) -> dict[str, float]:
    """How many times computing anew costs more, and how the cost of a chunk grows from the first to the last fifth."""
    some = max(1, len(chunks) // 5)

    def growth(way: str) -> float:
        spent = [chunk.seconds[way] for chunk in chunks]
        return float(np.median(spent[-some:]) / np.median(spent[:some]))

    total = {way: sum(chunk.seconds[way] for chunk in chunks) for way in (CACHED, ANEW)}
    return {
        "anew_over_cached": total[ANEW] / total[CACHED],
        "last_over_first_cached": growth(CACHED),
        "last_over_first_anew": growth(ANEW),
    }


def page(values: dict[str, Any]) -> str:
    """The report for people."""
    run, chunks, held = values["about"], values["chunks"], values["memory"]
    shown = chunks[:: max(1, len(chunks) // 6)]
    return "\n".join(
        [
            f"# Flow decoder over a reply of {run['seconds']:.0f} s, {run['size']} size",
            "",
            f"{run['machine']}, {run['device']}, {run['threads']} thread(s), {run['weights']}; the vocoder is not counted.",
            "",
            "| chunk that ends at | with caches, ms | all anew, ms |",
            "|---|---|---|",
            *(
                f"| {chunk['end_s']:.1f} s | {1000 * chunk['seconds'][CACHED]:.0f} | {1000 * chunk['seconds'][ANEW]:.0f} |"
                for chunk in shown
            ),
            "",
            "| ratio | |",
            "|---|---|",
            *(f"| {name} | {value:.2f} |" for name, value in values["ratios"].items()),
            "",
            f"Largest difference of the log mel between the two: {values['difference']:.1e}.",
            "",
            "| memory of the caches, one voice that speaks | MiB |",
            "|---|---|",
            f"| per second of speech, prompt or reply, that attention keeps | {held['per_second']:.2f} |",
            f"| kept after the reply | {held['kept']:.1f} |",
            f"| allocated by then | {held['allocated']:.1f} |",
            "",
        ]
    )


def decoder(size: str, config: TtsConfig, device: str) -> tuple[FlowDecoder, str]:
    """The decoder of the configuration, or the public size with random weights; and what to call its weights."""
    from tts import load_flow

    if size == "small":
        return load_flow(config, device), "weights of the configuration"
    full = FlowConfig(max_left_chunks=config.max_left_chunks or None)
    torch.manual_seed(1)
    return FlowDecoder(full).eval().requires_grad_(False).to(device), "random weights"


def run(options: argparse.Namespace) -> int:
    """Measure, write the report, print it."""
    if not 1.0 <= options.seconds <= 600.0:
        raise ConfigError(f"--seconds {options.seconds:g}: give a length from 1 to 600.")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no GPU here (see `python launch.py doctor`).")
    config = configuration(options)
    prepare_process(config)
    torch.set_num_threads(config.runtime.num_threads)
    flow, weights = decoder(options.size, config.tts, options.device)
    play(flow, 2.0)  # so that no chunk pays for what is done once
    chunks, held = play(flow, options.seconds, show_bar=sys.stderr.isatty())
    values = {
        "about": about(
            config,
            size=options.size,
            seconds=options.seconds,
            device=torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
            threads=config.runtime.num_threads,
            weights=weights,
        ),
        "chunks": [{"end_s": c.end_s, "seconds": c.seconds} for c in chunks],
        "ratios": ratios(chunks),
        "difference": max(chunk.difference for chunk in chunks),
        "memory": asdict(held),
    }
    options.report.mkdir(parents=True, exist_ok=True)
    (options.report / "report.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    (options.report / "report.md").write_text(page(values), encoding="utf-8")
    sys.stdout.write(page(values))
    return 0
