"""End of turn: how long a silence has to be, judged by the words before it. Pure rules, no clock of their own."""

from dataclasses import dataclass


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CALL_FOR_MORE = _words(
    "and or but because so if when while than although unless until since though as the a an my your his its our their "
    "this these every some any no very really quite too is are was were am be been do does did can could will would "
    "should must may might have has had want need like i we they i'm i'd i'll i've we're they're there's that's it's "
    "what's who's to of with for from in on at by about into between without plus minus times uh um er erm hmm well"
)
_MAY_END_A_QUESTION = _words(
    "to of with for from in on at by about into is are was were am be do does did can could will would should have has "
    "like it's i'm this i we they"
)
_ASKS = _words(
    "what what's who who's whose where where's when why how how's which is are am was were do does did don't doesn't "
    "can could will would should shall may might have has isn't aren't can't won't"
)
_ORDERS = _words("tell say give show name count sing stop wait remember spell repeat explain let let's please call")
_COMPLETE_ALONE = _words(
    "yes no yeah yep nope okay ok hello hi hey goodbye bye thanks stop wait help sure right please sorry why what who "
    "where when how"
)
_CLOSINGS = (
    "thank you",
    "thanks",
    "goodbye",
    "good bye",
    "good night",
    "see you",
    "never mind",
    "that's all",
    "please",
)
_FEWEST_WORDS = 3  # of a question or an order that counts as finished


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """The three silences, in milliseconds."""

    complete_silence_ms: int
    min_silence_ms: int
    incomplete_silence_ms: int

    def required_silence_ms(self, text: str) -> int:
        """Silence that ends the turn after `text` (lower-case words)."""
        if calls_for_more(text):
            return self.incomplete_silence_ms
        return self.complete_silence_ms if looks_complete(text) else self.min_silence_ms


def calls_for_more(text: str) -> bool:
    """True after a trailing "and", "the", "uh", ...; "where are you from" is no such case."""
    words = text.split()
    if not words or words[-1] not in _CALL_FOR_MORE or text in _COMPLETE_ALONE:
        return False
    if text.endswith(_CLOSINGS):
        return False
    is_question = words[0] in _ASKS and len(words) >= _FEWEST_WORDS
    return not (is_question and words[-1] in _MAY_END_A_QUESTION)


def looks_complete(text: str) -> bool:
    """True for a whole question, an order, a greeting, thanks, a short answer."""
    words = text.split()
    if not words or calls_for_more(text):
        return False
    if text in _COMPLETE_ALONE or text.endswith(_CLOSINGS):
        return True
    # Questions and orders often come after a greeting or another sentence: look for their first word anywhere.
    starts = [i for i, word in enumerate(words) if word in _ASKS or (i == 0 and word in _ORDERS)]
    return any(len(words) - i >= _FEWEST_WORDS for i in starts)
