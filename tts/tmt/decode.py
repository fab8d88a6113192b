"""Streaming decoding: text token ids in, the speech tokens of one text token out per step (SyncSpeech, section 3.4)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from tts.base import SynthesisError
from tts.tmt.layout import Field, Role, duration_rows, read_at, speech_rows, text_rows, visible
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
    capped: bool  # cut to the longest duration that the model can say


class TmtDecoder:
    """One utterance. `push` and `finish` bring text; `step` speaks the next text token once its look-ahead is there.

    Each step is one forward pass over: the text read since, the last block as generated, its successor's placeholder
    D_n (all three stay in the cache), the masked block n and D_{n+1} (both forgotten). Only the first step needs a pass
    before, for the first duration. The result does not depend on when text arrives.

    Under the mask `paper` nothing stays in the cache: each pass is over all text that has arrived, as far ahead as the
    model has learnt to look, over all blocks and placeholders. What is there early is used early, so when text arrives
    matters; where it comes a token at a time, as the paper has it, the look-ahead is always the same.
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
        self._caches = config.mask == "prefix"
        self._furthest = lookahead if self._caches else config.max_lookahead  # text tokens read ahead at most
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
        """Say that the text is complete: E follows the last text token, and no step waits for look-ahead any more."""
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
        capped = state.capped
        tokens, next_duration = self._block(number, state.duration, last)
        state.blocks.append(tokens)
        state.duration = next_duration
        state.num_spoken += 1
        state.num_frames += len(tokens)
        return TokenBlock(number - 1, tokens, capped)

    def _first_duration(self) -> int:
        return self._draw_duration(self._model.duration_head(self._forward(1, np.zeros((len(Field), 0), np.int64))[-1]))

    def _block(self, number: int, duration: int, last: bool) -> tuple[np.ndarray, int | None]:
        """Speech tokens of block `number`, and the duration of the next one (None after the last)."""
        if last and not duration:
            return np.zeros(0, np.int64), None
        state, config = self.state, self._model.config
        masked = speech_rows(config, Role.MASKED, config.mask_id, number, state.num_frames, np.array([duration]))
        following = np.arange(number + 1, number + 1 + (not last))
        placeholder = duration_rows(config, Role.NEXT_DURATION, following, state.num_frames + duration)
        provisional = np.concatenate([masked, placeholder], axis=1)
        hidden = self._forward(number, provisional)[-provisional.shape[1] :]
        tokens = self._model.speech_head(hidden[:duration]).argmax(dim=-1).cpu().numpy()
        return tokens, None if last else self._draw_duration(self._model.duration_head(hidden[-1]))

    def _past(self, number: int) -> np.ndarray:
        """Rows that step `number` reads and the cache lacks: text, blocks before it, placeholders up to its own."""
        state, config = self.state, self._model.config
        durations = np.array([len(block) for block in state.blocks], np.int64)
        first = number - len(durations)  # index of the first of these blocks
        before = state.num_frames - int(durations.sum())
        starts = before + np.cumsum([0, *durations])
        ids = np.array(state.text[: number + self._furthest - state.num_read], np.int64)
        index = state.num_read + 1 + np.arange(len(ids))
        text = text_rows(config, ids, state.num_read + 1, read_at(config, index, self._lookahead, starts, first))
        tokens = np.concatenate([np.zeros(0, np.int64), *state.blocks]) + config.speech_offset
        speech = speech_rows(config, Role.SPEECH, tokens, first, before, durations)
        placed = np.arange(state.num_placed + 1, number + 1)
        return np.concatenate(
            [text, speech, duration_rows(config, Role.DURATION, placed, starts[placed - first])], axis=1
        )

    def _forward(self, number: int, provisional: np.ndarray) -> torch.Tensor:
        """Hidden states (S, D) of what step `number` reads, `provisional` positions last; fills the cache.

        Drops what has left the history window for good.
        """
        state, window = self.state, self._model.config.window
        past = self._past(number)
        rows = np.concatenate([past, provisional], axis=1)
        # Text i is read at step i - lookahead, block k at step k + 1; the oldest index seen at step n is n - window.
        if window:
            state.read_starts.append(state.end)
            while len(state.read_starts) > window + self._lookahead + 2:
                state.read_starts.popleft()
            state.start = state.read_starts[0]
        state.reserve_(rows.shape[1])
        new = torch.from_numpy(rows)[None].to(state.rows.device)
        keys = torch.cat((state.rows[:, :, state.start : state.end], new), dim=2)
        mask = visible(new, keys, self._model.config.text_limit(self._lookahead), window)
        hidden = self._model(new, mask, state, past.shape[1] if self._caches else 0)[0]
        if self._caches:
            count = min(number + self._furthest - state.num_read, len(state.text))
            del state.text[:count]
            state.num_read += count
            state.num_placed = number
            state.blocks.clear()
        return hidden

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
        state.capped = duration > longest or drawn == longest
        duration = min(duration, longest)
        state.rounding = wanted - duration if duration < longest else 0.0
        return duration
