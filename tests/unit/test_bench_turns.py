"""`bench pauses` and `bench asides`: what they count, on scripted recognisers and on what is spoken."""

import numpy as np
import pytest

from app.bench import asides, turn_ends
from app.bench.cases import CLIP_HZ, LEAD_S, Case
from app.bench.pauses import DEVELOPMENT, HELD_OUT, LONGEST_S, SHORTEST_S, questions_with_pauses
from asr.base import FinalTranscript, PartialTranscript, SpeechEnded, SpeechStarted, SpeechSustained
from configs.loader import load


def said(text, at, ended=0):
    return FinalTranscript(text=text, speech_start=0, speech_end=ended, decided_at=at, compute_ms=0.0)


class Scripted:
    """A recogniser whose turns end where it was told (seconds)."""

    def __init__(self, *ends):
        self.ends, self.pushed = list(ends), 0

    def stream(self):
        return self

    def push(self, samples):
        self.pushed += len(samples)
        due = [end for end in self.ends if end * CLIP_HZ <= self.pushed]
        self.ends = [end for end in self.ends if end not in due]
        return [said(f"turn at {end}", round(end * CLIP_HZ)) for end in due]

    def finish(self):
        return []


def spoken():
    """A second of a tone, half a second of silence, half a second of a tone, silence."""
    tone = 0.3 * np.sin(np.arange(CLIP_HZ) * 0.12).astype(np.float32)
    hush = np.zeros(CLIP_HZ // 2, np.float32)
    return Case(
        name="c", samples=np.concatenate([tone, hush, tone[: len(hush)], hush]), text="a b", pauses=((1.0, 1.5),)
    )


def test_a_turn_that_ends_before_the_user_does_is_a_cut_off():
    late = turn_ends.listen(Scripted(2.4), spoken())
    assert (late.cut_off, late.turns) == (False, ("turn at 2.4",))
    assert late.wait_s == pytest.approx(0.4, abs=0.01)
    early = turn_ends.listen(Scripted(1.4, 2.4), spoken())
    assert (early.cut_off, early.wait_s, len(early.turns)) == (True, None, 2)


def test_the_report_names_what_was_cut_off():
    found = [turn_ends.listen(Scripted(*ends), spoken()) for ends in ((2.4,), (2.6,), (1.4, 2.4), (2.8,))]
    values = turn_ends.figures(found)
    assert values["false cut-offs"].value == 0.25
    assert values["wait, mean"].value == pytest.approx(0.6, abs=0.01)
    told = {"cases": 4, "part": HELD_OUT, "weights": {"asr.model": "x"}, "silences": {"complete": 300}}
    page = turn_ends.page(
        {
            "about": told,
            "figures": {name: vars(value) for name, value in values.items()},
            "cases": [vars(heard) for heard in found],
        }
    )
    assert "| false cut-offs | 25.0 % (" in page
    assert page.count("| c | a b | turn at 1.4 | 500 |") == 1


def test_the_report_names_who_listened():
    own = turn_ends.ears(load(None, []))
    assert set(own) == {"asr.model", "turn_end", "turn_sound"}
    assert own["asr.model"].startswith("bundled ")
    other = turn_ends.ears(load(None, ["asr.backend=moonshine"]))
    assert set(other) == {"asr.backend", "turn_end"}
    assert other["asr.backend"].startswith("moonshine-voice 0")


@pytest.mark.usefixtures("speech_programs")
def test_the_two_parts_share_no_question_and_the_pauses_are_as_long_as_promised():
    held_out, development = (questions_with_pauses(part)[:12] for part in (HELD_OUT, DEVELOPMENT))
    assert not {case.text for case in held_out} & {case.text for case in development}
    for case in (*held_out, *development):
        ((begin, end),) = case.pauses
        assert SHORTEST_S <= end - begin <= LONGEST_S
        inside = case.samples[round(begin * CLIP_HZ) : round(end * CLIP_HZ)]
        assert np.abs(inside).max() < 0.01
        assert case.voiced[0].start < begin < end < case.voiced[-1].end


def voice(*later):
    """Events of a voice that begins at the right place, with the seconds at which each is told."""
    began = round(LEAD_S * CLIP_HZ)
    return [(LEAD_S + 0.2, SpeechStarted(at=began)), *((LEAD_S + at, event) for at, event in later)]


def ended(text, length_s):
    return SpeechEnded(at=round((LEAD_S + length_s) * CLIP_HZ), text=text)


def test_a_hum_that_is_misread_stops_the_reply_only_where_words_are_believed_at_once():
    partial = PartialTranscript(text="at", stable_chars=0, at=round((LEAD_S + 0.45) * CLIP_HZ))
    heard = voice((0.3, SpeechSustained(at=0)), (0.5, partial), (0.7, ended("oh hi", 0.5)))
    assert asides.judge(heard, frozenset({"oh"}), 0.0) == asides.Verdict(stopped=True, silent_s=0.3)
    assert asides.judge(heard, frozenset({"oh"}), 0.8) == asides.Verdict(stopped=False, silent_s=None)


def test_a_short_word_stops_it_when_the_voice_ends():
    heard = voice((0.36, ended("no", 0.2)))
    assert asides.judge(heard, frozenset(), 0.8) == asides.Verdict(stopped=True, silent_s=0.36)


def test_asides_and_interruptions_are_counted_apart():
    stopped, let = {"stopped": True, "silent_s": 0.4}, {"stopped": False, "silent_s": None}
    rows = [
        {"words": "uh huh", asides.CONFIGURED: let},
        {"words": "yeah", asides.CONFIGURED: stopped},
        {"words": "stop", asides.CONFIGURED: stopped},
        {"words": "no", asides.CONFIGURED: let},
    ]
    assert list(asides.figures(rows, asides.CONFIGURED).values()) == ["1 of 2", "0 of 1", "1 of 2", "400 / 400 ms"]


def test_every_voice_of_the_two_parts_is_another():
    first, second = asides.VOICES.values()
    assert not set(first) & set(second)
