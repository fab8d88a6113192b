"""Echo control, the microphone's switch, the tape, the terminal's drawing."""

import argparse
import asyncio
import io
import sys
import time

import numpy as np
import pytest
from rich.console import Console

from app.ask import SAMPLE_QUESTION
from app.events import BotSpeaking, ReplyText, TurnDone, UserSpeaking, UserText
from app.live import LiveDevice
from app.talk import Leaving, Talk
from app.terminal import TalkScreen
from app.trace import TurnTrace
from app.turn_taking import State
from audio_io.base import CAPTURE_HZ, FRAME_SAMPLES, PLAYBACK_HZ
from audio_io.clock import LoopClock
from audio_io.echo import HalfDuplex, Reference, echo_control
from audio_io.file import read_audio
from audio_io.file_device import FileDevice
from audio_io.mute import TypedDevice
from audio_io.tape import Tape
from configs.schema import AppConfig
from tests import virtual_time


def speech(seconds: float) -> np.ndarray:
    """The sample question again and again."""
    return np.resize(read_audio(SAMPLE_QUESTION, CAPTURE_HZ).samples, round(seconds * CAPTURE_HZ)).astype(np.float32)


def cleaned(kind: str, near: np.ndarray, far: np.ndarray) -> np.ndarray:
    control = echo_control(kind)
    frames = range(0, len(near) - FRAME_SAMPLES + 1, FRAME_SAMPLES)
    return np.concatenate([control.process(near[i : i + FRAME_SAMPLES], far[i : i + FRAME_SAMPLES]) for i in frames])


def power_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples)) + 1e-12))


@pytest.mark.parametrize("delay_ms", [10, 60, 120])
@pytest.mark.parametrize("leak", [0.03, 0.3])
def test_the_assistants_own_voice_is_taken_out_of_the_microphone(delay_ms, leak):
    far = speech(6.0)
    tail = np.exp(-np.arange(2400) / 500) * np.random.default_rng(2).standard_normal(2400)
    room = np.concatenate([np.zeros(delay_ms * 16), [1.0], 0.5 * tail / np.linalg.norm(tail)])
    near = np.convolve(far, leak * room)[: len(far)].astype(np.float32)
    out = cleaned("webrtc", near, far)
    assert power_db(near[: 2 * CAPTURE_HZ]) - power_db(out[: 2 * CAPTURE_HZ]) > 20
    assert power_db(near[3 * CAPTURE_HZ :]) - power_db(out[3 * CAPTURE_HZ :]) > 35


def test_the_canceller_is_deaf_until_it_has_heard_its_own_voice_for_a_while():
    near = speech(6.0)  # no echo at all
    far = 0.1 * np.random.default_rng(0).standard_normal(len(near)).astype(np.float32)
    out = cleaned("webrtc", near, far)
    assert not out[: round(1.4 * CAPTURE_HZ)].any()
    assert power_db(out[2 * CAPTURE_HZ :]) > power_db(near[2 * CAPTURE_HZ :]) - 30


def test_the_users_voice_comes_through():
    near = speech(4.0)
    out = cleaned("webrtc", near, np.zeros_like(near))
    assert abs(power_db(out[CAPTURE_HZ:]) - power_db(near[CAPTURE_HZ:])) < 3


def test_half_duplex_is_deaf_while_the_loudspeaker_plays_and_a_moment_after():
    control, near = HalfDuplex(), np.full(FRAME_SAMPLES, 0.5, np.float32)
    loud, quiet = np.full(FRAME_SAMPLES, 0.1, np.float32), np.zeros(FRAME_SAMPLES, np.float32)
    assert control.process(near, quiet).any()
    assert not control.process(near, loud).any()
    heard = [bool(control.process(near, quiet).any()) for _ in range(20)]
    assert heard == [False] * 13 + [True] * 7  # 250 ms


def test_the_reference_gives_silence_where_nothing_was_played_and_never_runs_away():
    reference = Reference()
    assert not reference.frame().any()
    reference.push(np.ones(100, np.float32))
    assert reference.frame().sum() == 100
    reference.push(np.arange(CAPTURE_HZ, dtype=np.float32))
    assert reference.frame()[-1] == CAPTURE_HZ - 1


