"""What the synthesiser asks of a text-to-token model: any that speaks text tokens as blocks of speech tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tts.base import TwoPass
from tts.modules.graphs import Capture
from tts.voice import Reference


class TokenBlock(Protocol):
    """What one step of a text-to-token model generates."""

    @property
    def text_token(self) -> int:
        """Index of the last text token voiced with this block or before it; -1: none."""
        ...

    @property
    def tokens(self) -> np.ndarray:
        """(l,) speech tokens, int64; l may be 0."""
        ...

    @property
    def capped(self) -> bool:
        """Cut to the longest duration that the model can say."""
        ...


class TokenDecoder(Protocol):
    """One utterance of a text-to-token model."""

    @property
    def done(self) -> bool:
        """True once the finished text is spoken."""
        ...

    def push(self, text_token: int) -> None:
        """Take the next text token id. Raises SynthesisError."""
        ...

    def finish(self) -> None:
        """Say that the text is complete."""
        ...

    def step(self) -> TokenBlock | None:
        """Speak on; None while text is missing, and when done."""
        ...


class ReadPrompt(Protocol):
    """Reads what is said in a reference, for a text-to-token model to go on in its manner."""

    def __call__(self, reference: Reference, tokens: np.ndarray, text: str) -> Any:
        """`tokens`: the speech tokens (S,) of the whole reference. What comes back says `has_text` and `note`."""
        ...


@dataclass(frozen=True, kw_only=True)
class TextToToken:
    """A loaded text-to-token model."""

    vocabulary_id: str  # hash of the text tokenizer whose ids it reads
    num_speech_tokens: int  # size of the codebook it speaks
    # a new utterance at a speaking rate, with a look-ahead (None: as configured); raises SynthesisError
    begin: Callable[[float, int | None], TokenDecoder]
    # the same behind a prompt that `read_prompt` made (or None), in two passes (or None: in one); None: it has no durations
    begin_given: Callable[[float, int | None, Any, TwoPass | None], TokenDecoder] | None = None
    read_prompt: ReadPrompt | None = None  # None: the model takes no prompt
    # record its steps as CUDA graphs, for the thread that calls; None: it has none
    use_graphs: Callable[[Callable[[], Capture]], None] | None = None
