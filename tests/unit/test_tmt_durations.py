"""Word times to durations of text tokens."""

import numpy as np

from tts.training.durations import align, byte_pieces


def durations(
    text_pieces: list[str], words: list[tuple[str, float, float]], total: int, **options: object
) -> list[int]:
    result = align([piece.encode() for piece in text_pieces], words, total, **options)
    assert result is not None
    assert result.sum() == total
    return result.tolist()


def test_one_token_per_word_ends_where_its_word_ends() -> None:
    words = [("one", 0.08, 0.40), ("two", 0.40, 0.80)]
    assert durations(["one", " two"], words, 23) == [10, 13]


def test_punctuation_takes_the_pause_and_the_last_one_the_end() -> None:
    words = [("Well,", 0.08, 0.40), ('"no."', 0.80, 1.20)]
    assert durations(["Well", ",", ' "', "no", ".", '"'], words, 35) == [10, 10, 0, 10, 5, 0]


def test_a_pause_without_punctuation_goes_to_the_next_token() -> None:
    assert durations(["a", " b"], [("a", 0.0, 0.4), ("b", 0.8, 1.2)], 30) == [10, 20]


def test_no_pause_gives_punctuation_no_time() -> None:
    words = [("well-known", 0.0, 0.8), ("it's", 0.8, 1.2)]
    assert durations(["well", "-", "known", " it", "'s"], words, 30) == [9, 0, 11, 7, 3]


def test_letters_share_a_word_and_phones_round_the_borders() -> None:
    words = [("though", 0.0, 0.6)]
    assert durations(["th", "ough"], words, 15) == [5, 10]
    phones = [("dh", 0.08), ("ow", 0.6)]
    assert durations(["th", "ough"], words, 15, phones=phones) == [2, 13]


def test_a_split_character_counts_where_it_is_completed() -> None:
    pieces = [b"caf", "é".encode()[:1], "é".encode()[1:]]
    result = align(pieces, [("café", 0.0, 0.8)], 20)
    assert result is not None
    assert result.tolist() == [15, 0, 5]


def test_what_does_not_fit_is_refused() -> None:
    two = [("a", 0.0, 0.4), ("b", 0.4, 0.8)]
    assert align([b"a", b" b"], two[:1], 20) is None  # a word too few
    assert align([b"a", b" c"], two, 20) is None  # another word
    assert align([b"a", b" b"], two, 15) is None  # the speech is shorter than its words
    assert align([b"a", b" b"], two, 20, max_duration=9) is None
    assert align([b"."], [(".", 0.0, 0.4)], 10) is None  # nothing spoken
    assert align([], [], 10) is None
    short = [("abcdef", 0.0, 0.05), ("b", 0.05, 0.8)]
    assert align([b"a", b"b", b"c", b"d", b"ef", b" b"], short, 20) is None  # most tokens would get no time


def test_bytes_of_a_vocabulary() -> None:
    assert byte_pieces({"a": 0, "Ġthe": 2, "Ã©": 1}) == [b"a", "é".encode(), b" the"]
    assert byte_pieces({"Ċ": 1}) == [b"", b"\n"]


def test_durations_of_random_speech_always_sum_to_its_length() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        words, now, pieces = [], 0.08, []
        for number in range(rng.integers(1, 8)):
            word = "abcdefgh"[: rng.integers(1, 9)]
            end = now + 0.1 * len(word)
            comma = "," if rng.random() < 0.3 else ""
            words.append((word + comma, now, end))
            cut = int(rng.integers(0, len(word)))
            spoken = (" " if number else "") + word
            pieces += [part for part in (spoken[: cut + 1], spoken[cut + 1 :], comma) if part]
            now = end + (0.3 if comma else 0.0)
        total = int(np.ceil((now + 0.12) * 25))
        assert min(durations(pieces, words, total)) >= 0
