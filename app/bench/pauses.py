"""Spoken questions with a pause within a clause: is the user let finish? Made when they are asked for, from fixed seeds.

No model was trained on the texts; of the voices, flite's are known to the models. Each is spoken in one breath and broken where
a draw says, between any two words that no comma or stop divides. There are three parts, which share no text: what the assistant
is improved on ("development"), what is reported ("held-out"), and, in the same voices, what no judge of turn ends and no silence
was chosen by ("fresh").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.bench.cases import CLIP_HZ, LEAD_S, Case, in_room
from asr.units import normalise
from audio_io.resample import resample
from configs.schema import ConfigError

if TYPE_CHECKING:
    from app.small.voices import Voice

NAME = "pauses"  # in `--cases`
HELD_OUT, DEVELOPMENT, FRESH = PARTS = ("held-out", "development", "fresh")
SHORTEST_S, LONGEST_S = 0.3, 0.8
_FEWEST_WORDS = 4
_FADE_S = 0.005


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What is said, and by whom."""

    questions: Sequence[tuple[str, str, tuple[tuple[str, ...], ...]]]  # name, text, keywords of the answer
    voices: Sequence["Voice"]
    draws: int  # of each question: another break, another length, another voice
    seed: int


def questions_with_pauses(part: str = HELD_OUT) -> list[Case]:
    """The cases. Raises ConfigError where flite or espeak-ng is missing."""
    from app.small.synth import SAMPLE_RATE, SynthesizerError
    from app.small.voices import Speaker

    try:
        speaker = Speaker()
    except SynthesizerError as error:
        raise ConfigError(f"questions with pauses cannot be spoken: {error}.") from error
    chosen = {HELD_OUT: _held_out, DEVELOPMENT: _development, FRESH: _fresh}[part]()
    found = []
    for index, (name, text, keywords) in enumerate(chosen.questions):
        words = text.split()
        if len(words) < _FEWEST_WORDS:
            continue
        for draw in range(chosen.draws):
            rng = np.random.default_rng((index, draw, chosen.seed))
            voice = chosen.voices[int(rng.integers(len(chosen.voices)))]
            place = int(rng.choice([i for i in range(1, len(words)) if words[i - 1][-1] not in ".,!?;:"]))
            speech = speaker.speak(text, voice)
            at = (speech.words[place - 1][2] + speech.words[place][1]) / 2
            samples = resample(speech.samples, SAMPLE_RATE, CLIP_HZ)
            pause_s = float(rng.uniform(SHORTEST_S, LONGEST_S))
            found.append(_broken(f"{name}.{draw + 1}", text, keywords, samples, round(at * CLIP_HZ), pause_s, rng))
    return found


def _held_out() -> _Part:
    """The 40 held-out questions, two recordings of each."""
    return _asked("questions", draws=2, seed=2)


def _fresh() -> _Part:
    """The 40 questions used before these, which the judges of turn ends have not seen either, six recordings of each."""
    return _asked("questions_dev", draws=6, seed=7)


def _asked(name: str, draws: int, seed: int) -> _Part:
    """By two voices of flite's and the twelve of espeak-ng's that no model was trained on."""
    from app.small.corpus import held_out_questions
    from app.small.voices import held_out_voices

    questions = [(q["id"], q["text"], tuple(map(tuple, q["keywords"]))) for q in held_out_questions(name)]
    return _Part(questions=questions, voices=(*_flite("rms", "kal16") * 2, *held_out_voices()), draws=draws, seed=seed)


def _development() -> _Part:
    """The held-out paraphrases, by flite's other two voices and those of espeak-ng's that the models were trained on."""
    from app.small.voices import training_voices
    from llm.training.score import HELD_OUT as PARAPHRASES
    from llm.training.score import read_questions

    said = [question.turns[-1] for question in read_questions(PARAPHRASES)]
    questions = [(f"p{index:03d}", f"{text[0].upper()}{text[1:]}?", ()) for index, text in enumerate(said)]
    espeak = [voice for voice in training_voices() if voice.engine == "espeak"]
    return _Part(questions=questions, voices=(*_flite("slt", "awb") * (len(espeak) // 8), *espeak), draws=1, seed=1)


def _flite(*names: str) -> tuple["Voice", ...]:
    from app.small.voices import training_voices

    return tuple(voice for voice in training_voices() if voice.name in names)


def _broken(
    name: str,
    text: str,
    keywords: tuple[tuple[str, ...], ...],
    samples: np.ndarray,
    at: int,
    pause_s: float,
    rng: np.random.Generator,
) -> Case:
    """A recording, float32 (N,), with a pause at a sample."""
    fade = np.linspace(0.0, 1.0, round(_FADE_S * CLIP_HZ), dtype=np.float32)
    first, second = samples[:at].copy(), samples[at:].copy()
    first[-len(fade) :] *= fade[::-1]
    second[: len(fade)] *= fade
    lead = np.zeros(round(LEAD_S * CLIP_HZ), np.float32)
    pause = np.zeros(round(pause_s * CLIP_HZ), np.float32)
    begins = LEAD_S + at / CLIP_HZ
    whole, _ = in_room([lead, first, pause, second], rng)
    return Case(
        name=name,
        samples=whole,
        text=normalise(text),
        keywords=keywords,
        pauses=((begins, begins + pause_s),),
    )
