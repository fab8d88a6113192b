"""Timed stand-ins: stages of a machine that one does not have, with the delays one gives them.

A stage is replaced as a whole when one of its delays is named; the others of that stage take the values below. The
stand-ins know the case's words and need no weights; everything that they are part of is marked as simulated.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np

from app.bench.acoustic import Span
from app.worker import R, Worker
from asr.base import SAMPLE_RATE as CAPTURE_HZ
from asr.base import (
    Event,
    FinalTranscript,
    PartialTranscript,
    SpeechEnded,
    SpeechPaused,
    SpeechStarted,
    SpeechSustained,
)
from configs.schema import ConfigError
from llm.base import Message, TextToken
from tts.base import SAMPLE_RATE, SAMPLES_PER_TOKEN, PcmChunk, SpeechStep, TwoPass

LOOKAHEAD, CHUNK_TOKENS, CHUNK_LOOKAHEAD = 1, 10, 3  # text tokens; speech tokens, as the bundled models have them
TONE_HZ, TONE = 180.0, 0.1
STARTED_MS = 100.0  # of voice until the stand-in for the recogniser says that somebody speaks
# of silence until the words are read, and until it counts as a pause: medians of the real recogniser
READ_S, PAUSE_S = 0.13, 0.23


@dataclass(frozen=True, kw_only=True)
class Delays:
    """Every delay a stand-in can have, in milliseconds unless the name says otherwise."""

    end_of_turn_ms: float = 300.0  # recogniser: silence until the turn is over
    asr_ms: float = 30.0  # recogniser: final pass
    partial_ms: float = 500.0  # recogniser: voice until it silences a reply and its first words are known
    llm_first_token_ms: float = 80.0
    llm_token_ms: float = 25.0  # between tokens
    text_to_token_ms: float = 8.0  # speech: one step, one text token
    decoder_ms: float = 20.0  # speech: one chunk, without the vocoder
    vocoder_ms: float = 6.0  # speech: one chunk
    leading_silence_ms: float = 60.0  # speech: before the first audible sample
    speech_tokens: float = 6.0  # speech: speech tokens (40 ms) per text token


STAGE_KEYS = {
    "recogniser": ("end_of_turn_ms", "asr_ms", "partial_ms"),
    "language model": ("llm_first_token_ms", "llm_token_ms"),
    "speech": ("text_to_token_ms", "decoder_ms", "vocoder_ms", "leading_silence_ms", "speech_tokens"),
}


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """Which stages are stand-ins, and their delays."""

    stages: frozenset[str] = frozenset()
    delays: Delays = field(default_factory=Delays)

    @property
    def recogniser(self) -> bool:
        """The recogniser is a stand-in."""
        return "recogniser" in self.stages

    @property
    def language_model(self) -> bool:
        """The language model is a stand-in."""
        return "language model" in self.stages

    @property
    def speech(self) -> bool:
        """The synthesiser is a stand-in."""
        return "speech" in self.stages

    @property
    def everything(self) -> bool:
        """No model is loaded: nothing is measured, all is reckoned."""
        return self.stages == frozenset(STAGE_KEYS)

    def to_json(self) -> dict[str, dict[str, float]]:
        """Stage -> its delays, for the report; empty when everything is real."""
        return {stage: {k: getattr(self.delays, k) for k in STAGE_KEYS[stage]} for stage in sorted(self.stages)}


def parse(text: str | None) -> Simulation:
    """`llm_first_token_ms=80,llm_token_ms=25` or `all` -> Simulation. Raises ConfigError."""
    if text is None:
        return Simulation()
    names = {f.name for f in dataclasses.fields(Delays)}
    values: dict[str, float] = {}
    stages: set[str] = set()
    for entry in filter(None, (part.strip() for part in text.split(","))):
        if entry == "all":
            stages |= set(STAGE_KEYS)
            continue
        key, equals, number = entry.partition("=")
        if key not in names or not equals:
            raise ConfigError(f"--simulate {entry}: write NAME=MILLISECONDS with one of {', '.join(sorted(names))}.")
        try:
            values[key] = float(number)
        except ValueError:
            raise ConfigError(f"--simulate {entry}: {number!r} is not a number.") from None
        if not 0 <= values[key] <= 60_000 or (key == "speech_tokens" and not 1 <= values[key] <= 100):
            raise ConfigError(f"--simulate {entry}: {number} is out of range.")
        stages |= {stage for stage, keys in STAGE_KEYS.items() if key in keys}
    if not stages:
        raise ConfigError("--simulate: name at least one delay, for example llm_first_token_ms=80, or all.")
    return Simulation(stages=frozenset(stages), delays=Delays(**values))


class TimedWorker(Worker):
    """Runs calls on the loop, in the order in which threads would; each takes the time that its result says it took."""

    def __init__(self, name: str, *, num_threads: int = 1) -> None:
        super().__init__(name, num_threads=num_threads)
        self._num_free = num_threads
        self._line: list[tuple[float, int, asyncio.Future[None]]] = []  # a heap: when due, number of the call, its turn

    async def run_within(self, slack_s: float, call: Callable[[], R]) -> R:
        """Run a call whose result is needed in so many seconds."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        heappush(self._line, (loop.time() + slack_s, next(self._number), turn))
        self._admit()
        try:
            await turn
            result = call()
            await asyncio.sleep(_cost_ms(result) / 1000)
            return result
        finally:
            if not turn.cancelled():
                self._num_free += 1
                self._admit()

    def _admit(self) -> None:
        while self._num_free and self._line:
            _, _, turn = heappop(self._line)
            if not turn.done():
                turn.set_result(None)
                self._num_free -= 1