def test_a_switched_off_microphone_hears_nothing_and_both_sides_are_on_the_tape():
    async def main() -> None:
        tape = Tape()
        device = LiveDevice(FileDevice(LoopClock(), [np.full(CAPTURE_HZ, 0.25, np.float32)], patience_s=0.0), tape)
        frames = device.frames()
        first = await anext(frames)
        assert first.samples.any()
        assert device.input_level == pytest.approx(0.25)
        device.open = False
        assert not (await anext(frames)).samples.any()
        assert device.input_level == 0.0
        device.play(np.full(PLAYBACK_HZ, 0.5, np.float32), last=False)
        assert device.output_level == pytest.approx(0.5)
        await asyncio.sleep(0.25)
        report = device.flush(0.0)
        assert report.played_samples == pytest.approx(PLAYBACK_HZ // 4, abs=2)
        both = tape.both()
        assert both[100:400, 0] == pytest.approx(np.full(300, 0.25), abs=0.02)
        began = 2 * FRAME_SAMPLES * PLAYBACK_HZ // CAPTURE_HZ
        assert both[began + 10 : began + PLAYBACK_HZ // 4 - 10, 1] == pytest.approx(0.5, abs=1e-3)
        assert not both[began + PLAYBACK_HZ // 4 + 10 :, 1].any()

    virtual_time.run(main())


def test_a_ducked_reply_is_on_the_tape_as_it_sounded():
    async def main() -> None:
        tape = Tape()
        device = LiveDevice(FileDevice(LoopClock(), [], patience_s=0.0), tape)
        device.play(np.full(PLAYBACK_HZ, 0.5, np.float32), last=True)
        await asyncio.sleep(0.5)
        device.duck(0.2, 20.0)
        await device.drained()
        device.play(np.full(1_000, 0.5, np.float32), last=True)
        heard = tape.both()[:, 1]
        assert heard[:12_000] == pytest.approx(0.5, abs=1e-3)
        assert heard[12_481:PLAYBACK_HZ] == pytest.approx(0.1, abs=1e-3)
        assert heard[PLAYBACK_HZ:] == pytest.approx(0.5, abs=1e-3)

    virtual_time.run(main())


def test_typing_needs_no_sound_device():
    async def main() -> None:
        device = TypedDevice(LoopClock())
        assert device.play(np.zeros(PLAYBACK_HZ, np.float32), last=False) == 0.0
        assert device.play(np.zeros(PLAYBACK_HZ, np.float32), last=True) == 1.0
        await asyncio.sleep(0.5)
        assert device.played_samples == PLAYBACK_HZ // 2
        await device.drained()
        assert device.clock.now() == pytest.approx(2.0)
        device.play(np.zeros(PLAYBACK_HZ, np.float32), last=True)
        await asyncio.sleep(0.25)
        assert device.flush(5.0).played_samples == PLAYBACK_HZ // 4
        await device.drained()
        assert device.clock.now() == pytest.approx(2.25)

    virtual_time.run(main())


def test_the_terminal_shows_words_as_they_are_spoken_and_dims_the_unheard():
    out = io.StringIO()
    screen = TalkScreen(Console(file=out, force_terminal=True, width=90, color_system="standard"))
    screen.state = lambda: State.BOT_SPEAKING
    screen.show(UserSpeaking(turn=1))
    screen.show(UserText(turn=1, text="tell me", final=False))
    console = Console(file=io.StringIO(), width=90)

    def drawn() -> str:
        with console.capture() as captured:
            console.print(screen._draw())
        return captured.get()

    assert "tell me …" in drawn()
    screen.show(UserText(turn=1, text="tell me a story", final=True))
    for word in ("Once", " upon", " a", " time"):
        screen.show(ReplyText(turn=1, text=word))
    screen.show(BotSpeaking(turn=1, token_end=2))
    assert "Once upon a time" in drawn()
    assert "speaking" in drawn()
    trace = TurnTrace(
        turn=1, transcript="tell me a story", reply="Once upon a time", heard="Once upon", interrupted=True
    )
    screen.show(TurnDone(turn=1, trace=trace))
    assert "\x1b[2m a time" in out.getvalue()
    assert "Once" not in drawn()


@pytest.mark.parametrize(
    ("asks", "presses", "leaves"),
    [
        (True, [(9.0, False), (11.5, False), (13.4, False)], [False, False, True]),
        (True, [(9.0, True), (10.9, False)], [False, True]),  # of which the first has stopped the reply
        (True, [(9.0, True), (11.1, True)], [False, False]),
        (True, [(0.0, False)], [False]),
        (False, [(9.0, True), (11.1, False)], [False, True]),
    ],
)
def test_control_c_leaves_at_the_second_within_two_seconds(monkeypatch, asks, presses, leaves):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    leaving, found = Leaving(asks), []
    for now[0], speaking in presses:
        found.append(leaving.now(speaking))
    assert found == leaves


@pytest.mark.parametrize(("keyboard", "told"), [(True, "Ctrl+C again to leave\n"), (False, "")])
def test_the_first_control_c_without_a_reply_leaves_only_where_no_keyboard_is(monkeypatch, capsys, keyboard, told):
    monkeypatch.setattr(sys, "stdin", argparse.Namespace(isatty=lambda: keyboard))
    talk = Talk(AppConfig(), argparse.Namespace(record=None), [])
    talk._interrupted()
    assert (capsys.readouterr().err, talk._stop.is_set()) == (told, not keyboard)
    talk._interrupted()
    assert talk._stop.is_set()
