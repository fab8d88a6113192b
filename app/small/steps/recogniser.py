"""Steps of the recogniser: its model, and where a turn ends."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from app.small import corpus as speech_corpus
from app.small.plan import Places, SmallTraining, fit
from app.small.steps.material import examples
from app.small.voices import DEFAULT

if TYPE_CHECKING:
    from asr.training.data import Recording

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
    from asr.units import normalise
    from llm.training.dialogue import conversations
    from llm.training.score import HELD_OUT, read_questions

    written = {turn for question in read_questions(HELD_OUT) for turn in question.turns}
    held_out = {normalise(text) for text in (*written, *speech_corpus.unseen_questions())}
    talks = conversations(plan.corpus.seed, plan.corpus.turn_end_dialogues)
    said = [message.content for talk in talks for message in talk if message.role == "user"]
    spoken = [line for line in said if not any(map(str.isdigit, line)) and normalise(line) not in held_out]
    found = training.examples([*spoken, *SpokenText().prose(plan.corpus.seed, plan.corpus.turn_end_lines)])
    weights, bias = training.learn(found)
    training.save(weights, bias, places.asset("turn_end"))
    return {"examples": len(found), "weights": len(weights)}
