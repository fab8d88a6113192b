"""Who speaks: a pure state machine, (what happened) -> (what to do). No I/O, no clock of its own.

    LISTENING --speech--> USER_SPEAKING --end of turn--> THINKING --first audio--> BOT_SPEAKING --played--> LISTENING
                               ^                            |                          |
                               +------ recognised words ----+--------------------------+   (barge-in)

A pause after words that may be all of the turn lets the reply be prepared; the end of the turn decides what becomes of it.
A voice over the reply ducks it at once, and silences it when it lasts or words are recognised. Words interrupt it; a cough or a
back-channel word does not, and the reply comes back to its level. While the voice is so short that it may be one of those, its
words only silence until it ends: recognisers read "uh-huh" as whatever is near.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

from asr.base import SAMPLE_RATE as CAPTURE_HZ
from asr.base import (
    Event,
    FinalTranscript,
    PartialTranscript,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    SpeechSustained,
    VoiceHeard,
    VoiceLost,
)


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
class Typed:
    """The user's turn came as a line of text."""

    transcript: FinalTranscript


@dataclass(frozen=True, slots=True)
class Asked:
    """A reply to the conversation as it stands is wanted; `instructions` in place of the system prompt, unless None."""

    instructions: str | None = None


@dataclass(frozen=True, slots=True)
class NotHeard:
    """The recogniser failed; what the user was saying is lost."""

    reason: str


@dataclass(frozen=True, slots=True)
class Duck:
    """A voice over the reply, perhaps a barge-in: play the reply faintly until that is known."""


@dataclass(frozen=True, slots=True)
class Hush:
    """The voice lasts or says something, it is probably one: play the reply unheard until that is known."""


@dataclass(frozen=True, slots=True)
class Resume:
    """It was none: the reply comes back to its level."""


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
class Keep:
    """The user's turn belongs to the conversation; a reply is begun when it is asked for."""

    transcript: FinalTranscript


@dataclass(frozen=True, slots=True)
class Answer:
    """Reply to the conversation as it stands."""

    instructions: str | None


@dataclass(frozen=True, slots=True)
class Prepare:
    """The user pauses after words that may be all: a reply to them may be begun, unheard, if it was not before."""

    text: str


