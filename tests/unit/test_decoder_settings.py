"""`eval decoder`: every setting decodes every sentence, and the table compares what was heard of the same sentences."""

from types import SimpleNamespace

import numpy as np
import pytest

from app import cli
from app.small import decoder_settings
from app.small.decoder_settings import SETTINGS, Decoded, Setting, decode_all, figures, page
from configs.loader import load


class Voice:
    """Its mel says how many steps and how much guidance it was built with."""

    def __init__(self, tts):
        self.value = tts.num_flow_steps + tts.flow_guidance + sum(tts.first_chunks)

    def speech_tokens(self, samples):
        return np.arange(len(samples) // 960)

    def decode(self, tokens):
        return np.full((1, 80, 2 * len(tokens)), self.value, np.float32)

    def vocode(self, mel):
        return np.full(480 * mel.shape[2], self.value, np.float32)


def test_every_setting_decodes_every_sentence(monkeypatch):
    monkeypatch.setattr(decoder_settings, "build_synthesizer", lambda config: Voice(config.tts))
    found = decode_all(load(None), [np.zeros(9600, np.float32), np.zeros(19200, np.float32)])
    steps = ["10", "4", "2", "1", "10, guidance 0.7", "2, guidance 0.7"]
    assert [setting.name for setting in found] == [
        *steps,
        *(f"2, first chunks {sizes}" for sizes in ("8", "5-5", "3-5")),
    ]
    for setting, made in found.items():
        assert [mel[0, 0, 0] for mel in made.mels] == pytest.approx(
            [setting.num_steps + setting.guidance + sum(setting.first_chunks)] * 2
        )
        assert [len(samples) for samples in made.recordings] == [9600, 19200]
        assert made.seconds > 0


def test_errors_are_compared_over_the_same_sentences():
    items = [SimpleNamespace(text="one two three four"), SimpleNamespace(text="five six")]
    mels = [np.zeros((1, 80, 10)), np.zeros((1, 80, 4))]
    made = {
        setting: Decoded([mel + abs(setting.num_steps - 10) for mel in mels], [np.zeros(12_000)] * 2, 0.25)
        for setting in SETTINGS
    }
    heard = {setting.name: ["one two three four", "five six"] for setting in SETTINGS}
    heard |= {"original": ["one two three four", "five six"], "10": ["one two three four", "five"]}
    heard["1"] = ["one two tree for", "five six"]
    found = figures(items, made, heard)
    assert found["10"]["more_errors"]["rate"] == 0
    assert found["1"]["more_errors"]["rate"] == pytest.approx((2 - 1) / 6)
    assert found["1"]["more_errors"]["low"] <= 1 / 6 <= found["1"]["more_errors"]["high"]
    assert found["2"]["more_errors"]["rate"] == pytest.approx(-1 / 6)
    assert found["4"]["mel_distance"] == pytest.approx(6)
    assert found["4"]["rtf"] == pytest.approx(0.25)
    config = {"tts": {"flow": "bundled", "vocoder": "bundled", "flow_temperature": 0.6}}
    run = {"sentences": 2, "judge": "x", "threads": 1, "machine": "m", "packages": {"torch": "t"}, "config": config}
    lines = page({"about": run, "figures": found}).splitlines()
    assert "| 1 | 33.3 %" in next(line for line in lines if line.startswith("| 1 |"))
    assert sum(line.startswith("|") for line in lines) == 3 + len(SETTINGS)


def test_one_sentence_has_no_interval(capsys):
    assert cli.main(["eval", "decoder", "--limit", "1"]) == 2
    assert "--limit 1" in capsys.readouterr().err
    assert Setting(2).name == "2"
