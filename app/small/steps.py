"""The steps of `train small`: each hands the corpus to a model's trainer as values."""

import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from app.small import corpus as speech_corpus
from app.small.corpus import Corpus, Utterance
from app.small.loop import LoopConfig, train
from app.small.pipeline import Places, SmallTraining, Step, chunks, fit
from app.small.synth import PHONES, Flite
from app.small.voices import DEFAULT
from tts.base import SAMPLE_RATE

if TYPE_CHECKING:
    from asr.training.data import Recording
    from tts.training.flow import FlowUtterance
    from tts.training.tmt import TmtExample
    from tts.vocabulary import TextVocabulary

TOKEN_SETS = ("voices", "words", "prose", "heldout", "heldout_seen", "heldout_voices")
VECTOR_SETS = ("voices", "heldout_seen", "heldout_voices")
TOKENIZER_SHARE = 0.35  # of what the speech tokenizer is trained on is the assistant's own voice
DEFAULT_SHARE = 0.5  # of what the vocoder is trained on is the assistant's own voice
OWN_SHARE = 0.3  # of what the decoder's estimator is trained on
NUM_PROSE_DECODED = 3000  # utterances of the assistant's own voice that the decoder's encoder learns beside the voices
PROMPT_S = 3.6  # shortest prompt of the bundled voice
REFERENCE_TEXT = (  # what it says for decoders that are not ours
    "The quick answer is that every morning, before the sun came up, she walked along the river and listened to the birds."
)
MIN_VOCODER_S = 1.0
VECTORS_PER_VOICE = 10
NUM_PROSE_HEARD = 6000  # utterances of the assistant's own voice that the recogniser hears beside the voices
NUM_TURN_ENDS, NUM_TURN_END_PROSE = 10_000, 3000  # dialogues and lines that tell where a turn ends
NUM_PROSE_LINES = 6000  # that the language model reads beside its dialogues


