"""Several scripted conversations at once, at the pace of speech, on the threads that the assistant has."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from app.bench.writer import WriterThread
from app.trace import first_audible
from app.worker import VOICE_FIRST, Worker
from tts.base import SAMPLE_RATE, PcmChunk

if TYPE_CHECKING:
    from app.bench.chain import Chain

MAX_AHEAD_S = 5.0  # how far synthesis runs ahead of playback


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn; milliseconds from the decision that the user's turn is over."""

    STAGES: ClassVar = ("asr_ms", "llm_ms", "text_to_token_ms", "decoder_ms", "waiting_ms", "silence_ms")

    first_audible_ms: float  # the sum of the stages
    asr_ms: float  # the final pass, and its wait for the recogniser
    llm_ms: float  # from there to the language model's first token
    text_to_token_ms: float  # computing of the voice before its first sound
    decoder_ms: float  # flow and vocoder
    waiting_ms: float  # for text, and for the voice's thread
    silence_ms: float  # at the start of the sound
    underruns: int  # chunks that came after the sound before them had ended
    spoken_s: float
    synthesis_s: float  # computing of the whole reply


def hold(
    chain: "Chain", count: int, *, num_turns: int, question: np.ndarray, text: Sequence[str], own_streams: bool = False
) -> list[Turn]:
    """Hold `count` conversations of `num_turns` turns each; the first turn of each is not counted.

    `own_streams`: each thread has a CUDA stream of its own, the voice's first; else all share one, as in the assistant.
    """
    return asyncio.run(_hold(chain, count, num_turns, question, text, own_streams))


async def _hold(
    chain: "Chain", count: int, num_turns: int, question: np.ndarray, text: Sequence[str], own_streams: bool
) -> list[Turn]:
    first, last = (VOICE_FIRST, 0) if own_streams else (None, None)
    writing, hearing = WriterThread(chain.writer, priority=last), Worker("asr", last)
    speaking = Worker("tts", first)
    room = _Room(chain, writing, hearing, speaking, question, text)
    try:
        await speaking.run(chain.synthesizer.warm_up)
        held = await asyncio.gather(*(room.converse(slot, count, num_turns) for slot in range(count)))
    finally:
        for thread in (writing, hearing, speaking):
            thread.close()
    return [turn for turns in held for turn in turns]


class _Room:
    """What all conversations share."""

    def __init__(
        self,
        chain: "Chain",
        writing: WriterThread,
        hearing: Worker,
        speaking: Worker,
        question: np.ndarray,
        text: Sequence[str],
    ) -> None:
        self._chain, self._writing, self._hearing, self._speaking = chain, writing, hearing, speaking
        self._question, self._text = question, text

    async def converse(self, slot: int, count: int, num_turns: int) -> list[Turn]:
        """The user speaks, waits for the reply to end, speaks again; the conversations begin one after the other."""
        question_s = len(self._question) / 16_000
        await asyncio.sleep(question_s * slot / count)
        turns = []
        for number in range(1 + num_turns):
            await asyncio.sleep(question_s)
            turn = await self._turn(slot)
            if number:
                turns.append(turn)
        return turns

    async def _turn(self, slot: int) -> Turn:
        """From the decision to the end of the reply's playback."""
        decided = time.perf_counter()
        await self._hearing.run(self._chain.recognizer.transcribe, self._question)
        heard = time.perf_counter()
        loop, arrived = asyncio.get_running_loop(), asyncio.Queue[None]()
        self._writing.write(slot, len(self._text), lambda: loop.call_soon_threadsafe(arrived.put_nowait, None))
        await arrived.get()
        written = time.perf_counter()
        return await self._speak(arrived, decided, heard, written)

    async def _speak(self, arrived: "asyncio.Queue[None]", decided: float, heard: float, written: float) -> Turn:
        stream = await self._speaking.run(self._chain.synthesizer.stream, share_ids=False)
        reply, texts = _Reply(), list(reversed(self._text))

        def give() -> None:
            stream.push(0, texts.pop())
            if not texts:
                stream.finish()

        give()
        while True:
            while not arrived.empty():
                arrived.get_nowait()
                give()
            made = await self._speaking.run(partial(stream.step, reply.in_hand_s()))
            if made is not None:
                await reply.take(made)
            elif texts:
                await arrived.get()
                give()
            else:
                return await reply.turn(decided, heard, written)


class _Reply:
    """One reply as it comes, played as soon as it is there."""

    def __init__(self) -> None:
        self._tokens_ms = self._decoder_ms = self._synthesis_ms = 0.0
        self._began: float | None = None  # when the first samples came
        self._stalled_s = 0.0  # for which playback had nothing to play
        self._silence_s: float | None = None  # from there to the first sound
        self._before: tuple[float, float] = (0.0, 0.0)  # computing until then, ms: text to token, decoder
        self._spoken_s = 0.0
        self._underruns = 0

    async def take(self, made: Any) -> None:
        """A step; waits when the reply is far ahead of its playback."""
        self._synthesis_ms += made.synth_ms
        if not isinstance(made, PcmChunk):
            self._tokens_ms += made.synth_ms
            return
        self._decoder_ms += made.synth_ms
        if not len(made.samples):
            return
        now = time.perf_counter()
        if self._began is None:
            self._began = now
        late_s = now - self._ends(self._began)
        if late_s > 0:
            self._underruns += 1
            self._stalled_s += late_s
        if self._silence_s is None:
            self._before = self._tokens_ms, self._decoder_ms
            offset = first_audible(made.samples)
            self._silence_s = None if offset is None else self._spoken_s + offset / SAMPLE_RATE
        self._spoken_s += len(made.samples) / SAMPLE_RATE
        await asyncio.sleep(max(0.0, self._ends(self._began) - now - MAX_AHEAD_S))

    def in_hand_s(self) -> float:
        """For how long what has come will be playing."""
        return 0.0 if self._began is None else self._ends(self._began) - time.perf_counter()

    def _ends(self, began: float) -> float:
        """When what has come so far is played."""
        return began + self._stalled_s + self._spoken_s

    async def turn(self, decided: float, heard: float, written: float) -> Turn:
        """What was measured, once the reply is played."""
        assert self._began is not None, "a scripted reply has samples"
        assert self._silence_s is not None, "a scripted reply has sound"
        await asyncio.sleep(max(0.0, self._ends(self._began) - time.perf_counter()))
        tokens_ms, decoder_ms = self._before
        made_ms = 1000 * (self._began - written)
        return Turn(
            first_audible_ms=1000 * (self._began + self._silence_s - decided),
            asr_ms=1000 * (heard - decided),
            llm_ms=1000 * (written - heard),
            text_to_token_ms=tokens_ms,
            decoder_ms=decoder_ms,
            waiting_ms=made_ms - tokens_ms - decoder_ms,
            silence_ms=1000 * self._silence_s,
            underruns=self._underruns,
            spoken_s=self._spoken_s,
            synthesis_s=self._synthesis_ms / 1000,
        )
