"""The synthetic corpus: exact times, resumable and seeded building, held-out text and voices kept apart.

Needs flite and espeak-ng, as the training does.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from app.small import corpus, synth
from app.small.corpus import Corpus, Utterance, build
from app.small.evaluate import held_out
from app.small.text import mentions
from app.small.voices import Speaker, Voice, held_out_voices, training_voices

pytestmark = pytest.mark.usefixtures("speech_programs")
TEXT = "Well, it's a well-known cat. Isn't it? I'm a teacher!"


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_CHUNK", 12)
        build(folder, ["voices", "prose"], {"voices": 0.015, "prose": 0.015}, progress=False)
    return folder


def _check_times(text: str, num_samples: int, words: tuple, phones: tuple) -> None:
    duration = num_samples / synth.SAMPLE_RATE
    assert num_samples % synth.TOKEN_SAMPLES == 0
    assert [word for word, _, _ in words] == text.split()
    edges = [time for _, start, end in words for time in (start, end)]
    assert edges == sorted(edges)
    assert 0 <= edges[0] <= 0.081
    assert 0.119 <= duration - edges[-1] < 0.161
    ends = [end for _, end in phones]
    assert all(a < b for a, b in zip([0.0, *ends], ends, strict=False))
    assert ends[-1] == pytest.approx(duration, abs=1e-3)
    assert {name for name, _ in phones} <= set(synth.PHONES)
    assert phones[-1][0] == "pau"


@pytest.mark.parametrize(
    "voice", [training_voices()[0], training_voices()[3], training_voices()[60], training_voices()[-1]]
)
def test_times_of_a_sentence(speaker: Speaker, voice: Voice) -> None:
    speech = speaker.speak(TEXT, voice)
    _check_times(TEXT, len(speech.samples), speech.words, speech.phones)
    spoken = speech.samples[round(speech.words[1][1] * 24000) : round(speech.words[-1][2] * 24000)]
    assert np.abs(spoken).max() > 0.1
    assert np.abs(speech.samples).max() <= 0.96


@pytest.mark.parametrize("voice", [training_voices()[0], held_out_voices()[0]])
def test_phones_of_a_word(speaker: Speaker, voice: Voice) -> None:
    speech = speaker.speak("Seven ships.", voice)
    names = [name for name, _ in speech.phones if name != "pau"]
    assert names[:2] == ["s", "eh"]
    assert names[-4:] == ["sh", "ih", "p", "s"]
    # The fricative is noise, the vowel is not: the times fit the sound.
    ends = dict(zip([f"{i}{n}" for i, (n, _) in enumerate(speech.phones)], [e for _, e in speech.phones], strict=True))
    start, end = 0.08, ends["1s"]
    vowel = speech.samples[round(end * 24000) : round((end + 0.05) * 24000)]
    fricative = speech.samples[round(start * 24000) : round(end * 24000)]
    crossings = [np.mean(np.diff(np.signbit(part)) != 0) for part in (fricative, vowel)]
    assert crossings[0] > 2 * crossings[1]


def test_rate_shortens_speech(speaker: Speaker) -> None:
    for voice in (training_voices()[0], training_voices()[60]):
        slow, fast = (len(speaker.speak(TEXT, voice, rate=rate).samples) for rate in (0.8, 1.2))
        assert slow > 1.2 * fast


def test_text_that_cannot_be_aligned_is_refused(speaker: Speaker) -> None:
    with pytest.raises(synth.AlignmentError):
        speaker.speak("Wait - what?", training_voices()[0])


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth.ctypes.util, "find_library", lambda _name: None)
    with pytest.raises(synth.SynthesizerError, match="apt-get install flite espeak-ng"):
        synth._library("no-such-library", "libflite1")


def test_voices() -> None:
    training, held_out = training_voices(), held_out_voices()
    names = [voice.name for voice in (*training, *held_out)]
    assert len(set(names)) == len(names)
    assert {"slt", "rms", "awb", "kal16"} <= set(names[:4])
    assert sum(voice.engine == "espeak" for voice in training) >= 64
    assert len(held_out) == 12
    variants = {voice.source.split("+")[1] for voice in training if voice.engine == "espeak"}
    assert not variants & {voice.source.split("+")[1] for voice in held_out}


def test_every_voice_sounds_different(speaker: Speaker) -> None:
    voices = [*training_voices()[4:60:7], *held_out_voices()]
    heard = {speaker.speak("Hello there, friend.", voice).samples.tobytes() for voice in voices}
    assert len(heard) == len(voices)


def test_a_set_as_the_reader_gives_it(small: Path) -> None:
    read = Corpus(small / "voices")
    assert read.complete
    assert read.hours == pytest.approx(0.015, abs=0.003)
    assert len({u.voice for u in read.utterances}) > 8
    for utterance in read.utterances:
        assert len(read.samples(utterance)) == utterance.num_samples
        assert 0.6 <= utterance.duration_s <= 12
        _check_times(utterance.text, utterance.num_samples, utterance.words, utterance.phones)
    end = read.utterances[-1]
    assert (small / "voices" / "audio.i16").stat().st_size == 2 * (end.offset + end.num_samples)
    assert {u.voice for u in Corpus(small / "prose").utterances} == {"slt"}
    assert not (small / "voices" / "audio.i16.part").exists()


def test_training_sets_hold_prose_and_talk_but_nothing_held_out(small: Path) -> None:
    for name in ("voices", "prose"):
        utterances = Corpus(small / name).utterances
        assert {u.id.split("-")[0].rstrip("123") for u in utterances} == {"prose", "talk"}
        assert not [u.text for u in utterances if mentions(u.text, corpus.held_out_keys())]


def test_rare_words_are_said_by_the_default_voice_and_by_others() -> None:
    lines = corpus._word_lines(1, 0)
    assert [line.text for line in lines[::2]] == [line.text for line in lines[1::2]]
    assert {line.voice.name for line in lines[::2]} == {"slt"}
    assert "slt" not in {line.voice.name for line in lines[1::2]}
    assert len({line.voice.name for line in lines[1::2]}) > 20


def test_held_out_sentences_are_dropped_from_training_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_CHUNK", 12)
    taken = corpus._training_lines("talk", 5, training_voices()[:1], 0)[0].text
    monkeypatch.setattr(corpus, "held_out_keys", lambda: frozenset([corpus.spoken_text.key(taken)]))
    lines = corpus._training_lines("talk", 5, training_voices()[:1], 0)
    assert lines
    assert taken not in [line.text for line in lines]


def test_an_interrupted_build_goes_on_to_the_same_set(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "_CHUNK", 12)
    hours = {"prose": 0.015}
    index = (small / "prose" / "index.jsonl").read_text(encoding="utf-8")
    audio = (small / "prose" / "audio.i16").read_bytes()
    lines = index.splitlines(keepends=True)
    for kept in (5, len(lines) - 2):  # stopped within the prose, and within the talk
        folder = tmp_path / f"{kept}" / "prose"
        folder.mkdir(parents=True)
        last = json.loads(lines[kept - 1])
        written = 2 * (last["offset"] + last["num_samples"])
        (folder / "index.jsonl").write_text("".join(lines[:kept]) + lines[kept][:40], encoding="utf-8")
        (folder / "audio.i16").write_bytes(audio[:written] + b"\1\2\3\4")
        assert len(Corpus(folder).utterances) == kept
        build(folder.parent, ["prose"], hours, progress=False)
        assert (folder / "index.jsonl").read_text(encoding="utf-8") == index
        assert (folder / "audio.i16").read_bytes() == audio


def test_held_out_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = corpus.held_out_sentences()[:4]
    questions = {name: corpus.held_out_questions(name)[:3] for name in corpus.QUESTIONS}
    monkeypatch.setattr(corpus, "held_out_sentences", lambda: sentences)
    monkeypatch.setattr(corpus, "held_out_questions", questions.get)
    names = ["heldout", "heldout_seen", "heldout_voices", *corpus.QUESTIONS]
    build(tmp_path, names, progress=False)
    sets: dict[str, list[Utterance]] = {name: Corpus(tmp_path / name).utterances for name in names}
    assert [u.text for u in sets["heldout"]] == [u.text for u in sets["heldout_voices"]] == sentences
    assert {u.voice for u in sets["heldout_voices"]} <= {v.name for v in held_out_voices()}
    assert {u.voice for u in sets["heldout_seen"]} <= {v.name for v in training_voices()}
    for name in corpus.QUESTIONS:
        assert [u.text for u in sets[name]] == [q["text"] for q in questions[name]]
        assert [[list(group) for group in u.answer] for u in sets[name]] == [q["keywords"] for q in questions[name]]


@pytest.mark.parametrize("changed", ["text", "keywords"])
def test_questions_are_recorded_anew_when_their_list_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    questions = corpus.held_out_questions()[:2]
    monkeypatch.setattr(corpus, "held_out_questions", lambda _name: questions)
    folder = tmp_path / "corpus"
    build(folder, ["questions"], progress=False)
    assert not corpus.is_outdated(folder / "questions")
    other = {"text": "Could that be said in other words?", "keywords": [["never"]]}
    questions = [questions[0], questions[1] | {changed: other[changed]}]
    options = argparse.Namespace(work=tmp_path, limit=None)
    with pytest.raises(corpus.CorpusError, match="--sets questions"):
        held_out(options, "questions")
    build(folder, ["questions"], progress=False)
    assert [u.text for u in held_out(options, "questions")[1]] == [q["text"] for q in questions]


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(corpus.CorpusError, match=r"app\.small\.corpus"):
        Corpus(tmp_path / "voices")
    with pytest.raises(corpus.CorpusError, match="no set 'music'"):
        build(tmp_path, ["music"], progress=False)
