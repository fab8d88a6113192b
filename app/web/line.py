"""The WebSocket of one page: from its first message to its end."""

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from app.web.people import FullError, People
from app.web.person import Person
from app.web.protocol import MAX_MESSAGE_BYTES, Hello, ProtocolError, hello, read_json, samples_of
from audio_io.base import DeviceError

log = logging.getLogger(__name__)

HELLO_WITHIN_S = 10.0
PING_EVERY_S = 2.0
_LONGEST_QUEUE = 5_000  # messages to a page that does not read; its pings fail soon

# Close codes of browsers for a tab that was closed or is loaded again. Any other end is a broken connection, for which
# uvicorn says 1005.
_WENT_AWAY = (1000, 1001)
POLICY, TRY_LATER = 1008, 1013


class PageLine:
    """A connection; what is sent waits in a queue, so that nobody blocks."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._out: asyncio.Queue[str | bytes] = asyncio.Queue()

    def send(self, message: dict[str, Any]) -> None:
        """Queue a text message."""
        self._put(json.dumps(message, separators=(",", ":")))

    def send_audio(self, data: bytes) -> None:
        """Queue a binary message."""
        self._put(data)

    def _put(self, data: str | bytes) -> None:
        if self._out.qsize() < _LONGEST_QUEUE:
            self._out.put_nowait(data)

    async def write(self) -> None:
        """Send what is queued, and a ping now and then; until it is cancelled or the connection ends."""
        loop = asyncio.get_running_loop()
        ping_at = loop.time()
        while True:
            data: str | bytes
            try:
                async with asyncio.timeout_at(ping_at):
                    data = await self._out.get()
            except TimeoutError:
                data = json.dumps({"type": "ping", "at": loop.time()})
                ping_at = loop.time() + PING_EVERY_S
            try:
                if isinstance(data, bytes):
                    await self._socket.send_bytes(data)
                else:
                    await self._socket.send_text(data)
            except (WebSocketDisconnect, RuntimeError, OSError):
                return

    async def receive(self) -> dict[str, Any] | bytes:
        """The next message. Raises WebSocketDisconnect, ProtocolError."""
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code") or 1006)
        data = message.get("bytes")
        text = message.get("text")
        if len(data or text or "") > MAX_MESSAGE_BYTES:
            raise ProtocolError("the message is too long.")
        return data if data is not None else read_json(text or "")


class Door:
    """Lets pages in and talks with them until they go."""

    def __init__(self, people: People, *, resume_s: float, reload_s: float) -> None:
        self._people = people
        self._resume_s, self._reload_s = resume_s, reload_s
        self._lines: dict[str, WebSocket] = {}  # of the connected people
        self._closing: set[asyncio.Task[None]] = set()

    async def serve(self, socket: WebSocket) -> None:
        """One connection."""
        await socket.accept()
        line = PageLine(socket)
        writing = asyncio.create_task(line.write(), name="page writer")
        person: Person | None = None
        stays_s, refusal = 0.0, None
        try:
            known = await self._hello(line)
            person = await self._find(known, line)
            if person:
                await self._connect(known, person, line, socket)
                await self._converse(line, person)
        except WebSocketDisconnect as gone:
            stays_s = self._reload_s if gone.code in _WENT_AWAY else self._resume_s
        except (ProtocolError, DeviceError) as error:
            refusal = (POLICY, str(error))
        except FullError as error:
            refusal = (TRY_LATER, str(error))
        except TimeoutError:
            refusal = (POLICY, "no hello came.")
        finally:
            writing.cancel()
            if person and self._lines.get(person.id, socket) is socket:
                self._lines.pop(person.id, None)
                person.detach(line)
                self._people.leave(person, stays_s)
        code, reason = refusal or (1000, "")
        if reason:
            with suppress(RuntimeError, WebSocketDisconnect, OSError):
                await socket.send_text(json.dumps({"type": "over", "reason": reason}))
        await _close(socket, code, reason)

    @staticmethod
    async def _hello(line: PageLine) -> Hello:
        """The first message. Raises TimeoutError, ProtocolError, WebSocketDisconnect."""
        async with asyncio.timeout(HELLO_WITHIN_S):
            first = await line.receive()
        if isinstance(first, bytes):
            raise ProtocolError("the first message must be hello.")
        return hello(first)

    async def _find(self, known: Hello, line: PageLine) -> Person | None:
        """The conversation of a page, or a new one; None when it left while it waited."""
        person = self._people.find(known.session)
        if person is None or (person.attached and person.page != known.page):
            return await self._wait(line)
        return person

    async def _connect(self, known: Hello, person: Person, line: PageLine, socket: WebSocket) -> None:
        """Give the conversation to this connection."""
        before = self._lines.pop(person.id, None)
        self._lines[person.id] = socket
        self._people.stay(person)
        await person.attach(line, known)
        if before:  # the same page after a break that this side has not noticed: its old line may hang
            closing = asyncio.create_task(_close(before))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _wait(self, line: PageLine) -> Person | None:
        """Stand in line; a page that goes away gives its place up."""
        place = self._people.place(lambda position: line.send({"type": "waiting", "position": position}))
        if place.person.done():
            return place.person.result()
        leaving = asyncio.create_task(self._until_gone(line))
        awaited: list[asyncio.Future[Any]] = [leaving, place.person]
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            return None if leaving.done() else place.person.result()
        finally:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            if not place.person.done() or not leaving.cancelled():
                self._people.give_up(place)

    @staticmethod
    async def _until_gone(line: PageLine) -> None:
        """Swallow what a waiting page sends."""
        with suppress(WebSocketDisconnect):
            while True:
                message = await line.receive()
                if isinstance(message, dict) and message["type"] == "bye":
                    return

    @staticmethod
    async def _converse(line: PageLine, person: Person) -> None:
        """Take the page's messages until it says good-bye. Raises WebSocketDisconnect, ProtocolError, DeviceError."""
        while True:
            message = await line.receive()
            if isinstance(message, bytes):
                person.hear(samples_of(message))
            elif message["type"] == "bye":
                return
            else:
                await person.do(message)


async def _close(socket: WebSocket, code: int = 1000, reason: str = "") -> None:
    with suppress(RuntimeError, WebSocketDisconnect, OSError):  # it may be closed already
        await socket.close(code, reason[:100])
