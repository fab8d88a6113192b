"""`data prepare`: nothing is lost but what is named, and an interrupted run goes on to the same result."""

import json

import numpy as np
import pytest
import soundfile

from app import cli
from app.data import prepare
from app.data.sources import read_source
from configs.schema import ConfigError
from tts.base import CheckpointError
from tts.training.dataset import Dataset

WORDS = ["well", "the", "cat", "sat", "down", "on", "a", "mat", "today"]


def grid(words):
    """The short form of a TextGrid."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "0", "9", "<exists>", "1"]
    lines += ['"IntervalTier"', '"words"', "0", "9", str(len(words))]
    return "\n".join([*lines, *(f'{start}\n{end}\n"{word}"' for word, start, end in words)])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Twelve good items in LibriTTS's layout, of three formats and rates."""
    root = tmp_path_factory.mktemp("libritts")
    rng = np.random.default_rng(0)
    for number in range(12):
        speaker = ("84", "174")[number % 2]
        folder = root / "train-clean-100" / speaker / "7"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{speaker}_7_000_{number:03d}"
        count = 2 + number % 4
        said = [WORDS[(number + i) % len(WORDS)] for i in range(count)]
        rate, kind = ((24_000, "wav"), (16_000, "flac"), (44_100, "mp3"))[number % 3]
        soundfile.write(folder / f"{name}.{kind}", rng.normal(0, 0.1, int((0.5 + 0.3 * count) * rate)), rate)
        (folder / f"{name}.normalized.txt").write_text(" ".join(said).capitalize() + ".")
        (folder / f"{name}.original.txt").write_text("Not this.")
        times = [(word, round(0.2 + 0.3 * i, 3), round(0.5 + 0.3 * i, 3)) for i, word in enumerate(said)]
        (folder / f"{name}.TextGrid").write_text(grid(times))
    (root / "README.txt").write_text("about the corpus")
    return root


