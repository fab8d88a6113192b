"""The interface for programs, with scripted parts behind a real server: what a conversation tells, and in which order."""

import asyncio
import base64

import numpy as np
import pytest

from configs.schema import EndpointConfig
from llm.conversation import CUT_MARK
from tests.fakes import user_says
from tests.serve import LONG, answered, asked, chat, parts, say, serving

MANUAL = {"audio": {"input": {"turn_detection": None}}}


async def test_a_spoken_turn_is_told_in_order():
    model = chat("Hello Anna.")
    async with serving(parts(model, user_says("my name is anna", 0.1, 0.4, silence=0.2))) as site, site.program() as p:
        await p.speak(0.5)  # the turn ends at 0.6 s: a voice that just stops is followed by silence
        response = await answered(p)
        assert p.kinds() == [
            "session.created",
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.input_audio_transcription.delta",
            "conversation.item.input_audio_transcription.completed",
            "conversation.item.done",
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "response.output_audio_transcript.delta",
            "response.output_audio.delta",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
        started, stopped = p.told[1], p.told[2]
        assert (started["audio_start_ms"], stopped["audio_end_ms"]) == (100, 400)
        user = (await p.until("conversation.item.input_audio_transcription.completed"))["item_id"]
        assert {started["item_id"], stopped["item_id"], p.of("input_audio_buffer.committed")[0]["item_id"]} == {user}
        assert p.of("conversation.item.added")[1]["previous_item_id"] == user
        words = "".join(event["delta"] for event in p.of("response.output_audio_transcript.delta"))
        assert words == response["output"][0]["content"][0]["transcript"] == "Hello Anna."
        assert response["status"] == "completed"
        assert len(p.sound()) == 2 * 5 * 960  # two words of five speech tokens
        assert np.all(p.sound()[:100] == round(0.1 * 32767))
        assert asked(model) == [("user", "my name is anna")]
        assert len({event["event_id"] for event in p.told}) == len(p.told)


async def test_without_turn_detection_the_program_says_when():
    model = chat("One.", "Two.")
    async with serving(parts(model)) as site, site.program() as p:
        shown = await p.update(**MANUAL)
        assert shown["audio"]["input"]["turn_detection"] is None
        await p.speak(1.0)
        await p.send("input_audio_buffer.commit")
        completed = await p.until("conversation.item.input_audio_transcription.completed")
        assert completed["transcript"] == "the words of the recording"
        assert completed["usage"]["seconds"] == 1.0
        assert p.of("response.created") == []
        await p.send("response.create")
        assert (await answered(p))["status"] == "completed"
        await p.speak(0.05)
        await p.send("input_audio_buffer.commit", event_id="mine")
        error = (await p.until("error"))["error"]
        assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "mine")
        await p.speak(0.2)
        await p.send("input_audio_buffer.clear")
        await p.until("input_audio_buffer.cleared")
        await p.send("input_audio_buffer.commit")
        await p.until("error", count=2)
        # asking on at once, without playing the reply: it counts as heard whole
        await say(p, "and then")
        assert (await answered(p, number=2))["output"][0]["content"][0]["transcript"] == "Two."
        assert asked(model) == [("user", "the words of the recording"), ("assistant", "One."), ("user", "and then")]


