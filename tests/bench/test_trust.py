"""The benchmark is measured itself: stand-ins of known delays, on a simulated clock, and traces that lie."""

import dataclasses

import numpy as np
import pytest

from app.bench import metrics
from app.bench.acoustic import Heard, Span, assistant_spans, user_spans
from app.bench.cases import CLIP_HZ, Case, Interjection, built_in
from app.bench.parts import Loader
from app.bench.simulate import parse
from app.bench.talk import Conversation, hold
from app.clock import run_skipping
from asr.vad import voiced_span
from configs.schema import AppConfig, AsrConfig, EndpointConfig, TtsConfig

MS = 0.001


def tone(seconds, level=0.2):
    return (level * np.cos(2 * np.pi * 300 * np.arange(round(seconds * CLIP_HZ)) / CLIP_HZ)).astype(np.float32)


def hush(seconds):
    return np.zeros(round(seconds * CLIP_HZ), np.float32)


def spoken(*parts, name="tone", **more):
    return Case(name=name, samples=np.concatenate(parts), text="tell me a story please", **more)


def talk(case, simulated, feeding="token", speculation="none"):
    async def main():
        loader = Loader(parse(f"all,{simulated}"))
        asr = AsrConfig(endpoint=EndpointConfig(speculation=speculation))
        parts = await loader.parts(AppConfig(asr=asr, tts=TtsConfig(feeding=feeding)), lambda _: None)
        try:
            return await hold(parts, case)
        finally:
            loader.close()

    return run_skipping(main(), counts_work=False)


def heard(held):
    spans = Heard(user_spans(held.both[:, 0], held.rate), assistant_spans(held.both[:, 1], held.rate))
    return metrics.with_truth(held.case, spans)


def figures(held):
    return metrics.turn_figures(held, heard(held), "v", 0, cold=False, correct=[None] * len(held.turns))


DELAYS = [
    {"end_of_turn_ms": 300, "asr_ms": 30, "llm_first_token_ms": 80, "llm_token_ms": 25, "text_to_token_ms": 8,
     "decoder_ms": 20, "vocoder_ms": 6, "leading_silence_ms": 60, "speech_tokens": 6},
    {"end_of_turn_ms": 733, "asr_ms": 111, "llm_first_token_ms": 407, "llm_token_ms": 0, "text_to_token_ms": 0,
     "decoder_ms": 0, "vocoder_ms": 0, "leading_silence_ms": 0, "speech_tokens": 13},
    {"end_of_turn_ms": 181, "asr_ms": 20, "llm_first_token_ms": 15, "llm_token_ms": 90, "text_to_token_ms": 31,
     "decoder_ms": 170, "vocoder_ms": 45, "leading_silence_ms": 215, "speech_tokens": 7},
]  # fmt: skip


