"""Training data of the recogniser: log-mel features with exact alignments, and their augmentation.

Legend: B batch, T fbank frames (10 ms), F encoder frames (60 ms), M mel bins, L word pieces.
Noise is added in the log-mel domain (powers add), so every epoch hears other noise at no cost.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import soxr
import torch
from torch import Tensor

from asr.base import SAMPLE_RATE
from asr.funasr_model import offline_front_end
from asr.units import CONTINUES, SPECIAL, UNKNOWN, normalise

_PHONES = "pau aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z zh"
PHONES = (*_PHONES.split(), "other")
_END = "</w>"
_RAREST = 2  # a pair must occur this often to become a piece
_LETTERS = "abcdefghijklmnopqrstuvwxyz'"
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


class Units:
    """Word pieces learned from the training text by byte-pair encoding; the same text gives the same pieces."""

    def __init__(self, texts: Iterable[str], size: int) -> None:
        counts = Counter(word for text in texts for word in normalise(text).split())
        spelled = {word: [*word[:-1], word[-1] + _END] for word in counts}
        pieces = [letter + end for end in ("", _END) for letter in _LETTERS]
        self._ranks: dict[tuple[str, str], int] = {}
        pairs: Counter[tuple[str, str]] = Counter()
        holders: dict[tuple[str, str], set[str]] = {}

        def account(word: str, sign: int) -> None:
            for pair in pairwise(spelled[word]):
                pairs[pair] += sign * counts[word]
                holders.setdefault(pair, set()).add(word)

        for word in spelled:
            account(word, 1)
        while len(pieces) < size and pairs:
            best = max(pairs, key=lambda pair: (pairs[pair], pair))
            if pairs[best] < _RAREST:
                break
            self._ranks[best] = len(self._ranks)
            pieces.append(best[0] + best[1])
            for word in holders.pop(best):
                account(word, -1)
                spelled[word] = _merge(spelled[word], best)
                account(word, 1)
            del pairs[best]
        names = [p.removesuffix(_END) if p.endswith(_END) else p + CONTINUES for p in pieces]
        self.tokens: list[str] = [*SPECIAL, *names, UNKNOWN]
        self._ids = {piece: i + len(SPECIAL) for i, piece in enumerate(pieces)}
        self._encoded: dict[str, list[int]] = {}

    def encode(self, word: str) -> list[int]:
        """Ids of a normalised word."""
        if word not in self._encoded:
            symbols = [*word[:-1], word[-1] + _END]
            while found := [pair for pair in pairwise(symbols) if pair in self._ranks]:
                symbols = _merge(symbols, min(found, key=self._ranks.__getitem__))
            self._encoded[word] = [self._ids[symbol] for symbol in symbols]
        return self._encoded[word]


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


@dataclass(frozen=True)
class Example:
    """One utterance, ready for batches."""

    fbank_TM: np.ndarray  # float16, natural log of mel energies of 16-bit sample values
    pieces_L: np.ndarray  # int64
    spans_L2: np.ndarray  # float32, start and end of each piece in seconds
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


def example(heard: Heard, units: Units) -> Example | None:
    """Features with aligned pieces; None where words and text do not match or nothing is spoken."""
    recording, features = heard.recording, heard.fbank_TM
    pieces: list[int] = []
    spans: list[tuple[float, float]] = []
    for word, start, end in recording.words:
        ids = [i for part in normalise(word).split() for i in units.encode(part)]
        letters = np.cumsum([0, *(len(units.tokens[i].removesuffix(CONTINUES)) for i in ids)])
        for k in range(len(ids)):
            share = letters[k : k + 2] / letters[-1]
            spans.append((start + (end - start) * share[0], start + (end - start) * share[1]))
        pieces += ids
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
    alphas_BF: Tensor  # how much of a piece each frame holds; sums to the number of pieces
    frame_pieces_BF: Tensor  # piece spoken in the frame, 0 = none, -1 = padding
    frame_phones_BF3: Tensor  # phones at -20, 0, +20 ms around the frame's centre, -1 = unknown


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
        if kind < 0.2:
            return
        snr_db = rng.uniform(30, 55) if kind < 0.55 else rng.uniform(7, 30)
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
    hop = SKIP / FRAME_HZ
    edges = np.arange(num_frames + 1) * hop + CENTRE_S - hop / 2
    edges[-1] = max(edges[-1], float(spans_L2[-1, 1]))
    # The number of pieces spoken up to a time is piecewise linear; its increments are the targets of the CIF weights.
    times, counts = spans_L2.reshape(-1), np.repeat(np.arange(len(spans_L2) + 1), 2)[1:-1]
    alphas = np.diff(np.interp(edges, np.maximum.accumulate(times), counts)).astype(np.float32)
    centres = np.arange(num_frames) * hop + CENTRE_S
    owner = np.minimum(np.searchsorted(spans_L2[:, 1], centres), len(spans_L2) - 1)
    inside = (centres >= spans_L2[owner, 0]) & (centres < spans_L2[owner, 1])
    around = np.arange(num_frames)[:, None] * SKIP + np.array([-2, 0, 2])[None]
    return alphas, np.where(inside, pieces_L[owner], 0), phones_T[around.clip(0, len(phones_T) - 1)]


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
