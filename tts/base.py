"""What crosses the border of the synthesiser: text tokens in, 24 kHz samples out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

SAMPLE_RATE = 24_000
TOKEN_HZ = 25  # speech tokens per second
MEL_HZ = 50  # mel frames per second
SAMPLES_PER_TOKEN = SAMPLE_RATE // TOKEN_HZ
LEFT_OUT = SAMPLE_RATE // 20  # samples of an utterance's beginning: networks tick when they begin, speech begins later


class SynthesisError(Exception):
    """The synthesiser cannot be built or run; the message says what, where and what to do next."""


class CheckpointError(SynthesisError):
    """A weights folder is missing, truncated or of another model."""


class VoiceError(SynthesisError):
    """A reference recording cannot serve as a voice."""


class LengthError(SynthesisError):
    """A text cannot be given the wanted length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoPass:
    """Speak a text, once it is complete, in two passes: all durations first, then the speech with those, scaled together."""

    length_s: float | None = None  # of the whole; None: the predicted length divided by the speed


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStep:
    """One step of the text-to-token model: the speech tokens of one text token, or of several at once."""

    text_token: int  # index within the utterance of the last text token voiced by then; -1: none
    num_speech_tokens: int
    num_samples: int  # of these speech tokens that are played; the very beginning of an utterance is left out
    token_end: int  # how many language model tokens are fully voiced once these speech tokens were played
    synth_ms: float
    capped: bool = False  # cut to the longest duration that the model can say
    text: str = ""  # spoken form of the text tokens voiced since the step before


@dataclass(frozen=True, slots=True, kw_only=True)
class PcmChunk:
    """Samples ready to play."""

    samples: np.ndarray  # float32 mono 24 kHz, (N,)
    token_end: int  # how many language model tokens are fully voiced at the chunk's end
    num_speech_tokens: int  # speech tokens decoded into this chunk
    synth_ms: float
    last: bool
    vocoder_ms: float = 0.0  # the vocoder's share of `synth_ms`


class SynthesisStream(Protocol):
    """One utterance. Synchronous, without threads."""

    def push(self, token_id: int, text: str) -> None:
        """Take one language model token: its id and its text."""
        ...

    def finish(self) -> None:
        """Say that the text is complete."""
        ...

    def step(self, in_hand_s: float = 0.0) -> SpeechStep | PcmChunk | None:
        """Do one unit of work; None when it waits for text (or is done).

        `in_hand_s`: seconds of this utterance that its listener has yet to hear. The more, the more sound may be made in one
        pass, which takes less computing than several passes; it changes nothing of what is said.
        """
        ...

    @property
    def done(self) -> bool:
        """True once the last chunk has been returned."""
        ...


class Synthesizer(Protocol):
    """A loaded synthesiser."""

    @property
    def vocabulary_id(self) -> str:
        """Hash of the text tokenizer whose ids `push` takes directly."""
        ...

    def voice(self, path: Path, text: str = "") -> Any:
        """Read a reference recording and return the voice to pass to `stream`. Raises VoiceError.

        `text`: what is said in it, for the voice to speak in its manner too; empty: its sound alone. The voice has `notes`:
        sentences for its owner where that could not be used.
        """
        ...

    def stream(
        self,
        *,
        voice: Any = None,
        speed: float = 1.0,
        share_ids: bool = True,
        lookahead: int | None = None,
        two_pass: TwoPass | None = None,
    ) -> SynthesisStream:
        """Begin an utterance. `share_ids`: pushed ids are of our own vocabulary; else the text is tokenised here.

        `lookahead`: text tokens that must be there beyond the one being spoken; None: as configured.
        `two_pass`: nothing is spoken before the text is complete; `step` may then raise LengthError. Raises
        SynthesisError where there are no durations, or no whole text, to scale.
        """
        ...

    def tokenize(self, text: str) -> list[tuple[int, str]]:
        """Split text into (id, text) tokens as a language model would send them."""
        ...

    def warm_up(self) -> None: ...
