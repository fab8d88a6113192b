"""Learns how a voice sounds where a turn ends: utterances whole against the same ones broken off between two words.

Rooms are made for each: an echo that dies away, a level, some noise; so that what is learned is how people speak, not how a
recording was cut.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import nn
from torch.nn import functional

from asr.base import SAMPLE_RATE
from asr.training.data import Recording
from asr.turn_sound import TurnSound, features
from asr.vad import voiced_span

_STOPS = ".,!?;:"


@dataclass(frozen=True, kw_only=True)
class TurnSoundTraining:
    """What is made of an utterance; steps and learning rate belong to the loop."""

    batch: int = 128
    breaks: int = 2  # of an utterance, as many as it has places for; it is heard whole as often
    fade_s: tuple[float, float] = (0.003, 0.06)  # of the voice where it is broken off
    pausing: float = 0.5  # share in which there was a pause before
    pause_s: tuple[float, float] = (0.2, 1.0)
    level_db: tuple[float, float] = (-18.0, 3.0)
    noisy: float = 0.3  # share
    noise_db: tuple[float, float] = (15.0, 35.0)  # signal over noise
    echoing: float = 0.6  # share
    echo_s: tuple[float, float] = (0.15, 0.6)  # in which the echo falls by 60 dB
    direct_db: tuple[float, float] = (0.0, 15.0)  # voice over echo
    doubt: float = 0.05  # taken off what is certain, so that nothing is learned to be surer than that
    seed: int = 1


class Examples:
    """Features (N, T, C) of utterances and their parts, and whether each is whole (N,)."""

    def __init__(self, speech: Iterable[Recording], training: TurnSoundTraining) -> None:
        rng = np.random.default_rng(training.seed)
        heard, whole = [], []
        for utterance in speech:
            samples = soxr.resample(utterance.samples, utterance.sample_rate, SAMPLE_RATE)
            words = utterance.words
            between = [round((a[2] + b[1]) / 2 * SAMPLE_RATE) for a, b in pairwise(words)]
            open_ends = [at for at, word in zip(between, words, strict=False) if word[0][-1] not in _STOPS]
            for end in rng.permutation(open_ends)[: training.breaks]:
                for part in (_faded(samples[:end], training, rng), samples):
                    inner = [at for at in between if at < len(part)]
                    if inner and rng.random() < training.pausing:
                        part = _with_pause(part, int(rng.choice(inner)), training, rng)
                    heard.append(features(*_in_room(part, training, rng)))
                whole += [False, True]
        self.heard = torch.from_numpy(np.stack(heard)).half()
        self.whole = torch.tensor(whole, dtype=torch.float32)


class TurnSoundTask:
    """The training task of the loop in app/small."""

    name = "sound of the end of a turn"

    def __init__(
        self, train: Iterable[Recording], evaluate: Iterable[Recording], training: TurnSoundTraining | None = None
    ) -> None:
        self.training = training or TurnSoundTraining()
        self._train = Examples(train, self.training)
        self._evaluate = Examples(evaluate, dataclasses.replace(self.training, seed=self.training.seed + 1))
        torch.manual_seed(self.training.seed)
        self.module: nn.Module = TurnSound()

    def loss(self, step: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Cross entropy of the batch of a step."""
        chosen = np.random.default_rng((self.training.seed, step)).integers(
            len(self._train.whole), size=self.training.batch
        )
        device = next(self.module.parameters()).device
        log_odds = self.module(self._train.heard[chosen].to(device).float())
        whole, doubt = self._train.whole[chosen].to(device), self.training.doubt
        return functional.binary_cross_entropy_with_logits(log_odds, whole * (1 - 2 * doubt) + doubt), {}

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """How often it is wrong about the held-out utterances, and how often a whole one is judged above a broken one."""
        device = next(self.module.parameters()).device
        log_odds = self.module(self._evaluate.heard.to(device).float()).cpu()
        whole = self._evaluate.whole.bool()
        return {
            "wrong": float(((log_odds > 0) != whole).float().mean()),
            "ordered": ordered(log_odds[whole].tolist(), log_odds[~whole].tolist()),
        }

    def export(self, directory: Path) -> None:
        """Write the weights folder that is used."""
        assert isinstance(self.module, TurnSound)
        self.module.save(directory)


def ordered(above: Sequence[float], below: Sequence[float]) -> float:
    """Share of the pairs of both whose first is the larger (the area under the curve)."""
    sorted_below = np.sort(below)
    return float(np.searchsorted(sorted_below, above).mean() / len(sorted_below))


def _faded(voice: np.ndarray, training: TurnSoundTraining, rng: np.random.Generator) -> np.ndarray:
    """A copy that dies away at its end."""
    fade = min(len(voice), round(rng.uniform(*training.fade_s) * SAMPLE_RATE))
    return np.concatenate([voice[: len(voice) - fade], voice[len(voice) - fade :] * np.linspace(1.0, 0.0, fade)])


def _with_pause(voice: np.ndarray, at: int, training: TurnSoundTraining, rng: np.random.Generator) -> np.ndarray:
    """A voice that pauses before sample `at`."""
    silence = np.zeros(round(rng.uniform(*training.pause_s) * SAMPLE_RATE))
    after = _faded(voice[at:][::-1], training, rng)[::-1]
    return np.concatenate([_faded(voice[:at], training, rng), silence, after])


def _in_room(voice: np.ndarray, training: TurnSoundTraining, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """A voice as a microphone hears it, float32 (N,), with the silence after it; and the sample at which it ends."""
    voice = voice * np.float32(10 ** (rng.uniform(*training.level_db) / 20))
    dry = np.concatenate([np.zeros(SAMPLE_RATE // 5), voice, np.zeros(SAMPLE_RATE // 4)])
    if rng.random() < training.echoing:
        dry = dry + _echo(dry, training, rng)
    noise = 5e-4 * rng.standard_normal(len(dry))
    loud = dry[np.abs(dry) > 0.01]
    if len(loud) and rng.random() < training.noisy:
        spectrum = np.fft.rfft(rng.standard_normal(len(dry)))
        pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), len(dry))
        noise += (
            pink
            * np.sqrt(np.square(loud).mean() / np.square(pink).mean())
            * 10 ** (-rng.uniform(*training.noise_db) / 20)
        )
    heard = np.clip(dry + noise, -1.0, 1.0).astype(np.float32)
    _, end = voiced_span(heard, 0, len(heard))
    return heard, end


def _echo(dry: np.ndarray, training: TurnSoundTraining, rng: np.random.Generator) -> np.ndarray:
    """What a room answers: noise that dies away."""
    lasts_s = rng.uniform(*training.echo_s)
    at_s = np.arange(round(lasts_s * SAMPLE_RATE)) / SAMPLE_RATE
    room = rng.standard_normal(len(at_s)) * 10 ** (-3 * at_s / lasts_s)
    room *= 10 ** (-rng.uniform(*training.direct_db) / 20) / np.sqrt(np.square(room).sum())
    size = 1 << (len(dry) + len(room)).bit_length()
    return np.fft.irfft(np.fft.rfft(dry, size) * np.fft.rfft(room, size), size)[: len(dry)]
