"""Who speaks: a pure state machine, (what happened) -> (what to do). No I/O, no clock of its own.

    LISTENING --speech--> USER_SPEAKING --end of turn--> THINKING --first audio--> BOT_SPEAKING --played--> LISTENING
                               ^                            |                          |
                               +------ recognised words ----+--------------------------+   (barge-in)

A pause after words that may be all of the turn lets the reply be prepared; the end of the turn decides what becomes of it.
A barge-in needs recognised words: a cough over the reply changes nothing.
"""

from dataclasses import dataclass
from enum import Enum

from asr.base import Event, FinalTranscript, PartialTranscript, SpeechEnded, SpeechStarted


class State(Enum):
    """Whose turn it is."""

    LISTENING = "listening"
    USER_SPEAKING = "user speaking"
    THINKING = "thinking"
    BOT_SPEAKING = "bot speaking"


@dataclass(frozen=True, slots=True)
class ReplyStarted:
    """The first samples of the reply were handed to the device."""


@dataclass(frozen=True, slots=True)
class ReplyEnded:
    """The reply was played to its end, or failed."""


@dataclass(frozen=True, slots=True)
class StopSpeaking:
    """The user wants silence (a key, a button)."""


@dataclass(frozen=True, slots=True)
class Listen:
    """Tell the listeners that the user speaks."""


@dataclass(frozen=True, slots=True)
class ShowPartial:
    """Show the transcript so far."""

    text: str


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Silence the reply and cut the conversation to what was heard."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer the user's turn."""

    transcript: FinalTranscript


@dataclass(frozen=True, slots=True)
class Prepare:
    """The user pauses after words that may be all: a reply to them may be begun, unheard."""

    text: str


@dataclass(frozen=True, slots=True)
class Drop:
    """The user goes on: a reply that was begun in the pause is to none of his turns."""


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Nothing was recognised: no turn."""


Happening = Event | ReplyStarted | ReplyEnded | StopSpeaking
Action = Listen | ShowPartial | Interrupt | Prepare | Drop | Reply | Dismiss


class TurnTaking:
    """The state of the conversation and its transitions."""

    def __init__(self) -> None:
        self.state = State.LISTENING

    def on(self, happening: Happening) -> list[Action]:
        """Take one happening, change state, and return what is to be done, in order."""
        match happening:
            case SpeechStarted():
                if self.state is State.USER_SPEAKING:
                    return [Drop()]
                if self.state is not State.LISTENING:
                    return []
                self.state = State.USER_SPEAKING
                return [Listen()]
            case PartialTranscript(text=text):
                return [*self._take_floor(text), ShowPartial(text)] if text else []
            case SpeechEnded(text=text, complete=complete):
                return [Prepare(text)] if complete and self.state is State.USER_SPEAKING else []
            case FinalTranscript(text=text):
                if not text:
                    if self.state is not State.USER_SPEAKING:
                        return []
                    self.state = State.LISTENING
                    return [Drop(), Dismiss()]
                actions = self._take_floor(text)
                self.state = State.THINKING
                return [*actions, Reply(happening)]
            case ReplyStarted():
                if self.state is State.THINKING:
                    self.state = State.BOT_SPEAKING
                return []
            case StopSpeaking():
                if self.state not in (State.THINKING, State.BOT_SPEAKING):
                    return []
                self.state = State.LISTENING
                return [Interrupt()]
            case ReplyEnded():
                if self.state in (State.THINKING, State.BOT_SPEAKING):
                    self.state = State.LISTENING
                return []

    def _take_floor(self, text: str) -> list[Action]:
        """The user says `text`: he has the floor, and a running reply is interrupted."""
        before, self.state = self.state, State.USER_SPEAKING
        if before in (State.THINKING, State.BOT_SPEAKING):
            return [Interrupt(), Listen()]
        return [Listen()] if before is State.LISTENING else []
