"""The bundled models through the command line, as a person uses them."""

import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import soundfile

import tts
from app import trace as trace_module
from app.ask import SAMPLE_QUESTION
from app.cli import main
from tts.base import LEFT_OUT

ROOT = Path(trace_module.__file__).parents[1]
SCHEMA = json.loads((ROOT / "app" / "trace.schema.json").read_text())


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """One conversation of two turns, in fast mode."""
    folder = tmp_path_factory.mktemp("ask")
    arguments = ["ask", SAMPLE_QUESTION, SAMPLE_QUESTION, "--fast", "--out", folder / "answer.wav"]
    arguments += ["--trace", folder / "trace.json", "--record", folder / "both.wav"]
    assert main([str(a) for a in arguments]) == 0
    return folder


def test_a_spoken_question_gets_a_spoken_answer(asked):
    values = json.loads((asked / "trace.json").read_text())
    jsonschema.validate(values, SCHEMA)
    assert len(values["turns"]) == 2
    for turn in values["turns"]:
        assert "two plus three" in turn["transcript"]
        assert "five" in turn["reply"]
        assert turn["heard"] == turn["reply"]
        assert turn["error"] is None
        assert sum(turn["waterfall"].values()) == pytest.approx(turn["voice_to_voice_s"])
        marks = turn["marks"]
        assert marks["last_voiced"] < marks["end_of_turn"] <= marks["final_transcript"] <= marks["first_audible_sample"]
        assert marks["last_voiced"] < marks["llm_first_token"]  # it may be written before the end of the turn is sure
        assert turn["speculations"] - turn["speculations_dropped"] in (0, 1)
        assert marks["speech_steps"][0]["at"] <= marks["decoder_chunks"][0]["at"]
        made = sum(c["num_samples"] for c in marks["decoder_chunks"])
        assert made == sum(s["num_samples"] for s in marks["speech_steps"])
        assert made == 960 * sum(s["num_speech_tokens"] for s in marks["speech_steps"]) - LEFT_OUT
        assert marks["decoder_chunks"][-1]["token_end"] == len(marks["text_tokens"])


def test_trace_and_recording_agree(asked):
    """The audible gap of the stereo recording is the trace's voice-to-voice."""
    turns = json.loads((asked / "trace.json").read_text())["turns"]
    both, rate = soundfile.read(asked / "both.wav")
    assert both.shape[1] == 2
    for turn in turns:
        first = turn["marks"]["first_audible_sample"]
        right = np.abs(both[:, 1])
        audible = np.flatnonzero(right[round((first - 0.2) * rate) :] > trace_module.AUDIBLE)[0] / rate + first - 0.2
        assert audible == pytest.approx(first, abs=0.002)
        left = np.abs(both[: round(first * rate), 0])
        voiced = np.flatnonzero(left > 0.02)[-1] / rate
        assert voiced == pytest.approx(turn["marks"]["last_voiced"], abs=0.08)


def test_the_answer_is_audio(asked):
    samples, rate = soundfile.read(asked / "answer.wav")
    assert rate == 24_000
    assert np.abs(samples).max() > 0.05
    assert np.isfinite(samples).all()


