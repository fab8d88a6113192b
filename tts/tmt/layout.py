"""How text, durations and speech tokens are laid out as one sequence, and who may see whom (SyncSpeech, section 3).

With text tokens y_1..y_L, E = y_{L+1}, a duration placeholder D_k before each block B_k of l_k speech tokens, and
block ends a_k, the committed sequence is [y_1..y_L E | D_1 B_1 D_2 B_2 ...]. Two changes make a key-value cache exact:

- Prefix text limit: B_k sees y_i only for i <= k + q, D_k only for i <= max(1, k - 1) + q (q: look-ahead): what existed
  when it was first evaluated. Text is causal and never sees speech.
- Two position axes, the text index and the frame. Text y_i takes the frame at which it is read, a_{i-q-1}; so nothing
  moves when text arrives, every distance is relative, and positions never run out.

That is the mask `prefix`. Under the mask `paper`, as published, B_k and D_k see all text of the sequence, which grows
from step to step: history is read anew with the later text, and nothing can be cached. The paper says nothing of
positions; they are the same two axes, with all text at frame 0, because the frame at which it is read would tell a block
how long the later ones are. With `positions: contiguous` they are the places in the sequence, as read literally (`in_order`).
What else is left open is decided so:

- E is y_{L+1} under either limit: at q = 1 it is there from step L on, as published; a longer look-ahead sees it earlier.
- D_1 is trained by a step 0 of its own, [y_1..y_{1+q} | D_1] -> l_1; the published steps 1..L never ask for l_1.
- There is no D after the last block: nothing follows, speech ends with the text.
- A duration may be 0: its block is empty, its step yields the next duration alone.

Beyond the paper, all of it said by one number of each position, its step (`Schedule`):

- A step may read more text than it has to wait for (opportunistic look-ahead) and speak more than one text token. It is
  named by the first block that it speaks. What was read by a step is seen by what that step speaks and by all after it.
- Speech without text may come before all, as block 0: a prompt that needs neither transcript nor alignment.
- Some of a step's speech tokens may be known already (refinement passes): they stand where the mask stood.

A window W limits history: text and blocks with an index <= k - W are not seen by index k.

Training under `prefix` packs all steps of inference in one sequence: beside the committed tokens it holds, for each k,
the masked block M_k and the next placeholder P_{k+1} at the positions of B_k and D_{k+1}; they see the committed past of
step k and each other, nothing sees them. Under `paper` the past depends on the step, so that a sequence holds one step
alone. The order within a sequence is free, because positions are explicit.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch

from tts.tmt.config import TmtConfig

IGNORED = -100  # target of positions without a loss


class Role(IntEnum):
    """What a position is."""

    TEXT = 0
    DURATION = 1  # D_k, committed
    SPEECH = 2  # B_k, committed
    MASKED = 3  # M_k, provisional
    NEXT_DURATION = 4  # P_k, provisional
    PAD = 5


class Field(IntEnum):
    """Rows of a sequence array (fields, positions)."""

    ROLE = 0
    ID = 1  # row of the input embedding
    INDEX = 2  # text index or block index, from 1
    FRAME = 3  # speech tokens before this position
    SLOT = 4  # row of the text-index embedding
    FROM_START = 5  # 1 + frames since the block's start; 0 outside blocks
    TO_END = 6  # frames to the block's end, 1 for its last; 0 outside blocks
    STEP = 7  # text: the step that reads it; others: text read by this step or before it is seen


_UNLIMITED = 1 << 40
_LONGEST = 1 << 22  # sequences, in any kind of position


class Schedule(NamedTuple):
    """What each step of inference speaks and reads. A step has the number of the first block that it speaks."""

    speaks: np.ndarray  # (L,) the step that speaks block k; 1 for the first
    reads: (
        np.ndarray
    )  # (L + 1,) the step that reads text y_k, E last; 0 under `paper`: text is there from the beginning


def steady(config: TmtConfig, length: int, lookahead: int) -> Schedule:
    """One text token spoken in a step, and read as late as the look-ahead allows."""
    reads = np.maximum(np.arange(1, length + 2) - lookahead, 1)
    return Schedule(np.arange(1, length + 1), reads * (config.mask == "prefix"))


def ahead(config: TmtConfig, arrived: np.ndarray, lookahead: int, text_per_step: int) -> Schedule:
    """Every step reads all text that has arrived, and speaks several text tokens where the text is ahead.

    Args:
        config: its longest look-ahead limits what is read.
        arrived: (L,) text tokens, E included, that are there when block k could be spoken; waited for if too few.
        lookahead: text tokens beyond those being spoken that a step waits for.
        text_per_step: most text tokens that a step speaks. Durations are predicted a step before, so that all but the
            first of them must have been read by then.
    """
    length, read, number = len(arrived), 0, 1
    speaks, reads = np.zeros(length, np.int64), np.zeros(length + 1, np.int64)
    while number <= length:
        there = min(max(int(arrived[number - 1]), number + lookahead), length + 1)
        count = num_spoken(number, read, there, length, lookahead, text_per_step)
        speaks[number - 1 : number - 1 + count] = number
        reach = min(there, number + count - 1 + config.max_lookahead)
        reads[read:reach] = number
        read, number = max(read, reach), number + count
    return Schedule(speaks, reads)


def num_spoken(number: int, read: int, there: int, length: int, lookahead: int, text_per_step: int) -> int:
    """Text tokens that step `number` speaks.

    Args:
        number: the first of them, from 1.
        read: text tokens that earlier steps have read.
        there: text tokens that have arrived, E included.
        length: text tokens in all; `there` or more while that is unknown.
        lookahead, text_per_step: as for `ahead`.
    """
    complete = there > length
    # the first step's durations have a pass of their own, behind all that is there
    known = min(read if number > 1 else there, length)
    furthest = min(number + text_per_step - 1, known, length if complete else there - lookahead)
    return max(furthest - number, 0) + 1


def visible(queries: torch.Tensor, keys: torch.Tensor, window: int) -> torch.Tensor:
    """Attention mask of sequences.

    Args:
        queries: (B, fields, S) sequences.
        keys: (B, fields, K) sequences.
        window: history in text tokens, own index included; 0 = all.
    Returns:
        (B, S, K) bool, true where a query sees a key.
    """
    role, index, step = (queries[:, field, :, None] for field in (Field.ROLE, Field.INDEX, Field.STEP))
    key_role, key_index, key_step = (keys[:, None, field] for field in (Field.ROLE, Field.INDEX, Field.STEP))
    provisional = (role == Role.MASKED) | (role == Role.NEXT_DURATION)
    speaks = (role != Role.TEXT) & (role != Role.PAD)
    placed = torch.where(provisional, step, index)  # the last block whose placeholder it sees
    spoken = torch.where(role == Role.SPEECH, placed, placed - 1)  # the last committed block that it sees
    past = (key_role == Role.TEXT) & torch.where(speaks, key_step <= step, (role == Role.TEXT) & (key_index <= index))
    past |= speaks & (key_role == Role.DURATION) & (key_index <= placed)
    past |= speaks & (key_role == Role.SPEECH) & (key_index <= spoken)
    past &= key_index > index - (window or _UNLIMITED)
    own = (key_role == Role.MASKED) | ((key_role == Role.NEXT_DURATION) & (role == Role.NEXT_DURATION))
    return past | (provisional & own & (key_step == step)) | ((role == Role.PAD) & (key_role == Role.PAD))


def in_order(rows: torch.Tensor) -> torch.Tensor:
    """Places (B, S), from 0, in [y_1..y_{L+1} | D_1 B_1 D_2 B_2 ...] of positions (B, fields, S) in any order; padding last."""
    role, index, frame = (rows[:, field] for field in (Field.ROLE, Field.INDEX, Field.FRAME))
    block = (role == Role.SPEECH) | (role == Role.MASKED)
    spoken = ((role != Role.TEXT) * _LONGEST + index) * 2 + block
    keys = spoken * _LONGEST + block * (frame + _LONGEST // 2)  # a prompt's frames are negative
    return keys.masked_fill(role == Role.PAD, torch.iinfo(keys.dtype).max).argsort(dim=1).argsort(dim=1)


def text_rows(
    config: TmtConfig,
    ids: np.ndarray,
    first_index: int,
    step: np.ndarray | int,
    frame: np.ndarray | int,
    shift: int = 0,
) -> np.ndarray:
    """Text tokens (E included, as `config.end_id`) with indices from `first_index`, read by `step` at `frame`."""
    rows = np.zeros((len(Field), len(ids)), np.int64)
    rows[Field.ROLE] = Role.TEXT
    rows[Field.ID] = ids
    rows[Field.INDEX] = np.arange(first_index, first_index + len(ids))
    rows[Field.FRAME] = frame
    rows[Field.SLOT] = _slots(config, rows[Field.INDEX], shift)
    rows[Field.STEP] = step
    return rows


def duration_rows(
    config: TmtConfig,
    role: Role,
    index: np.ndarray | int,
    frame: np.ndarray | int,
    shift: int = 0,
    step: np.ndarray | int | None = None,
) -> np.ndarray:
    """Duration placeholders D_k (or P_k, of `step`), each at the first frame of its block."""
    rows = np.zeros((len(Field), np.size(index)), np.int64)
    rows[Field.ROLE] = role
    rows[Field.ID] = config.duration_id
    rows[Field.INDEX] = index
    rows[Field.FRAME] = frame
    rows[Field.SLOT] = _slots(config, rows[Field.INDEX], shift)
    # D_1 sees what D_2 sees: it waits for the look-ahead of the first block.
    rows[Field.STEP] = np.maximum(rows[Field.INDEX] - 1, 1) if step is None else step
    return rows


def speech_rows(
    config: TmtConfig,
    role: Role,
    ids: np.ndarray | int,
    first_index: int,
    first_frame: int,
    durations: np.ndarray,
    shift: int = 0,
    step: np.ndarray | int | None = None,
) -> np.ndarray:
    """Blocks of speech positions, one block for each duration; `step`: of each position, for those not committed.

    `ids` are rows of the input embedding.
    """
    total = int(durations.sum())
    rows = np.zeros((len(Field), total), np.int64)
    ends = np.repeat(np.cumsum(durations), durations)
    frames = np.arange(total)
    rows[Field.ROLE] = role
    rows[Field.ID] = ids
    rows[Field.INDEX] = np.repeat(np.arange(first_index, first_index + len(durations)), durations)
    rows[Field.FRAME] = first_frame + frames
    rows[Field.SLOT] = _slots(config, rows[Field.INDEX], shift)
    from_start = 1 + frames - ends + np.repeat(durations, durations)
    rows[Field.FROM_START] = np.minimum(from_start, config.num_duration_classes)
    rows[Field.TO_END] = np.minimum(ends - frames, config.num_duration_classes)
    rows[Field.STEP] = rows[Field.INDEX] if step is None else step
    return rows


def committed(
    config: TmtConfig,
    ids: np.ndarray,
    durations: np.ndarray,
    tokens: np.ndarray,
    schedule: Schedule,
    shift: int = 0,
    prompt: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The finished sequence of one utterance, in three parts.

    Args:
        ids: (L,) text token ids, without E.
        durations: (L,) speech tokens of each text token.
        tokens: (T,) speech tokens, T = durations.sum().
        schedule: `steady` or `ahead`.
        shift: added to the index before the slot of the text-index embedding is taken.
        prompt: (P,) speech tokens without text that come before all, as block 0.
    Returns:
        Text (fields, L + 1), placeholders (fields, L), speech (fields, P + T).
    """
    prompt = np.zeros(0, np.int64) if prompt is None else prompt
    starts = np.concatenate([[0], np.cumsum(durations)])
    frames = starts[np.maximum(schedule.reads - 1, 0)]
    text = text_rows(config, np.append(ids, config.end_id), 1, schedule.reads, frames, shift)
    placeholders = duration_rows(config, Role.DURATION, np.arange(1, len(ids) + 1), starts[:-1], shift)
    speech_ids = np.concatenate([prompt, tokens]).astype(np.int64) + config.speech_offset
    lengths = np.concatenate([[len(prompt)], durations]).astype(np.int64)
    return text, placeholders, speech_rows(config, Role.SPEECH, speech_ids, 0, -len(prompt), lengths, shift)