async def test_noise_is_no_voice_and_every_voice_that_begins_ends():
    cough, voice = user_says("", 0.1, 0.4, silence=0.1), user_says("is it cold outside", 0.7, 1.9, silence=0.2)
    model = chat(LONG, "Yes.", token_s=0.05)
    async with serving(parts(model, cough + voice)) as site, site.program() as p:
        await p.update(syncspeech={"events": True})
        await p.speak(0.6)
        await p.until("syncspeech.state", count=2)
        assert [event["state"] for event in p.of("syncspeech.state")] == ["user speaking", "listening"]
        assert p.of("input_audio_buffer.speech_started") == []
        await p.speak(0.8)
        started = await p.until("input_audio_buffer.speech_started")
        assert started["audio_start_ms"] == 700
        await say(p, "answer this first")  # while the user speaks
        await p.until("response.created")
        await p.speak(0.8)
        await answered(p, number=2)
        voices = [event for event in p.told if "input_audio_buffer.speech_" in event["type"]]
        assert [event["type"].rpartition("_")[2] for event in voices] == ["started", "stopped"] * (len(voices) // 2)
        assert [event["item_id"] for event in voices[::2]] == [event["item_id"] for event in voices[1::2]]
        assert len(voices) == 4


async def test_a_commit_ends_a_turn_whose_end_is_looked_for_too():
    async with serving(parts(chat("Yes."), user_says("is it", 0.1, 5.0))) as site, site.program() as p:
        await p.speak(0.5)
        await p.until("input_audio_buffer.speech_started")
        await p.send("input_audio_buffer.commit")
        assert (await answered(p))["status"] == "completed"
        await p.send("input_audio_buffer.commit")
        assert (await p.until("error"))["error"]["code"] == "input_audio_buffer_commit_empty"


async def test_what_is_cleared_was_never_said():
    model = chat("Never.")
    async with serving(parts(model, user_says("forget this", 0.1, 5.0))) as site, site.program() as p:
        await p.speak(0.5)
        await p.until("input_audio_buffer.speech_started")
        await p.send("input_audio_buffer.clear")
        await p.until("input_audio_buffer.cleared")
        assert p.kinds()[-2:] == ["input_audio_buffer.speech_stopped", "input_audio_buffer.cleared"]
        await p.speak(1.0)
        await asyncio.sleep(0.3)
        assert model.asked == []


async def test_speaking_over_the_reply_cancels_it_and_only_what_was_heard_stays():
    script = user_says("tell me a story", 0.1, 0.3, silence=0.1) + user_says("stop", 1.6, 2.0, silence=0.1)
    model = chat(LONG, "Fine.", token_s=0.05)
    async with serving(parts(model, script)) as site, site.program() as p:
        for _ in range(25):
            await p.speak(0.1)
            await asyncio.sleep(0.1)
        first, second = await answered(p), await answered(p, number=2)
        assert first["status"] == "cancelled"
        assert first["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
        assert second["status"] == "completed"
        truncated = await p.until("conversation.item.truncated")
        assert truncated["item_id"] == first["output"][0]["id"]
        assert 300 < truncated["audio_end_ms"] < 1800
        heard = LONG.split()[: truncated["audio_end_ms"] // 200]
        assert asked(model) == [
            ("user", "tell me a story"), ("assistant", " ".join(heard) + CUT_MARK), ("user", "stop")
        ]  # fmt: skip


async def test_a_reply_that_may_not_be_interrupted_is_not():
    script = user_says("tell me a story", 0.1, 0.3, silence=0.1) + user_says("stop", 0.9, 1.2, silence=0.1)
    model = chat("one two three four five", token_s=0.05)
    async with serving(parts(model, script)) as site, site.program() as p:
        detection = {"type": "server_vad", "interrupt_response": False}
        shown = await p.update(audio={"input": {"turn_detection": detection}})
        assert shown["audio"]["input"]["turn_detection"]["interrupt_response"] is False
        for _ in range(16):
            await p.speak(0.1)
            await asyncio.sleep(0.1)
        assert (await answered(p))["status"] == "completed"
        assert len(p.of("input_audio_buffer.speech_started")) == 1
        assert len(model.asked) == 1


async def test_turns_can_be_found_without_being_answered():
    model = chat("Yes.")
    async with serving(parts(model, user_says("is it", 0.1, 0.3, silence=0.2))) as site, site.program() as p:
        await p.update(audio={"input": {"turn_detection": {"type": "server_vad", "create_response": False}}})
        await p.speak(0.8)
        await p.until("conversation.item.input_audio_transcription.completed")
        await asyncio.sleep(0.1)
        assert model.asked == []
        assert p.of("input_audio_buffer.speech_stopped")
        await p.send("response.create")
        await answered(p)
        assert asked(model) == [("user", "is it")]


async def test_a_response_is_cancelled_and_there_is_one_at_a_time():
    model = chat(LONG, "Second.", token_s=0.05)
    async with serving(parts(model)) as site, site.program() as p:
        await p.send("response.cancel")
        assert (await p.until("error"))["error"]["code"] == "response_cancel_not_active"
        await say(p, "tell me a story")
        await p.until("response.output_audio.delta")
        await p.send("response.create")
        assert (await p.until("error", count=2))["error"]["code"] == "conversation_already_has_active_response"
        await p.send("response.cancel", response_id="resp_other")
        assert (await p.until("error", count=3))["error"]["code"] == "response_cancel_not_active"
        await p.send("response.cancel")
        response = await answered(p)
        assert (response["status"], response["status_details"]["reason"]) == ("cancelled", "client_cancelled")
        assert model.aborted == 1
        await say(p, "go on")
        assert (await answered(p, number=2))["status"] == "completed"


@pytest.mark.parametrize("when", ["while it is made", "while it is played", "long after"])
async def test_truncating_cuts_the_conversation_to_what_was_heard(when):
    model = chat("one two three four five six", "Fine.", "Good.", token_s=0.3 if when == "while it is made" else 0.001)
    async with serving(parts(model)) as site, site.program() as p:
        await say(p, "count")
        item = (await p.until("response.output_item.added"))["item"]["id"]
        if when == "while it is made":
            await p.until("response.output_audio.delta")
        else:
            await answered(p)
        replies = 1
        if when == "long after":
            await say(p, "more")
            await answered(p, number=2)
            replies = 2
        await p.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=390)
        truncated = await p.until("conversation.item.truncated")
        assert (truncated["item_id"], truncated["audio_end_ms"]) == (item, 390)
        assert len(p.of("conversation.item.truncated")) == 1
        await say(p, "go on")
        await answered(p, number=replies + 1)
        assert asked(model)[:2] == [("user", "count"), ("assistant", "one" + CUT_MARK)]
        assert asked(model)[-1] == ("user", "go on")
        await p.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=0)
        await p.until("conversation.item.truncated", count=2)
        await p.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=10_000)
        assert "were sent" in (await p.until("error"))["error"]["message"]
        await p.send("conversation.item.truncate", item_id="item_none", content_index=0, audio_end_ms=0)
        assert (await p.until("error", count=2))["error"]["code"] == "item_not_found"


