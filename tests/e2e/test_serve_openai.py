"""The official client against the server with the bundled models: what comes back is heard and understood."""

import base64
import io
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import soundfile

from app import cli
from app.ask import SAMPLE_QUESTION
from app.bench.cases import ASSETS
from audio_io.file import read_audio

ROOT = Path(cli.__file__).parents[1]
HZ = 24_000


def pcm(path):
    samples = read_audio(path, HZ).samples
    return np.round(samples * 32767).astype("<i2").tobytes()


QUESTION = pcm(SAMPLE_QUESTION)


@pytest.fixture(scope="module")
def server():
    """The command itself at a free port; every answer of /health while it was loading."""
    command = [sys.executable, "launch.py", "serve", "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    watch = threading.Timer(300, process.kill)
    watch.start()
    assert process.stdout
    try:
        loading = process.stdout.readline()
        address = re.search(r"http://\S+(?=/health)", loading)
        assert address, loading
        before = httpx.get(f"{address.group()}/health", timeout=60.0).status_code
        ready = process.stdout.readline()
        assert "Ready" in ready
        assert f"{address.group()}/v1" in ready
        yield address.group(), before
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 1)
    finally:
        watch.cancel()
        process.kill()


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server[0]}/v1", api_key="none", timeout=120.0, max_retries=0) as client:
        yield client


def append(connection, sound):
    connection.input_audio_buffer.append(audio=base64.b64encode(sound).decode())


def until_done(connection):
    """Events up to `response.done`, and the sound in them."""
    events = []
    for event in connection:
        assert event.type != "error", event
        events.append(event)
        if event.type == "response.done":
            break
    sound = b"".join(base64.b64decode(e.delta) for e in events if e.type == "response.output_audio.delta")
    return events, sound


def understood(client, sound):
    out = io.BytesIO()
    soundfile.write(out, np.frombuffer(sound, "<i2"), HZ, format="WAV")
    out.seek(0)
    return client.audio.transcriptions.create(model="any", file=("a.wav", out)).text


def only(events, kind):
    (event,) = [event for event in events if event.type == kind]
    return event


def test_health_tells_when_the_models_are_there(server):
    address, before = server
    assert before == 503
    assert httpx.get(f"{address}/health").status_code == 200


def test_a_spoken_question_is_understood_and_answered_aloud(client):
    with client.realtime.connect(model="any") as connection:
        assert connection.recv().type == "session.created"
        append(connection, QUESTION)
        events, sound = until_done(connection)
        kinds = [event.type for event in events]
        assert kinds[:3] == [
            "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", "input_audio_buffer.committed"
        ]  # fmt: skip
        heard = only(events, "conversation.item.input_audio_transcription.completed")
        assert "two plus three" in heard.transcript
        reply = only(events, "response.output_audio_transcript.done").transcript
        assert "five" in reply.lower()
        assert 0.8 < len(sound) / 2 / HZ < 6.0
        assert np.abs(np.frombuffer(sound, "<i2")).max() > 3000
        assert "five" in understood(client, sound)
        response = only(events, "response.done").response
        assert response.status == "completed"
        assert response.output[0].content[0].transcript == reply


def test_a_conversation_by_hand_remembers_and_forgets(client):
    with client.realtime.connect(model="any") as connection:
        connection.session.update(session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        name = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "my name is anna"}]}
        connection.conversation.item.create(item=name)
        connection.response.create()
        until_done(connection)
        append(connection, pcm(ASSETS / "capital_france.0.flac"))
        connection.input_audio_buffer.commit()
        connection.response.create()
        events, sound = until_done(connection)
        assert "france" in only(events, "conversation.item.input_audio_transcription.completed").transcript
        assert "Paris" in only(events, "response.output_audio_transcript.done").transcript
        assert {"paris", "france"} <= set(understood(client, sound).split())
        asked = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "what is my name"}]}
        connection.conversation.item.create(item=asked)
        connection.response.create(response={"output_modalities": ["text"]})
        events, sound = until_done(connection)
        assert "anna" in only(events, "response.output_text.done").text.lower()
        assert sound == b""


def test_two_programs_at_once_have_conversations_of_their_own(client):
    with client.realtime.connect(model="any") as one, client.realtime.connect(model="any") as two:
        append(one, pcm(ASSETS / "capital_italy.0.flac"))
        append(two, QUESTION)
        for connection, word in ((one, "rome"), (two, "five")):
            events, _ = until_done(connection)
            assert word in only(events, "response.output_audio_transcript.done").transcript.lower()


def test_a_text_is_spoken_and_understood_again(client):
    spoken = client.audio.speech.create(
        model="any", voice="alloy", input="What is two plus three?", response_format="pcm"
    )
    assert 0.8 < len(spoken.content) / 2 / HZ < 4.0
    assert "two plus three" in understood(client, spoken.content)
    with client.audio.speech.with_streaming_response.create(
        model="any", voice="alloy", input="Good morning."
    ) as stream:
        pieces = list(stream.iter_bytes())
    samples, rate = soundfile.read(io.BytesIO(b"".join(pieces)))
    assert rate == HZ
    assert "good morning" in understood(client, np.round(samples * 32767).astype("<i2").tobytes())
    with SAMPLE_QUESTION.open("rb") as file:
        assert "two plus three" in client.audio.transcriptions.create(model="any", file=file).text


def test_what_cannot_be_done_is_told_as_the_client_expects(client):
    with pytest.raises(openai.BadRequestError, match="wav or pcm"):
        client.audio.speech.create(model="any", voice="alloy", input="Hello.", response_format="mp3")
    with pytest.raises(openai.BadRequestError, match="text, not sound"):
        client.audio.transcriptions.create(model="any", file=("a.wav", b"only words, only words"))
    with client.realtime.connect(model="any") as connection:
        assert connection.recv().type == "session.created"
        connection.send({"type": "dance"})
        error = connection.recv()
        assert (error.type, error.error.code) == ("error", "unknown_event")
