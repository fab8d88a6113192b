"""Training data of the recogniser: log-mel features with exact alignments, and their augmentation.

Legend: B batch, T fbank frames (10 ms), F encoder frames (60 ms), M mel bins, L word pieces.
Noise is added in the log-mel domain (powers add), so every epoch hears other noise at no cost.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise

import numpy as np
import soxr
import torch
from torch import Tensor

from asr.base import SAMPLE_RATE
from asr.funasr_model import offline_front_end
from asr.training.spelling import Phones, Units
from asr.units import normalise

_PHONES = "pau aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z zh"
PHONES = (*_PHONES.split(), "other")
NUM_MELS = 80
FRAME_HZ = 100
STACK, SKIP = 7, 6  # low frame rate: 7 frames of 10 ms stacked every 6
SILENCE = float(np.log(np.finfo(np.float32).eps))  # what the front end gives for digital silence
CENTRE_S = 0.0125  # centre of fbank frame 0


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One utterance as the corpus gives it."""

    samples: np.ndarray  # float32 mono, [-1, 1]
    sample_rate: int
    text: str
    words: Sequence[tuple[str, float, float]] = ()  # word of the text, start, end in seconds
    phones: Sequence[tuple[str, float]] = ()  # name, end in seconds; contiguous from 0


@dataclass(frozen=True)
class Example:
    """One utterance, ready for batches."""

    fbank_TM: np.ndarray  # float16, natural log of mel energies of 16-bit sample values
    pieces_L: np.ndarray  # int64; `Units.unknown` for a syllable that is no piece
    spans_L2: np.ndarray  # float32, start and end of each piece's vowel in seconds
    phones_T: np.ndarray  # int64 per 10 ms, -1 unknown
    text: str = field(repr=False)


def fbank(samples: np.ndarray, sample_rate: int) -> Tensor:
    """FunASR's log-mel features without stacking and normalisation, (T, 80)."""
    if sample_rate != SAMPLE_RATE:
        samples = soxr.resample(samples, sample_rate, SAMPLE_RATE)
    features, _ = offline_front_end(NUM_MELS)(
        torch.from_numpy(np.ascontiguousarray(samples, np.float32))[None], [len(samples)]
    )
    return features[0]


@dataclass(frozen=True)
class Heard:
    """A recording whose samples have become features."""

    fbank_TM: np.ndarray  # float16
    recording: Recording  # without samples


def hear(recording: Recording) -> Heard:
    """Compute the features and let go of the samples."""
    features = fbank(recording.samples, recording.sample_rate).half().numpy()
    return Heard(features, replace(recording, samples=np.zeros(0, np.float32)))


@dataclass(frozen=True)
class Spoken:
    """A normalised word as it was spoken."""

    word: str
    start: float  # seconds
    end: float
    phones: Phones = ()
    phone_ends: tuple[float, ...] = ()


def spoken_words(recording: Recording) -> list[Spoken]:
    """Every normalised word with its times and phones; the parts of a hyphenated word share its phones by letters."""
    ends = np.array([end for _, end in recording.phones])
    middles = (np.concatenate([[0.0], ends[:-1]]) + ends) / 2 if len(ends) else ends
    found: list[Spoken] = []
    for text, start, end in recording.words:
        parts = normalise(text).split()
        inside = [
            (name, min(stop, end))
            for (name, stop), middle in zip(recording.phones, middles, strict=True)
            if start <= middle < end and name != PHONES[0]
        ]
        letters = np.cumsum([0, *(len(part) for part in parts)])
        for part, (first, last) in zip(parts, pairwise(letters / max(letters[-1], 1)), strict=True):
            own = inside[round(first * len(inside)) : round(last * len(inside))]
            span = (start + (end - start) * float(first), start + (end - start) * float(last))
            if own and len(parts) > 1:
                before = inside[: round(first * len(inside))]
                span = (before[-1][1] if before else start, own[-1][1])
            found.append(Spoken(part, *span, tuple(name for name, _ in own), tuple(stop for _, stop in own)))
    return found


def spellings(recordings: Iterable[Recording]) -> Counter[tuple[str, Phones]]:
    """How often each word was spoken with which phones."""
    return Counter((spoken.word, spoken.phones) for recording in recordings for spoken in spoken_words(recording))


