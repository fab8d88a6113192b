"""Streaming decoding: text token ids in, the speech tokens of one text token out per step (SyncSpeech, section 3.4)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from tts.base import SynthesisError
from tts.tmt.layout import Role, duration_rows, speech_rows, text_rows, visible
from tts.tmt.model import Tmt
from tts.tmt.state import TmtState


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How to decode one utterance."""

    lookahead: int | None = None  # text tokens read ahead; None = the model's default
    top_k: int = 3  # durations are drawn from the k most likely; 1 = greedy
    speed: float = 1.0  # > 1 speaks faster
    seed: int = 0


class TokenBlock(NamedTuple):
    """What one step generates."""

    text_token: int  # index of the text token within the utterance, from 0
    tokens: np.ndarray  # (l,) its speech tokens, int64; l may be 0


class TmtDecoder:
    """One utterance. `push` and `finish` bring text; `step` speaks the next text token once its look-ahead is there.

    Each step is one forward pass over: the text read since, the last block as generated, its successor's placeholder
    D_n (all three stay in the cache), the masked block n and D_{n+1} (both forgotten). The result does not depend on
    when text arrives. Only the first step needs a pass before, for the first duration.
    """

    def __init__(self, model: Tmt, options: DecodeOptions | None = None, state: TmtState | None = None) -> None:
        options = options or DecodeOptions()
        config = model.config
        lookahead = config.lookahead if options.lookahead is None else options.lookahead
        if not 1 <= lookahead <= config.max_lookahead:
            raise SynthesisError(f"look-ahead {lookahead}: this model takes 1 to {config.max_lookahead} text tokens.")
        if not 0.25 <= options.speed <= 4.0:
            raise SynthesisError(f"speed {options.speed}: must lie between 0.25 and 4.")
        self._model, self._options, self._lookahead = model, options, lookahead
        self.state = state or TmtState.create(config, seed=options.seed, like=model.embedding.weight)

    @property
    def done(self) -> bool:
        """True once every text token of the finished text is spoken."""
        return self.state.done

    def push(self, text_token: int) -> None:
        """Take the next text token id. Raises SynthesisError for an id outside the vocabulary or after `finish`."""
        if not 0 <= text_token < self._model.config.text_vocab_size:
            raise SynthesisError(f"text token {text_token} is not in the vocabulary of the text-to-token model.")
        if self.state.finished:
            raise SynthesisError("text after the end of the text: begin a new utterance.")
        self.state.text.append(text_token)
        self.state.num_text += 1

    def finish(self) -> None:
        """Say that the text is complete: E follows the last text token."""
        if not self.state.finished:
            self.state.finished = True
            self.state.text.append(self._model.config.end_id)

    @torch.inference_mode()
    def step(self) -> TokenBlock | None:
        """Speak the next text token; None while its look-ahead text is missing, and when done."""
        state = self.state
        number = state.num_spoken + 1  # of this block, from 1
        if state.done or not (state.finished or state.num_read + len(state.text) >= number + self._lookahead):
            return None
        if state.duration is None:
            state.duration = self._first_duration()
        last = state.finished and number == state.num_text
        tokens, next_duration = self._block(number, state.duration, last)
        state.block, state.duration = tokens, next_duration
        state.num_spoken += 1
        state.num_frames += len(tokens)
        return TokenBlock(number - 1, tokens)

    def _first_duration(self) -> int:
        rows = np.concatenate([self._read_text(1), duration_rows(self._model.config, Role.DURATION, 1, 0)], axis=1)
        hidden = self._forward(rows, rows.shape[1], 1)
        return self._draw_duration(self._model.duration_head(hidden[-1]))

    def _block(self, number: int, duration: int, last: bool) -> tuple[np.ndarray, int | None]:
        """Speech tokens of block `number`, and the duration of the next one (None after the last)."""
        state, config = self.state, self._model.config
        parts = [self._read_text(number)]
        if state.block is not None:
            ids, length = state.block + config.speech_offset, len(state.block)
            before = state.num_frames - length
            parts.append(speech_rows(config, Role.SPEECH, ids, number - 1, before, np.array([length])))
            parts.append(duration_rows(config, Role.DURATION, number, state.num_frames))
        num_committed = sum(part.shape[1] for part in parts)
        parts.append(speech_rows(config, Role.MASKED, config.mask_id, number, state.num_frames, np.array([duration])))
        if not last:
            parts.append(duration_rows(config, Role.NEXT_DURATION, number + 1, state.num_frames + duration))
        hidden = self._forward(np.concatenate(parts, axis=1), num_committed, number)
        block = hidden[num_committed : num_committed + duration]
        tokens = self._model.speech_head(block).argmax(dim=-1).cpu().numpy()
        return tokens, None if last else self._draw_duration(self._model.duration_head(hidden[-1]))

    def _read_text(self, number: int) -> np.ndarray:
        """Rows of the text that step `number` is the first to see."""
        state = self.state
        count = min(number + self._lookahead - state.num_read, len(state.text))
        ids, state.text = state.text[:count], state.text[count:]
        rows = text_rows(self._model.config, np.array(ids, np.int64), state.num_read + 1, state.num_frames)
        state.num_read += count
        return rows

    def _forward(self, rows: np.ndarray, num_committed: int, number: int) -> torch.Tensor:
        """Hidden states (S, D) of new positions; drops what has left the history window for good."""
        state, window = self.state, self._model.config.window
        # Text i is read at step i - lookahead, block k at step k + 1; the oldest index seen at step n is n - window.
        if window:
            state.read_starts.append(state.end)
            while len(state.read_starts) > window + self._lookahead + 2:
                state.read_starts.popleft()
            state.start = state.read_starts[0]
        state.reserve_(rows.shape[1])
        new = torch.from_numpy(rows)[None].to(state.rows.device)
        keys = torch.cat((state.rows[:, :, state.start : state.end], new), dim=2)
        mask = visible(new, keys, self._lookahead, window)
        return self._model(new, mask, state, num_committed)[0]

    def _draw_duration(self, logits: torch.Tensor) -> int:
        """A duration in speech tokens at the wanted speed; the rounding error is carried to the next one."""
        state = self.state
        scores = logits.float().cpu().numpy()
        best = np.argsort(-scores, kind="stable")[: self._options.top_k]
        weights = np.exp((scores[best] - scores[best[0]]).astype(np.float64))
        drawn = int(state.generator.choice(best, p=weights / weights.sum()))
        wanted = drawn / self._options.speed + state.rounding
        longest = self._model.config.num_duration_classes - 1
        duration = int(np.floor(wanted + 0.5))
        state.num_capped += duration > longest or drawn == longest
        duration = min(duration, longest)
        state.rounding = wanted - duration if duration < longest else 0.0
        return duration
