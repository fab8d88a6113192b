"""Speaking to a wanted length or rate in two passes (SyncSpeech, appendix C).

Scaling each duration while it is drawn runs away: the model hears its own shortened history and speaks faster still (at
a factor of 0.8 the paper measured 0.68 of the length). So all durations are predicted first, at the model's own rate, then
scaled together, and a second pass speaks with those. The paper says no more; decided here:

- The first pass is an ordinary one, speech tokens included: each duration depends on the speech before it. Durations of
  the second pass are prescribed, not predicted anew from its stretched history.
- The ends of the text tokens are scaled and rounded, not the durations: no rounding error adds up, and the total is exact.
- A text token of duration 0 keeps it. Any other keeps at least one speech token, so that nothing said is lost, and takes
  no more than the longest duration that the model can say; the others make up for it.
- Pauses are scaled like speech.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tts.base import LEFT_OUT, SAMPLES_PER_TOKEN, TOKEN_HZ, LengthError, TwoPass
from tts.tmt.decode import DecodeOptions, TmtDecoder, TokenBlock
from tts.tmt.model import Tmt
from tts.tmt.prompt import PreparedPrompt

SLOWEST, FASTEST = 0.25, 4.0
_LEFT_OUT = LEFT_OUT / SAMPLES_PER_TOKEN  # speech tokens


def scaled(durations: np.ndarray, total: int, longest: int) -> np.ndarray:
    """Durations (L,) of at most `longest`, in the proportions of `durations` (L,), that sum to `total`.

    Raises LengthError where the rate would leave its limits, or no durations of 1 to `longest` sum to the total.
    """
    spoken = durations > 0
    least = max(int(spoken.sum()), int(np.ceil(durations.sum() / FASTEST)))
    most = min(longest * int(spoken.sum()), int(durations.sum() / SLOWEST))
    if not least <= total <= most:
        raise LengthError(
            f"{_seconds(total)} s are out of reach: at its own rate this text takes {_seconds(durations.sum())} s; "
            f"choose a length between {_seconds(least)} and {_seconds(most)} s."
        )
    low, high = 0.0, float(longest)
    for _ in range(60):  # the factor, by bisection: the length grows with it
        factor = (low + high) / 2
        low, high = (low, factor) if _limited(factor, durations, longest).sum() > total else (factor, high)
    ends = np.floor(np.cumsum(_limited(high, durations, longest)) + 0.5 + 1e-6).astype(np.int64)
    return np.diff(ends, prepend=0)


def _seconds(num_tokens: int) -> str:
    return f"{max(0.0, (num_tokens - _LEFT_OUT) / TOKEN_HZ):.1f}"


def _limited(factor: float, durations: np.ndarray, longest: int) -> np.ndarray:
    return np.where(durations > 0, np.clip(factor * durations, 1.0, longest), 0.0)


def begin(
    model: Tmt, options: DecodeOptions, prompt: PreparedPrompt | None = None, two_pass: TwoPass | None = None
) -> "TmtDecoder | TwoPassDecoder":
    """A new utterance, behind a prompt, in one pass or in two. Raises SynthesisError."""

    def decoder(options: DecodeOptions) -> TmtDecoder:
        return TmtDecoder(model, options, None if prompt is None else prompt.state(options))

    return decoder(options) if two_pass is None else TwoPassDecoder(decoder, model, options, two_pass)


class TwoPassDecoder:
    """One utterance whose text must be complete: a pass for the durations, and one that speaks."""

    def __init__(
        self, begin: Callable[[DecodeOptions], TmtDecoder], model: Tmt, options: DecodeOptions, two_pass: TwoPass
    ) -> None:
        """`begin`: begins the utterance with other options. The speed counts where no length is given."""
        self._begin, self._options, self._two_pass = begin, options, two_pass
        self._longest = model.config.num_duration_classes - 1
        self._first = begin(replace(options, speed=1.0))
        self._text: list[int] = []
        self._finished = False
        self._second: TmtDecoder | None = None

    @property
    def done(self) -> bool:
        """True once the finished text is spoken."""
        return self._finished and (not self._text or (self._second is not None and self._second.done))

    def push(self, text_token: int) -> None:
        """Take the next text token id. Raises SynthesisError."""
        self._first.push(text_token)
        self._text.append(text_token)

    def finish(self) -> None:
        """Say that the text is complete."""
        self._first.finish()
        self._finished = True

    def step(self) -> TokenBlock | None:
        """Speak the next text token; None until the text is complete, and when done. Raises LengthError."""
        if not self._finished or not self._text:
            return None
        if self._second is None:
            durations = self._durations()
            self._second = self._begin(replace(self._options, durations=durations))
            for text_token in self._text:
                self._second.push(text_token)
            self._second.finish()
        return self._second.step()

    def _durations(self) -> tuple[int, ...]:
        """The first pass."""
        predicted = []
        while (block := self._first.step()) is not None:
            predicted.append(len(block.tokens))
        length_s = self._two_pass.length_s
        wanted = sum(predicted) / self._options.speed if length_s is None else length_s * TOKEN_HZ + _LEFT_OUT
        return tuple(scaled(np.array(predicted), int(np.floor(wanted + 0.5)), self._longest).tolist())
