"""The steps of `train small`: each hands the corpus to a model's trainer as values."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from app.small import corpus as speech_corpus
from app.small.corpus import Corpus, Utterance
from app.small.pipeline import Places, SmallTraining, Step, chunks, fit
from app.small.synth import PHONES
from app.small.voices import DEFAULT

if TYPE_CHECKING:
    from asr.training.data import Recording
    from tts.training.flow import FlowUtterance
    from tts.training.tmt import TmtExample
    from tts.vocabulary import TextVocabulary

TOKEN_SETS = ("voices", "words", "prose", "heldout", "heldout_seen", "heldout_voices")
VECTOR_SETS = ("voices", "heldout_seen", "heldout_voices")
DEFAULT_SHARE = 0.5  # of what the flow decoder and the vocoder are trained on is the assistant's own voice
PROMPT_S = 3.6  # shortest prompt of the bundled voice
MIN_VOCODER_S = 1.0
VECTORS_PER_VOICE = 10
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

    held_out = {name: list(examples(places, name, 100)) for name in ("heldout_seen", "heldout_voices")}
    task = TokenizerTask(examples(places, "voices"), held_out, PHONES)
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
    """Train the vocoder: half on the assistant's own voice, half on all others."""
    from tts.training.vocoder import Recordings, VocoderTask

    speech = Corpus(places.corpus("voices"))
    long_enough = [u for u in speech.utterances if u.duration_s >= MIN_VOCODER_S]
    own = [u for u in long_enough if u.voice == DEFAULT]
    others = [u for u in long_enough if u.voice != DEFAULT]
    held_out = [speech.samples(u) for u in own[-3:] + others[-9:]]
    recordings = [
        Recordings(DEFAULT_SHARE, Samples(speech, own[:-3])),
        Recordings(1 - DEFAULT_SHARE, Samples(speech, others[:-9])),
    ]
    return fit(places, "vocoder", VocoderTask(recordings, held_out), plan.vocoder)


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


def flow(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the flow-matching decoder on speech tokens, mels and speaker vectors."""
    from tts.decoder.config import small_config
    from tts.training.flow import task

    data = flow_data(places, "voices")
    validation = flow_data(places, "heldout_seen")[:48] + flow_data(places, "heldout_voices")[:48]
    return fit(places, "flow", task(data, small_config(codebook(places)), validation=validation), plan.flow)


def flow_data(places: Places, name: str) -> list["FlowUtterance"]:
    """Utterances as the flow trainer takes them; the assistant's own voice makes up half of what is drawn."""
    from tts.features import mel_24k
    from tts.training.flow import FlowUtterance

    speech, ids = token_arrays(places, name)
    speakers = np.load(places.work / f"speakers_{name}.npz")
    vectors = {voice: speakers[voice] for voice in speakers.files}
    own_s = sum(u.duration_s for u in speech.utterances if u.voice == DEFAULT)
    other_s = sum(u.duration_s for u in speech.utterances if u.voice != DEFAULT)
    weight = DEFAULT_SHARE / (1 - DEFAULT_SHARE) * other_s / max(own_s, 1e-9)
    return [
        FlowUtterance(
            tokens=ids[i],
            mel=mel_24k(torch.from_numpy(speech.samples(utterance))[None])[0, :, : 2 * len(ids[i])].half().numpy(),
            speaker=vectors[utterance.voice][i % len(vectors[utterance.voice])],
            voice=utterance.voice,
            weight=weight if utterance.voice == DEFAULT else 1.0,
        )
        for i, utterance in enumerate(tqdm(speech.utterances, desc=f"mels of {name}"))
    ]


def codebook(places: Places) -> int:
    """Number of speech tokens of the trained tokenizer."""
    from tts.tokenizer.model import SpeechTokenizer

    return int(SpeechTokenizer.load(places.asset("speech_tokenizer")).config.vocabulary_size)


def tmt(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the temporal masked transformer on the assistant's own voice."""
    from tts.tmt.config import small_config
    from tts.training.tmt import task
    from tts.vocabulary import TextVocabulary

    path = places.asset("tmt") / "tokenizer.json"
    vocabulary = TextVocabulary(path)
    pieces = text_pieces(path)
    config = small_config(
        text_vocab_size=len(vocabulary), num_speech_tokens=codebook(places), vocabulary_id=vocabulary.id
    )
    train = tmt_examples(places, ("prose", "voices", "words"), vocabulary, pieces)
    held_out = tmt_examples(places, ("heldout",), vocabulary, pieces)
    return fit(places, "tmt", task(config, pieces, train, held_out), plan.tmt)


def text_pieces(path: Path) -> Sequence[bytes]:
    """Bytes of every text token."""
    from tts.training.durations import byte_pieces

    values = json.loads(path.read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in values["added_tokens"]}
    return byte_pieces({**values["model"]["vocab"], **added})


def tmt_examples(
    places: Places,
    names: Sequence[str],
    vocabulary: "TextVocabulary",
    pieces: Sequence[bytes],
) -> list["TmtExample"]:
    """Aligned utterances of the assistant's own voice."""
    from tts.training.tmt import example

    found = []
    for name in names:
        speech, ids = token_arrays(places, name)
        for utterance, speech_ids in zip(tqdm(speech.utterances, desc=f"alignment of {name}"), ids, strict=True):
            if utterance.voice == DEFAULT:
                made = example(
                    utterance.text,
                    utterance.words,
                    utterance.phones,
                    speech_ids,
                    lambda text: [token for token, _ in vocabulary.encode(text)],
                    pieces,
                )
                found += [made] if made is not None else []
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
    return {"prompt_s": count / 25}


def paraformer(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the recogniser."""
    from asr.training.paraformer import ParaformerConfig, task

    made = task(
        recordings(places, "voices"), recordings(places, "heldout_seen", 120), ParaformerConfig(), show_bar=True
    )
    return fit(places, "paraformer", made, plan.paraformer)


def recordings(places: Places, name: str, limit: int | None = None) -> Iterator["Recording"]:
    """Utterances as the recogniser's trainer takes them."""
    from asr.training.data import Recording

    for samples, utterance in examples(places, name, limit):
        yield Recording(
            samples=samples, sample_rate=24_000, text=utterance.text, words=utterance.words, phones=utterance.phones
        )


def qwen(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the language model on its dialogues."""
    from app.small.text import SpokenText
    from llm.training.qwen import QwenTask, QwenTraining
    from llm.training.score import HELD_OUT, read_questions
    from llm.vocabulary import Vocabulary

    prose = SpokenText().prose(plan.corpus.seed, NUM_PROSE_LINES)
    task = QwenTask(Vocabulary(places.asset("qwen")), prose, read_questions(HELD_OUT), QwenTraining())
    return fit(places, "qwen", task, plan.qwen)


STEPS: dict[str, Step] = {
    "corpus": corpus,
    "vocabulary": vocabulary,
    "speech_tokenizer": speech_tokenizer,
    "speaker": speaker,
    "vocoder": vocoder,
    "tokens": tokens,
    "speaker_vectors": speaker_vectors,
    "flow": flow,
    "tmt": tmt,
    "voice": voice,
    "paraformer": paraformer,
    "qwen": qwen,
}
