"""Whether the right thing was said, and whether it could be understood: judged by others than the models that are judged."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from app.bench.talk import Conversation
from tts.base import SAMPLE_RATE, PcmChunk, Synthesizer

if TYPE_CHECKING:
    from app.small.judges import ErrorRate

MAX_JUDGED = 40  # replies per assistant; more change little and take long


def correct(talk: Conversation) -> list[bool | None]:
    """Of each turn, whether the reply's text has the keywords; None where nothing is asked of it.

    Only the last turn is judged: with a turn taken for over too early the answer may come late, but it must come.
    """
    answers: list[bool | None] = [None] * len(talk.turns)
    if talk.case.keywords and talk.turns:
        from app.small.judges import satisfies

        answers[-1] = satisfies(talk.turns[-1].reply, talk.case.keywords)
    return answers


def reply_audio(talk: Conversation) -> list[tuple[str, np.ndarray]]:
    """(text, samples) of every reply that was played to its end."""
    found = []
    for trace in talk.turns:
        chunks = [chunk for chunk in trace.marks.decoder_chunks if chunk.num_samples]
        if trace.interrupted or trace.error or not chunks or trace.marks.last_sample is None:
            continue
        first, last = round(chunks[0].plays_at * talk.rate), round(trace.marks.last_sample * talk.rate)
        found.append((trace.reply, talk.both[first:last, 1].copy()))
    return found


def said_at_once(synthesizer: Synthesizer, voice: Any, speed: float, text: str) -> np.ndarray:
    """A text as the command `say` speaks it."""
    stream = synthesizer.stream(voice=voice, speed=speed, share_ids=False)
    stream.push(0, text)
    stream.finish()
    parts = [np.zeros(0, np.float32)]
    while (made := stream.step()) is not None:
        if isinstance(made, PcmChunk):
            parts.append(made.samples)
    return np.concatenate(parts)


def spoken_error_rate(spoken: Sequence[tuple[str, np.ndarray]], title: str) -> "ErrorRate | None":
    """Word error rate of speech against its text, as pocketsphinx with its general model hears it."""
    from tqdm import tqdm

    from app.small.judges import error_rate, hear, words

    chosen = [(text, samples) for text, samples in spoken if words(text)][:MAX_JUDGED]
    if not chosen:
        return None
    with ProcessPoolExecutor() as pool:
        found = pool.map(hear, [s for _, s in chosen], [SAMPLE_RATE] * len(chosen))
        heard = list(tqdm(found, total=len(chosen), desc=title, leave=False))
    return error_rate([text for text, _ in chosen], heard)
