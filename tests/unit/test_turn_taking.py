import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.turn_taking import (
    Answer,
    Apologise,
    Asked,
    Dismiss,
    Drop,
    Duck,
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
from asr.base import (
    FinalTranscript,
    PartialTranscript,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    SpeechSustained,
    VoiceHeard,
    VoiceLost,
)


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


def test_words_read_in_the_first_silence_prepare_the_reply_until_more_of_them_come():
    turns = TurnTaking()
    turns.on(SpeechStarted(at=0))
    assert turns.on(SpeechPaused(text="what is the", complete=False)) == [Drop()]
    assert turns.on(SpeechResumed()) == [Drop()]
    assert turns.on(SpeechPaused(text="what is the time", complete=True)) == [Prepare("what is the time")]
    assert turns.on(SpeechPaused(text="what is the time of", complete=False)) == [Drop()]
    assert turns.on(SpeechEnded(at=1600, text="what is the time of", complete=False)) == []
    assert turns.on(SpeechPaused(text="what is the time of", complete=True)) == [Prepare("what is the time of")]
    assert turns.state is State.USER_SPEAKING


def test_words_read_in_the_first_silence_leave_a_reply_alone():
    turns = speaking()
    assert turns.on(SpeechPaused(text="stop", complete=True)) == []
    assert turns.on(SpeechResumed()) == []
    assert turns.on(SpeechEnded(at=20_000, text="stop", complete=True))[0] == Interrupt()


def test_words_that_a_pause_reveals_interrupt_the_reply_and_the_next_is_prepared():
    turns = TurnTaking()
    turns.on(final("tell me a story"))
    turns.on(ReplyStarted())
    heard = turns.on(SpeechEnded(at=6, text="stop", complete=True))
    assert heard == [Interrupt(), Listen(), ShowPartial("stop"), Prepare("stop")]


BACKCHANNEL = frozenset({"yeah", "mhm"})


def speaking(aside_s=0.8):
    """A reply runs, and the user's voice begins over it at sample 16 000."""
    turns = TurnTaking(BACKCHANNEL, aside_s)
    turns.on(final("tell me a story"))
    turns.on(ReplyStarted())
    assert turns.on(SpeechStarted(at=16_000)) == [Duck()]
    return turns


def partial_at(text, at):
    return PartialTranscript(text=text, stable_chars=0, at=at)


def final_at(text, at):
    return FinalTranscript(text=text, speech_start=16_000, speech_end=at, decided_at=at + 9000, compute_ms=0.0)


@pytest.mark.parametrize("text", ["uh hi", "oh", "a", "ah um", "mhm"])
def test_what_sounds_like_a_hum_is_an_aside_if_it_is_short(text):
    turns = speaking()
    assert turns.on(partial_at(text, 22_000)) == []
    assert turns.on(partial_at("at", 24_000)) == [Hush()]  # too early to trust
    assert turns.on(SpeechSustained(at=24_500)) == []
    assert turns.on(SpeechEnded(at=25_000, text=text, complete=True)) == [Resume()]
    assert turns.on(final_at(text, 25_000)) == []
    assert turns.state is State.BOT_SPEAKING


@pytest.mark.parametrize("text", ["no", "stop", "hey", "who", "oh no", "i'm"])
def test_short_words_that_are_none_interrupt_when_they_end(text):
    turns = speaking()
    assert turns.on(partial_at(text, 24_000)) == [Hush()]
    assert turns.on(SpeechEnded(at=25_000, text=text)) == [Interrupt(), Listen(), ShowPartial(text)]
    assert turns.on(final(text)) == [Reply(final(text))]


def test_a_voice_that_lasts_interrupts_with_its_first_words_and_a_hum_in_it_too():
    turns = speaking()
    assert turns.on(partial_at("oh i", 16_000 + 12_800)) == [Interrupt(), Listen(), ShowPartial("oh i")]
    turns = speaking(aside_s=0.0)
    assert turns.on(partial_at("uh hi", 17_000)) == [Interrupt(), Listen(), ShowPartial("uh hi")]


def test_how_long_a_voice_lasts_is_counted_from_the_first_of_its_turn():
    turns = speaking()
    assert turns.on(SpeechEnded(at=20_000, text="uh")) == [Resume()]
    assert turns.on(SpeechStarted(at=27_000)) == [Duck()]
    assert turns.on(partial_at("uh i", 30_000)) == [Interrupt(), Listen(), ShowPartial("uh i")]
    turns = speaking()
    turns.on(final_at("uh", 20_000))
    turns.on(SpeechStarted(at=64_000))
    assert turns.on(partial_at("uh i", 67_000)) == []


def test_words_before_the_reply_sounds_keep_it_unheard():
    turns = TurnTaking(BACKCHANNEL, aside_s=0.8)
    turns.on(final("tell me a story"))
    turns.on(SpeechStarted(at=16_000))
    assert turns.on(partial_at("stop", 20_000)) == []
    assert turns.on(ReplyStarted()) == [Hush()]
    assert turns.on(SpeechEnded(at=22_000, text="yeah")) == [Resume()]


@pytest.mark.parametrize("started", [True, False])
def test_words_over_the_reply_interrupt_it_once(started):
    turns = TurnTaking()
    turns.on(SpeechStarted(at=0))
    turns.on(final("tell me a story"))
    if started:
        turns.on(ReplyStarted())
    assert turns.on(SpeechStarted(at=9)) == ([Duck()] if started else [])
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


@pytest.mark.parametrize("text", ["", "yeah", "mhm yeah"])
def test_a_cough_or_a_back_channel_word_over_the_reply_only_ducks_it(text):
    turns = TurnTaking(BACKCHANNEL)
    turns.on(SpeechStarted(at=0))
    turns.on(final("tell me a story"))
    turns.on(ReplyStarted())
    assert turns.on(SpeechStarted(at=9)) == [Duck()]
    assert turns.on(partial(text)) == []
    assert turns.on(SpeechEnded(at=10, text=text, complete=bool(text))) == [Resume()]
    assert turns.on(SpeechStarted(at=11)) == [Duck()]
    assert turns.on(final(text)) == [Resume()]
    assert turns.state is State.BOT_SPEAKING


def test_back_channel_words_are_a_turn_where_no_reply_runs_and_when_they_are_typed():
    turns = TurnTaking(BACKCHANNEL)
    turns.on(SpeechStarted(at=0))
    assert turns.on(final("yeah")) == [Reply(final("yeah"))]
    turns.on(ReplyStarted())
    assert turns.on(partial("yeah but")) == [Interrupt(), Listen(), ShowPartial("yeah but")]
    turns.on(final("yeah but why"))
    turns.on(ReplyStarted())
    assert turns.on(Typed(final("yeah"))) == [Interrupt(), Listen(), Reply(final("yeah"))]


def test_a_reply_that_begins_under_the_users_voice_begins_ducked():
    turns = TurnTaking()
    turns.on(final("tell me a story"))
    assert turns.on(SpeechStarted(at=9)) == []
    assert turns.on(ReplyStarted()) == [Duck()]
    assert turns.on(SpeechEnded(at=10)) == [Resume()]


def test_what_the_recogniser_lost_is_apologised_for_only_while_the_user_speaks():
    turns = TurnTaking()
    assert turns.on(NotHeard("broken")) == []
    turns.on(SpeechStarted(at=0))
    assert turns.on(NotHeard("broken")) == [Drop(), Apologise("broken")]
    assert turns.state is State.THINKING
    assert turns.on(NotHeard("broken")) == []
    turns.on(ReplyStarted())
    turns.on(SpeechStarted(at=9))
    assert turns.on(NotHeard("broken")) == [Resume()]


def test_a_reply_can_be_asked_for_whatever_the_state():
    turns = TurnTaking()
    assert turns.on(Asked("briefly")) == [Drop(), Answer("briefly")]
    assert turns.state is State.THINKING
    turns.on(ReplyStarted())
    assert turns.on(Asked()) == [Interrupt(), Drop(), Answer(None)]
    turns.on(ReplyEnded())
    turns.on(SpeechStarted(at=0))
    assert turns.on(Asked()) == [Drop(), Answer(None)]


def test_turns_can_be_kept_without_a_reply():
    turns = TurnTaking()
    turns.replies = False
    turns.on(SpeechStarted(at=0))
    assert turns.on(SpeechEnded(at=1, text="hello", complete=True)) == []
    assert turns.on(final("hello")) == [Drop(), Keep(final("hello"))]
    assert turns.state is State.LISTENING


def test_a_reply_that_is_not_to_be_interrupted_is_neither_ducked_nor_stopped_by_a_voice():
    turns = TurnTaking()
    turns.interruptible = False
    turns.on(SpeechStarted(at=0))
    turns.on(final("tell me a story"))
    turns.on(ReplyStarted())
    assert turns.on(SpeechStarted(at=5)) == []
    assert turns.on(partial("stop")) == []
    assert turns.on(final("stop")) == []
    assert turns.state is State.BOT_SPEAKING
    assert turns.on(StopSpeaking()) == [Interrupt()]


def test_a_voice_ducks_the_reply_before_it_is_sure_and_silences_it_when_it_lasts():
    turns = TurnTaking(BACKCHANNEL)
    turns.on(final("tell me a story"))
    turns.on(ReplyStarted())
    assert turns.on(VoiceHeard(at=8)) == [Duck()]
    assert turns.on(VoiceLost(at=9)) == [Resume()]
    assert turns.on(VoiceHeard(at=10)) == [Duck()]
    assert turns.on(SpeechStarted(at=10)) == []
    assert turns.on(SpeechSustained(at=11)) == [Hush()]
    assert turns.on(SpeechSustained(at=12)) == []
    assert turns.on(SpeechEnded(at=13, text="yeah", complete=True)) == [Resume()]
    assert turns.state is State.BOT_SPEAKING


def test_a_reply_that_begins_under_a_lasting_voice_begins_silent():
    turns = TurnTaking()
    turns.on(final("tell me a story"))
    turns.on(SpeechStarted(at=9))
    assert turns.on(SpeechSustained(at=11)) == []
    assert turns.on(ReplyStarted()) == [Hush()]
    assert turns.on(partial("stop")) == [Interrupt(), Listen(), ShowPartial("stop")]


def happenings():
    texts = st.sampled_from(["", "yeah", "stop", "yeah stop"])
    return st.one_of(
        st.just(VoiceHeard(at=0)),
        st.just(VoiceLost(at=0)),
        st.just(SpeechStarted(at=0)),
        st.just(SpeechSustained(at=0)),
        texts.map(partial),
        st.builds(lambda text, complete: SpeechEnded(at=0, text=text, complete=complete), texts, st.booleans()),
        st.builds(SpeechPaused, text=texts, complete=st.booleans()),
        st.just(SpeechResumed()),
        texts.map(final),
        st.just(StopSpeaking()),
        st.just(Typed(final("yeah"))),
        st.just(ReplyStarted()),
        st.just(ReplyEnded()),
        st.just(NotHeard("broken")),
        st.just(Asked()),
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(happenings(), max_size=30), st.sampled_from([0.0, 0.8]))
def test_whatever_happens_there_is_one_reply_at_a_time_and_it_is_ducked_once(script, aside_s):
    turns, replying, ducked, silent = TurnTaking(BACKCHANNEL, aside_s), False, False, False
    for happening in script:
        if isinstance(happening, ReplyEnded):
            replying = ducked = silent = False
        for action in turns.on(happening):
            match action:
                case Reply() | Apologise() | Answer():
                    assert not replying
                    replying = True
                case Interrupt():
                    assert replying
                    replying = ducked = silent = False
                case Duck():
                    assert replying
                    assert not ducked
                    ducked = True
                case Hush():
                    assert replying
                    assert not silent
                    ducked = silent = True
                case Resume():
                    assert replying
                    assert ducked
                    ducked = silent = False
                case Prepare():
                    assert turns.state is State.USER_SPEAKING
        assert replying is (turns.state in (State.THINKING, State.BOT_SPEAKING))
        if isinstance(happening, SpeechEnded):
            assert not ducked or happening.text in ("stop", "yeah stop")


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
