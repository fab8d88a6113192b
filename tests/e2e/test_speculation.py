"""Replies begun in the pauses of the user: whatever he does, a dropped one leaves nothing behind."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.events import Failed, Interrupted, ReplyText, ReplyTimed, TurnDone, UserText
from app.reply import SessionOptions
from app.session import Session
from app.turn_taking import State
from asr.base import SAMPLE_RATE as CAPTURE_HZ
from asr.base import (
    FinalTranscript,
    PartialTranscript,
    RecognizerError,
    SpeechEnded,
    SpeechStarted,
    SpeechSustained,
    VoiceHeard,
    VoiceLost,
)
from audio_io.base import DeviceError
from audio_io.clock import LoopClock
from audio_io.file_device import FileDevice
from llm.base import ChatModelError, TextToken
from llm.conversation import Conversation
from tests import virtual_time
from tests.fakes import InlineWorker, ScriptedRecognition, ScriptedSpeech, silence
from tts.base import SAMPLE_RATE

BACKCHANNEL = "99"
PAUSE_S = 0.16  # from the last voice to the recogniser's first guess
WORDS = 8
SAMPLE_S = 1 / SAMPLE_RATE


class NumberChat:
    """Answers "... 7" with eight tokens that all carry the 7."""

    vocabulary_id = "numbers"

    def __init__(self, first_s=0.1, token_s=0.03, failing=()):
        self.first_s, self.token_s, self.failing = first_s, token_s, failing
        self.asked, self.open = [], 0

    async def stream(self, messages, *, temperature=None):
        number = next((int(m.content.split()[-1]) for m in reversed(messages) if m.role == "user"), 0)
        self.asked.append(number)
        self.open += 1
        try:
            for index in range(WORDS):
                await asyncio.sleep(self.token_s if index else self.first_s)
                if number in self.failing:
                    raise ChatModelError("the model stopped; start it again.")
                yield TextToken(number, f"{' ' if index else ''}n{number}w{index}")
        finally:
            self.open -= 1

    def count_tokens(self, text):
        return len(text.split())


class NumberSpeech(ScriptedSpeech):
    """Speaks the 7 as samples of 0.07."""

    def push(self, token_id, text):
        self.number = token_id
        super().push(token_id, text)

    def _chunk(self, count, last):
        chunk = super()._chunk(count, last)
        chunk.samples[:] = 0.01 * self.number
        return chunk


def says(pieces, start):
    """One turn: ((seconds of voice, number said last, silence after it), ...). The last silence ends it."""
    script, at, text = [], start, ""
    first = round(start * CAPTURE_HZ)
    for index, (voice, number, pause) in enumerate(pieces):
        text = f"{text} {number}".strip()
        begin, at = round(at * CAPTURE_HZ), at + voice
        end, decided = round(at * CAPTURE_HZ), at + pause
        script.append((at - voice + 0.05, lambda _, begin=begin: SpeechStarted(at=begin)))
        script.append(
            (at + PAUSE_S, lambda now, text=text: PartialTranscript(text=text, stable_chars=len(text), at=now))
        )
        script.append((at + PAUSE_S, lambda _, text=text, end=end: SpeechEnded(at=end, text=text, complete=True)))
        if index == len(pieces) - 1:
            script.append(
                (
                    decided,
                    lambda now, text=text, end=end: FinalTranscript(
                        text=text, speech_start=first, speech_end=end, decided_at=now, compute_ms=20.0
                    ),
                )
            )
        at = decided
    return script, at


def overheard(kind, at):
    """What else a recogniser may tell at a second, whatever the user does."""

    def fails(_):
        raise RecognizerError("the recogniser stopped; start it again.")

    def spoken(text):
        first, last = round(at * CAPTURE_HZ), round((at + 0.3) * CAPTURE_HZ)
        return [
            (at, lambda _: SpeechStarted(at=first)),
            (at + 0.1, lambda now: PartialTranscript(text=text, stable_chars=len(text), at=now)),
            (at + 0.4, lambda _: SpeechEnded(at=last, text=text, complete=bool(text))),
            (
                at + 0.7,
                lambda now: FinalTranscript(
                    text=text, speech_start=first, speech_end=last, decided_at=now, compute_ms=20.0
                ),
            ),
        ]

    scripts = {
        "voice": [(at, lambda now: VoiceHeard(at=now))],
        "voice lost": [(at, lambda now: VoiceLost(at=now))],
        "voice lasts": [(at, lambda now: SpeechSustained(at=now))],
        "nothing": spoken(""),
        "back-channel": spoken(BACKCHANNEL),
        "failure": [(at, fails)],
    }
    return scripts[kind]


class Microphone(FileDevice):
    """Unplugged at a second, or never."""

    gone_s = np.inf

    async def frames(self):
        async for frame in super().frames():
            if frame.start >= self.gone_s * CAPTURE_HZ:
                raise DeviceError("the microphone is gone")
            yield frame


class Talk:
    """One conversation with numbers."""

    def __init__(self, script, chat, *, speculation, seconds, step_s=0.01, acts=(), gone_s=np.inf):
        self.events, self.traces, self.answering, self.gone_s, self.gone = [], [], 0, gone_s, False
        self.chat = chat
        virtual_time.run(self._run(script, speculation, seconds, step_s, acts))
        self.played = self.device.timeline()

    async def _run(self, script, speculation, seconds, step_s, acts):
        self.clock = LoopClock()
        self.device = Microphone(self.clock, [silence(seconds)], patience_s=1.0)
        self.device.gone_s = self.gone_s
        self.device.waiting_for_reply = lambda: self.answering > 0
        self.conversation = Conversation(system_prompt="", max_tokens=2000, count_tokens=lambda text: len(text.split()))
        session = Session(
            device=self.device,
            recognition=ScriptedRecognition(script),
            chat=self.chat,
            new_speech=NumberSpeech,
            conversation=self.conversation,
            asr_worker=InlineWorker(),
            tts_worker=InlineWorker(step_s),
            options=SessionOptions(
                max_ahead_s=0.5,
                flush_fade_ms=5.0,
                duck_gain=0.2,
                duck_fade_ms=20.0,
                backchannel=frozenset({BACKCHANNEL}),
                first_token_timeout_s=5.0,
                speculation=speculation,
            ),
            notify=self._notify,
        )
        loop, doing = asyncio.get_running_loop(), []
        for at, act in acts:
            loop.call_later(at, lambda act=act: doing.append(asyncio.ensure_future(act(self, session))))
        try:
            await session.run()
        except DeviceError:
            self.gone = True
        self.state = session.state
        await asyncio.gather(*doing)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left

    def _notify(self, event):
        self.events.append((self.clock.now(), event))
        if (isinstance(event, UserText) and event.final) or isinstance(event, Wanted):
            self.answering += 1
        if isinstance(event, TurnDone):
            self.answering -= 1
            self.traces.append(event.trace)

    async def ask(self, session):
        """Want a reply to the conversation as it stands."""
        self._notify(Wanted())
        await session.answer()

    def of(self, kind):
        return [event for _, event in self.events if isinstance(event, kind)]


class Wanted:
    """A reply was asked for without any words."""


def check(talk):
    """What must hold of every conversation."""
    assert talk.gone or talk.state in (State.LISTENING, State.USER_SPEAKING)
    questions = [event for event in talk.of(UserText) if event.final]
    said = {event.turn: event.text for event in questions}
    assert len(said) == len(questions)
    answered = [trace.turn for trace in talk.traces]
    assert answered == sorted(set(answered))  # one reply to each
    assert len(answered) + talk.answering == len(questions) + len(talk.of(Wanted))
    assert talk.answering == 0 or (talk.gone and talk.answering == 1)  # the one that the device's end cut off
    history, number, numbers = [], 0, {}
    traces = {trace.turn: trace for trace in talk.traces}
    for turn in sorted({*said, *traces}):
        if said.get(turn):
            history.append(("user", said[turn]))
            number = int(said[turn].split()[-1])
        numbers[turn] = number
        if turn not in traces:
            continue
        trace = traces[turn]
        assert trace.transcript == said.get(turn, "")
        assert all(mark.text.strip().startswith(f"n{number}w") for mark in trace.marks.text_tokens)
        if trace.heard:
            history.append(("assistant", trace.heard + ("..." if trace.interrupted else "")))
        assert trace.reply.startswith(trace.heard)
        assert 0 <= trace.speculations - trace.speculations_dropped <= 1
        if trace.waterfall:
            assert sum(trace.waterfall.values()) == pytest.approx(trace.voice_to_voice_s)
            assert min(trace.waterfall.values()) > -SAMPLE_S
    while history and history[0][0] == "assistant":  # models want a user first
        history.pop(0)
    assert [(m.role, m.content) for m in talk.conversation.messages()] == history
    # the listeners hear of a reply after its question, and of no other
    asked = {event.turn: index for index, (_, event) in enumerate(talk.events) if event in questions}
    done = {event.turn: index for index, (_, event) in enumerate(talk.events) if isinstance(event, TurnDone)}
    for turn, trace in traces.items():
        told = [(i, e) for i, (_, e) in enumerate(talk.events) if isinstance(e, ReplyText) and e.turn == turn]
        assert "".join(event.text for _, event in told) == trace.reply
        assert all(asked.get(turn, -1) < index < done[turn] for index, _ in told)
        timed = [event for event in talk.of(ReplyTimed) if event.turn == turn]
        assert len(timed) == len(trace.marks.speech_steps)
    cut_off = {event.turn for event in [*talk.of(ReplyText), *talk.of(ReplyTimed)]} - {*traces}
    assert len(cut_off) <= talk.answering
    # the loudspeaker plays the committed replies alone, each after its end of turn
    allowed = np.zeros(len(talk.played), bool)
    for turn, trace in traces.items():
        for chunk in trace.marks.decoder_chunks:
            if turn in said:
                assert chunk.plays_at >= trace.marks.final_transcript - SAMPLE_S
            begin = round(chunk.plays_at * SAMPLE_RATE)
            sounds = talk.played[begin : begin + chunk.num_samples]
            allowed[begin : begin + chunk.num_samples] |= sounds <= 0.01 * numbers[turn] + 1e-6
    if talk.answering:  # of its reply there is no trace
        since = max(at for at, event in talk.events if isinstance(event, TurnDone | UserText | Wanted))
        allowed[round(since * SAMPLE_RATE) :] |= talk.played[round(since * SAMPLE_RATE) :] <= 0.01 * number + 1e-6
    assert not talk.played[~allowed].any()
    assert talk.chat.open == 0


seconds = st.integers(1, 45).map(lambda n: n / 50 + 0.003)
numbers = st.integers(1, 60)
pieces = st.lists(st.tuples(seconds, numbers, seconds.map(lambda s: max(s, PAUSE_S + 0.02))), min_size=1, max_size=3)


@settings(max_examples=100, deadline=None)
@given(
    turns=st.lists(st.tuples(st.floats(0.1, 4.0), pieces), min_size=1, max_size=3),
    speculation=st.sampled_from(["none", "llm", "tts"]),
    first_s=st.floats(0.0, 0.6),
    token_s=st.floats(0.0, 0.2),
    step_s=st.floats(0.0, 0.05),
    acts=st.lists(st.tuples(st.floats(0.0, 8.0), st.sampled_from(["say 77", "stop", "ask"])), max_size=3),
    failing=st.sets(numbers, max_size=2),
    heard=st.lists(
        st.tuples(
            st.sampled_from(["voice", "voice lost", "voice lasts", "nothing", "back-channel"]), st.floats(0.0, 8.0)
        ),
        max_size=5,
    ),
    deaf_s=st.none() | st.floats(0.0, 8.0),
    gone_s=st.none() | st.floats(0.0, 8.0),
)
def test_a_dropped_reply_is_never_heard_told_or_remembered(
    turns, speculation, first_s, token_s, step_s, acts, failing, heard, deaf_s, gone_s
):
    script, at = [], 0.0
    for gap, parts in turns:
        more, at = says(parts, at + gap)
        script += more
    for kind, when in heard:
        script += overheard(kind, when)
    if deaf_s is not None:  # once: at once again it would end the session
        script += overheard("failure", deaf_s)
    chat = NumberChat(first_s, token_s, failing)
    does = {
        "say 77": lambda _, session: session.say("please 77"),
        "stop": lambda _, session: session.stop_speaking(),
        "ask": lambda talk, session: talk.ask(session),
    }
    talk = Talk(
        script, chat, speculation=speculation, seconds=at + 0.5, step_s=step_s,
        acts=[(when, does[act]) for when, act in acts], gone_s=np.inf if gone_s is None else gone_s,
    )  # fmt: skip
    check(talk)
    if speculation == "none":
        assert len(chat.asked) <= len(talk.traces) + talk.answering  # one that is interrupted at once asks nothing
        assert not any(trace.speculations for trace in talk.traces)


QUESTION = ((0.8, 3, 0.6),)


@pytest.mark.parametrize(
    ("speculation", "saved"),
    [("none", 0.0), ("llm", 0.30 + 3 * 0.05), ("tts", 0.30 + 3 * 0.05)],
)
def test_what_is_done_in_the_pause_costs_no_time_after_it(speculation, saved):
    """0.6 s of silence, of which 0.44 s are left after the pause is noticed: enough for the words, not for the voice."""
    script, _ = says(QUESTION, 0.2)
    plain = Talk(script, NumberChat(0.30, 0.05), speculation="none", seconds=1.5, step_s=0.02).traces[0]
    script, _ = says(QUESTION, 0.2)
    (trace,) = Talk(script, NumberChat(0.30, 0.05), speculation=speculation, seconds=1.5, step_s=0.02).traces
    gained = plain.voice_to_voice_s - trace.voice_to_voice_s
    assert gained == pytest.approx(min(saved, 0.44), abs=0.045)  # frames of 20 ms, steps of 20 ms
    assert trace.speculations == (speculation != "none")
    assert trace.speculations_dropped == 0


def test_the_voice_too_is_begun_in_the_pause_where_that_is_chosen():
    gained = {}
    for speculation in ("llm", "tts"):
        script, _ = says(QUESTION, 0.2)
        (trace,) = Talk(script, NumberChat(0.01, 0.001), speculation=speculation, seconds=1.5, step_s=0.05).traces
        gained[speculation] = trace.voice_to_voice_s
        assert (trace.marks.decoder_chunks[0].at < trace.marks.end_of_turn) is (speculation == "tts")
    assert gained["llm"] - gained["tts"] == pytest.approx(4 * 0.05, abs=0.03)  # three words and a chunk


@pytest.mark.parametrize("speculation", ["llm", "tts"])
def test_a_reply_begun_in_a_pause_inside_the_turn_is_dropped_and_counted(speculation):
    script, _ = says(((0.5, 1, 0.4), (0.5, 2, 0.4), (0.5, 3, 0.5)), 0.2)
    talk = Talk(script, NumberChat(0.01, 0.01), speculation=speculation, seconds=3.0)
    (trace,) = talk.traces
    assert (trace.transcript, trace.heard.split()[0]) == ("1 2 3", "n3w0")
    assert talk.chat.asked == [1, 2, 3]
    assert (trace.speculations, trace.speculations_dropped) == (3, 2)
    check(talk)


def test_a_back_channel_word_over_a_reply_is_no_turn():
    script, decided = says(QUESTION, 0.2)
    talk = Talk([*script, *overheard("back-channel", decided + 0.5)], NumberChat(), speculation="llm", seconds=4.0)
    (trace,) = talk.traces
    assert (trace.transcript, trace.heard, trace.interrupted) == ("3", trace.reply, False)
    check(talk)


def test_words_that_the_recogniser_loses_are_answered_by_saying_so():
    script, _ = says(QUESTION, 0.2)
    talk = Talk([script[0], *overheard("failure", 0.6)], NumberChat(), speculation="llm", seconds=2.0)
    assert [event.reason for event in talk.of(Failed)] == ["the recogniser stopped; start it again."]
    assert talk.state is State.LISTENING
    check(talk)


def test_a_changed_history_drops_the_prepared_reply():
    script, _ = says(QUESTION, 0.2)

    class Instructed(Talk):
        async def _run(self, *arguments):
            asyncio.get_running_loop().call_later(1.3, lambda: self.conversation.instruct("Be brief."))
            await super()._run(*arguments)

    talk = Instructed(script, NumberChat(), speculation="tts", seconds=1.5)
    (trace,) = talk.traces
    assert (trace.speculations, trace.speculations_dropped) == (1, 1)
    assert talk.chat.asked == [3, 3]
    assert len(talk.of(ReplyText)) == WORDS


def test_the_failure_of_a_dropped_reply_is_told_to_nobody():
    script, _ = says(((0.5, 1, 0.5), (0.5, 2, 0.5)), 0.2)
    talk = Talk(script, NumberChat(0.01, 0.01, failing={1}), speculation="tts", seconds=3.0)
    assert talk.of(Failed) == []
    assert [trace.error for trace in talk.traces] == [None]


def test_the_failure_of_a_committed_reply_is_told_after_the_end_of_turn():
    script, decided = says(QUESTION, 0.2)
    talk = Talk(script, NumberChat(0.01, 0.01, failing={3}), speculation="tts", seconds=3.0)
    (failed,) = [at for at, event in talk.events if isinstance(event, Failed)]
    assert failed >= decided - 0.021
    assert talk.of(Interrupted) == []
    check(talk)
