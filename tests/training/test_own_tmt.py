"""`train tmt`: from a prepared corpus to weights that speak; killed, resumed, shared by processes: the same result."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tts
from app import cli
from app.data.train import read_plan
from configs.loader import DEFAULTS
from configs.schema import RuntimeConfig, TtsConfig
from configs.vocabulary import vocabulary_id
from tts.base import CheckpointError, PcmChunk
from tts.tmt.config import TmtConfig
from tts.training.dataset import Dataset, Prepared, write_json, write_shard
from tts.training.embedding import text_embedding
from tts.training.tmt import TimedText, TmtExample

ROOT = Path(cli.__file__).parents[1]
TOKENIZER = tts.ASSETS / "tmt" / "tokenizer.json"
PLAN = """
model: {dim: 32, num_layers: 1, num_heads: 2, ff_dim: 48, max_lookahead: 8, index_slots: 16, frame_embeddings: true}
training: {batch_positions: 400, dropout: 0.1, lookaheads: {1: 0.5, 8: 0.5}}
loop: {steps: 24, micro_batches: 2, learning_rate: 0.003, warmup_steps: 2, evaluate_every: 10, checkpoint_every: 7,
  log_every: 1, tensorboard: true, average_decay: 0.9, device: cpu}
held_out: 4
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A prepared corpus of a made-up language, and a plan for it."""
    root = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    items = []
    for number in range(40):
        ids = rng.integers(300, 340, rng.integers(4, 9))
        durations = ids % 4
        durations[-1] = 2
        tokens = np.concatenate([(3 * i + np.arange(length)) % 729 for i, length in zip(ids, durations, strict=True)])
        text = TimedText(ids, durations)
        items.append(Prepared({"id": str(number)}, TmtExample(text, text, tokens), np.zeros(4, np.float32)))
    for number in range(2):
        write_shard(root / "data" / "shards", number, items[20 * number : 20 * number + 20], [])
    lines = [
        entry for n in range(2) for entry in json.loads((root / f"data/shards/{n:05d}.json").read_text())["entries"]
    ]
    (root / "data" / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(root / "data" / "settings.json", {"num_speech_tokens": 729, "max_duration": 63})
    shutil.copy(TOKENIZER, root / "data")
    (root / "plan.yaml").write_text(PLAN)
    (root / "sure.yaml").write_text(PLAN.replace("dropout: 0.1", "dropout: 0.0"))
    return root


def arguments(place, name, plan="plan"):
    paths = ["--data", place / "data", "--config", place / f"{plan}.yaml", "--work", place / name]
    return ["train", "tmt", *map(str, paths), "--out", str(place / name / "weights")]


def run(place, name, plan="plan", *more):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.data.train.keep_memory", lambda: None)  # it would begin pytest anew
        return cli.main([*arguments(place, name, plan), *map(str, more)])


def log(place, name):
    lines = [json.loads(line) for line in (place / name / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "cpu_minutes"} for line in lines]


@pytest.fixture(scope="module")
def whole(place):
    assert run(place, "whole") == 0
    return place / "whole"


def test_the_corpus_is_read_as_it_was_written(place):
    data = Dataset(place / "data")
    assert len(data) == 40
    assert [entry["id"] for entry in data.entries] == [str(n) for n in range(40)]
    assert all((u.first.ids % 4 == u.first.durations)[:-1].all() for u in data)
    with pytest.raises(IndexError):
        data[40]


def test_it_learns_keeps_logs_and_its_weights_speak(place, whole):
    lines = log(place, "whole")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 24
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    assert [line["step"] for line in lines if "eval_token_ce" in line] == [10, 20, 24]
    assert list((whole / "tensorboard").glob("events*"))
    config = json.loads((whole / "weights" / "config.json").read_text())
    assert (config["vocabulary_id"], config["num_speech_tokens"]) == (vocabulary_id(TOKENIZER), 729)
    speaker = tts.build(TtsConfig(tmt=str(whole / "weights"), speed=1.0), RuntimeConfig())
    stream = speaker.stream(share_ids=False)
    stream.push(0, "Hello there, how are you?")
    stream.finish()
    made = list(iter(stream.step, None))
    assert isinstance(made[-1], PcmChunk)
    assert stream.done


def test_killed_and_resumed_it_equals_the_uninterrupted_run(place, whole):
    command = [sys.executable, "launch.py", *arguments(place, "killed")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    journal = place / "killed" / "log.jsonl"
    while process.poll() is None and not (journal.exists() and '"step": 9,' in journal.read_text()):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (place / "killed" / "weights").exists()
    assert run(place, "killed") == 0
    assert log(place, "killed") == log(place, "whole")
    weights = [place / name / "weights" / "model.safetensors" for name in ("killed", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_two_processes_have_the_loss_curve_of_one(place):
    assert run(place, "one", "sure") == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, "launch.py", *arguments(place, "two", "sure")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().count("speak with it") == 1
    one, two = log(place, "one"), log(place, "two")
    assert [line.keys() for line in one] == [line.keys() for line in two]
    for mine, other in zip(one, two, strict=True):
        assert mine == pytest.approx(other, rel=1e-3)


def test_what_does_not_fit_is_told(place, tmp_path, capsys, monkeypatch):
    def fails(plan, *more):
        (place / "bad.yaml").write_text(plan)
        code = run(place, "bad", "bad", *more)
        return code, capsys.readouterr().err

    monkeypatch.chdir(tmp_path)
    code, error = fails(PLAN.replace("dim: 32,", "dim: 32, num_duration_classes: 20,"))
    assert (code, "durations up to 63" in error) == (2, True)
    code, error = fails(PLAN, "--set-plan", "model.positions=contiguous")
    assert (code, "model: contiguous positions" in error, "need the mask paper" in error) == (2, True, True)
    code, error = fails(PLAN, "--set-plan", "model.dim=30")
    assert (code, "model: dim 30 must be a multiple of" in error) == (2, True)
    code, error = fails(PLAN.replace("dropout: 0.1", "dropuot: 0.1"))
    assert (code, "did you mean training.dropout" in error) == (2, True)
    code, error = fails("model: {}\n")
    assert (code, "training, loop must be given" in error) == (2, True)
    code, error = fails(PLAN, "--set-plan", "training.dropuot=0.2")
    assert (code, "did you mean training.dropout" in error) == (2, True)
    code, error = fails(PLAN, "--data", tmp_path)
    assert (code, "data prepare" in error) == (1, True)
    code, error = fails(PLAN, "--text-embedding", tmp_path)
    assert (code, "not a Qwen folder" in error) == (1, True)


@pytest.mark.parametrize(
    ("setting", "change"),
    [
        ("loop.steps=30", "steps was 24 and is 30"),
        ("training.dropout=0.2", "training.dropout was 0.1 and is 0.2"),
        ("model.dim=64", "model.dim was 32 and is 64"),
    ],
)
def test_a_checkpoint_is_not_gone_on_with_by_another_plan(place, whole, setting, change, capsys):
    before = (whole / "weights" / "model.safetensors").read_bytes()
    assert run(place, "whole", "plan", "--set-plan", setting) == 2
    assert change in capsys.readouterr().err
    assert (whole / "weights" / "model.safetensors").read_bytes() == before


def test_the_shipped_plans_are_read():
    small = read_plan(DEFAULTS / "train" / "tmt_small.yaml", ["loop.learning_rate=1"])
    assert small.loop.learning_rate == 1.0
    assert small.loop.micro_batches == 2
    full = read_plan(DEFAULTS / "train" / "tmt_libritts.yaml")
    assert full.model == TmtConfig(max_lookahead=32)  # the paper's shape is the default
    assert (full.model.num_layers, full.model.dim, full.model.num_heads, full.model.ff_dim) == (16, 1024, 16, 2048)
    assert full.loop.steps * full.training.alternating_share == pytest.approx(70_000, rel=1e-3)


@pytest.mark.parametrize("width", [24, 48])
def test_the_text_embedding_may_begin_as_qwens(tmp_path, width):
    shutil.copy(TOKENIZER, tmp_path)
    torch.manual_seed(0)
    table = torch.randn(100, width).half()
    save_file({"model.embed_tokens.weight": table}, tmp_path / "part-2.safetensors")
    index = {
        "weight_map": {"model.norm.weight": "part-1.safetensors", "model.embed_tokens.weight": "part-2.safetensors"}
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = text_embedding(tmp_path, vocabulary_id(TOKENIZER), 90, 32)
    assert found.shape == (90, 32)
    centred = table[:90].float() - table[:90].float().mean(0)
    if width < 32:
        torch.testing.assert_close(found[:, :width] / found[0, 0], centred / centred[0, 0], rtol=1e-3, atol=1e-3)
        assert (found[:, width:] == 0).all()
    else:  # the directions in which it varies most, in falling order; no other 32 keep more
        variances = found.var(0)
        assert (variances.diff() <= 1e-6).all()
        expected = torch.linalg.svdvals(centred)[:32].square()
        torch.testing.assert_close(variances / variances.sum(), expected / expected.sum(), rtol=1e-3, atol=1e-4)
    with pytest.raises(CheckpointError, match="another text vocabulary"):
        text_embedding(tmp_path, "other", 90, 32)


def test_training_begins_with_the_given_text_embedding(place, tmp_path):
    from tts.training.tmt import TmtTraining, task

    config = TmtConfig(text_vocab_size=340, num_speech_tokens=729, dim=32, num_layers=1, num_heads=2, ff_dim=48)
    table = torch.randn(300, 32)
    data = Dataset(place / "data")
    made = task(config, (), data, data[:2], TmtTraining(shared_parts=False, batch_positions=400), table)
    plain = made.module.folded()
    assert torch.equal(plain.embedding.weight[:300], table)
    loss, _ = made.loss(0, 0.5)
    assert torch.isfinite(loss)
