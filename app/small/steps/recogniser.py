"""Steps of the recogniser: its model, and where a turn ends."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from app.small import corpus as speech_corpus
from app.small.plan import Places, SmallTraining, fit
from app.small.steps.material import examples
from app.small.voices import DEFAULT

if TYPE_CHECKING:
    from asr.training.data import Recording

NUM_TURNS_JUDGED = 400
PROSE_SHARE = 0.4  # of the spoken turns
FLITE_SHARE = 0.3
FEWEST_WORDS = 3  # of a turn that can be broken off
NUM_PROSE_HEARD = 6000  # utterances of the assistant's own voice that the recogniser hears beside the voices


def paraformer(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the recogniser: on all voices, on rare words from all but the assistant's own, and on some prose of that."""
    from asr.training.paraformer import ParaformerConfig, task

    speech = itertools.chain(
        recordings(places, "voices"),
        recordings(places, "words", but=DEFAULT),
        recordings(places, "prose", NUM_PROSE_HEARD),
    )
    made = task(
        speech,
        recordings(places, "heldout_seen", 120),
        ParaformerConfig(),
        start=places.first_weights("paraformer"),
        show_bar=True,
    )
    return fit(places, "paraformer", made, plan.paraformer)


def recordings(places: Places, name: str, limit: int | None = None, but: str = "") -> Iterator["Recording"]:
    """Utterances as the recogniser's trainer takes them, without those of the voice `but`."""
    from asr.training.data import Recording

    for samples, utterance in examples(places, name, limit):
        if utterance.voice == but:
            continue
        yield Recording(
            samples=samples, sample_rate=24_000, text=utterance.text, words=utterance.words, phones=utterance.phones
        )


def turn_end(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Learn from dialogues and prose where a turn ends."""
    from app.small.text import SpokenText
    from asr.training import turn_end as training

    said = _said(plan.corpus.seed, plan.corpus.turn_end_dialogues)
    found = training.examples([*said, *SpokenText().prose(plan.corpus.seed, plan.corpus.turn_end_lines)])
    weights, bias = training.learn(found)
    training.save(weights, bias, places.asset("turn_end"))
    return {"examples": len(found), "weights": len(weights)}


def turn_sound(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Learn from dialogues and prose, spoken for this, how the end of a turn sounds."""
    from asr.training.turn_sound import TurnSoundTask

    amount = plan.corpus
    task = TurnSoundTask(
        spoken_turns(amount.seed, amount.turn_sound_lines), recordings(places, "heldout_seen", NUM_TURNS_JUDGED)
    )
    others = {"corpus.seed": amount.seed, "corpus.turn_sound_lines": amount.turn_sound_lines}
    return fit(places, "turn_sound", task, plan.turn_sound, others)


def spoken_turns(seed: int, count: int) -> Iterator["Recording"]:
    """What users say in dialogues, and prose, in all training voices; each also as a question, since they end otherwise."""
    from app.small.synth import SAMPLE_RATE, AlignmentError
    from app.small.text import SpokenText
    from app.small.voices import Speaker, training_voices
    from asr.training.data import Recording

    rng = np.random.default_rng(seed)
    num_prose = round(PROSE_SHARE * count)
    said = list(dict.fromkeys(line for line in _said(seed, 2 * count) if len(line.split()) >= FEWEST_WORDS))
    lines = [*rng.permutation(said)[: count - num_prose], *SpokenText().prose(seed, num_prose)]
    speaker, voices = Speaker(), training_voices()
    groups = [[voice for voice in voices if voice.engine == engine] for engine in ("flite", "espeak")]
    for line in tqdm(lines, desc="speaking turns"):
        voice = (group := groups[int(rng.random() > FLITE_SHARE)])[int(rng.integers(len(group)))]
        mark = str(rng.choice(["", ".", "?", "?"]))
        text = f"{str(line).rstrip('.,!?;:')}{mark}" if mark else str(line)
        try:
            speech = speaker.speak(text, voice, rate=float(rng.uniform(0.9, 1.15)))
        except AlignmentError:
            continue
        yield Recording(
            samples=speech.samples, sample_rate=SAMPLE_RATE, text=text, words=speech.words, phones=speech.phones
        )


def _said(seed: int, dialogues: int) -> list[str]:
    """What users say in dialogues, without digits and without what is held out."""
    from asr.units import normalise
    from llm.training.dialogue import conversations
    from llm.training.score import HELD_OUT, read_questions

    written = {turn for question in read_questions(HELD_OUT) for turn in question.turns}
    held_out = {normalise(text) for text in (*written, *speech_corpus.unseen_questions())}
    said = [message.content for talk in conversations(seed, dialogues) for message in talk if message.role == "user"]
    return [line for line in said if not any(map(str.isdigit, line)) and normalise(line) not in held_out]
