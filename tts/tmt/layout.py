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
how long the later ones are. What else is left open is decided so:

- E is y_{L+1} under either limit: at q = 1 it is there from step L on, as published; a longer look-ahead sees it earlier.
- D_1 is trained by a step 0 of its own, [y_1..y_{1+q} | D_1] -> l_1; the published steps 1..L never ask for l_1.
- There is no D after the last block: nothing follows, speech ends with the text.
- A duration may be 0: its block is empty, its step yields the next duration alone.

A window W limits history: text and blocks with an index <= k - W are not seen by index k.

Training under `prefix` packs all steps of inference in one sequence: beside the committed tokens it holds, for each k,
the masked block M_k and the next placeholder P_{k+1} at the positions of B_k and D_{k+1}; they see the committed past of
step k and each other, nothing sees them. Under `paper` the past depends on the step, so that a sequence holds one step
alone. The order within a sequence is free, because positions are explicit.
"""

from enum import IntEnum

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


_NONE = -(1 << 40)
_UNLIMITED = 1 << 40
# Highest visible key index minus the query's index; query roles down, key roles across. Text columns of speech
# queries are without the look-ahead.
_HIGHEST = (
    (0, _NONE, _NONE, _NONE, _NONE, _NONE),
    (-1, 0, -1, _NONE, _NONE, _NONE),
    (0, 0, 0, _NONE, _NONE, _NONE),
    (0, 0, -1, 0, _NONE, _NONE),
    (-1, -1, -2, -1, 0, _NONE),
    (_NONE, _NONE, _NONE, _NONE, _NONE, 0),
)


def visible(queries: torch.Tensor, keys: torch.Tensor, lookahead: torch.Tensor | int, window: int) -> torch.Tensor:
    """Attention mask of sequences.

    Args:
        queries: (B, fields, S) sequences.
        keys: (B, fields, K) sequences.
        lookahead: `TmtConfig.text_limit` of each sequence's look-ahead q, (B,) or one number.
        window: history in text tokens, own index included; 0 = all.
    Returns:
        (B, S, K) bool, true where a query sees a key.
    """
    query_role, key_role = queries[:, Field.ROLE], keys[:, Field.ROLE]
    query_index, key_index = queries[:, Field.INDEX], keys[:, None, Field.INDEX]
    ahead = lookahead[:, None] if isinstance(lookahead, torch.Tensor) else lookahead
    table = torch.tensor(_HIGHEST, device=queries.device)
    highest = table[query_role] + query_index[..., None]
    speaks = (query_role != Role.TEXT) & (query_role != Role.PAD)
    # D_1 sees the text that D_2 sees: it waits for the look-ahead of the first block.
    first = (query_role == Role.DURATION) & (query_index == 1)
    highest[..., Role.TEXT] += speaks * ahead + first.long()
    upper = highest.gather(2, key_role[:, None].expand(-1, query_index.shape[1], -1))
    provisional = (key_role == Role.MASKED) | (key_role == Role.NEXT_DURATION)
    oldest = query_index[..., None] - (window or _UNLIMITED)
    lower = torch.where(provisional[:, None], upper - 1, oldest)
    return (key_index <= upper) & (key_index > lower)


def read_at(config: TmtConfig, index: np.ndarray, lookahead: int, starts: np.ndarray, first: int = 1) -> np.ndarray:
    """The frame of text y_index: a_{index-q-1}, where it is read; 0 under `paper`, which reads it at every step.

    `starts`: the frames at which blocks `first`, `first` + 1, ... begin, as far as they are known.
    """
    if config.mask == "paper":
        return np.zeros(len(index), np.int64)
    return starts[np.clip(index - lookahead - first, 0, len(starts) - 1)]


def text_rows(
    config: TmtConfig, ids: np.ndarray, first_index: int, frame: np.ndarray | int, shift: int = 0
) -> np.ndarray:
    """Text tokens (E included, as `config.end_id`) with indices from `first_index`, read at `frame`."""
    rows = np.zeros((len(Field), len(ids)), np.int64)
    rows[Field.ROLE] = Role.TEXT
    rows[Field.ID] = ids
    rows[Field.INDEX] = np.arange(first_index, first_index + len(ids))
    rows[Field.FRAME] = frame
    rows[Field.SLOT] = _slots(config, rows[Field.INDEX], shift)
    return rows


def duration_rows(
    config: TmtConfig, role: Role, index: np.ndarray | int, frame: np.ndarray | int, shift: int = 0
) -> np.ndarray:
    """Duration placeholders D_k (or P_k), each at the first frame of its block."""
    rows = np.zeros((len(Field), np.size(index)), np.int64)
    rows[Field.ROLE] = role
    rows[Field.ID] = config.duration_id
    rows[Field.INDEX] = index
    rows[Field.FRAME] = frame
    rows[Field.SLOT] = _slots(config, rows[Field.INDEX], shift)
    return rows


def speech_rows(
    config: TmtConfig,
    role: Role,
    ids: np.ndarray | int,
    first_index: int,
    first_frame: int,
    durations: np.ndarray,
    shift: int = 0,
) -> np.ndarray:
    """Blocks of speech positions, one block for each duration. `ids` are rows of the input embedding."""
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
    return rows


def committed(
    config: TmtConfig, ids: np.ndarray, durations: np.ndarray, tokens: np.ndarray, lookahead: int, shift: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The finished sequence of one utterance, in three parts.

    Args:
        ids: (L,) text token ids, without E.
        durations: (L,) speech tokens of each text token.
        tokens: (T,) speech tokens, T = durations.sum().
        lookahead: text tokens read ahead.
        shift: added to the index before the slot of the text-index embedding is taken.
    Returns:
        Text (fields, L + 1), placeholders (fields, L), speech (fields, T).
    """
    ends = np.concatenate([[0], np.cumsum(durations)])
    length = len(ids)
    frames = read_at(config, np.arange(1, length + 2), lookahead, ends)
    text = text_rows(config, np.append(ids, config.end_id), 1, frames, shift)
    placeholders = duration_rows(config, Role.DURATION, np.arange(1, length + 1), ends[:-1], shift)
    speech_ids = np.asarray(tokens, np.int64) + config.speech_offset
    return text, placeholders, speech_rows(config, Role.SPEECH, speech_ids, 1, 0, durations, shift)


