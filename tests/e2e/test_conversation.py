"""Scripted conversations in virtual time: every part is a fake with known delays, the session is the real one."""

import asyncio
import dataclasses
import gc
import weakref

import numpy as np
import pytest
import torch

from app.events import BotSpeaking, Failed, Interrupted, ReplyText, TurnDone, UserSpeaking, UserText
from app.reply import SessionOptions
from app.session import Session
from app.trace import waterfall_line
from asr.base import SAMPLE_RATE as CAPTURE_HZ
from asr.base import SpeechSustained, VoiceHeard
from audio_io.clock import LoopClock
from audio_io.file_device import FileDevice
from llm.conversation import Conversation
from tests import virtual_time
from tests.fakes import (
    InlineWorker,
    ScriptedChat,
    ScriptedRecognition,
    ScriptedSpeech,
    silence,
    user_says,
)
from tts.base import SAMPLE_RATE, PcmChunk

OPTIONS = SessionOptions(
    max_ahead_s=2.0,
    flush_fade_ms=5.0,
    duck_gain=0.2,
    duck_fade_ms=20.0,
    backchannel=frozenset({"yeah", "okay"}),
    first_token_timeout_s=5.0,
    speculation="none",
)


class Talk:
    """Runs one conversation and keeps what happened."""

    def __init__(
        self, script, chat, *, seconds, speech=ScriptedSpeech, step_s=0.01, acts=(), options=OPTIONS,
        recognition=ScriptedRecognition,
    ):  # fmt: skip
        self.events, self.traces, self.open, self.acting = [], [], 0, []
        self.chat, self.options, self.recognition = chat, options, recognition
        virtual_time.run(self._run(script, seconds, speech, step_s, acts))

    async def _run(self, script, seconds, speech, step_s, acts):
        self.clock = LoopClock()
        self.device = FileDevice(self.clock, [silence(seconds)], patience_s=1.0)
        self.device.waiting_for_reply = lambda: self.open > 0
        self.conversation = Conversation(
            system_prompt="Be kind.", max_tokens=500, count_tokens=lambda text: len(text.split())
        )
        session = Session(
            device=self.device,
            recognition=self.recognition(script),
            chat=self.chat,
            new_speech=speech,
            conversation=self.conversation,
            asr_worker=InlineWorker(),
            tts_worker=InlineWorker(step_s),
            options=self.options,
            notify=self._notify,
        )
        for at, act in acts:
            asyncio.get_running_loop().call_later(
                at, lambda act=act: self.acting.append(asyncio.ensure_future(act(session)))
            )
        await session.run()

    def _notify(self, event):
        self.events.append((self.clock.now(), event))
        if isinstance(event, UserText) and event.final:
            self.open += 1
        if isinstance(event, TurnDone):
            self.open -= 1
            self.traces.append(event.trace)
            assert waterfall_line(event.trace).startswith(f"turn {event.turn}")
            assert event.trace.to_json()["turn"] == event.turn

    def when(self, kind):
        return [at for at, event in self.events if isinstance(event, kind)]


SLOW_REPLY = " ".join(f"word{i}" for i in range(30))


def test_first_audio_leaves_while_a_slow_model_is_still_writing():
    talk = Talk(user_says("tell me a story", 0.2, 1.0), ScriptedChat(SLOW_REPLY, token_s=0.15), seconds=1.5)
    (trace,) = talk.traces
    marks = trace.marks
    assert trace.reply == SLOW_REPLY
    assert marks.first_audible_sample < marks.llm_done
    order = [
        marks.last_voiced, marks.end_of_turn, marks.final_transcript, marks.llm_first_token,
        marks.text_tokens[1].at, marks.speech_steps[0].at, marks.decoder_chunks[0].at, marks.first_audible_sample,
        marks.llm_done, marks.last_sample,
    ]  # fmt: skip
    assert order == sorted(order)
    # from the second text token on: the first step needs no third
    assert marks.speech_steps[0].at < marks.text_tokens[2].at
    assert len(marks.speech_steps) == 30
    assert sum(c.num_speech_tokens for c in marks.decoder_chunks) == 150


