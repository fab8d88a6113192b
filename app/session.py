"""The story of a conversation: frames -> recogniser -> turn -> reply -> player.

It knows only the rooms' base modules. One reply is one asyncio task; a barge-in is: flush the player, cancel the task, cut the
conversation to what was heard. A reply may be begun in a pause of the user: until the end of the turn commits it, it is told to
nobody, plays nothing, and is no part of the conversation.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from app.events import (
    BotSpeaking,
    Failed,
    Interrupted,
    ReplyText,
    ReplyTimed,
    SessionEvent,
    StateChanged,
    TurnDone,
    UserSpeaking,
    UserText,
)
from app.trace import DecoderChunkMark, SpeechStepMark, TextTokenMark, TurnTrace, first_audible
from app.turn_taking import (
    Dismiss,
    Drop,
    Duck,
    Happening,
    Interrupt,
    Listen,
    Prepare,
    Reply,
    ReplyEnded,
    ReplyStarted,
    Resume,
    ShowPartial,
    State,
    StopSpeaking,
    TurnTaking,
    Typed,
)
from app.worker import DeviceMemoryError, Worker
from asr.base import SAMPLE_RATE as CAPTURE_HZ
from asr.base import Event, FinalTranscript, RecognitionStream, RecognizerError
from audio_io.base import AudioDevice, AudioFrame, DeviceError
from llm.base import ChatModel, ChatModelError, Message, TextToken
from llm.conversation import Conversation
from tts.base import SAMPLE_RATE as PLAYBACK_HZ
from tts.base import SAMPLES_PER_TOKEN, PcmChunk, SpeechStep, SynthesisError, SynthesisStream

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """What the session itself must know of the configuration."""

    max_ahead_s: float
    flush_fade_ms: float
    first_token_timeout_s: float
    duck_gain: float
    duck_fade_ms: float
    backchannel: frozenset[str]  # words over a reply that do not interrupt it
    speculation: Literal["none", "llm", "tts"]  # what of a reply is begun in a pause


class Session:
    """One conversation with one person through one audio device."""

    def __init__(
        self,
        *,
        device: AudioDevice,
        recognition: RecognitionStream,
        chat: ChatModel,
        new_speech: Callable[[], SynthesisStream],
        conversation: Conversation,
        asr_worker: Worker,
        tts_worker: Worker,
        options: SessionOptions,
        notify: Callable[[SessionEvent], None],
    ) -> None:
        self._device = device
        self._recognition = recognition
        self._chat = chat
        self._new_speech = new_speech
        self._conversation = conversation
        self._asr_worker = asr_worker
        self._tts_worker = tts_worker
        self._options = options
        self._notify = notify
        self._turns = TurnTaking(options.backchannel)
        self._turn = 0
        self._running: RunningReply | None = None
        self._prepared: RunningReply | None = None  # begun in a pause, not committed
        self._speculations = self._speculations_dropped = 0  # since the last turn that was answered
        self._awaiting_llm = 0
        self._happening = asyncio.Lock()  # one happening is dealt with before the next

    @property
    def computing(self) -> bool:
        """True while any model works; a simulated clock must not skip time then."""
        return self._asr_worker.busy or self._tts_worker.busy or self._awaiting_llm > 0

    @property
    def state(self) -> State:
        """Whose turn it is."""
        return self._turns.state

    async def say(self, text: str) -> None:
        """A turn of the user that was typed instead of spoken."""
        at = round(self._device.clock.now() * CAPTURE_HZ)
        await self._on(Typed(FinalTranscript(text=text, speech_start=at, speech_end=at, decided_at=at, compute_ms=0.0)))

    async def stop_speaking(self) -> None:
        """Silence the running reply, as a barge-in does."""
        await self._on(StopSpeaking())

    async def run(self) -> None:
        """Converse until the device has no more frames and the last reply was played."""
        try:
            async for frame in self._device.frames():
                for event in await self._heard(frame):
                    await self._on(event)
            for event in await self._asr_worker.run(self._recognition.finish):
                await self._on(event)
            if self._running:
                await self._running.task
        finally:
            for reply in (self._running, self._prepared):
                if reply:
                    await reply.cancel()

    async def _heard(self, frame: AudioFrame) -> list[Event]:
        """What the recogniser makes of a frame; where it finds no memory, the turn is lost and it listens on."""
        try:
            return await self._asr_worker.run(self._recognition.push, frame.samples)
        except DeviceMemoryError as error:
            log.error("turn %d failed: %s", self._turn, error)
            self._notify(Failed(turn=self._turn, reason=str(error)))
            self._recognition.reset()
            end = frame.start + len(frame.samples)
            return [FinalTranscript(text="", speech_start=end, speech_end=end, decided_at=end, compute_ms=0.0)]

    async def _on(self, happening: Happening) -> None:
        async with self._happening:
            await self._deal_with(happening)

    async def _deal_with(self, happening: Happening) -> None:
        before = self._turns.state
        actions = self._turns.on(happening)
        if self._turns.state is not before:
            self._notify(StateChanged(turn=self._turn, state=self._turns.state))
        for action in actions:
            match action:
                case Listen():
                    self._turn += 1
                    self._notify(UserSpeaking(turn=self._turn))
                case ShowPartial(text):
                    self._notify(UserText(turn=self._turn, text=text, final=False))
                case Duck():
                    self._device.duck(self._options.duck_gain, self._options.duck_fade_ms)
                case Resume():
                    self._device.duck(1.0, self._options.duck_fade_ms)
                case Interrupt():
                    await self._interrupt()
                case Prepare(text):
                    if self._options.speculation != "none":
                        await self._prepare(text)
                case Drop():
                    await self._drop()
                case Reply(transcript):
                    self._notify(UserText(turn=self._turn, text=transcript.text, final=True))
                    await self._answer(transcript)
                case Dismiss():
                    self._turn -= 1

    async def _prepare(self, text: str) -> None:
        """Begin the reply to what the user has said so far, in case that is all."""
        await self._drop()
        self._speculations += 1
        self._prepared = self._begin(self._conversation.messages_after(text))

    async def _drop(self) -> None:
        """Forget the reply that was begun in a pause."""
        if self._prepared:
            self._speculations_dropped += 1
            reply, self._prepared = self._prepared, None
            await reply.cancel()

    async def _answer(self, transcript: FinalTranscript) -> None:
        """The turn is over: commit the prepared reply if it was begun on the very same words and history, or begin one."""
        decided = self._device.clock.now()
        self._conversation.add_user(transcript.text)
        messages = self._conversation.messages()
        if self._prepared and self._prepared.messages != messages:
            await self._drop()
        reply, self._prepared = self._prepared or self._begin(messages), None
        trace = reply.trace
        trace.turn, trace.transcript = self._turn, transcript.text
        trace.marks.last_voiced = transcript.speech_end / CAPTURE_HZ
        trace.marks.end_of_turn = transcript.decided_at / CAPTURE_HZ
        trace.marks.final_transcript = decided
        trace.speculations, trace.speculations_dropped = self._speculations, self._speculations_dropped
        self._speculations = self._speculations_dropped = 0
        self._running = reply
        reply.committed.set()
        for event in reply.untold:
            self._notify(event)

    def _begin(self, messages: list[Message]) -> "RunningReply":
        reply = RunningReply(TurnTrace(turn=self._turn, transcript=""), messages)
        reply.task = asyncio.create_task(self._reply(reply), name=f"turn {self._turn}")
        return reply

    async def _reply(self, reply: "RunningReply") -> None:
        """Answer one turn; an error of a model or of the device ends the turn, not the session."""
        trace = reply.trace
        try:
            try:
                await self._speak(reply)
            except ExceptionGroup as group:  # of the reading, speaking and showing that run side by side
                raise group.exceptions[0] from None
            await reply.committed.wait()
            await self._device.drained()
        except (
            ChatModelError,
            SynthesisError,
            RecognizerError,
            DeviceError,
            DeviceMemoryError,
            TimeoutError,
        ) as error:
            await reply.committed.wait()
            trace.error = str(error) or f"no first word within {self._options.first_token_timeout_s:g} s"
            log.error("turn %d failed: %s", trace.turn, trace.error)
            trace.heard = reply.heard_text(self._device.flush(self._options.flush_fade_ms).played_samples)
            self._notify(Failed(turn=trace.turn, reason=trace.error))
        else:
            trace.heard = trace.reply
        self._conversation.add_assistant(trace.heard)
        self._finish(reply)
        await self._on(ReplyEnded())

    async def _speak(self, reply: "RunningReply") -> None:
        """Feed the synthesiser token by token and play its chunks while the model is still writing."""
        speech = self._new_speech()
        arrived: deque[TextToken] = deque()
        wake = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read(reply, arrived, wake))
            captions = tasks.create_task(self._caption(reply))
            finished = False
            if self._options.speculation != "tts":
                await reply.committed.wait()
            while not speech.done:
                while arrived:
                    token = arrived.popleft()
                    speech.push(token.id, token.text)
                if reading.done() and not finished:
                    speech.finish()
                    finished = True
                made = await self._tts_worker.run(speech.step)
                if made is None and not speech.done and not arrived and not (reading.done() and not finished):
                    await wake.wait()
                    wake.clear()
                elif isinstance(made, SpeechStep):
                    self._mark_step(reply, made)
                elif isinstance(made, PcmChunk):
                    await self._play(reply, made)
            reply.complete = True
            reply.progress.set()
            await captions

    async def _read(self, reply: "RunningReply", arrived: deque[TextToken], wake: asyncio.Event) -> None:
        """Take the model's tokens as they come."""
        marks, timeout = reply.trace.marks, self._options.first_token_timeout_s
        try:
            async with aclosing(self._chat.stream(reply.messages)) as tokens:  # type: ignore[type-var]
                while True:
                    token = await self._next(tokens, timeout if not marks.text_tokens else None)
                    if token is None:
                        break
                    now = self._device.clock.now()
                    if marks.llm_first_token is None:
                        marks.llm_first_token = now
                    marks.text_tokens.append(
                        TextTokenMark(index=len(marks.text_tokens), id=token.id, text=token.text, at=now)
                    )
                    reply.trace.reply += token.text
                    arrived.append(token)
                    wake.set()
                    self._tell(reply, ReplyText(turn=reply.trace.turn, text=token.text))
            marks.llm_done = self._device.clock.now()
        finally:
            wake.set()

    async def _next(self, tokens: object, timeout: float | None) -> TextToken | None:
        self._awaiting_llm += 1
        try:
            async with asyncio.timeout(timeout):
                return await anext(tokens, None)  # type: ignore[call-overload, no-any-return]
        finally:
            self._awaiting_llm -= 1

    def _mark_step(self, reply: "RunningReply", step: SpeechStep) -> None:
        reply.trace.marks.speech_steps.append(
            SpeechStepMark(
                text_token=step.text_token,
                num_speech_tokens=step.num_speech_tokens,
                capped=step.capped,
                token_end=step.token_end,
                synth_ms=step.synth_ms,
                at=self._device.clock.now(),
            )
        )
        spoken = sum(mark.num_speech_tokens for mark in reply.trace.marks.speech_steps) * SAMPLES_PER_TOKEN
        self._tell(reply, ReplyTimed(turn=reply.trace.turn, token_end=step.token_end, sample_end=spoken))

    def _tell(self, reply: "RunningReply", event: SessionEvent) -> None:
        """Tell the listeners something of a reply; of one that is not committed, when it is."""
        if reply.committed.is_set():
            self._notify(event)
        else:
            reply.untold.append(event)

    async def _play(self, reply: "RunningReply", chunk: PcmChunk) -> None:
        """Hand a chunk to the device, once the reply is committed; only so far does a reply get before it."""
        marks, clock = reply.trace.marks, self._device.clock
        made = clock.now()
        await reply.committed.wait()
        now = clock.now()
        plays_at = self._device.play(chunk.samples, last=chunk.last)
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
        marks.last_sample = plays_at + len(chunk.samples) / PLAYBACK_HZ
        if marks.first_audible_sample is None:
            offset = first_audible(chunk.samples)
            if offset is not None:
                marks.first_audible_sample = plays_at + offset / PLAYBACK_HZ
                await self._on(ReplyStarted())
        reply.progress.set()
        if marks.last_sample - now > self._options.max_ahead_s:
            await clock.sleep_until(marks.last_sample - self._options.max_ahead_s)

    async def _caption(self, reply: "RunningReply") -> None:
        """Tell the listeners which words are being spoken, when they are."""
        told = 0
        chunks = reply.trace.marks.decoder_chunks
        while True:
            while told < len(chunks):
                await self._device.clock.sleep_until(chunks[told].plays_at)
                self._notify(BotSpeaking(turn=reply.trace.turn, token_end=chunks[told].token_end))
                told += 1
            if reply.complete:
                return
            reply.progress.clear()
            await reply.progress.wait()

    async def _interrupt(self) -> None:
        """Barge-in, in this order: silence, cancel, cut the conversation to what was heard."""
        reply = self._running
        if reply is None:
            return
        report = self._device.flush(self._options.flush_fade_ms)
        await reply.cancel()
        trace = reply.trace
        trace.interrupted = True
        trace.heard = reply.heard_text(report.played_samples)
        self._conversation.add_assistant(trace.heard, interrupted=True)
        self._notify(Interrupted(turn=trace.turn, heard_text=trace.heard))
        self._finish(reply)

    def _finish(self, reply: "RunningReply") -> None:
        reply.trace.underruns = self._device.underruns
        self._running = None
        self._notify(TurnDone(turn=reply.trace.turn, trace=reply.trace))


class RunningReply:
    """A reply that is being made: what it answers, its task, its trace, and which words were heard."""

    task: "asyncio.Task[None]"

    def __init__(self, trace: TurnTrace, messages: list[Message]) -> None:
        self.trace = trace
        self.messages = messages
        self.committed = asyncio.Event()  # the turn is over, and this is the reply to it
        self.untold: list[SessionEvent] = []  # of before
        self.progress = asyncio.Event()  # a chunk was handed to the device, or the reply is complete
        self.complete = False

    async def cancel(self) -> None:
        """Cancel the task and wait until it is gone; its models' running steps end, their results are dropped."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def heard_text(self, played_samples: int) -> str:
        """The reply's text up to the last language model token whose speech was played whole."""
        total, tokens = 0, 0
        for step in self.trace.marks.speech_steps:
            total += step.num_speech_tokens * SAMPLES_PER_TOKEN
            if total > played_samples:
                break
            tokens = step.token_end
        return "".join(mark.text for mark in self.trace.marks.text_tokens[:tokens])
