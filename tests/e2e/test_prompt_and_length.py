"""A wanted length, and a voice that goes on from what its recording says, through the command line."""

import json

import numpy as np
import pytest
import soundfile

from app.ask import SAMPLE_QUESTION
from app.cli import main

TEXT = "The train leaves at noon."


def test_the_file_lasts_as_long_as_it_should(tmp_path):
    out, times = tmp_path / "out.wav", tmp_path / "times.json"
    assert main(["say", TEXT, "--length", "2.2", "--out", str(out), "--timestamps", str(times)]) == 0
    assert soundfile.info(out).duration == pytest.approx(2.2, abs=0.021)
    assert json.loads(times.read_text())["tokens"][-1]["end"] == pytest.approx(
        2.19
    )  # 56 speech tokens without the first 50 ms


def test_a_voice_goes_on_from_what_it_says(tmp_path, capsys):
    """The prompt counts in no time stamp, and the speech is another one."""
    said = {}
    for name, options in (("sound", []), ("prosody", ["--voice-text", "What is two plus three?"])):
        out, times = tmp_path / f"{name}.wav", tmp_path / f"{name}.json"
        voice = ["--voice", str(SAMPLE_QUESTION), "--out", str(out), "--timestamps", str(times)]
        assert main(["say", TEXT, *voice, *options]) == 0
        words = json.loads(times.read_text())["words"]
        assert [word["text"] for word in words] == ["The", "train", "leaves", "at", "noon."]
        tokens = json.loads(times.read_text())["tokens"]
        assert tokens[0]["start"] < 0.1
        assert tokens[0]["text"] == "The"
        assert soundfile.info(out).duration == pytest.approx(tokens[-1]["end"])
        said[name] = soundfile.read(out)[0]
        assert "only its sound" not in capsys.readouterr().err
    size = min(map(len, said.values()))
    assert not np.allclose(said["sound"][:size], said["prosody"][:size], atol=0.01)


def test_words_that_are_not_in_the_recording_are_told_in_one_line(tmp_path, caplog):
    voice = ["--voice", str(SAMPLE_QUESTION), "--voice-text", "Good evening, how have you been since yesterday?"]
    assert main(["say", "Yes.", *voice, "--out", str(tmp_path / "out.wav")]) == 0
    (line,) = [message for message in caplog.messages if "is left out" in message]
    assert line.startswith(f"{SAMPLE_QUESTION}: the voice's text 'Good evening")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-", "--length", "3"], "--length 3 needs the whole text"),
        (["-", "--two-pass"], "--two-pass needs the whole text"),
        ([TEXT, "--length", "0"], "above 0"),
        ([TEXT, "--length", "nan"], "above 0"),
        ([TEXT, "--length", "3", "--speed", "1.1"], "leave out --speed"),
        ([TEXT, "--length", "3", "--set", "tts.feeding=sentence"], "tts.feeding=token"),
        ([TEXT, "--length", "3", "--set", "tts.backend=interleaved"], "no durations"),
        ([TEXT, "--two-pass", "--set", "tts.backend=interleaved"], "no durations"),
        ([TEXT, "--length", "60"], "choose a length between"),
        ([TEXT, "--voice-text", "Hello."], "--voice REF.wav"),
        ([TEXT, "--voice", "a.wav", "--voice-text", " "], "--voice-text is empty"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(tmp_path, capsys, arguments, message):
    assert main(["say", *arguments, "--out", str(tmp_path / "out.wav")]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