def test_a_fast_model_leaves_the_processor_to_the_voice():
    script = user_says("tell me a story", 0.2, 1.0)
    talks = [
        Talk(
            script, ScriptedChat(SLOW_REPLY, token_s=0.001), seconds=1.5,
            options=dataclasses.replace(OPTIONS, max_ahead_tokens=ahead),
        )
        for ahead in (0, 3)
    ]  # fmt: skip
    (at_once,), (paced,) = (talk.traces for talk in talks)
    assert at_once.heard == paced.heard == SLOW_REPLY
    spoken = [mark.at for mark in at_once.marks.speech_steps]
    assert at_once.marks.text_tokens[-1].at < spoken[5]
    spoken = [mark.at for mark in paced.marks.speech_steps]
    for token in paced.marks.text_tokens:
        if token.index > 3:  # asked for when all but three before it were spoken
            assert token.at >= spoken[token.index - 4]
    first = [trace.marks.first_audible_sample for trace in (at_once, paced)]
    assert first[1] == pytest.approx(first[0], abs=1e-6)


def test_a_voice_that_waits_for_the_whole_text_gets_it_from_a_paced_model():
    class Whole(ScriptedSpeech):
        def step(self, in_hand_s=0.0):
            return super().step(in_hand_s) if self._finished else None

    options = dataclasses.replace(OPTIONS, max_ahead_tokens=3)
    talk = Talk(user_says("hello", 0.2, 1.0), ScriptedChat(SLOW_REPLY), seconds=1.5, speech=Whole, options=options)
    (trace,) = talk.traces
    assert trace.heard == SLOW_REPLY
    assert trace.marks.llm_done < trace.marks.speech_steps[0].at


def test_the_voice_is_told_how_much_of_it_is_in_hand():
    told = []

    class Listening(ScriptedSpeech):
        def step(self, in_hand_s=0.0):
            made = super().step(in_hand_s)
            told.append((in_hand_s, isinstance(made, PcmChunk)))
            return made

    talk = Talk(user_says("hello", 0.2, 1.0), ScriptedChat(SLOW_REPLY), seconds=1.5, speech=Listening)
    first = next(index for index, (_, is_chunk) in enumerate(told) if is_chunk)
    assert all(in_hand_s <= 0 for in_hand_s, _ in told[: first + 1])
    longest = sum(chunk.num_samples for chunk in talk.traces[0].marks.decoder_chunks) / SAMPLE_RATE
    assert 0 < max(in_hand_s for in_hand_s, _ in told) <= longest


def test_the_delays_of_the_parts_are_the_waterfall():
    talk = Talk(
        user_says("hello", 0.2, 1.0, silence=0.4),
        ScriptedChat("a b c d e", first_s=0.3, token_s=0.1),
        seconds=1.2,
        speech=lambda: ScriptedSpeech(silent_samples=2400),
    )
    (trace,) = talk.traces
    waterfall = trace.waterfall
    assert sum(waterfall.values()) == pytest.approx(trace.voice_to_voice_s)
    assert waterfall["end_of_turn_s"] == pytest.approx(0.4, abs=1e-6)
    assert waterfall["asr_s"] == pytest.approx(0.0, abs=0.021)  # decided inside a frame
    assert waterfall["llm_first_token_s"] == pytest.approx(0.3, abs=0.001)
    # three steps: tokens b, c, d arrive 0.1 s apart, the step of c follows d by 10 ms
    assert waterfall["text_to_token_s"] == pytest.approx(0.31, abs=0.03)
    assert waterfall["decoder_s"] == pytest.approx(0.01, abs=0.02)
    assert waterfall["output_s"] == pytest.approx(0.1, abs=0.001)


def test_a_typed_line_is_a_turn_like_any_other():
    talk = Talk([], ScriptedChat("Hello Anna."), seconds=3.0, acts=[(0.5, lambda s: s.say("my name is anna"))])
    (trace,) = talk.traces
    assert (trace.transcript, trace.reply, trace.heard) == ("my name is anna", "Hello Anna.", "Hello Anna.")
    assert trace.marks.end_of_turn == pytest.approx(0.5)


def test_a_typed_line_over_the_reply_interrupts_it():
    script = user_says("tell me a story", 0.2, 1.0)
    talk = Talk(script, ScriptedChat(SLOW_REPLY, "Fine."), seconds=5.0, acts=[(3.0, lambda s: s.say("enough"))])
    first, second = talk.traces
    assert first.interrupted
    assert SLOW_REPLY.startswith(first.heard)
    assert len(first.heard) < len(SLOW_REPLY)
    assert (second.transcript, second.heard) == ("enough", "Fine.")


