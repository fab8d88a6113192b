"""A chat model on a server that speaks OpenAI's protocol, played by one on this machine."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from configs.schema import LlmConfig, RuntimeConfig
from llm import build
from llm.base import ChatModelError, Message, TextToken
from llm.folder import BUNDLED_FOLDER
from llm.openai_client import NO_ID
from llm.vocabulary import Vocabulary

QUESTION = [Message("system", "Be kind."), Message("user", "hello")]
TEXT = "Good morning, Zoë. 你好!"


class Server:
    """Answers every request by `answer(request, body)`; keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.gone = threading.Event()  # a client closed the connection in the middle of a reply
        self.answer: Callable[[BaseHTTPRequestHandler, dict[str, Any]], None] = lambda request, body: None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append({"path": self.path, **body})
                server.headers.append(self.headers)
                try:
                    server.answer(self, body)
                except (BrokenPipeError, ConnectionResetError):
                    server.gone.set()

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def says(self, *events: Any, done: bool = True) -> None:
        """Stream these choices (or raw lines), then end."""

        def answer(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
            request.send_response(200)
            request.end_headers()
            for event in events:
                data = event if isinstance(event, str) else json.dumps({"choices": [event]})
                request.wfile.write(f"data: {data}\n\n".encode())
                request.wfile.flush()
            if done:
                request.wfile.write(b"data: [DONE]\n\n")

        self.answer = answer

    def refuses(self, status: int, content: bytes) -> None:
        def answer(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
            request.send_response(status)
            request.end_headers()
            request.wfile.write(content)

        self.answer = answer


def delta(text: str, **more: Any) -> dict[str, Any]:
    return {"index": 0, "delta": {"content": text}, **more}


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def chat(server: Server, **changed: Any) -> Any:
    values = LlmConfig(
        engine="openai", url=server.url, model="some-model", max_reply_tokens=7, first_token_timeout_s=5.0
    )
    return build(replace(values, **changed), RuntimeConfig(device="cpu"))


async def reply(model: Any, limit: int | None = None) -> list[TextToken]:
    tokens = []
    async with aclosing(model.stream(QUESTION)) as stream:
        async for token in stream:
            tokens.append(token)
            if len(tokens) == limit:
                break
    return tokens


async def test_text_is_passed_on_as_it_comes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    usage = json.dumps({"choices": [], "usage": {"total_tokens": 3}})
    server.says({"delta": {"role": "assistant", "content": None}}, delta("Good "), delta("morning"), usage)
    model = chat(server)
    assert await reply(model) == [TextToken(NO_ID, "Good "), TextToken(NO_ID, "morning")]
    assert model.vocabulary_id == ""
    assert model.count_tokens("a" * 30) >= 10
    (asked,) = server.asked
    assert asked["path"] == "/v1/chat/completions"
    assert asked["messages"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}]
    assert (asked["model"], asked["max_tokens"], asked["stream"]) == ("some-model", 7, True)
    assert "return_token_ids" not in asked
    assert server.headers[0]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("sent", [True, False], ids=["ids", "text"])
async def test_ids_where_the_tokenizer_is_known(server: Server, sent: bool) -> None:
    vocabulary = Vocabulary(BUNDLED_FOLDER)
    ids = vocabulary.encode(TEXT)
    end = min(vocabulary.stop_ids)
    if sent:
        server.says(delta("?", token_ids=ids[:3]), delta("?", token_ids=ids[3:]), delta("", token_ids=[end]))
    else:
        server.says(delta(TEXT))
    model = chat(server, model=str(BUNDLED_FOLDER))
    tokens = await reply(model)
    assert [token.id for token in tokens] == ids
    assert "".join(token.text for token in tokens) == TEXT
    assert model.vocabulary_id == vocabulary.id
    assert model.count_tokens(TEXT) == len(ids)
    assert server.asked[0]["return_token_ids"] is True


async def test_closing_the_reply_closes_the_connection(server: Server) -> None:
    def endless(request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(f"data: {json.dumps({'choices': [delta('word ')]})}\n\n".encode())
            time.sleep(0.002)

    server.answer = endless
    model = chat(server)
    assert len(await reply(model, limit=3)) == 3
    assert server.gone.wait(5.0)
    server.says(delta("Fine."))
    assert await reply(model) == [TextToken(NO_ID, "Fine.")]


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (404, b'{"error": {"message": "no such model"}}', r"answered 404: no such model\. Check llm\.url"),
        (401, b"{}", "answered 401: .* OPENAI_API_KEY"),
        (500, b"<html>oops</html>", "answered 500: <html>oops"),
    ],
)
async def test_a_refusal_is_one_line(server: Server, status: int, content: bytes, message: str) -> None:
    server.refuses(status, content)
    with pytest.raises(ChatModelError, match=message):
        await reply(chat(server))


@pytest.mark.parametrize(
    ("events", "done", "message"),
    [
        ([delta("half ")], False, "ended the reply before it was complete"),
        (["not json"], True, "does not speak OpenAI's protocol: it sent 'not json'"),
        (["[1]"], True, "does not speak OpenAI's protocol"),
        ([json.dumps({"error": {"message": "out of memory"}})], True, "says: out of memory"),
    ],
)
async def test_a_reply_that_breaks_is_one_line(server: Server, events: list[Any], done: bool, message: str) -> None:
    server.says(*events, done=done)
    with pytest.raises(ChatModelError, match=message):
        await reply(chat(server))


async def test_a_server_that_is_not_there(server: Server) -> None:
    model = chat(server, url="http://127.0.0.1:9/v1")
    with pytest.raises(ChatModelError, match="is it running"):
        await model.warm_up()


@pytest.mark.parametrize("url", ["", "here", "ftp://x/v1", "http://"])
def test_an_address_that_is_none(server: Server, url: str) -> None:
    with pytest.raises(ChatModelError, match=r"llm\.url"):
        chat(server, url=url)
