"""The page's WebSocket, with scripted parts behind a real server and a page without a browser before it."""

import asyncio
import io
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import httpx
import jsonschema
import numpy as np
import pytest
import soundfile
import websockets

from app import trace as trace_module
from app.cli import main
from app.web.application import library_of
from app.web.voices import Candidate
from configs.schema import EndpointConfig
from tests.fakes import ScriptedChat, user_says
from tests.web import ScriptedSynthesizer, assistant, serving

SCHEMA = json.loads((Path(trace_module.__file__).parent / "trace.schema.json").read_text())
LONG = " ".join(f"word{i}" for i in range(40))


def chat(*replies):
    return ScriptedChat(*replies, first_s=0.02, token_s=0.005)


async def test_a_spoken_turn_is_shown_heard_and_kept():
    parts = assistant(chat("Hello Anna."), user_says("my name is anna", 0.1, 0.4, silence=0.2))
    async with serving(parts) as site:
        page = await site.page()
        ready = await page.until("ready")
        assert (ready["state"], ready["turns"], ready["muted"]) == ("listening", [], False)
        assert (await page.until("user", final=True))["text"] == "my name is anna"
        turn = await page.until("turn")
        kinds = [message["type"] for message in page.told]
        states = [message["state"] for message in page.told if message["type"] == "state"]
        assert states[:3] == ["user speaking", "thinking", "bot speaking"]
        assert turn["words"] == ["Hello", " Anna."]
        assert turn["heard"] == "Hello Anna."
        assert sum(turn["waterfall"].values()) == pytest.approx(turn["voice_to_voice_s"])
        assert kinds.index("speaking") < kinds.index("turn")
        # two words of five speech tokens, 40 ms each
        times = [(m["token_end"], m["sample_end"]) for m in page.told if m["type"] == "timed"]
        assert times == [(1, 4800), (2, 9600)]
        assert len(page.heard[1]) == pytest.approx(0.4 * 48_000, abs=2)
        wav = await site.http.get(f"/talk/{page.session}/recording.wav")
        both, rate = soundfile.read(io.BytesIO(wav.content))
        assert (both.shape[1], rate) == (2, 24_000)
        assert np.abs(both[:, 1]).max() > 0.05
        values = (await site.http.get(f"/talk/{page.session}/trace.json")).json()
        jsonschema.validate(values, SCHEMA)
        assert [t["transcript"] for t in values["turns"]] == ["my name is anna"]
        assert (await site.http.get("/talk/another/trace.json")).status_code == 404
        await page.send(type="bye")
        assert (await page.until_closed())[0] == 1000
        await asyncio.sleep(0.05)
        assert len(site.people) == 0


async def test_speaking_over_the_reply_silences_it_and_only_what_was_heard_stays():
    script = user_says("tell me a story", 0.1, 0.3, silence=0.1) + user_says("stop", 1.6, 2.0, silence=0.1)
    model = chat(LONG, "Fine.")
    async with serving(assistant(model, script)) as site:
        page = await site.page()
        flush = await page.until("flush")
        turn = await page.until("turn", turn=1)
        await page.until("turn", turn=2)
        assert flush["reply"] == 1
        assert turn["interrupted"]
        assert 0 < len(turn["heard"]) < len("".join(turn["words"]))
        assert "".join(turn["words"]).startswith(turn["heard"])
        # what the model is told is what was heard
        assert model.asked[1][-2].content == turn["heard"].rstrip() + "..."
        await page.close()


async def test_typing_stopping_and_beginning_anew():
    model = chat(LONG, "Second.", "Third.")
    async with serving(assistant(model)) as site:
        page = await site.page()
        await page.until("ready")
        await page.send(type="say", text="  tell me a story ")
        await page.until("speaking")
        await asyncio.sleep(0.2)
        await page.send(type="stop")
        assert (await page.until("turn", turn=1))["interrupted"]
        await page.send(type="say", text="go on")
        await page.until("turn", turn=2)
        assert any("story" in message.content for message in model.asked[1])
        await page.send(type="reset")
        await page.until("cleared")
        await page.send(type="say", text="hello")
        await page.until("turn", turn=3)
        assert [message.content for message in model.asked[2] if message.role == "user"] == ["hello"]
        turns = (await site.http.get(f"/talk/{page.session}/turns.json")).json()
        assert [turn["user"] for turn in turns] == ["hello"]
        await page.close()


