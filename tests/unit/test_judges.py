from pathlib import Path

import numpy as np
import pytest
import soundfile

from app.small.judges import JUDGES, SpeakerJudge, error_rate, satisfies, voiced_f0, words

QUESTION = Path(__file__).parents[1] / "assets" / "asr" / "question.wav"
TRUTH = "what is the capital of france"


def tone(f0, seconds=1.0, rate=24_000, tilt=1.0, seed=0):
    """A buzz with harmonics that fall off by `tilt`, and a little noise."""
    t = np.arange(int(seconds * rate)) / rate
    rng = np.random.default_rng(seed)
    drift = f0 * (1 + 0.02 * np.sin(2 * np.pi * 3 * t + seed))
    phase = 2 * np.pi * np.cumsum(drift) / rate
    buzz = sum(np.sin(k * phase) / k**tilt for k in range(1, 20))
    return (0.1 * buzz + 0.002 * rng.standard_normal(len(t))).astype(np.float32)


def test_words_are_compared_without_case_digits_and_punctuation():
    assert words("It's 21 dogs, Mr. Smith!") == ["it's", "twenty", "one", "dogs", "mr", "smith"]


def test_error_rate_counts_words_and_looks_at_the_ends():
    rate = error_rate(["one two three four", "five six"], ["one too three four", "six"])
    assert rate.rate == pytest.approx(2 / 6)
    assert rate.num_words == 6
    assert rate.first_word_errors == 0.5
    assert rate.last_word_errors == 0.0
    assert rate.low <= rate.rate <= rate.high


def test_nothing_heard_is_all_wrong():
    assert error_rate(["one two"], [""]).rate == 1.0


@pytest.mark.parametrize(
    ("answer", "good"),
    [("The answer is twenty one.", True), ("21", True), ("twenty", False), ("the answer isn't twenty one-ish", True)],
)
def test_every_group_needs_a_whole_word(answer, good):
    assert satisfies(answer, [["twenty one"]]) is good
    assert satisfies("a cat and a dog", [["cat"], ["dog", "hound"]])
    assert not satisfies("a caterpillar", [["cat"]])


@pytest.mark.parametrize("f0", [85, 120, 210, 320])
def test_pitch_is_measured(f0):
    assert np.median(voiced_f0(tone(f0), 24_000)) == pytest.approx(f0, rel=0.04)


def test_noise_has_no_pitch():
    noise = 0.1 * np.random.default_rng(0).standard_normal(24_000).astype(np.float32)
    assert len(voiced_f0(noise, 24_000)) < 10


def test_the_speaker_judge_tells_voices_apart():
    voices = {f"{f0}-{tilt}": (f0, tilt) for f0 in (90, 130, 190) for tilt in (0.7, 1.4)}
    recordings = [tone(*(f0,), tilt=tilt, seed=seed) for f0, tilt in voices.values() for seed in range(6)]
    names = [name for name in voices for _ in range(6)]
    judge = SpeakerJudge(recordings, names, 24_000, dims=4)
    centres = {name: judge.vector(tone(f0, tilt=tilt, seed=50), 24_000) for name, (f0, tilt) in voices.items()}
    for name, (f0, tilt) in voices.items():
        vector = judge.vector(tone(f0, tilt=tilt, seed=99), 24_000)
        assert max(centres, key=lambda other: vector @ centres[other]) == name


@pytest.mark.parametrize("judge", JUDGES)
def test_every_judge_hears_nothing_in_silence_and_a_spoken_question(judge):
    assert JUDGES[judge](np.zeros(16_000, np.float32), 16_000) == ""
    samples, rate = soundfile.read(QUESTION, dtype="float32")
    assert error_rate([TRUTH], [JUDGES[judge](samples, rate)]).rate <= 1 / 6


@pytest.mark.parametrize("judge", JUDGES)
def test_what_a_judge_hears_does_not_depend_on_what_it_heard_before(judge):
    hear = JUDGES[judge]
    samples, rate = soundfile.read(QUESTION, dtype="float32")
    noise = np.random.default_rng(2).standard_normal(len(samples)).astype(np.float32)
    clips = [samples + level * noise for level in (0.03, 0.06, 0.1)] + [
        np.diff(samples),
        np.cumsum(samples - samples.mean()),
    ]
    before = [hear(clip.astype(np.float32), rate) for clip in clips]
    after = [hear(clip.astype(np.float32), rate) for clip in reversed(clips)]
    assert after[::-1] == before
