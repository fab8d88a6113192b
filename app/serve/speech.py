"""Speech from text and text from speech, one request each."""

import asyncio
import os
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import soundfile
from fastapi import Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.datastructures import UploadFile
from starlette.types import Receive, Scope, Send

from app.assemble import Assistant
from app.say import spoken
from app.serve.commands import voice_named
from app.serve.settings import SPEEDS, text, voice_name
from app.serve.wire import PCM_HZ, ApiError, pcm_from, read_object, take
from app.transcribe import utterances
from app.web.voices import VoiceLibrary
from asr.base import SAMPLE_RATE as CAPTURE_HZ
from audio_io.base import AudioFileError
from audio_io.file import read_audio

_FORMATS = {"wav": "audio/wav", "pcm": "audio/pcm"}
_BODY_BYTES = 2**20
_UNKNOWN_LENGTH = 0xFFFFFFFF  # in the header of a WAV file that is still being made
_WRITTEN = ("json", "text", "verbose_json")


class _Held(StreamingResponse):
    """Keeps something until everything is sent or the other side is gone."""

    held: AsyncExitStack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.held:
            await super().__call__(scope, receive, send)


async def speak(
    request: Request, assistant: Assistant, voices: VoiceLibrary, held: AsyncExitStack
) -> StreamingResponse:
    """A text as sound, sent while it is being made; what is `held` is kept until then. Raises ApiError."""
    _not_longer(request, _BODY_BYTES)
    wanted = read_object(await request.body())
    words = text(wanted, "input", "", assistant.config).strip()
    kind = take(wanted, "response_format", str, default="wav")
    if kind not in _FORMATS:
        raise ApiError(f"response_format must be wav or pcm, not {kind[:20]!r}.", param="response_format")
    if take(wanted, "stream_format", str, default="audio") != "audio":
        raise ApiError("stream_format must be audio.", param="stream_format")
    speed = float(take(wanted, "speed", float, default=assistant.config.tts.speed))
    if not SPEEDS[0] <= speed <= SPEEDS[1]:
        raise ApiError(f"speed must be between {SPEEDS[0]:g} and {SPEEDS[1]:g}.", param="speed")
    voice = await voice_named(voices, voice_name(wanted, "", "default"), "voice")
    if not words:
        raise ApiError("input is empty.", param="input")
    sound = _spoken(assistant, words, voice, speed)
    first = await anext(sound, None)  # what fails at once is told as an error
    if first is None:
        raise ApiError("there is nothing to speak in input (only emoji, symbols or unknown script).", param="input")

    async def body() -> AsyncIterator[bytes]:
        if kind == "wav":
            yield wav_header()
        yield first
        async for more in sound:
            yield more

    response = _Held(body(), media_type=_FORMATS[kind], headers={"cache-control": "no-store"})
    response.held = held.pop_all()
    return response


async def _spoken(assistant: Assistant, words: str, voice: Any, speed: float) -> AsyncIterator[bytes]:
    stream = await assistant.tts_worker.run(assistant.synthesizer.stream, voice=voice, speed=speed, share_ids=False)
    stream.push(0, words)
    stream.finish()
    async for chunk in spoken(stream, assistant.tts_worker):
        if len(chunk.samples):
            yield pcm_from(chunk.samples)


def wav_header() -> bytes:
    """The head of a 16-bit mono WAV file whose length is not known yet."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, PCM_HZ, PCM_HZ * 2, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", _UNKNOWN_LENGTH, b"WAVE") + form + struct.pack("<4sI", b"data", _UNKNOWN_LENGTH)
    )


async def transcribe(request: Request, assistant: Assistant) -> Response:
    """What is said in an uploaded recording. Raises ApiError."""
    serve = assistant.config.serve
    _not_longer(request, serve.max_upload_mb * 2**20)
    async with request.form(max_files=1, max_fields=20) as form:
        upload, kind = form.get("file"), form.get("response_format") or "json"
        if not isinstance(upload, UploadFile):
            raise ApiError("file is missing; send the recording as multipart/form-data.", param="file")
        if kind not in _WRITTEN:
            raise ApiError(f"response_format must be one of {', '.join(_WRITTEN)}.", param="response_format")
        data = await upload.read()
    samples = await asyncio.to_thread(_recording, data, serve.max_recording_s)
    words = " ".join([text async for text in utterances(assistant.recognizer, assistant.asr_worker, samples)])
    if kind == "text":
        return PlainTextResponse(f"{words}\n")
    values: dict[str, Any] = {"text": words}
    if kind == "verbose_json":
        values |= {"task": "transcribe", "language": "english", "duration": len(samples) / CAPTURE_HZ}
    return JSONResponse(values)


def _recording(data: bytes, longest_s: float) -> Any:
    """Samples, float32 (N,) at 16 kHz, of a recording in any format that is known. Raises ApiError."""
    handle, name = tempfile.mkstemp()
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        seconds = _seconds(path)
        if seconds > longest_s:
            raise ApiError(f"the recording has {seconds:.0f} s; {longest_s:.0f} s are taken.", param="file")
        return read_audio(path, CAPTURE_HZ).samples
    except AudioFileError as error:
        raise ApiError(f"file{str(error).removeprefix(name)}", code="invalid_audio", param="file") from None
    finally:
        path.unlink(missing_ok=True)


def _seconds(path: Path) -> float:
    """Length of a recording; 0 where it cannot be read, of which reading tells why."""
    try:
        return float(soundfile.info(path).duration)
    except (soundfile.LibsndfileError, RuntimeError, TypeError):
        return 0.0


def _not_longer(request: Request, limit: int) -> None:
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise ApiError("the request must say its content-length.", code="length_required")
    if int(length) > limit:
        raise ApiError(f"the request is longer than {limit // 2**20} MB.", code="too_large")
