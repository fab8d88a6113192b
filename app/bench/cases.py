"""What the benchmark plays to the assistant: a folder of recordings, or the built-in set.

The built-in set is made from short synthetic clips (`assets/*.flac`, by `make.py`); pauses, noise, coughs and the faint hiss
of a room are added when it is loaded, from fixed seeds, so that every run hears the same samples.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.bench.acoustic import Span, user_spans
from audio_io.base import AudioFileError
from audio_io.file import read_audio
from configs.schema import ConfigError

CLIP_HZ = 16_000
ASSETS = Path(__file__).parent / "assets"
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
LEAD_S, TAIL_S, NOISE_TAIL_S = 0.35, 0.3, 2.5
HISS = 10 ** (-78 / 20)
KEYS = ("text", "keywords", "pauses", "replies", "reply", "interruption")
REPLIES = (
    "That is a good question, and I am happy to answer it. The short answer is yes. Would you like to hear more?",
    "Let me think about that for a moment. There are two ways to look at it. The first one is simple, the second takes time.",
    "I am glad that you ask. Most people would say that it depends on the weather. I would take the train in any case.",
)  # of the stand-in for the language model


@dataclass(frozen=True, kw_only=True, eq=False)
class Interjection:
    """What the user utters while the reply is played."""

    samples: np.ndarray  # float32 (N,) at 16 kHz
    text: str  # "" for a cough
    after_s: float  # after the first audible sample of the reply
    aside: bool = False  # a back-channel word: the reply should go on, as after a cough

    @property
    def interrupts(self) -> bool:
        """The reply should stop."""
        return bool(self.text) and not self.aside


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One conversation to hold and what is expected of it."""

    name: str
    samples: np.ndarray  # float32 (N,) at 16 kHz
    text: str  # what is said; the stand-in for the recogniser reports it
    keywords: tuple[tuple[str, ...], ...] = ()  # of each group one must be in the answer; empty: not judged
    pauses: tuple[tuple[float, float], ...] = ()  # seconds within the recording where the user only thinks
    words_from: float = 0.0  # second before which there are only coughs
    replies: int = 1  # how many answers there should be
    interjection: Interjection | None = None
    reply: str = REPLIES[0]  # what the stand-in for the language model answers
    clean: np.ndarray | None = None  # `samples` before noise was added to them; None: there was none

    @property
    def voiced(self) -> tuple[Span, ...]:
        """Where the user is heard in it."""
        return user_spans(self.samples if self.clean is None else self.clean, CLIP_HZ)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A built-in case as `assets/cases.json` has it."""

    name: str
    voice: tuple[str, str, int]  # engine, its voice, pitch
    say: tuple[str | float, ...]
    keywords: tuple[tuple[str, ...], ...]
    noise_db: float | None = None
    cough_s: float | None = None
    interjection: dict[str, Any] | None = None

    @property
    def texts(self) -> list[str]:
        """Everything that is spoken, one clip each."""
        spoken = [part for part in self.say if isinstance(part, str)]
        said = (self.interjection or {}).get("say")
        return [*spoken, said] if said else spoken


def plans() -> list[Plan]:
    """The built-in cases."""
    values = json.loads((ASSETS / "cases.json").read_text(encoding="utf-8"))["cases"]
    return [
        Plan(**{**v, "voice": tuple(v["voice"]), "say": tuple(v["say"]), "keywords": tuple(map(tuple, v["keywords"]))})
        for v in values
    ]


def clip_path(name: str, index: int) -> Path:
    """Where a clip of a built-in case lies."""
    return ASSETS / f"{name}.{index}.flac"


def built_in() -> list[Case]:
    """The built-in set."""
    return [_assemble(plan, index) for index, plan in enumerate(plans())]


def _assemble(plan: Plan, index: int) -> Case:
    rng = np.random.default_rng(index)
    clips = [read_audio(clip_path(plan.name, i), CLIP_HZ).samples for i in range(len(plan.texts))]
    interjection = None
    if plan.interjection is not None:
        said = plan.interjection.get("say", "")
        sound = clips.pop() if said else cough(rng)
        interjection = Interjection(
            samples=in_room([sound], rng)[0],
            text=said,
            after_s=float(plan.interjection["after_s"]),
            aside=bool(plan.interjection.get("aside", False)),
        )
    parts, pauses, at = [np.zeros(_samples(LEAD_S), np.float32)], [], LEAD_S
    if plan.cough_s is not None:
        parts += [cough(rng), np.zeros(_samples(plan.cough_s), np.float32)]
        at += sum(len(part) for part in parts[1:]) / CLIP_HZ
    words_from = at if plan.say else np.inf
    for part in plan.say:
        if isinstance(part, str):
            parts.append(_trimmed(clips.pop(0)))
            at += len(parts[-1]) / CLIP_HZ
        else:
            parts.append(np.zeros(_samples(part), np.float32))
            pauses.append((at, at + part))
            at += part
    if not plan.say and plan.cough_s is None:
        parts.append(np.zeros(_samples(2.0), np.float32))
    spoken = [part for part in plan.say if isinstance(part, str)]
    samples, clean = in_room(parts, rng, plan.noise_db)
    return Case(
        name=plan.name,
        samples=samples,
        clean=clean,
        text=" ".join(spoken),
        keywords=plan.keywords,
        pauses=tuple(pauses),
        words_from=words_from - 0.05,
        replies=0 if not spoken else 2 if interjection and interjection.interrupts else 1,
        interjection=interjection,
        reply=REPLIES[index % len(REPLIES)],
    )


def _samples(seconds: float) -> int:
    return round(seconds * CLIP_HZ)


def _trimmed(clip: np.ndarray) -> np.ndarray:
    """Without the silence at both ends, so that a pause is as long as it says."""
    loud = np.flatnonzero(np.abs(clip) > 0.01)
    return clip[loud[0] : loud[-1] + 1]


def in_room(
    parts: list[np.ndarray], rng: np.random.Generator, noise_db: float | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Parts in a row with some silence after them, in faint hiss or in pink noise at a signal-to-noise ratio.

    Returns float32 (N,), and the same without the noise if there is any.
    """
    dry = np.concatenate([*parts, np.zeros(_samples(TAIL_S if noise_db is None else NOISE_TAIL_S), np.float32)])
    clean = np.clip(dry + HISS * rng.standard_normal(len(dry)), -1.0, 1.0).astype(np.float32)
    if noise_db is None:
        return clean, None
    spectrum = np.fft.rfft(rng.standard_normal(len(dry)))
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), len(dry))
    voiced = dry[np.abs(dry) > 0.01]
    noise = pink * np.sqrt((voiced**2).mean() / (pink**2).mean()) * 10 ** (-noise_db / 20)
    return np.clip(clean + noise, -1.0, 1.0).astype(np.float32), clean


