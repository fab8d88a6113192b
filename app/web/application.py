"""The web application: the WebSocket of the conversations, their files, and Gradio's page beside them."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, HTTPException, Response, WebSocket
from fastapi.staticfiles import StaticFiles

from app.assemble import Assistant
from app.web.hosting import guard
from app.web.line import Door
from app.web.people import People
from app.web.person import Person
from app.web.voices import VoiceLibrary

STATIC = Path(__file__).parent / "static"


def library_of(assistant: Assistant) -> VoiceLibrary:
    """The voices in the configured folder."""
    web = assistant.config.web
    return VoiceLibrary(
        Path(web.voices).expanduser(),
        recognizer=assistant.recognizer,
        synthesizer=assistant.synthesizer,
        asr_worker=assistant.asr_worker,
        tts_worker=assistant.tts_worker,
        max_voices=web.max_voices,
        own=assistant.voice,
        prosody=assistant.config.tts.prompt_prosody,
    )


def create(assistant: Assistant, *, auth: str | None = None) -> FastAPI:
    """The whole web application around loaded models. `auth`: USER:PASSWORD or None."""
    library = library_of(assistant)
    app = conversations(assistant, library)
    _mount_page(app, assistant, library)
    guard(app, assistant.config.web, auth)
    return app


def conversations(assistant: Assistant, library: VoiceLibrary) -> FastAPI:
    """The WebSocket and the files of the conversations, without a page."""
    web = assistant.config.web
    people = People(lambda: Person(assistant, library), limit=web.max_sessions)
    door = Door(people, resume_s=web.resume_s, reload_s=web.reload_s)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await people.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.people = people
    app.mount("/talk/static", StaticFiles(directory=STATIC), name="talk-static")

    @app.websocket("/talk/ws")
    async def talk(socket: WebSocket) -> None:
        await door.serve(socket)

    def found(name: str) -> Person:
        person = people.find(name)
        if person is None:
            raise HTTPException(404, "there is no such conversation any more")
        return person

    @app.get("/talk/{name}/turns.json")
    async def turns(name: str) -> list[dict[str, object]]:
        return found(name).snapshot()

    @app.get("/talk/{name}/recording.wav")
    async def recording(name: str) -> Response:
        data = await asyncio.to_thread(found(name).recording)
        return Response(data, media_type="audio/wav", headers=_as_file("conversation.wav"))

    @app.get("/talk/{name}/trace.json")
    async def trace(name: str) -> Response:
        return Response(found(name).trace(), media_type="application/json", headers=_as_file("trace.json"))

    return app


def _mount_page(app: FastAPI, assistant: Assistant, library: VoiceLibrary) -> None:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio

    from app.web.page import build

    page = build(assistant.config, library)
    gradio.mount_gradio_app(
        app,
        page.blocks,
        path="/",
        head=page.head,
        css=page.css,
        theme=page.theme,
        footer_links=[],
        ssr_mode=False,
        max_file_size=assistant.config.web.max_upload_mb * 2**20,
        show_error=True,
    )


def _as_file(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
