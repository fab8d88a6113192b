"""A synthesiser fed sentence by sentence, as in most assistants: nothing is spoken before a sentence is complete.

Each sentence is an utterance of its own, so that its end waits for no word of the next: the fastest form of it.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tts.base import PcmChunk, SpeechStep, SynthesisError, SynthesisStream, Synthesizer, TwoPass

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s*$")


class SentenceFed:
    """A synthesiser whose utterances wait for whole sentences (`tts.base.Synthesizer`)."""

    def __init__(self, inner: Synthesizer) -> None:
        self._inner = inner

    @property
    def vocabulary_id(self) -> str:
        """The inner one's."""
        return self._inner.vocabulary_id

    def voice(self, path: Path, text: str = "") -> Any:
        """The inner one's. Raises VoiceError."""
        return self._inner.voice(path, text)

    def tokenize(self, text: str) -> list[tuple[int, str]]:
        """The inner one's."""
        return self._inner.tokenize(text)

    def warm_up(self) -> None:
        """The inner one's."""
        self._inner.warm_up()

    def stream(
        self,
        *,
        voice: Any = None,
        speed: float = 1.0,
        share_ids: bool = True,
        lookahead: int | None = None,
        two_pass: TwoPass | None = None,
    ) -> "SentenceStream":
        """Begin a reply. Raises SynthesisError for a length of the whole: nobody sees all sentences at once."""
        if two_pass is not None and two_pass.length_s is not None:
            raise SynthesisError("a text that is spoken sentence by sentence takes no length: set tts.feeding=token.")
        return SentenceStream(
            lambda: self._inner.stream(
                voice=voice, speed=speed, share_ids=share_ids, lookahead=lookahead, two_pass=two_pass
            )
        )


class SentenceStream:
    """One reply as a row of utterances (`tts.base.SynthesisStream`)."""

    def __init__(self, new_utterance: Callable[[], SynthesisStream]) -> None:
        self._new_utterance = new_utterance
        self._open: list[tuple[int, str]] = []  # tokens of the sentence that is not complete
        self._ready: list[list[tuple[int, str]]] = []
        self._finished = False
        self._speaking: SynthesisStream | None = None
        self._length = 0  # text tokens of the sentence being spoken
        self._before = 0  # text tokens of the sentences before it
        self._steps = self._steps_before = 0
        self.done = False

    def push(self, token_id: int, text: str) -> None:
        """Take one language model token."""
        self._open.append((token_id, text))
        if _SENTENCE_END.search(text):
            self._close()

    def finish(self) -> None:
        """Say that the text is complete."""
        self._finished = True
        self._close()

    def _close(self) -> None:
        if self._open:
            self._ready.append(self._open)
            self._open = []

    def step(self, in_hand_s: float = 0.0) -> SpeechStep | PcmChunk | None:
        """Do one unit of work; None when it waits for text (or is done); see `tts.base.SynthesisStream.step`."""
        if self.done:
            return None
        if self._speaking is None:
            if not self._ready and not self._finished:
                return None
            sentence = self._ready.pop(0) if self._ready else []
            self._speaking, self._length = self._new_utterance(), len(sentence)
            for token_id, text in sentence:
                self._speaking.push(token_id, text)
            self._speaking.finish()
        made = self._speaking.step(in_hand_s)
        if isinstance(made, SpeechStep):
            if made.text and self._steps == self._steps_before > 0:  # an utterance begins without the space before it
                made = replace(made, text=" " + made.text.lstrip())
            self._steps = self._steps_before + made.text_token + 1
            return replace(
                made, text_token=self._steps_before + made.text_token, token_end=self._before + made.token_end
            )
        if isinstance(made, PcmChunk):
            made = replace(made, token_end=self._before + made.token_end)
            if made.last:
                self._speaking = None
                self._before += self._length
                self._steps_before = self._steps
                self.done = self._finished and not self._ready
                made = replace(made, last=self.done)
        return made
