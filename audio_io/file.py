"""Recordings as files: read with clear errors, written whole or not at all."""

import errno
import os
import wave
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import soundfile

from audio_io.base import AudioFileError
from audio_io.resample import StreamingResampler

_MIN_HZ, _MAX_HZ = 4_000, 384_000
_SILENT_PEAK = 10 ** (-60 / 20)
_FULL_SCALE = 0.999
_CLIPPED_SHARE = 0.001
_PROBE_BYTES = 512
_BLOCK_S = 10
_WANTED = "give a WAV, FLAC, OGG or MP3 recording"


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording as one channel at the wanted rate, and what a person should know about it."""

    samples: np.ndarray  # float32 (N,) in [-1, 1]
    notes: tuple[str, ...]  # silent, clipped, ...


def read_audio(path: Path, rate: int) -> Recording:
    """Read any file that libsndfile knows, as mono at `rate`. Raises AudioFileError."""
    path = Path(path)
    _check_readable(path)
    try:
        with soundfile.SoundFile(path) as file:
            return _read(file, path, rate)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:  # TypeError: a headerless format by its name
        raise AudioFileError(f"{path}: {_not_audio(path)}; {_WANTED}.") from error


def _read(file: Any, path: Path, rate: int) -> Recording:
    """Read block by block, so that a long recording needs little more memory than its result."""
    from_hz = file.samplerate
    if not _MIN_HZ <= from_hz <= _MAX_HZ:
        raise AudioFileError(f"{path}: a sample rate of {from_hz} Hz; use {_MIN_HZ} to {_MAX_HZ} Hz.")
    resampler = StreamingResampler(from_hz, rate)
    parts: list[np.ndarray] = []
    total, clipped, peak = 0, 0, 0.0
    for block in file.blocks(from_hz * _BLOCK_S, dtype="float32", always_2d=True):
        if not np.isfinite(block).all():
            raise AudioFileError(f"{path}: some samples are not numbers (NaN or infinite); export it again as PCM.")
        level = np.abs(block).max(axis=1)
        total += len(block)
        clipped += int((level >= _FULL_SCALE).sum())
        peak = max(peak, float(level.max(initial=0.0)))
        parts.append(resampler.push(block.mean(axis=1, dtype=np.float32)))
    if not total:
        raise AudioFileError(f"{path}: the file has a sound header but no samples; record it again.")
    samples = np.concatenate([*parts, resampler.finish()])
    notes = []
    if peak < _SILENT_PEAK:
        notes.append("the recording is silent; check the microphone")
    if peak > 1.0:
        samples = samples / np.float32(peak)
        notes.append("levels above full scale were scaled down")
    elif clipped > _CLIPPED_SHARE * total:
        notes.append("the recording is clipped; record at a lower level for better results")
    return Recording(np.clip(samples, -1.0, 1.0), tuple(notes))


def _check_readable(path: Path) -> None:
    """Say what is wrong with a path before it is read as sound."""
    try:
        if path.is_dir():
            raise AudioFileError(f"{path}: a folder, not a recording; {_WANTED}.")
        if not path.stat().st_size:
            raise AudioFileError(f"{path}: the file is empty; {_WANTED}.")
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise AudioFileError(f"{path}: there is no such file; check the path.") from error
    except PermissionError as error:
        raise AudioFileError(f"{path}: no permission to read it.") from error
    except (OSError, ValueError) as error:
        raise AudioFileError(f"{path}: cannot be read ({error}).") from error


def _not_audio(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(_PROBE_BYTES)
    text = start.decode("utf-8", errors="replace").rstrip("\ufffd")
    printable = text and all(char.isprintable() or char.isspace() for char in text)
    return "text, not sound" if printable else "not a sound file that can be read, or a damaged one"


def write_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """Write a whole recording, (N,) or (N, channels), as 16-bit WAV. Raises AudioFileError."""
    with WavWriter(path, rate, channels=1 if samples.ndim == 1 else samples.shape[1]) as out:
        out.write(samples)


class WavWriter:
    """Writes a 16-bit WAV file chunk by chunk; it appears under its name only when it is complete.

    Use it in `with`: leaving that by an exception removes what was written. Raises AudioFileError.
    """

    def __init__(self, path: Path, rate: int, *, channels: int = 1) -> None:
        """Open the part beside the file's place."""
        self._path = Path(path)
        self._part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        if self._path.is_dir():
            raise AudioFileError(f"{path}: a folder; give the name of a WAV file.")
        try:
            self._file = self._part.open("wb")
        except OSError as error:
            raise self._error(error) from error
        self._wave = wave.open(self._file, "wb")  # noqa: SIM115 - closed by `__exit__`
        self._wave.setnchannels(channels)
        self._wave.setsampwidth(2)
        self._wave.setframerate(rate)

    def __enter__(self) -> Self:
        return self

    def write(self, samples: np.ndarray) -> None:
        """Append float samples in [-1, 1], (N,) or (N, channels); they are on the disk when this returns."""
        pcm = np.round(np.clip(np.nan_to_num(samples), -1.0, 1.0) * 32767).astype("<i2")
        try:
            self._wave.writeframes(pcm.tobytes())
            self._file.flush()
        except OSError as error:
            raise self._error(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._wave.close()
                self._file.close()
                self._part.replace(self._path)
        except OSError as failed:
            raise self._error(failed) from failed
        finally:
            self._discard()

    def _discard(self) -> None:
        """Remove the part, if it is still there."""
        with suppress(OSError, ValueError):  # no space left for what was buffered; closed already
            self._wave.close()
        with suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)

    def _error(self, error: OSError) -> AudioFileError:
        reasons = {
            errno.ENOENT: f"the folder {self._path.parent} does not exist; make it first",
            errno.ENOTDIR: f"{self._path.parent} is not a folder",
            errno.EACCES: "no permission to write there; choose another folder",
            errno.EPERM: "no permission to write there; choose another folder",
            errno.EROFS: "the disk is read-only; choose another folder",
            errno.ENOSPC: "no space left on the disk",
        }
        return AudioFileError(f"{self._path}: cannot be written: {reasons.get(error.errno or 0, str(error))}.")
