"""`launch.py talk`: a live conversation by microphone and loudspeaker."""

import argparse
import asyncio
import errno
import math
import os
import signal
import sys
import time
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app import afresh
from app.about import about
from app.ask import Screen
from app.assemble import Assistant, prepare_process
from app.configuration import configuration
from app.events import Failed, SessionEvent, TurnDone
from app.live import LiveDevice
from app.session import Session
from app.trace import TurnTrace, write_json
from app.turn_taking import State
from asr import limits
from audio_io.base import AudioDevice, DeviceError, DeviceLostError
from audio_io.clock import LoopClock
from audio_io.echo import echo_control
from audio_io.file import write_wav
from audio_io.local import LocalDevice, find_device, list_devices, restart_audio
from audio_io.mute import TypedDevice
from audio_io.tape import Tape
from configs.schema import AppConfig
from llm.base import Message

if TYPE_CHECKING:
    from app.terminal import TalkScreen

RETRY_S = 2.0  # between looks for a device that has gone
TWICE_S = 2.0  # two Ctrl+C within this time leave


def run(options: argparse.Namespace) -> int:
    """Talk until the user leaves."""
    extra = [
        f"{key}={value}"
        for key, value in (
            ("audio.input_device", options.input_device),
            ("audio.output_device", options.output_device),
            ("audio.echo", options.echo),
            ("llm.system_prompt", options.system_prompt),
        )
        if value is not None
    ]
    config = configuration(options, extra)
    earlier = afresh.carried_over()
    if earlier is not None:
        wait_for_device(config, listen=not options.text)
    if not options.text:
        with open_device(config):  # a missing microphone is told before the models are loaded
            echo_control(config.audio.echo)
    if options.record:
        options.record.mkdir(parents=True, exist_ok=True)
    prepare_process(config)
    talk = Talk(config, options, earlier or [])
    try:
        asyncio.run(talk.run())
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        _silence()  # the terminal was closed: the user has left
    finally:
        if options.record:
            talk.save(options.record)
    if talk.lost is not None:
        afresh.start(talk.lost)
    return 0


def wait_for_device(config: AppConfig, *, listen: bool) -> None:
    """Return when the loudspeaker, and with `listen` the microphone, can be opened."""
    while True:
        with suppress(DeviceError), open_device(config, listen=listen):
            return
        time.sleep(RETRY_S)
        restart_audio()