def example(heard: Heard, units: Units) -> Example | None:
    """Features with aligned pieces; None where words and text do not match or nothing is spoken."""
    recording, features = heard.recording, heard.fbank_TM
    pieces: list[int] = []
    spans: list[tuple[float, float]] = []
    for spoken in spoken_words(recording):
        letters = len(spoken.word)
        borders = [spoken.start + (spoken.end - spoken.start) * n / letters for n in range(letters + 1)]
        if spoken.phones:
            borders = [spoken.start, *spoken.phone_ends]
        for syllable in units.encode(spoken.word, spoken.phones):
            pieces.append(syllable.id)
            spans.append((borders[syllable.vowel], borders[syllable.vowel + 1]))
    text = normalise(recording.text)
    if not pieces or " ".join(filter(None, (normalise(w) for w, _, _ in recording.words))) != text:
        return None
    centres = np.arange(len(features)) / FRAME_HZ + CENTRE_S
    phones = np.full(len(features), -1, np.int64)
    if recording.phones:
        names = np.array([PHONES.index(n) if n in PHONES else len(PHONES) - 1 for n, _ in recording.phones])
        ends = np.array([e for _, e in recording.phones])
        phones = names[np.minimum(np.searchsorted(ends, centres), len(ends) - 1)]
    return Example(features, np.array(pieces), np.array(spans, np.float32), phones, text)


