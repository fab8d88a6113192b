"""A loudspeaker that dies while a reply is queued: told in one line, waited for, and gone on with. PortAudio is scripted."""

import argparse
import asyncio
import os
import sys
import types

import numpy as np
import pytest

from app import cli
from app import talk as module
from app.talk import Talk
from configs.schema import AppConfig
from tests.fakes import ScriptedChat
from tests.portaudio import PortAudio, Stream
from tests.web import assistant

NAME = "a card"


class OneLoudspeaker(PortAudio):
    """The first time it is opened it takes some sound and dies, then is missing, then is there again."""

    default = types.SimpleNamespace(device=(-1, 0))

    def __init__(self):
        super().__init__()
        self.opened = self.missing = self.heard = 0
        portaudio = self

        class Loudspeaker(Stream):
            def __init__(self, kind, **options):
                super().__init__(kind, **options)
                self._left = 5 if portaudio.opened == 0 else 10**6
                portaudio.opened += 1

            def start(self):
                self._loop = asyncio.get_running_loop()
                self._timer = self._loop.call_later(0.02, self._play)

            def _play(self):
                out = np.zeros(self.options["blocksize"], np.float32)
                self.call(out)
                portaudio.heard += int(out.any())
                self._left -= 1
                portaudio.missing = 2
                if self._left:
                    self._timer = self._loop.call_later(0.02, self._play)

            def close(self):
                self._timer.cancel()

        self._StreamBase = Loudspeaker

    def query_devices(self, number=None):
        device = {"name": NAME, "max_input_channels": 0, "max_output_channels": 2, "default_samplerate": 24_000.0}
        if number is not None:
            return {**device, "hostapi": 0}
        if self.opened == 1 and self.missing:
            self.missing -= 1
            return []
        return [device]

    def _terminate(self): ...

    def _initialize(self): ...


@pytest.fixture
def portaudio(monkeypatch):
    made = OneLoudspeaker()
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


class TwoCards(PortAudio):
    """Two devices, the second with a loudspeaker only."""

    def query_devices(self, number=None):
        common = {"max_output_channels": 2, "default_samplerate": 48_000.0}
        return [
            {**common, "name": "card", "max_input_channels": 1},
            {**common, "name": "speaker", "max_input_channels": 0},
        ]


def test_the_list_of_devices_marks_what_is_default_and_what_is_configured(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sounddevice", TwoCards())
    assert cli.main(["devices"]) == 0
    plain = ["  0  card  microphone (default), loudspeaker (default), 48000 Hz", "  1  speaker  loudspeaker, 48000 Hz"]
    assert capsys.readouterr().out.splitlines() == plain
    settings = ["--set", "audio.input_device=card", "--set", 'audio.output_device="1"']
    assert cli.main(["devices", *settings]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "  0  card  microphone (default) (configured), loudspeaker (default), 48000 Hz",
        "  1  speaker  loudspeaker (configured), 48000 Hz",
    ]
    assert cli.main(["devices", "--set", "audio.input_device=radio"]) == 1
    assert capsys.readouterr().err == "devices: no microphone 'radio'; there are: 0 'card'.\n"
