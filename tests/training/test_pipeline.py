"""`train small` from nothing to weights that speak, with a few minutes of speech and two steps per model."""

import json
import shutil
import subprocess
import sys

import pytest
import soundfile
import yaml

from app.small.plan import ASSETS, ON_REQUEST, ROOT
from app.small.steps import STEPS
from configs.loader import DEFAULTS

TTS = ("tmt", "flow", "vocoder", "speech_tokenizer", "speaker")


def run(*arguments):
    return subprocess.run(
        [sys.executable, "launch.py", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=1200
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory, speech_programs):
    folder = tmp_path_factory.mktemp("train")
    plan = yaml.safe_load((DEFAULTS / "train" / "small.yaml").read_text())
    plan["corpus"].update(prose_hours=0.01, voices_hours=0.06, words_hours=0.01, questions_heard=20)
    plan["corpus"].update(prose_lines=100, turn_end_dialogues=300, turn_end_lines=100, turn_sound_lines=20)
    for values in plan.values():
        if isinstance(values, dict) and "steps" in values:
            values.update(steps=2, warmup_steps=1)
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(plan))
    # the vocabulary is learned from so much text that its step is left out here
    for name in ("qwen", "tmt"):
        (folder / "out" / ASSETS[name]).mkdir(parents=True)
        for file in (ROOT / ASSETS[name]).glob("tokenizer*.json"):
            shutil.copy(file, folder / "out" / ASSETS[name])
    (folder / "work").mkdir()
    (folder / "work" / "vocabulary.done").write_text("copied")
    result = run("train", "small", "--config", config, "--work", folder / "work", "--out", folder / "out")
    return folder, result


def test_every_step_runs_and_leaves_its_weights(made):
    folder, result = made
    assert result.returncode == 0, result.stderr[-2000:]
    for name, place in ASSETS.items():
        weights = [
            path
            for path in (folder / "out" / place).glob("*")
            if path.name in ("model.safetensors", "voice.safetensors", "weights.json")
        ]
        assert len(weights) == (name not in ON_REQUEST), name
    assert "qwen:" in result.stdout


def test_what_was_made_speaks(made):
    folder, _ = made
    settings = [part for name in TTS for part in ("--set", f"tts.{name}={folder / 'out' / ASSETS[name]}")]
    out = folder / "speech.wav"
    result = run("say", "Good morning.", "--out", out, *settings)
    assert result.returncode == 0, result.stderr
    assert soundfile.info(out).samplerate == 24_000


def test_the_interleaved_model_and_its_draft_heads_are_made_by_name_and_speak(made):
    folder, _ = made
    config, out = folder / "tiny.yaml", folder / "out"
    steps = ("interleaved", "vadusa", "vadusa_together_4")
    result = run("train", "small", *steps, "--config", config, "--work", folder / "work", "--out", out)
    assert result.returncode == 0, result.stderr[-2000:]
    settings = [f"tts.{name}={out / ASSETS[name]}" for name in TTS] + ["tts.backend=interleaved"]
    plain = [f"tts.interleaved.model={out / ASSETS['interleaved']}"]
    drafted = [*plain, f"tts.interleaved.heads={out / ASSETS['vadusa']}", "tts.interleaved.num_heads=6"]
    together = out / ASSETS["vadusa_together_4"]
    tuned = [f"tts.interleaved.model={together / 'interleaved'}", f"tts.interleaved.heads={together}"]
    heard = []
    for chosen in (plain, drafted, [*tuned, "tts.interleaved.tolerance=3"]):
        given = [part for setting in (*settings, *chosen) for part in ("--set", setting)]
        result = run("say", "Good morning.", "--out", folder / "interleaved.wav", *given)
        assert result.returncode == 0, result.stderr
        assert soundfile.info(folder / "interleaved.wav").samplerate == 24_000
        heard.append((folder / "interleaved.wav").read_bytes())
    assert heard[0] == heard[1]


def test_a_student_of_one_step_is_made_by_name_and_speaks(made):
    folder, _ = made
    out = folder / "out"
    result = run("train", "small", "student", "--config", folder / "tiny.yaml", "--work", folder / "work", "--out", out)
    assert result.returncode == 0, result.stderr[-2000:]
    config = json.loads((out / ASSETS["student"] / "config.json").read_text())
    assert (config["num_flow_steps"], config["guidance"]) == (1, 0.0)
    weights = {name: out / ASSETS[name] for name in TTS} | {"flow": out / ASSETS["student"]}
    settings = [part for name, place in weights.items() for part in ("--set", f"tts.{name}={place}")]
    result = run("say", "Good morning.", "--out", folder / "student.wav", *settings, "--set", "tts.num_flow_steps=1")
    assert result.returncode == 0, result.stderr
    assert soundfile.info(folder / "student.wav").samplerate == 24_000


def test_a_second_run_finds_everything_done(made):
    folder, _ = made
    result = run("train", "small", "--config", folder / "tiny.yaml", "--work", folder / "work", "--out", folder / "out")
    assert result.returncode == 0
    assert result.stdout.count("done before") == len(STEPS) - len(ON_REQUEST)


def test_an_unknown_step_is_told_in_one_line(tmp_path):
    result = run("train", "small", "nonsense", "--work", tmp_path)
    assert result.returncode == 2
    assert "nonsense" in result.stderr
    assert "Traceback" not in result.stderr
