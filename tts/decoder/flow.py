"""Chunk-aware flow-matching decoder: speech tokens (25 Hz) -> mel (50 Hz), whole or as the tokens come.

Structure and parameter names are those of CosyVoice2's flow (arXiv 2412.10117 §2.4; flow matching: 2210.02747).
B batch, S speech tokens, T mel frames, M mel bins. Mels at the border are natural-log mels (B, M, T); inside they are
normalised and (B, T, M).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tts import checkpoint
from tts.decoder.config import FlowConfig
from tts.decoder.encoder import UPSAMPLING, UpsampleConformerEncoder
from tts.decoder.estimator import Estimator, EstimatorState
from tts.decoder.flow_state import FlowState
from tts.modules.graphs import Capture, CudaCapture, Graphs
from tts.precision import computing

NOISE_FRAMES = 15_000  # 300 s; the public noise ends here, ours begins anew
NOISE_SEED = 0
MAX_CHUNKS_PER_PASS = 8  # bounds memory when many tokens come at once


class _FlowMatching(nn.Module):
    """Holds the estimator under its public name, and the fixed noise that every utterance starts from."""

    noise_TM: Tensor

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.estimator = Estimator(
            config.estimator,
            mel_bins=config.mel_bins,
            chunk=UPSAMPLING * config.chunk_tokens,
            max_left_chunks=config.max_left_chunks,
        )
        generator = torch.Generator().manual_seed(NOISE_SEED)
        noise = torch.randn(config.mel_bins, NOISE_FRAMES, generator=generator, device="cpu")
        self.register_buffer("noise_TM", noise.T.contiguous(), persistent=False)

    def noise(self, start: int, num_frames: int) -> Tensor:
        """Noise of the frames start ... start + num_frames, counted from the start of the prompt: (T, M)."""
        index = torch.arange(start, start + num_frames, device=self.noise_TM.device) % NOISE_FRAMES
        return self.noise_TM[index]


def flow_times(num_steps: int) -> Tensor:
    """Flow time at each step, dense near the noise: (num_steps + 1,), from 0 to 1."""
    return 1 - torch.cos(torch.linspace(0, 1, num_steps + 1) * 0.5 * math.pi)


class FlowDecoder(nn.Module):
    """Speech tokens -> mel in the voice of a speaker vector and a prompt."""

    HALF: ClassVar = ("input_embedding", "encoder", "decoder.estimator")
    FULL: ClassVar = (
        "encoder.embed",
        "encoder.pre_lookahead_layer",
        "encoder.up_layer",
        "encoder.up_embed",
        "decoder.estimator.final_proj",
    )

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        width = config.encoder.width
        self.input_embedding = nn.Embedding(config.vocabulary_size, width)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_width, config.mel_bins)
        self.encoder = UpsampleConformerEncoder(
            config.encoder,
            lookahead=config.lookahead_tokens,
            chunk=config.chunk_tokens,
            max_left_chunks=config.max_left_chunks,
        )
        self.encoder_proj = nn.Linear(width, config.mel_bins)
        self.decoder = _FlowMatching(config)
        self.graphs: Graphs | None = None

    @classmethod
    def load(cls, directory: Path) -> "FlowDecoder":
        """Read a weights folder. Raises CheckpointError."""
        flow = cls(FlowConfig.from_dict(checkpoint.read_config(directory)))
        checkpoint.load_into(flow, checkpoint.read_state(directory), directory)
        return flow.eval()

    def bound_left_context(self, max_chunks: int) -> None:
        """Let attention, the encoder's and the estimator's, look back at most so many chunks, whatever the weights say."""
        self.config = replace(self.config, max_left_chunks=max_chunks)
        self.encoder.max_left_chunks = self.decoder.estimator.max_left_chunks = max_chunks

    def normalise(self, mel: Tensor) -> Tensor:
        """Log mel -> the scale the flow works on."""
        return (mel - self.config.mel_mean) / self.config.mel_scale

    def denormalise(self, mel: Tensor) -> Tensor:
        """The scale the flow works on -> log mel."""
        return mel * self.config.mel_scale + self.config.mel_mean

    def project_speaker(self, speaker: Tensor) -> Tensor:
        """Speaker vector (B, 192) of any length -> (B, M)."""
        return self.spk_embed_affine_layer(F.normalize(speaker, dim=1))

    def predict_velocity(
        self,
        x_BTM: Tensor,
        mu_BTM: Tensor,
        speaker_BM: Tensor,
        cond_BTM: Tensor,
        time: Tensor,
        *,
        chunked: bool,
        guidance: float,
        sizes: Sequence[int] | None = None,
        state: EstimatorState | None = None,
    ) -> Tensor:
        """Velocity of the flow at `time` (scalar), with classifier-free guidance where `guidance` > 0.

        `chunked`, `sizes` (frames): see `Estimator.forward`.
        """
        conditions = (mu_BTM, speaker_BM, cond_BTM)
        if guidance > 0:
            x_BTM = x_BTM.repeat(2, 1, 1)
            conditions = tuple(torch.cat([part, torch.zeros_like(part)]) for part in conditions)  # type: ignore[assignment]
        inputs = (x_BTM, *conditions, time.expand(len(x_BTM)))
        with computing(self.input_embedding.weight):
            if self.graphs is not None and state is not None and sizes == [x_BTM.shape[1]]:
                out = self.graphs(inputs, state)
            else:
                out = self.decoder.estimator(*inputs, chunked=chunked, sizes=sizes, state=state)
        if self.config.prediction == "residual":
            out = out + conditions[0]
        if self.config.prediction != "velocity":
            out = (out - x_BTM) / (1 - time)
        if guidance > 0:
            conditioned, free = out.chunk(2)
            out = (1 + guidance) * conditioned - guidance * free
        return out

    def use_graphs(self, state: FlowState, capture: Callable[[], Capture] = CudaCapture) -> None:
        """Record encoder and flow steps of an utterance's chunks and run them by these from now on, in this thread.

        The utterance begins with `state`. Several chunks in one pass, and a last one that is cut short, are computed without.
        """

        def one_chunk(*inputs_and_state: Any) -> Tensor:
            *inputs, past = inputs_and_state
            return self.decoder.estimator(*inputs, chunked=True, sizes=[inputs[0].shape[1]], state=past)

        self.graphs = self.graphs or Graphs(one_chunk, "flow decoder's estimator", capture=capture)
        encoder = self.encoder
        encoder.graphs = encoder.graphs or Graphs(encoder.one_chunk, "flow decoder's encoder", capture=capture)
        lookahead = self.config.lookahead_tokens
        with self.graphs.learning(), encoder.graphs.learning():
            for size in {*state.first_chunks, self.config.chunk_tokens}:
                taught = state.clone()
                taught.first_chunks = (size,)
                self.step(taught.pending.new_zeros(len(taught.pending), size + lookahead), taught)

    @torch.inference_mode()
    def start(
        self,
        speaker: Tensor,
        prompt_tokens: Tensor | None = None,
        prompt_mel: Tensor | None = None,
        *,
        num_flow_steps: int | None = None,
        guidance: float | None = None,
        temperature: float = 1.0,
        cut_prompt: bool = True,
        first_chunks: Sequence[int] = (),
    ) -> FlowState:
        """State of a new utterance, with the prompt already decoded: make it once per voice and clone it.

        Args:
            speaker: raw speaker vector (B, 192).
            prompt_tokens: (B, S) speech tokens of the reference recording. prompt_mel: its log mel (B, M, 2 S).
            num_flow_steps, guidance: None = as the weights were made for. temperature: scale of the noise.
            cut_prompt: cut the prompt to whole chunks (with their true lookahead), so that the utterance begins on
                the chunk grid and its first mel comes soonest. False keeps all of it, as the public decoder does.
            first_chunks: tokens of the chunks that the utterance begins with; those after them have the usual size.
        """
        guidance = self.config.guidance if guidance is None else guidance
        times = flow_times(num_flow_steps or self.config.num_flow_steps).to(speaker.device)
        batch = speaker.shape[0]
        if prompt_tokens is None or prompt_mel is None:
            prompt_tokens = torch.zeros(batch, 0, dtype=torch.long, device=speaker.device)
            prompt_mel = speaker.new_zeros(batch, self.config.mel_bins, 0)
        projected = self.project_speaker(speaker)
        state = FlowState(
            times=times,
            guidance=guidance,
            temperature=temperature,
            speaker=projected,
            encoder=self.encoder.start(batch),
            estimators=[self.decoder.estimator.start(2 * batch if guidance > 0 else batch) for _ in times[1:]],
            pending=prompt_tokens[:, :0].long(),
            prompt=projected.new_zeros(batch, 0, self.config.mel_bins),
        )
        size, lookahead = self.config.chunk_tokens, self.config.lookahead_tokens
        count = prompt_tokens.shape[1]
        if cut_prompt:
            count = max(0, (count - lookahead) // size * size)
            prompt_tokens = prompt_tokens[:, : count + lookahead] if count else prompt_tokens[:, :0]
        state.prompt_frames = UPSAMPLING * count
        state.prompt = self.normalise(prompt_mel[:, :, : state.prompt_frames]).transpose(1, 2)
        self.step(prompt_tokens, state)
        if cut_prompt:
            state.pending = state.pending[:, :0]
        state.first_chunks = tuple(first_chunks)
        return state

    @torch.inference_mode()
    def step(self, tokens: Tensor, state: FlowState, *, last: bool = False) -> Tensor:
        """Take new tokens (B, S), any number; return the mel (B, M, T) of the chunks that they completed.

        A chunk is complete when all of its tokens and its lookahead are there. `last` decodes the rest, with zeros for
        the lookahead that never comes. Any way of handing over the tokens gives the same mel.
        """
        lookahead = self.config.lookahead_tokens
        state.pending = torch.cat([state.pending, tokens.to(state.pending)], dim=1)
        ready = self._complete_chunks(state, last=last)
        mels = [state.speaker.new_zeros(len(state.speaker), 0, self.config.mel_bins)]
        while ready:
            sizes, ready = ready[:MAX_CHUNKS_PER_PASS], ready[MAX_CHUNKS_PER_PASS:]
            count = sum(sizes)
            context = None if last and not ready else state.pending[:, count : count + lookahead]
            if context is not None and context.shape[1] < lookahead:
                # The utterance ends inside this chunk's lookahead: decode its last tokens in the same pass.
                sizes, ready, context = sizes + ready, [], None
            mels.append(self._decode(state.pending[:, : sum(sizes)], context, sizes, state))
            state.pending = state.pending[:, sum(sizes) :]
            state.first_chunks = state.first_chunks[len(sizes) :]
        return self.denormalise(torch.cat(mels, dim=1)).transpose(1, 2)

    def due(self, state: FlowState, num_chunks: int = 1) -> int:
        """Tokens, lookahead included, that the next chunks need."""
        return sum(islice(self._sizes(state), num_chunks)) + self.config.lookahead_tokens

    def _sizes(self, state: FlowState) -> Iterator[int]:
        yield from state.first_chunks
        while True:
            yield self.config.chunk_tokens

    def _complete_chunks(self, state: FlowState, *, last: bool) -> list[int]:
        """Sizes of the chunks that can be decoded, in tokens; the very last one may be cut short."""
        left = state.pending.shape[1] - (0 if last else self.config.lookahead_tokens)
        found: list[int] = []
        for size in self._sizes(state):
            if left <= 0 or (left < size and not last):
                return found
            found.append(min(size, left))
            left -= size
        return found

    def _decode(self, tokens: Tensor, context: Tensor | None, sizes: Sequence[int], state: FlowState) -> Tensor:
        """Decode chunks of tokens; returns the normalised mel (B, T, M) without prompt frames."""
        mu = self.encode(tokens, context, chunked=True, sizes=sizes, state=state)
        in_frames = [UPSAMPLING * size for size in sizes]
        frames = mu.shape[1]
        cond = state.condition(frames)
        x = (self.decoder.noise(state.num_frames, frames) * state.temperature).to(mu.dtype).expand_as(mu)
        for estimator, (now, then) in zip(state.estimators, pairwise(state.times), strict=True):
            velocity = self.predict_velocity(
                x,
                mu,
                state.speaker,
                cond,
                now,
                chunked=True,
                sizes=in_frames,
                guidance=state.guidance,
                state=estimator,
            )
            x = x + (then - now) * velocity
        hidden = max(0, min(frames, state.prompt_frames - state.num_frames))
        state.num_frames += frames
        if state.num_frames >= state.prompt_frames:
            state.prompt = state.prompt[:, :0]
        return x[:, hidden:]

    def encode(
        self,
        tokens: Tensor,
        context: Tensor | None = None,
        *,
        chunked: bool,
        sizes: Sequence[int] | None = None,
        state: FlowState | None = None,
    ) -> Tensor:
        """Tokens (B, S) and the lookahead after them (B, lookahead; None: the end) -> mel condition (B, 2 S, M)."""
        embedded = self.input_embedding(tokens)
        ahead = None if context is None else self.input_embedding(context)
        with computing(self.input_embedding.weight):
            hidden = self.encoder(
                embedded, ahead, chunked=chunked, sizes=sizes, state=None if state is None else state.encoder
            )
        return self.encoder_proj(hidden.float())

    @torch.inference_mode()
    def generate(
        self,
        tokens: Tensor,
        speaker: Tensor,
        prompt_tokens: Tensor | None = None,
        prompt_mel: Tensor | None = None,
        *,
        chunked: bool = True,
        sizes: Sequence[int] | None = None,
        final: bool = True,
        num_flow_steps: int | None = None,
        guidance: float | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Decode a whole utterance at once, without caches: tokens (B, S) -> log mel (B, M, 2 S), the prompt removed.

        Args:
            chunked: attention by chunks as in streaming, or over everything.
            sizes: tokens of the chunks, the prompt's included; None: the regular grid.
            final: False treats the last tokens as lookahead only, as a growing prefix does.
            The others: see `start`.
        """
        guidance = self.config.guidance if guidance is None else guidance
        times = flow_times(num_flow_steps or self.config.num_flow_steps).to(speaker.device)
        prompt_frames = 0
        if prompt_tokens is not None and prompt_mel is not None:
            tokens = torch.cat([prompt_tokens.to(tokens), tokens], dim=1)
            prompt_frames = UPSAMPLING * prompt_tokens.shape[1]
        ahead = self.config.lookahead_tokens
        context = None if final else tokens[:, tokens.shape[1] - ahead :]
        mu = self.encode(
            tokens if final else tokens[:, : tokens.shape[1] - ahead], context, chunked=chunked, sizes=sizes
        )
        in_frames = None if sizes is None else [UPSAMPLING * size for size in sizes]
        cond = torch.zeros_like(mu)
        if prompt_mel is not None:
            cond[:, :prompt_frames] = self.normalise(prompt_mel[:, :, :prompt_frames]).transpose(1, 2)
        projected = self.project_speaker(speaker)
        x = (self.decoder.noise(0, mu.shape[1]) * temperature).to(mu.dtype).expand_as(mu)
        for now, then in pairwise(times):
            velocity = self.predict_velocity(
                x, mu, projected, cond, now, chunked=chunked, sizes=in_frames, guidance=guidance
            )
            x = x + (then - now) * velocity
        return self.denormalise(x[:, prompt_frames:]).transpose(1, 2)