def _silence() -> None:
    """Nobody reads what is printed from now on; printing must not fail."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def devices(options: argparse.Namespace) -> int:
    """`launch.py devices`: list microphones and loudspeakers, and mark those that the settings name. Raises DeviceError."""
    audio = configuration(options).audio
    found = list_devices()
    if not found:
        raise DeviceError("no sound device was found; connect one, or use files: launch.py ask QUESTION.wav.")
    microphone, loudspeaker = (
        find_device(name, kind, found) if name else None
        for name, kind in ((audio.input_device, "input"), (audio.output_device, "output"))
    )
    for device in found:
        uses = [
            f"{name}{' (default)' if default else ''}{' (configured)' if device is configured else ''}"
            for name, count, default, configured in (
                ("microphone", device.num_inputs, device.default_input, microphone),
                ("loudspeaker", device.num_outputs, device.default_output, loudspeaker),
            )
            if count
        ]
        sys.stdout.write(f"{device.id:3d}  {device.name}  {', '.join(uses)}, {device.default_hz} Hz\n")
    return 0


def open_device(config: AppConfig, *, listen: bool = True) -> LocalDevice:
    """The configured loudspeaker and, with `listen`, microphone, not yet running. Raises DeviceError."""
    audio = config.audio
    return LocalDevice(audio.input_device or None, audio.output_device or None, echo=audio.echo, listen=listen)


@dataclass
class Leaving:
    """Ctrl+C once stops the reply, twice leaves."""

    asks: bool  # at the first one without a reply; false where no keyboard could send the second
    last: float = -math.inf

    def now(self, speaking: bool) -> bool:
        """Whether this Ctrl+C means to leave."""
        before, self.last = self.last, time.monotonic()
        return self.last - before < TWICE_S or not (speaking or self.asks)


class Talk:
    """One conversation; the device may go and come back in it."""

    def __init__(self, config: AppConfig, options: argparse.Namespace, earlier: list[Message]) -> None:
        self._config, self._options, self._earlier = config, options, earlier
        self.lost: list[Message] | None = None  # what was said, where only a new process can go on
        self._tape = Tape() if options.record else None
        self.turns: list[TurnTrace] = []
        self._session: Session | None = None
        self._device: LiveDevice | None = None
        self._screen: TalkScreen | None = None
        self._plain = Screen(sys.stdout)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._leaving = Leaving(asks=sys.stdin.isatty())

    async def run(self) -> None:
        """Load, converse, leave."""
        assistant = await Assistant.load(self._config, self._plain.status)
        self._plain.status("")
        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError):
            loop.add_signal_handler(signal.SIGINT, self._interrupted)
            loop.add_signal_handler(signal.SIGTERM, self._stop.set)
            loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        try:
            with self._open_screen():
                await self._converse(assistant)
        finally:
            assistant.close()

    def save(self, folder: Path) -> None:
        """Write the recording (stereo: user left, assistant right) and the trace."""
        name = time.strftime("talk-%Y%m%d-%H%M%S")
        if self._tape:
            write_wav(folder / f"{name}.wav", self._tape.both(), 24_000)
        write_json(folder / f"{name}.json", self.turns, about(self._config))
        sys.stdout.write(f"{folder / name}.wav and .json\n")

    def _open_screen(self) -> AbstractContextManager[object]:
        if not (sys.stdout.isatty() and sys.stdin.isatty()):
            return nullcontext()
        from rich.console import Console

        from app.terminal import TalkScreen

        self._screen = TalkScreen(Console())
        self._screen.push_to_talk = self._options.push_to_talk
        self._screen.state = lambda: self._session.state if self._session else State.LISTENING
        return self._screen

    async def _converse(self, assistant: Assistant) -> None:
        """Sessions on the device, a new one when it has come back; what was said before is kept."""
        conversation = assistant.new_conversation()
        for message in self._earlier:
            if message.role == "user":
                conversation.add_user(message.content)
            else:
                conversation.add_assistant(message.content)
        weak = limits(self._config.asr)
        if weak and not self._options.text:
            self._say(weak)
        looking = False  # for a device, which is told once
        with self._read_keys():
            while not self._stop.is_set():
                try:
                    device = self._new_device()
                    with device if isinstance(device, LocalDevice) else nullcontext():
                        self._device = LiveDevice(device, self._tape)
                        self._device.open = not self._options.push_to_talk
                        if self._screen:
                            self._screen.device = self._device
                        self._session = assistant.converse(self._device, self._notify, conversation)
                        if isinstance(device, LocalDevice) and device.microphone:
                            self._say(f"listening through {device.microphone.name!r}")
                        elif looking and isinstance(device, LocalDevice):
                            self._say(f"speaking through {device.loudspeaker.name!r}")
                        looking = False
                        await self._until_stopped(self._session)
                except DeviceLostError as error:
                    self._say(f"{error} Starting afresh with what was said. Looking again every {RETRY_S:g} s.")
                    self.lost = [message for message in conversation.messages() if message.role != "system"]
                    return
                except DeviceError as error:
                    self._session = None
                    if not looking:
                        self._say(f"{error} Looking again every {RETRY_S:g} s.")
                    looking = True
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._stop.wait(), RETRY_S)
                    restart_audio()

    def _new_device(self) -> AudioDevice:
        try:
            return open_device(self._config, listen=not self._options.text)
        except DeviceError:
            if not self._options.text or self._device:  # one that was there is waited for
                raise
            return TypedDevice(LoopClock())

    async def _until_stopped(self, session: Session) -> None:
        running, stopped = asyncio.create_task(session.run()), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
                self._stop.set()
        finally:
            for task in (running, stopped):
                task.cancel()
            await asyncio.gather(running, stopped, return_exceptions=True)

    def _read_keys(self) -> AbstractContextManager[None]:
        if self._screen:
            from app.terminal import keys

            return keys(self._key)
        if self._options.text:
            self._start(self._answer_lines())
        return nullcontext()

    async def _answer_lines(self) -> None:
        """Lines of standard input, each answered to its end; then leave."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := (await reader.readline()).decode(errors="replace").strip(" \r"):
            if line.strip():
                await (await self._listening()).say(line.strip())
                await self._listening()
        self._stop.set()

    async def _listening(self) -> Session:
        """The session, once there is a device and its reply is over."""
        while self._session is None or self._session.state is not State.LISTENING:
            await asyncio.sleep(0.05)
        return self._session

    def _key(self, key: str) -> None:
        from app.terminal import LEAVE

        screen, device, session = self._screen, self._device, self._session
        if screen is None or device is None or session is None:
            return
        if key == LEAVE:
            self._stop.set()
        elif screen.typed is not None:
            self._typed(key, screen, session)
        elif (key == "m" and not screen.push_to_talk) or (key == " " and screen.push_to_talk):
            device.open = not device.open
        elif key == "s":
            self._start(session.stop_speaking())
        elif key == "t":
            screen.typed = ""
        elif key == "q":
            self._stop.set()

    def _typed(self, key: str, screen: "TalkScreen", session: Session) -> None:
        line = screen.typed or ""
        if key in "\r\n":
            screen.typed = None
            if line.strip():
                self._start(session.say(line.strip()))
        elif key == "\x1b":
            screen.typed = None
        elif key in "\x7f\b":
            screen.typed = line[:-1]
        elif key.isprintable():
            screen.typed = line + key

    def _interrupted(self) -> None:
        session = self._session
        speaking = session is not None and session.state in (State.THINKING, State.BOT_SPEAKING)
        if self._leaving.now(speaking):
            self._stop.set()
        elif session is not None and speaking:
            self._start(session.stop_speaking())
        else:  # a reply may have ended just as its listener wanted to stop it
            self._say("Ctrl+C again to leave")

    def _hung_up(self) -> None:
        _silence()
        self._stop.set()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _notify(self, event: SessionEvent) -> None:
        if isinstance(event, TurnDone) and self._options.record:
            self.turns.append(event.trace)
        if self._screen:
            if isinstance(event, Failed):
                self._screen.note(event.reason)
            self._screen.show(event)
        else:
            self._plain.show(event)

    def _say(self, text: str) -> None:
        if self._screen:
            self._screen.note(text)
        else:
            sys.stderr.write(f"{text}\n")
