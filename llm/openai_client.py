"""Any server that speaks OpenAI's chat protocol (`vllm serve`, on this machine or several): the reply as it is streamed.

Where `llm.model` is a folder on this machine too, its tokenizer is known: the reply comes as the server's token ids (vLLM
sends them when asked) or is cut into them here, so that a synthesiser with the same vocabulary can take them as they are.
Else the reply is text, of which the synthesiser makes tokens of its own.
"""

import json
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from configs.schema import LlmConfig
from llm.base import ChatModelError, Message, TextToken
from llm.vocabulary import Vocabulary

NO_ID = -1  # of a piece of text whose tokens the server did not tell
_CHARACTERS_PER_TOKEN = 3  # a careful guess where the tokenizer is not known
_CONNECT_S = 10.0


class OpenAiChat:
    """A chat model on a server."""

    def __init__(self, config: LlmConfig) -> None:
        """Raises ChatModelError for an address that is none."""
        try:
            url = httpx.URL(config.url.rstrip("/"))
        except httpx.InvalidURL as error:
            raise ChatModelError(f"llm.url {config.url!r} is no address ({error}).") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ChatModelError(f"llm.url is {config.url!r}; write for example http://127.0.0.1:8000/v1.")
        key = os.environ.get("OPENAI_API_KEY")
        self._config, self._url = config, str(url)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        folder = Path(config.model).expanduser()
        self._vocabulary = Vocabulary(folder) if (folder / "tokenizer.json").is_file() else None

    @property
    def vocabulary_id(self) -> str:
        """Hash of the tokenizer; "" where it is not known."""
        return self._vocabulary.id if self._vocabulary else ""

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text; an upper guess where the tokenizer is not known."""
        return len(self._vocabulary.encode(text)) if self._vocabulary else len(text) // _CHARACTERS_PER_TOKEN + 1

    async def stream(
        self, messages: Sequence[Message], *, temperature: float | None = None
    ) -> AsyncIterator[TextToken]:
        """Generate a reply; closing the iterator closes the connection, at which a server drops the request."""
        config = self._config
        body = {
            "model": config.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "max_tokens": config.max_reply_tokens,
            "temperature": config.temperature if temperature is None else temperature,
            "top_p": config.top_p,
            "seed": config.seed,
            "stream": True,
        }
        if self._vocabulary:  # vLLM's own field; other servers may refuse what they do not know
            body["return_token_ids"] = True
        timeout = httpx.Timeout(config.first_token_timeout_s, connect=_CONNECT_S)
        try:
            async with (
                httpx.AsyncClient(headers=self._headers, timeout=timeout) as client,
                client.stream("POST", f"{self._url}/chat/completions", json=body) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    raise ChatModelError(_refusal(self._url, response.status_code, await response.aread()))
                async for token in self._tokens(response.aiter_lines()):
                    yield token
        except (httpx.HTTPError, httpx.StreamError) as error:
            reason = str(error) or type(error).__name__
            raise ChatModelError(f"the language model's server {self._url} failed ({reason}): is it running?") from None

    async def warm_up(self) -> None:
        """Ask for one token, so that a server that is not there is told before the first question."""
        async for _ in self.stream([Message("user", "hello")]):
            break

    def close(self) -> None:
        """Nothing is kept open between replies."""

    async def _tokens(self, lines: AsyncIterator[str]) -> AsyncIterator[TextToken]:
        """What the server's events say, up to the one that ends the reply."""
        detokenizer = self._vocabulary.detokenizer() if self._vocabulary else None
        stops = self._vocabulary.stop_ids if self._vocabulary else frozenset[int]()
        async for line in lines:
            if not line.startswith("data:"):
                continue
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                return
            choice = _choice(data, self._url)
            text = str((choice.get("delta") or {}).get("content") or "")
            if self._vocabulary is None or detokenizer is None:
                if text:
                    yield TextToken(NO_ID, text)
                continue
            ids = choice.get("token_ids")
            for token in self._vocabulary.encode(text) if ids is None else ids:
                if token not in stops:
                    yield TextToken(token, detokenizer.push(token))
        raise ChatModelError(f"the language model's server {self._url} ended the reply before it was complete.")


def _choice(data: str, url: str) -> dict[str, Any]:
    """The first choice of an event; empty where it has none (usage figures). Raises ChatModelError."""
    try:
        event = json.loads(data)
        if "error" in event:
            raise ChatModelError(f"the language model's server {url} says: {_message(event)}")
        choices = event.get("choices") or [{}]
        return dict(choices[0])
    except (ValueError, TypeError, AttributeError, KeyError):
        raise ChatModelError(f"{url} does not speak OpenAI's protocol: it sent {data[:80]!r}.") from None


def _refusal(url: str, status: int, content: bytes) -> str:
    try:
        said = _message(json.loads(content))
    except (ValueError, AttributeError):
        said = content[:160].decode("utf-8", "replace")
    hint = " Set the environment's OPENAI_API_KEY." if status in (401, 403) else ""
    hint = " Check llm.url (it often ends in /v1) and llm.model." if status == httpx.codes.NOT_FOUND else hint
    return f"the language model's server {url} answered {status}: {said}.{hint}"


def _message(event: dict[str, Any]) -> str:
    error = event.get("error", event)
    return str(error.get("message", error) if isinstance(error, dict) else error)[:200]
