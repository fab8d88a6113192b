"""The tokenizer of a model folder: chat prompts to ids, ids to text piece by piece, and the vocabulary's identity."""

import codecs
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from configs.vocabulary import vocabulary_id
from llm.base import ChatModelError, Message

END_OF_TEXT, MESSAGE_START, MESSAGE_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# ChatML, the part of Qwen's template that a conversation without tools and thoughts needs.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# What a user says or types never becomes a control token.
_CONTROL = re.compile(r"<\|[a-z_]+\|>")


class Vocabulary:
    """A Qwen tokenizer read from `tokenizer.json`."""

    def __init__(self, directory: Path) -> None:
        path = directory / "tokenizer.json"
        try:
            self.id = vocabulary_id(path)
            self._tokenizer = Tokenizer.from_file(str(path))
        except FileNotFoundError:
            raise ChatModelError(
                f"no language model in {directory}: tokenizer.json is missing. Check llm.model in the config, or make the "
                "small one with `python launch.py train small`."
            ) from None
        except Exception as error:  # the tokenizers library raises bare Exception for a malformed file
            raise ChatModelError(
                f"{path} is not a tokenizer ({error}). Restore it from where the model came from."
            ) from None
        self._template = _template(directory)
        end = self._tokenizer.token_to_id(MESSAGE_END)
        if end is None or self._tokenizer.token_to_id(MESSAGE_START) is None:
            raise ChatModelError(
                f"{path} has no {MESSAGE_START} and {MESSAGE_END} tokens: it is not the tokenizer of a Qwen chat model."
            )
        stops = (end, self._tokenizer.token_to_id(END_OF_TEXT))
        self.stop_ids: frozenset[int] = frozenset(stop for stop in stops if stop is not None)

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to where the assistant's next reply begins."""
        plain = [Message(message.role, _CONTROL.sub("", message.content)) for message in messages]
        return self.encode(self._template(plain))

    def detokenizer(self) -> "Detokenizer":
        """Begin the text of one reply."""
        return Detokenizer(self._tokenizer)


class Detokenizer:
    """Ids to text, one at a time. Bytes of an unfinished character wait for the rest, so no broken text comes out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Take one id; return the text it completes ("" inside a split character)."""
        piece = self._tokenizer.id_to_token(token)
        if piece is None:  # a model may have more output rows than its tokenizer has tokens
            return ""
        # Byte-level BPE writes each byte as a printable character; added tokens stand for themselves.
        return self._decoder.decode(b"".join(_BYTES.get(c) or c.encode() for c in piece))


def _printable_bytes() -> dict[str, bytes]:
    """Byte-level BPE's alphabet: printable Latin-1 characters are themselves, the other bytes follow from U+0100 on."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(kept)]
    alphabet = {chr(byte): bytes([byte]) for byte in kept}
    return alphabet | {chr(0x100 + index): bytes([byte]) for index, byte in enumerate(others)}


_BYTES = _printable_bytes()


def _template(directory: Path) -> Callable[[Sequence[Message]], str]:
    """The folder's own chat template where it has one; else ChatML."""
    source = _template_source(directory)
    if source in (None, CHAT_TEMPLATE):
        return _chatml
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    try:
        template = environment.from_string(source)
    except TemplateError as error:
        raise ChatModelError(f"the chat template of {directory} cannot be used ({error}).") from None

    def render(messages: Sequence[Message]) -> str:
        values = [{"role": message.role, "content": message.content} for message in messages]
        # Qwen3 would otherwise think aloud before it answers.
        return str(template.render(messages=values, add_generation_prompt=True, enable_thinking=False))

    return render


def _template_source(directory: Path) -> str | None:
    alone = directory / "chat_template.jinja"
    if alone.is_file():
        return alone.read_text(encoding="utf-8")
    settings = directory / "tokenizer_config.json"
    if not settings.is_file():
        return None
    try:
        values = json.loads(settings.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ChatModelError(f"{settings} is not JSON ({error}). Restore it from where the model came from.") from None
    source = values.get("chat_template")
    return source if isinstance(source, str) else None


def _chatml(messages: Sequence[Message]) -> str:
    lines = [f"{MESSAGE_START}{message.role}\n{message.content}{MESSAGE_END}\n" for message in messages]
    return "".join(lines) + f"{MESSAGE_START}assistant\n"
