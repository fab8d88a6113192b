"""Speech tokens made audible by the decoder of the configuration, and heard by a judge that knows nothing of them."""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

import tts
from app.bench.decoder import prompt, timed
from app.needs import located
from app.small.judges import JUDGES
from configs.schema import AppConfig
from tts.base import SAMPLE_RATE, TOKEN_HZ
from tts.decoder.flow import FlowDecoder
from tts.decoder.flow_state import FlowState
from tts.decoder.vocoder import Vocoder, VocoderState

JUDGE = "pocketsphinx"


class Listening:
    """A decoder here and the judge in processes of its own, so that both work at the same time. A context manager."""

    def __init__(self, config: AppConfig) -> None:
        chosen = located(config, "tts")
        self._synthesizer: Any = tts.build(chosen.tts, chosen.runtime)

    def __enter__(self) -> "Listening":
        self._pool = ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def tokens(self, tokens: np.ndarray) -> Future[str]:
        """What will be heard of speech tokens (S,)."""
        return self.samples(self._synthesizer.say_tokens(tokens))

    def samples(self, samples: np.ndarray) -> Future[str]:
        """What will be heard of a recording (24 kHz)."""
        return self._pool.submit(JUDGES[JUDGE], samples, SAMPLE_RATE)


@torch.inference_mode()
def decoding_cost(flow: FlowDecoder, vocoder: Vocoder, tokens: Sequence[np.ndarray], num_flow_steps: int) -> float:
    """Seconds of decoder and vocoder per second of speech, chunk by chunk behind a voice's prompt.

    Args:
        flow, vocoder: on one device.
        tokens: (S,) speech tokens of each utterance.
        num_flow_steps: of the decoder.
    """

    def decode(part: torch.Tensor, state: FlowState, sound: VocoderState, last: bool) -> torch.Tensor:
        return vocoder.stream(flow.step(part, state, last=last), sound, last=last).cpu()

    device, size = flow.encoder_proj.weight.device, flow.config.chunk_tokens
    speaker, ids, mel = prompt(flow)
    start = flow.start(speaker, ids, mel, num_flow_steps=num_flow_steps)
    spent = 0.0
    for number, spoken in enumerate([tokens[0], *tokens]):  # the first one twice: no one pays for what is done once
        given = torch.from_numpy(np.asarray(spoken, np.int64))[None].to(device)
        state, sound = start.clone(), vocoder.initial_state(seed=0)
        for at in range(0, given.shape[1], size):
            last = at + size >= given.shape[1]
            seconds = timed(device, partial(decode, given[:, at : at + size], state, sound, last))[1]
            spent += seconds if number else 0.0
    return spent * TOKEN_HZ / sum(len(spoken) for spoken in tokens)
