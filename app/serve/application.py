"""The routes of the interface for programs. They answer from the beginning; what they need may still be loading."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.assemble import Assistant
from app.reply import one_line
from app.serve import connection, speech
from app.serve.wire import MODEL, ApiError
from app.web.application import library_of
from app.web.hosting import guard
from app.web.voices import VoiceLibrary
from app.worker import DeviceMemoryError
from asr.base import RecognizerError
from configs.schema import AppConfig
from tts.base import SynthesisError

HEALTH = "/health"
_STATUS = {"loading": 503, "busy": 429, "length_required": 411, "too_large": 413}  # 400 for others
_SUBPROTOCOL = "realtime"  # named by browsers' clients


class Service:
    """The loaded models, once they are, and the places for those who use them."""

    def __init__(self, config: AppConfig) -> None:
        self._config = config
        self._ready: tuple[Assistant, VoiceLibrary] | None = None
        self._conversations = asyncio.Semaphore(config.serve.max_sessions)
        self._requests = asyncio.Semaphore(config.serve.max_sessions)

    def open(self, assistant: Assistant) -> None:
        """The models are loaded."""
        self._ready = (assistant, library_of(assistant))

    @property
    def is_open(self) -> bool:
        """True once the models are loaded."""
        return self._ready is not None

    @asynccontextmanager
    async def place(self, *, conversation: bool) -> AsyncIterator[tuple[Assistant, VoiceLibrary]]:
        """A free place, waited for a while. Raises ApiError."""
        if self._ready is None:
            raise ApiError("the models are being loaded; try again soon.", code="loading", kind="server_error")
        places, serve = self._conversations if conversation else self._requests, self._config.serve
        try:
            async with asyncio.timeout(serve.wait_s):
                await places.acquire()
        except TimeoutError:
            what = "conversations" if conversation else "requests"
            raise ApiError(
                f"all {serve.max_sessions} places for {what} are taken; try again later.",
                code="busy",
                kind="rate_limit_error",
            ) from None
        try:
            yield self._ready
        finally:
            places.release()


def create(config: AppConfig, *, auth: str | None = None) -> FastAPI:
    """The whole application; `app.state.service` is to be opened. `auth`: USER:PASSWORD or None."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    service = app.state.service = Service(config)

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> JSONResponse:
        return JSONResponse({"error": error.to_json()}, _STATUS.get(error.code, 400))

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> JSONResponse:
        told = ApiError(
            f"{error.detail}.".replace("..", "."), code="not_found" if error.status_code == 404 else "invalid"
        )
        return JSONResponse({"error": told.to_json()}, error.status_code)

    @app.exception_handler(DeviceMemoryError)
    @app.exception_handler(RecognizerError)
    @app.exception_handler(SynthesisError)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        values = {"type": "server_error", "code": "failed", "message": one_line(error), "param": None}
        return JSONResponse({"error": values}, 500)

    @app.get(HEALTH)
    async def health() -> JSONResponse:
        if not service.is_open:
            return JSONResponse({"status": "loading"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "local"}]}

    @app.post("/v1/audio/speech")
    async def speak(request: Request) -> Response:
        async with AsyncExitStack() as held:
            assistant, voices = await held.enter_async_context(service.place(conversation=False))
            return await speech.speak(request, assistant, voices, held)

    @app.post("/v1/audio/transcriptions")
    async def transcribe(request: Request) -> Response:
        async with service.place(conversation=False) as (assistant, _):
            return await speech.transcribe(request, assistant)

    @app.websocket("/v1/realtime")
    async def realtime(socket: WebSocket) -> None:
        offered = socket.scope.get("subprotocols") or []
        await socket.accept(subprotocol=_SUBPROTOCOL if _SUBPROTOCOL in offered else None)
        try:
            async with service.place(conversation=True) as (assistant, voices):
                await connection.converse(socket, assistant, voices)
        except ApiError as error:
            await connection.refuse(socket, error)

    guard(app, config.serve, auth, free=(HEALTH,))
    return app
