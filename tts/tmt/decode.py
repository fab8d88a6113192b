"""Streaming decoding: text token ids in, the speech tokens of one text token out per step (SyncSpeech, section 3.4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from tts.base import SynthesisError
from tts.tmt.layout import Field, Role, duration_rows, num_spoken, speech_rows, text_rows, visible
from tts.tmt.model import Tmt
from tts.tmt.state import TmtState

MOST_REFINEMENTS = 3  # passes after the first one


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How to decode one utterance."""

    # text tokens beyond those being spoken that are waited for; None = the model's default
    lookahead: int | None = None
    opportunistic: bool = False  # read all text that has arrived, as far ahead as the model has learnt to look
    # most text tokens spoken in one step where text is ahead; that many are read ahead, for their durations
    text_per_step: int = 1
    refinements: int = 0  # further passes over a step's speech tokens, each with the surest so far shown
    top_k: int = 3  # durations are drawn from the k most likely; 1 = greedy
    speed: float = 1.0  # > 1 speaks faster
    durations: tuple[int, ...] | None = None  # of every text token, in speech tokens, instead of drawn ones
    seed: int = 0


class TokenBlock(NamedTuple):
    """What is generated for one text token."""

    text_token: int  # index of the text token within the utterance, from 0
    tokens: np.ndarray  # (l,) its speech tokens, int64; l may be 0
    capped: bool  # cut to the longest duration that the model can say


