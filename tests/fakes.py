"""Scripted parts for conversations in virtual time. Durations are seconds of the virtual clock."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np

from app.worker import guarded
from asr.base import SAMPLE_RATE as CAPTURE_HZ
from asr.base import Event, FinalTranscript, PartialTranscript, SpeechEnded, SpeechPaused, SpeechStarted
from audio_io.base import AudioFrame
from llm.base import ChatModelError, Message, TextToken
from tts.base import SAMPLE_RATE, SAMPLES_PER_TOKEN, PcmChunk, SpeechStep

FRAME = CAPTURE_HZ // 50


class InlineWorker:
    """Runs calls on the loop; a call may take virtual time by returning through `Timed`."""

    busy = False

    def __init__(self, cost_s: float = 0.0) -> None:
        self.cost_s = cost_s

    async def run(self, call: Callable, *arguments: Any, **named: Any) -> Any:
        try:
            await asyncio.sleep(self.cost_s)
            return guarded(call, *arguments, **named)
        finally:
            del call

    async def run_within(self, slack_s: float, call: Callable) -> Any:
        try:
            return await self.run(call)
        finally:
            del call


class ScriptedRecognition:
    """Says what the user does: (at second, event maker). Positions are taken from the sample clock."""

    def __init__(self, script: Sequence[tuple[float, Callable[[int], Event]]]) -> None:
        self._script = sorted(script, key=lambda entry: entry[0])
        self._pushed = 0

    def push(self, samples: np.ndarray) -> list[Event]:
        self._pushed += len(samples)
        events = []
        while self._script and self._script[0][0] * CAPTURE_HZ <= self._pushed:
            at, make = self._script.pop(0)
            events.append(make(round(at * CAPTURE_HZ)))
        return events

    def finish(self) -> list[Event]:
        return []

    def reset(self) -> None: ...


def user_says(
    text: str, start: float, end: float, *, silence: float = 0.4
) -> list[tuple[float, Callable[[int], Event]]]:
    """A turn: speech from `start` to `end`, a partial half-way, the decision `silence` after the end."""
    first, last = round(start * CAPTURE_HZ), round(end * CAPTURE_HZ)
    half = text.split()[0] if text else ""
    return [
        (start + 0.1, lambda at: SpeechStarted(at=first)),
        ((start + end) / 2, lambda at: PartialTranscript(text=half, stable_chars=len(half), at=at)),
        (end + min(0.13, silence), lambda at: SpeechPaused(text=text, complete=bool(text))),
        (end + min(0.23, silence), lambda at: SpeechEnded(at=last, text=text, complete=bool(text))),
        (
            end + silence,
            lambda at: FinalTranscript(text=text, speech_start=first, speech_end=last, decided_at=at, compute_ms=20.0),
        ),
    ]


class ScriptedChat:
    """Replies with fixed texts, token by token."""

    vocabulary_id = "scripted"

    def __init__(
        self, *replies: str, first_s: float = 0.1, token_s: float = 0.05, fail_after: int | None = None
    ) -> None:
        self._replies = list(replies)
        self._first_s, self._token_s, self._fail_after = first_s, token_s, fail_after
        self.asked: list[list[Message]] = []
        self.temperatures: list[float | None] = []
        self.sent = 0
        self.aborted = 0

    async def stream(
        self, messages: Sequence[Message], *, temperature: float | None = None
    ) -> AsyncIterator[TextToken]:
        self.asked.append(list(messages))
        self.temperatures.append(temperature)
        words = self._replies.pop(0).split(" ")
        try:
            for index, word in enumerate(words):
                await asyncio.sleep(self._token_s if index else self._first_s)
                if self._fail_after == index:
                    raise ChatModelError("the model stopped; start it again.")
                self.sent += 1
                yield TextToken(index, word if index == 0 else f" {word}")
        except (GeneratorExit, asyncio.CancelledError):
            self.aborted += 1
            raise

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    async def warm_up(self) -> None: ...

    def close(self) -> None: ...


class ScriptedSpeech:
    """Speaks each text token with `per_token` speech tokens from the second text token on; chunks of 10 after 13."""

    def __init__(self, per_token: int = 5, *, silent_samples: int = 0) -> None:
        self._per_token, self._silent = per_token, silent_samples
        self._pushed = self._spoken = self._undecoded = self._made = 0
        self._finished = False
        self.done = False

    def push(self, token_id: int, text: str) -> None:
        assert not self._finished
        self._pushed += 1

    def finish(self) -> None:
        self._finished = True

    def step(self, in_hand_s: float = 0.0) -> SpeechStep | PcmChunk | None:
        if self.done:
            return None
        if self._undecoded >= 13:
            return self._chunk(10, False)
        if self._spoken + 1 < self._pushed or (self._finished and self._spoken < self._pushed):
            self._spoken += 1
            self._undecoded += self._per_token
            return SpeechStep(
                text_token=self._spoken - 1,
                num_speech_tokens=self._per_token,
                num_samples=self._per_token * SAMPLES_PER_TOKEN,
                token_end=self._spoken,
                synth_ms=5.0,
            )
        return self._chunk(self._undecoded, True) if self._finished else None

    def _chunk(self, count: int, last: bool) -> PcmChunk:
        self._undecoded -= count
        samples = np.full(count * SAMPLES_PER_TOKEN, 0.1, np.float32)
        if self._made == 0:
            samples[: self._silent] = 0.0
        self._made += count
        self.done = last
        return PcmChunk(
            samples=samples,
            token_end=self._made // self._per_token,
            num_speech_tokens=count,
            synth_ms=10.0,
            last=last,
        )


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * CAPTURE_HZ), np.float32)


def frames(seconds: float) -> list[AudioFrame]:
    count = round(seconds * CAPTURE_HZ) // FRAME
    return [AudioFrame(np.zeros(FRAME, np.float32), i * FRAME) for i in range(count)]


def spoken_seconds(chunk: PcmChunk) -> float:
    return len(chunk.samples) / SAMPLE_RATE
