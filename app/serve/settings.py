"""What a program may set in its conversation, read from `session.update`.

Fields of OpenAI's that change nothing here are taken without complaint; what is in effect stands in `session.updated`.
"""

from dataclasses import dataclass, replace
from typing import Any

from app.serve.wire import MODEL, PCM_HZ, ApiError, only, take
from configs.schema import AppConfig

SPEEDS = (0.5, 2.0)
_SILENCES_MS = (100, 5000)
_EAGERNESS = {"low": 2.0, "medium": 1.0, "auto": 1.0, "high": 0.6}  # by what the silence that ends a turn is multiplied
_SESSION = (
    "type object id model output_modalities instructions audio include tools tool_choice max_output_tokens tracing "
    "truncation prompt reasoning parallel_tool_calls expires_at syncspeech"
).split()
_INPUT = ("format", "noise_reduction", "transcription", "turn_detection")
_DETECTION = (
    "type threshold prefix_padding_ms silence_duration_ms create_response interrupt_response idle_timeout_ms eagerness"
).split()


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How the end of a turn is found."""

    kind: str = "server_vad"
    silence_ms: int | None = None  # None: as configured, by the words before it
    eagerness: str = "auto"
    create_response: bool = True
    interrupt_response: bool = True

    def patience(self, config: AppConfig) -> float:
        """By what the configured silence is multiplied."""
        if self.kind == "semantic_vad":
            return _EAGERNESS[self.eagerness]
        return 1.0 if self.silence_ms is None else self.silence_ms / config.asr.endpoint.min_silence_ms


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is in effect."""

    instructions: str
    voice: str
    speed: float
    text_only: bool = False
    detection: Detection | None = Detection()  # None: the program says when a turn is over
    extensions: bool = False  # it wants our own events too

    def to_json(self, name: str, config: AppConfig) -> dict[str, Any]:
        """The session as the program sees it."""
        sound = {"type": "audio/pcm", "rate": PCM_HZ}
        return {
            "id": name,
            "object": "realtime.session",
            "type": "realtime",
            "model": MODEL,
            "output_modalities": ["text" if self.text_only else "audio"],
            "instructions": self.instructions,
            "max_output_tokens": config.llm.max_reply_tokens,
            "tools": [],
            "tool_choice": "none",
            "audio": {
                "input": {
                    "format": sound,
                    "transcription": {"model": MODEL},
                    "noise_reduction": None,
                    "turn_detection": self.detection and _shown(self.detection, config),
                },
                "output": {"format": sound, "voice": self.voice, "speed": self.speed},
            },
            "syncspeech": {"events": self.extensions},
        }


def _shown(detection: Detection, config: AppConfig) -> dict[str, Any]:
    values = {
        "type": detection.kind,
        "create_response": detection.create_response,
        "interrupt_response": detection.interrupt_response,
    }
    if detection.kind == "semantic_vad":
        return {**values, "eagerness": detection.eagerness}
    return {
        **values,
        "threshold": config.asr.vad_threshold,
        "prefix_padding_ms": config.asr.pre_roll_ms,
        "silence_duration_ms": detection.silence_ms or config.asr.endpoint.min_silence_ms,
    }


def updated(settings: Settings, session: dict[str, Any], config: AppConfig) -> Settings:
    """The settings after `session.update`; all of it or nothing. Raises ApiError."""
    only(session, _SESSION, "session")
    if take(session, "type", str, "session", "realtime") != "realtime":
        raise ApiError("session.type must be realtime.", param="session.type")
    if take(session, "tools", list, "session", []):
        raise ApiError("session.tools: this assistant calls no tools.", code="not_supported", param="session.tools")
    audio = take(session, "audio", dict, "session", {})
    only(audio, ("input", "output"), "session.audio")
    heard = take(audio, "input", dict, "session.audio", {})
    only(heard, _INPUT, "session.audio.input")
    check_format(heard, "session.audio.input")
    detection = settings.detection
    if "turn_detection" in heard:
        detection = _detection(heard["turn_detection"])
    ours = take(session, "syncspeech", dict, "session", {})
    only(ours, ("events",), "session.syncspeech")
    return replace(
        settings,
        instructions=text(session, "instructions", "session", config, settings.instructions),
        text_only=modality(session, "session", settings.text_only),
        detection=detection,
        extensions=take(ours, "events", bool, "session.syncspeech", settings.extensions),
        **_spoken(take(audio, "output", dict, "session.audio", {}), settings),
    )