def packed(
    config: TmtConfig,
    ids: np.ndarray,
    durations: np.ndarray,
    tokens: np.ndarray,
    lookahead: int,
    shift: int = 0,
    hidden_history: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training sequence of stage 2 under `prefix`: every step of inference at once.

    Args:
        ids, durations, tokens, lookahead, shift: as for `committed`.
        hidden_history: (T,) bool, committed speech tokens to replace by the mask: practice in imperfect history.
    Returns:
        Rows (fields, S) with S = 3L + 2T, and the targets (S,) of speech tokens and of durations (IGNORED elsewhere).
    """
    text, placeholders, speech = committed(config, ids, durations, tokens, lookahead, shift)
    masked, following = speech.copy(), placeholders[:, 1:].copy()
    masked[Field.ROLE], masked[Field.ID] = Role.MASKED, config.mask_id
    following[Field.ROLE] = Role.NEXT_DURATION
    if hidden_history is not None:
        speech[Field.ID, hidden_history] = config.mask_id
    rows = np.concatenate([text, placeholders, speech, masked, following], axis=1)
    speech_target, duration_target = np.full((2, rows.shape[1]), IGNORED)
    first_masked = text.shape[1] + placeholders.shape[1] + speech.shape[1]
    speech_target[first_masked : first_masked + len(tokens)] = tokens
    duration_target[text.shape[1]] = durations[0]
    duration_target[first_masked + len(tokens) :] = durations[1:]
    return rows, speech_target, duration_target


def one_step(
    config: TmtConfig,
    ids: np.ndarray,
    durations: np.ndarray,
    tokens: np.ndarray,
    lookahead: int,
    step: int,
    shift: int = 0,
    hidden_history: np.ndarray | None = None,
    num_text: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training sequence of stage 2 as published: one step of inference, which either mask allows.

    Args:
        ids, durations, tokens, lookahead, shift, hidden_history: as for `packed`.
        step: n, from 0 to L. It predicts B_n and l_{n+1}; step 0 l_1 alone, step L B_L alone.
        num_text: text tokens, E included, that have arrived; None: no more than the step waits for.
    Returns:
        Rows (fields, S) and the targets (S,), as `packed`.
    """
    number = max(step, 1)  # step 0 has the text of step 1
    rows, speech_target, duration_target = packed(config, ids, durations, tokens, lookahead, shift, hidden_history)
    role, index = rows[Field.ROLE], rows[Field.INDEX]
    # by role, from TEXT to NEXT_DURATION
    lowest = np.array([1, 1, 1, step, step + 1])
    highest = np.array([num_text or number + lookahead, number, number - 1, step, step + 1])
    kept = (index >= lowest[role]) & (index <= highest[role])
    if step:
        duration_target[role == Role.DURATION] = IGNORED
    return rows[:, kept], speech_target[kept], duration_target[kept]


def alternating(
    config: TmtConfig,
    ids: np.ndarray,
    durations: np.ndarray,
    tokens: np.ndarray,
    lookahead: int,
    shift: int,
    first_masked: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training sequence of stage 1: every other block is masked (the first one if `first_masked`) and predicted.

    Returns rows (fields, S) with S = 2L + 1 + T and the targets, as `packed`.
    """
    text, placeholders, speech = committed(config, ids, durations, tokens, lookahead, shift)
    hidden = speech[Field.INDEX] % 2 == int(first_masked)
    hidden_blocks = placeholders[Field.INDEX] % 2 == int(first_masked)
    speech[Field.ID, hidden] = config.mask_id
    speech_target = np.concatenate([np.full(2 * len(ids) + 1, IGNORED), np.where(hidden, tokens, IGNORED)])
    no_text, no_speech = np.full(len(ids) + 1, IGNORED), np.full(len(tokens), IGNORED)
    duration_target = np.concatenate([no_text, np.where(hidden_blocks, durations, IGNORED), no_speech])
    return np.concatenate([text, placeholders, speech], axis=1), speech_target, duration_target


def _slots(config: TmtConfig, index: np.ndarray, shift: int) -> np.ndarray | int:
    return (index + shift) % config.index_slots if config.index_slots else 0
