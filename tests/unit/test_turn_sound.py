"""The judge of how a turn's end sounds: what it hears, that it learns, and that the endpoint heeds it."""

import numpy as np
import pytest
import torch

import asr
from asr import turn_sound
from asr.base import SAMPLE_RATE, RecognizerError
from asr.endpoint import Endpoint
from asr.training.data import Recording
from asr.training.turn_sound import TurnSoundTask, TurnSoundTraining, ordered
from asr.turn_end import TurnEnd
from asr.turn_sound import FRAMES_AFTER, FRAMES_BEFORE, HOP, NUM_FEATURES, features
from configs.schema import AsrConfig, EndpointConfig

PITCH, VOICED = -3, -2


def hummed(hertz):
    """A voice at a pitch per sample: float32 (N,) with ten harmonics."""
    phase = 2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE
    return (0.05 * sum(np.sin(k * phase) / k for k in range(1, 11))).astype(np.float32)


def utterance(seconds, last_hz):
    """Hummed at 200 Hz, and over its last 0.4 s down or up to `last_hz`."""
    steady = np.full(round((seconds - 0.4) * SAMPLE_RATE), 200.0)
    return hummed(np.concatenate([steady, np.linspace(200, last_hz, round(0.4 * SAMPLE_RATE))]))


def test_a_falling_pitch_is_heard_as_octaves_below_the_speakers_own():
    voice = utterance(3.0, 141.4)
    heard = features(np.concatenate([voice, np.zeros(SAMPLE_RATE // 5, np.float32)]), len(voice))
    assert heard.shape == (FRAMES_BEFORE + FRAMES_AFTER, NUM_FEATURES)
    assert heard.dtype == np.float32
    before = heard[:FRAMES_BEFORE]
    assert np.abs(before[:18, PITCH]).max() < 0.02
    assert before[-2, PITCH] == pytest.approx(-0.45, abs=0.05)
    assert before[:, VOICED].min() == 1.0
    assert not heard[FRAMES_BEFORE:, VOICED].any()


def test_what_comes_later_and_how_it_was_cut_is_not_heard():
    voice = utterance(3.0, 150.0)
    silent = np.concatenate([voice, np.zeros(SAMPLE_RATE, np.float32)])
    loud_later = silent.copy()
    loud_later[len(voice) + FRAMES_AFTER * HOP + HOP :] = 0.5
    heard = features(silent, len(voice))
    assert np.array_equal(features(loud_later, len(voice)), heard)
    assert np.array_equal(features(silent[: len(voice) + FRAMES_AFTER * HOP + HOP], len(voice)), heard)


@pytest.mark.parametrize("length", [0, 1, 100, 3000, 12_000])
def test_a_turn_shorter_than_what_is_listened_to_is_silent_before(length):
    samples = hummed(np.full(length, 150.0))
    heard = features(samples, length)
    assert heard.shape == (FRAMES_BEFORE + FRAMES_AFTER, NUM_FEATURES)
    assert np.isfinite(heard).all()
    assert np.isfinite(turn_sound.bundled().log_odds(samples, length))


def spoken(count, seed):
    """Utterances that fall at their end; within, the pitch is held."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        words = tuple((f"w{i}", 0.4 * i + 0.02, 0.4 * i + 0.38) for i in range(6))
        yield Recording(
            samples=utterance(2.4, rng.uniform(120, 150)), sample_rate=SAMPLE_RATE, text="", words=words, phones=()
        )


def test_it_learns_what_is_different_at_the_end_and_keeps_it(tmp_path, monkeypatch):
    task = TurnSoundTask(spoken(24, 1), spoken(8, 2), TurnSoundTraining(batch=32))
    assert task.evaluate()["ordered"] < 0.9
    optimizer = torch.optim.AdamW(task.module.parameters(), 3e-3)
    for step in range(60):
        loss, _ = task.loss(step, step / 60)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    task.module.eval()
    figures = task.evaluate()
    assert figures["ordered"] > 0.97
    assert figures["wrong"] < 0.1
    task.export(tmp_path)
    monkeypatch.setattr(turn_sound, "ASSETS", tmp_path)
    turn_sound.bundled.cache_clear()
    try:
        kept = turn_sound.bundled()
        voice = utterance(2.4, 130.0)
        assert kept.log_odds(voice, len(voice)) == pytest.approx(task.module.log_odds(voice, len(voice)), abs=0.1)
        assert kept.log_odds(voice, len(voice)) > kept.log_odds(voice, round(1.6 * SAMPLE_RATE))
        (tmp_path / "model.safetensors").write_bytes(b"half")
        turn_sound.bundled.cache_clear()
        with pytest.raises(RecognizerError, match="take it from the repository"):
            turn_sound.bundled()
    finally:
        turn_sound.bundled.cache_clear()


def test_ordered_counts_pairs():
    assert ordered([2.0, 3.0], [1.0, 2.5]) == 0.75


class Ear:
    def __init__(self, log_odds):
        self._log_odds = log_odds

    def log_odds(self, samples, end):
        return self._log_odds


def waits(words, log_odds, ear=True):
    judge = TurnEnd({"1 time": 1.0, "1 the": -2.0, "1 night": 0.5}, 0.0)
    rules = Endpoint(
        complete_silence_ms=250, probable_silence_ms=350, min_silence_ms=450, incomplete_silence_ms=900, judge=judge,
        ear=Ear(log_odds) if ear else None,
    )  # fmt: skip
    return rules.required_silence_ms(words, rules.hear(np.zeros(1, np.float32), 1))


def test_the_sound_decides_where_the_words_leave_it_open():
    assert waits("what time", -50.0) == 900
    assert waits("what time", 0.0) == 350
    assert waits("what time", 50.0) == 250
    assert waits("what is the", 50.0) == 350
    assert waits("what is the", 50.0, ear=False) == 900
    assert waits("good night thank you", -50.0) == 900
    assert waits("qwertyuiop", -50.0) == 450


def test_only_the_recogniser_that_knows_no_people_is_judged_by_sound_unless_told():
    assert asr.hears_turn_ends(AsrConfig())
    assert not asr.hears_turn_ends(AsrConfig(backend="moonshine"))
    assert not asr.hears_turn_ends(AsrConfig(endpoint=EndpointConfig(sound="never")))
    assert asr.hears_turn_ends(AsrConfig(backend="moonshine", endpoint=EndpointConfig(sound="always")))
