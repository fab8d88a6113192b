"""What the session tells its listeners (terminal, page, trace). Every event carries its turn number."""

from dataclasses import dataclass

from app.trace import TurnTrace
from app.turn_taking import State


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """Whose turn it is now."""

    turn: int
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSpeaking:
    """The user began to speak."""

    turn: int
    at: float = 0.0  # first voiced sample, seconds on the conversation's clock


@dataclass(frozen=True, slots=True, kw_only=True)
class UserText:
    """What the user said so far; `final` when the turn is over."""

    turn: int
    text: str
    final: bool
    ended_at: float = 0.0  # if final: last voiced sample, seconds on the conversation's clock


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyText:
    """One more token of the reply's text."""

    turn: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyTimed:
    """The language model tokens before `token_end` will have been spoken at sample `sample_end` of the reply (24 kHz)."""

    turn: int
    token_end: int
    sample_end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BotSpeaking:
    """The reply is being played up to and including the language model token `token_end` - 1."""

    turn: int
    token_end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """The user spoke over the reply; only `heard_text` of it was played."""

    turn: int
    heard_text: str
    played_samples: int = 0  # of the reply, at 24 kHz


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnDone:
    """The reply was played to its end (or interrupted); the trace is complete."""

    turn: int
    trace: TurnTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The turn could not be answered; the session listens again."""

    turn: int
    reason: str


SessionEvent = (
    StateChanged | UserSpeaking | UserText | ReplyText | ReplyTimed | BotSpeaking | Interrupted | TurnDone | Failed
)