async def test_messages_of_every_kind_enter_the_conversation_and_leave_it():
    model = chat("Red.", "Blue.")
    async with serving(parts(model)) as site, site.program() as p:
        for role, kind, words in (
            ("user", "input_text", "I like red."),
            ("assistant", "output_text", "So do I."),
            ("system", "input_text", "Be brief."),
        ):
            item = {"type": "message", "id": role, "role": role, "content": [{"type": kind, "text": words}]}
            await p.send("conversation.item.create", item=item)
        sound = base64.b64encode(bytes(48_000)).decode()
        item = {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": sound}]}
        await p.send("conversation.item.create", item=item)
        await p.send("response.create", response={"instructions": "Name a colour.", "metadata": {"topic": "colours"}})
        response = await answered(p)
        assert response["metadata"] == {"topic": "colours"}
        assert model.asked[0][0].content == "Name a colour."
        said = [("user", "I like red."), ("assistant", "So do I."), ("system", "Be brief.")]
        assert asked(model) == [*said, ("user", "the words of the recording")]
        assert [e["previous_item_id"] for e in p.of("conversation.item.added")][:3] == [None, "user", "assistant"]
        await p.send("conversation.item.delete", item_id="assistant")
        await p.until("conversation.item.deleted")
        await p.send("response.create")
        await answered(p, number=2)
        assert asked(model) == [said[0], said[2], ("user", "the words of the recording"), ("assistant", "Red.")]
        assert model.asked[1][0].content != "Name a colour."


async def test_settings_are_in_effect_as_they_are_shown():
    made = parts(chat("One.", "Two."))
    async with serving(made) as site, site.program() as p:
        created = p.told[0]["session"]
        assert created["audio"]["input"]["turn_detection"]["type"] == "server_vad"
        shown = await p.update(
            instructions="Be kind to animals.",
            audio={
                "input": {
                    "format": {"type": "audio/pcm", "rate": 24000},
                    "turn_detection": {"type": "server_vad", "silence_duration_ms": 900, "threshold": 0.9},
                },
                "output": {"voice": "marin", "speed": 1.25},
            },
        )
        assert shown["instructions"] == "Be kind to animals."
        assert (shown["audio"]["output"]["voice"], shown["audio"]["output"]["speed"]) == ("marin", 1.25)
        detection = shown["audio"]["input"]["turn_detection"]
        assert (detection["silence_duration_ms"], detection["threshold"]) == (
            900,
            0.5,
        )  # the threshold is not to be set
        assert made.recognizer.patience[0]() == pytest.approx(900 / EndpointConfig().min_silence_ms)
        await p.update(audio={"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "high"}}})
        assert made.recognizer.patience[0]() < 1.0
        await say(p, "hello")
        await answered(p)
        assert made.synthesizer.asked[-1]["speed"] == 1.25
        assert made.chat.asked[0][0].content == "Be kind to animals."


async def test_replies_can_be_only_written():
    async with serving(parts(chat("One two.", "Three."))) as site, site.program() as p:
        await p.update(output_modalities=["text"])
        await say(p, "count")
        response = await answered(p)
        assert response["output"][0]["content"] == [{"type": "output_text", "text": "One two."}]
        assert "".join(event["delta"] for event in p.of("response.output_text.delta")) == "One two."
        assert len(p.sound()) == 0
        await say(p, "go on", response={"output_modalities": ["audio"]})
        response = await answered(p, number=2)
        assert response["output"][0]["content"][0]["type"] == "output_audio"
        assert len(p.sound()) == 5 * 960


async def test_our_own_events_are_for_those_who_ask_for_them():
    async with serving(parts(chat("One two.", "Three four."))) as site, site.program() as p:
        await say(p, "count")
        await answered(p)
        assert not [event for event in p.told if event["type"].startswith("syncspeech.")]
        await p.update(syncspeech={"events": True})
        await say(p, "go on")
        response = await answered(p, number=2)
        item = response["output"][0]["id"]
        timed = p.of("syncspeech.reply.timed")
        assert [(event["token_end"], event["sample_end"]) for event in timed] == [(1, 4800), (2, 9600)]
        assert {event["item_id"] for event in timed} == {item}
        # with reports of its loudspeaker the reply is over when the program says so
        await p.send("syncspeech.playback.ack", item_id=item, audio_played_ms=100)
        await asyncio.sleep(0.6)
        assert [event["item_id"] for event in p.of("syncspeech.turn.done")].count(item) == 0
        await p.send("syncspeech.playback.ack", item_id=item, audio_played_ms=400)
        done = await p.until("syncspeech.turn.done", count=2)  # the first is of the first reply
        assert (done["item_id"], done["heard"]) == (item, "Three four.")
