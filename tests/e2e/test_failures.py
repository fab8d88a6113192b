"""What fails within a turn is told in one line and by a short spoken sentence; the conversation goes on."""

from dataclasses import replace

import numpy as np
import pytest

from app.events import Failed, Interrupted, StateChanged, UserSpeaking
from app.turn_taking import State
from asr.base import SAMPLE_RATE as CAPTURE_HZ
from asr.base import RecognizerError, SpeechStarted
from llm.base import TextToken
from tests.e2e.test_conversation import OPTIONS, Talk
from tests.fakes import ScriptedChat, ScriptedSpeech, user_says
from tts.base import SAMPLE_RATE, SynthesisError

SORRY = replace(OPTIONS, apology=(TextToken(90, "\nSorry,"), TextToken(91, " again"), TextToken(92, " please.")))
QUESTION = user_says("tell me a story", 0.2, 1.0)
AGAIN = user_says("hello", 5.0, 5.5)
SHORT_S = 3 * 5 * 0.04  # three tokens of the apology


class FailingOnce(ScriptedChat):
    """Fails in its first reply, after a number of tokens."""

    async def stream(self, messages, *, temperature=None):
        if self.asked:
            self._fail_after = None
        async for token in ScriptedChat.stream(self, messages):
            yield token


def pushed(talk_speech):
    """A kind of speech that keeps the texts it was given."""

    class Kept(ScriptedSpeech):
        def push(self, token_id, text):
            talk_speech.append(text)
            super().push(token_id, text)

    return Kept


