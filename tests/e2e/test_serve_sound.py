"""The interface for programs: text becomes sound and sound becomes text, one request each."""

import io
import json
import threading
import wave

import numpy as np
import pytest
import soundfile

from tests.fakes import user_says
from tests.serve import chat, parts, serving


async def test_text_becomes_sound():
    async with serving(parts(chat())) as site:
        begun, threads = site.parts.synthesizer.stream, []
        site.parts.synthesizer.stream = lambda **how: threads.append(threading.current_thread().name) or begun(**how)
        answer = await site.http.post("/v1/audio/speech", json={"model": "x", "voice": "alloy", "input": "one two"})
        assert answer.headers["content-type"] == "audio/wav"
        samples, rate = soundfile.read(io.BytesIO(answer.content), dtype="int16")
        assert (rate, len(samples)) == (24_000, 5 * 960)  # one push, of five speech tokens
        with wave.open(io.BytesIO(answer.content)) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
        answer = await site.http.post("/v1/audio/speech", json={"input": "one", "response_format": "pcm", "speed": 1.5})
        assert answer.content == samples.tobytes()
        assert site.parts.synthesizer.asked[-1]["speed"] == 1.5
        assert len(threads) == 2
        assert all(name.startswith("tts") for name in threads)


BAD_TEXTS = [
    ("{", 400, "not JSON"),
    ("{}", 400, "input is missing"),
    ('{"input": " "}', 400, "input is empty"),
    (json.dumps({"input": "x" * 5000}), 400, "4096"),
    ('{"input": "x", "response_format": "mp3"}', 400, "wav or pcm"),
    ('{"input": "x", "voice": "nobody"}', 400, "no voice 'nobody'"),
    ('{"input": "x", "speed": 4}', 400, "between 0.5 and 2"),
    ('{"input": "x", "stream_format": "sse"}', 400, "stream_format"),
    (json.dumps({"input": "x" * 2_000_000}), 413, "longer than 1 MB"),
]


async def test_what_cannot_be_spoken():
    async with serving(parts(chat())) as site:
        for body, status, words in BAD_TEXTS:
            answer = await site.http.post("/v1/audio/speech", content=body)
            assert answer.status_code == status
            assert words in answer.json()["error"]["message"]


def wav(seconds):
    out = io.BytesIO()
    soundfile.write(out, np.zeros(round(seconds * 8000)), 8000, format="WAV")
    return out.getvalue()


async def test_sound_becomes_text():
    script = user_says("hello there", 0.1, 0.4, silence=0.2) + user_says("how are you", 1.0, 1.5, silence=0.2)
    made = parts(chat(), script, script, script)
    async with serving(made) as site:
        for kind in ("json", "text", "verbose_json"):
            answer = await site.http.post(
                "/v1/audio/transcriptions", files={"file": ("a.wav", wav(2.0))}, data={"response_format": kind}
            )
            assert answer.status_code == 200
            if kind == "text":
                assert answer.text == "hello there how are you\n"
            else:
                assert answer.json()["text"] == "hello there how are you"
        assert answer.json()["duration"] == pytest.approx(2.0)


BAD_RECORDINGS = [
    ({}, {"model": "x"}, 400, "file is missing"),
    ({"file": ("a.wav", b"")}, {}, 400, "file: the file is empty"),
    ({"file": ("../../a.wav", b"no sound at all, only words")}, {}, 400, "file: text, not sound"),
    ({"file": ("a.wav", wav(7))}, {}, 400, "7 s; 5 s are taken"),
    ({"file": ("a.wav", wav(1))}, {"response_format": "srt"}, 400, "json, text"),
    ({"file": ("a.wav", bytes(2**21))}, {}, 413, "longer than 1 MB"),
]


async def test_what_cannot_be_transcribed():
    async with serving(parts(chat(), max_upload_mb=1, max_recording_s=5.0)) as site:
        for files, data, status, words in BAD_RECORDINGS:
            answer = await site.http.post("/v1/audio/transcriptions", files=files, data=data)
            assert answer.status_code == status
            error = answer.json()["error"]
            assert words in error["message"]
            assert "/tmp" not in error["message"]
