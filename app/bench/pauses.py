"""Spoken questions with a pause within a clause: is the user let finish? Made when they are asked for, from fixed seeds.

The texts are the held-out questions of `app/small`, which no model was trained on. Each is spoken in one breath and broken
where a draw says, between any two words that no comma or stop divides.
"""

import numpy as np

from app.bench.cases import CLIP_HZ, LEAD_S, Case, in_room
from asr.units import normalise
from audio_io.resample import resample
from configs.schema import ConfigError

NAME = "pauses"  # in `--cases`
DRAWS = 2  # of each question: another break, another length, another voice
SHORTEST_S, LONGEST_S = 0.3, 0.8
VOICES = ("slt", "rms", "awb", "kal16", "en-us+m1 p55", "en-us+f2 p60", "en-us+m3 p30", "en-us+f4 p45")
_FEWEST_WORDS = 4
_FADE_S = 0.005


def questions_with_pauses() -> list[Case]:
    """The cases. Raises ConfigError where flite or espeak-ng is missing."""
    from app.small.corpus import held_out_questions
    from app.small.synth import SAMPLE_RATE, SynthesizerError
    from app.small.voices import Speaker, training_voices

    voices = {voice.name: voice for voice in training_voices()}
    try:
        speaker = Speaker()
    except SynthesizerError as error:
        raise ConfigError(f"--cases {NAME}: {error}.") from error
    found = []
    for index, question in enumerate(held_out_questions()):
        words = question["text"].split()
        if len(words) < _FEWEST_WORDS:
            continue
        for draw in range(DRAWS):
            rng = np.random.default_rng((index, draw))
            place = int(rng.choice([i for i in range(1, len(words)) if words[i - 1][-1] not in ".,!?;:"]))
            speech = speaker.speak(question["text"], voices[VOICES[(index + draw * 3) % len(VOICES)]])
            at = (speech.words[place - 1][2] + speech.words[place][1]) / 2
            samples = resample(speech.samples, SAMPLE_RATE, CLIP_HZ)
            found.append(
                _broken(
                    f"{question['id']}.{draw + 1}",
                    question["text"],
                    tuple(map(tuple, question["keywords"])),
                    samples,
                    round(at * CLIP_HZ),
                    float(rng.uniform(SHORTEST_S, LONGEST_S)),
                    rng,
                )
            )
    return found


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
