"""A web server around scripted parts, and a page without a browser. Times are real, but short."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import websockets
from websockets.asyncio.client import ClientConnection, connect

from app.assemble import Assistant
from app.web.application import conversations, library_of
from app.web.hosting import guard, server
from app.web.protocol import HEADER, MAX_MESSAGE_BYTES
from app.worker import Worker
from configs.schema import AppConfig, WebConfig
from tests.fakes import ScriptedChat, ScriptedRecognition, ScriptedSpeech

CAPTURE_HZ, OUTPUT_HZ = 48_000, 48_000


class ScriptedRecognizer:
    """Every stream hears the next script."""

    def __init__(self, *scripts: list) -> None:
        self._scripts = list(scripts)
        self.patience: list[Any] = []

    def stream(self, patience=lambda: 1.0) -> ScriptedRecognition:
        self.patience.append(patience)
        return ScriptedRecognition(self._scripts.pop(0) if self._scripts else [])

    def transcribe(self, samples: np.ndarray) -> str:
        assert samples.dtype == np.float32
        return "the words of the recording"

    def warm_up(self) -> None: ...


class ScriptedVoice(str):
    """What its recording was and says."""

    notes: tuple[str, ...] = ()


class ScriptedSynthesizer:
    """Remembers how it was asked to speak. Of a voice whose text is "misread" the text is left out."""

    vocabulary_id = "scripted"

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.read = 0

    def voice(self, path, text: str = "") -> ScriptedVoice:
        self.read += 1
        voice = ScriptedVoice(f"voice {path.stat().st_size}" + (f" saying {text}" if text else ""))
        voice.notes = ("the text is left out.",) if text == "misread" else ()
        return voice

    def stream(self, **how: Any) -> ScriptedSpeech:
        self.asked.append(how)
        return ScriptedSpeech()

    def tokenize(self, text: str) -> list[tuple[int, str]]:
        return list(enumerate(text.split()))

    def warm_up(self) -> None: ...


def assistant(chat: ScriptedChat, *scripts: list, **web: Any) -> Assistant:
    """Scripted parts with the settings of a test."""
    config = AppConfig()
    config = replace(config, web=WebConfig(**{"voices": tempfile.mkdtemp(), "resume_s": 5.0, "reload_s": 0.2, **web}))
    return Assistant(
        config=config,
        recognizer=ScriptedRecognizer(*scripts),
        chat=chat,
        synthesizer=ScriptedSynthesizer(),
        voice=None,
        asr_worker=Worker("asr"),
        tts_worker=Worker("tts"),
    )


class Site:
    """A running server."""

    def __init__(self, app: Any, port: int) -> None:
        self.people = app.state.people
        self.port = port
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}")

    async def page(self, **how: Any) -> "TestPage":
        """Open a connection and say hello."""
        page = TestPage(self.port)
        await page.open(**how)
        return page


@asynccontextmanager
async def serving(parts: Assistant, auth: str | None = None) -> AsyncIterator[Site]:
    """Serve the conversations of `parts`, without Gradio's page."""
    app = conversations(parts, library_of(parts))
    guard(app, parts.config.web, auth)
    async with running(app, MAX_MESSAGE_BYTES) as port:
        site = Site(app, port)
        try:
            yield site
        finally:
            await site.http.aclose()
    parts.close()


@asynccontextmanager
async def running(app: Any, max_message_bytes: int) -> AsyncIterator[int]:
    """A server at a free port; when it ends, nothing that it began is left."""
    runs = server(app, max_message_bytes=max_message_bytes)
    runs.config.port = 0
    runs.install_signal_handlers = lambda: None
    task = asyncio.create_task(runs.serve())
    while not runs.started:
        await asyncio.sleep(0.01)
    try:
        yield runs.servers[0].sockets[0].getsockname()[1]
    finally:
        runs.should_exit = True
        await task
        names = ("conversation", "turn", "page", "ears", "writer", "reader")
        assert not [t for t in asyncio.all_tasks() if t.get_name().startswith(names)]


