"""End of turn: how long a silence has to be, judged by the words before it. No clock of its own."""

from dataclasses import dataclass

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
_WHOLE = -0.2  # log-odds from which the words are taken for all: chosen on paraphrases spoken with pauses


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """The three silences, in milliseconds, and who judges the words."""

    complete_silence_ms: int
    min_silence_ms: int
    incomplete_silence_ms: int
    judge: TurnEnd

    def required_silence_ms(self, text: str) -> int:
        """Silence that ends the turn after `text`, whose capitals and punctuation do not count."""
        text = normalise(text)
        words = text.split()
        if not words:
            return self.min_silence_ms
        closed = len(words) > 1 and text.endswith((*_CLOSINGS, *_SET_PHRASES))
        if closed or text in _COMPLETE_ALONE:
            return self.complete_silence_ms
        if words[-1] in _HESITATIONS:
            return self.incomplete_silence_ms
        if not self.judge.knows(text):
            return self.min_silence_ms
        return self.complete_silence_ms if self.judge(text) >= _WHOLE else self.incomplete_silence_ms

    def calls_for_more(self, text: str) -> bool:
        """True after a trailing "and", "the", "uh", ...; "where are you from" is no such case."""
        return self.required_silence_ms(text) == self.incomplete_silence_ms
