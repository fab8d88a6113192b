"""`bench tts`: what random weights are made to say, and what is computed from the times."""

import json

import pytest
import torch

import tts
from app import cli
from app.bench import text_to_token
from app.bench.contestants import ASSUMED, BASELINE, SPEECH_PER_TEXT, TMT, VADUSA, untrained
from app.bench.text_to_token import Step, first_packet, measure, page, play, ratios, window_cost
from configs.schema import InterleavedTtsConfig
from tts.interleaved.config import InterleavedConfig
from tts.interleaved.tree import grow
from tts.tmt.config import TmtConfig


def tiny(**knobs):
    return untrained(
        TmtConfig(text_vocab_size=50, num_speech_tokens=200, dim=32, num_layers=1, num_heads=2, ff_dim=32),
        InterleavedConfig(
            text_vocab_size=50, num_speech_tokens=200, dim=32, num_layers=1, num_heads=2, num_kv_heads=2, ff_dim=32
        ),
        torch.device("cpu"),
        InterleavedTtsConfig(**knobs),
    )


def test_random_weights_speak_as_long_as_real_speech(monkeypatch):
    monkeypatch.setattr(text_to_token, "LONG_TEXT", 60)
    field = tiny()
    found = measure(field, 6)
    plain, drafted, tmt = found[BASELINE], found[VADUSA], found[TMT]
    assert plain["speech_s"] == drafted["speech_s"]
    assert tmt["speech_s"] == pytest.approx(plain["speech_s"], rel=0.25)
    assert plain["tokens_per_pass"] == pytest.approx(1)
    assert plain["accepted"] == 0
    assert tmt["tokens_per_pass"] > 0.6 * SPEECH_PER_TEXT
    assert 0.6 * grow(ASSUMED, 64, 4).expected(ASSUMED) < drafted["accepted"] < 2.4
    assert drafted["tokens_per_pass"] > 1.8
    values = {
        "about": dict.fromkeys(("size", "machine", "device", "threads", "num_texts", "weights"), ""),
        "figures": found,
        "ratios": ratios(found),
    }
    assert set(values["ratios"]) == {
        "rtf_interleaved_over_tmt",
        "fpl_a_interleaved_over_tmt",
        "rtf_interleaved_over_vadusa",
    }
    assert all(name in page(json.loads(json.dumps(values))) for name in (*found, *values["ratios"]))


def test_more_heads_and_nodes_are_accepted_more_often():
    accepted = []
    for knobs in ({"num_heads": 4, "nodes": 8}, {"num_heads": 6, "nodes": 128}):
        drafted = tiny(**knobs).contestants[1]
        played = play(drafted, range(40), 0)
        accepted.append(played.num_accepted / played.num_drafted)
    assert 0.5 < accepted[0] < accepted[1]


def test_text_is_handed_over_when_it_is_needed():
    plain, _, tmt = tiny().contestants
    assert [step.num_text for step in play(plain, range(12), 0).steps][:3] == [5, 10, 12]
    played = play(tmt, range(6), 0)
    assert [step.num_text for step in played.steps] == [2, 3, 4, 5, 6, 6]
    assert played.num_passes == 7


def test_first_packet_latency():
    steps = [Step(2, 0.010, 6), Step(3, 0.002, 6), Step(4, 0.002, 6), Step(5, 9.0, 6)]
    assert first_packet(steps, 0.0, pipelined=False) == pytest.approx(0.014)
    assert first_packet(steps, 0.025, pipelined=False) == pytest.approx(0.050 + 0.014)
    assert first_packet(steps, 0.025, pipelined=True) == pytest.approx(0.102)
    assert first_packet(steps[:1], 0.025, pipelined=True) == pytest.approx(0.060)


def test_cost_of_a_part_of_the_speech():
    steps = [Step(1, 0.1, 25), Step(2, 0.2, 25), Step(3, 0.3, 50)]
    assert window_cost(steps, 0.0, 2.0) == pytest.approx(0.15)
    assert window_cost(steps, 2.0, 9.0) == pytest.approx(0.15)
    assert window_cost(steps, 1.0, 9.0) == pytest.approx(0.5 / 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--texts", "0"], "--texts 0"), (["--grid"], "train small interleaved vadusa"), (["--device", "cuda"], "no GPU")],
)
def test_bad_input_is_told_in_one_line(arguments, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tts, "ASSETS", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "tts", "--report", str(tmp_path / "report"), *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "report").exists()
