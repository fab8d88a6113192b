"""Aligned utterances are kept for the next training, and made anew where what they come from is another."""

import json
import shutil

import numpy as np
import pytest

import tts.training.tmt
from app.small.corpus import CorpusError
from app.small.plan import ROOT, Places
from app.small.steps import text_to_token
from app.small.voices import DEFAULT
from tts.alignment.durations import text_pieces
from tts.vocabulary import TextVocabulary

TEXTS = ("The cat sat down.", "a mat", "Well, the cat sat on the mat today.", "on and on")


@pytest.fixture
def places(tmp_path):
    """Two sets of one work folder: aligned speech and its tokens."""
    places = Places(tmp_path / "work", tmp_path / "out")
    rng = np.random.default_rng(0)
    for name in ("prose", "words"):
        places.corpus(name).mkdir(parents=True)
        lines, sizes, offset = [], [], 0
        for number, text in enumerate(TEXTS):
            words = [(word, 0.2 + 0.3 * i, 0.5 + 0.3 * i) for i, word in enumerate(text.split())]
            duration_s = words[-1][2] + 0.2
            line = {"id": str(number), "voice": DEFAULT if number != 1 else "another", "offset": offset, "text": text}
            line |= {"num_samples": round(24_000 * duration_s), "words": words, "phones": []}
            lines.append(json.dumps(line) + "\n")
            sizes.append(int(25 * duration_s))
            offset += line["num_samples"]
        (places.corpus(name) / "index.jsonl").write_text("".join(lines))
        np.zeros(offset, np.int16).tofile(places.corpus(name) / "audio.i16")
        tokens = rng.integers(0, 729, sum(sizes)).astype(np.uint16)
        np.savez(places.work / f"tokens_{name}.npz", tokens=tokens, sizes=np.array(sizes))
    places.asset("tmt").mkdir(parents=True)
    shutil.copy(ROOT / "tts/assets/tmt/tokenizer.json", places.asset("tmt"))
    return places


@pytest.fixture
def aligned(monkeypatch):
    """The sets that were aligned, in order."""
    calls, align = [], text_to_token.aligned

    def counted(places, name, *given):
        calls.append(name)
        return align(places, name, *given)

    monkeypatch.setattr(text_to_token, "aligned", counted)
    return calls


def found(places, names=("prose", "words")):
    path = places.asset("tmt") / "tokenizer.json"
    return [
        [array.tolist() for array in (*e.first, *e.later, e.tokens)]
        + [[array.dtype for array in (*e.first, *e.later, e.tokens)]]
        for e in text_to_token.tmt_examples(places, names, TextVocabulary(path), text_pieces(path))
    ]


def test_a_second_training_aligns_nothing(places, aligned):
    first = found(places)
    assert aligned == ["prose", "words"]
    assert len(first) == 6  # one utterance of each set is another voice's
    assert found(places) == first
    assert found(places, ("words",)) == first[3:]
    assert aligned == ["prose", "words"]


def test_another_corpus_is_aligned_anew(places, aligned):
    first = found(places)
    index = places.corpus("words") / "index.jsonl"
    index.write_text(index.read_text().replace("The cat sat down.", "The rat sat down."))
    second = found(places)
    assert aligned == ["prose", "words", "words"]
    assert second[:3] == first[:3]
    assert second[3] != first[3]


def test_other_speech_tokens_are_aligned_anew(places, aligned):
    first = found(places)
    path = places.work / "tokens_prose.npz"
    stored = dict(np.load(path))
    np.savez(path, **{**stored, "tokens": stored["tokens"] + 1})
    assert found(places)[0][4] == [token + 1 for token in first[0][4]]
    assert aligned == ["prose", "words", "prose"]


def test_another_vocabulary_is_aligned_anew(places, aligned):
    first = found(places)
    path = places.asset("tmt") / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["merges"] = values["model"]["merges"][:100]
    path.write_text(json.dumps(values))
    second = found(places)
    assert aligned == ["prose", "words"] * 2
    assert len(second[0][0]) > len(first[0][0])
    assert second[0][4] == first[0][4]


def test_another_mapping_is_aligned_anew(places, aligned, monkeypatch):
    first, example = found(places), tts.training.tmt.example

    def shifted(text, words, *given):
        return example(text, [(word, start, end - 0.1) for word, start, end in words], *given)

    monkeypatch.setattr(tts.training.tmt, "example", shifted)
    assert found(places) != first
    assert aligned == ["prose", "words"] * 2


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more"])
def test_a_broken_file_is_made_anew(places, aligned, content):
    first = found(places)
    (places.work / "aligned_prose.npz").write_bytes(content)
    assert found(places) == first
    assert aligned == ["prose", "words", "prose"]


def test_a_corpus_that_is_gone_is_told(places, aligned):
    found(places)
    (places.corpus("prose") / "index.jsonl").unlink()
    with pytest.raises(CorpusError, match="there is no corpus"):
        found(places)