def _spoken(output: dict[str, Any], settings: Settings) -> dict[str, Any]:
    where = "session.audio.output"
    only(output, ("format", "voice", "speed"), where)
    check_format(output, where)
    speed = float(take(output, "speed", float, where, settings.speed))
    if not SPEEDS[0] <= speed <= SPEEDS[1]:
        raise ApiError(f"{where}.speed must be between {SPEEDS[0]:g} and {SPEEDS[1]:g}.", param=f"{where}.speed")
    return {"voice": voice_name(output, where, settings.voice), "speed": speed}


def _detection(value: Any) -> Detection | None:
    where = "session.audio.input.turn_detection"
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ApiError(f"{where} must be an object or null.", code="invalid_type", param=where)
    only(value, _DETECTION, where)
    kind = take(value, "type", str, where)
    eagerness = take(value, "eagerness", str, where, "auto")
    silence = take(value, "silence_duration_ms", int, where, None)
    if kind not in ("server_vad", "semantic_vad"):
        raise ApiError(f"{where}.type must be server_vad or semantic_vad.", param=f"{where}.type")
    if eagerness not in _EAGERNESS:
        raise ApiError(f"{where}.eagerness must be {', '.join(_EAGERNESS)}.", param=f"{where}.eagerness")
    if silence is not None and not _SILENCES_MS[0] <= silence <= _SILENCES_MS[1]:
        limits = f"between {_SILENCES_MS[0]} and {_SILENCES_MS[1]}"
        raise ApiError(f"{where}.silence_duration_ms must be {limits}.", param=f"{where}.silence_duration_ms")
    return Detection(
        kind=kind,
        silence_ms=silence,
        eagerness=eagerness,
        create_response=take(value, "create_response", bool, where, True),
        interrupt_response=take(value, "interrupt_response", bool, where, True),
    )


def check_format(values: dict[str, Any], where: str) -> None:
    """Only one format of sound is spoken here. Raises ApiError."""
    wanted = take(values, "format", dict, where, {})
    kind, rate = take(wanted, "type", str, f"{where}.format", "audio/pcm"), wanted.get("rate", PCM_HZ)
    if kind != "audio/pcm" or rate != PCM_HZ:
        raise ApiError(
            f"{where}.format must be audio/pcm at {PCM_HZ} Hz (16 bit, mono); {kind} at {rate} Hz is not spoken here.",
            code="unsupported_format",
            param=f"{where}.format",
        )


def modality(values: dict[str, Any], where: str, text_only: bool) -> bool:
    """True when replies are to be only written. Raises ApiError."""
    wanted = take(values, "output_modalities", list, where, ["text" if text_only else "audio"])
    if wanted not in (["audio"], ["text"]):
        param = f"{where}.output_modalities"
        raise ApiError(f'{param} must be ["audio"] or ["text"]; a reply with sound has its words too.', param=param)
    return bool(wanted == ["text"])


def voice_name(values: dict[str, Any], where: str, default: str) -> str:
    """The name of a voice, given as it is or as an object with an id. Raises ApiError."""
    if isinstance(values.get("voice"), dict):
        return str(take(values["voice"], "id", str, f"{where}.voice"))
    return str(take(values, "voice", str, where, default))


def text(values: dict[str, Any], key: str, where: str, config: AppConfig, default: str | None = None) -> str:
    """A text that is not too long. Raises ApiError."""
    value = take(values, key, str, where) if default is None else take(values, key, str, where, default)
    if len(value) > config.serve.max_input_chars:
        param = f"{where}.{key}" if where else key
        raise ApiError(
            f"{param} has {len(value)} characters; {config.serve.max_input_chars} are taken.",
            code="string_above_max_length",
            param=param,
        )
    return str(value)
