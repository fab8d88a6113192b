"""When every word and every text token of a spoken file is heard: from the durations, exact to one speech token."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TextIO

from configs.schema import AppConfig, ConfigError
from tts.base import SAMPLE_RATE, SpeechStep

SUFFIXES = (".json", ".vtt")
_SHORTEST_CUE_S = 0.001  # WebVTT wants a cue to end after its start


@dataclass(frozen=True, slots=True)
class Timed:
    """A piece of the spoken text and its time in the file, in seconds."""

    text: str
    start: float
    end: float


class Timeline:
    """Collects the steps of one file in the order in which they are spoken."""

    def __init__(self) -> None:
        self.tokens: list[Timed] = []
        self._num_samples = 0

    def add(self, step: SpeechStep) -> None:
        """The next step."""
        start = self._num_samples / SAMPLE_RATE
        self._num_samples += step.num_samples
        self.tokens.append(Timed(step.text, round(start, 3), round(self._num_samples / SAMPLE_RATE, 3)))

    def words(self) -> list[Timed]:
        """The words that the tokens make up."""
        return group(self.tokens)


def group(tokens: Sequence[Timed]) -> list[Timed]:
    """Words from tokens, cut at white space.

    A word lasts from its first to its last token with a letter or a digit: punctuation belongs to its text, the pause
    on it does not belong to its time. A token without text (bytes of an unfinished character) counts as a letter.
    Punctuation that stands alone is no word.
    """
    words: list[Timed] = []
    word: Timed | None = None
    opened = ""  # punctuation before the word's first letter
    for token in tokens:
        if token.text[:1].isspace():
            word, opened = None, ""
        text = token.text.strip()
        voiced = not token.text or any(letter.isalnum() for letter in text)
        if word is None and not voiced:
            opened += text
        elif word is None:
            words.append(word := Timed(opened + text, token.start, token.end))
        else:
            words[-1] = word = replace(word, text=word.text + text, end=token.end if voiced else word.end)
        if token.text[-1:].isspace():
            word, opened = None, ""
    return words


def to_json(timeline: Timeline) -> str:
    """`{"words": [{"text", "start", "end"}, ...], "tokens": [...]}`, one word or token per line."""
    lists = {"words": timeline.words(), "tokens": timeline.tokens}
    parts = []
    for name, items in lists.items():
        lines = ",\n".join("  " + json.dumps(asdict(item), ensure_ascii=False) for item in items)
        parts.append(f'"{name}": [\n{lines}\n]')
    return "{" + ",\n".join(parts) + "}\n"


def to_vtt(timeline: Timeline) -> str:
    """WebVTT with one cue for each word."""
    cues = ["WEBVTT\n"]
    for word in timeline.words():
        text = word.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        end = max(word.end, word.start + _SHORTEST_CUE_S)
        cues.append(f"{_clock(word.start)} --> {_clock(end)}\n{text}\n")
    return "\n".join(cues)


def check(path: Path, out: Path, config: AppConfig) -> None:
    """Raises ConfigError for a name that says neither JSON nor WebVTT or is the sound's, and without durations."""
    if config.tts.backend == "interleaved":
        raise ConfigError(f"--timestamps {path}: the interleaved model has no durations; use tts.backend=syncspeech.")
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--timestamps {path}: name a .json file, or a .vtt file for WebVTT.")
    if path.resolve() == out.resolve():
        raise ConfigError(f"--timestamps {path}: the sound has the same name; choose another one.")


@contextmanager
def writing(path: Path, timeline: Timeline) -> Iterator[None]:
    """Write the file, as its suffix says, when the block is left: whole, or not at all after an exception.

    Raises ConfigError at once where it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    file = _open(part, path)
    try:
        with file:
            yield
            file.write(to_vtt(timeline) if path.suffix.lower() == ".vtt" else to_json(timeline))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _open(part: Path, path: Path) -> TextIO:
    if path.is_dir():
        raise ConfigError(f"--timestamps {path}: a folder; give the name of a file.")
    try:
        return part.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--timestamps {path}: cannot be written ({error.strerror}); choose another place.") from None


def _clock(seconds: float) -> str:
    """hh:mm:ss.mmm."""
    total = round(1000 * seconds)
    return f"{total // 3_600_000:02d}:{total // 60_000 % 60:02d}:{total // 1000 % 60:02d}.{total % 1000:03d}"
