"""What crosses the border of the recogniser: events out, 16 kHz samples in.

All positions are indices on the capture sample clock (16 kHz, first sample ever pushed = 0).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

SAMPLE_RATE = 16_000


class RecognizerError(Exception):
    """The recogniser cannot be built or run; the message says what, where and what to do next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceHeard:
    """Somebody makes himself heard, too short so far to be sure of: `SpeechStarted` or `VoiceLost` follows."""

    at: int  # first window of it


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceLost:
    """It was too short to be speech."""

    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechSustained:
    """The user's voice lasts: longer than most coughs; whether it says something is not known yet."""

    at: int  # capture position at which that was clear


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStarted:
    """The user began to speak."""

    at: int  # first voiced sample


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialTranscript:
    """The transcript of the running turn so far. Its first `stable_chars` characters were in the one before."""

    text: str
    stable_chars: int
    at: int  # end of the voice that it was made from


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechPaused:
    """The voice has just stopped, perhaps between two words: the words so far, long before the end of the turn is decided.

    Another one follows where more of the voice turns up, `SpeechResumed` where it comes back at once, else `SpeechEnded`; and,
    after that, another where the words call for more but the silence is so long that they may be all.
    """

    text: str  # what was said up to here
    complete: bool  # there are words, and they do not call for more, or nothing more has come for long


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechResumed:
    """The voice came back before its silence counted as a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechEnded:
    """A pause began; the turn goes on (with another `SpeechStarted`) if speech comes back before it is over."""

    at: int  # last voiced sample before the pause
    text: str = ""  # what was said up to here: the final transcript, unless the user goes on
    complete: bool = False  # there are words, and they do not call for more


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalTranscript:
    """The turn is over and this is its text ("" when nothing was recognised)."""

    text: str
    speech_start: int  # first voiced sample of the turn
    speech_end: int  # last voiced sample of the turn
    decided_at: int  # capture position at which the end of turn was decided
    compute_ms: float  # wall time of the final pass


Event = (
    VoiceHeard
    | VoiceLost
    | SpeechStarted
    | SpeechSustained
    | PartialTranscript
    | SpeechPaused
    | SpeechResumed
    | SpeechEnded
    | FinalTranscript
)


class RecognitionStream(Protocol):
    """One microphone or file. Synchronous, without threads; any chunking of the samples gives the same turns."""

    def push(self, samples: np.ndarray) -> list[Event]:
        """Take float32 mono samples at 16 kHz, shape (N,), and return the events they caused."""
        ...

    def finish(self) -> list[Event]:
        """Say that no more samples come: closes a running turn at once."""
        ...

    def reset(self) -> None:
        """Forget the running turn; the sample clock goes on."""
        ...


class Recognizer(Protocol):
    """A loaded recogniser; hands out streams."""

    def stream(self, patience: Callable[[], float] = lambda: 1.0) -> RecognitionStream:
        """A new stream with its own sample clock. `patience`: by what the silence before a turn's end is multiplied."""
        ...

    def transcribe(self, samples: np.ndarray) -> str:
        """Transcribe a whole recording: float32 mono at 16 kHz, shape (N,)."""
        ...

    def warm_up(self) -> None:
        """Run everything once, so that the first turn is as fast as the tenth."""
        ...
