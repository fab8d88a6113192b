"""One visitor: a conversation on a far microphone and loudspeaker, what may be changed in it, and its record.

The connection may come and go; `attach` and `detach` follow it.
"""

import asyncio
import io
import json
import secrets
from collections import deque
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import soundfile

from app.about import about
from app.assemble import Assistant
from app.events import BotSpeaking, SessionEvent, StateChanged, TurnDone
from app.live import LiveDevice
from app.trace import TurnTrace
from app.turn_taking import State
from app.web.protocol import Hello, ProtocolError, audio_message, number_of, text_of
from app.web.view import View
from app.web.voices import OWN, VoiceLibrary
from audio_io.base import PLAYBACK_HZ
from audio_io.browser import BrowserDevice
from audio_io.tape import Tape
from configs.schema import AppConfig
from tts.base import VoiceError

_MAX_TRACES = 500
_MAX_PROMPT_CHARS = 2000
_MAX_ROUND_TRIP_S = 2.0

Range = tuple[float, float]
RANGES: dict[str, Range] = {
    "speed": (0.5, 2.0),
    "lookahead": (1, 8),
    "silence_ms": (150, 2000),
    "temperature": (0.0, 1.5),
}


class Line(Protocol):
    """A connection to the page. Neither call blocks."""

    def send(self, message: dict[str, Any]) -> None: ...

    def send_audio(self, data: bytes) -> None: ...


