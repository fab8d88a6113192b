"""The bundled voice in the microphone of the bundled recogniser: the assistant does not answer itself."""

import numpy as np
import pytest

from app.assemble import build_recognizer, build_synthesizer
from app.bench.echo import Setting, heard_by_assistant, leaked, triggered
from app.bench.words import said_at_once
from asr.base import SAMPLE_RATE as CAPTURE_HZ
from audio_io.resample import resample
from configs.schema import AppConfig
from tts.base import SAMPLE_RATE

REPLY = "Let me think about that for a moment. I would take the train in any case."


@pytest.fixture(scope="module")
def recognizer():
    return build_recognizer(AppConfig())


@pytest.fixture(scope="module")
def reply():
    """A reply of the bundled voice at 16 kHz, and the silence in which its turn would end."""
    spoken = said_at_once(build_synthesizer(AppConfig()), None, 1.0, REPLY)
    return np.pad(resample(spoken, SAMPLE_RATE, CAPTURE_HZ), (0, CAPTURE_HZ)).astype(np.float32)


@pytest.mark.parametrize(("level_db", "delay_ms"), [(-10, 60), (0, 120)])
def test_its_own_voice_in_a_room_is_no_turn(recognizer, reply, level_db, delay_ms):
    heard = {}
    for cancel in (True, False):
        setting = Setting(level_db=level_db, delay_ms=delay_ms, cancel=cancel)
        heard[cancel] = triggered(recognizer, heard_by_assistant(leaked(reply, setting), reply, cancel=cancel))
    assert heard[True]["turns"] == heard[True]["voices"] == 0
    assert heard[False]["turns"] > 0  # it would be one
