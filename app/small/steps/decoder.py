"""Steps from speech tokens to speech: the decoder's encoder and estimator, the vocoder, the assistant's own voice."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from app.small.corpus import Corpus
from app.small.loop import train
from app.small.plan import Places, SmallTraining, fit
from app.small.steps.encoders import VECTOR_SETS
from app.small.steps.material import Samples, codebook, spread, token_arrays
from app.small.synth import Flite
from app.small.voices import DEFAULT
from configs.schema import TtsConfig
from tts.base import SAMPLE_RATE

if TYPE_CHECKING:
    from tts.training.flow import FlowUtterance

DEFAULT_SHARE = 0.5  # of what the vocoder is trained on is the assistant's own voice
OWN_SHARE = 0.3  # of what the decoder's estimator is trained on
NUM_PROSE_DECODED = 3000  # utterances of the assistant's own voice that the decoder's encoder learns beside the voices
MIN_VOCODER_S = 1.0
PROMPT_S = 3.6  # shortest prompt of the bundled voice
REFERENCE_TEXT = (  # what it says for decoders that are not ours
    "The quick answer is that every morning, before the sun came up, she walked along the river and listened to the birds."
)


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


def flow(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the estimator of the flow-matching decoder on speech tokens, mels and speaker vectors."""
    from tts.decoder.config import small_config
    from tts.training.flow import task

    made = task(
        flow_data(places, "voices"),
        small_config(codebook(places)),
        encoder=places.first_weights("flow") or flow_encoder_weights(places),
        validation=flow_held_out(places),
    )
    return fit(places, "flow", made, plan.flow)


def student(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Distil the flow-matching decoder's ten steps into one; only by name."""
    from tts.decoder.flow import FlowDecoder
    from tts.training.student import StudentTask, StudentTraining

    task = StudentTask(
        FlowDecoder.load(places.asset("flow")),
        flow_data(places, "voices"),
        StudentTraining(student_steps=1, temperature=TtsConfig().flow_temperature),  # as the assistant speaks
        validation=flow_held_out(places),
    )
    return fit(places, "student", task, plan.student)


def flow_held_out(places: Places) -> list["FlowUtterance"]:
    """Utterances that the decoder is not trained on, of voices that it knows and of others."""
    return flow_data(places, "heldout_seen")[:48] + flow_data(places, "heldout_voices")[:48]


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
