"""Word times -> duration of every text token, in speech tokens (40 ms), as the temporal masked transformer learns them.

A token ends where its last spoken letter ends; a token of punctuation alone takes the pause that follows, the first of a
run all of it; a lone space takes nothing; a pause without punctuation goes to the next token; the last token ends with
the speech; a character cut into several tokens counts with the one that completes it. Letters share their word's time by
letter count, rounded to phone borders where phones are known.

Text and aligner need not agree on what a word is: both are cut to runs of letters (in scripts without spaces, to single
characters) and compared without case, so that "well-known" may be one word or two, "don't" may be "don" and "'t".
"""

import json
import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tts.base import TOKEN_HZ
from tts.text.characters import ALONE
from tts.text.characters import after_a_sentence as after_a_sentence

_UNIT = re.compile(rf"[{ALONE}]|[^\W_{ALONE}]+")
_LONGEST_UNSPOKEN_SHARE = 0.34  # of spoken tokens that may get no time; more means a bad alignment


class MisalignedError(ValueError):
    """Text and times do not fit together; the message says how."""


def text_pieces(path: Path) -> list[bytes]:
    """The bytes of every text token of a tokenizer.json."""
    values = json.loads(path.read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in values["added_tokens"]}
    return byte_pieces({**values["model"]["vocab"], **added})