class TrainingSequence(NamedTuple):
    """A training sequence."""

    rows: np.ndarray  # (fields, S)
    speech_target: np.ndarray  # (S,) IGNORED where no speech token is asked for
    duration_target: np.ndarray  # (N, S) durations of a placeholder's own text token and of the N - 1 after it


def packed(
    config: TmtConfig,
    ids: np.ndarray,
    durations: np.ndarray,
    tokens: np.ndarray,
    schedule: Schedule,
    shift: int = 0,
    *,
    hidden_history: np.ndarray | None = None,
    shown: np.ndarray | None = None,
    prompt: np.ndarray | None = None,
) -> TrainingSequence:
    """Training sequence of stage 2 under `prefix`: every step of inference at once.

    Args:
        config: of the model.
        ids, durations, tokens, schedule, shift, prompt: as for `committed`.
        hidden_history: (T,) bool, committed speech tokens to replace by the mask: practice in imperfect history.
        shown: (T,) bool, speech tokens of the steps that are known already: practice in refinement.
    Returns:
        A sequence of up to 3L + 2T + P positions. The duration of a text token that a step has not read is not asked for.
    """
    text, placeholders, speech = committed(config, ids, durations, tokens, schedule, shift, prompt)
    length, before = len(ids), speech.shape[1] - len(tokens)
    masked = speech[:, before:].copy()
    masked[Field.ROLE], masked[Field.STEP] = Role.MASKED, schedule.speaks[masked[Field.INDEX] - 1]
    masked[Field.ID, slice(None) if shown is None else ~shown] = config.mask_id
    following = placeholders[:, np.append(False, schedule.speaks[1:] == np.arange(2, length + 1))]
    following[Field.ROLE], following[Field.STEP] = Role.NEXT_DURATION, schedule.speaks[following[Field.INDEX] - 2]
    if hidden_history is not None:
        speech[Field.ID, before:][hidden_history] = config.mask_id
    rows = np.concatenate([text, placeholders, speech, masked, following], axis=1)
    speech_target = np.full(rows.shape[1], IGNORED)
    first_masked = text.shape[1] + length + speech.shape[1]
    speech_target[first_masked : first_masked + len(tokens)] = (
        tokens if shown is None else np.where(shown, IGNORED, tokens)
    )
    asked = np.zeros(rows.shape[1], bool)
    asked[text.shape[1]] = asked[first_masked + len(tokens) :] = True
    duration_target = np.full((config.text_per_step, rows.shape[1]), IGNORED)
    for later, target in enumerate(duration_target):
        index = rows[Field.INDEX] + later
        wanted = asked & (index <= length)
        wanted[wanted] = (later == 0) | (schedule.reads[index[wanted] - 1] <= rows[Field.STEP, wanted])
        target[wanted] = durations[index[wanted] - 1]
    return TrainingSequence(rows, speech_target, duration_target)