def _cost_ms(result: Any) -> float:
    if isinstance(result, SpeechStep | PcmChunk):
        return result.synth_ms
    if isinstance(result, list):
        return sum(event.compute_ms for event in result if isinstance(event, FinalTranscript))
    return 0.0


class SimulatedRecognizer:
    """Knows when the user speaks and what he says (`asr.base.Recognizer`)."""

    def __init__(self, delays: Delays) -> None:
        self._delays = delays
        self._script: list[tuple[int, Event]] = []
        self._clock = 0

    def expect(self, begins: float, voiced: Sequence[Span], text: str) -> None:
        """A recording begins at a second of the clock: where the user is heard in it, and what he says ("" no words)."""
        turns: list[list[Span]] = []
        for span in voiced:
            if turns and span.start - turns[-1][-1].end < self._delays.end_of_turn_ms / 1000:
                turns[-1].append(span)
            else:
                turns.append([span])
        for turn in turns:
            first, last = _sample(begins + turn[0].start), _sample(begins + turn[-1].end)
            decided = last + _sample(self._delays.end_of_turn_ms / 1000)
            partial = first + _sample(self._delays.partial_ms / 1000)
            self._script.append((first + _sample(STARTED_MS / 1000), SpeechStarted(at=first)))
            if text and partial < decided:
                self._script.append((partial, SpeechSustained(at=partial)))
                self._script.append((partial, PartialTranscript(text=text, stable_chars=0, at=partial)))
            whole = bool(text)
            self._script.append((min(decided, last + _sample(READ_S)), SpeechPaused(text=text, complete=whole)))
            self._script.append(
                (min(decided, last + _sample(PAUSE_S)), SpeechEnded(at=last, text=text, complete=whole))
            )
            final = FinalTranscript(
                text=text, speech_start=first, speech_end=last, decided_at=decided, compute_ms=self._delays.asr_ms
            )
            self._script.append((decided, final))
        self._script.sort(key=lambda entry: entry[0])

    def stream(self, patience: Callable[[], float] = lambda: 1.0) -> "SimulatedRecognizer":
        """Itself: one stand-in serves one conversation."""
        return self

    def push(self, samples: np.ndarray) -> list[Event]:
        """What is due by the end of these samples."""
        self._clock += len(samples)
        return self._due(self._clock)

    def finish(self) -> list[Event]:
        """Everything that is left."""
        return self._due(1 << 62)

    def reset(self) -> None:
        """Forget what is left."""
        self._script.clear()

    def transcribe(self, samples: np.ndarray) -> str:
        """No words: it does not listen."""
        return ""

    def warm_up(self) -> None:
        """Nothing to warm up."""

    def _due(self, clock: int) -> list[Event]:
        events: list[Event] = []
        while self._script and self._script[0][0] <= clock:
            at, event = self._script.pop(0)
            if isinstance(event, FinalTranscript):
                # the decision falls within a frame; what the frame's end is late by is no part of the final pass
                late_ms = 1000 * max(0, self._clock - at) / CAPTURE_HZ
                event = dataclasses.replace(event, compute_ms=max(0.0, event.compute_ms - late_ms))
            events.append(event)
        return events