def byte_pieces(vocabulary: Mapping[str, int]) -> list[bytes]:
    """The bytes behind each id of a byte-level BPE vocabulary (token text -> id); empty for ids without an entry."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
    pieces = [b""] * (max(vocabulary.values()) + 1)
    for token, number in vocabulary.items():
        if all(letter in byte_of for letter in token):
            pieces[number] = bytes(byte_of[letter] for letter in token)
        else:
            pieces[number] = token.encode()
    return pieces


def align(
    pieces: Sequence[bytes],
    words: Sequence[tuple[str, float, float]],
    num_speech_tokens: int,
    *,
    phones: Sequence[tuple[str, float]] = (),
    max_duration: int = 63,
    max_unmatched: float = 0.0,
) -> np.ndarray:
    """Durations of text tokens.

    Args:
        pieces: bytes of each text token; together they are the utterance's text.
        words: (word, start, end) in seconds, in order; a word may be any stretch of the text.
        num_speech_tokens: T, length of the speech.
        phones: (phone, end) in seconds, contiguous from 0; finer borders within words.
        max_duration: longest duration of a token that the model can say.
        max_unmatched: share of the text's letters that the aligner may have heard otherwise; they share the time between
            their neighbours.
    Returns:
        (len(pieces),) int64 that sums to T. Raises MisalignedError.
    """
    text = b"".join(pieces).decode("utf-8", errors="replace")
    duration_s = num_speech_tokens / TOKEN_HZ
    heard = _heard(words, np.array([end for _, end in phones]))
    spoken, starts, ends = _letter_times(text, heard, duration_s, max_unmatched)
    if ends[spoken].max() > duration_s + 1 / TOKEN_HZ:
        raise MisalignedError(f"the words end at {ends[spoken].max():.2f} s, the speech at {duration_s:.2f} s")
    # Letters of a piece: those whose last byte lies in it, so that a split character counts where it is completed.
    last_byte = np.cumsum([len(letter.encode()) for letter in text])
    edges = np.searchsorted(last_byte, np.cumsum([0, *(len(piece) for piece in pieces)]), side="right")
    token_ends, is_spoken = np.zeros(len(pieces)), np.zeros(len(pieces), bool)
    now = 0.0
    for number, (first, stop) in enumerate(pairwise(edges)):
        letters = np.flatnonzero(spoken[first:stop]) + first
        if len(letters):
            now, is_spoken[number] = ends[letters[-1]], True
        elif text[first:stop].strip():
            following = np.flatnonzero(spoken[stop:])
            now = max(now, starts[stop + following[0]] if len(following) else duration_s)
        token_ends[number] = now
    frames = np.maximum.accumulate(np.round(token_ends * TOKEN_HZ).astype(np.int64))
    frames = np.minimum(frames, num_speech_tokens)
    frames[-1] = num_speech_tokens
    durations = np.diff(frames, prepend=0)
    if durations.max() > max_duration:
        longest = pieces[int(durations.argmax())].decode("utf-8", errors="replace")
        raise MisalignedError(f"{longest!r} takes {durations.max() / TOKEN_HZ:.1f} s, too long for one text token")
    if (durations[is_spoken] == 0).mean() > _LONGEST_UNSPOKEN_SHARE:
        raise MisalignedError(
            f"{(durations[is_spoken] == 0).sum()} of {is_spoken.sum()} spoken text tokens get no time"
        )
    return durations


class _Unit(NamedTuple):
    """A run of letters."""

    folded: str
    starts: np.ndarray  # of each letter, seconds
    ends: np.ndarray


def _heard(words: Sequence[tuple[str, float, float]], borders: np.ndarray) -> list[_Unit]:
    """What the aligner found, cut to units; `borders` are the ends of phones."""
    units, now = [], 0.0
    for word, start, end in words:
        if not now - 1e-3 <= start <= end:
            raise MisalignedError(f"the times of {word!r} ({start:.2f} to {end:.2f} s) go backwards")
        now = end
        runs = [match.group() for match in _UNIT.finditer(word)]
        count = sum(map(len, runs))
        if not count:
            continue
        times = start + np.arange(1, count + 1) / count * (end - start)
        if len(borders):
            inner = borders[(borders > start + 1e-4) & (borders < end - 1e-4)]
            steps = np.concatenate([[start], inner, [end]])
            share = np.arange(1, count + 1) / count
            times = steps[np.maximum(np.round(share * (len(steps) - 1)).astype(np.int64), 1)]
        edges = np.concatenate([[start], times])
        first = 0
        for run in runs:
            stop = first + len(run)
            units.append(_Unit(_folded(run), edges[first:stop], edges[first + 1 : stop + 1]))
            first = stop
    return units


def _letter_times(
    text: str, heard: Sequence[_Unit], duration_s: float, max_unmatched: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which characters are spoken, and the start and end of each in seconds; three arrays (len(text),)."""
    spoken = np.zeros(len(text), bool)
    starts, ends = np.zeros((2, len(text)))
    written = [(_folded(match.group()), match.span()) for match in _UNIT.finditer(text)]
    for _, (first, stop) in written:
        spoken[first:stop] = True
    if not written:
        raise MisalignedError("the text has nothing to speak")
    unmatched, example = 0, ""
    matcher = SequenceMatcher(None, [folded for folded, _ in written], [unit.folded for unit in heard], autojunk=False)
    for _, a, b, c, d in matcher.get_opcodes():
        none = np.zeros(0, np.int64)
        letters = np.concatenate([none, *(np.arange(*span) for _, span in written[a:b])])
        if "".join(folded for folded, _ in written[a:b]) == "".join(unit.folded for unit in heard[c:d]):
            starts[letters] = np.concatenate([unit.starts for unit in heard[c:d]])
            ends[letters] = np.concatenate([unit.ends for unit in heard[c:d]])
            continue
        unmatched += len(letters)
        example = (
            example
            or f"{_quoted([u.folded for u in heard[c:d]])} where the text has {_quoted([w for w, _ in written[a:b]])}"
        )
        begin = heard[c].starts[0] if d > c else heard[c - 1].ends[-1] if c else 0.0
        end = heard[d - 1].ends[-1] if d > c else heard[c].starts[0] if c < len(heard) else duration_s
        edges = np.linspace(begin, end, len(letters) + 1)
        starts[letters], ends[letters] = edges[:-1], edges[1:]
    if example and unmatched >= max_unmatched * spoken.sum():
        raise MisalignedError(f"the alignment has {example}")
    return spoken, starts, ends


def _folded(letters: str) -> str:
    """Without case, letter for letter."""
    return "".join(letter.lower()[0] for letter in letters)


def _quoted(words: Sequence[str]) -> str:
    return repr(" ".join(words[:4])) if words else "nothing"