async def test_settings_take_effect_at_the_next_turn():
    parts = assistant(chat("One.", "Two."))
    synthesizer = parts.synthesizer
    assert isinstance(synthesizer, ScriptedSynthesizer)
    async with serving(parts) as site:
        page = await site.page()
        await page.until("ready")
        for key, value in (
            ("speed", 1.25), ("lookahead", 3), ("temperature", 0.5), ("silence_ms", 900), ("system_prompt", "Be brief."),
        ):  # fmt: skip
            await page.send(type="set", key=key, value=value)
        await page.until("settings")
        await page.send(type="set", key="voice", value="nobody")
        assert "there is no voice 'nobody'" in (await page.until("notice"))["reason"]
        await page.send(type="say", text="hello")
        await page.until("turn")
        asked = synthesizer.asked[-1]
        assert (asked["speed"], asked["lookahead"], asked["voice"]) == (1.25, 3, None)
        assert parts.chat.temperatures == [0.5]
        assert parts.chat.asked[0][0].content == "Be brief."
        assert parts.recognizer.patience[0]() == pytest.approx(900 / EndpointConfig().min_silence_ms)
        await page.send(type="set", key="speed", value=9)
        code, reason = await page.until_closed()
        assert code == 1008
        assert "between 0.5 and 2" in reason


async def test_a_voice_whose_words_were_left_out_is_told_and_made_beside_the_loop(tmp_path):
    class Watched(ScriptedSynthesizer):
        threads: ClassVar[set[str]] = set()

        def voice(self, *what):
            self.threads.add(threading.current_thread().name)
            return super().voice(*what)

        def stream(self, **how):
            self.threads.add(threading.current_thread().name)
            return super().stream(**how)

    made = assistant(chat("One."), voices=str(tmp_path))
    config = replace(made.config, tts=replace(made.config.tts, prompt_prosody=True))
    parts = replace(made, config=config, synthesizer=Watched())
    library = library_of(parts)
    candidate = Candidate(np.zeros(24_000, np.float32), (), "")
    await library.save("Anna", candidate, "misread", consent=True)
    assert (await library.preview(candidate, "Hello.", "misread")).notes == ("the text is left out.",)
    async with serving(parts) as site:
        page = await site.page()
        await page.until("ready")
        await page.send(type="set", key="voice", value="Anna")
        assert (await page.until("notice"))["reason"] == "Anna: the text is left out."
        await page.send(type="say", text="hello")
        await page.until("turn")
        await page.close()
    assert parts.synthesizer.asked[-1]["voice"].endswith("saying misread")
    assert len(parts.synthesizer.asked) == 2
    assert all(name.startswith("tts") for name in Watched.threads)


async def test_who_is_too_many_waits_and_a_closed_tab_frees_its_place():
    async with serving(assistant(chat("a", "b"), max_sessions=1)) as site:
        first = await site.page(page="one")
        await first.until("ready")
        second, third = await site.page(page="two"), await site.page(page="three")
        assert (await second.until("waiting"))["position"] == 1
        assert (await third.until("waiting"))["position"] == 2
        await second.close()
        await third.until("waiting", position=1)
        assert not [message for message in third.told if message["type"] == "ready"]
        await first.close()
        await third.until("ready")  # after reload_s
        assert len(site.people) == 1
        await third.send(type="bye")
        await third.until_closed()
        await asyncio.sleep(0.05)
        assert len(site.people) == 0


async def test_tabs_do_not_share_a_conversation():
    async with serving(assistant(chat("one", "two"))) as site:
        first = await site.page(page="one")
        await first.until("ready")
        copy = await site.page(page="two", session=first.session)  # a duplicated tab brings the session's name along
        await copy.until("ready")
        assert copy.session != first.session
        assert len(site.people) == 2
        await first.send(type="say", text="hello")
        await first.until("turn")
        assert not [message for message in copy.told if message["type"] in ("user", "turn")]
        await first.close()
        await copy.close()


