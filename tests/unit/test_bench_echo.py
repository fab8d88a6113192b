"""The room of the echo benchmark, and what it counts."""

import numpy as np
import pytest

from app.bench.echo import (
    LEAD_S,
    USER_LEVEL,
    Setting,
    heard_by_assistant,
    leaked,
    measure,
    page,
    room,
    settings,
    timeline,
    utterances,
)
from asr.base import FinalTranscript

HZ = 16_000
NOISE = np.random.default_rng(0).standard_normal(6 * HZ).astype(np.float32) * 0.05


def test_the_echo_comes_late_and_at_its_level():
    setting = Setting(level_db=-10, delay_ms=60)
    response = room(60)
    assert np.flatnonzero(response)[0] == 960
    assert np.sum(np.square(response)) == pytest.approx(1.0)
    echo = leaked(NOISE, setting)
    assert not echo[:960].any()
    assert 20 * np.log10(np.sqrt(np.mean(np.square(echo))) / USER_LEVEL) == pytest.approx(-10.0, abs=0.01)


def test_the_users_words_lie_where_they_are_said_to():
    spoken = [("one", np.full(HZ, 0.1, np.float32)), ("two", np.full(HZ // 2, 0.2, np.float32))]
    user, places = timeline(spoken)
    assert not user[: round(LEAD_S * HZ)].any()
    for (_, samples), place in zip(spoken, places, strict=True):
        assert user[place].sum() == pytest.approx(samples.sum())
        assert user[place][0] == user[place][-1] == 0.0


def test_every_utterance_is_one_loudness_and_has_words():
    found = utterances()
    assert len(found) >= 15
    for text, samples in found:
        assert text
        assert np.sqrt(np.mean(np.square(samples))) == pytest.approx(USER_LEVEL)


class Ear:
    """Hears a word in every half second that is louder than a threshold."""

    def stream(self):
        return self

    def push(self, samples):
        self.heard = self.transcribe(samples)
        return [FinalTranscript(text=self.heard, speech_start=0, speech_end=1, decided_at=2, compute_ms=0.0)]

    def finish(self):
        return []

    def transcribe(self, samples):
        pieces = np.array_split(samples[HZ:] if len(samples) > 3 * HZ else samples, max(1, len(samples) // (HZ // 2)))
        return " ".join("word" for piece in pieces if np.abs(piece).max(initial=0.0) > 0.03)


def test_without_cancellation_the_reply_is_taken_for_the_user_and_with_it_not():
    spoken = [("word word", np.full(HZ, 0.1, np.float32))]
    figures = measure(Ear(), NOISE, spoken)
    assert len(figures["rooms"]) == len(settings())
    by_kind = {(r["cancel"], r["level_db"], r["delay_ms"]): r["self"]["turns"] for r in figures["rooms"]}
    assert by_kind[False, 0, 60] == 1
    assert by_kind[True, -20, 10] == 0
    assert figures["alone"]["num_words"] == 2
    told = page({"about": {"machine": "a machine", "load": 1.0}, "figures": figures})
    assert told.count("| WebRTC |") == 9
    assert told.count("| none |") == 3


def test_nothing_is_changed_without_echo_control():
    near, far = NOISE[:HZ], NOISE[HZ : 2 * HZ]
    assert np.array_equal(heard_by_assistant(near, far, cancel=False), near)
