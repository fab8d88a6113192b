"""The story of a conversation: frames -> recogniser -> turn -> reply -> player.

It knows only the rooms' base modules. One reply is one asyncio task; a barge-in is: flush the player, cancel the task, cut the
conversation to what was heard. A reply may be begun in a pause of the user: until the end of the turn commits it, it is told to
nobody, plays nothing, and is no part of the conversation.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from functools import partial

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
from app.reply import RunningReply, SessionOptions, WrittenText, one_line
from app.trace import LevelMark, TurnTrace, first_audible
from app.turn_taking import (
    Answer,
    Apologise,
    Asked,
    Dismiss,
    Drop,
    Duck,
    Happening,
    Hush,
    Interrupt,
    Keep,
    Listen,
    NotHeard,
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
from asr.base import Event, FinalTranscript, RecognitionStream, RecognizerError, SpeechStarted
from audio_io.base import AudioDevice, DeviceError
from llm.base import ChatModel, ChatModelError, Message, TextToken
from llm.conversation import Conversation
from tts.base import SAMPLE_RATE as PLAYBACK_HZ
from tts.base import PcmChunk, SpeechStep, SynthesisError, SynthesisStream

log = logging.getLogger(__name__)


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
        self.turns = TurnTaking(options.backchannel, options.aside_s)
        self._turn = 0
        self._voice_at = 0.0  # when the user's voice was last noticed, seconds on the clock
        self._running: RunningReply | None = None
        self._prepared: RunningReply | None = None  # begun in a pause, not committed
        self._speculations = self._speculations_dropped = 0  # since the last turn that was answered
        self._awaiting_llm = 0
        self._deaf = False  # the recogniser failed on the last samples
        self._happening = asyncio.Lock()  # one happening is dealt with before the next

    @property
    def computing(self) -> bool:
        """True while any model works; a simulated clock must not skip time then."""
        return self._asr_worker.busy or self._tts_worker.busy or self._awaiting_llm > 0

    @property
    def state(self) -> State:
        """Whose turn it is."""
        return self.turns.state

    async def say(self, text: str) -> None:
        """A turn of the user that was typed instead of spoken."""
        at = round(self._device.clock.now() * CAPTURE_HZ)
        await self._on(Typed(FinalTranscript(text=text, speech_start=at, speech_end=at, decided_at=at, compute_ms=0.0)))

    async def answer(self, instructions: str | None = None) -> None:
        """Reply to the conversation as it stands; `instructions` in place of its system prompt, unless None."""
        await self._on(Asked(instructions))

    async def end_turn(self) -> None:
        """What the user has said so far is all of his turn."""
        await self._hear(self._recognition.finish)

    async def forget_turn(self) -> None:
        """What the user has said so far was never said."""
        await self._asr_worker.run(self._recognition.reset)
        await self._on(FinalTranscript(text="", speech_start=0, speech_end=0, decided_at=0, compute_ms=0.0))

    async def stop_speaking(self) -> None:
        """Silence the running reply, as a barge-in does."""
        await self._on(StopSpeaking())

    async def run(self) -> None:
        """Converse until the device has no more frames and the last reply was played."""
        try:
            async for frame in self._device.frames():
                await self._hear(self._recognition.push, frame.samples)
            await self._hear(self._recognition.finish)
            if self._running and self._running.task:
                await self._running.task
        finally:
            replies, self._running, self._prepared = (self._running, self._prepared), None, None
            for reply in replies:
                if reply:
                    await reply.cancel()

    async def _hear(self, call: Callable[..., list[Event]], *args: object) -> None:
        """What the user does. A recogniser that fails loses the turn; one that fails again at once ends the session."""
        happenings: Sequence[Happening]
        try:
            happenings = await self._asr_worker.run(call, *args)
            self._deaf = False
        except Exception as error:  # of any kind: models and their libraries raise many
            if self._deaf:
                raise
            self._deaf = True
            log.error(
                "the recogniser failed: %s", error, exc_info=not isinstance(error, RecognizerError | DeviceMemoryError)
            )
            await self._asr_worker.run(self._recognition.reset)
            happenings = [NotHeard(one_line(error))]
        for happening in happenings:
            await self._on(happening)

    async def _on(self, happening: Happening) -> None:
        async with self._happening:
            await self._deal_with(happening)

    async def _deal_with(self, happening: Happening) -> None:
        before = self.turns.state
        if isinstance(happening, SpeechStarted):
            self._voice_at = happening.at / CAPTURE_HZ
        actions = self.turns.on(happening)
        if self.turns.state is not before:
            self._notify(StateChanged(turn=self._turn, state=self.turns.state))
        for action in actions:
            match action:
                case Listen():
                    self._turn += 1
                    self._notify(UserSpeaking(turn=self._turn, at=self._voice_at))
                case ShowPartial(text):
                    self._notify(UserText(turn=self._turn, text=text, final=False))
                case Duck():
                    self._level(self._options.duck_gain)
                case Hush():
                    self._level(0.0)
                case Resume():
                    self._level(1.0)
                case Interrupt():
                    await self._interrupt()
                case Prepare(text):
                    if self._options.speculation != "none":
                        await self._prepare(text)
                case Drop():
                    await self._drop()
                case Reply(transcript) | Keep(transcript):
                    ended = transcript.speech_end / CAPTURE_HZ
                    self._notify(UserText(turn=self._turn, text=transcript.text, final=True, ended_at=ended))
                    decided = self._device.clock.now()
                    self._conversation.add_user(transcript.text, key=("user", self._turn))
                    if isinstance(action, Reply):
                        await self._answer(transcript, decided)
                case Answer(instructions):
                    self._turn += 1
                    self._commit(self._begin(self._conversation.messages(instructions)))
                case Apologise(reason):
                    await self._apologise(reason)
                case Dismiss():
                    self._turn -= 1

    def _level(self, gain: float) -> None:
        """Play the running reply at so much of its level; what is played at none is not heard."""
        self._device.duck(gain, self._options.duck_fade_ms)
        if self._running:
            self._running.trace.marks.levels.append(LevelMark(at=self._device.clock.now(), gain=gain))
            self._running.audible_samples = self._device.played_samples if gain == 0.0 else None

    async def _prepare(self, text: str) -> None:
        """Begin the reply to what the user has said so far, in case that is all; it is begun once."""
        messages = self._conversation.messages_after(text)
        if self._prepared and self._prepared.messages == messages:
            return
        await self._drop()
        self._speculations += 1
        self._prepared = self._begin(messages)

    async def _drop(self) -> None:
        """Forget the reply that was begun in a pause."""
        if self._prepared:
            self._speculations_dropped += 1
            reply, self._prepared = self._prepared, None
            await reply.cancel()

    async def _answer(self, transcript: FinalTranscript, decided: float) -> None:
        """The turn is over: commit the prepared reply if it was begun on the very same words and history, or begin one."""
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
        self._commit(reply)

    async def _apologise(self, reason: str) -> None:
        """The user's words are lost: the reply is that they are."""
        self._notify(UserText(turn=self._turn, text="", final=True))
        reply = self._begin([])
        self._fail(reply, reason)
        self._commit(reply)

    def _commit(self, reply: RunningReply) -> None:
        """This is the reply to the turn: what was kept back of it is told and played."""
        self._running = reply
        reply.committed.set()
        for event in reply.untold:
            self._notify(event)

    def _begin(self, messages: list[Message]) -> RunningReply:
        reply = RunningReply(TurnTrace(turn=self._turn, transcript=""), messages, self._device.clock.now())
        reply.task = asyncio.create_task(self._reply(reply), name=f"turn {self._turn}")
        return reply

    async def _reply(self, reply: RunningReply) -> None:
        """Answer one turn; an error ends the turn, not the session."""
        trace = reply.trace
        try:
            try:
                await self._speak(reply)
            except ExceptionGroup as group:  # of the reading, speaking and showing that run side by side
                raise group.exceptions[0] from None
            await reply.committed.wait()
            await self._device.drained()
            trace.heard = trace.reply
        except Exception as error:  # of the voice or the device, in which no apology can be said; or a fault of ours
            await reply.committed.wait()
            known = isinstance(error, SynthesisError | DeviceError | DeviceMemoryError)
            log.error("turn %d: %s", trace.turn, error, exc_info=not known)
            trace.heard = trace.heard_by(self._device.flush(self._options.flush_fade_ms).played_samples)
            self._fail(reply, one_line(error))
        self._finish(reply)
        await self._on(ReplyEnded())

    def _fail(self, reply: RunningReply, reason: str) -> None:
        """The turn has failed; it is told once, whatever fails after that."""
        if reply.trace.error is None:
            reply.trace.error = reason
            self._tell(reply, Failed(turn=reply.trace.turn, reason=reason))

    async def _speak(self, reply: RunningReply) -> None:
        """Feed the synthesiser token by token and play its chunks while the model is still writing."""
        text = WrittenText(self._options.max_ahead_tokens)
        speech: SynthesisStream | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(reply, text))
                captions = tasks.create_task(self._caption(reply))
                speech = await self._tts_worker.run(self._new_speech)  # states are copied, and a prompt read, for it
                finished = False
                if self._options.speculation != "tts":
                    await reply.committed.wait()
                while not speech.done:
                    for token in text.take():
                        speech.push(token.id, token.text)
                    if text.complete and not finished:
                        speech.finish()
                        finished = True
                    slack_s = reply.slack_s(self._device.clock.now())  # who runs dry first is served first
                    made = await self._tts_worker.run_within(slack_s, partial(speech.step, slack_s))
                    if made is None and not speech.done:
                        await text.more()
                    elif isinstance(made, SpeechStep):
                        text.spoken(made.token_end)
                        end = reply.stepped(made, self._device.clock.now())
                        self._tell(reply, ReplyTimed(turn=reply.trace.turn, token_end=made.token_end, sample_end=end))
                    elif isinstance(made, PcmChunk):
                        await self._play(reply, made)
                reply.complete = True
                reply.progress.set()
                await captions
        finally:
            speech = None  # the frame of a cancelled task may outlive it, and with it megabytes of a model's state

    async def _read(self, reply: RunningReply, text: WrittenText) -> None:
        """Take the model's tokens as they come; where they fail, an apology goes on in their place."""
        try:
            if reply.trace.error is None:
                await self._take(reply, text)
        except (ChatModelError, TimeoutError) as error:
            log.error("turn %d: %s", reply.trace.turn, one_line(error))
            self._fail(reply, str(error) or f"the model wrote nothing for {self._options.first_token_timeout_s:g} s.")
        finally:
            text.end(self._options.apology if reply.trace.error is not None else ())

    async def _take(self, reply: RunningReply, text: WrittenText) -> None:
        async with aclosing(self._chat.stream(reply.messages)) as tokens:  # type: ignore[type-var]
            while (token := await self._next(tokens)) is not None:
                reply.wrote(token, self._device.clock.now())
                text.put(token)
                self._tell(reply, ReplyText(turn=reply.trace.turn, text=token.text))
                await text.room()
        reply.trace.marks.llm_done = self._device.clock.now()

    async def _next(self, tokens: object) -> TextToken | None:
        self._awaiting_llm += 1
        try:
            async with asyncio.timeout(self._options.first_token_timeout_s):
                return await anext(tokens, None)  # type: ignore[call-overload, no-any-return]
        finally:
            self._awaiting_llm -= 1

    def _tell(self, reply: RunningReply, event: SessionEvent) -> None:
        """Tell the listeners something of a reply; of one that is not committed, when it is."""
        if reply.committed.is_set():
            self._notify(event)
        else:
            reply.untold.append(event)

    async def _play(self, reply: RunningReply, chunk: PcmChunk) -> None:
        """Hand a chunk to the device, once the reply is committed; only so far does a reply get before it."""
        marks, clock = reply.trace.marks, self._device.clock
        made = clock.now()
        await reply.committed.wait()
        now = clock.now()
        plays_at = self._device.play(chunk.samples, last=chunk.last)
        ends_at = reply.queued(chunk, made, plays_at)
        if marks.first_audible_sample is None:
            offset = first_audible(chunk.samples)
            if offset is not None:
                marks.first_audible_sample = plays_at + offset / PLAYBACK_HZ
                await self._on(ReplyStarted())
        reply.progress.set()
        if ends_at - now > self._options.max_ahead_s:
            await clock.sleep_until(ends_at - self._options.max_ahead_s)

    async def _caption(self, reply: RunningReply) -> None:
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
        heard = report.played_samples if reply.audible_samples is None else reply.audible_samples
        trace.heard = trace.heard_by(heard)
        marks = trace.marks
        first = marks.first_audible_sample
        if first is not None and first >= marks.decoder_chunks[0].plays_at + heard / PLAYBACK_HZ:
            marks.first_audible_sample = None  # it was silenced before that
        self._notify(Interrupted(turn=trace.turn, heard_text=trace.heard, played_samples=heard))
        self._finish(reply)

    def _finish(self, reply: RunningReply) -> None:
        trace = reply.trace
        trace.underruns = self._device.underruns
        self._conversation.add_assistant(trace.heard, interrupted=trace.interrupted, key=("assistant", trace.turn))
        self._running = None
        self._notify(TurnDone(turn=trace.turn, trace=trace))