class TmtDecoder:
    """One utterance. `push` and `finish` bring text; `step` speaks the next text token once its look-ahead is there.

    Each step is one forward pass over: the text read since, the last blocks as generated, the placeholders up to D_n
    (all three stay in the cache), the masked block n and D_{n+1} (both forgotten). Only the first step needs a pass
    before, for the first duration. The result does not depend on when text arrives, unless `opportunistic` or
    `text_per_step` make use of text that is early; nothing is then waited for that would not be waited for else.

    Under the mask `paper` nothing stays in the cache: each pass is over all text that has arrived, as far ahead as the
    model has learnt to look, over all blocks and placeholders. What is there early is used early, so when text arrives
    matters; where it comes a token at a time, as the paper has it, the look-ahead is always the same.
    """

    def __init__(self, model: Tmt, options: DecodeOptions | None = None, state: TmtState | None = None) -> None:
        """Raises SynthesisError for options that the model has not learnt."""
        options = options or DecodeOptions()
        config = model.config
        lookahead = config.lookahead if options.lookahead is None else options.lookahead
        if not 1 <= lookahead <= config.max_lookahead:
            raise SynthesisError(f"look-ahead {lookahead}: this model takes 1 to {config.max_lookahead} text tokens.")
        if not 0.25 <= options.speed <= 4.0:
            raise SynthesisError(f"speed {options.speed}: must lie between 0.25 and 4.")
        most = config.text_per_step if config.mask == "prefix" else 1
        if not 1 <= options.text_per_step <= most:
            raise SynthesisError(f"{options.text_per_step} text tokens per step: this model speaks 1 to {most}.")
        if not 0 <= options.refinements <= MOST_REFINEMENTS:
            raise SynthesisError(f"{options.refinements} refinement passes: take 0 to {MOST_REFINEMENTS}.")
        longest = config.num_duration_classes - 1
        if options.durations and not 0 <= min(options.durations) <= max(options.durations) <= longest:
            raise SynthesisError(f"prescribed durations must lie between 0 and {longest} speech tokens.")
        self._model, self._options, self._lookahead = model, options, lookahead
        self._caches = config.mask == "prefix"
        # text tokens read ahead at most
        early = options.opportunistic or not self._caches
        self._furthest = config.max_lookahead if early else max(lookahead, options.text_per_step)
        self.state = state or TmtState.create(config, seed=options.seed, like=model.embedding.weight)

    def prompt(self, tokens: np.ndarray) -> None:
        """Begin after speech that has no text here, (P,) speech tokens: the voice goes on in its manner (block 0).

        Raises SynthesisError once something was spoken, and for speech tokens that the model does not know.
        """
        if self.state.num_spoken or self.state.blocks or self.state.end:
            raise SynthesisError("a prompt belongs before the first text token.")
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < self._model.config.num_speech_tokens:
            raise SynthesisError(f"the prompt has speech token {tokens.max()}, this model knows fewer.")
        self.state.blocks.append(np.asarray(tokens, np.int64))

    @torch.inference_mode()
    def prime(self, ids: Sequence[int], blocks: Sequence[np.ndarray]) -> None:
        """Begin behind a prompt: text token ids and the speech tokens of each, taken as generated (sections 3.2 and 3.4).

        The text to speak follows the prompt's in one sequence, nothing between them; E comes after the text to speak
        alone. What no later text changes is read at once; the last blocks (look-ahead) wait for it, as any others do.
        The prompt counts neither in `TokenBlock.text_token` nor in prescribed durations. Raises SynthesisError.
        """
        state, config = self.state, self._model.config
        if state.num_text:
            raise SynthesisError("a prompt belongs before the text.")
        spoken = np.concatenate([np.zeros(1, np.int64), *blocks])
        longest = max((len(block) for block in blocks), default=0)
        if len(ids) != len(blocks) or longest >= config.num_duration_classes:
            raise SynthesisError(f"{len(ids)} text tokens of a prompt, {len(blocks)} blocks of up to {longest} tokens.")
        if not 0 <= spoken.min() <= spoken.max() < config.num_speech_tokens:
            raise SynthesisError("the prompt has speech tokens that the text-to-token model does not know.")
        if ids and not 0 <= min(ids) <= max(ids) < config.text_vocab_size:
            raise SynthesisError("the prompt has text tokens that the text-to-token model does not know.")
        state.text += ids
        state.num_text = state.num_prompt = len(ids)
        state.given.extend(np.asarray(block, np.int64) for block in blocks)
        self._take_given()

    def _take_given(self) -> None:
        """Take the prompt's next blocks as generated, those for whose step the text is there.

        Under `paper` nothing is kept of a pass; that of the last block alone is of use, for the first duration.
        """
        state = self.state
        while state.given and self._may_speak():
            block = state.given.popleft()
            if self._caches or not state.given:
                self._speak(state.num_spoken + 1, np.array([len(block)]), last=False)
            state.blocks.append(block)
            state.num_spoken += 1
            state.num_frames += len(block)

    def _may_speak(self) -> bool:
        """Whether the next block's look-ahead text is there."""
        state = self.state
        return state.finished or state.num_read + len(state.text) > state.num_spoken + self._lookahead

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
        given = self._options.durations
        if given is not None and self.state.num_text - self.state.num_prompt == len(given):
            raise SynthesisError(f"durations are prescribed for {len(given)} text tokens only.")
        self.state.text.append(text_token)
        self.state.num_text += 1

    def finish(self) -> None:
        """Say that the text is complete: E follows the last text token, and no step waits for look-ahead any more.

        Raises SynthesisError where durations are prescribed for more text than there is.
        """
        given, count = self._options.durations, self.state.num_text - self.state.num_prompt
        if given is not None and count != len(given):
            raise SynthesisError(f"durations are prescribed for {len(given)} text tokens, the text has {count}.")
        if not self.state.finished:
            self.state.finished = True
            self.state.text.append(self._model.config.end_id)

    @torch.inference_mode()
    def step(self) -> TokenBlock | None:
        """Speak the next text token; None while its look-ahead text is missing, and when done."""
        state = self.state
        if state.ready:
            return state.ready.popleft()
        self._take_given()
        if state.done or not self._may_speak():
            return None
        number = state.num_spoken + 1  # of the first block of this step, from 1
        arrived = state.num_read + len(state.text)
        length = state.num_text if state.finished else arrived
        count = num_spoken(number, state.num_read, arrived, length, self._lookahead, self._options.text_per_step)
        drawn = self._durations(number, count)
        durations = np.array([duration for duration, _ in drawn], np.int64)
        tokens = self._speak(number, durations, last=state.finished and number + count > state.num_text)
        for place, (block, (_, capped)) in enumerate(zip(tokens, drawn, strict=True)):
            state.ready.append(TokenBlock(number - 1 - state.num_prompt + place, block, capped))
        state.blocks += tokens
        state.num_spoken += count
        state.num_frames += int(durations.sum())
        return state.ready.popleft()

    def _durations(self, number: int, count: int) -> list[tuple[int, bool]]:
        """Durations of `count` text tokens from `number` on, prescribed or drawn one after the other; whether each was cut."""
        state = self.state
        if self._options.durations is not None:
            first, longest = state.num_spoken - state.num_prompt, self._model.config.num_duration_classes - 1
            return [(duration, duration == longest) for duration in self._options.durations[first : first + count]]
        if state.placeholder is None:
            state.placeholder = self._forward(number, count, np.zeros((len(Field), 0), np.int64))[-1]
        hidden = state.placeholder
        drawn = [self.draw_duration(self._model.duration_head(hidden))]
        for later in self._model.later_durations[: count - 1]:
            before = torch.tensor(drawn[-1][0], device=hidden.device)
            drawn.append(self.draw_duration(later(hidden, before)))
        return drawn

    def _speak(self, number: int, durations: np.ndarray, last: bool) -> list[np.ndarray]:
        """Speech tokens of the blocks from `number` on; leaves the next placeholder in the state (after the last: none)."""
        state, config = self.state, self._model.config
        size = int(durations.sum())
        if last and not size:
            return [np.zeros(0, np.int64) for _ in durations]
        masked = speech_rows(config, Role.MASKED, config.mask_id, number, state.num_frames, durations, step=number)
        following = np.arange(number + len(durations), number + len(durations) + (not last))
        placeholder = duration_rows(config, Role.NEXT_DURATION, following, state.num_frames + size, step=number)
        provisional = np.concatenate([masked, placeholder], axis=1)
        for left in range(self._options.refinements if size else 0, -1, -1):
            hidden = self._forward(number, len(durations), provisional)
            scores = self._model.speech_head(hidden[:size])
            tokens = scores.argmax(dim=-1).cpu().numpy()
            known = provisional[Field.ID, :size] != config.mask_id
            tokens[known] = provisional[Field.ID, :size][known] - config.speech_offset
            if left:
                self._show(provisional, scores, tokens, known, left)
        state.placeholder = None if last else hidden[-1]
        return np.split(tokens, np.cumsum(durations)[:-1])

    def _show(
        self, provisional: np.ndarray, scores: torch.Tensor, tokens: np.ndarray, known: np.ndarray, left: int
    ) -> None:
        """Put the surest tokens in the place of their masks; the last of `left` passes predicts an even share of all."""
        sure = scores.float().log_softmax(dim=-1).amax(dim=-1).cpu().numpy()
        sure[known] = np.inf
        still_hidden = len(tokens) * left // (self._options.refinements + 1)
        shown = np.argsort(-sure, kind="stable")[: len(tokens) - still_hidden]
        provisional[Field.ID, shown] = tokens[shown] + self._model.config.speech_offset

    def _past(self, number: int, reach: int) -> np.ndarray:
        """Rows that step `number` reads and the cache lacks: text up to `reach`, blocks before it, their placeholders."""
        state, config = self.state, self._model.config
        durations = np.array([len(block) for block in state.blocks], np.int64)
        first = number - len(durations)  # index of the first of these blocks
        before = state.num_frames - int(durations[first == 0 :].sum())
        starts = before + np.cumsum([0, *durations])
        if first == 0:  # a prompt lies before frame 0
            starts -= durations[0]
        ids = np.array(state.text[: reach - state.num_read], np.int64)
        read = (number, state.num_frames) if self._caches else (0, 0)
        text = text_rows(config, ids, state.num_read + 1, *read)
        tokens = np.concatenate([np.zeros(0, np.int64), *state.blocks]) + config.speech_offset
        speech = speech_rows(config, Role.SPEECH, tokens, first, int(starts[0]), durations)
        placed = np.arange(state.num_placed + 1, number + 1)
        return np.concatenate(
            [text, speech, duration_rows(config, Role.DURATION, placed, starts[placed - first])], axis=1
        )

    def _forward(self, number: int, count: int, provisional: np.ndarray) -> torch.Tensor:
        """Hidden states of the `provisional` positions, (P, D), or of the last one before (1, D); fills the cache.

        `count`: text tokens that it speaks. Drops what has left the history window for good.
        """
        state, window = self.state, self._model.config.window
        reach = min(number + count - 1 + self._furthest, state.num_read + len(state.text))
        past = self._past(number, reach)
        rows = np.concatenate([past, provisional], axis=1)
        # Step n needs indices from n - window + 1 on: blocks are read by later steps, text at most `_furthest` steps before.
        if window and past.shape[1]:
            state.read_starts.append((number, state.end))
            while state.read_starts[0][0] <= number - window - self._furthest - self._options.text_per_step:
                state.read_starts.popleft()
            state.start = state.read_starts[0][1]
        state.reserve_(rows.shape[1])
        new = torch.from_numpy(rows)[None].to(state.rows.device)
        keys = torch.cat((state.rows[:, :, state.start : state.end], new), dim=2)
        hidden = self._model(
            new,
            visible(new, keys, window),
            state,
            num_committed=past.shape[1] if self._caches else 0,
            num_asked=max(provisional.shape[1], 1),
        )[0]
        if self._caches:
            del state.text[: reach - state.num_read]
            state.num_read = reach
            state.num_placed = number
            state.blocks.clear()
        return hidden

    def draw_duration(self, logits: torch.Tensor) -> tuple[int, bool]:
        """A duration in speech tokens at the wanted speed, and whether it was cut; the rounding error is carried on."""
        state = self.state
        scores = logits.float().cpu().numpy()
        best = np.argsort(-scores, kind="stable")[: self._options.top_k]
        weights = np.exp((scores[best] - scores[best[0]]).astype(np.float64))
        drawn = int(state.generator.choice(best, p=weights / weights.sum()))
        wanted = drawn / self._options.speed + state.rounding
        longest = self._model.config.num_duration_classes - 1
        duration = int(np.floor(wanted + 0.5))
        capped = duration > longest or drawn == longest
        duration = min(duration, longest)
        state.rounding = wanted - duration if duration < longest else 0.0
        return duration, capped
