"""Sequence layout, attention rules and config of the temporal masked transformer."""

import dataclasses
from itertools import product

import numpy as np
import pytest
import torch

from tts.base import CheckpointError
from tts.tmt.config import TmtConfig, small_config
from tts.tmt.layout import IGNORED, Field, Role, ahead, alternating, in_order, one_step, packed, steady, visible

CONFIG = TmtConfig(text_vocab_size=10, num_speech_tokens=9, num_duration_classes=8, index_slots=4)
IDS, DURATIONS, TOKENS = np.array([3, 1, 4]), np.array([2, 0, 3]), np.array([8, 7, 6, 5, 4])


def sees(query: tuple[int, int, int], key: tuple[int, int, int], window: int) -> bool:
    """The rules of `layout`, one pair at a time. Positions are (role, index, step)."""
    (a, k, own), (b, i, step) = query, key
    if b in (Role.MASKED, Role.NEXT_DURATION):  # provisional positions are seen within their own step
        return a in (Role.MASKED, Role.NEXT_DURATION) and own == step and not (a == Role.MASKED and b != Role.MASKED)
    if i <= k - window:
        return False
    if a == Role.TEXT:
        return b == Role.TEXT and i <= k
    if b == Role.TEXT:
        return step <= own  # read by then
    begun = {Role.DURATION: k, Role.SPEECH: k}.get(Role(a), own)  # the last block whose placeholder is there
    if b == Role.DURATION:
        return i <= begun
    return i <= (begun if a == Role.SPEECH else begun - 1)


def step_of(role: int, index: int, lookahead: int, pairs: bool) -> int:
    """The step of a position where every step speaks one text token or, beginning with the first, two."""

    def speaking(block: int) -> int:
        return block - 1 + block % 2 if pairs else block

    return {
        Role.TEXT: speaking(max(1, index - lookahead)),
        Role.DURATION: max(1, index - 1),
        Role.SPEECH: index,
        Role.MASKED: speaking(index),
        Role.NEXT_DURATION: speaking(index - 1),
    }[Role(role)]


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("ahead", "window"), [(1, 100), (3, 100), (1, 3), (2, 4)])
def test_visibility_rules(ahead: int, window: int, pairs: bool) -> None:
    cells = [
        (role, index, step_of(role, index, ahead, pairs))
        for role, index in product(range(5), range(1, 9))
        if role != Role.NEXT_DURATION or index > 1
    ]
    rows = torch.zeros((1, len(Field), len(cells)), dtype=torch.long)
    rows[0, Field.ROLE], rows[0, Field.INDEX], rows[0, Field.STEP] = torch.tensor(cells).T
    mask = visible(rows, rows, window)[0]
    expected = torch.tensor([[sees(query, key, window) for key in cells] for query in cells])
    assert torch.equal(mask, expected)
    if not pairs and window > 8:  # what the paper's rule with a prefix limit says of the text
        limit = {Role.DURATION: lambda k: max(1, k - 1), Role.NEXT_DURATION: lambda k: k - 1}
        for (a, k, _), row in zip(cells, mask, strict=True):
            seen = max((i for (b, i, _), is_seen in zip(cells, row, strict=True) if b == Role.TEXT and is_seen))
            assert seen == min(8, k if a == Role.TEXT else limit.get(Role(a), int)(k) + ahead)


def test_schedules() -> None:
    one = steady(CONFIG, 4, 2)
    assert one.speaks.tolist() == [1, 2, 3, 4]
    assert one.reads.tolist() == [1, 1, 1, 2, 3]
    assert steady(dataclasses.replace(CONFIG, mask="paper"), 4, 2).reads.tolist() == [0] * 5
    long = dataclasses.replace(CONFIG, max_lookahead=32)
    late = ahead(long, np.zeros(4, int), 1, 2)  # every step waits, nothing is ever early
    assert late.speaks.tolist() == [1, 2, 3, 4]
    assert late.reads.tolist() == [1, 1, 2, 3, 4]
    complete = ahead(long, np.full(5, 6), 1, 2)
    assert complete.speaks.tolist() == [1, 1, 3, 3, 5]
    assert complete.reads.tolist() == [1] * 6
    gush = ahead(long, np.array([2, 5, 5, 5, 6]), 1, 2)  # y_5 is early enough for block 4, but for no second block
    assert gush.speaks.tolist() == [1, 2, 3, 3, 5]
    assert gush.reads.tolist() == [1, 1, 2, 2, 2, 5]
    assert ahead(dataclasses.replace(CONFIG, max_lookahead=2), np.full(5, 6), 1, 1).reads.tolist() == [1, 1, 1, 2, 3, 4]


def test_padding_is_never_seen_and_sees_itself() -> None:
    rows, _, _ = packed(CONFIG, IDS, DURATIONS, TOKENS, steady(CONFIG, 3, 1))
    padded = np.zeros((1, len(Field), rows.shape[1] + 4), np.int64)
    padded[:, Field.ROLE] = Role.PAD
    padded[0, :, : rows.shape[1]] = rows
    tensor = torch.from_numpy(padded)
    mask = visible(tensor, tensor, 0)[0]
    assert not mask[: rows.shape[1], rows.shape[1] :].any()
    assert not mask[rows.shape[1] :, : rows.shape[1]].any()
    assert mask.any(dim=1).all()


def test_packed_sequence_of_a_small_utterance() -> None:
    rows, speech_target, duration_target = packed(CONFIG, IDS, DURATIONS, TOKENS, steady(CONFIG, 3, 1), shift=2)
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