def run(*arguments):
    return cli.main(["data", "prepare", *map(str, arguments)])


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def prepared(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    assert run(corpus, "--out", out, "--shard-items", "5") == 0
    return out


def test_every_item_of_a_corpus_is_there(corpus, prepared):
    data = Dataset(prepared)
    assert len(data) == 12
    assert (prepared / "rejected.jsonl").read_text() == ""
    stats = json.loads((prepared / "stats.json").read_text())
    assert (stats["items"], stats["speakers"], stats["rejected"]) == (12, 2, {})
    assert stats["speech_tokens"] == sum(len(example.tokens) for example in data)
    for example, entry in zip(data, data.entries, strict=True):
        # 80 ms before the first word and 200 ms after the last one are kept
        assert entry["seconds"] == pytest.approx(0.3 * len(entry["text"].split()) + 0.28, abs=0.01)
        assert len(example.tokens) == int(entry["seconds"] * 25) == entry["speech_tokens"]
        assert example.first.durations.sum() == example.later.durations.sum() == len(example.tokens)
        assert (example.later.durations >= 0).all()
        assert example.tokens.min() >= 0
        assert example.tokens.max() < data.settings["num_speech_tokens"]
    assert {entry["speaker"] for entry in data.entries} == {"84", "174"}
    assert "Not this" not in (prepared / "index.jsonl").read_text()


def test_an_interrupted_run_goes_on_to_the_same_result(corpus, prepared, tmp_path, monkeypatch, capsys):
    seen = []
    whole = prepare.Preparer.__call__

    def interrupted(self, item):
        if len(seen) == 8:
            raise KeyboardInterrupt
        seen.append(item.id)
        return whole(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(prepare.Preparer, "__call__", interrupted)
        assert run(corpus, "--out", tmp_path, "--shard-items", "5") == 1
    (tmp_path / "shards" / "00001.part").write_bytes(b"half of a shard")  # as a killed process leaves it
    assert len(seen) == 8
    with pytest.raises(CheckpointError, match="not a whole prepared corpus"):
        Dataset(tmp_path)

    def counted(self, item):
        seen.append(item.id)
        return whole(self, item)

    monkeypatch.setattr(prepare.Preparer, "__call__", counted)
    assert run(corpus, "--out", tmp_path, "--shard-items", "5") == 0
    assert len(seen) == 8 + 7  # the five of the first shard are not looked at again
    assert content(tmp_path) == content(prepared)
    monkeypatch.undo()
    capsys.readouterr()
    assert run(corpus, "--out", tmp_path, "--shard-items", "5", "--max-s", "20") == 2
    assert "begun with other settings (max_s)" in capsys.readouterr().err


def test_the_longest_text_token_can_be_set(corpus, prepared, tmp_path, capsys):
    longest = max(int(example.first.durations.max()) for example in Dataset(prepared))
    assert run(corpus, "--out", tmp_path / "less", "--max-duration", str(longest - 1)) == 0
    rejected = (tmp_path / "less" / "rejected.jsonl").read_text().splitlines()
    assert rejected
    assert all("too long for one text token" in line for line in rejected)
    assert run(corpus, "--out", tmp_path / "same", "--max-duration", str(longest)) == 0
    data = Dataset(tmp_path / "same")
    assert (len(data), data.settings["max_duration"]) == (12, longest)
    capsys.readouterr()
    assert run(corpus, "--out", tmp_path / "none", "--max-duration", "0") == 2
    assert "--max-duration 0" in capsys.readouterr().err


def test_workers_make_the_same(corpus, prepared, tmp_path):
    assert run(corpus, "--out", tmp_path, "--shard-items", "5", "--workers", "2") == 0
    assert content(tmp_path) == content(prepared)


def test_each_bad_item_is_named_and_nothing_else_is_lost(tmp_path, capsys):
    rng = np.random.default_rng(1)
    lines = []

    def item(name, *, samples=None, rate=16_000, reason="", kind="WAV", text="the cat sat", **values):
        path = tmp_path / f"{name}.{kind.lower()}"
        if isinstance(samples, bytes):
            path.write_bytes(samples)
        else:
            said = rng.normal(0, 0.1, int(1.5 * rate)) if samples is None else samples
            soundfile.write(
                path, said.astype(np.float32), rate, format=kind, subtype="FLOAT" if kind == "WAV" else None
            )
        values = {"audio": path.name, "text": text, "alignment": times, **values}
        lines.append(json.dumps({k: v for k, v in values.items() if v is not None}))
        expected[values.get("id", name)] = reason

    times = [["the", 0.1, 0.4], ["cat", 0.4, 0.8], ["sat", 0.8, 1.2]]
    expected: dict[str, str] = {}
    item("good1")
    item("broken", samples=b"RIFF and no more", reason="sound")
    item("empty", samples=b"", reason="the file is empty")
    item("no_samples", samples=np.zeros(0), reason="no samples")
    item("telephone", rate=8_000, reason="sample rate is 8000 Hz")
    item("good2", rate=48_000)
    item("long", samples=rng.normal(0, 0.1, 31 * 16_000), reason="31.0 s, more than 30")
    item("short", samples=rng.normal(0, 0.1, 1_600), reason="0.10 s, less than 0.5")
    item("silent", samples=np.zeros(24_000), reason="silent")
    item("nan", samples=np.full(24_000, np.nan), reason="not numbers")
    item("no_text", text=None, reason="no text")
    item("empty_text", text=" ", reason="text is empty")
    item("symbols", text="*** !!!", reason="nothing in its text can be spoken")
    item("unaligned", alignment=None, reason="no TextGrid")
    item("no_grid", alignment="gone.TextGrid", reason="there is no alignment gone.TextGrid")
    item("other_words", text="a dog ran", reason="'the cat sat' where the text has 'a dog ran'")
    item("backwards", alignment=times[::-1], reason="go backwards")
    item("outside", alignment=[["the cat", 2.0, 2.5], ["sat", 2.5, 3.0]], reason="outside of the recording")
    item("drawn_out", samples=rng.normal(0, 0.1, 80_000), alignment=[*times[:2], ["sat", 0.8, 4.6]], reason="too long")
    item("again", id="good1", reason="same id")
    lines += ["no json", '{"text": "the cat sat"}']
    expected |= {f"line {len(lines) - 1}": "is not {", f"line {len(lines)}": "is not {"}
    lines.append(json.dumps({"audio": "gone.wav", "text": "the cat sat", "alignment": times}))
    expected["gone"] = "no such file"
    item("good3", kind="OGG")
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines) + "\n\n")
    assert run(tmp_path / "manifest.jsonl", "--out", tmp_path / "out") == 0

    good = [entry["id"] for entry in Dataset(tmp_path / "out").entries]
    assert good == ["good1", "good2", "good3"]
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert len(rejected) == len(lines) - len(good)
    for line in rejected:
        assert expected[line["id"]] in line["reason"], line
        assert str(tmp_path) not in line["reason"]
    assert "3 items" in capsys.readouterr().out


