"""Trains the small speech tokenizer from speech with exact phone times, and encodes a corpus with it.

In place of the public model's transcript loss, each token must tell the two phones of its 40 ms (framewise cross
entropy: with exact times this is learned far quicker than an alignment), and help to rebuild the mel spectrogram.
The rebuilding network is also told how the speaker sounds, and the tokenizer hears the voice with its formants
shifted: so tokens have no reason to carry the speaker, which voice cloning depends on.

Shape letters: B batch, T log-mel frames (100 Hz), F mel frames (50 Hz), S speech tokens (25 Hz), D width, M mel bins,
P phones, Q code dims.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tts import checkpoint
from tts.base import SAMPLE_RATE, SAMPLES_PER_TOKEN
from tts.features import log_mel_16k, mel_24k, resample
from tts.tokenizer.model import FRAMES_PER_TOKEN, SpeechTokenizer, SpeechTokenizerConfig

SMALL = SpeechTokenizerConfig(
    num_mels=80, width=240, num_heads=4, num_layers=3, fsmn_kernel=15, code_dims=6, window_s=12.0, overlap_s=2.0
)


class AlignedSpeech(Protocol):
    """What the trainer reads of an utterance."""

    @property
    def voice(self) -> str: ...

    @property
    def phones(self) -> Sequence[tuple[str, float]]:
        """(name, end in seconds), contiguous from 0."""
        ...


Examples = Iterable[tuple[np.ndarray, AlignedSpeech]]  # samples float32 (N,) at 24 kHz, N a multiple of 960


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining:
    """Numbers of the training; steps and learning rate belong to the loop."""

    batch_s: float = 96.0  # seconds of speech in a batch
    crops_s: tuple[float, ...] = (4.0, 4.0, 4.0, 8.0)  # crop length, by turns; the long ones teach long attention
    mel_weight: float = 0.5
    label_smoothing: float = 0.02
    gain_db: float = 10.0  # either way
    noise_db: tuple[float, float] = (10.0, 40.0)  # signal over noise, on half of the crops
    tilt_db: float = 4.0  # spectral tilt at the band's edges, either way
    formant_shift: float = 0.14  # largest factor of the frequency warp, either way ...
    shifted_share: float = 0.35  # ... on this share of the crops
    decoder_width: int = 192
    decoder_layers: int = 3
    seed: int = 1


class Store:
    """Features of a set, all utterances of a voice side by side. Crops may cross sentence borders, not voices."""

    def __init__(self, examples: Examples, phone_names: Sequence[str], num_mels: int) -> None:
        label_of = {name: index for index, name in enumerate(phone_names)}
        pieces: dict[str, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = {}
        for samples, speech in examples:
            log_mel, mel = _features(samples, num_mels)
            labels = _framewise(speech.phones, len(mel), label_of)
            pieces.setdefault(speech.voice, []).append((log_mel, mel, labels))
        ordered = [piece for voice in sorted(pieces) for piece in pieces[voice]]
        self.log_mel_TM = torch.cat([piece[0] for piece in ordered])
        self.mel_FM = torch.cat([piece[1] for piece in ordered])
        self.phones_F = torch.cat([piece[2] for piece in ordered])
        self.voices = sorted(pieces)
        self.voice_of = np.repeat(np.arange(len(self.voices)), [len(pieces[voice]) for voice in self.voices])
        sizes = np.array([len(piece[1]) // 2 for piece in ordered])
        self.starts = np.concatenate([[0], np.cumsum(sizes)])  # in tokens; one more than utterances
        self.statistics_U2M = torch.stack([torch.cat([p[1].float().mean(0), p[1].float().std(0)]) for p in ordered])

    @property
    def num_utterances(self) -> int:
        return len(self.voice_of)

    def voice_span(self, voice: int) -> tuple[int, int]:
        """First and last + 1 token of a voice."""
        own = np.flatnonzero(self.voice_of == voice)
        return int(self.starts[own[0]]), int(self.starts[own[-1] + 1])

    def crop(self, start: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(log-mel (T, M), mel (F, 80), phones (F,)) of `size` tokens."""
        end = start + size
        return (
            self.log_mel_TM[start * FRAMES_PER_TOKEN : end * FRAMES_PER_TOKEN].float(),
            self.mel_FM[start * 2 : end * 2].float(),
            self.phones_F[start * 2 : end * 2].long(),
        )


