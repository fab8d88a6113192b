"""The interface for programs where something is wrong: events, connections, keys, replies, options."""

import asyncio
import json
from contextlib import suppress

import pytest
import websockets

from app.cli import main
from tests.fakes import ScriptedChat, ScriptedSpeech
from tests.serve import LONG, Program, answered, chat, parts, say, serving
from tts.base import SynthesisError


def update(**session):
    return {"type": "session.update", "session": session}


def create(**item):
    return {"type": "conversation.item.create", "item": item}


BAD_EVENTS = [
    ("{", "invalid_json", "not JSON"),
    ("[1]", "invalid_json", "object"),
    ("[" * 100_000, "invalid_json", "not JSON"),
    (b"\x00\x01", "invalid_json", "text message"),
    ("{}", "missing_required_parameter", "type"),
    ({"type": "dance"}, "unknown_event", "'dance'"),
    ({"type": "session.update"}, "missing_required_parameter", "session"),
    (update(type="transcription"), "invalid_value", "realtime"),
    (update(volume=3), "unknown_parameter", "session.volume"),
    (update(instructions=3), "invalid_type", "a text"),
    (update(instructions="x" * 5000), "string_above_max_length", "4096"),
    (update(tools=[{"type": "function", "name": "f"}]), "not_supported", "tools"),
    (update(output_modalities=["audio", "text"]), "invalid_value", '["audio"]'),
    (update(audio={"input": {"format": {"type": "audio/pcmu"}}}), "unsupported_format", "audio/pcm at 24000"),
    (update(audio={"output": {"format": {"type": "audio/pcm", "rate": 16000}}}), "unsupported_format", "16000 Hz"),
    (update(audio={"output": {"speed": 9}}), "invalid_value", "between 0.5 and 2"),
    (update(audio={"output": {"voice": "nobody"}}), "voice_not_found", "default"),
    (update(audio={"input": {"turn_detection": {"type": "magic"}}}), "invalid_value", "server_vad"),
    (update(audio={"input": {"turn_detection": True}}), "invalid_type", "turn_detection"),
    (update(audio={"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 1}}}), "invalid_value", "100"),
    ({"type": "input_audio_buffer.append"}, "missing_required_parameter", "audio"),
    ({"type": "input_audio_buffer.append", "audio": "%%%"}, "invalid_value", "base64"),
    ({"type": "input_audio_buffer.append", "audio": "AAAA"}, "invalid_value", "16-bit"),
    ({"type": "input_audio_buffer.append", "audio": "AAA=" * 2**21}, "event_too_large", "in parts"),
    ({"type": "input_audio_buffer.append", "audio": "AAAA" * 2**20}, "input_audio_buffer_full", "60 s"),
    (create(type="function_call_output", output="1"), "not_supported", "message"),
    (create(type="message", role="cat", content=[]), "invalid_value", "role"),
    (create(type="message", role="user", content=[]), "invalid_value", "one part"),
    (create(type="message", role="user", content=[{"type": "input_image"}]), "invalid_value", "input_text or input_audio"),
    (create(type="message", role="assistant", content=[{"type": "input_audio"}]), "invalid_value", "output_text"),
    (create(type="message", role="user", content=[{"type": "input_text", "text": " "}]), "invalid_value", "empty"),
    ({**create(type="message", role="user", content=[]), "previous_item_id": "x"}, "not_supported", "newest"),
    ({"type": "conversation.item.truncate", "item_id": "x", "audio_end_ms": "1"}, "invalid_type", "whole number"),
    ({"type": "conversation.item.truncate", "item_id": "x", "audio_end_ms": 1e400}, "invalid_type", "whole number"),
    ({"type": "conversation.item.delete", "item_id": "x"}, "item_not_found", "'x'"),
    ({"type": "response.create", "response": {"tools": [{}]}}, "not_supported", "response.tools"),
    ({"type": "response.create", "response": {"conversation": "none"}}, "not_supported", "response.conversation"),
    ({"type": "response.create", "response": {"mood": "sad"}}, "unknown_parameter", "response.mood"),
    ({"type": "syncspeech.playback.ack", "item_id": "x"}, "missing_required_parameter", "audio_played_ms"),
]  # fmt: skip


async def test_what_does_not_belong_is_answered_with_an_error_and_the_session_goes_on():
    async with serving(parts(chat("Fine."), max_waiting_s=60.0)) as site, site.program() as p:
        before = p.told[0]["session"]
        for count, (event, code, words) in enumerate(BAD_EVENTS, 1):
            named = isinstance(event, dict)
            await p.socket.send(json.dumps({"event_id": f"mine {count}", **event}) if named else event)
            error = (await p.until("error", count=count))["error"]
            assert error["code"] == code, event
            assert words in error["message"], event
            assert "\n" not in error["message"]
            read = named and code != "event_too_large"
            assert error["event_id"] == (f"mine {count}" if read else None)
        assert (await p.update()) == before  # nothing was changed
        await say(p, "hello")
        assert (await answered(p))["status"] == "completed"


async def test_a_message_beyond_all_measure_ends_the_connection():
    async with serving(parts(chat("a"))) as site, site.program() as p:
        with suppress(websockets.ConnectionClosed):
            await p.socket.send("x" * (17 * 2**20))
        assert (await p.until_closed())[0] in (1009, 1006)
        async with site.program():
            pass


async def test_who_is_too_many_is_told_so_and_who_goes_makes_room():
    async with serving(parts(chat("a"), max_sessions=1)) as site:
        async with site.program():
            late = Program(site.port)
            await late.open()
            error = (await late.until("error"))["error"]
            assert error["code"] == "busy"
            assert "all 1 places" in error["message"]
            assert (await late.until_closed())[0] == 1013
            late = Program(site.port)
            await late.open()  # and waits
        await late.until("session.created")
        await late.close()


async def test_a_broken_connection_frees_everything():
    model = chat(LONG, token_s=0.05)
    async with serving(parts(model, max_sessions=1)) as site:
        async with site.program() as p:
            await say(p, "tell me a story")
            await p.until("response.output_audio.delta")
            p.socket.transport.abort()
        async with site.program():
            assert model.aborted == 1
            tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith(("conversation", "turn"))]
            assert len(tasks) == 1


async def test_a_reply_that_fails_is_told_and_the_next_one_is_made():
    class Failing(ScriptedChat):
        async def stream(self, messages, *, temperature=None):
            if self.asked:
                self._fail_after = None
            async for token in ScriptedChat.stream(self, messages):
                yield token

    made = parts(Failing("never", "Fine.", "Good.", first_s=0.01, token_s=0.01, fail_after=0))
    async with serving(made) as site, site.program() as p:
        await say(p, "hello")
        response = await answered(p)
        assert response["status"] == "failed"
        assert response["status_details"]["error"]["message"] == "the model stopped; start it again."
        assert len(p.sound()) > 0.5 * 24_000  # it says that it is sorry
        assert response["output"][0]["content"][0]["transcript"] == ""
        await say(p, "again")
        assert (await answered(p, number=2))["status"] == "completed"

        class Broken(ScriptedSpeech):
            def step(self, in_hand_s=0.0):
                raise SynthesisError("the voice is gone.")

        made.synthesizer.stream = lambda **_: Broken()
        await say(p, "again")
        response = await answered(p, number=3)
        assert response["status_details"]["error"]["message"] == "the voice is gone."


async def test_only_who_has_the_key_gets_in():
    async with serving(parts(chat("a")), auth="anna:secret") as site:
        assert (await site.http.get("/v1/models")).status_code == 401
        assert (await site.http.get("/health")).status_code == 200
        assert "set-cookie" not in (await site.http.get("/health")).headers
        for key, status in (("anna:secret", 200), ("anna:guess", 401), ("other", 401)):
            headers = {"authorization": f"Bearer {key}"}
            assert (await site.http.get("/v1/models", headers=headers)).status_code == status
        with pytest.raises(websockets.InvalidStatus):
            async with site.program():
                pass
        async with site.program(additional_headers={"authorization": "Bearer anna:secret"}):
            pass
        with pytest.raises(websockets.InvalidStatus):
            async with site.program(origin="http://evil.example"):
                pass


async def test_while_the_models_are_loaded_that_is_what_is_said():
    async with serving(parts(chat("a")), loaded=False) as site:
        answer = await site.http.get("/health")
        assert (answer.status_code, answer.json()) == (503, {"status": "loading"})
        answer = await site.http.post("/v1/audio/speech", json={"input": "hello"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "loading")
        p = Program(site.port)
        await p.open(subprotocols=["realtime"])
        assert p.socket.subprotocol == "realtime"
        assert (await p.until("error"))["error"]["code"] == "loading"
        assert (await p.until_closed())[0] == 1013
        site.service.open(site.parts)
        assert (await site.http.get("/health")).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--auth", "anna"], "USER:PASSWORD"),
        (["--ssl-certfile", "missing.pem"], "belong together"),
        (["--port", "70000"], "between 1 and 65535"),
        (["--max-sessions", "0"], "at least 1"),
        (["--set", "serve.prot=1"], "did you mean serve.port"),
    ],
)
def test_mistakes_on_the_command_line_are_told_in_one_line(capsys, arguments, message):
    assert main(["serve", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
