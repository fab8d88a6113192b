"""`say --timestamps` with the bundled models."""

import itertools
import json
import re

import numpy as np
import pytest
import soundfile

from app.cli import main
from tts.base import PcmChunk, SpeechStep

TEXT = "Good morning, how are you today? I have 25 books."
SPOKEN = "Good morning, how are you today? I have twenty five books.".split()
AUDIBLE = 0.005


def say(folder, name, *options, text=TEXT):
    out, times = folder / f"{name}.wav", folder / f"{name}.json"
    assert main(["say", text, "--out", str(out), "--timestamps", str(times), *options]) == 0
    samples, rate = soundfile.read(out)
    return json.loads(times.read_text("utf-8")), samples, rate


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    return say(tmp_path_factory.mktemp("said"), "plain")


def test_times_are_in_order_and_inside_the_file(said):
    values, samples, rate = said
    for items in values.values():
        edges = [edge for item in items for edge in (item["start"], item["end"])]
        assert edges == sorted(edges)
        assert edges[0] >= 0.0
        assert edges[-1] <= len(samples) / rate
    assert values["tokens"][-1]["end"] == pytest.approx(len(samples) / rate)
    assert [word["text"] for word in values["words"]] == SPOKEN
    assert "".join(token["text"] for token in values["tokens"]).split() == SPOKEN


def test_the_last_word_ends_with_the_sound(said):
    values, samples, rate = said
    heard = np.flatnonzero(np.abs(samples) > AUDIBLE) / rate
    assert values["words"][-1]["end"] == pytest.approx(heard[-1], abs=0.08)
    assert values["words"][0]["start"] == pytest.approx(heard[0], abs=0.08)


def test_a_pause_between_words_is_silent(said):
    values, samples, rate = said
    words = values["words"]
    before, after = next((a, b) for a, b in itertools.pairwise(words) if a["text"] == "today?")
    assert after["start"] - before["end"] >= 0.08
    pause = samples[round((before["end"] + 0.02) * rate) : round((after["start"] - 0.02) * rate)]
    spoken = samples[round(before["start"] * rate) : round(before["end"] * rate)]
    assert np.sqrt(np.mean(pause**2)) < 0.2 * np.sqrt(np.mean(spoken**2))


def test_speed_stretches_the_times(tmp_path):
    ends = {}
    for speed in ("0.8", "1.25"):
        values, samples, rate = say(tmp_path, speed, "--speed", speed)
        assert values["tokens"][-1]["end"] == pytest.approx(len(samples) / rate)
        ends[speed] = np.array([word["end"] for word in values["words"]])
    assert (ends["0.8"] > ends["1.25"]).all()
    assert 1.2 < ends["0.8"][-1] / ends["1.25"][-1] < 2.2


def test_webvtt(tmp_path):
    times = tmp_path / "times.VTT"
    assert main(["say", "Hello there.", "--out", str(tmp_path / "a.wav"), "--timestamps", str(times)]) == 0
    header, *cues = times.read_text("utf-8").strip().split("\n\n")
    assert header == "WEBVTT"
    assert [cue.split("\n")[1] for cue in cues] == ["Hello", "there."]
    assert all(re.fullmatch(r"00:00:0\d\.\d{3} --> 00:00:0\d\.\d{3}", cue.split("\n")[0]) for cue in cues)


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("times.txt", [], ".vtt"),
        ("times", [], ".json"),
        ("nowhere/times.json", [], "cannot be written"),
        ("out.json", [], "same name"),
        ("times.json", ["--set", "tts.backend=interleaved"], "no durations"),
        ("times.json", ["--set", "tts.tmt=/nowhere"], "/nowhere"),
    ],
)
def test_nothing_is_left_behind_when_it_fails(tmp_path, capsys, name, settings, told):
    out = tmp_path / ("out.json" if name == "out.json" else "out.wav")
    code = main(["say", "Hello.", "--out", str(out), "--timestamps", str(tmp_path / name), *settings])
    assert code == (1 if "/nowhere" in told else 2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert told in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_blocks_that_were_cut_are_told(tmp_path, capsys, monkeypatch):
    def speak(*_):
        for capped in (True, False, True):
            yield SpeechStep(
                text_token=0, num_speech_tokens=1, num_samples=960, token_end=0, synth_ms=1.0, text="a", capped=capped
            )
        yield PcmChunk(
            samples=np.full(2880, 0.1, np.float32), token_end=1, num_speech_tokens=3, synth_ms=1.0, last=True
        )

    monkeypatch.setattr("app.say.speak", speak)
    say(tmp_path, "cut")
    assert "2 text tokens were cut" in capsys.readouterr().err


def test_a_text_without_speech_leaves_nothing(tmp_path, capsys):
    arguments = ["say", "***", "--out", str(tmp_path / "a.wav"), "--timestamps", str(tmp_path / "a.json")]
    assert main(arguments) == 2
    assert "nothing to speak" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
