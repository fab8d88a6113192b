"""What goes over the wire: events and requests read strictly, sound as base64, errors as OpenAI words them."""

import base64
import binascii
import json
import secrets
from collections.abc import Iterable
from typing import Any

import numpy as np

PCM_HZ = 24_000  # of sound both ways: 16 bit, little-endian, mono
BYTES_PER_MS = PCM_HZ * 2 // 1000
MAX_EVENT_BYTES = 8 * 2**20  # what is longer gets an error; from twice that on the connection ends
MODEL = "syncspeech-assistant"
# Names that programs send to other servers: all of them are our own voice.
STOCK_VOICES = frozenset(
    "default alloy ash ballad coral echo fable onyx nova sage shimmer verse marin cedar".split()
)  # fmt: skip

_REQUIRED = object()
_KINDS = {
    str: "a text",
    dict: "an object",
    list: "a list",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


class ApiError(Exception):
    """The other side asked for what cannot be; `args[0]` says what, in one line."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "invalid_value",
        param: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.code, self.param, self.kind = code, param, kind

    def to_json(self) -> dict[str, Any]:
        """The `error` object."""
        return {"type": self.kind, "code": self.code, "message": str(self), "param": self.param}


def new_id(kind: str) -> str:
    """A name that nobody else has."""
    return f"{kind}_{secrets.token_urlsafe(15)}"


def read_event(text: str) -> dict[str, Any]:
    """An event of the other side. Raises ApiError."""
    if len(text) > MAX_EVENT_BYTES:
        raise ApiError(
            f"the event is longer than {MAX_EVENT_BYTES // 2**20} MB; send it in parts.", code="event_too_large"
        )
    event = read_object(text)
    if not isinstance(event.get("type"), str):
        raise ApiError("an event must have a type.", code="missing_required_parameter", param="type")
    return event


def read_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object. Raises ApiError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ApiError("this is not JSON.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError("this must be a JSON object.", code="invalid_json")
    return value


def take(values: dict[str, Any], key: str, kind: type, where: str = "", default: Any = _REQUIRED) -> Any:
    """A member of an object, `default` where it is missing or null. `where`: path of the object. Raises ApiError."""
    param = f"{where}.{key}" if where else key
    value = values.get(key)
    if value is None:
        if default is _REQUIRED:
            raise ApiError(f"{param} is missing.", code="missing_required_parameter", param=param)
        return default
    wanted = (int, float) if kind is float else kind
    right = isinstance(value, wanted) and (kind is bool or not isinstance(value, bool))
    if not right or (kind in (int, float) and not -1e12 < value < 1e12):
        raise ApiError(f"{param} must be {_KINDS[kind]}.", code="invalid_type", param=param)
    return value


def only(values: dict[str, Any], known: Iterable[str], where: str) -> None:
    """Nothing else may be in an object. Raises ApiError."""
    for key in values:
        if key not in known:
            raise ApiError(f"{where}.{key} is not known.", code="unknown_parameter", param=f"{where}.{key}")


def pcm_of(values: dict[str, Any], key: str, where: str = "") -> bytes:
    """Sound in base64. Raises ApiError."""
    param = f"{where}.{key}" if where else key
    try:
        pcm = base64.b64decode(take(values, key, str, where), validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(f"{param} must be base64.", param=param) from None
    if len(pcm) % 2:
        raise ApiError(f"{param} must be 16-bit samples (an even number of bytes), mono at {PCM_HZ} Hz.", param=param)
    return pcm


def samples_of(pcm: bytes) -> np.ndarray:
    """16-bit sound as float32 (N,) in [-1, 1]."""
    return np.frombuffer(pcm, "<i2").astype(np.float32) / 32768


def pcm_from(samples: np.ndarray) -> bytes:
    """Samples, float32 (N,) in [-1, 1], as 16-bit sound."""
    return np.round(np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()
