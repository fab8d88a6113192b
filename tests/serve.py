"""The interface for programs around scripted parts, and a program that uses it. Times are real, but short."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import websockets
from websockets.asyncio.client import ClientConnection, connect

from app.assemble import Assistant
from app.serve.application import create
from app.serve.wire import MAX_EVENT_BYTES
from configs.schema import ServeConfig
from tests.fakes import ScriptedChat, ScriptedRecognition
from tests.web import ScriptedRecognizer, assistant, running

LONG = " ".join(f"word{i}" for i in range(40))


class Finishing(ScriptedRecognition):
    """What is left of the script has happened when the turn is said to be over."""

    def finish(self) -> list:
        left, self._script = self._script, []
        return [make(round(at * 16_000)) for at, make in left]

    def reset(self) -> None:
        self._script.clear()


class FinishingRecognizer(ScriptedRecognizer):
    def stream(self, patience=lambda: 1.0) -> Finishing:
        self.patience.append(patience)
        return Finishing(self._scripts.pop(0) if self._scripts else [])


def parts(chat: ScriptedChat, *scripts: list, **serve: Any) -> Assistant:
    """Scripted parts with the settings of a test."""
    made = assistant(chat)
    config = replace(made.config, serve=ServeConfig(**{"wait_s": 0.3, **serve}))
    return replace(made, config=config, recognizer=FinishingRecognizer(*scripts))


class Site:
    """A running server."""

    def __init__(self, app: Any, port: int, parts: Assistant) -> None:
        self.service, self.port, self.parts = app.state.service, port, parts
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}")

    @asynccontextmanager
    async def program(self, **how: Any) -> AsyncIterator["Program"]:
        """A program that has been told its session."""
        program = Program(self.port)
        await program.open(**how)
        try:
            await program.until("session.created")
            yield program
        finally:
            await program.close()


@asynccontextmanager
async def serving(made: Assistant, auth: str | None = None, *, loaded: bool = True) -> AsyncIterator[Site]:
    """Serve `made`."""
    app = create(made.config, auth=auth)
    if loaded:
        app.state.service.open(made)
    async with running(app, 2 * MAX_EVENT_BYTES) as port:
        site = Site(app, port, made)
        try:
            yield site
        finally:
            await site.http.aclose()
    made.close()


class Program:
    """Sends events, keeps those it was told and the sound in them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.told: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self._news = asyncio.Event()
        self.socket: ClientConnection
        self._task: asyncio.Task[None]

    async def open(self, **how: Any) -> None:
        self.socket = await connect(f"ws://127.0.0.1:{self._port}/v1/realtime?model=any", compression=None, **how)
        self._task = asyncio.create_task(self._listen())

    async def send(self, kind: str, **values: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **values}))

    async def speak(self, seconds: float) -> None:
        """Append so much silence; the script decides what is heard in it."""
        await self.send(
            "input_audio_buffer.append", audio=base64.b64encode(bytes(round(seconds * 24_000) * 2)).decode()
        )

    async def update(self, **session: Any) -> dict[str, Any]:
        """Change the session; what is in effect then."""
        self.forget("session.updated")
        await self.send("session.update", session={"type": "realtime", **session})
        return (await self.until("session.updated"))["session"]

    def forget(self, kind: str) -> None:
        self.told = [event for event in self.told if event["type"] != kind]

    def kinds(self) -> list[str]:
        """Types of the events, repeated ones once."""
        kinds = [event["type"] for event in self.told]
        return [kind for index, kind in enumerate(kinds) if index == 0 or kinds[index - 1] != kind]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.told if event["type"] == kind]

    def sound(self, response: str | None = None) -> np.ndarray:
        """Samples that were sent, of one response or all."""
        parts = [e["delta"] for e in self.of("response.output_audio.delta") if response in (None, e["response_id"])]
        return np.concatenate([np.zeros(0, "<i2"), *(np.frombuffer(base64.b64decode(part), "<i2") for part in parts)])

    async def until(self, kind: str, seconds: float = 20.0, count: int = 1) -> dict[str, Any]:
        """The `count`th event of a type, also one that came already."""
        async with asyncio.timeout(seconds):
            while True:
                found = self.of(kind)
                if len(found) >= count:
                    return found[count - 1]
                if self.closed:
                    raise AssertionError(f"closed with {self.closed} before {kind}; told {self.told[-3:]}")
                self._news.clear()
                await self._news.wait()

    async def until_closed(self, seconds: float = 20.0) -> tuple[int, str]:
        async with asyncio.timeout(seconds):
            await self._task
        assert self.closed
        return self.closed

    async def close(self) -> None:
        await self.socket.close()
        await self._task

    async def _listen(self) -> None:
        with suppress(websockets.ConnectionClosed):
            async for message in self.socket:
                self.told.append(json.loads(message))
                self._news.set()
        self.closed = (self.socket.close_code or 1006, self.socket.close_reason or "")
        self._news.set()


def chat(*replies: str, **how: Any) -> ScriptedChat:
    """A model that answers soon."""
    return ScriptedChat(*replies, **{"first_s": 0.02, "token_s": 0.005, **how})


def asked(model: ScriptedChat, turn: int = -1) -> list[tuple[str, str]]:
    """The conversation that a turn was asked with, without the system's message."""
    return [(message.role, message.content) for message in model.asked[turn]][1:]


async def answered(program: Program, *, number: int = 1) -> dict[str, Any]:
    """The `number`th response, when it is done."""
    return (await program.until("response.done", count=number))["response"]


async def say(program: Program, text: str, **how: Any) -> None:
    """A written message of the user, and a reply to it."""
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    await program.send("conversation.item.create", item=item)
    await program.send("response.create", **how)
