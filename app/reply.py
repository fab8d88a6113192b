"""A reply that is being made: what it answers, its task, its marks; and what decides how replies are made."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from app.events import SessionEvent
from app.trace import DecoderChunkMark, SpeechStepMark, TextTokenMark, TurnTrace
from llm.base import Message, TextToken
from tts.base import SAMPLE_RATE, PcmChunk, SpeechStep


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """What the session itself must know of the configuration."""

    max_ahead_s: float
    flush_fade_ms: float
    first_token_timeout_s: float
    duck_gain: float
    duck_fade_ms: float
    backchannel: frozenset[str]  # words over a reply that do not interrupt it
    aside_s: float = 0.0  # a voice over a reply that is no longer is judged when it ends
    speculation: Literal["none", "llm", "tts"]  # what of a reply is begun in a pause
    max_ahead_tokens: int = (
        0  # the model's next token is asked for when it is no further ahead of the voice; 0: at once
    )
    apology: tuple[TextToken, ...] = ()  # said when the recogniser or the language model fails


class WrittenText:
    """The text of a reply on its way from the language model to the voice.

    A model that is `max_ahead` tokens ahead of what is spoken pauses, since it would only take the processor from the voice;
    a voice that has nothing to say gets its text however little of it was spoken. 0: the model never pauses.
    """

    def __init__(self, max_ahead: int = 0) -> None:
        self._max_ahead = max_ahead
        self._tokens: deque[TextToken] = deque()
        self._written = self._spoken = 0
        self._more, self._room = asyncio.Event(), asyncio.Event()
        self._room.set()
        self.complete = False

    async def room(self) -> None:
        """Wait until the next token is wanted."""
        await self._room.wait()

    def put(self, token: TextToken) -> None:
        """The model wrote a token."""
        self._tokens.append(token)
        self._written += 1
        self._weigh()
        self._more.set()

    def end(self, last: Iterable[TextToken] = ()) -> None:
        """Nothing comes after these."""
        self._tokens.extend(last)
        self.complete = True
        self._more.set()

    def take(self) -> Iterator[TextToken]:
        """What has come since the last time."""
        self._more.clear()
        while self._tokens:
            yield self._tokens.popleft()

    async def more(self) -> None:
        """The voice has nothing to say: wait for text that was not taken yet, or for its end."""
        if not self._more.is_set():
            self._room.set()
        await self._more.wait()

    def spoken(self, token_end: int) -> None:
        """Of the tokens written, so many are spoken."""
        self._spoken = token_end
        self._weigh()

    def _weigh(self) -> None:
        if self._max_ahead and self._written - self._spoken > self._max_ahead:
            self._room.clear()
        else:
            self._room.set()


class RunningReply:
    """One reply; every time is on the conversation's clock."""

    task: "asyncio.Task[None] | None" = None

    def __init__(self, trace: TurnTrace, messages: list[Message], began: float) -> None:
        self.trace = trace
        self.messages = messages
        self.began = began
        self.committed = asyncio.Event()  # the turn is over, and this is the reply to it
        self.untold: list[SessionEvent] = []  # of before
        self.progress = asyncio.Event()  # a chunk was handed to the device, or the reply is complete
        self.complete = False
        self.audible_samples: int | None = None  # played until it was silenced; None: it is not

    async def cancel(self) -> None:
        """Cancel the task and wait until it is gone; its models' running steps end, their results are dropped."""
        task, self.task = self.task, None
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def slack_s(self, now: float) -> float:
        """Seconds until all that was handed to the device has sounded; before the first chunk, since the reply began."""
        last = self.trace.marks.last_sample
        return (self.began if last is None else last) - now

    def wrote(self, token: TextToken, at: float) -> None:
        """The model wrote a token."""
        marks = self.trace.marks
        if marks.llm_first_token is None:
            marks.llm_first_token = at
        marks.text_tokens.append(TextTokenMark(index=len(marks.text_tokens), id=token.id, text=token.text, at=at))
        self.trace.reply += token.text

    def stepped(self, step: SpeechStep, at: float) -> int:
        """The synthesiser made speech tokens; returns the sample of the reply at which they end (24 kHz)."""
        steps = self.trace.marks.speech_steps
        steps.append(
            SpeechStepMark(
                text_token=step.text_token,
                num_speech_tokens=step.num_speech_tokens,
                num_samples=step.num_samples,
                capped=step.capped,
                token_end=step.token_end,
                synth_ms=step.synth_ms,
                at=at,
            )
        )
        return sum(mark.num_samples for mark in steps)

    def queued(self, chunk: PcmChunk, made: float, plays_at: float) -> float:
        """A chunk was handed to the device; returns when its last sample is over."""
        marks = self.trace.marks
        marks.decoder_chunks.append(
            DecoderChunkMark(
                num_speech_tokens=chunk.num_speech_tokens,
                num_samples=len(chunk.samples),
                token_end=chunk.token_end,
                synth_ms=chunk.synth_ms,
                at=made,
                plays_at=plays_at,
                vocoder_ms=chunk.vocoder_ms,
            )
        )
        marks.last_sample = plays_at + len(chunk.samples) / SAMPLE_RATE
        return marks.last_sample


def one_line(error: Exception) -> str:
    """One line for the user."""
    return " ".join(str(error).split()) or type(error).__name__
