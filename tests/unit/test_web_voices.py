"""Voices made from recordings: what is refused, what is kept, and that names are never paths."""

import asyncio
import json
import threading
import time

import numpy as np
import pytest
import soundfile

from app.web.voices import OWN, VoiceLibrary
from app.worker import Worker
from audio_io.base import AudioFileError
from tests.fakes import InlineWorker
from tests.unit.test_voice import talk, wav
from tests.web import ScriptedRecognizer, ScriptedSynthesizer
from tts.base import VoiceError
from tts.voice import read_reference


def library(folder, synthesizer=None, max_voices=3, prosody=False, worker=None):
    return VoiceLibrary(
        folder,
        recognizer=ScriptedRecognizer(),
        synthesizer=synthesizer or ScriptedSynthesizer(),
        asr_worker=InlineWorker(),
        tts_worker=worker or InlineWorker(),
        max_voices=max_voices,
        own="the configured voice",
        prosody=prosody,
    )


@pytest.fixture
def recording(tmp_path):
    """Five seconds of something like speech, between silences."""
    silent = np.zeros(16_000, np.float32)
    return wav(tmp_path / "recording.wav", np.concatenate([silent, talk(5.0, 16_000), silent]), 16_000)


async def test_a_recording_is_trimmed_read_kept_and_used(tmp_path, recording):
    synthesizer = ScriptedSynthesizer()
    voices = library(tmp_path / "voices", synthesizer)
    candidate = await voices.examine(recording)
    assert 4.5 < candidate.seconds < 5.6
    assert candidate.transcript == "the words of the recording"
    await voices.save("  Anna   of  Bath ", candidate, "my own words", consent=True)
    assert voices.names() == ["Anna of Bath"]
    kept = json.loads(next((tmp_path / "voices").glob("*/voice.json")).read_text())
    assert kept["transcript"] == "my own words"
    assert kept["consent"]
    again = library(tmp_path / "voices", synthesizer)  # after a restart
    voice = await again.prepared("Anna of Bath")
    assert await again.prepared("Anna of Bath") is voice
    assert synthesizer.read == 1
    assert await again.prepared(OWN) == "the configured voice"
    samples, rate = soundfile.read(next((tmp_path / "voices").glob("*/reference.wav")))
    assert (rate, len(samples)) == (24_000, len(candidate.samples))
    again.delete("Anna of Bath")
    assert again.names() == []
    assert list((tmp_path / "voices").iterdir()) == []
    with pytest.raises(VoiceError, match="no voice 'Anna of Bath' any more"):
        await again.prepared("Anna of Bath")


