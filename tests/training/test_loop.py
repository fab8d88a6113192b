import json
import logging
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from app import cli
from app.small import pipeline
from app.small.loop import LoopConfig, make_optimizers, mixed_precision, rate, train
from app.small.plan import fit
from configs.schema import ConfigError


class Line:
    """Learns y = 2 x + 1 from batches that depend on the step alone."""

    name = "line"

    def __init__(self, stop_at=None):
        torch.manual_seed(0)
        self.module = nn.Linear(1, 1)
        self._stop_at = stop_at
        self.exported = None

    def loss(self, step, progress):
        if step == self._stop_at:
            raise KeyboardInterrupt
        x = torch.rand(16, 1)  # the loop seeds every step
        return ((self.module(x) - 2 * x - 1) ** 2).mean(), {"progress": progress}

    def evaluate(self):
        return {"weight": float(self.module.weight)}

    def export(self, directory):
        self.exported = {n: p.clone() for n, p in self.module.state_dict().items()}


def config(**changes):
    return LoopConfig(
        **{"steps": 60, "learning_rate": 0.1, "warmup_steps": 5, "checkpoint_every": 10, "weight_decay": 0.0, **changes}
    )


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, average):
    whole = Line()
    train(whole, config(average_decay=average), tmp_path / "a", tmp_path, progress_bar=False)
    with pytest.raises(KeyboardInterrupt):
        train(Line(stop_at=37), config(average_decay=average), tmp_path / "b", tmp_path, progress_bar=False)
    resumed = Line()
    train(resumed, config(average_decay=average), tmp_path / "b", tmp_path, progress_bar=False)
    for name, value in whole.exported.items():
        torch.testing.assert_close(resumed.exported[name], value)


@dataclass(frozen=True)
class Shape:
    """Settings beside the loop's."""

    width: int = 3
    inner: Any = None


def test_a_checkpoint_is_not_gone_on_with_by_other_settings(tmp_path):
    def go(stop_at=None, width=3, **changes):
        others = {"model": Shape(inner=Shape(width)), "held_out": 5}
        train(Line(stop_at), config(**changes), tmp_path, tmp_path, others=others, progress_bar=False)

    with pytest.raises(KeyboardInterrupt):
        go(stop_at=37)
    with pytest.raises(ConfigError, match=r"checkpoint\.pt .*steps was 60 and is 80, betas was \(0\.9, 0\.98\)"):
        go(steps=80, betas=(0.5, 0.9))
    with pytest.raises(ConfigError, match=r"\(model\.inner\.width was 3 and is 4\)"):
        go(width=4)
    go(checkpoint_every=5, num_threads=2, device="cpu", log_every=3)  # how, not what
    (tmp_path / "checkpoint.pt").unlink()
    go(steps=80)


def test_a_checkpoint_that_does_not_say_its_settings_is_told(tmp_path, caplog):
    train(Line(), config(), tmp_path, tmp_path, progress_bar=False)
    saved = torch.load(tmp_path / "checkpoint.pt")
    del saved["settings"]
    torch.save(saved, tmp_path / "checkpoint.pt")
    with caplog.at_level(logging.WARNING):
        train(Line(), config(steps=70), tmp_path, tmp_path, progress_bar=False)
    assert "does not say which settings" in caplog.text


def test_train_small_does_not_go_on_by_another_plan(tmp_path, monkeypatch, capsys):
    """A step that is broken off and begun again, with the corpus and the model left out."""
    stops = [25, None, None, None]

    def speaker(places, plan):
        return fit(places, "speaker", Line(stops.pop(0)), plan.speaker, {"corpus.seed": plan.corpus.seed})

    monkeypatch.setattr(pipeline, "STEPS", {"speaker": speaker, "flow": speaker})
    monkeypatch.setattr(pipeline, "keep_memory", lambda: None)  # it would begin pytest anew
    places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    plan = ["--set", "speaker.steps=40", "--set-plan", "speaker.checkpoint_every=10"]
    assert cli.main(["train", "small", "speaker", *places, *plan]) == 1
    for other, change in (
        (["--set", "speaker.steps=50"], "steps was 40 and is 50"),
        (["--set", "corpus.seed=2"], "corpus.seed was 1 and is 2"),
    ):
        assert cli.main(["train", "small", "speaker", *places, *plan, *other]) == 2
        error = capsys.readouterr().err
        assert change in error
        assert str(tmp_path / "work" / "speaker" / "checkpoint.pt") in error
    assert cli.main(["train", "small", "flow", *places, *plan, "--start-from", "."]) == 2
    assert "--start-from was random weights and is /" in capsys.readouterr().err
    stops.append(None)
    assert cli.main(["train", "small", "speaker", *places, *plan]) == 0
    assert "steps 40" in capsys.readouterr().out


