"""Several conversations share the threads that speak: in virtual time with stand-ins, and with the bundled voice."""

import asyncio

import numpy as np
import pytest

import tts
from app.bench.simulate import Delays, SimulatedChat, SimulatedSynthesizer, TimedWorker
from app.events import TurnDone, UserText
from app.reply import SessionOptions
from app.say import spoken
from app.session import Session
from app.worker import Worker
from audio_io.clock import LoopClock
from audio_io.file_device import FileDevice
from configs.schema import RuntimeConfig, TtsConfig
from llm.conversation import Conversation
from tests import virtual_time
from tests.fakes import InlineWorker, ScriptedRecognition, silence, user_says
from tts.base import SAMPLE_RATE, PcmChunk

OPTIONS = SessionOptions(
    max_ahead_s=30.0,
    flush_fade_ms=5.0,
    duck_gain=0.2,
    duck_fade_ms=20.0,
    backchannel=frozenset(),
    first_token_timeout_s=50.0,
    speculation="none",
)


def costs(step_ms, chunk_ms):
    """A voice whose steps (0.2 s of sound) and chunks (0.4 s) take so long; its first chunk needs three steps."""
    return Delays(
        llm_first_token_ms=1, llm_token_ms=1, speech_tokens=5,
        text_to_token_ms=step_ms, decoder_ms=chunk_ms, vocoder_ms=0, leading_silence_ms=0,
    )  # fmt: skip


class InTurn(TimedWorker):
    """As if nobody knew who runs dry first."""

    async def run_within(self, slack_s, call):
        return await super().run_within(0.0, call)


async def converse(begins, words, worker, delays):
    """A question from second `begins` on and its reply of so many words; the trace, and what was heard."""
    await asyncio.sleep(begins)
    traces, open_turns = [], []

    def notify(event):
        if isinstance(event, UserText) and event.final:
            open_turns.append(event.turn)
        if isinstance(event, TurnDone):
            open_turns.pop()
            traces.append(event.trace)

    device = FileDevice(LoopClock(), [silence(1.0)], patience_s=1.0)
    device.waiting_for_reply = lambda: bool(open_turns)
    voice = SimulatedSynthesizer(delays)
    session = Session(
        device=device,
        recognition=ScriptedRecognition(user_says("tell me", 0.1, 0.5, silence=0.2)),
        chat=SimulatedChat(delays, voice.tokenize(" ".join(["word"] * words)), voice.vocabulary_id),
        new_speech=voice.stream,
        conversation=Conversation(system_prompt="", max_tokens=500, count_tokens=len),
        asr_worker=InlineWorker(),
        tts_worker=worker,
        options=OPTIONS,
        notify=notify,
    )
    await session.run()
    (trace,) = traces
    return trace, device.answer()


def at_once(people, delays, kind=TimedWorker, num_threads=1):
    """Everybody's trace and sound; people: (second of the question, words of the reply)."""

    async def main():
        worker = kind("tts", num_threads=num_threads)
        held = await asyncio.gather(*(converse(*person, worker, delays) for person in people))
        worker.close()
        return held

    return virtual_time.run(main())


def underruns(held):
    return [trace.underruns for trace, _ in held]


def test_a_new_reply_does_not_wait_for_those_that_are_seconds_ahead():
    delays = costs(25, 50)
    people = [(0.0, 60), (0.1, 60), (0.2, 60), (3.0, 5)]  # when the last one asks, the others have sound in hand
    ((alone, _),) = at_once([(0.0, 5)], delays)
    *others, (shared, _) = at_once(people, delays)
    # between each of the four steps to its first chunk at most one of another's
    assert shared.voice_to_voice_s < alone.voice_to_voice_s + 0.2
    assert underruns(others) == [0, 0, 0]
    *_, (waited, _) = at_once(people, delays, InTurn)
    assert waited.voice_to_voice_s > alone.voice_to_voice_s + 0.35


def test_a_reply_that_is_ahead_does_not_let_another_run_dry():
    delays = costs(40, 80)  # 0.4 s of computing per second of sound: too much for three at once
    people = [(0.0, 60), (3.0, 15), (3.1, 15)]
    assert underruns(at_once(people, delays)) == [0, 0, 0]
    assert sum(underruns(at_once(people, delays, InTurn))) > 0


def test_what_is_too_much_for_one_thread_two_play_without_a_gap():
    delays = costs(40, 80)
    people = [(0.15 * person, 30) for person in range(4)]
    one, two = (at_once(people, delays, num_threads=count) for count in (1, 2))
    assert sum(underruns(one)) > 0
    assert underruns(two) == [0, 0, 0, 0]
    for (trace, heard), (same, same_heard) in zip(one, two, strict=True):
        assert (trace.reply, trace.heard) == (same.reply, same.heard)
        np.testing.assert_array_equal(heard, same_heard)


def test_a_text_that_is_spoken_by_itself_gives_way_as_if_it_were_played():
    delays = costs(25, 50)

    async def main():
        worker, voice = TimedWorker("tts"), SimulatedSynthesizer(delays)

        async def speak():
            stream = voice.stream()
            for index in range(100):
                stream.push(index, "word")
            stream.finish()
            return np.concatenate([chunk.samples async for chunk in spoken(stream, worker)])

        speaking = [asyncio.create_task(speak()) for _ in range(3)]
        trace, _ = await converse(3.0, 5, worker, delays)
        assert not any(task.done() for task in speaking)
        assert [len(sound) for sound in await asyncio.gather(*speaking)] == [20 * SAMPLE_RATE] * 3
        worker.close()
        return trace

    ((alone, _),) = at_once([(0.0, 5)], delays)
    assert virtual_time.run(main()).voice_to_voice_s < alone.voice_to_voice_s + 0.2


@pytest.fixture(scope="module")
def voice():
    return tts.build(TtsConfig(), RuntimeConfig(device="cpu"))


def test_the_voice_says_the_same_on_two_threads_at_once_as_on_one(voice):
    texts = ("Two and three is five.", "Hello Anna.", "It is 7 o'clock.")

    async def speak(worker, text):
        stream = await worker.run(voice.stream, share_ids=False)
        stream.push(0, text)
        stream.finish()
        chunks = []
        while not stream.done:
            made = await worker.run(stream.step)
            chunks += [made.samples] if isinstance(made, PcmChunk) else []
        return np.concatenate(chunks)

    async def main():
        one, two = Worker("one"), Worker("two", num_threads=2)
        before = [await speak(one, text) for text in texts]
        together = await asyncio.gather(*(speak(two, text) for text in texts))
        one.close()
        two.close()
        return before, together

    for alone, shared in zip(*asyncio.run(main()), strict=True):
        assert len(alone) > SAMPLE_RATE / 4
        np.testing.assert_array_equal(alone, shared)
