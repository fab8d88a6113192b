"""A loudspeaker that dies while a reply is queued: told in one line, waited for, and gone on with. PortAudio is scripted."""

import argparse
import asyncio
import os
import sys
import types

import pytest

from app import talk as module
from app.talk import Talk
from configs.schema import AppConfig
from tests.fakes import ScriptedChat
from tests.web import assistant

NAME = "a card"


class PortAudio(types.SimpleNamespace):
    """One loudspeaker: the first time it is opened it takes some sound and dies, then is missing, then is there again."""

    PortAudioError = RuntimeError
    default = types.SimpleNamespace(device=(-1, 0))

    def __init__(self):
        super().__init__()
        self.opened = self.missing = self.heard = 0
        portaudio = self

        class OutputStream:
            latency, active, stopped = 0.0, True, False

            def __init__(self, *, callback, blocksize, **_):
                self._callback, self._size = callback, blocksize
                self._left = 5 if portaudio.opened == 0 else 10**6
                portaudio.opened += 1

            def start(self):
                self._loop = asyncio.get_running_loop()
                self._timer = self._loop.call_later(0.02, self._play)

            def _play(self):
                import numpy as np

                out = np.zeros((self._size, 1), np.float32)
                self._callback(out, self._size, None, None)
                portaudio.heard += int(out.any())
                self._left -= 1
                portaudio.missing = 2
                if self._left:
                    self._timer = self._loop.call_later(0.02, self._play)

            def close(self):
                self._timer.cancel()

        self.OutputStream = OutputStream

    def query_devices(self, number=None):
        device = {"name": NAME, "max_input_channels": 0, "max_output_channels": 2, "default_samplerate": 24_000.0}
        if number is not None:
            return {**device, "hostapi": 0}
        if self.opened == 1 and self.missing:
            self.missing -= 1
            return []
        return [device]

    def query_hostapis(self, number):
        return {"name": "ALSA"}

    def check_output_settings(self, **_): ...

    def _terminate(self): ...

    def _initialize(self): ...


@pytest.fixture
def portaudio(monkeypatch):
    made = PortAudio()
    monkeypatch.setitem(sys.modules, "sounddevice", made)
    monkeypatch.setattr("audio_io.local._STALLED_S", 0.4)
    monkeypatch.setattr("audio_io.local._LOOK_S", 0.05)
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    return made


def test_a_loudspeaker_that_dies_is_told_once_and_the_conversation_goes_on(portaudio, monkeypatch, capsys):
    chat = ScriptedChat("one two three four five six seven eight nine ten", "one two")
    read, write = os.pipe()
    os.write(write, b"hello\nand now\n")
    os.close(write)

    async def load(*_):
        return assistant(chat)

    monkeypatch.setattr(module.Assistant, "load", load)
    options = argparse.Namespace(text=True, record=None, push_to_talk=False)

    async def main():
        async with asyncio.timeout(60):
            await Talk(AppConfig(), options, []).run()

    with os.fdopen(read) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        asyncio.run(main())
    told = capsys.readouterr()
    lost, found = told.err.strip().splitlines()
    assert lost == f"the loudspeaker {NAME!r} takes no sound; was it unplugged? Looking again every 0.05 s."
    assert found == f"speaking through {NAME!r}"
    assert "you: and now" in told.out
    assert portaudio.opened == 2
    assert portaudio.heard > 5