def test_it_learns_and_keeps_a_log(tmp_path):
    task = Line()
    figures = train(task, config(steps=300, evaluate_every=100), tmp_path, tmp_path, progress_bar=False)
    assert figures["weight"] == pytest.approx(2, abs=0.1)
    assert figures["steps"] == 300
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] > lines[-2]["loss"]
    assert sum("eval_weight" in line for line in lines) == 3


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    class Broken(Line):
        def loss(self, step, progress):
            return self.module.weight.sum() * float("nan"), {}

    with pytest.raises(FloatingPointError, match="line"):
        train(Broken(), config(), tmp_path, tmp_path, progress_bar=False)


def test_the_learning_rate_warms_up_and_falls():
    loop = config(steps=100, warmup_steps=10, final_rate=0.01)
    rates = [rate(loop, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert max(rates) == pytest.approx(1, rel=0.05)
    assert rates[-1] < 0.02


class Picture(Line):
    """Learns a linear map of pictures through a convolution and two matrices."""

    def __init__(self, stop_at=None):
        super().__init__(stop_at)
        self.module = nn.Sequential(
            nn.Embedding(2000, 32), nn.Unflatten(1, (32, 1)), nn.Conv1d(32, 64, 3, padding=1), nn.Flatten(),
            nn.Linear(64, 48), nn.Linear(48, 1),
        )  # fmt: skip

    def loss(self, step, progress):
        if step == self._stop_at:
            raise KeyboardInterrupt
        ids = torch.randint(50, (32,))
        return ((self.module(ids)[:, 0] - torch.sin(ids.float())) ** 2).mean(), {}

    def evaluate(self):
        ids = torch.arange(50)
        return {"error": float(((self.module(ids)[:, 0] - torch.sin(ids.float())) ** 2).mean())}


def test_muon_trains_what_lies_between_hidden_layers():
    module = Picture().module
    (adamw, slow), (muon, fast) = make_optimizers(module, config(muon_learning_rate=0.5))
    assert (slow, fast) == (0.1, 0.5)
    assert [tuple(p.shape) for p in muon.param_groups[0]["params"]] == [(64, 32, 3), (48, 64)]
    others = sum(p.numel() for group in adamw.param_groups for p in group["params"])
    assert others == sum(p.numel() for p in module.parameters()) - 64 * 96 - 48 * 64
    assert len(make_optimizers(module, config())) == 1


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ({"avx2": True}, torch.float32),
        ({"avx2": True, "avx512_f": True, "avx512_bw": True, "avx512_vnni": True, "avx512_bf16": False}, torch.float32),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": True}, torch.bfloat16),
        ({"neon": True, "bf16": True}, torch.bfloat16),
        ({"neon": True}, torch.float32),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bfloat16_is_used_where_the_processor_multiplies_it(monkeypatch, instructions, expected):
    before = torch.get_autocast_dtype("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    try:
        assert mixed_precision(torch.device("cpu")) == expected
        with torch.autocast("cpu"):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
    finally:
        torch.set_autocast_dtype("cpu", before)


def test_a_muon_run_learns_and_resumes(tmp_path):
    options = config(steps=120, learning_rate=0.01, muon_learning_rate=0.02)
    whole = Picture()
    figures = train(whole, options, tmp_path / "a", tmp_path, progress_bar=False)
    assert figures["error"] < 0.05
    with pytest.raises(KeyboardInterrupt):
        train(Picture(stop_at=57), options, tmp_path / "b", tmp_path, progress_bar=False)
    resumed = Picture()
    train(resumed, options, tmp_path / "b", tmp_path, progress_bar=False)
    for name, value in whole.exported.items():
        torch.testing.assert_close(resumed.exported[name], value)
