"""Distillation of the flow decoder: few steps of the student come near to the teacher's many."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from app import cli
from app.data.student import read_plan
from audio_io.file import write_wav
from configs.loader import DEFAULTS
from tests.training.test_flow import CONFIG, DATA, HELD_OUT, TRAINING
from tts.decoder.flow import FlowDecoder
from tts.training.student import StudentTask, StudentTraining

NUM_STEPS = 50
TEACHER = replace(CONFIG, prediction="velocity", num_flow_steps=10, guidance=0.7)


def teacher() -> FlowDecoder:
    """Random weights whose path from noise to mel is bent: few steps miss where many arrive."""
    torch.manual_seed(0)
    made = FlowDecoder(TEACHER).eval()
    with torch.no_grad():
        made.decoder.estimator.final_proj.weight *= 6.0
    return made


def loss_of(task: StudentTask, step: int) -> torch.Tensor:
    """Loss of a batch, with the noise that belongs to it."""
    torch.manual_seed(step)
    return task.loss(step, 0.0)[0]


@pytest.mark.parametrize("student_steps", [1, 2])
def test_the_students_few_steps_are_nearer_than_the_teachers(student_steps, tmp_path) -> None:
    made = teacher()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    training = StudentTraining(student_steps=student_steps, crops=replace(TRAINING, batch_size=3, max_crop_s=0.9))
    task = StudentTask(made, DATA, training, validation=HELD_OUT)
    untrained = task.evaluate()
    optimizer = torch.optim.AdamW([p for p in task.module.parameters() if p.requires_grad])
    losses = [loss_of(task, 0)]
    for step in range(NUM_STEPS):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / 10) * (1 - step / NUM_STEPS)
        optimizer.zero_grad()
        loss_of(task, step).backward()
        optimizer.step()
    losses.append(loss_of(task, 0))
    assert losses[1] < losses[0]
    task.module.eval()
    found = task.evaluate()
    assert found["mel_distance"] < min(found["mel_distance_teacher"], 0.85 * untrained["mel_distance"])

    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    learned = {name for name, value in task.module.state_dict().items() if not torch.equal(value, before[name])}
    assert learned
    assert all(name.startswith("decoder.estimator.") for name in learned)
    task.export(tmp_path)
    loaded = FlowDecoder.load(tmp_path)
    assert (loaded.config.num_flow_steps, loaded.config.guidance) == (student_steps, 0.0)
    assert len(loaded.start(torch.ones(1, 192)).estimators) == student_steps


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    made = FlowDecoder(replace(TEACHER, guidance=0.0)).eval()
    task = StudentTask(
        made, DATA, StudentTraining(teacher_steps=2, student_steps=2, crops=TRAINING), validation=HELD_OUT
    )
    loss, _ = task.loss(0, 0.0)
    assert loss.item() < 1e-9
    assert task.evaluate() == {"mel_distance": 0.0, "mel_distance_teacher": 0.0}


def test_steps_that_do_not_meet_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of student_steps 3"):
        StudentTask(teacher(), DATA, StudentTraining(student_steps=3))


def test_the_command_trains_the_bundled_decoder_on_recordings(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("app.data.student.keep_memory", lambda: None)
    rng = np.random.default_rng(0)
    for number in range(3):
        folder = tmp_path / "speech" / f"speaker{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        write_wav(folder / f"{number}.wav", (0.1 * rng.standard_normal(30_000)).astype(np.float32), 24_000)
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "training: {teacher_steps: 2, student_steps: 1, crops: {batch_size: 1, min_crop_s: 0.5, max_crop_s: 0.6}}\n"
        "loop: {steps: 2, learning_rate: 0.001, device: cpu}\n"
    )
    command = [
        "train",
        "student",
        "--data",
        str(tmp_path / "speech"),
        "--plan",
        str(plan),
        "--work",
        str(tmp_path / "work"),
    ]
    assert cli.main([*command, "--out", str(tmp_path / "out"), "--set", "runtime.device=cpu"]) == 0
    assert "--set tts.num_flow_steps=1" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_flow_steps"] == 1
    assert cli.main([*command, "--out", str(tmp_path / "out"), "--set-plan", "training.teacher_steps=4"]) == 2
    assert "training.teacher_steps was 2 and is 4" in capsys.readouterr().err
    assert FlowDecoder.load(tmp_path / "out").config.prediction == "residual"


def test_the_shipped_plan_is_read() -> None:
    plan = read_plan(DEFAULTS / "train" / "student.yaml")
    assert (plan.training.student_steps, plan.training.crops.batch_size) == (2, 8)
