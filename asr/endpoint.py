"""End of turn: how long a silence has to be, judged by the words before it and by how they sounded. No clock of its own."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from asr.turn_end import TurnEnd
from asr.units import normalise


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_COMPLETE_ALONE = _words("yes no yeah yep nope okay ok goodbye bye stop wait help")
_SET_PHRASES = (
    "how are you",
    "what time is it",
    "tell me a story",
    "tell me a joke",
    "who are you",
    "what is your name",
)
_CLOSINGS = (
    "thank you",
    "thanks",
    "goodbye",
    "good bye",
    "good night",
    "never mind",
    "that's all",
    "please",
)
_HESITATIONS = _words("uh um er erm hmm well")
_CLOSED = 1.0  # log-odds of words that often are all, and of which the sound may tell that they are not
_SOUND_WEIGHT = 0.5
_SUREST = 4.0  # log-odds of a sound beyond which it is no surer
_UNHEARD = 1.0  # log-odds where nobody hears the sound
_SURELY = 2.5  # log-odds from which no other sentence is waited for
# log-odds of a mark that ends a sentence, and against it of one that does not: small, since recognisers set marks by the
# pause as much as by the words
_MARK = 0.5
_ENDS, _GOINGS_ON = (".", "?", "!"), (",", "...", "\N{HORIZONTAL ELLIPSIS}", "-", "\N{EN DASH}", "\N{EM DASH}")
_WHOLE = -0.6  # log-odds from which it is taken for all: chosen, as the others, on questions spoken with pauses


def _mark(text: str) -> float:
    """Log-odds by the mark after the last word that the turn is over; 0 where there is none."""
    text = text.rstrip(" \"'\N{RIGHT DOUBLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}")
    if text.endswith(_GOINGS_ON):
        return -_MARK
    return _MARK if text.endswith(_ENDS) else 0.0


class Ear(Protocol):
    """Judges a voice by its sound (`asr.turn_sound.TurnSound`, `asr.smart_turn.SmartTurn`)."""

    def log_odds(self, samples: np.ndarray, end: int) -> float:
        """That a turn, float32 (N,) at 16 kHz, is over where its voice ends, at sample `end`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """The four silences, in milliseconds, and who judges the words and their sound (None: nobody)."""

    complete_silence_ms: int
    probable_silence_ms: int
    min_silence_ms: int
    incomplete_silence_ms: int
    judge: TurnEnd
    ear: Ear | None = None

    def hear(self, samples: np.ndarray, end: int) -> float:
        """Log-odds by the sound alone that a turn is over, within bounds; see `Ear`."""
        return _UNHEARD if self.ear is None else float(np.clip(self.ear.log_odds(samples, end), -_SUREST, _SUREST))

    def required_silence_ms(self, text: str, sound: float = _UNHEARD) -> int:
        """Silence that ends the turn after `text` and what `hear` said of it.

        Capitals do not count. Of punctuation, which not all recognisers write, only the last mark does, and little.
        """
        mark, text = _mark(text), normalise(text)
        words = text.split()
        if not words:
            return self.min_silence_ms
        if text in _COMPLETE_ALONE:
            return self.complete_silence_ms
        if words[-1] in _HESITATIONS:
            return self.incomplete_silence_ms
        closed = len(words) > 1 and text.endswith((*_CLOSINGS, *_SET_PHRASES))
        if not closed and not self.judge.knows(text):
            return self.min_silence_ms
        log_odds = (_CLOSED if closed else self.judge(text)) + _SOUND_WEIGHT * sound + mark
        if log_odds < _WHOLE:
            return self.incomplete_silence_ms
        return self.complete_silence_ms if log_odds >= _SURELY else self.probable_silence_ms

    def calls_for_more(self, text: str, sound: float = _UNHEARD) -> bool:
        """True after a trailing "and", "the", "uh", ...; "where are you from" is no such case."""
        return self.required_silence_ms(text, sound) == self.incomplete_silence_ms