def cough(rng: np.random.Generator) -> np.ndarray:
    """Two bursts of coloured noise, float32 (N,) at 16 kHz, about half a second."""
    bursts = []
    for length, level in ((0.18, 0.5), (0.07, 0.0), (0.22, 0.35)):
        count = _samples(length)
        spectrum = np.fft.rfft(rng.standard_normal(count))
        hertz = np.fft.rfftfreq(count, 1 / CLIP_HZ)
        coloured = np.fft.irfft(spectrum * np.exp(-(((hertz - 900) / 900) ** 2)), count)
        peak = np.abs(coloured).max() or 1.0
        bursts.append(level * coloured / peak * np.exp(-np.arange(count) / (0.3 * count)))
    return np.concatenate(bursts).astype(np.float32)


def from_folder(folder: Path) -> list[Case]:
    """One case per recording; NAME.json beside NAME.wav says what is expected. Raises ConfigError, AudioFileError."""
    if not folder.is_dir():
        raise ConfigError(f"--cases {folder}: there is no such folder; give one with recordings of questions.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SOUNDS)
    spoken_over = set()
    cases = []
    for path in paths:
        values = _expectations(path.with_suffix(".json"))
        if "interruption" in values:
            spoken_over.add(folder / str(values["interruption"].get("file", "")))
        cases.append((path, values))
    found = [_of_file(path, values, index) for index, (path, values) in enumerate(cases) if path not in spoken_over]
    if not found:
        raise ConfigError(f"--cases {folder}: no recording in it; put WAV, FLAC, OGG or MP3 files there.")
    return found


def _expectations(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error}).") from None
    if not isinstance(values, dict):
        raise ConfigError(f'{path}: expected an object such as {{"keywords": [["paris"]]}}.')
    unknown = [key for key in values if key not in KEYS]
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]}; known keys: {', '.join(KEYS)}.")
    if not isinstance(values.get("interruption", {}), dict):
        raise ConfigError(f'{path}: interruption takes an object such as {{"file": "stop.wav", "after_s": 1.0}}.')
    return values


def _of_file(path: Path, values: dict[str, Any], index: int) -> Case:
    beside = path.with_suffix(".json")
    try:
        interjection = None
        if "interruption" in values:
            told = values["interruption"]
            interjection = Interjection(
                samples=read_audio(path.parent / str(told["file"]), CLIP_HZ).samples,
                text=str(told.get("text", "words")),
                after_s=float(told.get("after_s", 1.0)),
                aside=bool(told.get("aside", False)),
            )
        return Case(
            name=path.stem,
            samples=read_audio(path, CLIP_HZ).samples,
            text=str(values.get("text", path.stem)),
            keywords=tuple((g,) if isinstance(g, str) else tuple(map(str, g)) for g in values.get("keywords", ())),
            pauses=tuple((float(a), float(b)) for a, b in values.get("pauses", ())),
            replies=int(values.get("replies", 2 if interjection and interjection.interrupts else 1)),
            interjection=interjection,
            reply=str(values.get("reply", REPLIES[index % len(REPLIES)])),
        )
    except AudioFileError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{beside}: {error!r} does not fit; write for example "
            '{"text": "...", "keywords": [["five", "5"]], "pauses": [[1.2, 1.8]], '
            '"interruption": {"file": "stop.wav", "after_s": 1.0, "text": "stop"}}.'
        ) from None