@dataclass(frozen=True, slots=True)
class Drop:
    """The user goes on: a reply that was begun in the pause is to none of his turns."""


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Nothing was recognised: no turn."""


@dataclass(frozen=True, slots=True)
class Apologise:
    """Tell the user that his turn cannot be answered, and why."""

    reason: str


_HUM = re.compile(r"h?[aeiou]+h?[mn]*")  # no consonant that takes a tongue or lips to begin with


def _is_hum(words: Sequence[str]) -> bool:
    """True for "uh hi", "oh", "a", "i": what is made of "uh-huh" by recognisers. "hey", "who" and "oh no" are meant."""
    return bool(words) and words[0][0] in "aeiou" and all(_HUM.fullmatch(word) for word in words)


Happening = Event | ReplyStarted | ReplyEnded | StopSpeaking | Typed | Asked | NotHeard
Action = (
    Listen
    | ShowPartial
    | Duck
    | Hush
    | Resume
    | Interrupt
    | Prepare
    | Drop
    | Reply
    | Keep
    | Answer
    | Dismiss
    | Apologise
)


class _Voice(IntEnum):
    """How much is heard of the user, and what a reply has given way to."""

    NONE = 0
    HEARD = 1
    LASTING = 2


class TurnTaking:
    """The state of the conversation and its transitions."""

    def __init__(self, backchannel: frozenset[str] = frozenset(), aside_s: float = 0.0) -> None:
        """`backchannel`: words that, over a reply, are no turn; `aside_s`: a voice so short may be one, however it is read."""
        self._backchannel = backchannel
        self._aside_s = aside_s
        self.state = State.LISTENING
        self.interruptible = True  # a voice over a reply may stop it
        self.replies = True  # of itself, to every turn
        self._voice = _Voice.NONE
        self._yielded = _Voice.NONE  # to which the reply has given way
        self._began: int | None = None  # first sample of the voice since the last turn

    def on(self, happening: Happening) -> list[Action]:
        """Take one happening, change state, and return what is to be done, in order."""
        match happening:
            case VoiceHeard():
                self._voice = _Voice.HEARD
                return self._yield()
            case SpeechSustained():
                self._voice = _Voice.LASTING
                return self._yield()
            case VoiceLost():
                self._voice = _Voice.NONE
                return self._resume()
            case SpeechStarted(at=at):
                self._began = at if self._began is None else self._began
                return self._voice_began()
            case PartialTranscript(text=text, at=at):
                if not text or self._is_aside(text, at):
                    return []
                if self._replying and self._is_short(at):
                    self._voice = _Voice.LASTING  # for all that is known
                    return self._yield()
                return self._show(text)
            case SpeechPaused(text=text, complete=complete):
                if self.state is not State.USER_SPEAKING or not self.replies:
                    return []
                return [Prepare(text) if complete else Drop()]
            case SpeechResumed():
                return [Drop()] if self.state is State.USER_SPEAKING else []
            case SpeechEnded(at=at, text=text, complete=complete):
                self._voice = _Voice.NONE
                if self._is_aside(text, at):
                    return self._resume()
                shown = self._show(text) if self._replying else []
                prepared = complete and self.replies and self.state is State.USER_SPEAKING
                return [*shown, Prepare(text)] if prepared else shown
            case FinalTranscript(text=text, speech_end=at):
                self._voice = _Voice.NONE
                aside = self._is_aside(text, at)
                self._began = None
                return self._resume() if aside else self._turn_over(happening)
            case Typed(transcript):
                return self._turn_over(transcript)
            case Asked(instructions):
                stopped = [Interrupt()] if self._replying else []
                self._silent(State.THINKING)
                return [*stopped, Drop(), Answer(instructions)]
            case ReplyStarted():
                if self.state is not State.THINKING:
                    return []
                self.state = State.BOT_SPEAKING
                return self._yield()
            case StopSpeaking():
                if not self._replying:
                    return []
                self._silent(State.LISTENING)
                return [Interrupt()]
            case NotHeard(reason):
                self._voice, self._began = _Voice.NONE, None
                if self.state is not State.USER_SPEAKING:
                    return self._resume()
                self.state = State.THINKING
                return [Drop(), Apologise(reason)]
            case ReplyEnded():
                if self._replying:
                    self._silent(State.LISTENING)
                return []

    @property
    def _replying(self) -> bool:
        return self.state in (State.THINKING, State.BOT_SPEAKING)

    def _is_short(self, at: int) -> bool:
        """The voice that lasts, or lasted, until this sample may be a cough or a back-channel word."""
        return self._began is not None and 0 <= at - self._began < self._aside_s * CAPTURE_HZ

    def _is_aside(self, text: str, at: int) -> bool:
        """True for what leaves a running reply alone: no words, back-channel words or, if short, what sounds like a hum.

        Any words if it is not to be stopped. `at`: the last sample of the voice.
        """
        words = re.findall(r"[\w'-]+", text.lower())
        if not self._replying:
            return False
        return not self.interruptible or set(words) <= self._backchannel or (self._is_short(at) and _is_hum(words))

    def _show(self, text: str) -> list[Action]:
        return [*self._take_floor(), ShowPartial(text)]

    def _voice_began(self) -> list[Action]:
        self._voice = _Voice.HEARD
        match self.state:
            case State.USER_SPEAKING:
                return [Drop()]
            case State.LISTENING:
                self.state = State.USER_SPEAKING
                return [Listen()]
            case State.BOT_SPEAKING:
                return self._yield()
            case State.THINKING:
                return []

    def _yield(self) -> list[Action]:
        """Let the reply give way to the voice."""
        if not self.interruptible or self.state is not State.BOT_SPEAKING or self._voice <= self._yielded:
            return []
        self._yielded = self._voice
        return [Hush() if self._voice is _Voice.LASTING else Duck()]

    def _resume(self) -> list[Action]:
        before, self._yielded = self._yielded, _Voice.NONE
        return [Resume()] if before else []

    def _turn_over(self, transcript: FinalTranscript) -> list[Action]:
        if not transcript.text:
            if self.state is not State.USER_SPEAKING:
                return []
            self.state = State.LISTENING
            return [Drop(), Dismiss()]
        actions = self._take_floor()
        if not self.replies:
            self.state = State.LISTENING
            return [*actions, Drop(), Keep(transcript)]
        self.state = State.THINKING
        return [*actions, Reply(transcript)]

    def _take_floor(self) -> list[Action]:
        """The user has the floor; a running reply is interrupted."""
        replying, before = self._replying, self.state
        self._silent(State.USER_SPEAKING)
        if replying:
            return [Interrupt(), Listen()]
        return [Listen()] if before is State.LISTENING else []

    def _silent(self, state: State) -> None:
        """No reply sounds any more."""
        self.state, self._yielded = state, _Voice.NONE