class Person:
    """A visitor and his conversation."""

    def __init__(self, assistant: Assistant, library: VoiceLibrary) -> None:
        self.id = secrets.token_urlsafe(18)
        self.page = ""  # the loaded page that is or was connected
        self._config, self._library = assistant.config, library
        self._line: Line | None = None
        self._device = BrowserDevice()
        self._tape = Tape(assistant.config.web.max_recording_s)
        self._live = LiveDevice(self._device, self._tape)
        self._view = View()
        self._traces: deque[TurnTrace] = deque(maxlen=_MAX_TRACES)
        self._turn = 0  # the turn whose reply runs
        self._told_reply = 0
        self._choices = assistant.choices()
        self._chosen: dict[str, Any] = defaults(self._config)
        self._conversation = assistant.new_conversation()
        self._session = assistant.converse(self._live, self._notify, self._conversation, self._choices)

    async def run(self) -> None:
        """Converse until `close`."""
        await self._session.run()

    def close(self) -> None:
        """Let `run` end."""
        self._device.close()

    # connection

    async def attach(self, line: Line, hello: Hello) -> None:
        """The page is there, for the first time or again. Raises DeviceError."""
        self.page, self._line, self._told_reply = hello.page, line, 0
        goes_on = self._device.attach(
            _Outlet(self, line),
            capture_hz=hello.capture_hz,
            output_hz=hello.output_hz,
            reply=hello.reply,
            received=hello.received,
        )
        if not goes_on:
            await self._session.stop_speaking()
        line.send(
            {
                "type": "ready",
                "session": self.id,
                "state": self._session.state.value,
                "muted": not self._live.open,
                "settings": self._chosen,
                "turns": self._view.snapshot(),
            }
        )

    def detach(self, line: Line) -> None:
        """The connection is gone."""
        if self._line is line:
            self._line = None
            self._device.detach()

    @property
    def attached(self) -> bool:
        """True while a page is connected."""
        return self._line is not None

    def hear(self, samples: np.ndarray) -> None:
        """Captured sound, float32 (N,). Raises DeviceError."""
        self._device.capture(samples)

    async def do(self, message: dict[str, Any]) -> None:
        """Obey a message of the page. Raises ProtocolError; VoiceError for a voice that is gone."""
        match message["type"]:
            case "played":
                self._device.output_latency_s = min(1.0, max(0.0, number_of(message, "latency_s", 0.0)))
                self._device.report(
                    round(number_of(message, "reply")),
                    round(number_of(message, "samples")),
                    round(number_of(message, "underruns", 0)),
                )
            case "pong":
                trip = asyncio.get_running_loop().time() - number_of(message, "at")
                self._device.round_trip_s = min(_MAX_ROUND_TRIP_S, max(0.0, trip))
            case "say":
                text = text_of(message, "text")
                if text:
                    await self._session.say(text)
            case "stop":
                await self._session.stop_speaking()
            case "mute":
                self._live.open = not message.get("on")
            case "reset":
                await self._session.stop_speaking()
                self._conversation.clear()
                self._view.clear()
                self._tell({"type": "cleared"})
            case "set":
                await self._choose(text_of(message, "key"), message)
            case kind:
                raise ProtocolError(f"unknown message {kind!r}.")

    async def _choose(self, key: str, message: dict[str, Any]) -> None:
        """Change a setting; it takes effect at the next turn."""
        value: Any
        if key == "voice":
            value = text_of(message, "value")
            try:
                voice = await self._library.prepared(value)
            except VoiceError as error:
                self._tell({"type": "notice", "reason": str(error)})
                return
            self._choices.voice = voice
            if value != OWN and voice.notes:
                self._tell({"type": "notice", "reason": f"{value}: {' '.join(voice.notes)}"})
        elif key == "system_prompt":
            value = text_of(message, "value", _MAX_PROMPT_CHARS)
            self._conversation.instruct(value)
        elif key in RANGES:
            value = number_of(message, "value")
            low, high = RANGES[key]
            if not low <= value <= high:
                raise ProtocolError(f"{key} must be between {low:g} and {high:g}.")
            if key == "silence_ms":
                self._choices.patience = value / self._config.asr.endpoint.min_silence_ms
            else:
                setattr(self._choices, key, int(value) if key == "lookahead" else value)
        else:
            raise ProtocolError(f"unknown setting {key!r}.")
        self._chosen[key] = value
        self._tell({"type": "settings", "settings": self._chosen})

    # the session's events

    def _notify(self, event: SessionEvent) -> None:
        if isinstance(event, StateChanged):
            if event.state is State.LISTENING and self._view.dismiss():
                self._tell({"type": "dismissed"})
            self._tell({"type": "state", "state": event.state.value})
            return
        if isinstance(event, TurnDone):
            self._traces.append(event.trace)
        if not isinstance(event, BotSpeaking):
            self._turn = event.turn
        message = self._view.show(event)
        if message:
            self._tell(message)

    def reply_begins(self, reply: int) -> None:
        """Tell the page which turn the samples of a reply belong to."""
        if reply != self._told_reply:
            self._told_reply = reply
            self._tell({"type": "speaking", "turn": self._turn, "reply": reply})

    def _tell(self, message: dict[str, Any]) -> None:
        if self._line:
            self._line.send(message)

    def failed(self, reason: str) -> None:
        """The conversation cannot go on."""
        self._tell({"type": "over", "reason": reason})

    # the record

    def snapshot(self) -> list[dict[str, Any]]:
        """The turns so far."""
        return self._view.snapshot()

    def recording(self) -> bytes:
        """Both sides as a stereo WAV file: left the user, right the assistant."""
        out = io.BytesIO()
        soundfile.write(out, self._tape.both(), PLAYBACK_HZ, format="WAV", subtype="PCM_16")
        return out.getvalue()

    def trace(self) -> str:
        """The turns' time stamps as TRACE.json."""
        config = replace(self._config, web=type(self._config.web)())  # nothing of this machine's folders
        values = {"about": about(config), "turns": [trace.to_json() for trace in self._traces]}
        return json.dumps(values, indent=1) + "\n"


class _Outlet:
    """The device's way to the page."""

    def __init__(self, person: Person, line: Line) -> None:
        self._person, self._line = person, line

    def audio(self, reply: int, start: int, samples: np.ndarray, *, last: bool) -> None:
        """See `audio_io.browser.Outlet`."""
        self._person.reply_begins(reply)
        self._line.send_audio(audio_message(reply, start, samples, last=last))

    def duck(self, reply: int, gain: float, fade_ms: float) -> None:
        """See `audio_io.browser.Outlet`."""
        self._line.send({"type": "duck", "reply": reply, "gain": gain, "fade_ms": fade_ms})

    def silence(self, reply: int, fade_ms: float) -> None:
        """See `audio_io.browser.Outlet`."""
        self._line.send({"type": "flush", "reply": reply, "fade_ms": fade_ms})


def defaults(config: AppConfig) -> dict[str, Any]:
    """The settings of the page before anything is changed."""
    return {
        "voice": OWN,
        "speed": config.tts.speed,
        "lookahead": config.tts.lookahead,
        "silence_ms": config.asr.endpoint.min_silence_ms,
        "temperature": config.llm.temperature,
        "system_prompt": config.llm.system_prompt,
    }