@pytest.mark.parametrize("delays", DELAYS)
@pytest.mark.parametrize("end", [1.0, 1.0137])
def test_known_delays_are_reported_within_10_ms(delays, end):
    held = talk(spoken(hush(0.3), tone(end), hush(0.2)), ",".join(f"{k}={v}" for k, v in delays.items()))
    (turn,) = figures(held)
    needed = -(-13 // delays["speech_tokens"])  # text tokens until the first chunk
    waits = needed * delays["llm_token_ms"]  # one token more than is spoken must be there
    last_step = delays["text_to_token_ms"]
    stages = {
        "end_of_turn": delays["end_of_turn_ms"],
        "asr_final": delays["asr_ms"],
        "llm_first_token": delays["llm_first_token_ms"],
        "decoder": delays["decoder_ms"],
        "vocoder": delays["vocoder_ms"],
        "leading_silence": delays["leading_silence_ms"],
        "output": 0,
    }
    for stage, known in stages.items():
        assert 1000 * turn.stages[stage] == pytest.approx(known, abs=10), stage
    tokens = 1000 * (turn.stages["tokens_needed"] + turn.stages["text_to_token"])
    assert tokens == pytest.approx(waits + last_step, abs=10)
    total = sum(stages.values()) + waits + last_step
    assert 1000 * turn.voice_to_voice_s == pytest.approx(total, abs=10)
    assert turn.disagreement is None


@pytest.mark.parametrize(
    ("speculation", "ahead"), [("llm", ("llm_first_token",)), ("tts", ("llm_first_token", "decoder"))]
)
def test_what_was_made_in_the_pause_is_in_no_stage(speculation, ahead):
    """The pause is noticed after 160 ms, the turn is over after 300; the rest of the work is done by then, or is not."""
    case = spoken(hush(0.3), tone(1.0), hush(0.2))
    delays = "end_of_turn_ms=300,llm_first_token_ms=20,llm_token_ms=1,decoder_ms=20"
    (plain,), (turn,) = figures(talk(case, delays)), figures(talk(case, delays, speculation=speculation))
    assert turn.disagreement is None
    assert sum(turn.stages.values()) == pytest.approx(turn.voice_to_voice_s, abs=0.010)
    for stage in ahead:
        assert plain.stages[stage] == pytest.approx(0.020, abs=0.005)
        assert turn.stages[stage] == pytest.approx(0.0, abs=0.001)
    assert min(turn.stages.values()) > -0.001
    saved = 0.020 + (plain.stages["text_to_token"] + 0.026 if speculation == "tts" else 0)
    assert plain.voice_to_voice_s - turn.voice_to_voice_s == pytest.approx(saved, abs=0.012)


@pytest.mark.parametrize("speculation", ["none", "tts"])
def test_stages_sum_to_the_recording_on_every_turn_of_the_built_in_set(speculation):
    cases = built_in()
    for case in cases:
        held = talk(case, "", speculation=speculation)
        for turn in figures(held):
            assert turn.disagreement is None
            assert sum(turn.stages.values()) == pytest.approx(turn.voice_to_voice_s, abs=0.020)
    assert len(cases) >= 20


def ends():
    """(name, sound, where a voice in it ends)"""
    for case in built_in():
        if case.voiced:
            yield case.name, case.samples, case.voiced[-1].end
        if case.interjection:
            sound = case.interjection.samples
            yield f"over {case.name}", sound, user_spans(sound, CLIP_HZ)[-1].end


def test_the_assistant_and_the_benchmark_hear_the_same_end_of_every_voice_in_noise_too():
    for name, sound, end in ends():
        decided = np.pad(sound, (0, CLIP_HZ))[: round((end + 0.3) * CLIP_HZ)]
        assert voiced_span(decided, 0, len(decided))[1] / CLIP_HZ == pytest.approx(end, abs=0.020), name


def test_how_a_reply_gives_way_and_comes_back_is_read_off_the_recording():
    second = np.arange(CLIP_HZ * 2) / CLIP_HZ
    reply = np.where(second > 0.5, 0.1, 0.0).astype(np.float32)
    level = np.where((second > 0.85) & (second < 1.40), 0.2, 1.0)
    case = spoken(hush(0.1))
    both = np.stack([np.zeros_like(reply), (reply * level).astype(np.float32)], axis=1)
    held = Conversation(case=case, turns=(), both=both, undisturbed=reply, rate=CLIP_HZ, interjected_at=0.8)
    over = Span(0.8, 1.1)
    assert metrics.duck_time(held, over) == pytest.approx(0.05, abs=0.010)
    assert metrics.resume_time(held, over) == pytest.approx(0.30, abs=0.010)
    calm = dataclasses.replace(held, both=np.stack([reply, reply], axis=1))
    assert metrics.duck_time(calm, over) is None
    assert metrics.resume_time(calm, over) == 0.0


def test_the_same_run_gives_the_same_samples():
    case = spoken(hush(0.3), tone(0.8), hush(0.2))
    np.testing.assert_array_equal(talk(case, "").both, talk(case, "").both)


@pytest.mark.parametrize(
    ("mark", "by"),
    [("last_voiced", 0.040), ("last_voiced", -0.040), ("first_audible_sample", 0.030), ("first_audible_sample", -0.5)],
)
def test_a_wrong_trace_is_caught(mark, by):
    held = talk(spoken(hush(0.3), tone(0.8), hush(0.2)), "")
    marks = held.turns[0].marks
    setattr(marks, mark, getattr(marks, mark) + by)
    (turn,) = figures(held)
    assert turn.disagreement is not None
    assert metrics.trusted([turn]) == []


def test_a_reply_that_is_not_in_the_recording_is_caught_and_the_other_way_round():
    held = talk(spoken(hush(0.3), tone(0.8), hush(0.2)), "")
    silent = dataclasses.replace(held, both=held.both * [1, 0])
    (turn,) = figures(silent)
    assert "the recording has none" in turn.disagreement
    forgotten = dataclasses.replace(held, turns=())
    assert metrics.manners(held, heard(held), "v", 0).unknown_sounds == 0
    assert metrics.manners(forgotten, heard(held), "v", 0).unknown_sounds > 0


def test_a_stage_that_hides_in_another_is_caught():
    held = talk(spoken(hush(0.3), tone(0.8), hush(0.2)), "")
    held.turns[0].marks.end_of_turn -= 0.5  # the sum is right, the parts are not
    (turn,) = figures(held)
    assert "a stage of" in turn.disagreement


def test_a_pause_longer_than_the_end_of_turn_is_a_false_cut_off():
    case = spoken(hush(0.3), tone(0.8), hush(1.2), tone(0.8), hush(0.2), pauses=((1.1, 2.3),))
    for silence, cut in ((300, True), (1500, False)):
        held = talk(case, f"end_of_turn_ms={silence}")
        found = metrics.manners(held, heard(held), "v", 0)
        assert found.cut_off is cut
        assert found.replies_in_pauses == (1 if cut else 0)
        assert (found.replies == found.expected_replies) is not cut


def test_barge_in_is_timed_by_the_recording():
    words = Interjection(samples=np.concatenate((tone(1.0), hush(0.2))), text="stop please", after_s=1.0)
    held = talk(
        spoken(hush(0.3), tone(0.8), hush(0.2), interjection=words, replies=2), "partial_ms=400,text_to_token_ms=1"
    )
    found = metrics.manners(held, heard(held), "v", 0)
    assert found.interrupted_by_words
    assert found.stop_s == pytest.approx(0.4 + 0.005, abs=0.025)  # the first words known, one frame, the fade
    assert found.heard_words_off <= 1
    assert found.replies == 2


def test_a_cough_over_the_reply_is_no_barge_in_of_the_stand_in():
    cough = Interjection(samples=tone(0.3), text="", after_s=1.0)
    held = talk(spoken(hush(0.3), tone(0.8), hush(0.2), interjection=cough), "")
    found = metrics.manners(held, heard(held), "v", 0)
    assert found.interrupted_by_aside is False
    assert found.interrupted_by_words is None


def test_silence_is_answered_by_nobody():
    held = talk(Case(name="silence", samples=hush(2.0), text="", replies=0), "")
    found = metrics.manners(held, heard(held), "v", 0)
    assert held.turns == ()
    assert (found.replies, found.cut_off, found.unknown_sounds) == (0, None, 0)


def test_waiting_for_sentences_costs_what_their_tokens_take():
    case = spoken(hush(0.3), tone(0.8), hush(0.2), reply="one two three four five six seven eight. and ten.")
    token, sentence = (figures(talk(case, "", feeding))[0] for feeding in ("token", "sentence"))
    # by token the first chunk waits for three tokens after the first, by sentence for all eight of the first sentence
    assert 1000 * (sentence.first_audio_s - token.first_audio_s) == pytest.approx(4 * 25 + 2 * 8, abs=10)
    assert token.sentences == sentence.sentences == 2
    assert token.disagreement is None
    assert sentence.disagreement is None


def test_noise_and_ticks_are_no_voice():
    rng = np.random.default_rng(0)
    both = np.concatenate((hush(0.5), tone(1.0), hush(0.5))) + rng.normal(0, 0.01, 2 * CLIP_HZ).astype(np.float32)
    (span,) = user_spans(both, CLIP_HZ)
    assert span.start == pytest.approx(0.5, abs=0.006)
    assert span.end == pytest.approx(1.5, abs=0.006)
    ticking = hush(1.0)
    ticking[1000] = 0.5
    ticking[8000:9600] = tone(0.1)
    assert assistant_spans(ticking, CLIP_HZ) == (Span(0.5, 0.6),)