class TestPage:
    """Sends silence as its microphone, plays what it gets at the pace of the audio, keeps what it was told."""

    __test__ = False

    def __init__(self, port: int) -> None:
        self._port = port
        self.told: list[dict[str, Any]] = []
        self.heard: dict[int, np.ndarray] = {}  # samples received of each reply
        self.flushed: set[int] = set()
        self.complete: set[int] = set()
        self.session: str | None = None
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.socket: ClientConnection
        self.closed: tuple[int, str] | None = None

    async def open(self, *, page: str = "page", session: str | None = None, reply=None, received=0, **how: Any) -> None:
        self.closed = None
        self.socket = await connect(f"ws://127.0.0.1:{self._port}/talk/ws", compression=None, **how)
        await self.send(
            type="hello", page=page, session=session or self.session, capture_hz=CAPTURE_HZ, output_hz=OUTPUT_HZ,
            reply=reply, received=received,
        )  # fmt: skip
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._microphone())]

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def until(self, kind: str, seconds: float = 20.0, **values: Any) -> dict[str, Any]:
        """Wait for a message, also one that came already."""
        async with asyncio.timeout(seconds):
            while True:
                for message in self.told:
                    if message["type"] == kind and all(message.get(key) == value for key, value in values.items()):
                        return message
                if self.closed and kind != "closed":
                    raise AssertionError(f"closed with {self.closed} before {kind}; told {self.told[-5:]}")
                self._news.clear()
                await self._news.wait()

    async def until_closed(self, seconds: float = 20.0) -> tuple[int, str]:
        async with asyncio.timeout(seconds):
            while self.closed is None:
                self._news.clear()
                await self._news.wait()
        return self.closed

    async def close(self, code: int = 1001) -> None:
        """As a browser closes the socket of a tab that goes away."""
        await self.socket.close(code)
        await self._end()

    async def break_off(self) -> None:
        """As a network breaks: no closing handshake."""
        self.socket.transport.abort()
        await self._end()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _microphone(self) -> None:
        loop, due = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        silence = bytes(2 * CAPTURE_HZ // 50)
        with suppress(websockets.ConnectionClosed):
            while True:
                due += 0.02
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self.socket.send(silence)

    async def _listen(self) -> None:
        playing: list[asyncio.Task[None]] = []
        try:
            with suppress(websockets.ConnectionClosed):
                await self._receive(playing)
        finally:
            for task in playing:
                task.cancel()
            self.closed = (self.socket.close_code or 1006, self.socket.close_reason or "")
            self._news.set()

    async def _receive(self, playing: list[asyncio.Task[None]]) -> None:
        async for message in self.socket:
            if isinstance(message, bytes):
                reply, start, last = HEADER.unpack_from(message)
                if reply not in self.heard:
                    self.heard[reply] = np.zeros(0, np.int16)
                    playing.append(asyncio.create_task(self._play(reply)))
                assert start <= len(self.heard[reply])
                pcm = np.frombuffer(message, "<i2", offset=HEADER.size)
                self.heard[reply] = np.concatenate([self.heard[reply][:start], pcm])
                if last:
                    self.complete.add(reply)
            else:
                self._take(json.loads(message))
            self._news.set()

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "ping":
            asyncio.ensure_future(self.send(type="pong", at=message["at"]))  # noqa: RUF006
            return
        if message["type"] == "flush":
            self.flushed.add(message["reply"])
        if message["type"] == "ready":
            self.session = message["session"]
        self.told.append(message)

    async def _play(self, reply: int) -> None:
        loop = asyncio.get_running_loop()
        began, taken = loop.time(), 0
        while reply not in self.flushed:
            await asyncio.sleep(0.02)
            taken = min(len(self.heard[reply]), round((loop.time() - began) * OUTPUT_HZ))
            with suppress(websockets.ConnectionClosed):
                await self.send(type="played", reply=reply, samples=taken, underruns=0, latency_s=0.0)
            if reply in self.complete and taken == len(self.heard[reply]):
                return
