from itertools import pairwise

import numpy as np
import pytest

from asr import limits
from asr.base import (
    SAMPLE_RATE,
    FinalTranscript,
    PartialTranscript,
    RecognizerError,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    SpeechSustained,
    VoiceHeard,
    VoiceLost,
)
from asr.endpoint import Endpoint
from asr.stream import StreamingRecognizer, StreamOptions, TurnStream
from asr.turn_end import TurnEnd
from asr.vad import WINDOW, SileroModel, voiced_span
from configs.schema import AsrConfig

WINDOW_MS = 1000 * WINDOW / SAMPLE_RATE


class LoudnessDetector:
    """A voice is what is loud."""

    def __call__(self, window):
        return 0.9 if np.sqrt(np.mean(window**2)) > 0.02 else 0.05

    def reset(self):
        pass


class Counter:
    """Recognises one word per half second of loud samples; its stream says a word behind."""

    def __init__(self, words=("sun",) * 100):
        self.words = words
        self.passes = 0
        self.heard = None

    def _text(self, samples):
        return " ".join(self.words[: int(np.sum(np.abs(samples) > 0.01) / (SAMPLE_RATE / 2) + 0.25)])

    def transcribe(self, samples):
        self.passes += 1
        self.heard = samples
        return self._text(samples)

    def stream(self):
        return CounterStream(self)


class CounterStream:
    def __init__(self, counter):
        self._counter = counter
        self._samples = np.zeros(0, np.float32)
        self._chunks = 0

    def push(self, samples):
        self._samples = np.concatenate([self._samples, samples])
        done, self._chunks = self._chunks, len(self._samples) // 7680
        return self._chunks > done

    @property
    def text(self):
        return self._counter._text(self._samples[: self._chunks * 7680])


JUDGED = {"1 more": 5.0, "1 time": 5.0, "1 the": -5.0, "1 of": -1.4}  # a full stop after "of" would make it whole


def options(**changes):
    values = {
        "vad_threshold": 0.5,
        "notice_threshold": 0.25,
        "min_speech_ms": 120,
        "sustained_ms": 250,
        "pre_roll_ms": 300,
        "partial_interval_ms": 480,
        "max_turn_s": 20.0,
        "endpoint": Endpoint(
            complete_silence_ms=250,
            probable_silence_ms=350,
            min_silence_ms=450,
            incomplete_silence_ms=900,
            judge=TurnEnd(JUDGED, 0.0),
        ),
    }
    return StreamOptions(**{**values, **changes})


def sound(*parts):
    """(seconds, is_loud) ... -> samples; loud parts are noise, quiet ones digital silence."""
    rng = np.random.default_rng(0)
    pieces = [
        rng.choice([-0.3, 0.3], int(s * SAMPLE_RATE)) if loud else np.zeros(int(s * SAMPLE_RATE)) for s, loud in parts
    ]
    return np.concatenate(pieces).astype(np.float32)


def run(samples, sizes=(1600,), paraformer=None, punctuate=str, **changes):
    stream = TurnStream(paraformer or Counter(), LoudnessDetector(), options(**changes), punctuate=punctuate)
    events, at, k = [], 0, 0
    while at < len(samples):
        size = sizes[k % len(sizes)]
        events += stream.push(samples[at : at + size])
        at, k = at + size, k + 1
    return events + stream.finish()


def timeless(events):
    return [(type(e), *(getattr(e, f) for f in e.__dataclass_fields__ if f != "compute_ms")) for e in events]


TWO_TURNS = sound((0.7, 0), (1.5, 1), (0.3, 0), (0.9, 1), (1.2, 0), (1.1, 1), (1.0, 0))


@pytest.mark.parametrize("seed", range(5))
def test_any_chunking_gives_the_same_events(seed):
    sizes = np.random.default_rng(seed).integers(1, 4000, 200).tolist()
    whole = timeless(run(TWO_TURNS, (len(TWO_TURNS),)))
    assert timeless(run(TWO_TURNS, sizes)) == whole
    assert [e[0] for e in whole].count(FinalTranscript) == 2


