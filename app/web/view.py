"""A conversation as the page shows it: every turn with its words, which of them were heard, and where the time went."""

from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

from app.events import Failed, Interrupted, ReplyText, ReplyTimed, SessionEvent, TurnDone, UserSpeaking, UserText

_MAX_TURNS = 200  # shown; older ones are forgotten


@dataclass(slots=True, kw_only=True)
class TurnView:
    """One turn."""

    turn: int
    user: str = ""
    final: bool = False
    words: list[str] = field(default_factory=list)  # the reply's text, one entry per token
    times: list[tuple[int, int]] = field(default_factory=list)  # tokens before [0] are spoken at sample [1] (24 kHz)
    heard: str | None = None  # None while the reply runs
    interrupted: bool = False
    error: str | None = None
    voice_to_voice_s: float | None = None
    waterfall: dict[str, float] | None = None


class View:
    """Takes the session's events; gives each as a message for the page, and the whole as a snapshot."""

    def __init__(self) -> None:
        self._turns: deque[TurnView] = deque(maxlen=_MAX_TURNS)

    def snapshot(self) -> list[dict[str, Any]]:
        """Every turn, oldest first."""
        return [asdict(turn) for turn in self._turns]

    def clear(self) -> None:
        """Forget every turn."""
        self._turns.clear()

    def show(self, event: SessionEvent) -> dict[str, Any] | None:
        """Take an event; the message that tells the page, if it must know."""
        match event:
            case UserSpeaking(turn=turn):
                self._at(turn)
                return {"type": "user", "turn": turn, "text": "", "final": False}
            case UserText(turn=turn, text=text, final=final):
                view = self._at(turn)
                view.user, view.final = text, final
                return {"type": "user", "turn": turn, "text": text, "final": final}
            case ReplyText(turn=turn, text=text):
                self._at(turn).words.append(text)
                return {"type": "word", "turn": turn, "text": text}
            case ReplyTimed(turn=turn, token_end=tokens, sample_end=samples):
                self._at(turn).times.append((tokens, samples))
                return {"type": "timed", "turn": turn, "token_end": tokens, "sample_end": samples}
            case Interrupted(turn=turn, heard_text=heard):
                self._at(turn).interrupted = True
                return {"type": "interrupted", "turn": turn, "heard": heard}
            case Failed(turn=turn, reason=reason):
                self._at(turn).error = reason
                return {"type": "failed", "turn": turn, "reason": reason}
            case TurnDone(turn=turn, trace=trace):
                view = self._at(turn)
                view.heard, view.interrupted, view.error = trace.heard, trace.interrupted, trace.error
                view.voice_to_voice_s, view.waterfall = trace.voice_to_voice_s, trace.waterfall
                view.times.clear()
                return {"type": "turn", **asdict(view)}
            case _:
                return None

    def dismiss(self) -> bool:
        """Drop a last turn in which nothing was recognised."""
        if self._turns and not self._turns[-1].final:
            self._turns.pop()
            return True
        return False

    def _at(self, turn: int) -> TurnView:
        for view in reversed(self._turns):
            if view.turn == turn:
                return view
        self._turns.append(TurnView(turn=turn))
        return self._turns[-1]
