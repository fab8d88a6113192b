"""A student of a flow-matching decoder that needs one or two steps and no guidance.

The teacher walks from noise to mel in its many steps, with its guidance. From the same noise and conditions the student learns
the mean velocity over each of its own few steps (mean flow, arXiv 2505.13447; distilled for speech tokens: 2510.07979): the one
that leads from where the student itself stands to where the teacher is by then. So what one step misses the next one mends.
Only the estimator learns, beginning with the teacher's weights; names and shapes stay the teacher's, and `config.json` says how
many steps there are. B batch, T mel frames, M mel bins.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tts.decoder.flow import FlowDecoder, flow_times
from tts.training.flow import FlowBatch, FlowData, FlowTask, FlowTraining


@dataclass(frozen=True, kw_only=True)
class StudentTraining:
    """Choices of the distillation."""

    teacher_steps: int = 10  # a multiple of the student's, so that both stop at the same times
    student_steps: int = 2
    temperature: float = 1.0  # scale of the noise that both begin with
    crops: FlowTraining = field(default_factory=FlowTraining)  # its weighting of times is not used


class StudentTask(FlowTask):
    """Teacher, student, crops and loss, for the training loop. Raises ValueError for steps that do not fit."""

    def __init__(
        self,
        teacher: FlowDecoder,
        data: FlowData,
        training: StudentTraining | None = None,
        *,
        validation: FlowData = (),
    ) -> None:
        training = training or StudentTraining()
        if training.student_steps < 1 or training.teacher_steps % training.student_steps:
            raise ValueError(
                f"teacher_steps {training.teacher_steps} must be a multiple of student_steps {training.student_steps}."
            )
        config = replace(teacher.config, num_flow_steps=training.student_steps, guidance=0.0)
        super().__init__(data, config, training.crops, validation=validation)
        self.name = "student"
        self._steps, self._teacher = training, teacher.eval().requires_grad_(False)
        self._flow.load_state_dict(teacher.state_dict())
        self._flow.requires_grad_(False)
        self._flow.decoder.estimator.requires_grad_(True)

    def loss(self, step: int, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Squared error of each of the student's steps, in normalised mel."""
        flow, options = self._flow, self.training
        device = flow.encoder_proj.weight.device
        batch = self.batch(step).to(device)
        chunked = bool(torch.rand(()) >= options.full_attention_rate)
        noise = (self._steps.temperature * torch.randn(batch.target.shape)).to(device)
        times = flow_times(self._steps.student_steps).to(device)
        # On a CPU the plain attention is faster than the fused one going backwards.
        plain = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
        with torch.autocast(device.type), plain:
            with torch.no_grad():
                mu, speaker = self._mu(batch, chunked=chunked).float(), flow.project_speaker(batch.speaker).float()
                places = self.path(batch, noise, mu, speaker, chunked=chunked)
            x, errors = noise, []
            for (now, then), place in zip(pairwise(times), places, strict=True):
                velocity = flow.predict_velocity(x, mu, speaker, batch.cond, now, chunked=chunked, guidance=0.0)
                reached = x + (then - now) * velocity.float()
                errors.append(((reached - place).square() * batch.free[..., None]).sum())
                x = reached.detach()
        return torch.stack(errors).mean() / (batch.free.sum() * noise.shape[2]), {}

    def path(
        self, batch: FlowBatch, noise_BTM: Tensor, mu_BTM: Tensor, speaker_BM: Tensor, *, chunked: bool
    ) -> list[Tensor]:
        """Where the teacher is at the end of each of the student's steps, (B, T, M) each."""
        teacher, steps = self._teacher.to(noise_BTM.device), self._steps
        each = steps.teacher_steps // steps.student_steps
        x, places = noise_BTM, []
        for number, (now, then) in enumerate(pairwise(flow_times(steps.teacher_steps).to(x.device)), 1):
            velocity = teacher.predict_velocity(
                x, mu_BTM, speaker_BM, batch.cond, now, chunked=chunked, guidance=teacher.config.guidance
            )
            x = x + (then - now) * velocity.float()
            if number % each == 0:
                places.append(x)
        return places

    def evaluate(self) -> dict[str, float]:
        """Mean absolute distance in natural-log mel to the teacher's many steps: the student's few, the teacher's as few."""
        if not self._validation:
            return {}
        batch = self._validation_batch().to(self._flow.encoder_proj.weight.device)
        teacher, steps = self._teacher.to(batch.speaker.device), self._steps

        def mel(flow: FlowDecoder, count: int) -> Tensor:
            return flow.generate(
                batch.tokens, batch.speaker, chunked=True, num_flow_steps=count, temperature=steps.temperature
            )

        wanted = mel(teacher, steps.teacher_steps)
        return {
            "mel_distance": (mel(self._flow, steps.student_steps) - wanted).abs().mean().item(),
            "mel_distance_teacher": (mel(teacher, steps.student_steps) - wanted).abs().mean().item(),
        }
