"""The golden rule for the temporal masked transformer: streaming decoding is the whole-sequence answer."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tts.base import SynthesisError
from tts.tmt.config import TmtConfig
from tts.tmt.decode import DecodeOptions, TmtDecoder
from tts.tmt.layout import Field, Role, Schedule, committed, one_step, packed, steady, visible
from tts.tmt.model import Tmt

CONFIG = TmtConfig(
    text_vocab_size=40,
    num_speech_tokens=27,
    num_duration_classes=8,
    dim=32,
    num_layers=3,
    num_heads=2,
    ff_dim=48,
    max_lookahead=32,
    index_slots=8,
    frame_embeddings=True,
)
TEXT = [int(i) for i in np.random.default_rng(3).integers(0, 40, 14)]


def make(**changes: object) -> Tmt:
    """A model with weights large enough that every visible position matters."""
    torch.manual_seed(0)
    model = Tmt(dataclasses.replace(CONFIG, **changes)).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.35)
    return model


def stream(
    model: Tmt, text: list[int], lookahead: int, arrivals: list[int] | None = None, **options: object
) -> tuple[list[list[int]], TmtDecoder]:
    """Blocks of an utterance whose text arrives in portions of the given sizes (then all the rest)."""
    decoder = TmtDecoder(model, DecodeOptions(lookahead=lookahead, **options))
    blocks: list[list[int]] = []
    rest = list(text)
    for size in [*(arrivals or []), len(text)]:
        for token in rest[:size]:
            decoder.push(token)
        rest = rest[size:]
        if not rest:
            decoder.finish()
        while (block := decoder.step()) is not None:
            assert block.text_token == len(blocks)
            blocks.append(block.tokens.tolist())
    return blocks, decoder


def whole(model: Tmt, text: list[int], blocks: list[list[int]], lookahead: int) -> tuple[torch.Tensor, np.ndarray]:
    """Hidden states and rows of one pass over a finished utterance with every inference step packed in."""
    durations = np.array([len(block) for block in blocks])
    schedule = steady(model.config, len(text), lookahead)
    rows, _, _ = packed(model.config, np.array(text), durations, np.concatenate(blocks).astype(np.int64), schedule)
    tensor = torch.from_numpy(rows)[None]
    return model(tensor, visible(tensor, tensor, model.config.window))[0], rows


def select(rows: np.ndarray, role: Role, index: int) -> np.ndarray:
    return np.flatnonzero((rows[Field.ROLE] == role) & (rows[Field.INDEX] == index))


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("lookahead", [1, 2, 5, 32])
def test_streaming_equals_one_pass_over_the_whole(window: int, lookahead: int) -> None:
    model = make(window=window)
    blocks, decoder = stream(model, TEXT, lookahead, [1, 3, 1, 2], top_k=1)
    assert decoder.done
    assert len(blocks) == len(TEXT)
    assert len({len(block) for block in blocks}) > 2
    hidden, rows = whole(model, TEXT, blocks, lookahead)
    speech, durations = model.speech_head(hidden), model.duration_head(hidden)
    assert int(durations[select(rows, Role.DURATION, 1)].argmax()) == len(blocks[0])
    for number, block in enumerate(blocks, start=1):
        assert speech[select(rows, Role.MASKED, number)].argmax(-1).tolist() == block
        if number > 1:
            assert int(durations[select(rows, Role.NEXT_DURATION, number)].argmax()) == len(block)


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("lookahead", [1, 3])
def test_cached_keys_equal_those_of_the_finished_sequence(window: int, lookahead: int) -> None:
    model = make(window=window)
    blocks, decoder = stream(model, TEXT, lookahead, [2, 2])
    _, rows = whole(model, TEXT, blocks, lookahead)
    text, placeholders, speech = committed(
        model.config,
        np.array(TEXT),
        np.array([len(b) for b in blocks]),
        np.concatenate(blocks).astype(np.int64),
        steady(model.config, len(TEXT), lookahead),
    )
    rows = np.concatenate([text, placeholders, speech], axis=1)
    tensor = torch.from_numpy(rows)[None]
    fresh = TmtDecoder(model).state
    fresh.reserve_(rows.shape[1])
    model(tensor, visible(tensor, tensor, window), fresh, rows.shape[1])
    state = decoder.state
    columns = {tuple(column): i for i, column in enumerate(rows.T.tolist())}
    cached = state.rows[0, :, state.start : state.end].T.tolist()
    assert len(cached) > 20
    places = [columns[tuple(column)] for column in cached]
    for name in ("keys", "values"):
        mine = getattr(state, name)[:, 0, :, state.start : state.end]
        torch.testing.assert_close(mine, getattr(fresh, name)[:, 0, :, places], atol=1e-4, rtol=1e-4)


class Recorded:
    """A decoded utterance, the logits of every step, and how much text had arrived for each."""

    def __init__(self, model: Tmt, text: list[int], lookahead: int, arrivals: list[int], seed: int) -> None:
        self.options = DecodeOptions(lookahead=lookahead, seed=seed)
        decoder = TmtDecoder(model, self.options)
        self.blocks: list[np.ndarray] = []
        self.arrived: list[int] = []  # E included
        self.speech: list[torch.Tensor] = []
        self.durations: list[torch.Tensor] = []
        heads = ((model.speech_head, self.speech), (model.duration_head, self.durations))
        hooks = [head.register_forward_hook(lambda *call, to=to: to.append(call[-1].clone())) for head, to in heads]
        rest, pushed = list(text), 0
        for size in [*arrivals, len(text)]:
            for token in rest[:size]:
                decoder.push(token)
            pushed += len(rest[:size])
            rest = rest[size:]
            if not rest:
                decoder.finish()
            while (block := decoder.step()) is not None:
                self.blocks.append(block.tokens)
                self.arrived.append(pushed + (not rest))
        assert decoder.done
        for hook in hooks:
            hook.remove()


def check_against_full_passes(model: Tmt, text: list[int], lookahead: int, spoken: Recorded) -> None:
    """Every step equals one pass over the training sequence of that step: logits, speech tokens, drawn durations."""
    config = model.config
    lengths = np.array([len(block) for block in spoken.blocks])
    tokens = np.concatenate(spoken.blocks).astype(np.int64)
    furthest = lookahead if config.mask == "prefix" else config.max_lookahead
    drawing = TmtDecoder(model, spoken.options)
    for step in range(len(text) + 1):
        number = max(step, 1)
        num_text = min(spoken.arrived[number - 1], number + furthest)
        rows, _, _ = one_step(config, np.array(text), lengths, tokens, lookahead, step, num_text=num_text)
        tensor = torch.from_numpy(rows)[None]
        hidden = model(tensor, visible(tensor, tensor, config.window))[0]
        if step and lengths[step - 1]:
            speech = model.speech_head(hidden[rows[Field.ROLE] == Role.MASKED])
            torch.testing.assert_close(spoken.speech[step - 1], speech, atol=1e-4, rtol=0)
            assert speech.argmax(-1).tolist() == spoken.blocks[step - 1].tolist()
        if step < len(text):
            duration = model.duration_head(hidden[-1])
            torch.testing.assert_close(spoken.durations[step], duration, atol=1e-4, rtol=0)
            assert drawing._draw_duration(duration)[0] == lengths[step]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    text=st.lists(st.integers(0, 39), min_size=1, max_size=12),
    arrivals=st.lists(st.integers(0, 4), max_size=12),
    lookahead=st.sampled_from([1, 2, 3, 32]),
    window=st.sampled_from([0, 4]),
    seed=st.integers(0, 3),
)
def test_cached_decoding_equals_full_passes_for_any_arrival(text, arrivals, lookahead, window, seed) -> None:
    model = make(window=window)
    spoken = Recorded(model, text, lookahead, arrivals, seed)
    check_against_full_passes(model, text, lookahead, spoken)
    at_once = Recorded(model, text, lookahead, [], seed)
    assert [b.tolist() for b in spoken.blocks] == [b.tolist() for b in at_once.blocks]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    text=st.lists(st.integers(0, 39), min_size=1, max_size=12),
    arrivals=st.lists(st.integers(0, 4), max_size=12),
    lookahead=st.sampled_from([1, 2, 3]),
    max_lookahead=st.sampled_from([3, 32]),
    window=st.sampled_from([0, 4]),
)
def test_the_papers_mask_decodes_as_it_trains_for_the_same_arrival(
    text, arrivals, lookahead, max_lookahead, window
) -> None:
    model = make(mask="paper", window=window, max_lookahead=max_lookahead)
    check_against_full_passes(model, text, lookahead, Recorded(model, text, lookahead, arrivals, 0))


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
)
def test_early_text_several_text_tokens_per_step_and_a_prompt_equal_one_pass_over_the_whole(
    text, arrivals, text_per_step, window, prompt, lookahead
) -> None:
    model = make(window=window, text_per_step=3)
    options = DecodeOptions(opportunistic=True, text_per_step=text_per_step, lookahead=lookahead, top_k=1)
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


def test_published_decoding_reads_one_token_ahead_whenever_the_text_arrives() -> None:
    model = make(mask="paper", max_lookahead=1)
    expected = [b.tolist() for b in Recorded(model, TEXT, 1, [1] * len(TEXT), 0).blocks]
    assert [b.tolist() for b in Recorded(model, TEXT, 1, [], 0).blocks] == expected


@pytest.mark.parametrize("mask", ["prefix", "paper"])
def test_later_text_reaches_a_step_under_the_papers_mask_alone(mask: str) -> None:
    model = make(mask=mask)
    other = [*TEXT[:-1], (TEXT[-1] + 1) % 40]  # beyond the look-ahead of the first step
    mine, changed = (Recorded(model, text, 2, [], 0) for text in (TEXT, other))
    same = torch.equal(mine.durations[0], changed.durations[0])
    if len(mine.blocks[0]) == len(changed.blocks[0]):
        same &= torch.equal(mine.speech[0], changed.speech[0])
    assert same is (mask == "prefix")


@pytest.mark.parametrize("mask", ["prefix", "paper"])
def test_history_is_read_anew_under_the_papers_mask_alone(mask: str) -> None:
    model = make(mask=mask)
    rng = np.random.default_rng(5)
    durations = np.array([3, 2, 0, 4, 1, 5, 2, 3, 2])
    tokens = rng.integers(0, 27, durations.sum())
    history = []
    for step in (4, 5):  # step 5 has one text token more
        rows, _, _ = one_step(model.config, np.array(TEXT[:9]), durations, tokens, 1, step)
        tensor = torch.from_numpy(rows)[None]
        hidden = model(tensor, visible(tensor, tensor, 0))[0]
        history.append(hidden[select(rows, Role.SPEECH, 1)])
    assert torch.allclose(*history, atol=1e-5) is (mask == "prefix")


def test_the_papers_mask_keeps_nothing_in_the_cache() -> None:
    _, decoder = stream(make(mask="paper"), TEXT, 1)
    assert decoder.done
    assert decoder.state.end == 0


def test_any_arrival_of_the_text_gives_the_same_speech() -> None:
    model = make(window=5)
    expected, _ = stream(model, TEXT, 1, seed=7)
    for arrivals in ([1] * 14, [2] * 7, [5, 1, 1, 3], [13]):
        assert stream(model, TEXT, 1, arrivals, seed=7)[0] == expected
    assert any(stream(model, TEXT, 1, seed=seed)[0] != expected for seed in range(3))


@pytest.mark.parametrize("window", [0, 3])
def test_packed_training_equals_separate_sequences(window: int) -> None:
    model, lookahead = make(window=window), 1
    rng = np.random.default_rng(5)
    durations = np.array([3, 2, 0, 4, 1, 5, 2, 3, 2])
    tokens = rng.integers(0, 27, durations.sum())
    ids = np.array(TEXT[:9])
    rows, _, _ = packed(model.config, ids, durations, tokens, steady(model.config, len(ids), lookahead))
    tensor = torch.from_numpy(rows)[None]
    together = model(tensor, visible(tensor, tensor, window))[0]
    for number in range(1, 10):
        # What inference has at this step: text up to n + 1, D and B of the past, D_n, then M_n and D_{n+1}.
        role, index = rows[Field.ROLE], rows[Field.INDEX]
        kept = (role == Role.TEXT) & (index <= number + lookahead)
        kept |= (role == Role.DURATION) & (index <= number)
        kept |= (role == Role.SPEECH) & (index < number)
        new = ((role == Role.MASKED) & (index == number)) | ((role == Role.NEXT_DURATION) & (index == number + 1))
        part = tensor[:, :, np.flatnonzero(kept | new)]
        alone = model(part, visible(part, part, window))[0]
        torch.testing.assert_close(alone[new[kept | new]], together[new], atol=1e-5, rtol=1e-5)


def test_window_bounds_the_cost_of_a_long_utterance() -> None:
    model = make(window=4)
    rng = np.random.default_rng(1)
    decoder = TmtDecoder(model, DecodeOptions(lookahead=2))
    seen, capacity = [], decoder.state.keys.shape[3]
    for number in range(400):
        decoder.push(int(rng.integers(40)))
        decoder.step()
        if number > 20:
            seen.append(decoder.state.end - decoder.state.start)
    assert max(seen) <= (4 + 2 + 2) * (8 + 2)
    assert decoder.state.keys.shape[3] == capacity


def test_buffers_grow_without_a_change_in_the_result() -> None:
    model = make()
    expected, _ = stream(model, TEXT * 3, 1, top_k=1)
    decoder = TmtDecoder(model, DecodeOptions(top_k=1))
    decoder.state = type(decoder.state).create(model.config, capacity=8)
    for token in TEXT * 3:
        decoder.push(token)
    decoder.finish()
    blocks = []
    while (block := decoder.step()) is not None:
        blocks.append(block.tokens.tolist())
    assert blocks == expected


def test_clone_and_reset() -> None:
    model = make(window=4)
    expected, _ = stream(model, TEXT, 1, seed=2)
    decoder = TmtDecoder(model, DecodeOptions(seed=2))
    for token in TEXT:
        decoder.push(token)
    decoder.finish()
    first = [decoder.step() for _ in range(5)]
    copy = TmtDecoder(model, DecodeOptions(seed=2), decoder.state.clone())
    while decoder.step() is not None:
        pass
    later = []
    while (block := copy.step()) is not None:
        later.append(block.tokens.tolist())
    assert [block.tokens.tolist() for block in first if block] + later == expected
    decoder.state.reset_()
    assert not decoder.done
    for token in TEXT:
        decoder.push(token)
    decoder.finish()
    again = []
    while (block := decoder.step()) is not None:
        again.append(block.tokens.tolist())
    assert again == expected


def test_starts_at_the_second_text_token_and_flushes_at_the_end() -> None:
    decoder = TmtDecoder(make())
    decoder.push(1)
    assert decoder.step() is None
    decoder.push(2)
    first = decoder.step()
    assert first is not None
    assert first.text_token == 0
    assert decoder.step() is None
    decoder.finish()
    last = decoder.step()
    assert last is not None
    assert last.text_token == 1
    assert decoder.done
    assert decoder.step() is None


def test_empty_and_single_token_texts() -> None:
    decoder = TmtDecoder(make())
    decoder.finish()
    assert decoder.done
    assert decoder.step() is None
    blocks, decoder = stream(make(), [5], 3)
    assert len(blocks) == 1
    assert decoder.done


def test_speed_scales_total_duration_and_owes_no_rounding_error() -> None:
    model = make()
    # Durations come from the duration head alone, whatever the history.
    model.duration_head.weight.zero_()
    lengths = {}
    for speed in (0.5, 1.0, 1.5):
        blocks, _ = stream(model, TEXT * 3, 1, speed=speed, seed=4)
        lengths[speed] = sum(map(len, blocks))
    assert abs(lengths[1.0] / 0.5 - lengths[0.5]) <= 1
    assert abs(lengths[1.0] / 1.5 - lengths[1.5]) <= 1


def test_longest_duration_is_capped_and_told() -> None:
    model = make()
    model.norm.weight.zero_()
    model.duration_head.weight.zero_()
    decoder = TmtDecoder(model, DecodeOptions(top_k=8, speed=0.5))
    for token in TEXT * 3:
        decoder.push(token)
    told = set()
    while (block := decoder.step()) is not None:
        told.add((len(block.tokens), block.capped))
    lengths = {length for length, _ in told}
    assert max(lengths) == 7
    assert (7, True) in told
    assert all(length == 7 for length, capped in told if capped)
    assert (min(lengths), False) in told


def test_bad_input_is_named() -> None:
    model = make()
    with pytest.raises(SynthesisError, match="look-ahead 33"):
        TmtDecoder(model, DecodeOptions(lookahead=33))
    with pytest.raises(SynthesisError, match="2 text tokens per step: this model speaks 1 to 1"):
        TmtDecoder(model, DecodeOptions(text_per_step=2))
    with pytest.raises(SynthesisError, match="9 refinement passes"):
        TmtDecoder(model, DecodeOptions(refinements=9))
    with pytest.raises(SynthesisError, match="speech token 27"):
        TmtDecoder(model).prompt(np.array([3, 27]))
    with pytest.raises(SynthesisError, match="speed 9"):
        TmtDecoder(model, DecodeOptions(speed=9))
    decoder = TmtDecoder(model)
    with pytest.raises(SynthesisError, match="text token 40"):
        decoder.push(40)
    decoder.finish()
    with pytest.raises(SynthesisError, match="after the end"):
        decoder.push(1)
