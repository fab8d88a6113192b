"""Text that is early is used, several text tokens are spoken in one step, speech tokens are said again."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tmt import TEXT, make, stream
from tts.tmt.decode import DecodeOptions, TmtDecoder
from tts.tmt.layout import Field, Role, Schedule, packed, visible
from tts.tmt.model import Tmt


class Planned:
    """A decoded utterance that uses text which is early, and the schedule that came of it."""

    def __init__(
        self, model: Tmt, text: list[int], arrivals: list[int], prompt: list[int], options: DecodeOptions
    ) -> None:
        decoder = TmtDecoder(model, options)
        if prompt:
            decoder.prompt(np.array(prompt))
        self.blocks: list[np.ndarray] = []
        self.speech: list[tuple[int, torch.Tensor]] = []
        speaks, reads = [], []
        rest = list(text)
        for size in [*arrivals, len(text)]:
            for token in rest[:size]:
                decoder.push(token)
            rest = rest[size:]
            if not rest:
                decoder.finish()
            while True:
                waiting = len(decoder.state.ready)
                block = decoder.step()
                if block is None:
                    break
                self.blocks.append(block.tokens)
                number = len(self.blocks)
                speaks.append(speaks[-1] if waiting else number)
                reads += [speaks[-1]] * (decoder.state.num_read - len(reads))
        assert decoder.done
        self.schedule = Schedule(np.array(speaks), np.array([*reads, *[len(text)] * (len(text) + 1 - len(reads))]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    text=st.lists(st.integers(0, 39), min_size=1, max_size=14),
    arrivals=st.lists(st.integers(0, 5), max_size=10),
    text_per_step=st.sampled_from([1, 2, 3]),
    window=st.sampled_from([0, 4]),
    prompt=st.lists(st.integers(0, 26), max_size=6),
    lookahead=st.sampled_from([1, 2]),
    opportunistic=st.booleans(),
)
def test_early_text_several_text_tokens_per_step_and_a_prompt_equal_one_pass_over_the_whole(
    text, arrivals, text_per_step, window, prompt, lookahead, opportunistic
) -> None:
    model = make(window=window, text_per_step=3)
    options = DecodeOptions(opportunistic=opportunistic, text_per_step=text_per_step, lookahead=lookahead, top_k=1)
    spoken = Planned(model, text, arrivals, prompt, options)
    assert len(spoken.blocks) == len(text)
    durations = np.array([len(block) for block in spoken.blocks])
    tokens = np.concatenate(spoken.blocks).astype(np.int64)
    config, start = model.config, np.array(prompt, np.int64)
    rows, speech_target, _ = packed(config, np.array(text), durations, tokens, spoken.schedule, prompt=start)
    tensor = torch.from_numpy(rows)[None]
    hidden = model(tensor, visible(tensor, tensor, window))[0]
    assert model.speech_head(hidden[speech_target >= 0]).argmax(-1).tolist() == tokens.tolist()
    placeholders = np.flatnonzero((rows[Field.ROLE] == Role.NEXT_DURATION) | (rows[Field.ROLE] == Role.DURATION))
    steps = set(spoken.schedule.speaks.tolist())
    assert text_per_step == 1 or len(text) < 3 or arrivals or len(steps) < len(text)
    for place in placeholders:
        role, index = rows[Field.ROLE, place], int(rows[Field.INDEX, place])
        if index not in steps or (role == Role.DURATION) != (index == 1):
            continue
        state = hidden[place]
        duration = int(model.duration_head(state).argmax())
        assert duration == durations[index - 1]
        together = int((spoken.schedule.speaks == index).sum())
        for later, head in zip(range(1, together), model.later_durations, strict=False):
            duration = int(head(state, torch.tensor(duration)).argmax())
            assert duration == durations[index - 1 + later]


def test_text_that_comes_late_is_spoken_one_token_at_a_time() -> None:
    model = make(text_per_step=2)
    plain = stream(model, TEXT, 1, [1] * len(TEXT), top_k=1)[0]
    early = stream(model, TEXT, 1, [1] * len(TEXT), top_k=1, text_per_step=2, opportunistic=True)[0]
    assert early[:-2] == plain[:-2]  # E is early for the last two
    assert stream(model, TEXT, 1, top_k=1, text_per_step=2)[0] != plain


def test_refinement_keeps_the_surest_and_says_the_rest_again() -> None:
    model = make()
    plain, _ = stream(model, TEXT, 1, top_k=1)
    calls = []
    handle = model.register_forward_hook(lambda *call: calls.append(1))
    decoder = TmtDecoder(model, DecodeOptions(top_k=1, refinements=2))
    for token in TEXT:
        decoder.push(token)
    decoder.finish()
    refined = []
    while (block := decoder.step()) is not None:
        refined.append(block.tokens.tolist())
    handle.remove()
    assert len(refined[0]) == len(plain[0])  # the first duration has no history
    assert refined != plain
    assert len(calls) == 1 + sum(3 if block else 1 for block in refined) - (not refined[-1])
    first = plain[0]
    assert any(a == b for a, b in zip(first, refined[0], strict=True))
    assert decoder.done
