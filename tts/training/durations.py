"""Word times -> duration of every text token, in speech tokens (40 ms), as the temporal masked transformer learns them.

A token ends where its last spoken letter ends; a token without one (punctuation, a lone space) takes the pause that
follows, the first of a run all of it; a pause without punctuation goes to the next token; the last token ends with the
speech. Letters share their word's time by letter count, rounded to phone borders where phones are known.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from tts.base import TOKEN_HZ

_LONGEST_UNSPOKEN_SHARE = 0.34  # of spoken tokens that may get no time; more means a bad alignment


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
) -> np.ndarray | None:
    """Durations of text tokens.

    Args:
        pieces: bytes of each text token; together they are the utterance's text.
        words: (word, start, end) in seconds, one for each whitespace-separated word of the text.
        num_speech_tokens: T, length of the speech.
        phones: (phone, end) in seconds, contiguous from 0; finer borders within words.
        max_duration: longest duration of a token that the model can say.
    Returns:
        (len(pieces),) int64 that sums to T, or None when text and times do not fit together.
    """
    text = b"".join(pieces).decode("utf-8", errors="replace")
    spans = _word_spans(text)
    if (
        not pieces
        or len(spans) != len(words)
        or any(text[a:b] != word[0] for (a, b), word in zip(spans, words, strict=True))
    ):
        return None
    borders = np.array([end for _, end in phones])
    spoken, starts, ends = _letter_times(text, spans, words, borders)
    if not spoken.any() or ends[spoken].max() * TOKEN_HZ > num_speech_tokens + 1:
        return None
    # Letters of a piece: those whose last byte lies in it, so that a split character counts where it is completed.
    last_byte = np.cumsum([len(letter.encode()) for letter in text])
    edges = np.searchsorted(last_byte, np.cumsum([0, *(len(piece) for piece in pieces)]), side="right")
    duration_s = num_speech_tokens / TOKEN_HZ
    token_ends, is_spoken = np.zeros(len(pieces)), np.zeros(len(pieces), bool)
    now = 0.0
    for number, (first, stop) in enumerate(pairwise(edges)):
        letters = np.flatnonzero(spoken[first:stop]) + first
        if len(letters):
            now, is_spoken[number] = ends[letters[-1]], True
        elif stop > first:
            following = np.flatnonzero(spoken[stop:])
            now = max(now, starts[stop + following[0]] if len(following) else duration_s)
        token_ends[number] = now
    frames = np.maximum.accumulate(np.round(token_ends * TOKEN_HZ).astype(np.int64))
    frames = np.minimum(frames, num_speech_tokens)
    frames[-1] = num_speech_tokens
    durations = np.diff(frames, prepend=0)
    if durations.max() > max_duration or (durations[is_spoken] == 0).mean() > _LONGEST_UNSPOKEN_SHARE:
        return None
    return durations


def _word_spans(text: str) -> list[tuple[int, int]]:
    """Character spans of whitespace-separated words."""
    spans, position = [], 0
    for word in text.split():
        start = text.index(word, position)
        position = start + len(word)
        spans.append((start, position))
    return spans


def _letter_times(
    text: str, spans: Sequence[tuple[int, int]], words: Sequence[tuple[str, float, float]], borders: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which characters are spoken, and the start and end of each in seconds; three arrays (len(text),)."""
    spoken = np.zeros(len(text), bool)
    starts, ends = np.zeros((2, len(text)))
    for (first, stop), (_, start, end) in zip(spans, words, strict=True):
        letters = np.array([i for i in range(first, stop) if text[i].isalnum()], np.int64)
        if not len(letters):
            continue
        inner = borders[(borders > start + 1e-4) & (borders < end - 1e-4)]
        share = np.arange(1, len(letters) + 1) / len(letters)
        if len(borders):
            steps = np.concatenate([[start], inner, [end]])
            times = steps[np.maximum(np.round(share * (len(steps) - 1)).astype(np.int64), 1)]
        else:
            times = start + share * (end - start)
        spoken[letters] = True
        ends[letters] = times
        starts[letters] = np.concatenate([[start], times[:-1]])
    return spoken, starts, ends
