"""Steps from speech tokens to speech: the decoder's encoder and estimator, the vocoder, the assistant's own voice."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from app.small.corpus import Corpus
from app.small.loop import train
from app.small.plan import ASSETS, Places, SmallTraining, fit
from app.small.steps.encoders import VECTOR_SETS
from app.small.steps.material import Samples, codebook, spread, token_arrays
from app.small.synth import Flite
from app.small.voices import DEFAULT
from configs.loader import DEFAULTS, load
from configs.schema import TtsConfig
from tts.base import SAMPLE_RATE

if TYPE_CHECKING:
    from tts.training.flow import FlowUtterance

DEFAULT_SHARE = 0.5  # of what the vocoder is trained on is the assistant's own voice
OWN_SHARE = 0.3  # of what the decoder's estimator is trained on
NUM_SPOKEN = 1500  # utterances that the finished decoder speaks for a vocoder that is trained further
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
    """Train the vocoder: half on the assistant's own voice, as recorded and as decoded, half on all others.

    What is decoded is the mel of the decoder's encoder, the whole decoder's where finished weights are trained further.
    """
    from tts.training.vocoder import Recordings, VocoderTask

    speech = Corpus(places.corpus("voices"))
    long_enough = [u for u in speech.utterances if u.duration_s >= MIN_VOCODER_S]
    own = [u for u in long_enough if u.voice == DEFAULT]
    others = [u for u in long_enough if u.voice != DEFAULT]
    held_out = [speech.samples(u) for u in own[-3:] + others[-9:]]
    prose, decoded = spoken_prose(places, places.start) if places.start else decoded_prose(places)
    recordings = [
        Recordings(DEFAULT_SHARE, prose, decoded),
        Recordings(1 - DEFAULT_SHARE, Samples(speech, others[:-9])),
    ]
    task = VocoderTask(recordings, held_out, first=places.first_weights("vocoder"))
    return fit(places, "vocoder", task, plan.vocoder)


def decoded_prose(places: Places) -> tuple[Sequence[np.ndarray], list[np.ndarray]]:
    """Recordings of the assistant's own voice, and what the decoder's encoder makes of their speech tokens: (M, T)."""
    from tts.decoder.flow import FlowDecoder

    flow = FlowDecoder.load(flow_encoder_weights(places))

    def decode(tokens_BS: torch.Tensor) -> torch.Tensor:
        return flow.denormalise(flow.encode(tokens_BS, chunked=True)).transpose(1, 2)

    return _decoded(places, NUM_PROSE_DECODED, decode)


def spoken_prose(places: Places, start: Path) -> tuple[Sequence[np.ndarray], list[np.ndarray]]:
    """The same, but what the whole decoder in `start` makes of them, as the assistant speaks: its steps, behind its prompt."""
    from tts.decoder.flow import FlowDecoder
    from tts.voice import Voice

    flow, settings = FlowDecoder.load(start / ASSETS["flow"]), load(DEFAULTS / "tiny.yaml", []).tts
    voice = Voice.load(start / ASSETS["voice"] / "voice.safetensors")
    prompt = len(voice.tokens) // flow.config.chunk_tokens * flow.config.chunk_tokens
    tokens_BS, mel_BMT = torch.from_numpy(voice.tokens[:prompt])[None], torch.from_numpy(voice.mel)[None]
    speaker_BE = torch.from_numpy(voice.embedding)[None]

    def decode(of_BS: torch.Tensor) -> torch.Tensor:
        return flow.generate(
            of_BS,
            speaker_BE,
            tokens_BS,
            mel_BMT,
            num_flow_steps=settings.num_flow_steps,
            temperature=settings.flow_temperature,
        )

    return _decoded(places, NUM_SPOKEN, decode)


def _decoded(
    places: Places, count: int, decode: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[Sequence[np.ndarray], list[np.ndarray]]:
    """So many recordings of the assistant's own voice, and the mel (1, M, T) that is made of their tokens (1, S)."""
    speech, ids = token_arrays(places, "prose")
    chosen = spread([i for i, u in enumerate(speech.utterances) if u.duration_s >= MIN_VOCODER_S], count)
    with torch.inference_mode():
        mels = [
            decode(torch.from_numpy(ids[i].astype(np.int64))[None])[0].half().numpy()
            for i in tqdm(chosen, desc="decoded")
        ]
    return Samples(speech, [speech.utterances[i] for i in chosen]), mels


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
