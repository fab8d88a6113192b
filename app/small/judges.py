"""Judges that know nothing of the models they judge: a general recogniser, a speaker comparison, words and rules."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import jiwer
import numpy as np
from num2words import num2words

from asr.moonshine import Moonshine
from tts.features import log_mel_16k, resample

JUDGE_HZ = 16_000
_PEAK = 0.6  # recordings are judged at one loudness
_FLOOR = 2e-4  # faint noise: digital silence is nothing that a recogniser was trained on
_PAD_S = 0.3  # silence around a recording, as around real speech


@lru_cache(maxsize=1)
def _decoder() -> "pocketsphinx.Decoder":  # type: ignore[name-defined]  # noqa: F821
    import pocketsphinx

    model = Path(pocketsphinx.get_model_path()) / "en-us"
    return pocketsphinx.Decoder(
        hmm=str(model / "en-us"),
        lm=str(model / "en-us.lm.bin"),
        dict=str(model / "cmudict-en-us.dict"),
        loglevel="FATAL",
    )


def hear(samples: np.ndarray, rate: int) -> str:
    """What pocketsphinx understands, with its own general acoustic and language model; samples float32 (N,)."""
    if not len(samples) or not np.abs(samples).max():
        return ""
    audio = resample(samples.astype(np.float32), rate, JUDGE_HZ)
    audio = audio / np.abs(audio).max() * _PEAK
    pad = np.zeros(int(_PAD_S * JUDGE_HZ), np.float32)
    audio = np.concatenate([pad, audio, pad])
    audio += _FLOOR * np.random.default_rng(0).standard_normal(len(audio)).astype(np.float32)
    pcm = (audio * 32767).astype(np.int16)
    decoder = _decoder()
    decoder.reinit_feat()  # or its cepstral mean would be that of what it heard before
    decoder.start_utt()
    decoder.process_raw(pcm.tobytes(), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return re.sub(r"\(\d+\)", "", found.hypstr) if found else ""


@lru_cache(maxsize=1)
def _moonshine() -> Moonshine:
    return Moonshine()


def hear_moonshine(samples: np.ndarray, rate: int) -> str:
    """What Moonshine tiny understands, a network trained on people's speech (arXiv 2410.15608); samples float32 (N,)."""
    if not len(samples) or not np.abs(samples).max():
        return ""
    return _moonshine().transcribe(resample(samples.astype(np.float32), rate, JUDGE_HZ))


JUDGES: dict[str, Callable[[np.ndarray, int], str]] = {"pocketsphinx": hear, "Moonshine": hear_moonshine}


def words(text: str) -> list[str]:
    """Lower-case words with apostrophes; digits as words; no punctuation."""
    text = re.sub(r"\d+", lambda m: f" {num2words(int(m[0]))} ", text)
    return re.sub(r"[^a-z' ]+", " ", text.lower().replace("-", " ")).split()


@dataclass(frozen=True)
class ErrorRate:
    """Word error rate over a set, with a 95 % bootstrap interval over its items."""

    rate: float
    low: float
    high: float
    num_words: int
    first_word_errors: float  # share of items whose first word is missing or wrong
    last_word_errors: float

    def __str__(self) -> str:
        return f"{100 * self.rate:.1f} % ({100 * self.low:.1f}-{100 * self.high:.1f})"


def error_rate(truths: Sequence[str], heard: Sequence[str], *, seed: int = 0) -> ErrorRate:
    """Corpus-level word error rate of `heard` against `truths`."""
    errors, counts, first, last = [], [], 0, 0
    for truth, found in zip(truths, heard, strict=True):
        want, got = words(truth), words(found)
        result = jiwer.process_words(" ".join(want), " ".join(got) or "-")
        errors.append(result.substitutions + result.deletions + result.insertions)
        counts.append(len(want))
        aligned = {
            index: chunk.type == "equal"
            for chunk in result.alignments[0]
            for index in range(chunk.ref_start_idx, chunk.ref_end_idx)
        }
        first += not aligned.get(0, False)
        last += not aligned.get(len(want) - 1, False)
    low, high = bootstrap(lambda i: float(np.sum(np.array(errors)[i]) / np.sum(np.array(counts)[i])), len(counts), seed)
    total = sum(counts)
    return ErrorRate(sum(errors) / total, low, high, total, first / len(counts), last / len(counts))


def difference(
    truths: Sequence[str], heard: Sequence[str], reference: Sequence[str], *, seed: int = 0
) -> tuple[float, float, float]:
    """By how much the word error rate of `heard` is above that of `reference`, item by item, with its 95 % interval."""
    counts = np.array([len(words(truth)) for truth in truths])
    more = np.array([_errors(t, a) - _errors(t, b) for t, a, b in zip(truths, heard, reference, strict=True)])

    def statistic(items: np.ndarray) -> float:
        return float(more[items].sum() / counts[items].sum())

    return statistic(np.arange(len(counts))), *bootstrap(statistic, len(counts), seed)


