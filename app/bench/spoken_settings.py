"""What the paper varies when a trained model speaks: durations, look-ahead, duration factor, faults in the history."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from tts.tmt.decode import DecodeOptions, TmtDecoder
from tts.tmt.model import Tmt
from tts.training.tmt import TmtExample

MASK = -1  # the "speech token" in front of the first one: the mask's row of the embedding table


class Sentence(NamedTuple):
    """A held-out utterance."""

    text: str
    example: TmtExample
    samples: np.ndarray  # (N,) 24 kHz, as recorded


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a model speaks."""

    name: str
    top_k: int = 3
    true_durations: bool = False  # those of the recording instead of predicted ones
    lookahead: int = 1
    factor: float = 1.0  # durations are multiplied by it
    faults: float = 0.0  # share of the speech tokens said before that the model finds replaced
    fault: Literal["random", "masked"] = "random"


REFERENCE = Setting(name="top-k 3, look-ahead 1")
ALL_TEXT = 32  # look-ahead: as far as the bundled model learned to look
GROUPS: dict[str, Sequence[Setting]] = {
    "Durations": (
        Setting(name="true durations", true_durations=True),
        Setting(name="greedy", top_k=1),
        REFERENCE,
        Setting(name="top-k 5", top_k=5),
    ),
    "Look-ahead": (
        REFERENCE,
        *(Setting(name=f"look-ahead {count}", lookahead=count) for count in (2, 3, 4)),
        Setting(name="look-ahead all (32)", lookahead=ALL_TEXT),
    ),
    "Duration factor": (
        Setting(name="factor 0.8", factor=0.8),
        Setting(name="factor 0.9", factor=0.9),
        REFERENCE,
        Setting(name="factor 1.1", factor=1.1),
        Setting(name="factor 1.2", factor=1.2),
    ),
    "Faults in the history": (
        REFERENCE,
        *(Setting(name=f"{share:.0%} random", faults=share) for share in (0.05, 0.1, 0.2)),
        *(Setting(name=f"{share:.0%} masked", faults=share, fault="masked") for share in (0.05, 0.1, 0.2)),
    ),
}


def speak(model: Tmt, example: TmtExample, setting: Setting, seed: int) -> np.ndarray:
    """Speech tokens (S,) of an utterance's text; text is handed over when the model cannot go on without it."""
    options = DecodeOptions(
        lookahead=setting.lookahead,
        durations=tuple(example.first.durations.tolist()) if setting.true_durations else None,
        top_k=setting.top_k,
        speed=1 / setting.factor,
        seed=seed,
    )
    decoder, rng = TmtDecoder(model, options), np.random.default_rng(seed)
    state, ids = decoder.state, example.first.ids
    blocks = [np.zeros(0, np.int64)]
    given = 0
    while not decoder.done:
        block = decoder.step()
        if block is None:
            decoder.push(int(ids[given]))
            given += 1
            if given == len(ids):
                decoder.finish()
            continue
        blocks.append(block.tokens)
        state.blocks[-1] = faulty(block.tokens, setting, model.config.num_speech_tokens, rng)
    return np.concatenate(blocks)


def faulty(tokens: np.ndarray, setting: Setting, num_speech_tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Speech tokens (l,), some of them replaced as the setting wants it."""
    if not setting.faults:
        return tokens
    wrong = rng.integers(num_speech_tokens, size=len(tokens)) if setting.fault == "random" else MASK
    return np.where(rng.random(len(tokens)) < setting.faults, wrong, tokens)
