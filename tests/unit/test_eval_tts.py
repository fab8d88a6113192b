"""`eval tts`: test sets, the way errors are counted, and a whole run with small judges."""

import json
import sys
import types

import numpy as np
import pytest
import soundfile
import torch

from app import cli
from app.data import evaluate
from app.data.testset import errors, language_of, read_testset, score, units
from configs.loader import load
from configs.schema import ConfigError
from tts.base import SpeechStep


def test_both_kinds_of_test_set_are_read(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"x")
    (tmp_path / "t.jsonl").write_text('{"text": " One. "}\n\n{"id": "x", "text": "Two.", "prompt_audio": "a.wav"}\n')
    first, second = read_testset(tmp_path / "t.jsonl")
    assert (first.id, first.text, first.prompt) == ("00001", "One.", None)
    assert (second.id, second.prompt) == ("x", tmp_path / "a.wav")
    (tmp_path / "meta.lst").write_text("u1|said before|a.wav|Three.\nu2|said|a.wav|Four.|true.wav\n")
    listed = read_testset(tmp_path / "meta.lst")
    assert [(case.id, case.text) for case in listed] == [("u1", "Three."), ("u2", "Four.")]
    assert [case.prompt_text for case in listed] == ["said before", "said"]


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("t.jsonl", "", "no test in it"),
        ("t.jsonl", '{"txt": "x"}', "line 1: give lines of JSON"),
        ("t.jsonl", "x", "line 1"),
        ("t.jsonl", '{"text": "..."}', "has no words"),
        ("t.jsonl", '{"text": "a", "prompt_audio": "gone.wav"}', "there is no recording"),
        ("t.jsonl", '{"id": 1, "text": "a"}\n{"id": "1", "text": "b"}', "same id"),
        ("meta.lst", "u1|only two", "meta.lst"),
        ("gone", None, "cannot be read"),
    ],
)
def test_what_is_no_test_set_is_told(tmp_path, name, content, word):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=word):
        read_testset(tmp_path / name)


def test_units_are_those_of_the_usual_convention():
    assert units("“Don't”  STOP, well-known!", "en") == ["don't", "stop", "wellknown"]
    assert units("你好，World。 2", "zh") == [*"你好world2"]


def test_errors_are_counted_and_averaged_by_utterance():
    assert errors("The cat sat.", "the bat", "en") == (2, 3)
    assert errors("a b", "", "en") == (2, 2)
    assert errors("你好吗", "你好妈呀", "zh") == (2, 3)
    found = score([(0, 2), (2, 2), (1, 4)])
    assert found.macro == pytest.approx((0 + 1 + 0.25) / 3)
    assert found.micro == pytest.approx(3 / 8)
    assert found.low <= found.macro <= found.high


def test_the_language_is_that_of_most_texts(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "你好"}\n{"text": "世界 hello"}\n{"text": "hello"}\n')
    cases = read_testset(tmp_path / "t.jsonl")
    assert (language_of(cases), language_of(cases[2:])) == ("zh", "en")


def test_latencies_follow_the_steps():
    steps = [
        SpeechStep(text_token=i, num_speech_tokens=n, num_samples=960 * n, token_end=0, synth_ms=10.0)
        for i, n in enumerate((6, 6, 6, 6))
    ]
    said = evaluate.Spoken(np.zeros(24_000, np.float32), steps, 0.05, 0.2)
    found = evaluate.timing(said, load(None))
    assert found["fpl_a_ms"] == pytest.approx(30)  # three steps of six tokens reach the fifteen
    assert found["fpl_l_ms"] == pytest.approx(4 * 25 + 10)  # block 3 waits for text token 4
    assert (found["rtf"], found["rtf_text_to_token"]) == (pytest.approx(0.2), pytest.approx(0.04))
    assert found["first_audio_ms"] == 50


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    """A tiny recogniser with random weights, as transformers saves one."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    path = tmp_path_factory.mktemp("recogniser")
    (path / "vocab.json").write_text(json.dumps({"<pad>": 0, "|": 1, "A": 2, "B": 3, "<unk>": 4}))
    Wav2Vec2CTCTokenizer(str(path / "vocab.json")).save_pretrained(path)
    Wav2Vec2FeatureExtractor().save_pretrained(path)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=5, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8, 8), conv_stride=(5, 8, 8), conv_kernel=(10, 8, 8), num_feat_extract_layers=3,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, pad_token_id=0,
    )  # fmt: skip
    Wav2Vec2ForCTC(config).save_pretrained(path)
    return path


def test_a_whole_run(tmp_path, recogniser, capsys, monkeypatch):
    fake = types.ModuleType("utmosv2")
    fake.create_model = lambda pretrained: types.SimpleNamespace(
        predict=lambda input_path: 3.0 + ("00001" in input_path)
    )
    fake.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "utmosv2", fake)
    rng = np.random.default_rng(0)
    tone = np.sin(np.arange(32_000) * 0.05) * (0.1 + 0.1 * np.sin(np.arange(32_000) * 0.001)) + rng.normal(
        0, 0.01, 32_000
    )
    soundfile.write(tmp_path / "voice.wav", tone, 16_000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(32_000), 16_000)
    lines = [
        {"text": "Hello there."},
        {"id": "cloned", "text": "Hello.", "prompt_audio": "voice.wav"},
        {"id": "mute", "text": "Hello.", "prompt_audio": "silent.wav"},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = ["--testset", tmp_path / "t.jsonl", "--judge", recogniser, "--report", tmp_path / "report"]
    assert cli.main(["eval", "tts", *map(str, options)]) == 0
    page = capsys.readouterr().out
    assert page == (tmp_path / "report" / "report.md").read_text()
    assert "Wav2Vec2ForCTC" in page
    assert "1 failed" in page
    items = [json.loads(line) for line in (tmp_path / "report" / "items.jsonl").read_text().splitlines()]
    assert ["failed" in item for item in items] == [False, False, True]
    assert "silent" in items[2]["failed"]
    assert set("".join(item["heard"] for item in items[:2])) <= set("AB <unk>")
    assert "similarity" in items[1]
    assert "similarity" not in items[0]
    assert soundfile.info(items[0]["wav"]).samplerate == 24_000
    found = json.loads((tmp_path / "report" / "report.json").read_text())["figures"]
    assert found["errors"]["macro"] == pytest.approx(np.mean([i["errors"] / i["units"] for i in items[:2]]))
    assert found["similarity"] == pytest.approx(items[1]["similarity"])
    assert found["utmosv2"] == 3.5
    assert found["seconds"] == pytest.approx(sum(soundfile.info(i["wav"]).duration for i in items[:2]))
    assert 0 < found["rtf_text_to_token"] < found["rtf"]


def test_judges_that_do_not_serve_are_told(tmp_path, recogniser):
    config = load(None)
    with pytest.raises(ConfigError, match="English only"):
        evaluate.listener("pocketsphinx", config, "zh")
    with pytest.raises(ConfigError, match="no such folder"):
        evaluate.listener(str(tmp_path / "gone"), config, "en")
    with pytest.raises(ConfigError, match="not a transformers folder"):
        evaluate.listener(str(tmp_path), config, "en")
