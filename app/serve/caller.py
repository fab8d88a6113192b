"""One program's conversation: the session's events told as events of the Realtime API, and its side of the history."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from app.assemble import Assistant
from app.events import (
    Failed,
    Interrupted,
    ReplyText,
    ReplyTimed,
    SessionEvent,
    StateChanged,
    TurnDone,
    UserSpeaking,
    UserText,
)
from app.serve.ears import Ears
from app.serve.response import Response, Send, message_item
from app.serve.settings import Settings
from app.serve.wire import PCM_HZ, ApiError, new_id
from app.session import Session
from app.trace import TurnTrace
from app.turn_taking import State
from audio_io.browser import BrowserDevice

_MAX_ITEMS = 1000  # that can be cut or deleted; older ones are forgotten
OURS = "syncspeech."  # begins the types of our own events


@dataclass(slots=True, kw_only=True)
class Item:
    """A message of the conversation."""

    key: Any  # by what the history finds it
    trace: TurnTrace | None = None  # of a reply
    num_samples: int = 0  # of a reply's sound


class Caller:
    """The session and what has been told of it. All calls belong to one event loop."""

    def __init__(self, assistant: Assistant, settings: Settings, send: Send) -> None:
        self.id = new_id("sess")
        self.settings, self.tell = settings, send
        self.config = assistant.config
        self.choices = assistant.choices()
        self.conversation = assistant.new_conversation()
        self.device = BrowserDevice(live=False)
        self.session: Session = assistant.converse(self.device, self._notify, self.conversation, self.choices)
        self.ears = Ears(
            self.device,
            self.session,
            max_waiting_s=self.config.serve.max_waiting_s,
            nothing=lambda: self.refuse(ApiError("nobody spoke.", code="input_audio_buffer_commit_empty")),
        )
        self.items: OrderedDict[str, Item] = OrderedDict()
        self.response: Response | None = None  # whose reply is being made or played
        self.cancelled_by = "turn_detected"  # what interrupts the response
        self.truncating = False  # the program says how much was heard
        self.over = asyncio.Event()  # no response is being made or played
        self._reply = 0  # the device's number of the running reply
        self._later: list[Callable[[], None]] = []  # what enters the history after the running reply
        self._spoken = ""  # the item of the user's running turn
        self._told = self._sounding = False  # its beginning was told, and its end was not
        self._began_at = 0.0  # seconds on the device's clock
        self.device.attach(_Outlet(self), capture_hz=PCM_HZ, output_hz=PCM_HZ)

    # the program's side

    def enter(self, item: str, key: Any, role: str, content: list[dict[str, Any]], add: Callable[[], None]) -> None:
        """A message is said: after the running reply, if there is one."""
        shown = message_item(item, role, content)
        self.tell("conversation.item.added", {"previous_item_id": self.last_item, "item": shown})
        if role != "user" or content[0]["type"] != "input_audio":  # that is done when it is understood
            self.tell("conversation.item.done", {"item": shown})
        self._keep(item, Item(key=key))
        if self.response:
            self._later.append(add)
        else:
            add()

    @property
    def last_item(self) -> str | None:
        """The newest message."""
        return next(reversed(self.items), None)

    def begin_response(self, *, text_only: bool | None = None, metadata: Any = None) -> None:
        """A reply is asked for, or the end of the user's turn begins one. `text_only`: None: as set for the session."""
        settings = self.settings if text_only is None else replace(self.settings, text_only=text_only)
        self.choices.silent = settings.text_only
        self.over.clear()
        self.response = Response(self.tell, settings, previous=self.last_item, metadata=metadata)
        self._keep(self.response.item, Item(key=None))

    def heard_out(self) -> None:
        """The program has the whole response and goes on: it was heard."""
        if self.response and self.response.done:
            self.device.report(self._reply, self.response.num_samples, 0)

    def heard(self, num_samples: int) -> None:
        """The program has played so much of the running response."""
        self.device.report(self._reply, num_samples, 0)

    def refuse(self, error: ApiError, event: str | None = None) -> None:
        """Tell the program what cannot be; `event`: the event that asked for it."""
        self.tell("error", {"error": {**error.to_json(), "event_id": event}})

    def extend(self, kind: str, **values: Any) -> None:
        """Send an event of our own, if it is wanted."""
        if self.settings.extensions:
            self.tell(OURS + kind, values)

    # the session's side

    def _notify(self, event: SessionEvent) -> None:
        match event:
            case StateChanged(state=state):
                self.ears.state_changed()
                if state is State.LISTENING:
                    self._voice_over(self.device.clock.now())
                self.extend("state", state=state.value)
            case UserSpeaking(at=at):
                self._voice_over(self.device.clock.now())
                self._spoken, self._told, self._began_at = new_id("item"), False, at
            case UserText(text=text, final=False):
                self._voice_began()
                self.extend("transcription.partial", item_id=self._spoken, transcript=text)
            case UserText(turn=turn, text=text, ended_at=ended_at):
                self._voice_began()
                self._voice_over(ended_at)
                self._user_said(turn, text, max(0.0, ended_at - self._began_at))
            case ReplyText(text=text):
                self._responding().word(text)
            case ReplyTimed(token_end=tokens, sample_end=samples):
                self.extend("reply.timed", item_id=self._responding().item, token_end=tokens, sample_end=samples)
            case Failed(reason=reason):
                self._responding().error = reason
            case Interrupted(played_samples=samples):
                self._interrupted(samples)
            case TurnDone(trace=trace):
                self._turn_done(trace)

    def _voice_began(self) -> None:
        """The voice has said words.

        Not before: at this event programs silence their loudspeaker, which may still play what is over for us, and expect the
        item that it names, and of a cough there is none. No reply is stopped later for it, since only words stop one.
        """
        if not self._told:
            self._told = self._sounding = True
            began = {"audio_start_ms": max(0, round(self._began_at * 1000)), "item_id": self._spoken}
            self.tell("input_audio_buffer.speech_started", began)

    def _voice_over(self, at: float) -> None:
        if self._sounding:
            self._sounding = False
            self.tell(
                "input_audio_buffer.speech_stopped", {"audio_end_ms": max(0, round(at * 1000)), "item_id": self._spoken}
            )

    def _user_said(self, turn: int, text: str, seconds: float) -> None:
        """The user's turn is over; the session has it in the history."""
        item = self._spoken
        self.tell("input_audio_buffer.committed", {"previous_item_id": self.last_item, "item_id": item})
        added = message_item(item, "user", [{"type": "input_audio", "transcript": None}])
        self.tell("conversation.item.added", {"previous_item_id": self.last_item, "item": added})
        self._keep(item, Item(key=("user", turn)))
        self.transcribed(item, text, seconds)
        if self.session.turns.replies:
            self.begin_response()

    def transcribed(self, item: str, text: str, seconds: float) -> None:
        """Tell what was understood of a spoken message."""
        kind, where = "conversation.item.input_audio_transcription", {"item_id": item, "content_index": 0}
        if text:
            self.tell(f"{kind}.delta", {**where, "delta": text})
        usage = {"type": "duration", "seconds": round(seconds, 3)}
        self.tell(f"{kind}.completed", {**where, "transcript": text, "usage": usage})
        done = message_item(item, "user", [{"type": "input_audio", "transcript": text}])
        self.tell("conversation.item.done", {"item": done})

    def _responding(self) -> Response:
        if self.response is None:  # to a turn that the recogniser lost
            self.begin_response()
        assert self.response
        return self.response

    def speak(self, reply: int, samples: np.ndarray, *, last: bool) -> None:
        """Sound of the reply, float32 (N,) at 24 kHz."""
        response = self._responding()
        self._reply = reply
        response.audio(samples)
        if last:
            response.end("failed" if response.error else "completed")

    def _interrupted(self, samples: int) -> None:
        response = self._responding()
        response.end("cancelled", self.cancelled_by)
        if response.num_samples and not self.truncating:
            self.truncated(response.item, samples * 1000 // PCM_HZ)

    def truncated(self, item: str, audio_end_ms: int) -> None:
        """Tell that the conversation holds no more of a reply than this."""
        values = {"item_id": item, "content_index": 0, "audio_end_ms": audio_end_ms}
        self.tell("conversation.item.truncated", values)

    def _turn_done(self, trace: TurnTrace) -> None:
        response = self._responding()
        response.end("failed" if trace.error else "completed")
        item = Item(key=("assistant", trace.turn), trace=trace, num_samples=response.num_samples)
        self._keep(response.item, item)
        self.extend(
            "turn.done",
            item_id=response.item,
            heard=trace.heard,
            interrupted=trace.interrupted,
            error=trace.error,
            voice_to_voice_s=trace.voice_to_voice_s,
            waterfall=trace.waterfall,
        )
        self.response, self.cancelled_by = None, "turn_detected"
        self.choices.silent = self.settings.text_only  # the response may have had its own way
        for add in self._later:
            add()
        self._later.clear()
        self.over.set()

    def _keep(self, name: str, item: Item) -> None:
        self.items[name] = item
        while len(self.items) > _MAX_ITEMS:
            self.items.popitem(last=False)


class _Outlet:
    """The device's way to the program."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def audio(self, reply: int, start: int, samples: np.ndarray, *, last: bool) -> None:
        """See `audio_io.browser.Outlet`."""
        self._caller.speak(reply, samples, last=last)

    def duck(self, reply: int, gain: float, fade_ms: float) -> None:
        """See `audio_io.browser.Outlet`."""
        self._playback("duck", gain=gain, fade_ms=fade_ms)

    def silence(self, reply: int, fade_ms: float) -> None:
        """See `audio_io.browser.Outlet`."""
        self._playback("clear", fade_ms=fade_ms)

    def _playback(self, order: str, **values: Any) -> None:
        if self._caller.response:
            self._caller.extend(f"playback.{order}", item_id=self._caller.response.item, **values)