def test_a_key_silences_the_reply_and_the_session_listens():
    script = user_says("tell me a story", 0.2, 1.0) + user_says("hello", 5.0, 5.5)
    chat = ScriptedChat(SLOW_REPLY, "Hi.", token_s=0.15)
    talk = Talk(script, chat, seconds=7.0, acts=[(3.0, lambda s: s.stop_speaking())])
    first, second = talk.traces
    assert first.interrupted
    assert talk.chat.aborted == 1
    assert not talk.device.timeline()[round(3.1 * SAMPLE_RATE) : round(5.8 * SAMPLE_RATE)].any()
    assert second.heard == "Hi."


def test_an_interrupted_reply_keeps_nothing_of_the_voices_state():
    made = []

    def speech():
        stream = ScriptedSpeech()
        made.append(weakref.ref(stream))
        return stream

    gc.collect()
    gc.disable()  # states of models are too large to wait for the collector
    try:
        acts = [(3.0, lambda s: s.stop_speaking())]
        talk = Talk(user_says("tell me a story", 0.2, 1.0), ScriptedChat(SLOW_REPLY, token_s=0.15), seconds=4.0,
                    speech=speech, acts=acts)  # fmt: skip
        assert talk.traces[0].interrupted
        assert [stream() for stream in made] == [None]
    finally:
        gc.enable()


def test_the_conversation_remembers_both_sides():
    script = user_says("my name is anna", 0.2, 1.0) + user_says("what is my name", 4.0, 5.0)
    talk = Talk(script, ScriptedChat("Hello Anna.", "Anna."), seconds=6.0)
    assert [t.transcript for t in talk.traces] == ["my name is anna", "what is my name"]
    contents = [(m.role, m.content) for m in talk.chat.asked[1]]
    assert contents == [
        ("system", "Be kind."),
        ("user", "my name is anna"),
        ("assistant", "Hello Anna."),
        ("user", "what is my name"),
    ]


def test_barge_in_silences_and_remembers_only_what_was_heard():
    script = user_says("tell me a story", 0.2, 1.0) + user_says("stop please", 3.0, 4.0)
    talk = Talk(script, ScriptedChat(SLOW_REPLY, "Sure.", token_s=0.02), seconds=5.0)
    first, second = talk.traces
    assert first.interrupted
    assert first.reply == SLOW_REPLY
    (interrupted_at,) = talk.when(Interrupted)
    heard = first.heard.split()
    start = first.marks.decoder_chunks[0].plays_at
    assert heard == SLOW_REPLY.split()[: int((interrupted_at - start) / 0.2)]
    assert 0 < len(heard) < 15
    remembered = [m.content for m in talk.chat.asked[1] if m.role == "assistant"]
    assert len(remembered) == 1
    assert remembered[0].startswith(first.heard)
    assert "word20" not in remembered[0]
    assert second.transcript == "stop please"
    played = talk.device.timeline()
    flushed = round(interrupted_at * SAMPLE_RATE)
    assert not played[
        flushed + round(0.01 * SAMPLE_RATE) : round(second.marks.decoder_chunks[0].plays_at * SAMPLE_RATE) - 1
    ].any()


@pytest.mark.parametrize("text", ["", "yeah", "okay yeah"])
def test_a_cough_or_a_back_channel_word_ducks_the_reply_and_it_comes_back(text):
    script = user_says("tell me a story", 0.2, 1.0) + user_says(text, 3.0, 3.5)
    talk = Talk(script, ScriptedChat(SLOW_REPLY, token_s=0.02), seconds=5.0)
    (trace,) = talk.traces
    assert trace.heard == SLOW_REPLY
    assert not trace.interrupted
    assert len(talk.when(UserSpeaking)) == 1
    played = talk.device.timeline()
    times = np.arange(len(played)) / SAMPLE_RATE
    noticed, over = 3.10, 3.73  # the voice is noticed after 0.1 s, the pause after 0.23 s
    speaking = (times > trace.marks.first_audible_sample) & (times < trace.marks.last_sample)
    faint = speaking & (times > noticed + 0.04) & (times < over)
    assert played[faint] == pytest.approx(0.02, abs=1e-4)
    assert played[speaking & ((times < noticed) | (times > over + 0.04))] == pytest.approx(0.1, abs=1e-4)
    assert np.abs(np.diff(played[speaking])).max() < 0.001  # no click