def _errors(truth: str, found: str) -> int:
    result = jiwer.process_words(" ".join(words(truth)), " ".join(words(found)) or "-")
    return int(result.substitutions + result.deletions + result.insertions)


def bootstrap(
    statistic: Callable[[np.ndarray], float], size: int, seed: int = 0, rounds: int = 1000
) -> tuple[float, float]:
    """95 % interval of a statistic of item indices."""
    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.integers(size, size=size)) for _ in range(rounds)]
    return float(np.percentile(drawn, 2.5)), float(np.percentile(drawn, 97.5))


def satisfies(answer: str, groups: Iterable[Iterable[str]]) -> bool:
    """Whether each group of alternatives has one that stands in the answer as whole words."""
    said = f" {' '.join(words(answer))} "
    return all(any(f" {' '.join(words(option))} " in said for option in group) for group in groups)


class SpeakerJudge:
    """Compares voices by cepstral statistics and pitch, whitened on the training voices (linear discriminant analysis).

    Neither a network nor trained together with the synthesiser: it sees only original recordings of the corpus.
    """

    def __init__(self, recordings: Sequence[np.ndarray], speakers: Sequence[str], rate: int, dims: int = 24) -> None:
        """`recordings`: float32 (N,) each, several of every speaker."""
        features = np.stack([self._features(samples, rate) for samples in recordings])
        self._mean, self._scale = features.mean(0), features.std(0) + 1e-6
        features = (features - self._mean) / self._scale
        names = sorted(set(speakers))
        member = np.array([names.index(speaker) for speaker in speakers])
        centres = np.stack([features[member == index].mean(0) for index in range(len(names))])
        within = np.cov((features - centres[member]).T) + 0.05 * np.eye(features.shape[1])
        values, vectors = np.linalg.eigh(within)
        whiten = vectors / np.sqrt(values)
        _, _, directions = np.linalg.svd((centres - centres.mean(0)) @ whiten, full_matrices=False)
        self._project = whiten @ directions[:dims].T

    def vector(self, samples: np.ndarray, rate: int) -> np.ndarray:
        """Unit vector (dims,) of a voice."""
        projected = ((self._features(samples, rate) - self._mean) / self._scale) @ self._project
        return projected / np.linalg.norm(projected)

    @staticmethod
    def _features(samples: np.ndarray, rate: int) -> np.ndarray:
        import torch

        audio = resample(samples.astype(np.float32), rate, JUDGE_HZ)
        mel_MT = log_mel_16k(torch.from_numpy(audio)[None], 80)[0].numpy()
        loud = mel_MT.mean(0)
        mel_MT = mel_MT[:, loud > np.percentile(loud, 30)]
        basis = np.cos(np.pi / 80 * (np.arange(80) + 0.5)[None] * np.arange(25)[:, None])
        cepstrum = basis @ mel_MT
        pitch = np.log(voiced_f0(samples, rate))
        quartiles = np.percentile(pitch, [25, 50, 75]) if len(pitch) else np.zeros(3)
        return np.concatenate([cepstrum[1:].mean(1), cepstrum[1:].std(1), quartiles])


def voiced_f0(samples: np.ndarray, rate: int, low_hz: float = 60.0, high_hz: float = 450.0) -> np.ndarray:
    """F0 in Hz of the clearly voiced 10 ms frames, by normalised autocorrelation of 50 ms windows."""
    audio = resample(samples.astype(np.float32), rate, 8_000)
    size, hop = 400, 80
    if len(audio) < size:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(audio, size)[::hop] * np.hanning(size)
    frames = frames - frames.mean(1, keepdims=True)
    spectrum = np.fft.rfft(frames, 1024)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:, :size]
    taper = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(size), 1024)) ** 2)[:size]
    correlation = correlation / (correlation[:, :1] + 1e-9) / (taper / taper[0] + 1e-3)
    first, last = int(8_000 / high_hz), int(8_000 / low_hz)
    band = correlation[:, first : last + 1]
    peak = band.max(1)
    # the shortest lag that is nearly as good as the best one: the others are its multiples
    lag = first + np.argmax(band > 0.9 * peak[:, None], axis=1)
    for index in range(len(lag)):
        while lag[index] < last and correlation[index, lag[index] + 1] > correlation[index, lag[index]]:
            lag[index] += 1
    power = (frames**2).mean(1)
    voiced = (peak > 0.6) & (power > 0.03 * np.percentile(power, 95))
    return 8_000 / lag[voiced]
