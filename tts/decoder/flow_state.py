"""State of one utterance in the flow decoder."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tts.decoder.encoder import EncoderState
from tts.decoder.estimator import EstimatorState
from tts.modules.attention import AttentionCache


@dataclass(slots=True, kw_only=True)
class FlowState:
    """Everything the decoder remembers between two steps; a value: clone it to branch, `reset_` it to begin again.

    B batch, S tokens, T mel frames, M mel bins. With guidance the estimator states hold
    2 B rows: with the condition, then without.
    """

    times: Tensor  # (num_flow_steps + 1,): from 0 to 1
    guidance: float
    temperature: float
    speaker: Tensor  # (B, M), projected
    encoder: EncoderState
    estimators: list[EstimatorState]  # one per flow step
    pending: Tensor  # (B, S) int64: tokens taken but not decoded, for want of a full chunk and its lookahead
    prompt: Tensor  # (B, T, M): normalised prompt mel, while its frames are not all decoded; then T = 0
    num_frames: int = 0  # frames decoded since the start of the prompt; places the noise
    prompt_frames: int = 0  # length of the prompt, of which no mel is returned
    first_chunks: tuple[int, ...] = ()  # tokens of the next chunks, before those of the usual size

    def reset_(self) -> None:
        """Back to before the first token, without a prompt."""
        self.encoder.reset_()
        for estimator in self.estimators:
            estimator.reset_()
        self.pending, self.prompt = self.pending[:, :0], self.prompt[:, :0]
        self.num_frames = self.prompt_frames = 0
        self.first_chunks = ()

    def caches(self) -> list[AttentionCache]:
        """Keys and values of the encoder's two stacks and of the estimator at each flow step."""
        estimators = [cache for estimator in self.estimators for cache in estimator.caches()]
        return [*(cache.past for cache in self.encoder.caches()), *estimators]

    def clone(self) -> "FlowState":
        """An independent copy."""
        return FlowState(
            times=self.times,
            guidance=self.guidance,
            temperature=self.temperature,
            speaker=self.speaker,
            encoder=self.encoder.clone(),
            estimators=[estimator.clone() for estimator in self.estimators],
            pending=self.pending,
            prompt=self.prompt,
            num_frames=self.num_frames,
            prompt_frames=self.prompt_frames,
            first_chunks=self.first_chunks,
        )

    def condition(self, num_frames: int) -> Tensor:
        """Prompt mel of the next frames, zeros where the prompt is over: (B, T, M)."""
        batch, have, bins = self.prompt.shape
        part = self.prompt[:, self.num_frames : self.num_frames + num_frames]
        if part.shape[1] == num_frames:
            return part
        rest = self.prompt.new_zeros(batch, num_frames - part.shape[1], bins)
        return torch.cat([part, rest], dim=1) if have else rest
