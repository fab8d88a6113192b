"""Steps from speech to what the decoder takes: speech tokens and speaker vectors."""

import numpy as np
import torch
from tqdm import tqdm

from app.small.corpus import Corpus, Utterance
from app.small.plan import Places, SmallTraining, fit
from app.small.steps.material import chunks, examples, save_arrays, spread
from app.small.synth import PHONES
from app.small.voices import DEFAULT

TOKEN_SETS = ("voices", "words", "prose", "heldout", "heldout_seen", "heldout_voices")
VECTOR_SETS = ("voices", "heldout_seen", "heldout_voices")
TOKENIZER_SHARE = 0.35  # of what the speech tokenizer is trained on is the assistant's own voice
VECTORS_PER_VOICE = 10


def speech_tokenizer(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the speech tokenizer."""
    from tts.training.tokenizer import TokenizerTask

    held_out = {name: list(examples(places, name, 100)) for name in ("heldout", "heldout_seen", "heldout_voices")}
    task = TokenizerTask(examples(places, "voices"), held_out, PHONES, shares={DEFAULT: TOKENIZER_SHARE})
    return fit(places, "speech_tokenizer", task, plan.speech_tokenizer)


def speaker(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the speaker encoder."""
    from tts.training.speaker import SpeakerTask

    held_out = {name: list(examples(places, name)) for name in ("heldout_seen", "heldout_voices")}
    return fit(places, "speaker", SpeakerTask(examples(places, "voices"), held_out), plan.speaker)


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
