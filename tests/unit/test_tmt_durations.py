"""Word times to durations of text tokens."""

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tts.alignment.durations import MisalignedError, after_a_sentence, align, byte_pieces, text_pieces


def durations(
    text_pieces: list[str], words: list[tuple[str, float, float]], total: int, **options: object
) -> list[int]:
    result = align([piece.encode() for piece in text_pieces], words, total, **options)
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
    assert result.tolist() == [15, 0, 5]


@pytest.mark.parametrize(
    ("pieces", "words", "total", "reason"),
    [
        (["a", " b"], [("a", 0.0, 0.4)], 20, "nothing where the text has 'b'"),
        (["a", " c"], [("a", 0.0, 0.4), ("b", 0.4, 0.8)], 20, "'b' where the text has 'c'"),
        (["a", " b"], [("a", 0.0, 0.4), ("b", 0.4, 0.8)], 15, "end at 0.80 s, the speech at 0.60"),
        (["a", " b"], [("a", 0.0, 2.6), ("b", 2.6, 2.8)], 70, "'a' takes 2.6 s, too long"),
        (["."], [(".", 0.0, 0.4)], 10, "nothing to speak"),
        ([], [], 10, "nothing to speak"),
        (["a", " b"], [("a", 0.4, 0.8), ("b", 0.0, 0.4)], 20, "go backwards"),
        (["a", "b", "c", "d", "ef", " b"], [("abcdef", 0.0, 0.05), ("b", 0.05, 0.8)], 20, "get no time"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(pieces, words, total, reason) -> None:
    with pytest.raises(MisalignedError, match=reason):
        align([piece.encode() for piece in pieces], words, total)


def test_text_and_aligner_may_cut_words_differently() -> None:
    pieces = ["We", "'ll", " re", "-enter", " twenty", " one", ",", " Mr", "."]
    words = [
        ("we", 0.08, 0.2), ("'ll", 0.2, 0.32), ("re", 0.32, 0.44), ("enter", 0.44, 0.8),
        ("twenty-one", 0.8, 1.52), ("mr", 1.8, 2.0),
    ]  # fmt: skip
    assert durations(pieces, words, 55) == [5, 3, 3, 9, 12, 6, 7, 5, 5]


def test_what_the_aligner_heard_otherwise_shares_the_time_between_its_neighbours() -> None:
    pieces = ["then", " Xq", " said", " something", " quite", " long"]
    words = [("then", 0, 0.4), ("<unk>", 0.4, 0.8), ("said", 1.0, 1.2), ("something", 1.2, 1.6), ("quite", 1.6, 1.8)]
    words.append(("long", 1.8, 2.0))
    assert durations(pieces, words, 50, max_unmatched=0.1) == [10, 10, 10, 10, 5, 5]
    with pytest.raises(MisalignedError, match="'unk' where the text has 'xq'"):
        durations(pieces, words, 50, max_unmatched=0.05)
    # a word that the aligner left out lies in the gap; one that only it has is a pause
    assert durations(pieces, [words[0], *words[2:]], 50, max_unmatched=0.1) == [10, 15, 5, 10, 5, 5]
    assert durations(["then", " said"], [words[0], ("uh", 0.6, 0.7), words[2]], 30, max_unmatched=0.1) == [10, 20]


def test_a_lone_space_takes_no_time_and_the_first_of_a_run_of_punctuation_all_of_it() -> None:
    words = [("one", 0.0, 0.4), ("two", 0.8, 1.2)]
    assert durations(["one", " ", "two"], words, 30) == [10, 0, 20]
    assert durations(["one", "...", " ", '"', "two", " "], words, 35) == [10, 10, 0, 0, 10, 5]


def test_silence_before_the_first_word_goes_to_the_first_token_that_speaks() -> None:
    assert durations(['"', "one", "!"], [("one", 0.4, 0.8)], 25) == [10, 10, 5]
    assert durations(['"one', "!"], [("one", 0.4, 0.8)], 25) == [20, 5]


# How Qwen's vocabulary cuts: several characters in a token, a rare character in three, punctuation merged with its kind
MANDARIN = [(c, 0.2 * i, 0.2 * i + 0.2) for i, c in enumerate("怎么办是一个")]


def test_a_token_of_several_characters_ends_with_its_last_one() -> None:
    later = [(c, start + 0.4, end + 0.4) for c, start, end in MANDARIN[3:]]
    assert durations(["怎么办", "，", "是一个", "。"], [*MANDARIN[:3], *later], 45) == [15, 10, 15, 5]


def test_words_of_characters_are_shared_by_phones() -> None:
    words = [("怎么办", 0.0, 0.6)]
    assert durations(["怎", "么", "办"], words, 15) == [5, 5, 5]
    assert durations(["怎", "么", "办"], words, 15, phones=[("zen", 0.32), ("me", 0.4), ("ban", 0.6)]) == [8, 2, 5]


def test_a_character_in_three_tokens_counts_with_the_last() -> None:
    pieces = ["一".encode(), *(bytes([byte]) for byte in "龘".encode()), "个".encode()]
    times = [("一", 0.0, 0.2), ("龘", 0.2, 0.6), ("个", 0.6, 0.8)]
    assert align(pieces, times, 20).tolist() == [5, 0, 0, 10, 5]
    # the first byte may lie in a token with the character before it
    assert align([pieces[0] + pieces[1], pieces[2] + pieces[3], pieces[4]], times, 20).tolist() == [5, 10, 5]
    # and the silence before a split character is not lost
    later = [("一", 0.0, 0.2), ("龘", 0.4, 0.6), ("个", 0.6, 0.8)]
    assert align(pieces, later, 20).tolist() == [5, 0, 0, 10, 5]


def test_mandarin_and_english_in_one_sentence() -> None:
    words = [("用", 0.0, 0.2), ("python", 0.2, 0.8), ("写", 0.8, 1.0)]
    assert durations(["用", " Pyth", "on", " ", "写", "。"], words, 30) == [5, 10, 5, 0, 5, 5]


def test_a_sentence_behind_another_one_begins_with_a_space_only_where_the_script_has_spaces() -> None:
    assert after_a_sentence("Yes.") == " Yes."
    assert after_a_sentence("好的。") == "好的。"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A small tokenizer with Qwen's pre-tokenisation and byte-level pieces."""
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    tokenizer.train_from_iterator(
        ["\"I don't know,\" said Smith's dog. It is well-known... 我们都是好朋友。"] * 9, trainer
    )
    path = tmp_path_factory.mktemp("qwen") / "tokenizer.json"
    tokenizer.save(str(path))
    return tokenizer, text_pieces(path)


@pytest.mark.parametrize(
    "text",
    [
        "\"I don't know,\" said Smith's dog. It is well-known...",
        "我们都是好朋友，龘！你好吗？",
        "Ångström said: “naïve café”",
        "用 Python 写。",
    ],
)
def test_durations_of_a_byte_level_tokenizer_add_up_to_each_words_time(qwen, text) -> None:
    tokenizer, pieces = qwen
    ids = tokenizer.encode(text).ids
    assert b"".join(pieces[i] for i in ids).decode() == text
    words, now = [], 0.08
    for word in (w for part in text.split() for w in ([part] if part[0].isascii() else part)):
        if any(letter.isalnum() for letter in word):
            words.append((word, now, now + 0.08 * len(word)))
            now += 0.08 * len(word) + 0.04
    total = int(25 * now) + 3
    found = align([pieces[i] for i in ids], words, total)
    assert found.sum() == total
    assert found.min() >= 0
    ends = dict(zip(np.cumsum([len(pieces[i]) for i in ids]).tolist(), np.cumsum(found).tolist(), strict=True))
    # wherever a token ends with a word's last letter, it ends with the word
    place = 0
    for word, _, end in words:
        letters = word.rstrip('",.!?:，！？。”')
        place = text.index(letters, place) + len(letters)
        at = len(text[:place].encode())
        if at in ends and at != len(text.encode()):
            assert ends[at] == round(25 * end), word


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
