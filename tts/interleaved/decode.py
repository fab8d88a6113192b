"""Streaming decoding: text token ids in, groups of speech tokens out (CosyVoice 2, 2412.10117, section 2.3)."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from tts.base import SynthesisError
from tts.interleaved.drafts import NOTHING, Choice, Draft, Drafter, accept
from tts.interleaved.model import InterleavedLm
from tts.interleaved.sampling import Chooser, RepetitionAware
from tts.interleaved.state import InterleavedState


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How to decode one utterance.

    `upstream_exact` is for comparisons with the public implementation and brings its faults back: the last speech token
    is read twice when the text ends after a group; interleaved speech has no length limits; ids that do not belong are
    not forbidden, so that drawing one is an error (or, with the text complete, the end); prompt speech that was not
    placed when the text ends is lost; a prompt that fills its last group is followed by a second group without text;
    fill counts as a speech token where repetitions are looked for.
    """

    interleaved: bool = True  # False: speech begins when the text is complete
    choose: Chooser = field(default_factory=RepetitionAware)
    min_ratio: float = 2.0  # speech tokens per text token below which the speech cannot end
    max_ratio: float = 20.0  # speech tokens per text token at which it is cut
    max_step_tokens: int = 15  # speech tokens of one step
    upstream_exact: bool = False
    seed: int = 0


class Prompt(NamedTuple):
    """What was said before, in the voice to continue with."""

    text: np.ndarray  # (L,) text tokens
    speech: np.ndarray  # (S,) speech tokens


class TokenBlock(NamedTuple):
    """What one step generates."""

    text_token: int  # index of the last text token taken to be voiced with this block, from 0; -1: none yet
    tokens: np.ndarray  # (l,) speech tokens, int64; l may be 0
    capped: bool = False  # this model has no durations that could be too long


