"""Trains the small speaker encoder to tell the training voices apart from 1 to 3 s of speech.

Loss: additive angular margin softmax (arXiv 1801.07698). A voice at another pitch is another class, so pitch is heard.

Shape letters: B batch, T filterbank frames (100 Hz), F filterbank bins, V voices, E embedding size.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tts import checkpoint
from tts.base import SAMPLE_RATE
from tts.features import fbank_16k, resample
from tts.speaker import SpeakerConfig, SpeakerEncoder, centred

SMALL = SpeakerConfig(head_channels=8, init_channels=64, growth=16, block_layers=(4, 8, 6))


class Spoken(Protocol):
    """What the trainer reads of an utterance."""

    @property
    def voice(self) -> str: ...


Examples = Iterable[tuple[np.ndarray, Spoken]]  # samples float32 (N,) at 24 kHz


@dataclass(frozen=True, kw_only=True)
class SpeakerTraining:
    """Numbers of the training; steps and learning rate belong to the loop."""

    batch: int = 32  # crops of 2 s; as many frames of other lengths
    crop_frames: tuple[int, int] = (100, 300)
    margin: float = 0.2  # radians, reached after a third of the training
    scale: float = 24.0
    noise_db: tuple[float, float] = (10.0, 40.0)  # signal over noise, on half of the crops
    seed: int = 1


class Store:
    """Filterbanks of a set, by voice: for every voice one (T, F) float16 tensor per utterance."""

    def __init__(self, examples: Examples) -> None:
        self.by_voice: dict[str, list[torch.Tensor]] = {}
        for samples, spoken in examples:
            at_16k = torch.from_numpy(resample(samples, SAMPLE_RATE, 16_000))
            self.by_voice.setdefault(spoken.voice, []).append(fbank_16k(at_16k).half())
        self.voices = sorted(self.by_voice)


class SpeakerTask:
    """The training task of the loop in app/small."""

    name = "speaker encoder"

    def __init__(
        self,
        train: Examples,
        evaluate: Mapping[str, Examples],
        config: SpeakerConfig = SMALL,
        training: SpeakerTraining | None = None,
    ) -> None:
        self.config = config
        self.training = training or SpeakerTraining()
        self.train_store = Store(train)
        self.evaluation = {name: Store(examples) for name, examples in evaluate.items()}
        self.encoder = SpeakerEncoder(config)
        self.prototypes = nn.Linear(config.embedding_size, len(self.train_store.voices), bias=False)
        self.module: nn.Module = nn.ModuleDict({"encoder": self.encoder, "prototypes": self.prototypes})

    def loss(self, step: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Margin softmax of the batch of a step."""
        generator = np.random.default_rng((self.training.seed, step))
        device = self.prototypes.weight.device
        fbank_BTF, voices_B = (part.to(device) for part in self._batch(generator))
        with torch.autocast(device.type):
            embedding_BE = self.encoder(fbank_BTF)
        cosine_BV = self._cosine(embedding_BE.float())
        margin = self.training.margin * min(1.0, 3.0 * progress)
        own = cosine_BV.gather(1, voices_B[:, None]).clamp(-0.999, 0.999)
        shifted = own * math.cos(margin) - (1.0 - own.square()).sqrt() * math.sin(margin)
        logits = self.training.scale * cosine_BV.scatter(1, voices_B[:, None], shifted)
        accuracy = float((cosine_BV.argmax(1) == voices_B).float().mean())
        return functional.cross_entropy(logits, voices_B), {"accuracy": accuracy}

    def evaluate(self) -> dict[str, float]:
        """Per set: mean cosine within and between voices, share of utterances nearest to the reference of their own
        voice (its first utterance), and, where all voices were trained on, the share classified right."""
        figures: dict[str, float] = {}
        for name, store in self.evaluation.items():
            vectors, owners = [], []
            for index, voice in enumerate(store.voices):
                for fbank in store.by_voice[voice]:
                    vectors.append(self.encoder(centred(fbank.float())[None])[0])
                    owners.append(index)
            unit = functional.normalize(torch.stack(vectors), dim=1)
            owner = torch.tensor(owners)
            similarity = unit @ unit.T
            same = owner[:, None] == owner[None]
            apart = ~torch.eye(len(owner), dtype=torch.bool)
            figures[f"{name}_same_cosine"] = float(similarity[same & apart].mean())
            figures[f"{name}_different_cosine"] = float(similarity[~same].mean())
            first = torch.tensor([owners.index(index) for index in range(len(store.voices))])
            others = torch.ones(len(owner), dtype=torch.bool)
            others[first] = False
            nearest = similarity[:, first].argmax(1)
            figures[f"{name}_nearest_reference"] = float((nearest == owner)[others].float().mean())
            if set(store.voices) <= set(self.train_store.voices):
                label = torch.tensor([self.train_store.voices.index(voice) for voice in store.voices])[owner]
                figures[f"{name}_accuracy"] = float((self._cosine(unit).argmax(1) == label).float().mean())
        return figures

    def export(self, directory: Path) -> None:
        """Write the encoder alone; the prototypes of the training voices are not needed again."""
        checkpoint.save(directory, self.encoder, self.config)

    def _cosine(self, embedding_BE: torch.Tensor) -> torch.Tensor:
        return functional.linear(
            functional.normalize(embedding_BE, dim=1), functional.normalize(self.prototypes.weight, dim=1)
        )

    def _batch(self, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops (B, T, F) of voices drawn evenly, noise added and mean taken off; voice numbers (B,)."""
        store, training = self.train_store, self.training
        size = int(generator.integers(training.crop_frames[0], training.crop_frames[1] + 1))
        numbers = generator.integers(len(store.voices), size=max(2, training.batch * 200 // size))
        crops = []
        for number in numbers:
            utterances = store.by_voice[store.voices[number]]
            fbank = utterances[generator.integers(len(utterances))]
            fbank = fbank.repeat(-(-size // len(fbank)), 1)  # a short utterance is said again
            start = int(generator.integers(len(fbank) - size + 1))
            crops.append(fbank[start : start + size].float())
        fbank_BTF = torch.stack(crops)
        snr = torch.from_numpy(generator.uniform(*training.noise_db, (len(numbers), 1, 1)).astype(np.float32))
        tilt = torch.from_numpy(generator.uniform(-2.0, 2.0, (len(numbers), 1, 1)).astype(np.float32))
        colour = tilt * torch.linspace(-1.0, 1.0, fbank_BTF.shape[2])
        loudness = fbank_BTF.exp().mean(dim=(1, 2), keepdim=True).log()
        noise = loudness - snr * (math.log(10.0) / 10.0) + colour + 0.5 * torch.randn_like(fbank_BTF)
        noisy = torch.from_numpy(generator.random((len(numbers), 1, 1)) < 0.5)
        fbank_BTF = torch.where(noisy, torch.logaddexp(fbank_BTF, noise), fbank_BTF)
        return centred(fbank_BTF), torch.from_numpy(numbers)