def one_step(
    config: TmtConfig,
    ids: np.ndarray,
    durations: np.ndarray,
    tokens: np.ndarray,
    lookahead: int,
    step: int,
    shift: int = 0,
    *,
    hidden_history: np.ndarray | None = None,
    num_text: int | None = None,
) -> TrainingSequence:
    """Training sequence of stage 2 as published: one step of inference, which either mask allows.

    Args:
        config: of the model.
        ids, durations, tokens, shift, hidden_history: as for `packed`.
        lookahead: text tokens read ahead.
        step: n, from 0 to L. It predicts B_n and l_{n+1}; step 0 l_1 alone, step L B_L alone.
        num_text: text tokens, E included, that have arrived; None: no more than the step waits for.
    """
    number = max(step, 1)  # step 0 has the text of step 1
    schedule = steady(config, len(ids), lookahead)
    rows, speech_target, duration_target = packed(
        config, ids, durations, tokens, schedule, shift, hidden_history=hidden_history
    )
    role, index = rows[Field.ROLE], rows[Field.INDEX]
    # by role, from TEXT to NEXT_DURATION
    lowest = np.array([1, 1, 0, step, step + 1])
    highest = np.array([num_text or number + lookahead, number, number - 1, step, step + 1])
    kept = (index >= lowest[role]) & (index <= highest[role])
    if step:
        duration_target[:, role == Role.DURATION] = IGNORED
    return TrainingSequence(rows[:, kept], speech_target[kept], duration_target[:, kept])