class InterleavedDecoder:
    """One utterance. `push` and `finish` bring text; `step` speaks up to where the next text is read.

    The sequence is sos, [5 text tokens, 15 speech tokens]*, and once the text is complete the rest of it, task id and
    speech to its end. Each token is read once and stays in the cache. The result does not depend on when text arrives.

    With draft heads one pass brings several speech tokens (VADUSA, 2410.21951): what it reads behind the last one is a
    tree of drafts, of which it keeps those that it chooses itself. The first token after text has none. With a tolerance
    of 1 the speech is the same as without, token for token, as far as a pass over several positions rounds like one over
    a single one; with more it depends on `max_step_tokens`, behind which nothing is drafted.

    The model does not say which text its speech is of. A group's text counts as voiced at the group's end, but for the
    last token read, which may have speech to come; the rest of the text when the utterance is complete. With more than
    3 speech tokens per text token that is too early for the groups, and the last part is the longest.
    """

    def __init__(
        self,
        model: InterleavedLm,
        options: DecodeOptions | None = None,
        state: InterleavedState | None = None,
        *,
        prompt: Prompt | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        """Begin an utterance, or go on with `state`. `prompt` needs a fresh state. Raises SynthesisError."""
        options = options or DecodeOptions()
        if not 0 <= options.min_ratio <= options.max_ratio:
            raise SynthesisError(
                f"min_ratio {options.min_ratio}: must lie between 0 and max_ratio {options.max_ratio}."
            )
        if options.max_step_tokens < 1:
            raise SynthesisError(f"max_step_tokens {options.max_step_tokens}: must be at least 1.")
        if drafter is not None:
            drafter.check(model.config)
        self._model, self._options, self._drafter = model, options, drafter
        self.state = state or InterleavedState.create(model.config, seed=options.seed, like=model.llm_embedding.weight)
        if prompt is not None:
            self._begin_with(prompt)

    @property
    def done(self) -> bool:
        """True once the speech of the finished text is complete."""
        return self.state.done

    def push(self, text_token: int) -> None:
        """Take the next text token id. Raises SynthesisError for an id outside the vocabulary or after `finish`."""
        self._check_text(text_token)
        if self.state.finished:
            raise SynthesisError("text after the end of the text: begin a new utterance.")
        self.state.text.append(text_token)
        self.state.num_text += 1

    def finish(self) -> None:
        """Say that the text is complete."""
        self.state.finished = True

    @torch.inference_mode()
    def step(self) -> TokenBlock | None:
        """Speak to the end of the group, at most `max_step_tokens`; None while text is missing, and when done."""
        state = self.state
        if state.done or not (state.speaking or self._read_text()):
            return None
        tokens: list[int] = []
        while state.speaking and len(tokens) < self._options.max_step_tokens:
            for speech_id in self._draw(self._options.max_step_tokens - len(tokens)):
                state.pending = []  # the one before was read as a draft
                if speech_id < self._model.config.num_speech_tokens:
                    tokens.append(speech_id)
                    self._add(speech_id)
                else:
                    self._stop(speech_id)
        if state.ended:
            state.num_voiced = state.num_text
        elif not state.speaking:
            state.num_voiced = max(0, state.num_taken - state.num_prompt_text - 1)
        return TokenBlock(state.num_voiced - 1, np.array(tokens, np.int64))

    def _check_text(self, text_token: int) -> None:
        if not 0 <= text_token < self._model.config.text_vocab_size:
            raise SynthesisError(f"text token {text_token} is not in the vocabulary of the text-to-token model.")

    def _begin_with(self, prompt: Prompt) -> None:
        for token in prompt.text:
            self._check_text(int(token))
        speech = [int(token) for token in prompt.speech]
        if any(not 0 <= token < self._model.config.num_speech_tokens for token in speech):
            raise SynthesisError("the prompt's speech tokens are of another speech tokenizer.")
        self.state.text[:0] = [int(token) for token in prompt.text]
        self.state.num_prompt_text = len(prompt.text)
        self.state.prompt = speech

    def _read_text(self) -> bool:
        """Line up the next text, and the prompt's speech with it; False while more text is needed to go on."""
        state, config, exact = self.state, self._model.config, self._options.upstream_exact
        if not state.num_taken and not state.pending:
            state.pending = [config.sos]
        while self._options.interleaved and len(state.text) >= config.text_chunk:
            self._take_text(config.text_chunk)
            num_placed = self._place_prompt(config.speech_chunk)
            # A group that the prompt fills is complete: the next text follows.
            if not state.prompt and (num_placed < config.speech_chunk or exact):
                state.until_fill = config.speech_chunk - num_placed % config.speech_chunk
                return True
        if not state.finished:
            return False
        if exact and state.history and state.history[-1] == config.fill:
            state.pending = state.pending + (state.pending or state.last_read)
        self._take_text(len(state.text))
        state.pending.append(config.task)
        if not (exact and self._options.interleaved):
            self._place_prompt(len(state.prompt))
        state.final = True
        return True

    def _take_text(self, count: int) -> None:
        state = self.state
        state.pending += state.text[:count]
        del state.text[:count]
        state.num_taken += count

    def _place_prompt(self, count: int) -> int:
        """Line up at most `count` speech tokens of the prompt; returns how many."""
        state = self.state
        placed = state.prompt[:count]
        state.pending += [token + self._model.config.speech_offset for token in placed]
        del state.prompt[:count]
        return len(placed)

    def _draw(self, most: int) -> list[int]:
        """Read what is lined up, and drafts behind it; choose the next speech ids: one, or up to `most`."""
        state, offset = self.state, self._model.config.speech_offset
        read, state.pending = state.pending, []
        draft = self._draft(read, most)
        past = state.end
        ids = torch.tensor([[*read, *(token + offset for token in draft.tokens)]], device=state.keys.device)
        tree = draft.tree if draft.tokens else None
        hidden_ND = self._model(self._model.embed(ids), state, tree)[0, len(read) - 1 :]
        scores_NV = self._model.llm_decoder(hidden_ND).float().cpu().numpy()

        def choose(node: int, before: list[int], count: int) -> Choice:
            scores = scores_NV[node].astype(np.float64)
            scores[self._forbidden(len(before))] = -np.inf
            history = state.history + before
            chosen = [self._options.choose(scores, history, state.generator) for _ in range(count)]
            return Choice(chosen, scores - np.logaddexp.reduce(scores) if count > 1 else scores)

        kept = accept(draft, choose, 1 if self._drafter is None else self._drafter.tolerance)
        tokens = [draft.tokens[node - 1] for node in kept.nodes]
        if tree is not None:
            state.keep_(past, kept.nodes)
        state.last_read = [tokens[-1] + offset] if tokens else read
        state.last_hidden = hidden_ND[kept.nodes[-1] if kept.nodes else 0]
        state.num_passes += 1
        state.num_drafted += tree is not None
        state.num_accepted += len(tokens)
        return [*tokens, kept.next_id]

    def _draft(self, read: list[int], most: int) -> Draft:
        """Drafts behind a speech token that is about to be read, no more than may still be spoken without more text."""
        state = self.state
        if (
            self._drafter is None
            or state.last_hidden is None
            or read[:-1]
            or read[0] < self._model.config.speech_offset
        ):
            return NOTHING
        if state.until_fill is not None:
            most = min(most, state.until_fill)
        elif self._longest < math.inf:
            most = min(most, math.ceil(self._longest) - state.num_speech)
        return self._drafter.draft(state.last_hidden, max(most, 1) - 1, state.history)

    @property
    def _longest(self) -> float:
        """Speech tokens at which the last part is cut."""
        options = self._options
        unlimited = options.upstream_exact and options.interleaved
        return math.inf if unlimited else options.max_ratio * self.state.num_text

    def _forbidden(self, num_ahead: int) -> list[int]:
        """Speech ids that cannot come after `num_ahead` drafts."""
        state, config, options = self.state, self._model.config, self._options
        too_short = state.final and state.num_speech + num_ahead < options.min_ratio * state.num_text
        if options.upstream_exact:
            return [config.eos] if too_short and not options.interleaved else []
        if not state.final:
            return [config.unused, config.eos]
        return [config.unused, config.fill, *([config.eos] if too_short else [])]

    def _add(self, token: int) -> None:
        """Go on after a speech token."""
        state = self.state
        state.history.append(token)
        state.pending = [token + self._model.config.speech_offset]
        state.num_speech += 1
        if state.until_fill is not None:
            state.until_fill -= 1
            if not state.until_fill:
                self._fill()
        else:
            state.cut = state.ended = state.num_speech >= self._longest

    def _stop(self, speech_id: int) -> None:
        """Go on after an id that is no speech token."""
        state, config, options = self.state, self._model.config, self._options
        if speech_id == config.fill and not state.final:
            self._fill()
        elif state.final and (speech_id == config.eos or (options.upstream_exact and not options.interleaved)):
            state.ended = True
        else:
            raise SynthesisError(f"the text-to-token model chose id {speech_id} where it cannot stand.")

    def _fill(self) -> None:
        """End a group: text comes next. Fill itself is never read."""
        self.state.until_fill = None
        if self._options.upstream_exact:
            self.state.history.append(self._model.config.fill)