def test_a_turn_is_told_in_order_and_measured_acoustically():
    events = run(sound((1.0, 0), (2.0, 1), (1.0, 0)))
    kinds = [type(e) for e in events]
    assert kinds[:2] == [VoiceHeard, SpeechStarted]
    assert kinds.count(SpeechSustained) == 1
    (sustained,) = [e for e in events if isinstance(e, SpeechSustained)]
    assert 1000 * (sustained.at / SAMPLE_RATE - 1) == pytest.approx(250, abs=2 * WINDOW_MS)
    assert kinds[-2:] == [SpeechEnded, FinalTranscript] or kinds[-1] is FinalTranscript
    assert kinds.count(SpeechEnded) == 1
    final = events[-1]
    assert abs(final.speech_start - SAMPLE_RATE) <= 160
    assert abs(final.speech_end - 3 * SAMPLE_RATE) <= 160
    assert events[1].at == final.speech_start
    assert abs(events[0].at - final.speech_start) <= WINDOW
    waited_ms = 1000 * (final.decided_at - final.speech_end) / SAMPLE_RATE
    assert 450 - WINDOW_MS <= waited_ms <= 450 + 2 * WINDOW_MS
    assert final.text == "sun sun sun sun"


def test_partials_grow_while_the_user_speaks():
    partials = [e for e in run(sound((0.5, 0), (3.0, 1), (1.0, 0))) if isinstance(e, PartialTranscript)]
    assert len(partials) >= 4
    lengths = [len(p.text) for p in partials]
    assert lengths == sorted(lengths)
    for before, after in pairwise(partials):
        assert after.text[: after.stable_chars].strip() == before.text[: after.stable_chars].strip()
    assert partials[1].stable_chars > 0
    assert max(p.at for p in partials[:-1]) < 3.5 * SAMPLE_RATE


def test_the_words_decide_how_long_the_silence_must_be():
    def waited(words):
        final = run(sound((0.5, 0), (1.5, 1), (2.0, 0)), paraformer=Counter(words))[-1]
        return 1000 * (final.decided_at - final.speech_end) / SAMPLE_RATE

    assert waited(["tell", "me", "more"]) == pytest.approx(270, abs=40)
    assert waited(["cats", "chase", "mice"]) == pytest.approx(470, abs=40)
    assert waited(["cats", "and", "the"]) == pytest.approx(920, abs=40)


def test_a_pause_inside_a_turn_does_not_end_it():
    events = run(sound((0.5, 0), (1.0, 1), (0.35, 0), (1.0, 1), (1.0, 0)))
    beside = (PartialTranscript, VoiceHeard, SpeechSustained, SpeechPaused)
    kinds = [type(e) for e in events if not isinstance(e, beside)]
    assert kinds == [SpeechStarted, SpeechEnded, SpeechStarted, SpeechEnded, FinalTranscript]
    assert events[-1].text == "sun sun sun sun"


def test_a_silence_too_short_for_a_pause_is_read_and_taken_back():
    events = run(sound((0.5, 0), (1.0, 1), (0.1, 0), (1.0, 1), (1.0, 0)))
    beside = (PartialTranscript, VoiceHeard, SpeechSustained)
    kinds = [type(e) for e in events if not isinstance(e, beside)]
    assert kinds == [SpeechStarted, SpeechPaused, SpeechResumed, SpeechPaused, SpeechEnded, FinalTranscript]


def test_words_are_read_early_as_if_the_silence_had_lasted():
    counter = Counter()
    events = run(sound((0.5, 0), (1.0, 1), (1.0, 0)), paraformer=counter)
    (paused,) = [e for e in events if isinstance(e, SpeechPaused)]
    assert paused.text == events[-1].text
    loud = np.flatnonzero(np.abs(counter.heard) > 0.01)
    assert (len(counter.heard) - loud[-1]) / SAMPLE_RATE == pytest.approx(0.16, abs=WINDOW_MS / 1000)