def test_a_corpus_of_nothing_usable_fails(tmp_path, capsys):
    (tmp_path / "m.jsonl").write_text('{"audio": "gone.wav", "text": "x"}\n')
    assert run(tmp_path / "m.jsonl", "--out", tmp_path / "out") == 1
    assert "0 items" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="no item that can be trained on"):
        Dataset(tmp_path / "out")


def test_wrong_sources_are_told(tmp_path):
    for source, word in ((tmp_path / "gone", "no such corpus"), (tmp_path, "nothing is in it")):
        with pytest.raises(ConfigError, match=word):
            read_source(source)
    with pytest.raises(ConfigError, match="--alignments"):
        read_source(tmp_path, tmp_path / "gone")


def tokenizer_of(texts, folder):
    """A byte-level tokenizer that has learned `texts`, saved in the folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([*texts] * 20, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def test_mandarin_is_prepared_with_the_tokenizer_that_is_named(tmp_path):
    tokenizer = tokenizer_of(["我们都是好朋友，你好。"], tmp_path)
    times = [(c, 0.1 + 0.25 * i, 0.35 + 0.25 * i) for i, c in enumerate("我们龘友")]
    rate = 24_000
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 2 * rate), rate)
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": "a.wav", "text": "我们，龘友。", "alignment": times}))
    options = ["--tokenizer", tmp_path / "tokenizer.json", "--set", "tts.language=none"]
    assert run(tmp_path / "m.jsonl", "--out", tmp_path / "out", *options) == 0
    example = Dataset(tmp_path / "out")[0]
    assert example.first.ids.tolist() == example.later.ids.tolist() == tokenizer.encode("我们，龘友。").ids
    assert example.first.durations.sum() == len(example.tokens) == int(25 * 1.28)


@pytest.mark.parametrize("digits", [["25"], ["2", "5"], ["二", "十", "五"]])
def test_a_mandarin_corpus_may_have_digits_and_be_aligned_as_written_or_as_spoken(tmp_path, digits):
    tokenizer = tokenizer_of("我有二十五个朋友", tmp_path)  # a token for each
    times = [("我", 0.1, 0.3), ("有", 0.3, 0.5)]
    times += [(c, 0.6 + 0.6 * i / len(digits), 0.6 + 0.6 * (i + 1) / len(digits)) for i, c in enumerate(digits)]
    times += [(c, 1.2 + 0.2 * i, 1.4 + 0.2 * i) for i, c in enumerate("个朋友")]
    (tmp_path / "b.TextGrid").write_text(grid(times), encoding="utf-8")
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", np.random.default_rng(0).normal(0, 0.1, 48_000), 24_000)
    text = "我有 25 个朋友。"
    lines = [
        {"audio": "a.wav", "text": text, "alignment": times},
        {"audio": "b.wav", "text": text, "alignment": "b.TextGrid"},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = ["--tokenizer", tmp_path / "tokenizer.json", "--set", "tts.language=zh"]
    assert run(tmp_path / "m.jsonl", "--out", tmp_path / "out", *options) == 0
    data = Dataset(tmp_path / "out")
    assert len(data) == 2
    for example, entry in zip(data, data.entries, strict=True):
        assert entry["text"] == "我有二十五个朋友。"
        assert example.first.ids.tolist() == tokenizer.encode("我有二十五个朋友。").ids
        ends = np.cumsum(example.first.durations) / 25 + 0.02  # what precedes the first word is cut off
        spoken = {tokenizer.decode([token]): end for token, end in zip(example.first.ids, ends, strict=True)}
        assert [spoken[c] for c in "有二十五个"] == pytest.approx([0.5, 0.8, 1.0, 1.2, 1.4], abs=0.05)
