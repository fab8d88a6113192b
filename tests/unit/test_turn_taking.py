import pytest

from app.turn_taking import (
    Dismiss,
    Drop,
    Interrupt,
    Listen,
    Prepare,
    Reply,
    ReplyEnded,
    ReplyStarted,
    ShowPartial,
    State,
    StopSpeaking,
    TurnTaking,
)
from asr.base import FinalTranscript, PartialTranscript, SpeechEnded, SpeechStarted


def partial(text):
    return PartialTranscript(text=text, stable_chars=0, at=0)


def final(text):
    return FinalTranscript(text=text, speech_start=0, speech_end=1, decided_at=2, compute_ms=0.0)


def test_a_turn_from_speech_to_silence():
    turns = TurnTaking()
    assert turns.on(SpeechStarted(at=0)) == [Listen()]
    assert turns.on(partial("what")) == [ShowPartial("what")]
    assert turns.on(SpeechEnded(at=5)) == []
    assert turns.on(final("what time")) == [Reply(final("what time"))]
    assert turns.state is State.THINKING
    assert turns.on(ReplyStarted()) == []
    assert turns.state is State.BOT_SPEAKING
    assert turns.on(ReplyEnded()) == []
    assert turns.state is State.LISTENING


def test_nothing_recognised_is_no_turn():
    turns = TurnTaking()
    turns.on(SpeechStarted(at=0))
    assert turns.on(final("")) == [Drop(), Dismiss()]
    assert turns.state is State.LISTENING


def test_a_pause_after_words_that_may_be_all_prepares_the_reply_until_the_voice_comes_back():
    turns = TurnTaking()
    turns.on(SpeechStarted(at=0))
    assert turns.on(SpeechEnded(at=5, text="what is the")) == []
    assert turns.on(SpeechStarted(at=6)) == [Drop()]
    assert turns.on(SpeechEnded(at=9, text="what is the time", complete=True)) == [Prepare("what is the time")]
    assert turns.state is State.USER_SPEAKING
    assert turns.on(final("what is the time")) == [Reply(final("what is the time"))]


def test_nothing_is_prepared_while_a_reply_runs():
    turns = TurnTaking()
    turns.on(final("tell me a story"))
    assert turns.on(SpeechEnded(at=5, text="stop", complete=True)) == []
    turns.on(ReplyStarted())
    assert turns.on(SpeechEnded(at=6, text="stop", complete=True)) == []


@pytest.mark.parametrize("started", [True, False])
def test_words_over_the_reply_interrupt_it_once(started):
    turns = TurnTaking()
    turns.on(SpeechStarted(at=0))
    turns.on(final("tell me a story"))
    if started:
        turns.on(ReplyStarted())
    assert turns.on(SpeechStarted(at=9)) == []
    assert turns.on(partial("")) == []
    assert turns.on(partial("stop")) == [Interrupt(), Listen(), ShowPartial("stop")]
    assert turns.on(partial("stop it")) == [ShowPartial("stop it")]
    assert turns.on(final("stop it")) == [Reply(final("stop it"))]


@pytest.mark.parametrize("started", [True, False])
def test_a_key_stops_the_reply_and_nothing_else(started):
    turns = TurnTaking()
    assert turns.on(StopSpeaking()) == []
    turns.on(final("hello"))
    if started:
        turns.on(ReplyStarted())
    assert turns.on(StopSpeaking()) == [Interrupt()]
    assert turns.state is State.LISTENING
    assert turns.on(StopSpeaking()) == []


def test_a_cough_over_the_reply_changes_nothing():
    turns = TurnTaking()
    turns.on(SpeechStarted(at=0))
    turns.on(final("tell me a story"))
    turns.on(ReplyStarted())
    assert turns.on(SpeechStarted(at=9)) == []
    assert turns.on(SpeechEnded(at=10)) == []
    assert turns.on(final("")) == []
    assert turns.state is State.BOT_SPEAKING


def test_a_turn_without_partials_interrupts_when_it_is_final():
    turns = TurnTaking()
    turns.on(SpeechStarted(at=0))
    turns.on(final("tell me a story"))
    turns.on(ReplyStarted())
    assert turns.on(final("stop")) == [Interrupt(), Listen(), Reply(final("stop"))]


def test_a_reply_that_ends_after_the_interruption_does_not_take_the_floor_back():
    turns = TurnTaking()
    turns.on(SpeechStarted(at=0))
    turns.on(final("tell me a story"))
    turns.on(partial("stop"))
    assert turns.on(ReplyEnded()) == []
    assert turns.state is State.USER_SPEAKING
