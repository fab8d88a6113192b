"""The corpus: the step that speaks it, and what the other steps take from it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from app.small import corpus as speech_corpus
from app.small.corpus import Corpus, Utterance
from app.small.plan import Places, SmallTraining


def corpus(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Speak all sets."""
    amount = plan.corpus
    hours = {"prose": amount.prose_hours, "voices": amount.voices_hours, "words": amount.words_hours}
    speech_corpus.build(places.work / "corpus", list(speech_corpus.SETS), hours, amount.seed)
    return {name: Corpus(places.corpus(name)).hours for name in speech_corpus.SETS}


def examples(places: Places, name: str, limit: int | None = None) -> Iterator[tuple[np.ndarray, Utterance]]:
    """(samples, utterance) of a set; `limit` takes that many, spread over the whole set."""
    speech = Corpus(places.corpus(name))
    chosen = speech.utterances
    if limit is not None:
        chosen = spread(chosen, limit)
    for utterance in tqdm(chosen, desc=f"reading {name}"):
        yield speech.samples(utterance), utterance


class Samples(Sequence[np.ndarray]):
    """Recordings of a set, read when they are asked for."""

    def __init__(self, speech: Corpus, utterances: Sequence[Utterance]) -> None:
        self._speech, self._utterances = speech, utterances

    def __len__(self) -> int:
        return len(self._utterances)

    def __getitem__(self, index: Any) -> Any:
        return self._speech.samples(self._utterances[index])


def token_arrays(places: Places, name: str) -> tuple[Corpus, list[np.ndarray]]:
    """A set with the speech tokens (S,) of every utterance."""
    file = places.work / f"tokens_{name}.npz"
    if not file.is_file():
        raise speech_corpus.CorpusError(
            f"{file} is missing: make corpus and speech tokens first: `python launch.py train small corpus tokens --work "
            f"{places.work}`."
        )
    stored = np.load(file)
    speech, parts = Corpus(places.corpus(name)), np.split(stored["tokens"], np.cumsum(stored["sizes"])[:-1])
    if len(parts) != len(speech.utterances):
        raise speech_corpus.CorpusError(
            f"the speech tokens of {name} are of another build: delete tokens_{name}.npz and tokens.done in {places.work}"
        )
    return speech, parts


def codebook(places: Places) -> int:
    """Number of speech tokens of the trained tokenizer."""
    from tts.tokenizer.model import SpeechTokenizer

    return int(SpeechTokenizer.load(places.asset("speech_tokenizer")).config.vocabulary_size)


def spread(items: list, limit: int) -> list:
    """At most `limit` items, evenly over the whole list."""
    if len(items) <= limit:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, limit).astype(int)]


def chunks(items: list, size: int) -> Iterator[list]:
    """Consecutive pieces of a list."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def save_arrays(path: Path, **arrays: Any) -> None:
    """Write arrays in one go, so that an interrupted step leaves no half file."""
    partial = path.with_suffix(".part.npz")
    np.savez(partial, **arrays)
    partial.replace(path)
