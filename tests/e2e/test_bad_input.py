"""Whatever a user gives us wrongly is told in one line that says what, where and what to do; never a traceback."""

import os
import shutil

import numpy as np
import pytest
import soundfile

from app.cli import main

NOISE = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)


def recordings(folder):
    """name -> path of recordings that cannot be used."""
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("This is no audio, it is a text.\n" * 20)
    soundfile.write(folder / "no_samples.wav", np.zeros(0, np.float32), 16_000)
    soundfile.write(folder / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    soundfile.write(folder / "cut.wav", NOISE, 16_000)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:30])
    return [
        folder / name for name in ("missing.wav", "empty.wav", "text.wav", "no_samples.wav", "nan.wav", "cut.wav")
    ] + [folder]


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def check(code, err, path, codes=(2,)):
    assert code in codes
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert str(path) in lines[0]
    assert "Traceback" not in err
    assert len(lines[0]) > len(str(path)) + 20  # says more than the name


@pytest.mark.parametrize("command", ["ask", "transcribe"])
def test_recordings_that_cannot_be_used(tmp_path, capsys, command):
    for path in recordings(tmp_path):
        code, _, err = run(capsys, command, path)
        check(code, err, path)
    assert not list(tmp_path.glob("answer*"))


def test_references_that_cannot_be_used(tmp_path, capsys):
    soundfile.write(tmp_path / "silent.wav", np.zeros(48_000, np.float32), 16_000)
    soundfile.write(tmp_path / "short.wav", NOISE[:3200], 16_000)
    for path in [*recordings(tmp_path), tmp_path / "silent.wav", tmp_path / "short.wav"]:
        out = tmp_path / "out.wav"
        code, _, err = run(capsys, "say", "Hello.", "--voice", path, "--out", out)
        check(code, err, path)
        assert not out.exists()


@pytest.mark.parametrize("text", ["", "   ", "🙂🎉", "你好，世界", "***", "\n\n"])
def test_nothing_to_say(tmp_path, capsys, text):
    out = tmp_path / "out.wav"
    code, _, err = run(capsys, "say", text, "--out", out)
    check(code, err, "say", codes=(2,))
    assert not out.exists()
    assert list(tmp_path.iterdir()) == []


def test_text_that_is_partly_unknown_is_spoken_as_far_as_it_goes(tmp_path, capsys):
    out = tmp_path / "out.wav"
    code, _, _ = run(capsys, "say", "Hello 你好 🙂 there.", "--out", out)
    assert code == 0
    assert soundfile.info(out).duration > 0.4


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ("tts.sped=2", "tts.speed"),
        ("tts.speed=quick", "number"),
        ("nonsense", "section.key=value"),
        ("tts.tmt=/nowhere", "/nowhere"),
    ],
)
def test_settings(tmp_path, capsys, settings, word):
    code, _, err = run(capsys, "say", "Hello.", "--out", tmp_path / "out.wav", "--set", settings)
    check(code, err, word, codes=(1, 2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["tmt", "flow", "vocoder"])
@pytest.mark.parametrize("damage", ["truncated", "foreign", "no_config", "json"])
def test_weights_that_are_damaged_or_of_another_model(tmp_path, capsys, key, damage):
    import tts

    folder = tmp_path / key
    shutil.copytree(tts.ASSETS / key, folder)
    weights = folder / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif damage == "foreign":
        shutil.copy(tts.ASSETS / "speaker" / "model.safetensors", weights)
    elif damage == "no_config":
        (folder / "config.json").unlink()
    else:
        (folder / "config.json").write_text("{")
    code, _, err = run(capsys, "say", "Hello.", "--out", tmp_path / "out.wav", "--set", f"tts.{key}={folder}")
    check(code, err, folder, codes=(1,))
    assert not (tmp_path / "out.wav").exists()


def test_no_permission_to_write(tmp_path, capsys, monkeypatch):
    # as root every folder is writable, so the folder's place is taken by a file
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "out.wav", tmp_path / "nowhere" / "out.wav"):
        code, _, err = run(capsys, "say", "Hello.", "--out", out)
        check(code, err, out, codes=(1, 2))
    assert os.listdir(tmp_path) == ["file"]


def test_speed_out_of_range(tmp_path, capsys):
    code, _, err = run(capsys, "say", "Hello.", "--speed", "9", "--out", tmp_path / "out.wav")
    check(code, err, "--speed 9")


def test_bad_usage_is_exit_code_2(capsys):
    for arguments in (["nonsense"], ["say"], ["ask", "--nonsense"], ["train", "nothing"]):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2
        assert "Traceback" not in capsys.readouterr().err


def test_the_ways_in_are_shown_without_a_command(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    for command in ("ask", "say", "transcribe", "doctor"):
        assert f"launch.py {command}" in out


def test_silence_is_no_question(tmp_path, capsys):
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(16_000, np.float32), 16_000)
    code, _, err = run(capsys, "ask", path, "--fast", "--out", tmp_path / "answer.wav")
    assert code == 1
    assert str(path) in err.splitlines()[-1]
    assert "no speech" in err
    assert not (tmp_path / "answer.wav").exists()
