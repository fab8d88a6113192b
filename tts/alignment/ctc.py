"""Word times from a recogniser that was trained with connectionist temporal classification (wav2vec 2.0 and its family).

T frames, V labels, N letters of the text.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tts.alignment.durations import MisalignedError
from tts.alignment.textgrid import Alignment
from tts.base import CheckpointError

SAMPLE_HZ = 16_000
_REACH_S = 0.1  # a letter sounds at most this long before and after the frames that name it
_MIN_CONFIDENCE = 0.2  # mean probability of the letters where they are found


def forced_path(log_probs: np.ndarray, labels: np.ndarray, blank: int) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest way of saying `labels` (N,), as first and last frame of each; raises MisalignedError.

    `log_probs` (T, V): logarithms of the probabilities of each frame.
    """
    num_frames, num_states = len(log_probs), 2 * len(labels) + 1
    repeated = int((labels[1:] == labels[:-1]).sum())
    if len(labels) + repeated > num_frames:
        raise MisalignedError(f"{len(labels)} letters do not fit into {num_frames} frames of speech")
    states = np.full(num_states, blank)  # blanks between, before and after the letters
    states[1::2] = labels
    may_skip = np.zeros(num_states, bool)  # the blank between two different letters
    may_skip[3::2] = labels[1:] != labels[:-1]
    score = np.full(num_states, -np.inf)
    score[:2] = log_probs[0, states[:2]]
    came_from = np.zeros((num_frames, num_states), np.int8)
    for frame in range(1, num_frames):
        ways = np.full((3, num_states), -np.inf)
        ways[0] = score
        ways[1, 1:] = score[:-1]
        ways[2, 2:] = np.where(may_skip[2:], score[:-2], -np.inf)
        came_from[frame] = ways.argmax(0)
        score = ways.max(0) + log_probs[frame, states]
    state = num_states - 1 if score[-1] >= score[-2] else num_states - 2
    first, last = np.zeros((2, len(labels)), np.int64)
    for frame in range(num_frames - 1, -1, -1):
        letter, is_letter = divmod(state, 2)
        if is_letter:
            first[letter] = frame
            last[letter] = max(last[letter], frame)
        state -= int(came_from[frame, state])
    return first, last


class CtcAligner:
    """A model folder in transformers' format: any architecture with a CTC head over letters."""

    def __init__(self, model: Any, extractor: Any, vocabulary: dict[str, int], delimiter: str) -> None:
        self._model, self._extractor = model, extractor
        self._vocabulary, self._delimiter = vocabulary, delimiter
        self._blank = int(model.config.pad_token_id)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "CtcAligner":
        """Read the folder. Raises CheckpointError."""
        from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

        if not folder.is_dir():
            raise CheckpointError(
                f"no aligner in {folder}: give a transformers folder of a wav2vec 2.0 model with CTC."
            )
        try:
            model = AutoModelForCTC.from_pretrained(folder, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:160]
            raise CheckpointError(f"{folder} is not a transformers folder of a CTC model ({reason}).") from None
        delimiter = getattr(tokenizer, "word_delimiter_token", None) or ""
        return cls(model.to(device).eval(), extractor, tokenizer.get_vocab(), delimiter)

    @torch.inference_mode()
    def align(self, samples: np.ndarray, text: str) -> Alignment:
        """Times of the words of `text` in 16 kHz samples (N,). Raises MisalignedError."""
        values = self._extractor(samples, sampling_rate=SAMPLE_HZ, return_tensors="pt").input_values
        logits = self._model(values.to(self._model.device)).logits[0]
        log_probs = logits.float().log_softmax(-1).cpu().numpy()
        return self.from_log_probs(log_probs, text, len(samples) / SAMPLE_HZ)

    def from_log_probs(self, log_probs: np.ndarray, text: str, duration_s: float) -> Alignment:
        """Times of the words of `text`, from (T, V) logarithms of probabilities. Raises MisalignedError."""
        words, labels, owners = self._labels(text)
        first, last = forced_path(log_probs, labels, self._blank)
        letters = np.flatnonzero(owners >= 0)
        confidence = float(np.exp(log_probs[first[letters], labels[letters]]).mean())
        if confidence < _MIN_CONFIDENCE:
            raise MisalignedError(f"the aligner does not hear the text (confidence {confidence:.2f})")
        frame_s = duration_s / len(log_probs)
        starts, ends = first[letters] * frame_s, (last[letters] + 1) * frame_s
        middle = (ends[:-1] + starts[1:]) / 2
        inside = owners[letters][1:] == owners[letters][:-1]
        starts[1:] = np.where(inside, middle, np.maximum(middle, starts[1:] - _REACH_S))
        ends[:-1] = np.where(inside, middle, np.minimum(middle, ends[:-1] + _REACH_S))
        starts[0], ends[-1] = max(0.0, starts[0] - _REACH_S), min(duration_s, ends[-1] + _REACH_S)
        of = owners[letters]
        edges = np.flatnonzero(np.append(True, ~inside))
        stops = np.append(edges[1:], len(letters)) - 1
        timed = [(words[of[a]], float(starts[a]), float(ends[b])) for a, b in zip(edges, stops, strict=True)]
        return Alignment(timed, [(str(labels[i]), float(end)) for i, end in zip(letters, ends, strict=True)])

    def _labels(self, text: str) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Words, the labels of their letters (N,) and the word that each belongs to; -1: a space between words."""
        words = [word for word in text.split() if any(letter.isalnum() for letter in word)]
        labels: list[int] = []
        owners: list[int] = []
        for number, word in enumerate(words):
            forms = [[form for form in (c, c.upper(), c.lower()) if form in self._vocabulary] for c in word]
            known = [self._vocabulary[form[0]] for form in forms if form]
            if any(c.isalnum() and not form for c, form in zip(word, forms, strict=True)):
                raise MisalignedError(f"the aligner does not know all letters of {word!r}")
            if number and self._delimiter in self._vocabulary:
                labels.append(self._vocabulary[self._delimiter])
                owners.append(-1)
            labels += known
            owners += [number] * len(known)
        if not labels:
            raise MisalignedError("the text has nothing to speak")
        return words, np.array(labels), np.array(owners)