def test_a_step_of_two_text_tokens_asks_for_what_it_can_know() -> None:
    config = dataclasses.replace(CONFIG, text_per_step=2, max_lookahead=32)
    schedule = ahead(config, np.full(3, 4), 1, 2)
    shown = np.array([True, False, False, True, False])
    rows, speech, durations = packed(config, IDS, DURATIONS, TOKENS, schedule, shown=shown, prompt=np.array([1, 2]))
    role = rows[Field.ROLE]
    prompt = rows[:, (role == Role.SPEECH) & (rows[Field.INDEX] == 0)]
    assert (prompt[Field.ID] - config.speech_offset).tolist() == [1, 2]
    assert prompt[Field.FRAME].tolist() == [-2, -1]
    masked = rows[:, role == Role.MASKED]
    assert masked[Field.STEP].tolist() == [1, 1, 3, 3, 3]
    assert (masked[Field.ID] == config.mask_id).tolist() == (~shown).tolist()
    assert masked[Field.ID, 3] - config.speech_offset == TOKENS[3]
    assert speech[role == Role.MASKED].tolist() == [IGNORED, 7, 6, IGNORED, 4]
    assert rows[Field.INDEX, role == Role.NEXT_DURATION].tolist() == [3]
    assert durations[:, role == Role.DURATION].tolist() == [[2, IGNORED, IGNORED], [0, IGNORED, IGNORED]]
    assert durations[:, role == Role.NEXT_DURATION].tolist() == [[3], [IGNORED]]
    late = packed(config, IDS, DURATIONS, TOKENS, steady(config, 3, 1))
    # y_3 is not read when the durations after D_1 and P_2 are asked for
    assert late.duration_target[1][late.duration_target[0] != IGNORED].tolist() == [0, IGNORED, IGNORED]


def test_contiguous_positions_are_places_in_the_papers_sequence() -> None:
    """Step 3 of IDS: [y_1 y_2 y_3 E | D_1 B_1 B_1 D_2 D_3 M_3 M_3 M_3], where block 2 is empty; two more are padding."""
    config = dataclasses.replace(CONFIG, mask="paper")
    rows, _, _ = one_step(config, IDS, DURATIONS, TOKENS, 1, 3)
    shuffled = np.random.default_rng(1).permutation(rows.shape[1])
    padded = np.zeros((len(Field), rows.shape[1] + 2), np.int64)
    padded[Field.ROLE] = Role.PAD
    padded[:, : rows.shape[1]] = rows[:, shuffled]
    places = in_order(torch.from_numpy(padded)[None])[0].numpy()
    in_sequence = rows[:, shuffled][:, np.argsort(places[: rows.shape[1]])]
    assert in_sequence[Field.ROLE].tolist() == [Role.TEXT] * 4 + [
        *(Role.DURATION, Role.SPEECH, Role.SPEECH, Role.DURATION, Role.DURATION),
        *(Role.MASKED, Role.MASKED, Role.MASKED),
    ]
    assert in_sequence[Field.INDEX].tolist() == [1, 2, 3, 4, 1, 1, 1, 2, 3, 3, 3, 3]
    assert in_sequence[Field.FRAME, 4:].tolist() == [0, 0, 1, 2, 2, 2, 3, 4]
    assert sorted(places[rows.shape[1] :]) == [rows.shape[1], rows.shape[1] + 1]


def test_paper_places_tell_nothing_of_later_durations() -> None:
    config = dataclasses.replace(CONFIG, mask="paper")
    longer = np.array([2, 0, 7])
    for first_masked in (True, False):
        mine = alternating(config, IDS, DURATIONS, TOKENS, steady(config, 3, 1), 0, first_masked)[0]
        other = alternating(config, IDS, longer, np.arange(9), steady(config, 3, 1), 0, first_masked)[0]
        assert (mine[:, :7] == other[:, :7]).all()  # text and placeholders


@pytest.mark.parametrize("first_masked", [True, False])
def test_alternating_sequence_masks_every_other_block(first_masked: bool) -> None:
    rows, speech_target, duration_target = alternating(
        CONFIG, IDS, DURATIONS, TOKENS, steady(CONFIG, 3, 1), 0, first_masked
    )
    hidden = rows[Field.ID] == CONFIG.mask_id
    assert set(rows[Field.INDEX, hidden]) == ({1, 3} if first_masked else set())  # block 2 is empty
    assert ((speech_target != IGNORED) == hidden).all()
    assert rows[Field.INDEX, duration_target[0] != IGNORED].tolist() == ([1, 3] if first_masked else [2])


def test_config_reads_its_own_values_and_refuses_others() -> None:
    config = small_config(text_vocab_size=2048, num_speech_tokens=729, vocabulary_id="ab")
    assert TmtConfig.from_values(dataclasses.asdict(config)) == config
    with pytest.raises(CheckpointError, match="unknown width"):
        TmtConfig.from_values({"width": 3})
    with pytest.raises(CheckpointError, match="mask 'causal'"):
        TmtConfig.from_values({"mask": "causal"})
    with pytest.raises(CheckpointError, match="need the mask paper"):
        TmtConfig.from_values({"positions": "contiguous"})
    with pytest.raises(CheckpointError, match="positions 'learned'"):
        TmtConfig.from_values({"positions": "learned"})
    with pytest.raises(CheckpointError, match="multiple"):
        TmtConfig.from_values({"dim": 30, "num_heads": 4})
