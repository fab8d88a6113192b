"""The text and speech of a voice prompt, read once and cloned for every utterance (SyncSpeech, section 3.4)."""

from dataclasses import dataclass, replace

import numpy as np

from tts.tmt.decode import DecodeOptions, TmtDecoder
from tts.tmt.model import Tmt
from tts.tmt.state import TmtState


@dataclass(frozen=True)
class Prompt:
    """What a reference recording says, and when; or its speech alone, which the model has learnt to go on from too."""

    ids: tuple[int, ...]  # text tokens, (k,); none: nobody knows what is said
    durations: np.ndarray  # int64 (k,) speech tokens of each
    tokens: np.ndarray  # int64 (T,) speech tokens, T = durations.sum() where there is text
    note: str = ""  # why nobody knows what is said, a sentence

    @property
    def blocks(self) -> list[np.ndarray]:
        """The speech tokens of each text token."""
        return np.split(self.tokens, np.cumsum(self.durations)[:-1])


class PreparedPrompt:
    """A prompt in the key-value cache of a model. What of it depends on the text to come is read with that."""

    def __init__(self, model: Tmt, prompt: Prompt) -> None:
        self._model, self._prompt = model, prompt
        self._states: dict[DecodeOptions, TmtState] = {}

    @property
    def note(self) -> str:
        """Why the text was left out, if it was."""
        return self._prompt.note

    @property
    def has_text(self) -> bool:
        """Whether what follows is a later sentence."""
        return bool(self._prompt.ids)

    def state(self, options: DecodeOptions) -> TmtState:
        """A state behind the prompt, to go on from. What a block sees, and so the cache, depends on the look-ahead.

        Raises SynthesisError for options that the model does not take and for a prompt of another model.
        """
        options = replace(options, durations=None, speed=1.0)  # the prompt's durations are its own
        if options not in self._states:
            decoder = TmtDecoder(self._model, options)
            if self.has_text:
                decoder.prime(self._prompt.ids, self._prompt.blocks)
            else:
                decoder.prompt(self._prompt.tokens)
            self._states[options] = decoder.state
        return self._states[options].clone()
