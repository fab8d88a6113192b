"""The temporal masked transformer under the published mask: every block reads anew all text that has arrived."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tmt import TEXT, Recorded, check_against_full_passes, make, select, stream
from tts.tmt.layout import Field, Role, one_step, visible


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    text=st.lists(st.integers(0, 39), min_size=1, max_size=12),
    arrivals=st.lists(st.integers(0, 4), max_size=12),
    lookahead=st.sampled_from([1, 2, 3]),
    max_lookahead=st.sampled_from([3, 32]),
    window=st.sampled_from([0, 4]),
    positions=st.sampled_from(["axes", "contiguous"]),
)
def test_the_papers_mask_decodes_as_it_trains_for_the_same_arrival(
    text, arrivals, lookahead, max_lookahead, window, positions
) -> None:
    model = make(mask="paper", window=window, max_lookahead=max_lookahead, positions=positions)
    check_against_full_passes(model, text, lookahead, Recorded(model, text, lookahead, arrivals, 0))


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


def test_contiguous_positions_say_the_order_and_nothing_else() -> None:
    durations, tokens = np.array([3, 2, 0, 4]), np.arange(9)
    model = make(mask="paper", positions="contiguous", frame_embeddings=False)
    rows, _, _ = one_step(model.config, np.array(TEXT[:4]), durations, tokens, 1, 4)

    def last(changed: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(changed)[None]
        return model(tensor, visible(tensor, tensor, 0))[0, -1]

    later, exchanged = rows.copy(), rows.copy()
    later[Field.FRAME, rows[Field.ROLE] != Role.TEXT] += 100
    first, second = select(rows, Role.SPEECH, 1)[:2]
    exchanged[Field.FRAME, [first, second]] = exchanged[Field.FRAME, [second, first]]
    torch.testing.assert_close(last(later), last(rows), atol=1e-6, rtol=0)
    assert not torch.allclose(last(exchanged), last(rows), atol=1e-3)
