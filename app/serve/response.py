"""One response as the program sees it: from `response.created` to exactly one `response.done`."""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np

from app.serve.settings import Settings
from app.serve.wire import PCM_HZ, new_id, pcm_from

Send = Callable[[str, dict[str, Any]], None]  # type and values of an event; must not block


class Response:
    """Tells one reply as events."""

    def __init__(self, send: Send, settings: Settings, *, previous: str | None, metadata: Any = None) -> None:
        """`previous`: the item before it."""
        self._send, self._settings, self._metadata = send, settings, metadata
        self.id, self.item = new_id("resp"), new_id("item")
        self.error: str | None = None
        self.done = False
        self.num_samples = 0  # sent
        self._words: list[str] = []
        self._kind = "text" if settings.text_only else "audio"
        self._send("response.created", {"response": self._shown("in_progress", [], None)})
        added = self._item("in_progress", [])
        self._send("response.output_item.added", {"response_id": self.id, "output_index": 0, "item": added})
        self._send("conversation.item.added", {"previous_item_id": previous, "item": added})
        self._part("response.content_part.added", part={"type": self._kind, self._written: ""})

    @property
    def _written(self) -> str:
        return "text" if self._settings.text_only else "transcript"

    def word(self, text: str) -> None:
        """One more token of its text."""
        if text and not self.done:
            self._words.append(text)
            self._part(f"response.{self._stream}.delta", delta=text)

    @property
    def _stream(self) -> str:
        return "output_text" if self._settings.text_only else "output_audio_transcript"

    def audio(self, samples: np.ndarray) -> None:
        """More of its sound, float32 (N,) at 24 kHz."""
        if len(samples) and not self.done:
            self.num_samples += len(samples)
            self._part("response.output_audio.delta", delta=base64.b64encode(pcm_from(samples)).decode())

    def end(self, status: str, reason: str | None = None) -> None:
        """It is `completed`, `cancelled` (the reason says by what) or `failed`; only the first end counts."""
        if self.done:
            return
        self.done = True
        written = "".join(self._words)
        if not self._settings.text_only:
            self._part("response.output_audio.done")
        self._part(f"response.{self._stream}.done", **{self._written: written})
        self._part("response.content_part.done", part={"type": self._kind, self._written: written})
        content = [{"type": f"output_{self._kind}", self._written: written}]
        item = self._item("completed" if status == "completed" else "incomplete", content)
        self._send("response.output_item.done", {"response_id": self.id, "output_index": 0, "item": item})
        self._send("conversation.item.done", {"item": item})
        details: dict[str, Any] | None = None
        if status == "cancelled":
            details = {"type": status, "reason": reason}
        elif status == "failed":
            details = {"type": status, "error": {"type": "server_error", "code": "failed", "message": self.error}}
        self._send("response.done", {"response": self._shown(status, [item], details)})

    def _part(self, kind: str, **values: Any) -> None:
        self._send(
            kind, {"response_id": self.id, "item_id": self.item, "output_index": 0, "content_index": 0, **values}
        )

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return message_item(self.item, "assistant", content, status)

    def _shown(self, status: str, output: list[Any], details: dict[str, Any] | None) -> dict[str, Any]:
        sound = {"format": {"type": "audio/pcm", "rate": PCM_HZ}, "voice": self._settings.voice}
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": output,
            "output_modalities": [self._kind],
            "audio": {"output": sound},
            "metadata": self._metadata,
            "usage": None,
        }


def message_item(name: str, role: str, content: list[dict[str, Any]], status: str = "completed") -> dict[str, Any]:
    """A message of the conversation as the program sees it."""
    return {
        "id": name,
        "object": "realtime.item",
        "type": "message",
        "status": status,
        "role": role,
        "content": content,
    }