async def test_what_is_kept_of_a_long_recording_is_all_that_is_spoken_from(tmp_path):
    voices = library(tmp_path / "voices")
    candidate = await voices.examine(wav(tmp_path / "long.wav", talk(20.0)))
    assert 13.0 < candidate.seconds <= 15.0
    assert "Of 20 s of audio the 15 s with most speech are used." in candidate.notes
    await voices.save("Anna", candidate, "all of it", consent=True)
    again = read_reference(next((tmp_path / "voices").glob("*/reference.wav")))
    assert len(again.samples) / 24_000 == pytest.approx(candidate.seconds, abs=0.3)
    assert again.notes == ()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("letter.wav", b"Dear Sir or Madam, this is a letter." * 20, "cannot be read as audio"),
        ("empty.wav", b"", "empty file"),
        ("silent.wav", np.zeros(80_000, np.float32), "silent"),
        ("short.wav", talk(1.0, 16_000), "has only"),
    ],
)
async def test_what_will_not_do_is_told_in_one_line_without_the_servers_paths(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        soundfile.write(path, content, 16_000)
    with pytest.raises(VoiceError, match=message) as caught:
        await library(tmp_path / "voices").examine(path)
    assert name in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_consent_a_new_name_and_room_are_needed(tmp_path, recording):
    voices = library(tmp_path / "voices", max_voices=2)
    candidate = await voices.examine(recording)
    for name, consent, message in (
        ("Anna", False, "agrees"), ("  ", True, "give the voice a name"), ("x" * 41, True, "at most 40"),
        ("a\x00b", True, "give the voice a name"), (OWN.upper(), True, "already"),
    ):  # fmt: skip
        with pytest.raises(VoiceError, match=message):
            await voices.save(name, candidate, "", consent=consent)
    assert voices.names() == []
    await voices.save("Anna", candidate, "", consent=True)
    with pytest.raises(VoiceError, match="already"):
        await voices.save("anna", candidate, "", consent=True)
    await voices.save("Ben", candidate, "", consent=True)
    with pytest.raises(VoiceError, match="limit"):
        await voices.save("Cleo", candidate, "", consent=True)


@pytest.mark.parametrize("name", ["../../escaped", "/etc/passwd", "..", "a/b", ".hidden"])
async def test_a_name_is_never_a_path(tmp_path, recording, name):
    folder = tmp_path / "deep" / "down" / "voices"
    voices = library(folder)
    await voices.save(name, await voices.examine(recording), "", consent=True)
    assert voices.names() == [name]
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.json")} == {"deep"}
    assert all(len(path.parent.name) == 32 for path in folder.glob("*/voice.json"))
    voices.delete(name)
    assert folder.is_dir()
    with pytest.raises(VoiceError, match="no voice"):
        voices.delete("..")


async def test_damaged_voices_are_left_out(tmp_path):
    folder = tmp_path / "voices"
    for name, content in (("a", "{"), ("b", "[]"), ("c", '{"title": 1}')):
        (folder / name).mkdir(parents=True)
        (folder / name / "voice.json").write_text(content)
    assert library(folder).names() == []


async def test_a_preview_speaks_in_the_voice_of_the_recording(tmp_path, recording):
    synthesizer = ScriptedSynthesizer()
    voices = library(tmp_path / "voices", synthesizer)
    candidate = await voices.examine(recording)
    made = await voices.preview(candidate, "Good morning.", "my own words")
    assert len(made.samples)
    assert made.notes == ()
    assert synthesizer.asked[-1]["voice"].startswith("voice ")
    with pytest.raises(VoiceError, match="what the voice shall say"):
        await voices.preview(candidate, "  ", "")


@pytest.mark.parametrize("prosody", [False, True])
async def test_a_voice_goes_on_from_its_corrected_words_where_that_is_wanted(tmp_path, recording, prosody):
    synthesizer = ScriptedSynthesizer()
    voices = library(tmp_path / "voices", synthesizer, prosody=prosody)
    candidate = await voices.examine(recording)
    await voices.save("Anna", candidate, "my own words", consent=True)
    assert (await voices.prepared("Anna")).endswith("saying my own words") is prosody
    await voices.preview(candidate, "Good morning.", "other words")
    assert synthesizer.asked[-1]["voice"].endswith("saying other words") is prosody
    made = await voices.preview(candidate, "Good morning.", "misread")
    assert made.notes == (("the text is left out.",) if prosody else ())


async def test_a_folder_that_cannot_be_written_is_told(tmp_path, recording):
    (tmp_path / "voices").write_text("a file")
    voices = library(tmp_path / "voices")
    with pytest.raises((VoiceError, AudioFileError), match="cannot be"):
        await voices.save("Anna", await voices.examine(recording), "", consent=True)


async def test_one_voice_at_a_time_is_read_whatever_threads_there_are(tmp_path, recording):
    running = threading.Semaphore(1)

    class Slow(ScriptedSynthesizer):
        def voice(self, path, text=""):
            assert running.acquire(blocking=False)
            time.sleep(0.05)
            running.release()
            return super().voice(path, text)

    worker = Worker("tts", num_threads=3)
    voices = library(tmp_path / "voices", Slow(), worker=worker)
    candidate = await voices.examine(recording)
    for name in ("Anna", "Bert", "Carl"):
        await voices.save(name, candidate, "", consent=True)
    assert len(await asyncio.gather(*(voices.prepared(name) for name in voices.names()))) == 3
    worker.close()
