"""What a reference recording says, aligned with its speech tokens, for the text-to-token model to go on from."""

from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from tts.alignment.ctc import CtcAligner
from tts.alignment.durations import MisalignedError, align
from tts.alignment.sphinx import SAMPLE_HZ, SphinxAligner
from tts.alignment.textgrid import Alignment
from tts.base import SAMPLE_RATE
from tts.features import resample
from tts.text import SpokenStream
from tts.tmt.prompt import Prompt
from tts.vocabulary import TextVocabulary
from tts.voice import Reference

SPHINX = "pocketsphinx"
_SENTENCE_ENDS = ".!?。！？"
_MAX_UNMATCHED = 0.1  # share of the letters for which the aligner may have another spelling


class Aligner(Protocol):
    """Finds the words of a known text."""

    def align(self, samples: np.ndarray, text: str) -> Alignment:
        """Word times in 16 kHz samples (N,). Raises MisalignedError."""
        ...


class PromptReader:
    """Reads prompts for one text-to-token model."""

    def __init__(self, vocabulary: Path, *, language: str, aligner: str, max_duration: int) -> None:
        """`vocabulary`: its tokenizer.json; `aligner`: pocketsphinx, or a transformers folder of a CTC model."""
        self._vocabulary_path, self._language = vocabulary, language
        self._aligner_name, self._max_duration = aligner, max_duration

    @cached_property
    def _vocabulary(self) -> TextVocabulary:
        """Loaded for the first prompt. Raises CheckpointError."""
        return TextVocabulary(self._vocabulary_path)

    @cached_property
    def _aligner(self) -> Aligner:
        """Loaded for the first prompt. Raises CheckpointError."""
        return SphinxAligner() if self._aligner_name == SPHINX else CtcAligner.load(Path(self._aligner_name))

    def read(self, reference: Reference, tokens: np.ndarray, text: str) -> Prompt:
        """The prompt; without its text, with a note, where text and recording cannot be aligned.

        The text is the spoken form of `text`, written as a sentence: its end is what the pause behind it belongs to.
        """
        spoken = SpokenStream(self._vocabulary.encode, share_ids=False, language=self._language)
        words = [*spoken.push(0, sentence(text)), *spoken.finish()]
        samples = resample(reference.samples, SAMPLE_RATE, SAMPLE_HZ)
        try:
            if not words:
                raise MisalignedError("there is nothing to speak in it")
            found = self._aligner.align(samples, "".join(word.text for word in words))
            durations = align(
                [word.text.encode() for word in words],
                found.words,
                len(tokens),
                phones=found.phones,
                max_duration=self._max_duration,
                max_unmatched=_MAX_UNMATCHED,
            )
        except MisalignedError as error:
            note = f"the voice's text {text!r} is left out, only its speech is gone on from: {error}."
            return Prompt((), np.zeros(0, np.int64), tokens, note)
        return Prompt(tuple(word.id for word in words), durations, tokens)


def sentence(text: str) -> str:
    """A transcript as a sentence is written: recognisers give neither case nor full stop."""
    text = " ".join(text.split())
    return text[:1].upper() + text[1:] + ("" if text[-1:] in _SENTENCE_ENDS else ".")
