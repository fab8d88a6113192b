"""What the recogniser makes of words: the language model trains on questions as they will reach it.

Questions are spoken by the training voices and recognised; word by word, what was heard is counted against what was said.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import jiwer
from tqdm import tqdm

from app.small.voices import DEFAULT, Speaker, training_voices
from asr.paraformer import Paraformer
from asr.units import normalise
from llm.training.dialogue import conversations
from llm.training.phrasing import Confusions
from tts.features import resample

_LEAST = 3  # times a word must have been said
_FLITE_SHARE = 0.5  # of the questions are spoken by the voices that sound most natural


def confusions(recogniser: Path, path: Path, *, count: int, seed: int = 5) -> Confusions:
    """Word -> (share of times it was misheard, what was heard instead); kept in the JSON file `path`."""
    if not path.exists():
        pairs = list(tqdm(_heard(recogniser, count, seed), total=count, desc="hearing questions"))
        path.write_text(json.dumps(table(pairs), indent=0) + "\n", encoding="utf-8")
    return {word: (share, tuple(others)) for word, (share, others) in json.loads(path.read_text("utf-8")).items()}


def table(pairs: Iterable[tuple[str, str]]) -> Confusions:
    """Count what was heard for each word of (said, heard) pairs; an empty string: nothing was heard."""
    said: Counter[str] = Counter()
    wrong: defaultdict[str, list[str]] = defaultdict(list)
    for truth, heard in pairs:
        if not truth or not heard:
            continue
        result = jiwer.process_words(truth, heard)
        want, got = truth.split(), heard.split()
        for chunk in result.alignments[0]:
            words = want[chunk.ref_start_idx : chunk.ref_end_idx]
            said.update(words)
            if chunk.type in ("substitute", "delete"):
                instead = got[chunk.hyp_start_idx : chunk.hyp_end_idx] if chunk.type == "substitute" else []
                for index, word in enumerate(words):
                    wrong[word].append(instead[index] if index < len(instead) else "")
    return {
        word: (round(len(others) / said[word], 3), tuple(sorted(others)))
        for word, others in sorted(wrong.items())
        if said[word] >= _LEAST
    }


def _heard(recogniser: Path, count: int, seed: int) -> Iterable[tuple[str, str]]:
    asr, speaker, rng = Paraformer.load(str(recogniser), None), Speaker(), random.Random(seed)
    voices = training_voices()
    natural = [voice for voice in voices if voice.engine == "flite" and voice.name != DEFAULT] or voices
    for line in _questions(count, seed):
        voice = rng.choice(natural if rng.random() < _FLITE_SHARE else voices)
        speech = speaker.speak(line[0].upper() + line[1:] + "?", voice, rate=rng.uniform(0.9, 1.15))
        yield normalise(line), normalise(asr.transcribe(resample(speech.samples, 24_000, 16_000)))


def _questions(count: int, seed: int) -> Sequence[str]:
    lines = dict.fromkeys(
        message.content
        for messages in conversations(seed, 2 * count)
        for message in messages
        if message.role == "user" and message.content == normalise(message.content)
    )
    return list(lines)[:count]