def test_say_is_the_same_however_the_text_arrives(tmp_path):
    text = "Good morning, how are you? It is nice to see you today."
    assert main(["say", text, "--out", str(tmp_path / "whole.wav")]) == 0
    command = [sys.executable, "launch.py", "say", "-", "--out", str(tmp_path / "typed.wav")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for letter in text:
            os.write(process.stdin.fileno(), letter.encode())
        process.stdin.close()
        assert process.wait(120) == 0
    whole, _ = soundfile.read(tmp_path / "whole.wav")
    typed, _ = soundfile.read(tmp_path / "typed.wav")
    assert len(whole) == len(typed)
    np.testing.assert_allclose(whole, typed, atol=2e-3)


def test_a_model_with_the_papers_mask_speaks(tmp_path):
    folder = tmp_path / "tmt"
    shutil.copytree(tts.ASSETS / "tmt", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mask": "paper"}))
    assert main(["say", "Good morning.", "--out", str(tmp_path / "out.wav"), "--set", f"tts.tmt={folder}"]) == 0
    assert soundfile.info(tmp_path / "out.wav").duration > 0.3


def test_speed_changes_the_length(tmp_path):
    lengths = {}
    for speed in ("0.8", "1.25"):
        path = tmp_path / f"{speed}.wav"
        assert (
            main(["say", "The train leaves at noon from the old station.", "--speed", speed, "--out", str(path)]) == 0
        )
        lengths[speed] = soundfile.info(path).duration
    assert 1.2 < lengths["0.8"] / lengths["1.25"] < 2.2


def test_a_cloned_voice_sounds_different(tmp_path):
    from app.small.judges import voiced_f0

    reference = SAMPLE_QUESTION  # a man; the bundled voice is a woman's
    assert main(["say", "The train leaves at noon.", "--out", str(tmp_path / "own.wav")]) == 0
    assert (
        main(["say", "The train leaves at noon.", "--voice", str(reference), "--out", str(tmp_path / "clone.wav")]) == 0
    )
    pitch = {name: np.median(voiced_f0(*soundfile.read(tmp_path / f"{name}.wav"))) for name in ("own", "clone")}
    assert pitch["clone"] < 0.85 * pitch["own"]


def test_transcribe(capsys):
    assert main(["transcribe", str(SAMPLE_QUESTION)]) == 0
    assert "two plus three" in capsys.readouterr().out


class Terminal(io.StringIO):
    """What a terminal is told."""

    def isatty(self):
        return True


def test_transcribe_shows_how_far_it_is_on_a_terminal(capsys, monkeypatch):
    assert main(["transcribe", str(SAMPLE_QUESTION)]) == 0
    plain = capsys.readouterr()
    assert plain.err == ""
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert main(["transcribe", str(SAMPLE_QUESTION)]) == 0
    assert capsys.readouterr().out == plain.out
    length = soundfile.info(SAMPLE_QUESTION).duration
    assert re.search(rf"transcribe: 100%\|.*\| {length:.0f} of {length:.0f} s of speech", sys.stderr.getvalue())
    assert sys.stderr.getvalue().endswith("\r")  # the bar is gone
    monkeypatch.setattr(sys, "stdout", sys.stderr)
    assert main(["transcribe", str(SAMPLE_QUESTION)]) == 0
    assert f"\r{plain.out}" in sys.stdout.getvalue()  # a line of its own


def test_say_shows_how_far_it_is_on_a_terminal(tmp_path, capsys, monkeypatch):
    arguments = ["say", "Good morning.", "--out", str(tmp_path / "speech.wav")]
    assert main(arguments) == 0
    plain = capsys.readouterr()
    assert plain.err == ""
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert main(arguments) == 0
    length = f"{soundfile.info(tmp_path / 'speech.wav').duration:.1f} s of speech"
    assert length in plain.out
    assert f"say: {length} [" in sys.stderr.getvalue()
    assert sys.stderr.getvalue().endswith("\r")
    assert length in capsys.readouterr().out


def test_say_shows_no_bar_to_who_is_typing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("app.say.typed", lambda: iter(["Good morning."]))
    assert main(["say", "-", "--out", str(tmp_path / "speech.wav")]) == 0
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"),
    [(8_000, 1, "PCM_16"), (96_000, 1, "PCM_16"), (44_100, 2, "PCM_24"), (16_000, 1, "PCM_U8")],
)
def test_any_format_is_read(tmp_path, capsys, rate, channels, subtype):
    from audio_io.resample import resample

    samples, from_hz = soundfile.read(SAMPLE_QUESTION, dtype="float32")
    path = tmp_path / "question.wav"
    soundfile.write(path, np.stack([resample(samples, from_hz, rate)] * channels, 1), rate, subtype=subtype)
    assert main(["transcribe", str(path)]) == 0
    assert capsys.readouterr().out.split()


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "Everything that is needed is there" in out
    for title in ("torch", "vocoder", "language model", "flite"):
        assert title in out
    assert "asr.backend=moonshine" in out


def test_doctor_knows_what_moonshine_needs(monkeypatch, capsys):
    assert main(["doctor", "--set", "asr.backend=moonshine"]) == 0
    assert "recogniser: Moonshine on cpu" in capsys.readouterr().out
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "moonshine_voice" else find(name))
    assert main(["doctor"]) == 0
    assert "--      moonshine-voice: not installed" in capsys.readouterr().out
    assert main(["doctor", "--set", "asr.backend=moonshine"]) == 1
    assert "MISSING moonshine-voice: not installed" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["cut", "text", "gone"])
def test_doctor_sees_weights_that_are_not_whole(damage, tmp_path, monkeypatch, capsys):
    """What ships, in a copy; `weights list` sees the same."""
    (tmp_path / "tts").mkdir()
    for room in ("asr", "llm"):
        (tmp_path / room).symlink_to(ROOT / room)
    shutil.copytree(ROOT / "tts" / "assets", tmp_path / "tts" / "assets")
    monkeypatch.setattr("app.needs.ROOT", tmp_path)
    assert main(["weights", "list"]) == 0
    file = tmp_path / "tts" / "assets" / "vocoder" / "model.safetensors"
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-10] if damage == "cut" else b"this is no model")
    capsys.readouterr()
    assert main(["doctor"]) == 1
    assert "tts.vocoder: restore it from the repository" in capsys.readouterr().out
    assert main(["weights", "list"]) == 1
    assert "1 missing" in capsys.readouterr().out


def test_import_app_is_light():
    heavy = "{'torch', 'gradio', 'vllm', 'sounddevice', 'numba', 'transformers', 'funasr'}"
    code = f"import sys, app, app.session, app.cli, app.talk; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
