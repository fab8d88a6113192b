"""An utterance that is only written: the stream of those who read and do not listen."""

import numpy as np

from tts.base import PcmChunk, SpeechStep, SynthesisError


class Unspoken:
    """A `SynthesisStream` without sound."""

    def __init__(self) -> None:
        self._num_pushed = 0
        self._finished = False
        self.done = False

    def push(self, token_id: int, text: str) -> None:
        """Take a token. Raises SynthesisError after `finish`."""
        if self._finished:
            raise SynthesisError("text after the end of the text: begin a new utterance.")
        self._num_pushed += 1

    def finish(self) -> None:
        """Say that the text is complete."""
        self._finished = True

    def step(self, in_hand_s: float = 0.0) -> SpeechStep | PcmChunk | None:
        """The end, once the text is complete."""
        if self.done or not self._finished:
            return None
        self.done = True
        silence = np.zeros(0, np.float32)
        return PcmChunk(samples=silence, token_end=self._num_pushed, num_speech_tokens=0, synth_ms=0.0, last=True)
