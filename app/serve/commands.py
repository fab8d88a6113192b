"""What a program may ask of its conversation: the client events of the Realtime API."""

from typing import Any

from app.assemble import Assistant
from app.serve.caller import OURS, Caller, Item
from app.serve.settings import modality, text, updated
from app.serve.wire import BYTES_PER_MS, PCM_HZ, STOCK_VOICES, ApiError, new_id, only, pcm_of, samples_of, take
from app.transcribe import utterances
from app.web.voices import VoiceLibrary
from app.worker import DeviceMemoryError
from asr.base import SAMPLE_RATE as CAPTURE_HZ
from asr.base import RecognizerError
from audio_io.resample import resample
from tts.base import VoiceError

_MIN_COMMIT_MS = 100
_MAX_WHOLE_S = 10.0  # longer sound is recognised piece by piece, so that others get their turn
_WRITTEN = {"user": "input_text", "system": "input_text", "assistant": "output_text"}
_RESPONSE = (
    "instructions output_modalities conversation metadata input audio tools tool_choice max_output_tokens prompt reasoning "
    "parallel_tool_calls"
).split()


class Commands:
    """Obeys one program."""

    def __init__(self, assistant: Assistant, voices: VoiceLibrary, caller: Caller) -> None:
        self._assistant, self._voices, self._caller = assistant, voices, caller
        self._obey = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
            "conversation.item.create": self._create,
            "conversation.item.truncate": self._truncate,
            "conversation.item.delete": self._delete,
            "response.create": self._respond,
            "response.cancel": self._cancel,
            f"{OURS}playback.ack": self._played,
        }

    async def do(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Obey an event; returns the values of `session.updated` if it was one. Raises ApiError."""
        obey = self._obey.get(event["type"])
        if obey is None:
            raise ApiError(f"there is no event {event['type'][:80]!r} here.", code="unknown_event", param="type")
        return await obey(event)

    async def _update(self, event: dict[str, Any]) -> dict[str, Any]:
        caller, config = self._caller, self._assistant.config
        settings = updated(caller.settings, take(event, "session", dict), config)
        if settings.voice != caller.settings.voice:
            caller.choices.voice = await voice_named(self._voices, settings.voice, "session.audio.output.voice")
        before, detection = caller.settings, settings.detection
        caller.settings = settings
        caller.conversation.instruct(settings.instructions)
        caller.choices.speed, caller.choices.silent = settings.speed, settings.text_only
        if detection:
            caller.choices.patience = detection.patience(config)
            caller.session.turns.interruptible = detection.interrupt_response
            caller.session.turns.replies = detection.create_response
        if (detection is None) != (before.detection is None):
            await caller.ears.clear()
            caller.ears.manual = detection is None
        return {"session": settings.to_json(caller.id, config)}

    async def _append(self, event: dict[str, Any]) -> None:
        self._caller.ears.append(pcm_of(event, "audio"))

    async def _commit(self, event: dict[str, Any]) -> None:
        """All of the turn is there. Where the end of a turn is found here, it is found at once."""
        caller = self._caller
        if not caller.ears.manual:
            caller.ears.end_turn()
            return
        pcm = caller.ears.take()
        if len(pcm) < _MIN_COMMIT_MS * BYTES_PER_MS:
            raise ApiError(
                f"the buffer holds {len(pcm) / BYTES_PER_MS:.0f} ms of sound; {_MIN_COMMIT_MS} ms are needed.",
                code="input_audio_buffer_commit_empty",
            )
        item = new_id("item")
        caller.tell("input_audio_buffer.committed", {"previous_item_id": caller.last_item, "item_id": item})
        await self._say_aloud(item, pcm)

    async def _clear(self, event: dict[str, Any]) -> None:
        await self._caller.ears.clear()
        self._caller.tell("input_audio_buffer.cleared", {})

    async def _create(self, event: dict[str, Any]) -> None:
        """A message of either side, written or (the user's) spoken; it becomes the newest."""
        caller, item = self._caller, take(event, "item", dict)
        if take(event, "previous_item_id", str, default=caller.last_item) != caller.last_item:
            raise ApiError("a message can only become the newest one.", code="not_supported", param="previous_item_id")
        if take(item, "type", str, "item") != "message":
            raise ApiError(
                "item.type must be message: no tools are called here.", code="not_supported", param="item.type"
            )
        role, name = take(item, "role", str, "item"), take(item, "id", str, "item", new_id("item"))
        if role not in _WRITTEN:
            raise ApiError("item.role must be user, assistant or system.", param="item.role")
        if not name or len(name) > 64 or name in caller.items:
            raise ApiError("item.id must be new, and of at most 64 characters.", param="item.id")
        parts = take(item, "content", list, "item")
        if len(parts) != 1 or not isinstance(parts[0], dict):
            raise ApiError("item.content must hold one part.", param="item.content")
        part, where = parts[0], "item.content.0"
        kind = take(part, "type", str, where)
        if kind == "input_audio" and role == "user":
            await self._say_aloud(name, pcm_of(part, "audio", where))
            return
        if kind not in (_WRITTEN[role], "text"):
            spoken = " or input_audio" if role == "user" else ""
            raise ApiError(f"{where}.type must be {_WRITTEN[role]}{spoken} for {role}.", param=f"{where}.type")
        words = text(part, "text", where, self._assistant.config).strip()
        if not words:
            raise ApiError(f"{where}.text is empty.", param=f"{where}.text")
        add = {
            "user": caller.conversation.add_user,
            "assistant": caller.conversation.add_assistant,
            "system": caller.conversation.add_note,
        }[role]
        content = [{"type": _WRITTEN[role], "text": words}]
        await self._settled()
        caller.enter(name, name, role, content, lambda: add(words, key=name))

    async def _say_aloud(self, item: str, pcm: bytes) -> None:
        """A message of the user that is spoken and complete."""
        caller, assistant = self._caller, self._assistant
        await self._settled()
        spoken: list[str] = []

        def add() -> None:
            if spoken:
                caller.conversation.add_user(" ".join(spoken), key=item)

        content = [{"type": "input_audio", "transcript": None}]
        samples = resample(samples_of(pcm), PCM_HZ, CAPTURE_HZ)
        seconds = len(samples) / CAPTURE_HZ
        try:
            if seconds <= _MAX_WHOLE_S:
                whole = await assistant.asr_worker.run(assistant.recognizer.transcribe, samples)
                spoken += [whole] if whole else []
            else:
                async for words in utterances(assistant.recognizer, assistant.asr_worker, samples):
                    spoken.append(words)
        except (RecognizerError, DeviceMemoryError) as error:
            raise ApiError(str(error), code="transcription_failed", kind="server_error") from None
        caller.enter(item, item, "user", content, add)
        caller.transcribed(item, " ".join(spoken), seconds)

    async def _settled(self) -> None:
        """A response that the program has whole counts as heard before it goes on."""
        caller = self._caller
        caller.heard_out()
        if caller.response and caller.response.done:
            await caller.over.wait()

    async def _truncate(self, event: dict[str, Any]) -> None:
        """Only so much of a reply was heard: so much of it stays in the conversation."""
        caller = self._caller
        name, end_ms = take(event, "item_id", str), take(event, "audio_end_ms", int)
        if take(event, "content_index", int, default=0) != 0:
            raise ApiError("content_index must be 0.", param="content_index")
        running = caller.response if caller.response and caller.response.item == name else None
        item = caller.items.get(name)
        if item is None or not (running or item.trace):
            raise ApiError(f"there is no reply {name[:80]!r}.", code="item_not_found", param="item_id")
        sent = running.num_samples if running else item.num_samples
        num_samples = end_ms * PCM_HZ // 1000
        if not 0 <= num_samples <= sent:
            raise ApiError(
                f"audio_end_ms is {end_ms}; {sent * 1000 // PCM_HZ} ms of this reply were sent.", param="audio_end_ms"
            )
        if running:
            caller.truncating, caller.cancelled_by = True, "client_cancelled"
            caller.heard(num_samples)
            await caller.session.stop_speaking()
            caller.truncating = False
        elif item.trace:
            caller.conversation.cut(item.key, item.trace.heard_by(num_samples))
        caller.truncated(name, end_ms)

    async def _delete(self, event: dict[str, Any]) -> None:
        caller, name = self._caller, take(event, "item_id", str)
        item: Item | None = caller.items.get(name)
        if item is None or item.key is None:
            raise ApiError(f"there is no message {name[:80]!r}.", code="item_not_found", param="item_id")
        del caller.items[name]
        caller.conversation.remove(item.key)
        caller.tell("conversation.item.deleted", {"item_id": name})

    async def _respond(self, event: dict[str, Any]) -> None:
        """Reply to the conversation as it stands."""
        caller, config = self._caller, self._assistant.config
        wanted = take(event, "response", dict, default={})
        only(wanted, _RESPONSE, "response")
        for key, good in (("conversation", (None, "auto")), ("input", (None,)), ("tools", (None, []))):
            if wanted.get(key) not in good:
                raise ApiError(f"response.{key} cannot be chosen here.", code="not_supported", param=f"response.{key}")
        if caller.response and not caller.response.done:
            raise ApiError(
                "a response is being made; cancel it first.", code="conversation_already_has_active_response"
            )
        instructions = text(wanted, "instructions", "response", config) if wanted.get("instructions") else None
        text_only = modality(wanted, "response", caller.settings.text_only)
        metadata = take(wanted, "metadata", dict, "response", None)
        await self._settled()
        caller.begin_response(text_only=text_only, metadata=metadata)
        await caller.session.answer(instructions)

    async def _cancel(self, event: dict[str, Any]) -> None:
        caller, name = self._caller, take(event, "response_id", str, default=None)
        response = caller.response
        if response is None or response.done or name not in (None, response.id):
            raise ApiError("no such response is being made.", code="response_cancel_not_active")
        caller.cancelled_by = "client_cancelled"
        await caller.session.stop_speaking()

    async def _played(self, event: dict[str, Any]) -> None:
        """The program reports its loudspeaker: what is heard is known, no longer estimated."""
        caller = self._caller
        name, played_ms = take(event, "item_id", str), take(event, "audio_played_ms", float)
        caller.device.reports = True
        if caller.response and caller.response.item == name:
            caller.heard(round(max(0.0, played_ms) * PCM_HZ / 1000))


async def voice_named(voices: VoiceLibrary, name: str, param: str) -> Any:
    """A voice of the library, or our own under the names that other servers have. Raises ApiError."""
    if name in STOCK_VOICES:
        return voices.own
    try:
        return await voices.prepared(name)
    except VoiceError as error:
        known = ", ".join(["default", *voices.names()])
        raise ApiError(f"{error} There are: {known}.", code="voice_not_found", param=param) from None
