"""The WebSocket of one program: its conversation lives as long as the connection."""

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from app.assemble import Assistant
from app.serve.caller import Caller
from app.serve.commands import Commands
from app.serve.settings import Settings
from app.serve.wire import ApiError, new_id, read_event
from app.web.voices import VoiceLibrary

log = logging.getLogger(__name__)

TRY_LATER, BROKEN = 1013, 1011
_GONE = (WebSocketDisconnect, RuntimeError, OSError)


async def refuse(socket: WebSocket, error: ApiError) -> None:
    """Tell why there is no conversation, and close."""
    with suppress(*_GONE):
        await socket.send_text(_event("error", {"error": {**error.to_json(), "event_id": None}}))
        await socket.close(TRY_LATER, str(error)[:100])


async def converse(socket: WebSocket, assistant: Assistant, voices: VoiceLibrary) -> None:
    """Hold the conversation until the program goes or the session cannot go on; nothing of it stays."""
    out: asyncio.Queue[str] = asyncio.Queue()
    config = assistant.config
    settings = Settings(instructions=config.llm.system_prompt, voice="default", speed=config.tts.speed)
    caller = Caller(assistant, settings, lambda kind, values: out.put_nowait(_event(kind, values)))
    caller.tell("session.created", {"session": settings.to_json(caller.id, config)})
    session = asyncio.create_task(caller.session.run(), name=f"conversation {caller.id}")
    tasks: list[asyncio.Task[None]] = [
        session,
        asyncio.create_task(caller.ears.run(), name=f"ears {caller.id}"),
        asyncio.create_task(_write(socket, out), name=f"writer {caller.id}"),
        asyncio.create_task(_read(socket, caller, Commands(assistant, voices, caller)), name=f"reader {caller.id}"),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        caller.device.close()
        failed = next((task.exception() for task in tasks if task.done() and not task.cancelled()), None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if failed:
        log.error("a conversation ended", exc_info=failed)
        error = ApiError(" ".join(str(failed).split()), code="session_failed", kind="server_error")
        with suppress(*_GONE):
            await socket.send_text(_event("error", {"error": {**error.to_json(), "event_id": None}}))
            await socket.close(BROKEN, str(error)[:100])


async def _write(socket: WebSocket, out: asyncio.Queue[str]) -> None:
    """Send what is queued until the program is gone."""
    with suppress(*_GONE):
        while True:
            await socket.send_text(await out.get())


async def _read(socket: WebSocket, caller: Caller, commands: Commands) -> None:
    """Obey the program until it is gone; what it does wrong is answered with an error, and the conversation goes on."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        name = None
        try:
            if message.get("text") is None:
                raise ApiError("an event must be a text message.", code="invalid_json")
            event = read_event(message["text"])
            name = event.get("event_id") if isinstance(event.get("event_id"), str) else None
            told = await commands.do(event)
            if told:
                caller.tell("session.updated", told)
        except ApiError as error:
            caller.refuse(error, name)


def _event(kind: str, values: dict[str, Any]) -> str:
    return json.dumps({"event_id": new_id("event"), "type": kind, **values}, separators=(",", ":"))
