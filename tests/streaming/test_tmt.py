"""The golden rule for the temporal masked transformer: streaming decoding is the whole-sequence answer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tmt import TEXT, Recorded, check_against_full_passes, make, select, stream
from tts.base import SynthesisError
from tts.tmt.decode import DecodeOptions, TmtDecoder
from tts.tmt.layout import Field, Role, committed, packed, steady, visible
from tts.tmt.model import Tmt


def whole(model: Tmt, text: list[int], blocks: list[list[int]], lookahead: int) -> tuple[torch.Tensor, np.ndarray]:
    """Hidden states and rows of one pass over a finished utterance with every inference step packed in."""
    durations = np.array([len(block) for block in blocks])
    schedule = steady(model.config, len(text), lookahead)
    rows, _, _ = packed(model.config, np.array(text), durations, np.concatenate(blocks).astype(np.int64), schedule)
    tensor = torch.from_numpy(rows)[None]
    return model(tensor, visible(tensor, tensor, model.config.window))[0], rows


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
