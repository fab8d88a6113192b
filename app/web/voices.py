"""Voices that people made from recordings: checked, named, kept on disk, prepared once for the synthesiser.

A voice is a folder with a drawn name; what people call it stands in `voice.json`, so no name is ever used as a path.
"""

import asyncio
import json
import shutil
import tempfile
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.say import spoken
from app.worker import Worker
from asr.base import SAMPLE_RATE as CAPTURE_HZ
from asr.base import Recognizer
from audio_io.file import write_wav
from audio_io.resample import resample
from tts.base import SAMPLE_RATE, Synthesizer, VoiceError

OWN = "Assistant's own voice"
MIN_SPEECH_S = 2.0
_MAX_NAME_CHARS = 40
_MAX_TRANSCRIPT_CHARS = 500
_MAX_PREVIEW_CHARS = 200
_PREPARED = 16  # voices kept ready in memory


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recording that can become a voice."""

    samples: np.ndarray  # float32 (N,) at 24 kHz: trimmed and levelled
    notes: tuple[str, ...]  # what a person should know about it
    transcript: str  # as our recogniser reads it

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Preview:
    """A sentence in a voice that is not kept yet."""

    samples: np.ndarray  # float32 (N,) at 24 kHz
    notes: tuple[str, ...]  # what a person should know about the voice


class VoiceLibrary:
    """The voices of one folder. Slow work runs on the models' threads."""

    def __init__(
        self,
        folder: Path,
        *,
        recognizer: Recognizer,
        synthesizer: Synthesizer,
        asr_worker: Worker,
        tts_worker: Worker,
        max_voices: int,
        own: Any = None,
        prosody: bool = False,
    ) -> None:
        """`own`: the voice that the configuration chose; `prosody`: voices go on from what their recordings say."""
        self._folder = folder
        self._recognizer, self._synthesizer = recognizer, synthesizer
        self._asr_worker, self._tts_worker = asr_worker, tts_worker
        self._max_voices, self.own, self._prosody = max_voices, own, prosody
        self._prepared: OrderedDict[Path, Any] = OrderedDict()
        self._making = asyncio.Lock()  # one voice at a time is read or kept; replies have the other threads

    def names(self) -> list[str]:
        """Names of the voices, sorted."""
        return sorted(self._kept(), key=str.casefold)

    async def examine(self, recording: Path) -> Candidate:
        """Check, trim and level a recording and read what is said in it. Raises VoiceError in one line."""
        return await self._asr_worker.run(self._examine, recording)

    def _examine(self, recording: Path) -> Candidate:
        from tts.voice import read_reference

        try:
            reference = read_reference(recording, min_speech_s=MIN_SPEECH_S)
        except VoiceError as error:
            raise VoiceError(str(error).replace(str(recording), recording.name)) from None
        text = self._recognizer.transcribe(resample(reference.samples, SAMPLE_RATE, CAPTURE_HZ))
        return Candidate(reference.samples, reference.notes, text)

    async def save(self, name: str, candidate: Candidate, transcript: str, *, consent: bool) -> None:
        """Keep a voice under a name. Raises VoiceError in one line."""
        async with self._making:
            await self._tts_worker.run(self._save, name, candidate, transcript, consent=consent)

    def _save(self, name: str, candidate: Candidate, transcript: str, *, consent: bool) -> None:
        name = " ".join(name.split())
        if not name or len(name) > _MAX_NAME_CHARS or not name.isprintable():
            raise VoiceError(f"give the voice a name of at most {_MAX_NAME_CHARS} characters.")
        if not consent:
            raise VoiceError("tick that the speaker agrees that this voice is used.")
        kept = self._kept()
        if name.casefold() in {other.casefold() for other in (*kept, OWN)}:
            raise VoiceError(f"there is a voice {name!r} already; choose another name or delete that one.")
        if len(kept) >= self._max_voices:
            raise VoiceError(f"there are {len(kept)} voices already, which is the limit; delete one.")
        values = {
            "name": name,
            "transcript": transcript.strip()[:_MAX_TRANSCRIPT_CHARS],
            "notes": candidate.notes,
            "consent": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=".new-") as made:
                write_wav(Path(made) / "reference.wav", candidate.samples, SAMPLE_RATE)
                (Path(made) / "voice.json").write_text(json.dumps(values, indent=1) + "\n", "utf-8")
                shutil.copytree(made, self._folder / uuid.uuid4().hex)
        except OSError as error:
            raise VoiceError(f"the voice cannot be kept: {error.strerror or error}.") from None

    def delete(self, name: str) -> None:
        """Remove a voice and its recording. Raises VoiceError."""
        folder = self._find(name)
        self._prepared.pop(folder, None)
        shutil.rmtree(folder, ignore_errors=True)

    async def prepared(self, name: str) -> Any:
        """The voice to pass to the synthesiser; one that was kept has `notes`. Raises VoiceError."""
        if name == OWN:
            return self.own
        folder = self._find(name)
        if folder not in self._prepared:
            self._prepared[folder] = await self._voice(folder / "reference.wav", _transcript(folder / "voice.json"))
            while len(self._prepared) > _PREPARED:
                self._prepared.popitem(last=False)
        self._prepared.move_to_end(folder)
        return self._prepared[folder]

    async def _voice(self, recording: Path, transcript: str) -> Any:
        said = transcript if self._prosody else ""
        async with self._making:
            return await self._tts_worker.run(self._synthesizer.voice, recording, said)

    async def preview(self, candidate: Candidate, text: str, transcript: str) -> Preview:
        """A sentence in the voice of a recording that says `transcript`. Raises VoiceError."""
        text = " ".join(text.split())[:_MAX_PREVIEW_CHARS]
        if not text:
            raise VoiceError("write what the voice shall say.")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reference.wav"
            await self._tts_worker.run(write_wav, path, candidate.samples, SAMPLE_RATE)
            voice = await self._voice(path, transcript[:_MAX_TRANSCRIPT_CHARS])
        stream = await self._tts_worker.run(self._synthesizer.stream, voice=voice, share_ids=False)
        stream.push(0, text)
        stream.finish()
        parts = [chunk.samples async for chunk in spoken(stream, self._tts_worker)]
        return Preview(np.concatenate(parts), voice.notes)

    def _kept(self) -> dict[str, Path]:
        """Folder of each voice by name; what cannot be read is left alone."""
        found = {}
        for file in self._folder.glob("*/voice.json"):
            if file.parent.name.startswith("."):
                continue
            try:
                found[str(json.loads(file.read_text("utf-8"))["name"])] = file.parent
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return found

    def _find(self, name: str) -> Path:
        try:
            return self._kept()[name]
        except KeyError:
            raise VoiceError(f"there is no voice {name!r} any more; choose another one.") from None


def _transcript(file: Path) -> str:
    """What a kept recording says; nothing where that cannot be read."""
    try:
        return str(json.loads(file.read_text("utf-8")).get("transcript", ""))
    except (OSError, ValueError, AttributeError):
        return ""
