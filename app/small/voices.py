"""The voices of the synthetic corpus: which are trained on, which are kept for tests of unseen voices."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.small.synth import Espeak, Flite, Speech

DEFAULT = "slt"  # the voice of the assistant

_MALE = (
    "m1 m2 m3 m4 m5 m6 m7 adam Alex antonio benjamin boris caleb david Denis Diogo ed edward2 Gene Gene2"
    " gustave Henrique Hugo iven iven3 Jacky john Lee marcelo Marco Mario michel miguel Mike Nguyen norbert"
    " pablo paul pedro quincy RicishayMax rob robert sandro shelby zac grandpa klatt klatt3"
)
_FEMALE = "f1 f2 f3 f4 aunty Andrea Annie anika steph steph2 steph3"
_MALE_PITCHES, _FEMALE_PITCHES = (30, 55, 85), (30, 45, 60, 75)
_ACCENTS = ("en-gb-scotland", "en-029", "gmw/en", "en-gb-x-rp", "en-us-nyc")  # gmw/en is British English
_ACCENT_VARIANTS = (("m2", 45), ("m5", 55), ("f2", 50), ("f4", 60))
_HELD_OUT = (
    ("f5", 50), ("linda", 40), ("belinda", 65), ("Alicia", 55), ("grandma", 60), ("Michael", 50),
    ("m8", 40), ("edward", 65), ("victor", 80), ("max", 30), ("travis", 55), ("iven2", 75),
)  # fmt: skip


@dataclass(frozen=True)
class Voice:
    """A speaker: an engine's voice at one pitch. `name` is its identity in the corpus."""

    name: str
    engine: Literal["flite", "espeak"]
    source: str  # the engine's own name of it
    pitch: int = 50  # espeak-ng's scale, 0..99


def _espeak(language: str, variant: str, pitch: int) -> Voice:
    return Voice(f"{language.removeprefix('gmw/')}+{variant} p{pitch}", "espeak", f"{language}+{variant}", pitch)


def training_voices() -> tuple[Voice, ...]:
    """Every voice the models are trained on: flite's four first, the default voice at the head."""
    flite = [Voice(name, "flite", name) for name in (DEFAULT, "rms", "awb", "kal16")]
    american = [_espeak("en-us", v, p) for v in _MALE.split() for p in _MALE_PITCHES]
    american += [_espeak("en-us", v, p) for v in _FEMALE.split() for p in _FEMALE_PITCHES]
    accents = [_espeak(language, v, p) for language in _ACCENTS for v, p in _ACCENT_VARIANTS]
    return (*flite, *american, *accents)


def held_out_voices() -> tuple[Voice, ...]:
    """Twelve voices of both sexes whose variants no training voice uses."""
    return tuple(_espeak("en-us", variant, pitch) for variant, pitch in _HELD_OUT)


def draw(rng: np.random.Generator, voices: tuple[Voice, ...]) -> Voice:
    """A training voice: 35 % the default voice, 20 % flite's other three, 45 % espeak-ng's."""
    flite = [v for v in voices if v.engine == "flite"]
    group = ([flite[0]], flite[1:], voices[len(flite) :])[int(rng.choice(3, p=(0.35, 0.20, 0.45)))]
    return group[int(rng.integers(len(group)))]


class Speaker:
    """Speaks texts in any `Voice`; both engines are loaded when made (SynthesizerError when one is missing)."""

    def __init__(self) -> None:
        self._flite, self._espeak = Flite(), Espeak()

    def speak(self, text: str, voice: Voice, *, rate: float = 1.0) -> Speech:
        """AlignmentError when the words' times cannot be known."""
        if voice.engine == "flite":
            return self._flite.speak(text, voice.source, rate=rate)
        return self._espeak.speak(text, voice.source, pitch=voice.pitch, rate=rate)
