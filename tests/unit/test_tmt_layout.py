"""Sequence layout, attention rules and config of the temporal masked transformer."""

import dataclasses
from itertools import product

import numpy as np
import pytest
import torch

from tts.base import CheckpointError
from tts.tmt.config import TmtConfig, small_config
from tts.tmt.layout import IGNORED, Field, Role, alternating, one_step, packed, visible

CONFIG = TmtConfig(text_vocab_size=10, num_speech_tokens=9, num_duration_classes=8, index_slots=4)
IDS, DURATIONS, TOKENS = np.array([3, 1, 4]), np.array([2, 0, 3]), np.array([8, 7, 6, 5, 4])


def sees(query: tuple[int, int], key: tuple[int, int], ahead: int, window: int) -> bool:
    """The rules of `layout`, one pair at a time."""
    (a, k), (b, i) = query, key
    if b in (Role.MASKED, Role.NEXT_DURATION):  # provisional positions are seen within their own step
        step = {Role.MASKED: k, Role.NEXT_DURATION: k - 1}.get(Role(a))
        if step is None or (a == Role.MASKED and b == Role.NEXT_DURATION):
            return False
        return i == (step if b == Role.MASKED else k)
    if i <= k - window:
        return False
    if a == Role.TEXT:
        return b == Role.TEXT and i <= k
    if b == Role.TEXT:
        is_placeholder = a in (Role.DURATION, Role.NEXT_DURATION)
        return i <= (max(1, k - 1) if is_placeholder else k) + ahead
    if b == Role.DURATION:
        return i <= (k - 1 if a == Role.NEXT_DURATION else k)
    return i <= k - {Role.DURATION: 1, Role.SPEECH: 0, Role.MASKED: 1, Role.NEXT_DURATION: 2}[Role(a)]


@pytest.mark.parametrize(("ahead", "window"), [(1, 100), (3, 100), (1, 3), (2, 4)])
def test_visibility_rules(ahead: int, window: int) -> None:
    cells = [c for c in product(range(5), range(1, 9)) if c != (Role.NEXT_DURATION, 1)]
    rows = torch.zeros((1, len(Field), len(cells)), dtype=torch.long)
    rows[0, Field.ROLE], rows[0, Field.INDEX] = torch.tensor(cells).T
    mask = visible(rows, rows, torch.tensor([ahead]), window)[0]
    expected = torch.tensor([[sees(query, key, ahead, window) for key in cells] for query in cells])
    assert torch.equal(mask, expected)


def test_padding_is_never_seen_and_sees_itself() -> None:
    rows, _, _ = packed(CONFIG, IDS, DURATIONS, TOKENS, 1)
    padded = np.zeros((1, len(Field), rows.shape[1] + 4), np.int64)
    padded[:, Field.ROLE] = Role.PAD
    padded[0, :, : rows.shape[1]] = rows
    tensor = torch.from_numpy(padded)
    mask = visible(tensor, tensor, 1, 0)[0]
    assert not mask[: rows.shape[1], rows.shape[1] :].any()
    assert not mask[rows.shape[1] :, : rows.shape[1]].any()
    assert mask.any(dim=1).all()


def test_packed_sequence_of_a_small_utterance() -> None:
    rows, speech_target, duration_target = packed(CONFIG, IDS, DURATIONS, TOKENS, 1, shift=2)
    text, placeholder, speech, mask, following = (rows[:, rows[Field.ROLE] == role] for role in range(5))
    assert text[Field.ID].tolist() == [3, 1, 4, CONFIG.end_id]
    assert text[Field.FRAME].tolist() == [0, 0, 2, 2]  # a_{i-2}: the frame at which each is read
    assert text[Field.SLOT].tolist() == [3, 0, 1, 2]
    assert placeholder[Field.INDEX].tolist() == [1, 2, 3]
    assert placeholder[Field.FRAME].tolist() == [0, 2, 2]
    assert (speech[Field.ID] - CONFIG.speech_offset).tolist() == TOKENS.tolist()
    assert speech[Field.INDEX].tolist() == [1, 1, 3, 3, 3]
    assert speech[Field.FROM_START].tolist() == [1, 2, 1, 2, 3]
    assert speech[Field.TO_END].tolist() == [2, 1, 3, 2, 1]
    same = [Field.INDEX, Field.FRAME, Field.SLOT, Field.FROM_START, Field.TO_END]
    assert (mask[same] == speech[same]).all()
    assert (following[same] == placeholder[:, 1:][same]).all()
    assert speech_target[rows[Field.ROLE] == Role.MASKED].tolist() == TOKENS.tolist()
    assert duration_target[duration_target != IGNORED].tolist() == DURATIONS.tolist()


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_one_step_asks_for_one_block_and_the_next_duration(step: int) -> None:
    rows, speech_target, duration_target = one_step(CONFIG, IDS, DURATIONS, TOKENS, 1, step)
    number = max(step, 1)
    count = {role: int((rows[Field.ROLE] == role).sum()) for role in Role}
    ends = np.cumsum(DURATIONS)
    assert count[Role.TEXT] == min(number + 1, 4)
    assert (rows[Field.ID] == CONFIG.end_id).any() == (step == 3)  # E comes with the last block
    assert count[Role.DURATION] == number
    assert count[Role.SPEECH] == (0, *ends)[number - 1]
    assert count[Role.NEXT_DURATION] == (step in (1, 2))
    block = TOKENS[(0, 0, *ends)[step] : (0, *ends)[step]]
    assert speech_target[speech_target != IGNORED].tolist() == block.tolist()
    assert count[Role.MASKED] == len(block)
    assert duration_target[duration_target != IGNORED].tolist() == DURATIONS[step : step + 1].tolist()


def test_paper_places_tell_nothing_of_later_durations() -> None:
    config = dataclasses.replace(CONFIG, mask="paper")
    longer = np.array([2, 0, 7])
    for first_masked in (True, False):
        mine = alternating(config, IDS, DURATIONS, TOKENS, 1, 0, first_masked)[0]
        other = alternating(config, IDS, longer, np.arange(9), 1, 0, first_masked)[0]
        assert (mine[:, :7] == other[:, :7]).all()  # text and placeholders


@pytest.mark.parametrize("first_masked", [True, False])
def test_alternating_sequence_masks_every_other_block(first_masked: bool) -> None:
    rows, speech_target, duration_target = alternating(CONFIG, IDS, DURATIONS, TOKENS, 1, 0, first_masked)
    hidden = rows[Field.ID] == CONFIG.mask_id
    assert set(rows[Field.INDEX, hidden]) == ({1, 3} if first_masked else set())  # block 2 is empty
    assert ((speech_target != IGNORED) == hidden).all()
    assert rows[Field.INDEX, duration_target != IGNORED].tolist() == ([1, 3] if first_masked else [2])


def test_config_reads_its_own_values_and_refuses_others() -> None:
    config = small_config(text_vocab_size=2048, num_speech_tokens=729, vocabulary_id="ab")
    assert TmtConfig.from_values(dataclasses.asdict(config)) == config
    with pytest.raises(CheckpointError, match="unknown width"):
        TmtConfig.from_values({"width": 3})
    with pytest.raises(CheckpointError, match="mask 'causal'"):
        TmtConfig.from_values({"mask": "causal"})
    with pytest.raises(CheckpointError, match="multiple"):
        TmtConfig.from_values({"dim": 30, "num_heads": 4})
