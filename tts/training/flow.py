"""Training of the flow-matching decoder: conditional flow matching on random crops (arXiv 2210.02747, 2412.10117 §2.4).

In two parts. First the encoder learns to turn tokens into a mel; then it rests, and the estimator learns what is left.
Trained together, the estimator's gradients cost a narrow encoder more than they bring: its mel gets worse.

Each voice is one stream of its utterances back to back, so that a crop may cross from one sentence to the next as a
prompt and its utterance do, and the speaker vector comes from any utterance of the voice, as a reference does.
B batch, S speech tokens, T mel frames (2 S), M mel bins.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tts import checkpoint
from tts.base import TOKEN_HZ
from tts.decoder.config import FlowConfig
from tts.decoder.encoder import UPSAMPLING
from tts.decoder.flow import FlowDecoder

SIGMA_MIN = 1e-6  # share of the noise left at the end of the flow


@dataclass(frozen=True, slots=True)
class FlowUtterance:
    """One recording as the decoder sees it."""

    tokens: np.ndarray  # (S,) integers
    mel: np.ndarray  # (M, 2 S) natural-log mel, any float type (float16 to save memory)
    speaker: np.ndarray  # (192,) float32 speaker vector of this recording
    voice: str
    weight: float = 1.0  # how often it is drawn, per second


FlowData = Sequence[FlowUtterance]


@dataclass(frozen=True, kw_only=True)
class FlowTraining:
    """Choices of the training that are not the model's shape."""

    batch_size: int = 15
    min_crop_s: float = 3.0
    max_crop_s: float = 5.0
    prompt_rate: float = 0.6  # share of crops that begin with a prompt
    max_prompt_share: float = 0.7  # longest prompt, as a share of the crop
    full_attention_rate: float = 0.1  # share of batches without the chunk grid
    drop_condition_rate: float = 0.0  # share of crops trained without any condition: needed for guidance only
    drop_speaker_rate: float = 0.1  # share of prompted crops without the speaker vector, so that the prompt counts too
    time_power: float = 1.5  # above 1: more of the training near t = 0, where few-step sampling is
    max_time_weight: float = 2.0  # limit of 1 / (1 - t)^2; low, for few-step sampling stays near t = 0
    seed: int = 1
    num_validation: int = 16  # held-out crops in `evaluate`


@dataclass(frozen=True, slots=True)
class FlowBatch:
    """Crops of one length."""

    tokens: Tensor  # (B, S)
    context: Tensor  # (B, lookahead): the tokens after the crop
    context_mask: Tensor  # (B, lookahead): 0 where the recording has ended
    target: Tensor  # (B, T, M) normalised mel
    cond: Tensor  # (B, T, M) normalised mel of the prompt, zeros elsewhere
    free: Tensor  # (B, T): 0 in the prompt, which is given and not to be learned
    speaker: Tensor  # (B, 192)

    def to(self, device: torch.device) -> "FlowBatch":
        """The batch on a device."""
        return FlowBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True, slots=True)
class _Voice:
    name: str
    tokens: np.ndarray  # (S,)
    mel: np.ndarray  # (2 S, M)
    speakers: np.ndarray  # (utterances, 192)


def flow_matching_loss(
    flow: FlowDecoder,
    target_BTM: Tensor,
    mu_BTM: Tensor,
    speaker_BM: Tensor,
    cond_BTM: Tensor,
    *,
    time_B: Tensor,
    noise_BTM: Tensor,
    keep_B: Tensor,
    chunked: bool,
    mask_BT: Tensor | None = None,
    learned_BT: Tensor | None = None,
    max_time_weight: float = 25.0,
) -> Tensor:
    """Mean squared error of the estimator on the straight path from noise to mel; all mels normalised.

    `keep_B` is 0 for rows trained without condition, `mask_BT` for frames that are padding (nobody sees them),
    `learned_BT` for frames that are seen but have no loss. With the data target the error is weighted by 1 / (1 - t)^2
    (limited, then scaled to mean 1), which makes it the error in velocity.
    """
    t = time_B[:, None, None]
    x = (1 - (1 - SIGMA_MIN) * t) * noise_BTM + t * target_BTM
    keep = keep_B[:, None, None]
    out = flow.decoder.estimator(
        x, mu_BTM * keep, speaker_BM * keep_B[:, None], cond_BTM * keep, time_B, chunked=chunked, mask_BT=mask_BT
    ).float()
    if flow.config.prediction == "residual":
        out = out + (mu_BTM * keep).detach().float()
    if flow.config.prediction != "velocity":
        weight = (1 - time_B).pow(-2).clamp(max=max_time_weight)
        error = (out - target_BTM).square() * (weight / weight.mean())[:, None, None]
    else:
        error = (out - (target_BTM - (1 - SIGMA_MIN) * noise_BTM)).square()
    counted = mask_BT if learned_BT is None else learned_BT
    if counted is None:
        return error.mean()
    mask = counted[..., None].to(error.dtype)
    return (error * mask).sum() / (mask.sum() * error.shape[2])