def lasting(start):
    """A voice that is noticed after 40 ms and lasts."""
    return [
        (start + 0.04, lambda at: VoiceHeard(at=round(start * CAPTURE_HZ))),
        (start + 0.26, lambda at: SpeechSustained(at=at)),
    ]


def test_a_back_channel_word_that_lasts_silences_the_reply_and_it_comes_back():
    script = user_says("tell me a story", 0.2, 1.0) + user_says("yeah", 3.0, 3.5) + lasting(3.0)
    talk = Talk(script, ScriptedChat(SLOW_REPLY, token_s=0.02), seconds=5.0)
    (trace,) = talk.traces
    assert not trace.interrupted
    assert [mark.gain for mark in trace.marks.levels] == [0.2, 0.0, 1.0]
    assert [mark.at for mark in trace.marks.levels] == pytest.approx([3.04, 3.26, 3.73], abs=0.021)
    played = talk.device.timeline()
    times = np.arange(len(played)) / SAMPLE_RATE
    assert np.abs(played[(times > 3.31) & (times < 3.72)]).max() < 10 ** (-50 / 20)
    assert played[(times > 3.77) & (times < trace.marks.last_sample)] == pytest.approx(0.1, abs=1e-4)


def test_what_was_played_in_silence_was_not_heard():
    script = user_says("tell me a story", 0.2, 1.0) + user_says("stop please", 3.0, 4.2) + lasting(3.0)
    talk = Talk(script, ScriptedChat(SLOW_REPLY, "Sure.", token_s=0.02), seconds=6.0)
    first, second = talk.traces
    (interrupted_at,) = talk.when(Interrupted)
    start = first.marks.decoder_chunks[0].plays_at
    silent_at = first.marks.levels[-1].at
    assert interrupted_at - silent_at > 0.3
    assert first.heard.split() == SLOW_REPLY.split()[: int((silent_at - start) / 0.2)]
    begin = round(second.marks.first_audible_sample * SAMPLE_RATE)
    assert talk.device.timeline()[begin + 1 :] == pytest.approx(0.1, abs=1e-4)  # the next reply has its own level


def test_a_reply_that_was_silent_from_its_beginning_has_no_audible_sample():
    script = user_says("tell me a story", 0.2, 1.0) + user_says("stop please", 1.4, 3.0) + lasting(1.4)
    script = [entry for entry in script if not 1.6 < entry[0] < 3.1]  # the words come late
    script.append((1.66, lambda at: SpeechSustained(at=at)))
    talk = Talk(script, ScriptedChat(SLOW_REPLY, "Sure.", first_s=0.3, token_s=0.02), seconds=5.0)
    first, second = talk.traces
    assert first.interrupted
    assert first.heard == ""
    assert first.voice_to_voice_s is None
    assert second.voice_to_voice_s is not None


def test_the_reply_after_an_interruption_has_its_own_level():
    script = user_says("tell me a story", 0.2, 1.0) + user_says("stop please", 3.0, 4.0)
    talk = Talk(script, ScriptedChat(SLOW_REPLY, "Sure thing.", token_s=0.02), seconds=5.0)
    first, second = talk.traces
    assert first.interrupted
    played = talk.device.timeline()
    (interrupted_at,) = talk.when(Interrupted)
    assert played[round(interrupted_at * SAMPLE_RATE) - 100] == pytest.approx(0.02, abs=1e-4)
    begin = round(second.marks.first_audible_sample * SAMPLE_RATE)
    assert played[begin + 1 :] == pytest.approx(0.1, abs=1e-4)


def test_a_typed_okay_interrupts():
    script = user_says("tell me a story", 0.2, 1.0)
    talk = Talk(script, ScriptedChat(SLOW_REPLY, "Fine."), seconds=5.0, acts=[(3.0, lambda s: s.say("okay"))])
    assert [trace.transcript for trace in talk.traces] == ["tell me a story", "okay"]
    assert talk.traces[0].interrupted