async def test_a_broken_connection_goes_on_where_it_was():
    async with serving(assistant(chat(LONG))) as site:
        page = await site.page()
        await page.until("ready")
        await page.send(type="say", text="tell me a story")
        await page.until("speaking")
        await asyncio.sleep(0.5)
        session = page.session
        await page.break_off()
        await asyncio.sleep(0.3)
        received = len(page.heard[1])
        page.told.clear()
        await page.open(reply=1, received=received)
        ready = await page.until("ready")
        assert ready["session"] == session
        assert ready["turns"][0]["user"] == "tell me a story"
        task = asyncio.create_task(page._play(1))
        turn = await page.until("turn", seconds=30.0)
        assert (turn["heard"], turn["interrupted"]) == (LONG, False)
        assert len(page.heard[1]) == pytest.approx(40 * 5 * 0.04 * 48_000, abs=2)
        task.cancel()
        await page.close()


async def test_a_page_that_is_loaded_again_goes_on_without_the_running_reply():
    async with serving(assistant(chat(LONG), reload_s=3.0)) as site:
        page = await site.page(page="before")
        await page.until("ready")
        await page.send(type="say", text="tell me a story")
        await page.until("speaking")
        await asyncio.sleep(0.4)
        await page.close()
        again = await site.page(page="after", session=page.session)
        ready = await again.until("ready")
        assert ready["session"] == page.session
        turn = ready["turns"][0]
        assert turn["interrupted"]
        assert 0 < len(turn["heard"]) < len(LONG)
        await again.close()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("{", "JSON"),
        ("[1]", "object with a type"),
        ('{"type": "dance"}', "unknown message 'dance'"),
        ('{"type": "say", "text": 5}', "must be a text"),
        (json.dumps({"type": "say", "text": "x" * 501}), "at most 500"),
        ('{"type": "played", "reply": "1", "samples": 0}', "must be a number"),
        ('{"type": "played", "reply": 1, "samples": 1e400}', "must be a number"),
        ('{"type": "set", "key": "port", "value": 1}', "unknown setting 'port'"),
        (b"\x00\x00\x00", "16-bit"),
    ],
)
async def test_what_does_not_belong_ends_the_connection_with_a_reason(message, reason):
    async with serving(assistant(chat("a"))) as site:
        page = await site.page()
        await page.until("ready")
        await page.socket.send(message)
        code, told = await page.until_closed()
        assert code == 1008
        assert reason in told
        assert reason in page.told[-1]["reason"]


async def test_only_who_knows_the_password_gets_in():
    async with serving(assistant(chat("a")), auth="anna:secret") as site:
        assert (await site.http.get("/talk/x/trace.json")).status_code == 401
        wrong = httpx.BasicAuth("anna", "guess")
        assert (await site.http.get("/talk/x/trace.json", auth=wrong)).status_code == 401
        answer = await site.http.get("/talk/x/trace.json", auth=httpx.BasicAuth("anna", "secret"))
        assert answer.status_code == 404
        with pytest.raises(websockets.InvalidStatus):
            await site.page()
        cookie = answer.headers["set-cookie"].partition(";")[0]
        page = await site.page(additional_headers={"Cookie": cookie})
        await page.until("ready")
        await page.close()


async def test_no_other_site_may_talk_here():
    async with serving(assistant(chat("a"))) as site:
        with pytest.raises(websockets.InvalidStatus):
            await site.page(origin="http://evil.example")
        page = await site.page(origin=f"http://127.0.0.1:{site.port}")
        await page.until("ready")
        await page.close()
        posing = await site.http.get("/talk/x/trace.json", headers={"host": "evil.example"})
        assert posing.status_code == 421
        assert "script-src 'self'" in (await site.http.get("/talk/static/talk.js")).headers["content-security-policy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--auth", "anna"], "USER:PASSWORD"),
        (["--ssl-certfile", "missing.pem"], "belong together"),
        (["--ssl-certfile", "missing.pem", "--ssl-keyfile", "missing.pem"], "there is no such file"),
        (["--port", "70000"], "between 1 and 65535"),
        (["--max-sessions", "0"], "at least 1"),
    ],
)
def test_mistakes_on_the_command_line_are_told_in_one_line(capsys, arguments, message):
    assert main(["web", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
