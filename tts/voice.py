"""A voice from a reference recording: read, check, trim and level the audio, then tokens, mel and speaker vector.

Samples are float32 mono in [-1, 1]; S speech tokens (25 Hz), E embedding size.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from configs.schema import MAX_REFERENCE_S
from tts.base import SAMPLE_RATE, SAMPLES_PER_TOKEN, VoiceError
from tts.features import mel_24k, resample
from tts.speaker import SpeakerEncoder
from tts.tokenizer import SpeechTokenizer

MIN_SPEECH_S = 1.0

_MAX_READ_S = 120.0  # of a longer file only the beginning is looked at
_FRAME_S = 0.02
_LEAD_S, _TAIL_S = 0.08, 0.12  # silence kept before and after the speech
_SPEECH_DB = -32.0  # a frame this far below the loud ones still is speech
_SILENCE = 10 ** (-60 / 20)  # a recording whose loud frames are below this (root mean square) is silent
_LEVEL = 0.107  # root mean square of the speech frames after levelling: as loud as the training speech
_PEAK = 0.95
_CLIPPED_SHARE = 1e-3


@dataclass(frozen=True)
class Voice:
    """What a reference recording tells the decoder; it is all a cloned voice consists of."""

    name: str
    tokens: np.ndarray  # int64 (S,): speech tokens of the prompt
    mel: np.ndarray  # float32 (80, 2 S): log mel of the prompt at 50 Hz
    embedding: np.ndarray  # float32 (E,): speaker vector, not normalised
    notes: tuple[str, ...] = ()  # what a person should know about the recording, in sentences

    def save(self, path: Path) -> None:
        """Write the voice as one safetensors file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"tokens": self.tokens, "mel": self.mel, "embedding": self.embedding}
        save_file(arrays, path, metadata={"name": self.name, "notes": "\n".join(self.notes)})

    @classmethod
    def load(cls, path: Path) -> "Voice":
        """Read a voice that `save` wrote. Raises VoiceError."""
        try:
            with safe_open(path, "numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
                metadata = file.metadata() or {}
        except FileNotFoundError:
            raise VoiceError(f"there is no voice file {path}: check the path.") from None
        except (SafetensorError, OSError) as error:
            raise VoiceError(f"{path} is not a complete voice file ({error}): make or fetch it again.") from None
        if arrays.keys() != {"tokens", "mel", "embedding"} or arrays["mel"].shape != (80, 2 * len(arrays["tokens"])):
            raise VoiceError(f"{path} is a safetensors file but not a voice: make it again with Voice.save.")
        notes = tuple(line for line in metadata.get("notes", "").split("\n") if line)
        return cls(metadata.get("name", path.stem), arrays["tokens"], arrays["mel"], arrays["embedding"], notes)


@dataclass(frozen=True)
class Reference:
    """A recording fit to be a voice: trimmed, levelled 24 kHz samples (N,), N a multiple of 960."""

    samples: np.ndarray
    notes: tuple[str, ...]


class VoiceEncoder:
    """Turns reference recordings into voices."""

    def __init__(self, tokenizer: SpeechTokenizer, speaker: SpeakerEncoder, *, max_prompt_s: float = 10.0) -> None:
        """`max_prompt_s`: longest prompt for the decoder; the speaker vector hears all of the reference."""
        self._tokenizer, self._speaker, self._max_prompt_s = tokenizer, speaker, max_prompt_s

    def read(self, path: Path, *, name: str | None = None) -> Voice:
        """Read a recording (see `read_reference`) and encode it. Raises VoiceError."""
        return self.encode(read_reference(path), name=name or path.stem)

    @torch.inference_mode()
    def encode(self, reference: Reference, *, name: str) -> Voice:
        """The voice of a reference."""
        embedding = self._speaker.embed(resample(reference.samples, SAMPLE_RATE, 16_000))
        prompt = _whole_tokens(_best_part(reference.samples, self._max_prompt_s))
        tokens = self.tokens(prompt)
        mel = mel_24k(torch.from_numpy(prompt)[None])[0].numpy()
        count = min(len(tokens), mel.shape[1] // 2)
        return Voice(name, tokens[:count], np.ascontiguousarray(mel[:, : 2 * count]), embedding, reference.notes)

    @torch.inference_mode()
    def tokens(self, samples: np.ndarray) -> np.ndarray:
        """Speech tokens int64 (S,) of 24 kHz samples."""
        return self._tokenizer.encode(resample(samples, SAMPLE_RATE, 16_000)).astype(np.int64)


def read_reference(path: Path, *, min_speech_s: float = MIN_SPEECH_S) -> Reference:
    """Read a WAV, FLAC, OGG or MP3 file of any rate and number of channels and make it fit to be a voice.

    Raises VoiceError, in one sentence, when it is missing, not audio, empty, not finite, silent or has less than
    `min_speech_s` seconds of speech. What could be mended (too long, clipped, telephone band) is in the notes.
    """
    samples, rate, notes = _read(path)
    peak = float(np.abs(samples).max())
    if peak >= 0.99 and float(np.mean(np.abs(samples) >= 0.995 * peak)) > _CLIPPED_SHARE:
        notes.append("The recording is clipped, which the cloned voice may repeat: record again at a lower level.")
    if rate < 16_000:
        notes.append(f"The recording has a sample rate of {rate} Hz only, so the cloned voice may sound dull.")
    samples = resample(samples - samples.mean(), rate, SAMPLE_RATE)
    speech = _speech_frames(samples)
    if not speech.any():
        raise VoiceError(
            f"the reference audio {path} is silent: give 3 to {MAX_REFERENCE_S:g} s of one person speaking."
        )
    speech_s = float(speech.sum()) * _FRAME_S
    if speech_s < min_speech_s:
        raise VoiceError(
            f"the reference audio {path} has only {speech_s:.1f} s of speech: "
            f"give at least {min_speech_s:.1f} s, better 3 to {MAX_REFERENCE_S:g} s."
        )
    samples = _trimmed(samples, speech)
    if len(samples) > MAX_REFERENCE_S * SAMPLE_RATE:
        length_s = len(samples) / SAMPLE_RATE
        notes.append(f"Of {length_s:.0f} s of audio the {MAX_REFERENCE_S:g} s with most speech are used.")
        samples = _best_part(samples, MAX_REFERENCE_S)
    samples = _whole_tokens(_levelled(samples))
    return Reference(samples, tuple(notes))


def _read(path: Path) -> tuple[np.ndarray, int, list[str]]:
    """Mono samples, sample rate and notes of an audio file."""
    wanted = "give a WAV, FLAC, OGG or MP3 recording of one person speaking"
    if not path.exists():
        raise VoiceError(f"there is no reference audio {path}: check the path.")
    if path.is_dir():
        raise VoiceError(f"the reference audio {path} is a folder: {wanted}.")
    if path.stat().st_size == 0:
        raise VoiceError(f"the reference audio {path} is an empty file: {wanted}.")
    notes: list[str] = []
    try:
        with soundfile.SoundFile(path) as file:
            rate = int(file.samplerate)
            if file.frames > _MAX_READ_S * rate:
                notes.append(f"Only the first {_MAX_READ_S:.0f} s of the file were looked at.")
            data = file.read(int(_MAX_READ_S * rate), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise VoiceError(f"the reference audio {path} cannot be read as audio ({error}): {wanted}.") from None
    if len(data) == 0:
        raise VoiceError(f"the reference audio {path} holds no samples: {wanted}.")
    if not np.isfinite(data).all():
        raise VoiceError(f"the reference audio {path} holds NaN or infinite values: export it again.")
    return data.mean(axis=1), rate, notes


def _frame_levels(samples: np.ndarray) -> np.ndarray:
    """Root mean square of each 20 ms frame; the last one may be shorter."""
    size = round(_FRAME_S * SAMPLE_RATE)
    padded = np.pad(samples, (0, -len(samples) % size))
    return np.sqrt(np.square(padded.reshape(-1, size), dtype=np.float64).mean(axis=1))


def _speech_frames(samples: np.ndarray) -> np.ndarray:
    """Bool per 20 ms frame: loud enough to be speech, measured against the loud frames of the recording."""
    levels = _frame_levels(samples)
    loud = float(np.quantile(levels, 0.95)) if len(levels) > 20 else float(levels.max())
    loud = max(loud, 0.5 * float(np.sort(levels)[-5:].mean()))  # few loud frames in much silence
    if loud < _SILENCE:
        return np.zeros(len(levels), dtype=bool)
    return levels > max(loud * 10 ** (_SPEECH_DB / 20), 0.5 * _SILENCE)


def _trimmed(samples: np.ndarray, speech: np.ndarray) -> np.ndarray:
    """Without the silence at both ends, but for a short rest of it."""
    frames = np.flatnonzero(speech)
    start = max(0, round((frames[0] * _FRAME_S - _LEAD_S) * SAMPLE_RATE))
    return samples[start : round(((frames[-1] + 1) * _FRAME_S + _TAIL_S) * SAMPLE_RATE)]


def _best_part(samples: np.ndarray, longest_s: float) -> np.ndarray:
    """The stretch of at most `longest_s` with most speech; it begins and, if it can, ends in a pause."""
    size = round(longest_s / _FRAME_S)
    speech = _speech_frames(samples)
    if len(speech) <= size:
        return samples
    amount = np.concatenate([[0], np.cumsum(speech)])
    starts = np.arange(len(speech) - size + 1)
    in_pause = ~speech[starts]
    in_pause[0] = True
    gain = np.where(in_pause, amount[starts + size] - amount[starts], -1)
    first = int(gain.argmax())
    pauses = np.flatnonzero(~speech[first : first + size])
    end = first + size
    if len(pauses) and pauses[-1] > 0.7 * size:
        end = first + int(pauses[-1]) + 1
    step = round(_FRAME_S * SAMPLE_RATE)
    return samples[first * step : end * step]


def _levelled(samples: np.ndarray) -> np.ndarray:
    """Scaled so that its speech is as loud as the training speech."""
    levels = _frame_levels(samples)[_speech_frames(samples)]
    gain = _LEVEL / max(float(np.sqrt(np.square(levels).mean())), 1e-6)
    return samples * min(gain, _PEAK / max(float(np.abs(samples).max()), 1e-6))


def _whole_tokens(samples: np.ndarray) -> np.ndarray:
    """Silence added up to a whole number of speech tokens."""
    return np.pad(samples, (0, -len(samples) % SAMPLES_PER_TOKEN)).astype(np.float32)
