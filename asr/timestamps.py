"""When each word of a known text is said: FunASR's timestamp models, `fa-zh` and the Paraformers with the same head.

Such a model hears where tokens begin, on a grid of 20 ms, and is told how many there are, not which: a Mandarin character
is one token, other words are as many as the folder's tokenizer makes of them; punctuation is none. It never looks at what
the text says; that the count it hears is about the count it is told is all that speaks for the text.
"""

import importlib
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr.base import SAMPLE_RATE
from asr.funasr_model import load_kind

_CLASSES = ("MonotonicAligner", "BiCifParaformer", "SeacoParaformer")
_MODULES = (
    "funasr.models.monotonic_aligner.model",
    "funasr.models.bicif_paraformer.model",
    "funasr.models.bicif_paraformer.cif_predictor",
    "funasr.models.specaug.specaug",
)
# FunASR ends a token after 0.24 s, which many a Mandarin syllable is longer than, and gives the last one half of the
# silence behind it. Its beginnings are what the model hears; a token lasts until the next one begins, at most so long.
_LONGEST_TOKEN_S = 0.32
_MOST_MISCOUNTED = 0.3  # share of the tokens


class TimesError(ValueError):
    """Text and recording do not fit together; the message says how."""


class TimestampModel:
    """A FunASR folder of a timestamp model. Use from one thread at a time."""

    def __init__(self, auto_model: Any) -> None:
        self._model, self._values = auto_model.model.eval(), auto_model.kwargs

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "TimestampModel":
        """Read the folder: config.yaml, model.pt, tokens.json, am.mvn. Raises RecognizerError."""
        refusal = (
            f"does not tell when a known text is said; give a folder of {', '.join(_CLASSES[:-1])} or {_CLASSES[-1]}"
        )
        return cls(
            load_kind(
                folder,
                kinds=_CLASSES,
                needed=("config.yaml", "model.pt", "tokens.json", "am.mvn"),
                also=_MODULES,
                device=device,
                refusal=f"{refusal}, such as fa-zh",
            )
        )

    def times(self, samples: np.ndarray, words: Sequence[str]) -> list[tuple[float, float]]:
        """Start and end of each word in seconds, in float32 mono samples (N,) at 16 kHz. Raises TimesError.

        A word of a script without spaces is one character.
        """
        counts = [len(self._values["tokenizer"].text2tokens(word)) for word in words]
        if not sum(counts):
            raise TimesError("the text has nothing to speak")
        try:
            stamps, heard = self._stamps(samples, sum(counts))
        except (
            IndexError,
            ValueError,
            RuntimeError,
        ) as error:  # too short, or too many tokens for the frames there are
            reason = " ".join(str(error).split())[:120]
            raise TimesError(f"FunASR finds no times for its {sum(counts)} tokens ({reason})") from None
        if abs(heard - sum(counts)) > _MOST_MISCOUNTED * sum(counts) + 1:
            raise TimesError(f"the aligner hears {heard:.0f} tokens where the text has {sum(counts)}")
        return spans(stamps, counts, len(samples) / SAMPLE_RATE)

    @torch.inference_mode()
    def _stamps(self, samples: np.ndarray, num_tokens: int) -> tuple[list[list[int]], float]:
        """FunASR's [start, end] of each token in ms, and how many tokens the sound seems to have."""
        tools = importlib.import_module("funasr.utils.timestamp_tools")
        loading = importlib.import_module("funasr.utils.load_utils")
        model, device = self._model, self._values["device"]
        audio = [torch.from_numpy(np.ascontiguousarray(samples, np.float32))]
        features, lengths = loading.extract_fbank(audio, data_type="sound", frontend=self._values["frontend"])
        encoded, lengths = model.encode(features.to(device), lengths.to(device))
        _, _, alphas, _ = model.calc_predictor_timestamp(encoded, lengths, token_num=None)
        heard = float(alphas.sum()) - 1  # the end counts as one
        told = torch.tensor([num_tokens + 1], device=device)
        _, _, alphas, peaks = model.calc_predictor_timestamp(encoded, lengths, token_num=told)
        _, stamps = tools.ts_prediction_lfr6_standard(alphas[0], peaks[0], ["-"] * num_tokens)
        return stamps, heard


def spans(stamps: Sequence[Sequence[int]], counts: Sequence[int], duration_s: float) -> list[tuple[float, float]]:
    """Start and end of words of `counts` tokens in seconds, from FunASR's [start, end] of each token in milliseconds.

    Raises TimesError where there are more or fewer tokens.
    """
    if len(stamps) != sum(counts):
        raise TimesError(f"FunASR gives times for {len(stamps)} tokens where the text has {sum(counts)}")
    starts = np.clip([start / 1000 for start, _ in stamps], 0.0, duration_s)
    ends = np.minimum([*starts[1:], min(stamps[-1][1] / 1000, duration_s)], starts + _LONGEST_TOKEN_S)
    stops = list(accumulate(counts))
    return [
        (float(starts[stop - count]), float(ends[stop - 1])) for stop, count in zip(stops, counts, strict=True) if count
    ]