def corpus(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Speak all sets."""
    amount = plan.corpus
    hours = {"prose": amount.prose_hours, "voices": amount.voices_hours, "words": amount.words_hours}
    speech_corpus.build(places.work / "corpus", list(speech_corpus.SETS), hours, amount.seed)
    return {name: Corpus(places.corpus(name)).hours for name in speech_corpus.SETS}


def examples(places: Places, name: str, limit: int | None = None) -> Iterator[tuple[np.ndarray, Utterance]]:
    """(samples, utterance) of a set; `limit` takes that many, spread over the whole set."""
    speech = Corpus(places.corpus(name))
    chosen = speech.utterances
    if limit is not None:
        chosen = spread(chosen, limit)
    for utterance in tqdm(chosen, desc=f"reading {name}"):
        yield speech.samples(utterance), utterance


def speech_tokenizer(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the speech tokenizer."""
    from tts.training.tokenizer import TokenizerTask

    held_out = {name: list(examples(places, name, 100)) for name in ("heldout", "heldout_seen", "heldout_voices")}
    task = TokenizerTask(examples(places, "voices"), held_out, PHONES, shares={DEFAULT: TOKENIZER_SHARE})
    return fit(places, "speech_tokenizer", task, plan.speech_tokenizer)


def vocabulary(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Learn the text vocabulary that the language model and the synthesiser share."""
    from app.small.text import SpokenText
    from llm.training import vocabulary as training
    from llm.training.dialogue import conversations

    prose = SpokenText().prose(training.SEED, training.NUM_PROSE)
    tokenizer = training.train(training.texts(prose, conversations(training.SEED, training.NUM_DIALOGUES)))
    training.save(tokenizer, places.asset("qwen"))
    places.asset("tmt").mkdir(parents=True, exist_ok=True)
    shutil.copy(places.asset("qwen") / "tokenizer.json", places.asset("tmt") / "tokenizer.json")
    return {"tokens": tokenizer.get_vocab_size()}


def speaker(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the speaker encoder."""
    from tts.training.speaker import SpeakerTask

    held_out = {name: list(examples(places, name)) for name in ("heldout_seen", "heldout_voices")}
    return fit(places, "speaker", SpeakerTask(examples(places, "voices"), held_out), plan.speaker)


def vocoder(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the vocoder: half on the assistant's own voice, as recorded and as decoded, half on all others."""
    from tts.training.vocoder import Recordings, VocoderTask

    speech = Corpus(places.corpus("voices"))
    long_enough = [u for u in speech.utterances if u.duration_s >= MIN_VOCODER_S]
    own = [u for u in long_enough if u.voice == DEFAULT]
    others = [u for u in long_enough if u.voice != DEFAULT]
    held_out = [speech.samples(u) for u in own[-3:] + others[-9:]]
    prose, decoded = decoded_prose(places)
    recordings = [
        Recordings(DEFAULT_SHARE, prose, decoded),
        Recordings(1 - DEFAULT_SHARE, Samples(speech, others[:-9])),
    ]
    return fit(places, "vocoder", VocoderTask(recordings, held_out), plan.vocoder)


def decoded_prose(places: Places) -> tuple[Sequence[np.ndarray], list[np.ndarray]]:
    """Recordings of the assistant's own voice, and what the decoder's encoder makes of their speech tokens: (M, T)."""
    from tts.decoder.flow import FlowDecoder

    speech, ids = token_arrays(places, "prose")
    chosen = spread([i for i, u in enumerate(speech.utterances) if u.duration_s >= MIN_VOCODER_S], NUM_PROSE_DECODED)
    flow = FlowDecoder.load(flow_encoder_weights(places))
    decoded = []
    with torch.inference_mode():
        for i in tqdm(chosen, desc="decoded"):
            mu_BTM = flow.encode(torch.from_numpy(ids[i].astype(np.int64))[None], chunked=True)
            decoded.append(flow.denormalise(mu_BTM)[0].T.half().numpy())
    return Samples(speech, [speech.utterances[i] for i in chosen]), decoded


class Samples(Sequence[np.ndarray]):
    """Recordings of a set, read when they are asked for."""

    def __init__(self, speech: Corpus, utterances: Sequence[Utterance]) -> None:
        self._speech, self._utterances = speech, utterances

    def __len__(self) -> int:
        return len(self._utterances)

    def __getitem__(self, index: Any) -> Any:
        return self._speech.samples(self._utterances[index])


def tokens(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Encode the corpus into speech tokens."""
    from tts.tokenizer.model import SpeechTokenizer
    from tts.training.tokenizer import encode_all

    torch.set_num_threads(1)
    tokenizer = SpeechTokenizer.load(places.asset("speech_tokenizer"))
    figures = {}
    for name in TOKEN_SETS:
        path = places.work / f"tokens_{name}.npz"
        if not path.exists():
            speech = Corpus(places.corpus(name))
            found: list[np.ndarray] = []
            for group in tqdm(list(chunks(speech.utterances, 256)), desc=f"tokens of {name}"):
                found += encode_all(tokenizer, [speech.samples(utterance) for utterance in group])
            save_arrays(path, tokens=np.concatenate(found), sizes=np.array([len(ids) for ids in found]))
        figures[f"{name}_hours"] = len(np.load(path)["tokens"]) / 25 / 3600
    return figures


def speaker_vectors(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Encode recordings of every voice that the decoder is trained on into speaker vectors."""
    from tts.features import resample
    from tts.speaker import SpeakerEncoder

    torch.set_num_threads(1)
    encoder = SpeakerEncoder.load(places.asset("speaker"))
    for name in VECTOR_SETS:
        path = places.work / f"speakers_{name}.npz"
        if not path.exists():
            speech = Corpus(places.corpus(name))
            of_voice: dict[str, list[Utterance]] = {}
            for utterance in speech.utterances:
                of_voice.setdefault(utterance.voice, []).append(utterance)
            vectors = {
                voice: np.stack(
                    [
                        encoder.embed(resample(speech.samples(utterance), 24_000, 16_000))
                        for utterance in spread(utterances, VECTORS_PER_VOICE)
                    ]
                )
                for voice, utterances in tqdm(of_voice.items(), desc=f"speaker vectors of {name}")
            }
            save_arrays(path, **vectors)
    return {}


def spread(items: list, limit: int) -> list:
    """At most `limit` items, evenly over the whole list."""
    if len(items) <= limit:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, limit).astype(int)]


def save_arrays(path: Path, **arrays: Any) -> None:
    """Write arrays in one go, so that an interrupted step leaves no half file."""
    partial = path.with_suffix(".part.npz")
    np.savez(partial, **arrays)
    partial.replace(path)


def token_arrays(places: Places, name: str) -> tuple[Corpus, list[np.ndarray]]:
    """A set with the speech tokens (S,) of every utterance."""
    stored = np.load(places.work / f"tokens_{name}.npz")
    speech, parts = Corpus(places.corpus(name)), np.split(stored["tokens"], np.cumsum(stored["sizes"])[:-1])
    if len(parts) != len(speech.utterances):
        raise speech_corpus.CorpusError(
            f"the speech tokens of {name} are of another build: delete tokens_{name}.npz and tokens.done in {places.work}"
        )
    return speech, parts


def flow_encoder(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the decoder's encoder: speech tokens to the mel of the assistant's own voice."""
    from tts.decoder.config import small_config
    from tts.training.flow import FlowTraining, task

    data = [item for item in flow_data(places, "voices") if item.voice == DEFAULT]
    made = task(
        data + flow_data(places, "prose", NUM_PROSE_DECODED),
        small_config(codebook(places)),
        FlowTraining(batch_size=30),
        validation=flow_data(places, "heldout", 16),
    )
    return train(made, plan.flow_encoder, places.work / "flow_encoder", flow_encoder_weights(places))


def flow_encoder_weights(places: Places) -> Path:
    """Where `flow_encoder` leaves what `flow` goes on from."""
    return places.work / "flow_encoder" / "weights"


def flow(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the estimator of the flow-matching decoder on speech tokens, mels and speaker vectors."""
    from tts.decoder.config import small_config
    from tts.training.flow import task

    made = task(
        flow_data(places, "voices"),
        small_config(codebook(places)),
        encoder=places.first_weights("flow") or flow_encoder_weights(places),
        validation=flow_data(places, "heldout_seen")[:48] + flow_data(places, "heldout_voices")[:48],
    )
    return fit(places, "flow", made, plan.flow)


def flow_data(places: Places, name: str, limit: int | None = None) -> list["FlowUtterance"]:
    """Utterances as the flow trainer takes them; the assistant's own voice makes up `OWN_SHARE` of what is drawn."""
    from tts.features import mel_24k
    from tts.training.flow import FlowUtterance

    speech, ids = token_arrays(places, name)
    vectors = dict(np.load(places.work / f"speakers_{name if name in VECTOR_SETS else 'voices'}.npz"))
    chosen = list(enumerate(speech.utterances))
    chosen = spread(chosen, limit) if limit else chosen
    own_s = sum(u.duration_s for _, u in chosen if u.voice == DEFAULT)
    other_s = sum(u.duration_s for _, u in chosen if u.voice != DEFAULT)
    weight = OWN_SHARE / (1 - OWN_SHARE) * other_s / own_s if own_s and other_s else 1.0
    return [
        FlowUtterance(
            tokens=ids[i],
            mel=mel_24k(torch.from_numpy(speech.samples(utterance))[None])[0, :, : 2 * len(ids[i])].half().numpy(),
            speaker=vectors[utterance.voice][i % len(vectors[utterance.voice])],
            voice=utterance.voice,
            weight=weight if utterance.voice == DEFAULT else 1.0,
        )
        for i, utterance in tqdm(chosen, desc=f"mels of {name}")
    ]


def codebook(places: Places) -> int:
    """Number of speech tokens of the trained tokenizer."""
    from tts.tokenizer.model import SpeechTokenizer

    return int(SpeechTokenizer.load(places.asset("speech_tokenizer")).config.vocabulary_size)


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
    return fit(places, "tmt", made, plan.tmt)


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
    """Train four draft heads and the interleaved text-speech model together."""
    return draft_heads(places, "vadusa_together_4", plan.vadusa_together, num_heads=4, together=True)


def vadusa_together_6(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train six draft heads and the interleaved text-speech model together."""
    return draft_heads(places, "vadusa_together_6", plan.vadusa_together, num_heads=6, together=True)


def draft_heads(places: Places, name: str, loop: LoopConfig, *, num_heads: int, together: bool) -> dict[str, float]:
    """Train draft heads on the utterances that their model learned from."""
    from tts.interleaved.model import InterleavedLm
    from tts.training.drafts import DraftTask, DraftTraining

    model = InterleavedLm.load(places.asset("interleaved"))
    data = text_to_token_data(places)
    training = DraftTraining(num_heads=num_heads, together=together)
    figures = fit(places, name, DraftTask(model, data.train, data.held_out, training), loop)
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
    """Aligned utterances of the assistant's own voice."""
    from tts.alignment.durations import MisalignedError
    from tts.training.tmt import example

    found = []
    for name in names:
        speech, ids = token_arrays(places, name)
        left_out = 0
        for utterance, speech_ids in zip(tqdm(speech.utterances, desc=f"alignment of {name}"), ids, strict=True):
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
                left_out += 1
            else:
                found.append(made)
        tqdm.write(f"{name}: {left_out} utterances left out, their text and times do not fit or a token is too long")
    return found


def voice(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Make the assistant's own voice: its mean speaker vector and a prompt from the training speech."""
    from tts.voice import Voice

    speech, ids = token_arrays(places, "voices")
    own = [i for i, utterance in enumerate(speech.utterances) if utterance.voice == DEFAULT]
    prompt = next(i for i in own if PROMPT_S <= speech.utterances[i].duration_s <= PROMPT_S + 1)
    from tts.features import mel_24k

    count = len(ids[prompt])
    mel = mel_24k(torch.from_numpy(speech.samples(speech.utterances[prompt]))[None])[0, :, : 2 * count].numpy()
    mean = np.load(places.work / "speakers_voices.npz")[DEFAULT].mean(0).astype(np.float32)
    made = Voice(DEFAULT, ids[prompt].astype(np.int64), np.ascontiguousarray(mel), mean)
    made.save(places.asset("voice") / "voice.safetensors")
    spoken = Flite().speak(REFERENCE_TEXT, DEFAULT).samples
    soundfile.write(places.asset("voice") / "reference.flac", spoken, SAMPLE_RATE, subtype="PCM_16")
    return {"prompt_s": count / 25}


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
    held_out = {normalise(text) for text in (*written, *(q["text"] for q in speech_corpus.held_out_questions()))}
    talks = conversations(plan.corpus.seed, NUM_TURN_ENDS)
    said = [message.content for talk in talks for message in talk if message.role == "user"]
    spoken = [line for line in said if not any(map(str.isdigit, line)) and normalise(line) not in held_out]
    found = training.examples([*spoken, *SpokenText().prose(plan.corpus.seed, NUM_TURN_END_PROSE)])
    weights, bias = training.learn(found)
    training.save(weights, bias, places.asset("turn_end"))
    return {"examples": len(found), "weights": len(weights)}


def qwen(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the language model on its dialogues, some of them as the recogniser hears them."""
    from app.small.hearing import confusions
    from app.small.text import SpokenText
    from llm.training.qwen import task
    from llm.training.score import HELD_OUT, read_questions
    from llm.vocabulary import Vocabulary

    prose = SpokenText().prose(plan.corpus.seed, NUM_PROSE_LINES)
    misheard = confusions(places.asset("paraformer"), places.work / "misheard.json", count=plan.corpus.questions_heard)
    questions, start = read_questions(HELD_OUT), places.first_weights("qwen")
    made = task(Vocabulary(places.asset("qwen")), prose, questions, confusions=misheard, start=start)
    return fit(places, "qwen", made, plan.qwen)


STEPS: dict[str, Step] = {
    "corpus": corpus,
    "vocabulary": vocabulary,
    "speech_tokenizer": speech_tokenizer,
    "speaker": speaker,
    "tokens": tokens,
    "speaker_vectors": speaker_vectors,
    "flow_encoder": flow_encoder,
    "vocoder": vocoder,
    "flow": flow,
    "tmt": tmt,
    "interleaved": interleaved,
    "vadusa": vadusa,
    "vadusa_together_4": vadusa_together_4,
    "vadusa_together_6": vadusa_together_6,
    "voice": voice,
    "paraformer": paraformer,
    "turn_end": turn_end,
    "qwen": qwen,
}