def test_a_barge_in_aborts_the_model():
    script = user_says("tell me a story", 0.2, 1.0) + user_says("stop please", 2.0, 3.0)
    chat = ScriptedChat(SLOW_REPLY, "Sure.", token_s=0.2)
    talk = Talk(script, chat, seconds=4.0)
    assert chat.aborted == 1
    assert chat.sent < 31
    assert talk.traces[0].interrupted


def test_a_failing_model_ends_the_turn_not_the_session():
    script = user_says("one", 0.2, 1.0) + user_says("two", 4.0, 5.0)

    class Failing(ScriptedChat):
        async def stream(self, messages):
            self._fail_after = 3 if not self.asked else None
            async for token in ScriptedChat.stream(self, messages):
                yield token

    talk = Talk(script, Failing("a b c d e f", "Fine."), seconds=6.0)
    first, second = talk.traces
    assert "model stopped" in first.error
    assert talk.when(Failed)
    assert second.error is None
    assert second.reply == "Fine."


def test_a_full_gpu_ends_the_turn_not_the_session():
    script = user_says("one", 0.2, 1.0) + user_says("two", 4.0, 5.0)
    made = []

    class Hungry(ScriptedSpeech):
        def __init__(self):
            super().__init__()
            made.append(self)

        def step(self, in_hand_s=0.0):
            if len(made) == 1 and self._spoken:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().step(in_hand_s)

    talk = Talk(script, ScriptedChat("a b c d e f", "Fine."), seconds=6.0, speech=Hungry)
    first, second = talk.traces
    assert "the GPU's memory is full" in first.error
    assert len(talk.when(Failed)) == 1
    assert second.error is None
    assert second.reply == "Fine."


def test_a_recogniser_on_a_full_gpu_loses_the_turn_and_listens_on():
    script = user_says("one", 0.2, 1.0) + user_says("two", 4.0, 5.0)

    class Hungry(ScriptedRecognition):
        failed = False

        def push(self, samples):
            if self._pushed > 0.6 * 16_000 and not self.failed:
                self.failed = True
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().push(samples)

        def reset(self):
            self._script = self._script[-4:]

    talk = Talk(script, ScriptedChat("Fine."), seconds=6.0, recognition=Hungry)
    failed, trace = talk.traces
    assert "the GPU's memory is full" in failed.error
    assert trace.transcript == "two"
    assert trace.error is None
    assert len(talk.when(Failed)) == 1


def test_a_model_that_never_answers_is_given_up():
    talk = Talk(user_says("hello", 0.2, 1.0), ScriptedChat("late", first_s=60.0), seconds=2.0)
    (trace,) = talk.traces
    assert "5 s" in trace.error
    assert trace.voice_to_voice_s is None


def test_an_empty_reply_is_a_turn_without_sound():
    talk = Talk(user_says("hello", 0.2, 1.0), ScriptedChat(""), seconds=2.0)
    (trace,) = talk.traces
    assert trace.reply == ""
    assert trace.error is None


def test_noise_without_words_is_no_turn():
    talk = Talk(user_says("", 0.2, 1.0), ScriptedChat("never"), seconds=2.0)
    assert talk.traces == []
    assert talk.chat.asked == []


def test_words_are_shown_when_they_are_spoken():
    talk = Talk(user_says("hello", 0.2, 1.0), ScriptedChat(SLOW_REPLY, token_s=0.01), seconds=2.0)
    (trace,) = talk.traces
    shown = [(at, event.token_end) for at, event in talk.events if isinstance(event, BotSpeaking)]
    assert [end for _, end in shown] == [c.token_end for c in trace.marks.decoder_chunks]
    for (at, _), chunk in zip(shown, trace.marks.decoder_chunks, strict=True):
        assert at == pytest.approx(chunk.plays_at, abs=1e-6)
    written = talk.when(ReplyText)
    assert written[-1] < shown[-1][0]


def test_synthesis_runs_ahead_only_so_far():
    talk = Talk(user_says("hello", 0.2, 1.0), ScriptedChat(SLOW_REPLY * 3, token_s=0.001), seconds=2.0)
    (trace,) = talk.traces
    ahead = [c.plays_at - c.at for c in trace.marks.decoder_chunks]
    assert max(ahead) <= OPTIONS.max_ahead_s + 0.5
    assert trace.underruns == 0