def alternating(
    config: TmtConfig,
    ids: np.ndarray,
    durations: np.ndarray,
    tokens: np.ndarray,
    schedule: Schedule,
    shift: int,
    first_masked: bool,
) -> TrainingSequence:
    """Training sequence of stage 1: every other block is masked (the first one if `first_masked`) and predicted.

    Under the mask `paper` each block sees the text that section 3.3 gives it, all of the sentence; under `prefix` up to
    the schedule's look-ahead, as in streaming, since what is in a cache is never read again. It has 2L + 1 + T positions.
    """
    text, placeholders, speech = committed(config, ids, durations, tokens, schedule, shift)
    hidden = speech[Field.INDEX] % 2 == int(first_masked)
    hidden_blocks = placeholders[Field.INDEX] % 2 == int(first_masked)
    speech[Field.ID, hidden] = config.mask_id
    speech_target = np.concatenate([np.full(2 * len(ids) + 1, IGNORED), np.where(hidden, tokens, IGNORED)])
    no_text, no_speech = np.full(len(ids) + 1, IGNORED), np.full(len(tokens), IGNORED)
    duration_target = np.full((config.text_per_step, len(speech_target)), IGNORED)
    duration_target[0] = np.concatenate([no_text, np.where(hidden_blocks, durations, IGNORED), no_speech])
    return TrainingSequence(np.concatenate([text, placeholders, speech], axis=1), speech_target, duration_target)


def _slots(config: TmtConfig, index: np.ndarray, shift: int) -> np.ndarray | int:
    return (index + shift) % config.index_slots if config.index_slots else 0