def _sample(seconds: float) -> int:
    return round(seconds * CAPTURE_HZ)


class SimulatedChat:
    """Answers with a given text at a given pace (`llm.base.ChatModel`)."""

    def __init__(self, delays: Delays, tokens: Sequence[tuple[int, str]], vocabulary_id: str) -> None:
        self._delays, self._tokens = delays, tokens
        self.vocabulary_id = vocabulary_id

    async def stream(
        self, messages: Sequence[Message], *, temperature: float | None = None
    ) -> AsyncIterator[TextToken]:
        """The reply, token by token; it is written elsewhere, however late a token is asked for."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._delays.llm_first_token_ms / 1000
        for token_id, text in self._tokens:
            await asyncio.sleep(due - loop.time())
            yield TextToken(token_id, text)
            due += self._delays.llm_token_ms / 1000

    def count_tokens(self, text: str) -> int:
        """Words."""
        return len(text.split())

    async def warm_up(self) -> None:
        """Nothing to warm up."""

    def close(self) -> None:
        """Nothing to close."""


class SimulatedSynthesizer:
    """Speaks a tone (`tts.base.Synthesizer`)."""

    vocabulary_id = "simulated"

    def __init__(self, delays: Delays) -> None:
        self._delays = delays

    def voice(self, path: Path, text: str = "") -> None:
        """It has one voice."""

    def stream(
        self,
        *,
        voice: Any = None,
        speed: float = 1.0,
        share_ids: bool = True,
        lookahead: int | None = None,
        two_pass: TwoPass | None = None,
    ) -> "SimulatedSpeech":
        """Begin an utterance."""
        return SimulatedSpeech(self._delays)

    def tokenize(self, text: str) -> list[tuple[int, str]]:
        """Words with the space before them."""
        return [(i, word if i == 0 else f" {word}") for i, word in enumerate(text.split())]

    def warm_up(self) -> None:
        """Nothing to warm up."""


class SimulatedSpeech:
    """One utterance of the tone (`tts.base.SynthesisStream`)."""

    def __init__(self, delays: Delays) -> None:
        self._delays = delays
        self._per_token = round(delays.speech_tokens)
        self._pushed = self._spoken = self._undecoded = self._made = 0
        self._finished = False
        self.done = False

    def push(self, token_id: int, text: str) -> None:
        """One more text token."""
        self._pushed += 1

    def finish(self) -> None:
        """The text is complete."""
        self._finished = True

    def step(self, in_hand_s: float = 0.0) -> SpeechStep | PcmChunk | None:
        """A chunk when one is due, one at a time, else a text token."""
        if self.done:
            return None
        if self._undecoded >= CHUNK_TOKENS + CHUNK_LOOKAHEAD:
            return self._chunk(CHUNK_TOKENS, last=False)
        if self._spoken + LOOKAHEAD < self._pushed or (self._finished and self._spoken < self._pushed):
            self._spoken += 1
            self._undecoded += self._per_token
            return SpeechStep(
                text_token=self._spoken - 1,
                num_speech_tokens=self._per_token,
                num_samples=self._per_token * SAMPLES_PER_TOKEN,
                token_end=self._spoken,
                synth_ms=self._delays.text_to_token_ms,
            )
        return self._chunk(self._undecoded, last=True) if self._finished else None

    def _chunk(self, count: int, *, last: bool) -> PcmChunk:
        first = self._made * SAMPLES_PER_TOKEN
        position = np.arange(first, first + count * SAMPLES_PER_TOKEN)
        samples = TONE * np.cos(2 * np.pi * TONE_HZ * position / SAMPLE_RATE)
        samples[position < self._delays.leading_silence_ms * SAMPLE_RATE / 1000] = 0.0
        self._undecoded -= count
        self._made += count
        self.done = last
        return PcmChunk(
            samples=samples.astype(np.float32),
            token_end=self._made // self._per_token,
            num_speech_tokens=count,
            synth_ms=self._delays.decoder_ms + self._delays.vocoder_ms,
            last=last,
            vocoder_ms=self._delays.vocoder_ms,
        )