class FlowTask:
    """The flow decoder, its crops and its loss, for the training loop."""

    def __init__(
        self,
        data: FlowData,
        config: FlowConfig,
        training: FlowTraining | None = None,
        *,
        encoder: Path | None = None,
        validation: FlowData = (),
    ) -> None:
        """`encoder`: weights folder of a decoder whose encoder is used and trains no more. None: train the encoder.

        `validation`: held-out recordings of any voices, each used with its own speaker vector.
        """
        self.config = config
        self.training = training or FlowTraining()
        self.module: nn.Module = FlowDecoder(config)
        self._flow: FlowDecoder = self.module  # type: ignore[assignment]
        self.name = "flow_encoder" if encoder is None else "flow"
        self._learns_encoder = encoder is None
        if encoder is not None:
            self._flow.load_state_dict(checkpoint.read_state(encoder))
            for part in (self._flow.input_embedding, self._flow.encoder, self._flow.encoder_proj):
                part.requires_grad_(False)
        elif config.prediction == "residual":  # begins as the encoder's mel, to be corrected
            for parameter in self._flow.decoder.estimator.final_proj.parameters():
                nn.init.zeros_(parameter)
        self._voices, self._shares = _by_voice(data)
        self._validation = list(validation)

    def batch(self, step: int) -> FlowBatch:
        """Random crops; they depend on the seed and the step alone."""
        options = self.training
        random = np.random.default_rng((options.seed, step))
        count = round(random.uniform(options.min_crop_s, options.max_crop_s) * TOKEN_HZ)
        picks = random.choice(len(self._voices), size=options.batch_size, p=self._shares)
        crops = []
        for pick in picks:
            voice = self._voices[pick]
            begin = int(random.integers(0, max(1, len(voice.tokens) - count + 1)))
            prompted = random.random() < options.prompt_rate
            prompt = round(count * random.uniform(0, options.max_prompt_share)) if prompted else 0
            speaker = voice.speakers[random.integers(len(voice.speakers))]
            if prompt >= TOKEN_HZ // 5 and random.random() < options.drop_speaker_rate:
                speaker = np.zeros_like(speaker)
            crops.append((voice.tokens, voice.mel, speaker, begin, prompt))
        return self._collate(crops, count)

    def loss(self, step: int, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Flow matching, or the encoder's mean absolute error, both in normalised mel."""
        options, flow = self.training, self._flow
        device = flow.encoder_proj.weight.device
        batch = self.batch(step).to(device)
        chunked = bool(torch.rand(()) >= options.full_attention_rate)
        # On a CPU the plain attention is faster than the fused one going backwards.
        plain = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
        with torch.autocast(device.type), plain:
            mu = self._mu(batch, chunked=chunked)
            if self._learns_encoder:
                error = (mu.float() - batch.target).abs().mean()
                return error, {}
            time = 1 - torch.cos(torch.rand(len(batch.tokens)).pow(options.time_power) * 0.5 * math.pi)
            noise = torch.randn(batch.target.shape)
            keep = (torch.rand(len(batch.tokens)) >= options.drop_condition_rate).float()
            matching = flow_matching_loss(
                flow,
                batch.target,
                mu,
                flow.project_speaker(batch.speaker),
                batch.cond,
                time_B=time.to(device),
                noise_BTM=noise.to(device),
                keep_B=keep.to(device),
                chunked=chunked,
                learned_BT=batch.free,
                max_time_weight=options.max_time_weight,
            )
        return matching, {}

    def evaluate(self) -> dict[str, float]:
        """Mean absolute error in natural-log mel: of the whole decoder (also cooler), and of the encoder alone."""
        if not self._validation:
            return {}
        flow, scale = self._flow, self.config.mel_scale
        batch = self._validation_batch().to(flow.encoder_proj.weight.device)
        truth = flow.denormalise(batch.target).transpose(1, 2)
        figures = {"mu_l1": (self._mu(batch, chunked=True) - batch.target).abs().mean().item() * scale}
        if self._learns_encoder:
            return figures
        for name, temperature in (("mel_l1", 1.0), ("mel_l1_cool", 0.5)):
            mel = flow.generate(batch.tokens, batch.speaker, chunked=True, temperature=temperature)
            figures[name] = (mel - truth).abs().mean().item()
        figures["mel_std_ratio"] = (mel.std() / truth.std()).item()
        return figures

    def export(self, directory: Path) -> None:
        """Write the weights folder."""
        checkpoint.save(directory, self.module, self.config)

    def _mu(self, batch: FlowBatch, *, chunked: bool) -> Tensor:
        flow = self._flow
        tokens, context = flow.input_embedding(batch.tokens), flow.input_embedding(batch.context)
        hidden = flow.encoder(tokens, context, chunked=chunked, context_mask_BK=batch.context_mask)
        return flow.encoder_proj(hidden)

    def _collate(
        self,
        crops: list[tuple[np.ndarray, np.ndarray, np.ndarray, int, int]],
        count: int,
    ) -> FlowBatch:
        """Crops of `count` tokens from (tokens, mel (T, M), speaker, first token, prompt tokens)."""
        ahead, bins = self.config.lookahead_tokens, self.config.mel_bins
        count = min(count, min(len(tokens) - begin for tokens, _, _, begin, _ in crops))
        tokens_BS = np.zeros((len(crops), count + ahead), dtype=np.int64)
        exists = np.zeros((len(crops), ahead), dtype=np.float32)
        mel_BTM = np.zeros((len(crops), UPSAMPLING * count, bins), dtype=np.float32)
        prompted = np.zeros((len(crops), UPSAMPLING * count, 1), dtype=np.float32)
        for row, (tokens, mel, _, begin, prompt) in enumerate(crops):
            piece = tokens[begin : begin + count + ahead]
            tokens_BS[row, : len(piece)] = piece
            exists[row, : len(piece) - count] = 1
            mel_BTM[row] = mel[UPSAMPLING * begin : UPSAMPLING * (begin + count)]
            prompted[row, : UPSAMPLING * prompt] = 1
        target = self._flow.normalise(torch.from_numpy(mel_BTM))
        return FlowBatch(
            tokens=torch.from_numpy(tokens_BS[:, :count]),
            context=torch.from_numpy(tokens_BS[:, count:]),
            context_mask=torch.from_numpy(exists),
            target=target,
            cond=target * torch.from_numpy(prompted),
            free=1 - torch.from_numpy(prompted)[..., 0],
            speaker=torch.from_numpy(np.stack([speaker for _, _, speaker, _, _ in crops]).astype(np.float32)),
        )

    def _validation_batch(self) -> FlowBatch:
        """The first held-out recordings, cut to the length of the shortest of them (at most the longest crop)."""
        chosen = self._validation[: self.training.num_validation]
        count = min(round(self.training.max_crop_s * TOKEN_HZ), *(len(item.tokens) for item in chosen))
        crops = [(item.tokens, item.mel.T, item.speaker, 0, 0) for item in chosen]
        return self._collate(crops, count)


def _by_voice(data: FlowData) -> tuple[list[_Voice], np.ndarray]:
    """One stream per voice, and how often each is drawn. Raises ValueError for data that cannot be used."""
    groups: dict[str, list[FlowUtterance]] = {}
    for item in data:
        if item.mel.shape[1] != UPSAMPLING * len(item.tokens):
            raise ValueError(f"voice {item.voice}: {len(item.tokens)} tokens do not fit {item.mel.shape[1]} mel frames")
        groups.setdefault(item.voice, []).append(item)
    if not groups:
        raise ValueError("the flow decoder needs at least one recording to train on")
    voices, seconds = [], []
    for items in groups.values():
        voices.append(
            _Voice(
                items[0].voice,
                np.concatenate([item.tokens for item in items]),
                np.concatenate([np.ascontiguousarray(item.mel.T) for item in items]),
                np.stack([item.speaker for item in items]),
            )
        )
        seconds.append(sum(item.weight * len(item.tokens) for item in items))
    return voices, np.asarray(seconds) / sum(seconds)


def task(
    data: FlowData,
    config: FlowConfig,
    training: FlowTraining | None = None,
    *,
    encoder: Path | None = None,
    validation: FlowData = (),
) -> FlowTask:
    """The task of `train small flow_encoder` (without `encoder`) and `train small flow`."""
    return FlowTask(data, config, training, encoder=encoder, validation=validation)
