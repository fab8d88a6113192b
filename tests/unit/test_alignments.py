"""Word times from TextGrids and from CTC models."""

import json

import numpy as np
import pytest
import torch

from tts.alignment.ctc import CtcAligner, forced_path
from tts.alignment.durations import MisalignedError
from tts.alignment.textgrid import read_textgrid
from tts.alignment.written import as_spoken
from tts.base import CheckpointError

LONG = '''File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.2
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1.2
        intervals: size = 4
        intervals [1]:
            xmin = 0.0
            xmax = 0.1
            text = ""
        intervals [2]:
            xmin = 0.1
            xmax = 0.5
            text = "say ""so"""
        intervals [3]:
            xmin = 0.5
            xmax = 0.7
            text = "sp"
        intervals [4]:
            xmin = 0.7
            xmax = 1.2
            text = "2"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 1.2
        points: size = 1
        points [1]:
            number = 0.3
            mark = "x"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 1.2
        intervals: size = 2
        intervals [1]:
            xmin = 0.0
            xmax = 0.1
            text = ""
        intervals [2]:
            xmin = 0.1
            xmax = 1.2e0
            text = "S"
'''
SHORT = '''File type = "ooTextFile"
Object class = "TextGrid"

0
1.2
<exists>
3
"IntervalTier"
"words"
0
1.2
4
0
0.1
""
0.1
0.5
"say ""so"""
0.5
0.7
"sp"
0.7
1.2
"2"
"TextTier"
"clicks"
0
1.2
1
0.3
"x"
"IntervalTier"
"phones"
0
1.2
2
0
0.1
""
0.1
1.2
"S"
'''


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("text", [LONG, SHORT], ids=["long", "short"])
def test_both_forms_of_textgrid_are_read(tmp_path, text, encoding):
    path = tmp_path / "a.TextGrid"
    path.write_text(text, encoding=encoding)
    found = read_textgrid(path)
    assert found.words == [('say "so"', 0.1, 0.5), ("2", 0.7, 1.2)]
    assert found.phones == [("", 0.1), ("S", 1.2)]


def test_the_words_of_the_first_speaker_and_a_lone_tier_are_found(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(SHORT.replace('"words"', '"ann - words"'))
    assert len(read_textgrid(path).words) == 2
    path.write_text(SHORT[: SHORT.index('"TextTier"')].replace("\n3\n", "\n1\n", 1).replace('"words"', '"zh"'))
    assert len(read_textgrid(path).words) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not a whole TextGrid"),
        ("RIFF", "not a whole TextGrid"),
        (LONG[:600], "not a whole TextGrid"),
        (LONG.replace('"words"', '"sounds"'), "no tier 'words', but sounds, phones"),
        (None, "there is no alignment"),
    ],
)
def test_what_is_no_alignment_is_told(tmp_path, content, reason):
    path = tmp_path / "a.TextGrid"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MisalignedError, match=reason):
        read_textgrid(path)


def probabilities(frames, size=4, sure=0.97):
    """Frames that are nearly sure of one label each."""
    found = np.full((len(frames), size), (1 - sure) / (size - 1))
    found[np.arange(len(frames)), frames] = sure
    return np.log(found)


def test_the_path_follows_the_likeliest_frames():
    first, last = forced_path(probabilities([0, 1, 1, 0, 2, 0, 0, 3, 3, 0]), np.array([1, 2, 3]), 0)
    assert first.tolist() == [1, 4, 7]
    assert last.tolist() == [2, 4, 8]


def test_a_letter_twice_needs_a_blank_between():
    first, last = forced_path(probabilities([1, 1, 1, 1]), np.array([1, 1]), 0)
    assert last[0] + 1 < first[1]
    with pytest.raises(MisalignedError, match="2 letters do not fit into 2 frames"):
        forced_path(probabilities([1, 1]), np.array([1, 1]), 0)


def test_a_long_text_has_a_path_too():
    labels = np.arange(400) % 3 + 1
    first, last = forced_path(probabilities(np.repeat(labels, 2)), labels, 0)
    assert first.tolist() == list(range(0, 800, 2))
    assert last.tolist() == list(range(1, 800, 2))


def test_the_path_is_the_best_of_all():
    log_probs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).log_softmax(-1).double().numpy()
    labels = np.array([1, 1, 2])

    def collapse(path):
        kept = [label for i, label in enumerate(path) if i == 0 or label != path[i - 1]]
        return [label for label in kept if label]

    paths = [p for p in np.ndindex(3, 3, 3, 3, 3, 3) if collapse(p) == labels.tolist()]
    best = max(paths, key=lambda path: sum(log_probs[i, label] for i, label in enumerate(path)))
    first, last = forced_path(log_probs, labels, 0)
    mine = np.zeros(6, int)
    for label, a, b in zip(labels, first, last, strict=True):
        mine[a : b + 1] = label
    assert mine.tolist() == list(best)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny wav2vec 2.0 model with random weights, as transformers saves one."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    path = tmp_path_factory.mktemp("wav2vec2")
    letters = {"<pad>": 0, "|": 1, **{c: 2 + i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ'")}, "<unk>": 29}
    (path / "vocab.json").write_text(json.dumps(letters))
    Wav2Vec2CTCTokenizer(str(path / "vocab.json")).save_pretrained(path)
    Wav2Vec2FeatureExtractor().save_pretrained(path)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8, 8), conv_stride=(5, 8, 8), conv_kernel=(10, 8, 8), num_feat_extract_layers=3,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, pad_token_id=0,
    )  # fmt: skip
    Wav2Vec2ForCTC(config).save_pretrained(path)
    return path