class Readout(nn.Module):
    """Training only: what two phones and which two mel frames the levels of a token stand for."""

    def __init__(self, code_dims: int, num_phones: int, width: int, num_layers: int) -> None:
        super().__init__()
        self.up = nn.Linear(code_dims, width)
        self.shared = nn.Sequential(*(ConvBlock(width) for _ in range(num_layers)))
        self.phones = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * num_phones))
        self.speaker = nn.Linear(160, width)
        self.private = nn.Sequential(*(ConvBlock(width) for _ in range(2)))
        self.mel = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 160))

    def forward(self, levels_BSQ: torch.Tensor, speaker_B2M: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Phone logits (B, F, P) and mel (B, F, 80), F = 2 S."""
        batch, size, _ = levels_BSQ.shape
        x_BSD = self.shared(self.up(levels_BSQ))
        logits = self.phones(x_BSD).view(batch, 2 * size, -1)
        x_BSD = self.private(x_BSD + self.speaker((speaker_B2M + 4.0) / 4.0)[:, None])
        return logits, self.mel(x_BSD).view(batch, 2 * size, 80)


class ConvBlock(nn.Module):
    """Depthwise convolution over 7 tokens and a two-layer perceptron, added to the input (B, S, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x_BSD: torch.Tensor) -> torch.Tensor:
        mixed = self.depthwise(x_BSD.transpose(1, 2)).transpose(1, 2)
        return x_BSD + self.scale * self.mlp(self.norm(mixed))


class TokenizerTask:
    """The training task of the loop in app/small."""

    name = "speech tokenizer"

    def __init__(
        self,
        train: Examples,
        evaluate: Mapping[str, Examples],
        phone_names: Sequence[str],
        config: SpeechTokenizerConfig = SMALL,
        training: TokenizerTraining | None = None,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        """`shares` fixes how much of what is drawn is of a voice; all others share the rest by their length."""
        self.training = training or TokenizerTraining()
        self.config = config
        self.train_store = Store(train, phone_names, config.num_mels)
        self.evaluation = {name: Store(examples, phone_names, config.num_mels) for name, examples in evaluate.items()}
        self.tokenizer = SpeechTokenizer(config)
        self.readout = Readout(
            config.code_dims, len(phone_names), self.training.decoder_width, self.training.decoder_layers
        )
        self.module: nn.Module = nn.ModuleDict({"tokenizer": self.tokenizer, "readout": self.readout})
        self._spans = [self.train_store.voice_span(voice) for voice in range(len(self.train_store.voices))]
        sizes = np.array([end - start for start, end in self._spans])
        self._voice_share = _shares(self.train_store.voices, sizes, shares or {})
        self._warps = _warps(config.num_mels, self.training.formant_shift)

    def loss(self, step: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Phone cross entropy + `mel_weight` * mel L1 of the batch of a step."""
        generator = np.random.default_rng((self.training.seed, step))
        log_mel, mel, phones, speaker = self._batch(step, generator)
        log_mel = self._augmented(log_mel, generator)
        device = next(self.module.parameters()).device
        log_mel, mel, phones, speaker = (part.to(device) for part in (log_mel, mel, phones, speaker))
        with torch.autocast(device.type):
            levels = self.tokenizer.quantizer.levels(self.tokenizer.encoder(log_mel))
            logits, rebuilt = self.readout(levels, speaker)
        entropy = functional.cross_entropy(
            logits.float().flatten(0, 1), phones.flatten(), label_smoothing=self.training.label_smoothing
        )
        distance = (rebuilt.float() - mel).abs().mean()
        accuracy = float((logits.argmax(-1) == phones).float().mean())
        values = {"phone_loss": entropy.item(), "mel_l1": distance.item(), "phone_accuracy": accuracy}
        return entropy + self.training.mel_weight * distance, values

    def evaluate(self) -> dict[str, float]:
        """Per set: share of 20 ms frames with the right phone, mel L1, number of different tokens and their entropy."""
        figures: dict[str, float] = {}
        for name, store in self.evaluation.items():
            right, distance, frames, ids = 0.0, 0.0, 0, []
            for utterance in range(store.num_utterances):
                start, end = int(store.starts[utterance]), int(store.starts[utterance + 1])
                log_mel, mel, phones = store.crop(start, end - start)
                levels = self.tokenizer.quantizer.levels(self.tokenizer.encoder(log_mel.T[None]))
                logits, rebuilt = self.readout(levels, store.statistics_U2M[utterance][None])
                right += float((logits[0].argmax(-1) == phones).sum())
                distance += float((rebuilt[0] - mel).abs().mean(-1).sum())
                frames += len(phones)
                ids.append(self.tokenizer.quantizer.ids(levels)[0])
            share = torch.bincount(torch.cat(ids), minlength=self.config.vocabulary_size).double() / (frames / 2)
            figures[f"{name}_phone_accuracy"] = right / frames
            figures[f"{name}_mel_l1"] = distance / frames
            figures[f"{name}_tokens_used"] = float((share > 0).sum())
            figures[f"{name}_entropy_bits"] = float(-(share * share.clamp_min(1e-12).log2()).sum())
        return figures

    def export(self, directory: Path) -> None:
        """Write the tokenizer alone; the readout is not needed again."""
        checkpoint.save(directory, self.tokenizer, self.config)

    def _batch(
        self, step: int, generator: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        store, crops_s = self.train_store, self.training.crops_s
        crop_s = crops_s[step % len(crops_s)]
        size = round(crop_s * 25)
        items, speakers = [], []
        voices = generator.choice(
            len(store.voices), size=max(1, round(self.training.batch_s / crop_s)), p=self._voice_share
        )
        for voice in voices:
            first, end = self._spans[voice]
            start = int(generator.integers(first, max(first + 1, end - size + 1)))
            items.append(store.crop(min(start, int(store.starts[-1]) - size), size))
            # The speaker as another utterance of the same voice shows him: it says nothing about this crop's words.
            speakers.append(int(generator.choice(np.flatnonzero(store.voice_of == voice))))
        log_mel, mel, phones = (torch.stack(parts) for parts in zip(*items, strict=True))
        return log_mel.transpose(1, 2), mel, phones, store.statistics_U2M[speakers]

    def _augmented(self, log_mel_BMT: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Formant shift, noise, tilt and gain, in the log-mel domain (one unit is 40 dB)."""
        batch, num_mels, frames = log_mel_BMT.shape
        training = self.training
        warps = np.where(
            generator.random(batch) < training.shifted_share,
            generator.integers(len(self._warps), size=batch),
            len(self._warps) // 2,
        )
        x = torch.bmm(self._warps[torch.from_numpy(warps)], log_mel_BMT)
        power = 10.0 ** (4.0 * x - 4.0)
        snr_db = torch.from_numpy(generator.uniform(*training.noise_db, size=(batch, 1, 1)).astype(np.float32))
        noisy = torch.from_numpy((generator.random((batch, 1, 1)) < 0.5).astype(np.float32))
        slope = torch.linspace(-1.0, 1.0, num_mels)[None, :, None]
        colour = 10.0 ** (torch.from_numpy(generator.uniform(-1.0, 1.0, (batch, 1, 1)).astype(np.float32)) * slope)
        # The power of a noise bin is exponentially distributed; a mel bin averages a few of them.
        texture = torch.rand(batch, num_mels, frames).clamp_min(1e-6).log().neg() * 0.5 + 0.5
        noise = power.mean(dim=(1, 2), keepdim=True) * 10.0 ** (-snr_db / 10.0) * colour * texture
        x = ((power + noisy * noise).clamp_min(1e-10).log10() + 4.0) / 4.0
        tilt_db = torch.from_numpy(
            generator.uniform(-training.tilt_db, training.tilt_db, (batch, 1, 1)).astype(np.float32)
        )
        gain_db = torch.from_numpy(
            generator.uniform(-training.gain_db, training.gain_db, (batch, 1, 1)).astype(np.float32)
        )
        x = x + (tilt_db * slope + gain_db) / 40.0
        return torch.maximum(x, x.amax(dim=(1, 2), keepdim=True) - 2.0)


@torch.inference_mode()
def encode_all(
    tokenizer: SpeechTokenizer, recordings: Sequence[np.ndarray], *, batch_s: float = 60.0
) -> list[np.ndarray]:
    """Speech tokens (int16) of many short recordings, each float32 at 24 kHz with N a multiple of 960.

    The same tokens as `SpeechTokenizer.encode` of the resampled recording. Recordings longer than the tokenizer's window
    go through `encode` one by one, the others in batches of similar length of about `batch_s` seconds.
    """
    tokens: list[np.ndarray] = [np.zeros(0, dtype=np.int16)] * len(recordings)
    limit = tokenizer.config.window_s * SAMPLE_RATE
    short = sorted(
        (i for i, samples in enumerate(recordings) if 960 <= len(samples) <= limit), key=lambda i: len(recordings[i])
    )
    for index in set(range(len(recordings))) - set(short):
        tokens[index] = tokenizer.encode(resample(recordings[index], SAMPLE_RATE, 16_000))
    while short:
        count = max(1, int(batch_s * SAMPLE_RATE / len(recordings[short[-1]])))
        chosen, short = short[-count:], short[:-count]
        log_mels = [_log_mel(recordings[index], tokenizer.config.num_mels) for index in chosen]
        lengths = torch.tensor([len(log_mel) for log_mel in log_mels])
        padded = nn.utils.rnn.pad_sequence(log_mels, batch_first=True).transpose(1, 2)
        ids_BS = tokenizer(padded, None if len(chosen) == 1 else lengths).to(torch.int16).numpy()
        for index, ids in zip(chosen, ids_BS, strict=True):
            tokens[index] = ids[: len(recordings[index]) // SAMPLES_PER_TOKEN].copy()
    return tokens


def _log_mel(samples: np.ndarray, num_mels: int) -> torch.Tensor:
    """Log-mel (T, M) of 24 kHz samples, exactly 4 frames per whole speech token."""
    num_tokens = len(samples) // SAMPLES_PER_TOKEN
    at_16k = resample(samples[: num_tokens * SAMPLES_PER_TOKEN], SAMPLE_RATE, 16_000)
    return log_mel_16k(torch.from_numpy(at_16k)[None], num_mels)[0].T


def _features(samples: np.ndarray, num_mels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-mel (T, M) and mel (F, 80) of 24 kHz samples, both float16."""
    whole = np.ascontiguousarray(samples[: len(samples) // SAMPLES_PER_TOKEN * SAMPLES_PER_TOKEN], dtype=np.float32)
    return _log_mel(whole, num_mels).half(), mel_24k(torch.from_numpy(whole)[None])[0].T.half()


def _framewise(phones: Sequence[tuple[str, float]], num_frames: int, label_of: Mapping[str, int]) -> torch.Tensor:
    """Label (F,) uint8 of the phone at the middle of each 20 ms frame."""
    labels = np.array([label_of[name] for name, _ in phones], dtype=np.uint8)
    ends = np.array([end for _, end in phones])
    middles = (np.arange(num_frames) + 0.5) * 0.02
    return torch.from_numpy(labels[np.minimum(np.searchsorted(ends, middles, side="right"), len(ends) - 1)])


def _shares(voices: Sequence[str], sizes: np.ndarray, fixed: Mapping[str, float]) -> np.ndarray:
    """Chance of each voice: `fixed` for some, the rest by size."""
    given = np.array([fixed.get(voice, 0.0) for voice in voices])
    free = np.where(given > 0, 0.0, sizes)
    left = 1.0 - given.sum() if free.any() else 0.0
    chances = given + left * free / max(free.sum(), 1e-9)
    return np.asarray(chances / chances.sum())


def _warps(num_mels: int, largest: float, count: int = 17) -> torch.Tensor:
    """Matrices (count, M, M) that stretch the frequency axis of a log-mel by 1 / (1 + largest) .. 1 + largest."""
    mels = np.linspace(0.0, 15.0 + 27.0 * np.log(8.0) / np.log(6.4), num_mels + 2)[1:-1]
    hz = np.where(mels < 15.0, mels * 200.0 / 3.0, 1000.0 * np.exp(np.log(6.4) / 27.0 * (mels - 15.0)))
    eye = np.eye(num_mels)
    factors = (1.0 + largest) ** np.linspace(-1.0, 1.0, count)
    matrices = [np.stack([np.interp(hz * factor, hz, row) for row in eye], axis=1) for factor in factors]
    return torch.from_numpy(np.stack(matrices).astype(np.float32))