def test_a_voice_that_goes_on_below_the_detectors_threshold_is_read_again():
    counter = Counter()
    faint = sound((0.12, 1)) / 25  # heard by its energy, but not by the detector of this file
    samples = np.concatenate([sound((0.5, 0), (1.5, 1)), faint, sound((1.0, 0))])
    events = run(samples, paraformer=counter)
    assert counter.passes > 1
    assert abs(events[-1].speech_end - round(2.12 * SAMPLE_RATE)) <= SAMPLE_RATE // 50
    heard = np.flatnonzero(np.abs(counter.heard) > 1e-3)
    assert heard[-1] - heard[0] >= 1.6 * SAMPLE_RATE


@pytest.mark.parametrize("comes_back", [True, False])
def test_what_stirs_when_a_pause_would_end_the_turn_is_heard_out(comes_back):
    """450 ms of silence would end it; a voice that begins faintly is not noticed by the detector until it is loud."""
    stirring = sound((0.09, 1)) / 25
    samples = np.concatenate([sound((0.5, 0), (1.0, 1), (0.4, 0)), stirring, sound((1.0, int(comes_back)), (1.5, 0))])
    final = run(samples, paraformer=Counter(["cats", "chase", "big", "mice"]))[-1]
    if comes_back:
        assert (final.text, final.speech_start < SAMPLE_RATE // 2) == ("cats chase big mice", True)
        return
    waited = (final.decided_at - final.speech_end) / SAMPLE_RATE
    assert abs(final.speech_end - 1.5 * SAMPLE_RATE) <= SAMPLE_RATE // 50
    assert 0.45 + WINDOW_MS / 1000 < waited < 0.45 + 0.096 + 2 * WINDOW_MS / 1000


@pytest.mark.parametrize("words", [["what", "is", "the", "time"], ["what", "is", "the"]])
def test_a_pause_tells_the_words_of_the_turn_if_it_ends_there(words):
    events = run(sound((0.5, 0), (len(words) / 2, 1), (2.0, 0)), paraformer=Counter(words))
    (pause,) = [e for e in events if isinstance(e, SpeechEnded)]
    assert pause.text == events[-1].text == " ".join(words)
    assert pause.complete is (words[-1] == "time")
    partials = [e.text for e in events[: events.index(pause)] if isinstance(e, PartialTranscript)]
    assert partials[-1] == pause.text  # whoever hears of the pause knows its words


@pytest.mark.parametrize("silence_s", [0.4, 0.7, 2.0])
def test_a_long_pause_tells_that_words_that_call_for_more_may_be_all(silence_s):
    """They end the turn after 900 ms; a voice that comes back before 550 ms has cost no reply."""
    voice_back = () if silence_s == 2.0 else ((1.0, 1), (2.0, 0))
    events = run(sound((0.5, 0), (1.5, 1), (silence_s, 0), *voice_back), paraformer=Counter(["cats", "and", "the"]))
    ended = next(i for i, e in enumerate(events) if isinstance(e, SpeechEnded))
    before = [e.complete for e in events[:ended] if isinstance(e, SpeechPaused)]
    following = next((i for i, e in enumerate(events) if i > ended and isinstance(e, SpeechStarted)), len(events))
    after = [e for e in events[ended:following] if isinstance(e, SpeechPaused)]
    assert (before, events[ended].complete) == ([False], False)
    assert after == ([SpeechPaused(text="cats and the", complete=True)] if silence_s > 0.55 else [])


def test_the_final_pass_hears_the_pre_roll_and_the_tail():
    counter = Counter()
    run(sound((1.0, 0), (1.0, 1), (1.0, 0)), paraformer=counter)
    loud = np.flatnonzero(np.abs(counter.heard) > 0.01)
    assert len(loud) == SAMPLE_RATE  # nothing of the speech is lost
    assert 0.29 <= loud[0] / SAMPLE_RATE <= 0.35
    assert (len(counter.heard) - loud[-1]) / SAMPLE_RATE >= 0.15


def test_the_decision_costs_no_pass_of_its_own():
    counter = Counter()
    run(sound((0.5, 0), (1.0, 1), (1.0, 0)), paraformer=counter)
    assert counter.passes == 1


@pytest.mark.parametrize("burst_s", [0.03, 0.06])
def test_short_bursts_are_no_speech(burst_s):
    events = run(sound((0.5, 0), (burst_s, 1), (0.6, 0), (burst_s, 1), (0.5, 0)))
    assert [type(e) for e in events] == [VoiceHeard, VoiceLost] * 2
    for heard, lost in zip(events[::2], events[1::2], strict=True):
        assert 0 < lost.at - heard.at <= 0.25 * SAMPLE_RATE


def test_silence_gives_nothing_and_keeps_no_audio():
    stream = TurnStream(Counter(), LoudnessDetector(), options())
    assert stream.push(np.zeros(60 * SAMPLE_RATE, np.float32)) == []
    assert len(stream._heard) <= 0.4 * SAMPLE_RATE
    assert stream.finish() == []


def test_a_monologue_is_cut_and_goes_on_as_the_next_turn():
    events = run(sound((0.5, 0), (5.0, 1), (1.0, 0)), max_turn_s=2.0)
    finals = [e for e in events if isinstance(e, FinalTranscript)]
    assert len(finals) == 3
    assert all(f.text for f in finals)
    assert all(f.decided_at - f.speech_start <= 2.1 * SAMPLE_RATE for f in finals[:-1])
    assert sum(len(f.text.split()) for f in finals) == pytest.approx(10, abs=2)


def test_finish_closes_a_running_turn_at_once():
    events = run(sound((0.5, 0), (1.3, 1)))
    assert isinstance(events[-1], FinalTranscript)
    assert events[-1].text == "sun sun"


def test_reset_forgets_the_turn_and_keeps_the_clock():
    stream = TurnStream(Counter(), LoudnessDetector(), options())
    stream.push(sound((0.5, 0), (1.024, 1)))
    stream.reset()
    assert [e for e in stream.push(sound((1.0, 0))) if isinstance(e, FinalTranscript)] == []
    events = stream.push(sound((1.0, 1), (1.0, 0)))
    assert abs(events[0].at - int(2.524 * SAMPLE_RATE)) <= 2 * WINDOW


def test_without_a_streaming_model_the_partials_come_from_the_final_pass():
    counter = Counter()
    counter.stream = lambda: None
    partials = [
        e for e in run(sound((0.5, 0), (2.0, 1), (1.0, 0)), paraformer=counter) if isinstance(e, PartialTranscript)
    ]
    assert len(partials) >= 3


def test_bad_samples_are_named_or_repaired():
    stream = TurnStream(Counter(), LoudnessDetector(), options())
    with pytest.raises(RecognizerError, match="mono"):
        stream.push(np.zeros((2, 100), np.float32))
    assert stream.push(np.full(2048, np.nan, np.float32)) == []


@pytest.mark.parametrize("noise_db", [-80, -20, -15])
def test_the_end_of_a_voice_is_found_in_noise(noise_db):
    rng = np.random.default_rng(3)
    clock = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    voice = np.where((clock > 0.2) & (clock < 1.5), 0.2 * np.sin(2 * np.pi * 150 * clock), 0.0)
    white = np.fft.rfft(rng.standard_normal(len(clock)))
    pink = np.fft.irfft(white / np.sqrt(np.maximum(np.arange(len(white)), 1)), len(clock))
    noise = pink * (0.2 / np.sqrt(2)) * 10 ** (noise_db / 20) / pink.std()
    start, end = voiced_span((voice + noise).astype(np.float32), 0, len(clock))
    assert start / SAMPLE_RATE == pytest.approx(0.2, abs=0.04)
    assert end / SAMPLE_RATE == pytest.approx(1.5, abs=0.04)


def test_voiced_span_ignores_the_noise_floor():
    samples = np.random.default_rng(1).normal(0, 0.002, 3 * SAMPLE_RATE)
    samples[SAMPLE_RATE : 2 * SAMPLE_RATE] += 0.2 * np.sin(np.arange(SAMPLE_RATE) * 0.1)
    start, end = voiced_span(samples.astype(np.float32), 0, len(samples))
    assert abs(start - SAMPLE_RATE) <= 160
    assert abs(end - 2 * SAMPLE_RATE) <= 160


def test_silero_hears_no_voice_in_noise_and_is_chunk_free():
    detector = SileroModel().detector()
    noise = np.random.default_rng(0).normal(0, 0.01, 40 * WINDOW).astype(np.float32)
    first = [detector(noise[i : i + WINDOW]) for i in range(0, len(noise), WINDOW)]
    detector.reset()
    again = [detector(noise[i : i + WINDOW]) for i in range(0, len(noise), WINDOW)]
    assert max(first) < 0.5
    assert first == again


def test_the_recognizer_hands_out_independent_streams():
    recognizer = StreamingRecognizer(Counter(), SileroModel(), options())
    one, other = recognizer.stream(), recognizer.stream()
    one.push(np.ones(1000, np.float32) * 0.1)
    assert other._clock == 0
    assert one._clock == WINDOW


def full_stop(text):
    """Ends everything with a mark, as FunASR's punctuation does."""
    return f"{text.capitalize()}." if text else ""


@pytest.mark.parametrize("words", [("more", "time"), ("more", "of"), ("of", "the"), ("sun",) * 9, ()])
def test_punctuation_is_told_and_not_judged(words):
    """A turn whose words call for more waits as long, though its text now ends like a sentence."""
    samples = sound((0.5, 0), (1.0, 1), (0.4, 0), (0.6, 1), (1.2, 0))
    plain = run(samples, paraformer=Counter(words))
    written = run(samples, paraformer=Counter(words), punctuate=full_stop)
    assert len(plain) == len(written)
    for before, after in zip(plain, written, strict=True):
        told = {name: getattr(before, name) for name in before.__dataclass_fields__ if name != "compute_ms"}
        if isinstance(before, (SpeechPaused, SpeechEnded, FinalTranscript)):
            told["text"] = full_stop(before.text)
        assert type(before) is type(after)
        assert all(getattr(after, name) == value for name, value in told.items())
    final = written[-1]
    assert isinstance(final, FinalTranscript)
    assert final.text == full_stop(plain[-1].text)


def test_a_turn_cut_short_is_punctuated_too():
    events = run(sound((0.5, 0), (1.6, 1)), punctuate=full_stop)
    assert events[-1].text == "Sun sun sun."


class Detectors:
    """A voice is what is loud; counts what it heard."""

    def __init__(self):
        self.heard = 0

    def detector(self):
        return self

    def __call__(self, window):
        self.heard += 1
        return LoudnessDetector()(window)


def test_a_recording_without_a_voice_has_no_words():
    counter = Counter()
    recognizer = StreamingRecognizer(counter, Detectors(), options(), full_stop)
    assert recognizer.transcribe(sound((1.0, 0))) == recognizer.transcribe(np.zeros(0, np.float32)) == ""
    assert counter.passes == 0
    assert recognizer.transcribe(sound((0.2, 0), (1.0, 1))) == "Sun sun."
    assert recognizer.transcribe(sound((1.0, 1))[:1000]) == ""  # too short for a word, but heard
    assert counter.passes == 2
    long = sound((0.5, 0), (1.0, 1), (1.5, 0), (1.0, 1), (15.0, 0))
    assert recognizer.transcribe(long) == "Sun sun. Sun sun."


def test_warming_up_runs_everything():
    counter, detectors, written = Counter(), Detectors(), []
    StreamingRecognizer(counter, detectors, options(), lambda text: written.append(text) or text).warm_up()
    assert counter.passes == 1
    assert detectors.heard > 10  # a detector may need several windows before its network runs
    assert written == ["hello"]


def test_people_are_told_when_the_recogniser_knows_synthetic_voices_only():
    assert "asr.backend=moonshine" in limits(AsrConfig())
    assert limits(AsrConfig(backend="moonshine")) == limits(AsrConfig(model="some/folder")) == ""