def test_words_are_timed_by_a_folder_of_transformers(folder, monkeypatch):
    aligner = CtcAligner.load(folder)
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    with pytest.raises(MisalignedError, match="does not hear the text"):  # its weights are random
        aligner.align(samples, "no way")
    monkeypatch.setattr("tts.alignment.ctc._MIN_CONFIDENCE", 0.0)
    found = aligner.align(samples, "It's, no way.")
    assert [word for word, _, _ in found.words] == ["It's,", "no", "way."]
    times = [time for _, start, end in found.words for time in (start, end)]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= 1.0
    assert len(found.phones) == len("IT'SNOWAY")


def test_letters_last_until_the_next_and_pauses_stay(folder):
    aligner = CtcAligner.load(folder)
    i, n, o = 2 + 8, 2 + 13, 2 + 14
    frames = [0] * 10 + [n] + [0] * 3 + [o] + [0] * 8 + [1] + [0] * 20 + [i] + [0] * 6
    found = aligner.from_log_probs(probabilities(frames, 30), "No, I", len(frames) * 0.02)
    (no, start, end), (me, after, stop) = found.words
    assert (no, me) == ("No,", "I")
    assert [start, end, after, stop] == pytest.approx([0.1, 0.4, 0.78, 1.0])
    assert [time for _, time in found.phones] == pytest.approx([0.25, 0.4, 1.0])


def test_what_the_aligner_cannot_do_is_told(folder, tmp_path):
    aligner = CtcAligner.load(folder)
    quiet = probabilities([0] * 50, 30)
    with pytest.raises(MisalignedError, match="does not know all letters of '世界'"):
        aligner.from_log_probs(quiet, "hello 世界", 1.0)
    with pytest.raises(MisalignedError, match="nothing to speak"):
        aligner.from_log_probs(quiet, "...", 1.0)
    with pytest.raises(CheckpointError, match="no aligner in"):
        CtcAligner.load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="not a transformers folder"):
        CtcAligner.load(tmp_path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # the number as one word, and what counts it as another
        ([("我有", 0.1, 0.5), ("25", 0.6, 1.2), ("个", 1.2, 1.5)],
         [("我有", 0.1, 0.5), ("二十五", 0.6, 1.2), ("个", 1.2, 1.5)]),
        # character by character
        ([("我", 0.1, 0.3), ("有", 0.3, 0.5), ("2", 0.6, 0.8), ("5", 0.8, 1.2), ("个", 1.2, 1.5)],
         [("我", 0.1, 0.3), ("有", 0.3, 0.5), ("二十五", 0.6, 1.2), ("个", 1.2, 1.5)]),
        # within a word: each letter and digit has its share
        ([("我有25", 0.1, 0.9), ("个", 1.2, 1.5)],
         [("我有", 0.1, 0.5), ("二十五", 0.5, 0.9), ("个", 1.2, 1.5)]),
        # an aligner that was given the spoken form
        ([(c, i / 5, i / 5 + 0.2) for i, c in enumerate("我有二十五个")],
         [(c, i / 5, i / 5 + 0.2) for i, c in enumerate("我有二十五个")]),
        # other words: left for the alignment to tell
        ([("我有", 0.1, 0.5), ("26", 0.6, 1.2), ("个", 1.2, 1.5)],
         [("我有", 0.1, 0.5), ("26", 0.6, 1.2), ("个", 1.2, 1.5)]),
    ],
)  # fmt: skip
def test_times_of_what_is_written_become_times_of_what_is_spoken(words, expected) -> None:
    found = as_spoken("我有 25 个。", words, "zh")
    assert [word for word, *_ in found] == [word for word, *_ in expected]
    assert np.array([times for _, *times in found]) == pytest.approx(np.array([times for _, *times in expected]))


def test_a_number_is_spoken_as_its_neighbours_ask_and_a_sign_between_the_words() -> None:
    words = [("2", 0.0, 0.4), ("个", 0.4, 0.6), ("3", 0.7, 0.9), ("5", 1.3, 1.5), ("iPhone", 1.6, 2.0)]
    found = as_spoken("2个，3+5 iPhone", words, "zh")
    assert [word for word, *_ in found] == ["两", "个", "三", "加", "五", "iPhone"]
    assert found[3][1:] == pytest.approx((0.9, 1.3))
    english = as_spoken(
        "Dr. Lee paid $25.", [("Dr", 0.0, 0.3), ("Lee", 0.3, 0.5), ("paid", 0.5, 0.8), ("25", 0.8, 2.0)], "en"
    )
    assert [word.strip() for word, *_ in english] == ["Doctor", "Lee", "paid", "twenty five dollars"]
