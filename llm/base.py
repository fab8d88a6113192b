"""What crosses the border of the language model: messages in, text tokens out."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


class ChatModelError(Exception):
    """The language model cannot be built or run; the message says what, where and what to do next."""


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class TextToken:
    """One token of the reply: the model's own id and the text it adds ("" inside a split UTF-8 character)."""

    id: int
    text: str


class ChatModel(Protocol):
    """A loaded chat model."""

    @property
    def vocabulary_id(self) -> str:
        """Hash of the tokenizer; equal to the TTS vocabulary's when token ids may be shared."""
        ...

    def stream(self, messages: Sequence[Message], *, temperature: float | None = None) -> AsyncIterator[TextToken]:
        """Generate a reply token by token. Closing the iterator (`aclosing`) aborts the request.

        `temperature`: None takes the configured one.
        """
        ...

    def count_tokens(self, text: str) -> int: ...

    async def warm_up(self) -> None: ...

    def close(self) -> None: ...
