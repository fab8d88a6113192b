"""What page and server say to each other over the WebSocket.

Page -> server: binary messages are captured sound, int16 little-endian mono at the rate that `hello` named; text messages
are JSON objects with a `type`: hello, say, stop, reset, mute, set, played, pong, bye.
Server -> page: binary messages are a header (`HEADER`) and int16 samples of a reply at the rate that `hello` named; text
messages are JSON objects with a `type` (see `app.web.person` and `app.web.view`).
"""

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

HEADER = struct.Struct("<IIB3x")  # reply, position of the first sample within it, 1 for its last samples
MAX_MESSAGE_BYTES = 64 * 1024
MAX_TEXT_CHARS = 500


class ProtocolError(Exception):
    """The page sent what does not belong; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The page introduces itself."""

    page: str  # drawn anew whenever the page is loaded
    session: str | None  # a conversation to go on with
    capture_hz: int
    output_hz: int
    reply: int | None  # the reply it was playing when the connection broke
    received: int  # samples of it that it has


def hello(message: dict[str, Any]) -> Hello:
    """Read the first message of a page. Raises ProtocolError."""
    if message.get("type") != "hello":
        raise ProtocolError("the first message must be hello.")
    reply = message.get("reply")
    return Hello(
        page=text_of(message, "page"),
        session=text_of(message, "session") or None,
        capture_hz=round(number_of(message, "capture_hz")),
        output_hz=round(number_of(message, "output_hz")),
        reply=None if reply is None else round(number_of(message, "reply")),
        received=round(number_of(message, "received", 0)),
    )


def read_json(text: str) -> dict[str, Any]:
    """A text message. Raises ProtocolError."""
    try:
        message = json.loads(text)
    except ValueError:
        raise ProtocolError("a text message must be JSON.") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ProtocolError("a text message must be an object with a type.")
    return message


def number_of(message: dict[str, Any], key: str, default: float | None = None) -> float:
    """A finite number of a message. Raises ProtocolError."""
    value = message.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e12 < value < 1e12:
        raise ProtocolError(f"{message['type']}.{key} must be a number.")
    return float(value)


def text_of(message: dict[str, Any], key: str, longest: int = MAX_TEXT_CHARS) -> str:
    """A text of a message, "" when it is missing. Raises ProtocolError."""
    value = message.get(key) or ""
    if not isinstance(value, str) or len(value) > longest:
        raise ProtocolError(f"{message['type']}.{key} must be a text of at most {longest} characters.")
    return value.strip()


def samples_of(data: bytes) -> np.ndarray:
    """Captured sound as float32 (N,) in [-1, 1]. Raises ProtocolError."""
    if len(data) % 2:
        raise ProtocolError("captured sound must be 16-bit samples.")
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768


def audio_message(reply: int, start: int, samples: np.ndarray, *, last: bool) -> bytes:
    """Samples of a reply, float32 (N,), as a binary message."""
    pcm = np.round(np.clip(samples, -1.0, 1.0) * 32767).astype("<i2")
    return HEADER.pack(reply, start, last) + pcm.tobytes()