def sounding(talk, begin, end):
    played = talk.device.timeline()[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    return np.count_nonzero(played) / SAMPLE_RATE


def last_state(talk):
    return [event.state for _, event in talk.events if isinstance(event, StateChanged)][-1]


def test_a_failing_model_is_told_in_one_line_and_said_aloud():
    said = []
    chat = FailingOnce("never", "Hi there.", fail_after=0)
    talk = Talk(QUESTION + AGAIN, chat, seconds=6.5, options=SORRY, speech=pushed(said))
    first, second = talk.traces
    (failed,) = [event for _, event in talk.events if isinstance(event, Failed)]
    assert failed.reason == first.error == "the model stopped; start it again."
    assert said[:3] == ["\nSorry,", " again", " please."]
    assert sounding(talk, 1.0, 5.0) == pytest.approx(SHORT_S, abs=0.01)
    assert (first.reply, first.heard) == ("", "")
    assert (second.error, second.heard) == (None, "Hi there.")
    # the apology is no part of the conversation
    assert [m.content for m in talk.chat.asked[1]] == ["Be kind.", "tell me a story", "hello"]
    assert last_state(talk) is State.LISTENING


def test_a_model_that_fails_in_mid_reply_has_what_it_wrote_heard_and_remembered():
    said = []
    chat = FailingOnce("Once upon a time there was", "Hi.", fail_after=3)
    talk = Talk(QUESTION + AGAIN, chat, seconds=6.5, options=SORRY, speech=pushed(said))
    first = talk.traces[0]
    assert said[:6] == ["Once", " upon", " a", "\nSorry,", " again", " please."]
    assert (first.reply, first.heard) == ("Once upon a", "Once upon a")
    assert [m.content for m in talk.chat.asked[1] if m.role == "assistant"] == ["Once upon a"]


def test_a_model_that_is_stuck_is_given_up_whether_before_or_after_its_first_word():
    for first_s, token_s in ((60.0, 0.1), (0.1, 60.0)):
        chat = ScriptedChat("too late", first_s=first_s, token_s=token_s)
        talk = Talk(QUESTION, chat, seconds=2.0, options=SORRY)
        (trace,) = talk.traces
        assert trace.error == "the model wrote nothing for 5 s."
        assert chat.aborted == 1
        assert sounding(talk, 0.0, 20.0) >= SHORT_S - 0.01
        assert last_state(talk) is State.LISTENING


def test_nothing_is_said_when_nothing_is_configured():
    talk = Talk(QUESTION, ScriptedChat("never", fail_after=0), seconds=2.0)
    assert talk.when(Failed)
    assert sounding(talk, 0.0, 10.0) == 0


class Broken(ScriptedSpeech):
    error: Exception = SynthesisError("the voice is gone; start again.")

    def step(self, in_hand_s=0.0):
        if self._pushed:
            raise self.error
        return super().step(in_hand_s)


class Faulty(Broken):
    error = RuntimeError("out of\nmemory")


@pytest.mark.parametrize(("speech", "reason"), [(Broken, "the voice is gone; start again."), (Faulty, "out of memory")])
@pytest.mark.parametrize("fail_after", [None, 0])
def test_a_failing_voice_says_nothing_and_is_told_once(speech, reason, fail_after):
    chat = ScriptedChat("One two.", fail_after=fail_after)
    talk = Talk(QUESTION, chat, seconds=3.0, options=SORRY, speech=speech)
    (trace,) = talk.traces
    assert trace.error == (reason if fail_after is None else "the model stopped; start it again.")
    assert len(talk.when(Failed)) == 1
    assert sounding(talk, 0.0, 10.0) == 0
    assert last_state(talk) is State.LISTENING


def test_a_voice_that_works_again_answers_the_next_turn():
    kinds = [Broken, ScriptedSpeech]
    talk = Talk(
        QUESTION + AGAIN, ScriptedChat("One.", "Two."), seconds=6.5, options=SORRY, speech=lambda: kinds.pop(0)()
    )
    assert [trace.error is None for trace in talk.traces] == [False, True]
    assert talk.traces[1].heard == "Two."


def test_speaking_over_the_apology_interrupts_it():
    long = replace(SORRY, apology=SORRY.apology * 10)
    script = QUESTION + user_says("what is it", 3.0, 3.5)
    talk = Talk(script, FailingOnce("never", "Fine.", fail_after=0), seconds=5.0, options=long)
    first, second = talk.traces
    assert first.interrupted
    assert talk.when(Interrupted)
    assert first.heard == ""
    assert second.heard == "Fine."


def breaks(at, error, times=1):
    """The recogniser fails with the frame at this second, and with the frames after it."""

    def fail(_):
        raise error

    return [(at + 0.02 * index, fail) for index in range(times)]


def test_a_recogniser_that_fails_while_the_user_speaks_loses_the_turn_not_the_session():
    script = [(0.3, lambda _: SpeechStarted(at=round(0.2 * CAPTURE_HZ))), *breaks(0.6, RecognizerError("cannot hear."))]
    script += user_says("hello", 4.0, 4.5)
    talk = Talk(script, ScriptedChat("Hi."), seconds=6.0, options=SORRY)
    first, second = talk.traces
    assert (first.transcript, first.error, first.heard) == ("", "cannot hear.", "")
    assert len(talk.when(Failed)) == 1
    assert sounding(talk, 0.6, 4.0) == pytest.approx(SHORT_S, abs=0.01)
    assert (second.transcript, second.heard) == ("hello", "Hi.")
    assert [m.content for m in talk.chat.asked[0]] == ["Be kind.", "hello"]
    assert len(talk.when(UserSpeaking)) == 2


def test_a_recogniser_that_fails_over_a_reply_lets_the_reply_come_back():
    over = (2.0, lambda _: SpeechStarted(at=round(2.0 * CAPTURE_HZ)))
    script = [*QUESTION, over, *breaks(2.3, RuntimeError("no"))]
    reply = " ".join(f"word{i}" for i in range(20))
    talk = Talk(script, ScriptedChat(reply, token_s=0.01), seconds=3.0, options=SORRY)
    (trace,) = talk.traces
    assert (trace.heard, trace.error) == (reply, None)
    played = talk.device.timeline()
    assert played[round(2.2 * SAMPLE_RATE)] == pytest.approx(0.02, abs=1e-3)
    assert played[round(2.6 * SAMPLE_RATE)] == pytest.approx(0.1, abs=1e-3)


def test_a_recogniser_that_fails_again_at_once_ends_the_session():
    with pytest.raises(RecognizerError, match="for good"):
        Talk(breaks(0.5, RecognizerError("for good"), times=2), ScriptedChat("Hi."), seconds=2.0, options=SORRY)