def noises(speech: Sequence[np.ndarray], seconds: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Log-mel banks (T, 80) of white, pink, brown and humming noise and of babble made from `speech` (16 kHz)."""
    count = int(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hertz = np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE), 20.0)
    waves: list[np.ndarray] = [np.fft.irfft(spectrum / hertz**slope, count) for slope in (0.0, 0.5, 1.0)]
    seconds_N = np.arange(count) / SAMPLE_RATE
    hum = np.sum([np.sin(2 * np.pi * 100 * k * seconds_N) / k for k in range(1, 20)], axis=0)
    waves.append(hum / np.std(hum) + 0.3 * waves[1] / np.std(waves[1]))
    if speech:
        joined = np.concatenate([s / (np.std(s) + 1e-6) for s in speech])
        for num_voices in (3, 6):
            starts = rng.integers(count, size=num_voices)
            waves.append(np.sum([np.roll(np.resize(joined, count), start) for start in starts], axis=0))
    return [fbank((0.05 * w / np.std(w)).astype(np.float32), SAMPLE_RATE).numpy() for w in waves]


@dataclass
class Batch:
    """A batch of augmented, stacked, not yet normalised features with targets on encoder frames."""

    features_BFM: Tensor
    lengths_B: Tensor
    pieces_BL: Tensor  # padded with -1
    piece_lengths_B: Tensor
    alphas_BF: Tensor  # CIF weights: 1 in the middle of each piece's vowel, else 0
    frame_pieces_BF: Tensor  # piece whose vowel has its middle in the frame, -1 = none
    frame_phones_BF3: Tensor  # phones at -20, 0, +20 ms around the frame's centre, -1 = unknown

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return Batch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def stack(fbank_TM: Tensor) -> Tensor:
    """Low frame rate stacking as FunASR's offline front end: (T, 80) -> (ceil(T / 6), 560)."""
    num_frames = -(-len(fbank_TM) // SKIP)
    index = torch.arange(num_frames)[:, None] * SKIP + torch.arange(STACK)[None] - STACK // 2
    return fbank_TM[index.clamp(0, len(fbank_TM) - 1)].reshape(num_frames, -1)


class Augment:
    """Voice (frequency warp, spectral tilt), level, noise, masks, and silence around and between utterances."""

    def __init__(self, noise_banks: Sequence[np.ndarray]) -> None:
        self._banks = noise_banks

    def __call__(self, parts: Sequence[Example], rng: np.random.Generator) -> tuple[np.ndarray, list[int]]:
        """Join `parts`; return log-mel (T, M) and the frame at which each part begins."""
        gaps = [int(rng.integers(0, 50)), *(int(rng.integers(8, 60)) for _ in parts[1:]), int(rng.integers(0, 70))]
        total = sum(gaps) + sum(len(p.fbank_TM) for p in parts)
        mel = np.full((total, NUM_MELS), SILENCE, np.float32)
        starts, at = [], 0
        for gap, part in zip(gaps, parts, strict=False):
            at += gap
            starts.append(at)
            mel[at : at + len(part.fbank_TM)] = self._voice(part.fbank_TM.astype(np.float32), rng)
            at += len(part.fbank_TM)
        self._add_noise(mel, rng)
        self._mask(mel, rng)
        return mel, starts

    @staticmethod
    def _voice(mel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        bins = np.arange(NUM_MELS)
        source = np.clip(bins * rng.uniform(0.93, 1.07) + rng.uniform(-1.5, 1.5), 0, NUM_MELS - 1)
        low = np.minimum(source.astype(int), NUM_MELS - 2)
        part = (source - low).astype(np.float32)
        warped = mel[:, low] * (1 - part) + mel[:, low + 1] * part
        tilt = rng.uniform(-1.2, 1.2) * (bins / NUM_MELS - 0.5) + rng.uniform(-0.6, 0.6) * np.cos(np.pi * bins / 40)
        gain = rng.uniform(-4.0, 1.4)  # -18 to +6 dB
        return np.maximum(warped + (tilt + gain).astype(np.float32), SILENCE)

    def _add_noise(self, mel: np.ndarray, rng: np.random.Generator) -> None:
        kind = rng.random()
        if kind < 0.15:
            return
        snr_db = rng.uniform(30, 55) if kind < 0.4 else rng.uniform(6, 28)
        bank = self._banks[int(rng.integers(len(self._banks)))]
        start = int(rng.integers(len(bank)))
        noise = np.take(bank, np.arange(start, start + len(mel)), axis=0, mode="wrap")
        energy = np.exp(mel).sum(1)
        speech = energy[energy > 1e-3 * energy.max()].mean()
        level = np.log(speech / np.exp(noise).sum(1).mean()) - snr_db * np.log(10) / 10
        np.logaddexp(mel, noise + np.float32(level), out=mel)

    @staticmethod
    def _mask(mel: np.ndarray, rng: np.random.Generator) -> None:
        mean = mel.mean()
        width = int(rng.integers(0, 11))
        low = int(rng.integers(0, NUM_MELS - width))
        mel[:, low : low + width] = mean
        for _ in range(len(mel) // 200):
            width = int(rng.integers(0, 6))
            start = int(rng.integers(0, max(1, len(mel) - width)))
            mel[start : start + width] = mean


def collate(items: Sequence[Sequence[Example]], augment: Augment | None, rng: np.random.Generator) -> Batch:
    """A batch of items; each item is one or more utterances in a row."""
    rows = []
    for parts in items:
        mel, starts = augment(parts, rng) if augment else (np.asarray(parts[0].fbank_TM, np.float32), [0])
        features = stack(torch.from_numpy(mel))
        shifts = [s / FRAME_HZ for s in starts]
        spans = np.concatenate([p.spans_L2 + s for p, s in zip(parts, shifts, strict=True)])
        pieces = np.concatenate([p.pieces_L for p in parts])
        phones = np.zeros(len(mel), np.int64)
        for part, start in zip(parts, starts, strict=True):
            phones[start : start + len(part.phones_T)] = part.phones_T
        rows.append((features, pieces, *_frame_targets(len(features), spans, pieces, phones)))
    lengths = torch.tensor([len(r[0]) for r in rows])
    piece_lengths = torch.tensor([len(r[1]) for r in rows])

    def pad(column: int, value: float) -> Tensor:
        values = [torch.as_tensor(r[column]) for r in rows]
        return torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=value)

    return Batch(pad(0, 0.0), lengths, pad(1, -1), piece_lengths, pad(2, 0.0), pad(3, -1), pad(4, -1))


def _frame_targets(
    num_frames: int, spans_L2: np.ndarray, pieces_L: np.ndarray, phones_T: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The CIF fires once per piece, in its vowel: weights that were spread over the piece would add up their errors."""
    hop = SKIP / FRAME_HZ
    frames_L = np.round((spans_L2.mean(1) - CENTRE_S) / hop).astype(np.int64)
    order = np.arange(len(frames_L))
    frames_L = np.maximum.accumulate(frames_L - order) + order  # one piece per frame ...
    latest = num_frames - 1 - order[::-1]
    frames_L = np.minimum(frames_L, latest).clip(min=0)  # ... and all within the utterance
    alphas, frame_pieces = np.zeros(num_frames, np.float32), np.full(num_frames, -1)
    np.add.at(alphas, frames_L, 1.0)
    frame_pieces[frames_L] = pieces_L
    around = np.arange(num_frames)[:, None] * SKIP + np.array([-2, 0, 2])[None]
    return alphas, frame_pieces, phones_T[around.clip(0, len(phones_T) - 1)]


def batches(lengths: Sequence[int], frames: int, pair_share: float, seed: int) -> Iterator[list[list[int]]]:
    """Endless batches of items (lists of utterance indices) of similar length, at most `frames` fbank frames each."""
    for epoch in range(1 << 30):
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(len(lengths)).tolist()
        items = []
        while order:
            paired = len(order) > 1 and rng.random() < pair_share
            items.append([order.pop(), order.pop()] if paired else [order.pop()])
        items.sort(key=lambda item: sum(lengths[i] for i in item) + rng.integers(60))
        plan: list[list[list[int]]] = []
        batch: list[list[int]] = []
        for item in items:
            longest = sum(lengths[i] for i in item) + 130
            if batch and longest * (len(batch) + 1) > frames:
                plan.append(batch)
                batch = []
            batch.append(item)
        plan.append(batch)
        for i in rng.permutation(len(plan)):
            yield plan[i]
