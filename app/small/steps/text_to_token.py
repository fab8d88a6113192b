"""Steps from text tokens to speech tokens: the temporal masked transformer and what it is compared with."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from app.small.loop import LoopConfig
from app.small.plan import Places, SmallTraining, fit
from app.small.steps.aligned import Kept, fingerprint
from app.small.steps.material import codebook, token_arrays
from app.small.voices import DEFAULT

if TYPE_CHECKING:
    from app.small.corpus import Utterance
    from tts.training.tmt import TmtExample
    from tts.vocabulary import TextVocabulary


def tmt(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the temporal masked transformer on the assistant's own voice."""
    from tts.tmt.config import small_config
    from tts.training.tmt import TmtTraining, task

    data = text_to_token_data(places)
    config = replace(small_config(**data.sizes), mask=plan.tmt_mask)
    start = places.first_weights("tmt")
    training = (
        TmtTraining(alternating_share=0.0) if start else TmtTraining()
    )  # stage 1 is what the weights have behind them
    made = task(config, data.pieces, data.train, data.held_out, training, start=start)
    return fit(places, "tmt", made, plan.tmt, {"tmt_mask": plan.tmt_mask})


def interleaved(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the interleaved text-speech model that the temporal masked transformer is compared with, on the same data."""
    from tts.interleaved.config import small_config
    from tts.training.interleaved import InterleavedTask

    data = text_to_token_data(places)
    task = InterleavedTask(small_config(**data.sizes), data.pieces, data.train, data.held_out)
    figures = fit(places, "interleaved", task, plan.interleaved)
    shutil.copy(places.asset("tmt") / "tokenizer.json", places.asset("interleaved") / "tokenizer.json")
    return figures


def vadusa(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train six draft heads on the interleaved text-speech model, which stays as it is; the first four serve alone too."""
    return draft_heads(places, "vadusa", plan.vadusa, num_heads=6, together=False)


def vadusa_together_4(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train four draft heads and the interleaved text-speech model together, from those that `vadusa` trained."""
    return draft_heads(places, "vadusa_together_4", plan.vadusa_together, num_heads=4, together=True)


def vadusa_together_6(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train six draft heads and the interleaved text-speech model together, from those that `vadusa` trained."""
    return draft_heads(places, "vadusa_together_6", plan.vadusa_together, num_heads=6, together=True)


def draft_heads(places: Places, name: str, loop: LoopConfig, *, num_heads: int, together: bool) -> dict[str, float]:
    """Train draft heads on the utterances that their model learned from."""
    from tts.interleaved.drafts import DraftHeads
    from tts.interleaved.model import InterleavedLm
    from tts.training.drafts import DraftTask, DraftTraining

    model = InterleavedLm.load(places.asset("interleaved"))
    data = text_to_token_data(places)
    training = DraftTraining(num_heads=num_heads, together=together)
    start = DraftHeads.load(places.asset("vadusa")) if together else None
    figures = fit(places, name, DraftTask(model, data.train, data.held_out, training, start), loop)
    if together:
        shutil.copy(places.asset("tmt") / "tokenizer.json", places.asset(name) / "interleaved" / "tokenizer.json")
    return figures


class TextToTokenData(NamedTuple):
    """What the text-to-token models are trained on."""

    sizes: dict[str, Any]  # of text and speech vocabulary, for the model's config
    pieces: Sequence[bytes]  # bytes of every text token
    train: list["TmtExample"]
    held_out: list["TmtExample"]


def text_to_token_data(places: Places) -> TextToTokenData:
    """Aligned utterances of the assistant's own voice."""
    from tts.alignment.durations import text_pieces
    from tts.vocabulary import TextVocabulary

    path = places.asset("tmt") / "tokenizer.json"
    vocabulary, pieces = TextVocabulary(path), text_pieces(path)
    sizes = {
        "text_vocab_size": len(vocabulary),
        "num_speech_tokens": codebook(places),
        "vocabulary_id": vocabulary.id,
    }
    return TextToTokenData(
        sizes,
        pieces,
        tmt_examples(places, ("prose", "voices", "words"), vocabulary, pieces),
        tmt_examples(places, ("heldout",), vocabulary, pieces),
    )


def tmt_examples(
    places: Places,
    names: Sequence[str],
    vocabulary: "TextVocabulary",
    pieces: Sequence[bytes],
) -> list["TmtExample"]:
    """Aligned utterances of the assistant's own voice, of several sets; those that an earlier step aligned are kept."""
    found = []
    for name in names:
        texts, tokens = places.corpus(name) / "index.jsonl", places.work / f"tokens_{name}.npz"
        made_of = fingerprint(DEFAULT, texts, tokens, places.asset("tmt") / "tokenizer.json")
        kept = Kept(places.work / f"aligned_{name}.npz", made_of)
        examples = kept.read()
        if examples is None:
            examples = aligned(places, name, vocabulary, pieces)
            if examples:
                kept.write(examples)
        found += examples
    return found


def aligned(places: Places, name: str, vocabulary: "TextVocabulary", pieces: Sequence[bytes]) -> list["TmtExample"]:
    """The aligned utterances of a set; how many were left out is told."""
    made = [example for _, example in alignments(places, name, vocabulary, pieces, show_bar=True)]
    found = [example for example in made if example is not None]
    tqdm.write(
        f"{name}: {len(made) - len(found)} utterances left out, their text and times do not fit or a token is too long"
    )
    return found


def alignments(
    places: Places, name: str, vocabulary: "TextVocabulary", pieces: Sequence[bytes], *, show_bar: bool = False
) -> Iterator[tuple["Utterance", "TmtExample | None"]]:
    """Align the utterances of the assistant's own voice in a set, one by one; None where it fails. Raises CorpusError."""
    from tts.alignment.durations import MisalignedError
    from tts.training.tmt import example

    speech, ids = token_arrays(places, name)
    bar = tqdm(speech.utterances, desc=f"alignment of {name}", disable=not show_bar)
    for utterance, speech_ids in zip(bar, ids, strict=True):
        if utterance.voice != DEFAULT:
            continue
        try:
            made = example(
                utterance.text,
                utterance.words,
                utterance.phones,
                speech_ids,
                lambda text: [token for token, _ in vocabulary.encode(text)],
                pieces,
            )
        except MisalignedError:
            yield utterance, None
        else:
            yield utterance, made
