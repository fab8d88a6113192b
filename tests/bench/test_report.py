"""The command: what it plays, compares and writes. Stand-ins on a simulated clock; no figure is a measurement."""

import json

import jsonschema
import numpy as np
import pytest
import soundfile

from app.bench import baseline, metrics
from app.bench.run import pace_verdict
from app.cli import main
from tests.e2e.test_usage import SCHEMA


def bench(folder, *options, simulate="all", limit=3):
    """Run the command; its exit code and report.json."""
    arguments = ["bench", "latency", "--virtual", "--check", "0", "--simulate", simulate, "--report", folder]
    code = main([str(a) for a in (*arguments, "--limit", limit, *options)])
    return code, json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Token by token against sentences, with a noisy and an interrupted case in a folder of one's own."""
    folder = tmp_path_factory.mktemp("bench")
    rng = np.random.default_rng(0)
    cases = folder / "cases"
    cases.mkdir()
    tone = 0.3 * np.sin(np.arange(16_000) * 0.12)
    hush = np.zeros(8_000)
    for name, samples in {
        "plain": (hush, tone, hush),
        "noisy": (hush, tone, hush),
        "broken": (hush, tone, hush[:4_000], tone, hush),
        "spoken_over": (hush, tone, hush),
        "stop": (tone,),
    }.items():
        whole = np.concatenate(samples)
        whole = whole + rng.normal(0, 0.003, len(whole)) * (name == "noisy")
        soundfile.write(cases / f"{name}.wav", whole, 16_000)
    (cases / "broken.json").write_text(json.dumps({"text": "what is", "pauses": [[1.5, 1.75]]}))
    (cases / "spoken_over.json").write_text(
        json.dumps({"text": "tell me", "interruption": {"file": "stop.wav", "text": "stop", "after_s": 0.8}})
    )
    options = ("--cases", cases, "--sweep", "tts.feeding=token,sentence", "--repeats", 2)
    code, values = bench(folder / "report", *options, limit=9)
    return folder / "report", code, values


def test_everything_is_played_to_everybody(compared):
    _, code, values = compared
    assert code == 0
    assert values["about"]["cases"] == 4  # the interruption is no case of its own
    for variant in values["variants"].values():
        held = sorted((c["case"], c["repeat"]) for c in variant["conversations"])
        assert held == [(name, r) for name in ("broken", "noisy", "plain", "spoken_over") for r in (0, 1)]
        assert all(turn["disagreement"] is None for turn in variant["turns"])
        assert all(c["replies"] == c["expected_replies"] for c in variant["conversations"])
        assert [t["key"] for t in variant["turns"] if t["cold"]] == [variant["turns"][0]["key"]]
        assert variant["figures"]["barge_in_stop"]["count"] == 2


def test_recordings_are_stereo_and_traces_keep_the_contract(compared):
    folder, _, values = compared
    for variant in values["variants"].values():
        for files in variant["files"].values():
            both, _ = soundfile.read(folder / files["recording"])
            assert both.shape[1] == 2
            assert np.abs(both).max(0).min() > 0.05
            jsonschema.validate(json.loads((folder / files["trace"]).read_text()), SCHEMA)


def test_stages_sum_and_what_waits_for_sentences_is_slower(compared):
    _, _, values = compared
    for variant in values["variants"].values():
        for turn in variant["turns"]:
            assert sum(turn["stages"].values()) == pytest.approx(turn["voice_to_voice_s"], abs=0.020)
    (long,) = [c for c in values["comparisons"] if "two sentences" in c["title"]]
    assert (long["first"], long["second"]) == ("tts.feeding=token", "tts.feeding=sentence")
    assert 1.5 < long["low"] <= long["value"] <= long["high"]


def test_the_three_forms_say_the_same_and_what_it_was_measured_on(compared):
    folder, _, values = compared
    markdown, page = ((folder / f"report.{kind}").read_text() for kind in ("md", "html"))
    median = values["variants"]["tts.feeding=sentence"]["figures"]["voice_to_voice_p50"]["text"]
    for text in (markdown, page):
        assert median in text
        assert "SIMULATED" in text
        assert "tts.feeding=sentence" in text
        assert values["about"]["machine"] in text
        assert values["about"]["python"] in text
        assert "none (simulated)" in text
    assert page.count("<svg") == 6  # waterfall, distribution, two turns, cost, comparison
    assert page.count(">simulated<") + page.count("<!-- simulated -->") >= 6
    assert "<script" not in page
    assert "<img" not in page
    assert "<link" not in page


def test_a_slower_stage_is_found_and_the_same_run_is_not(tmp_path):
    plain = ("--set", "asr.endpoint.speculation=none")  # or the pause hides what became slower
    _, before = bench(tmp_path / "before", *plain, limit=8)
    again = (*plain, "--baseline", tmp_path / "before" / "report.json")
    assert bench(tmp_path / "same", *again, limit=8)[1]["baseline"] == ["nothing became slower beyond noise"]
    _, values = bench(tmp_path / "slow", *again, simulate="all,llm_first_token_ms=180", limit=8)
    found = [line for line in values["baseline"] if "slower by 100 ms" in line]
    assert any("voice-to-voice" in line for line in found)
    assert any("llm first token" in line for line in found)
    assert not any("decoder" in line for line in values["baseline"])
    assert any("simulated stages differ" in line for line in values["baseline"])
    values["about"]["machine"] = "a faster one"
    assert "another machine" in baseline.slower(before, values)[0]


def test_two_configurations_and_several_conversations_at_once(tmp_path):
    for name, silence in (("a", 300), ("b", 300)):
        (tmp_path / f"{name}.yaml").write_text(f"asr: {{endpoint: {{complete_silence_ms: {silence}}}}}\n")
    files = (tmp_path / "a.yaml", tmp_path / "b.yaml")
    code, values = bench(tmp_path / "out", "--compare", *files, "--sessions", 3)
    assert code == 0
    assert list(values["variants"]) == ["a", "b"]
    assert values["about"]["sessions"] == 3
    assert all(len(variant["conversations"]) == 3 for variant in values["variants"].values())
    (whole,) = [c for c in values["comparisons"] if c["title"] == "voice-to-voice"]
    assert whole["value"] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--simulate", "llm_speed=3"),
        ("--simulate", "llm_token_ms=fast"),
        ("--simulate", "llm_token_ms=-1"),
        ("--simulate", ","),
        ("--sweep", "tts.feeding"),
        ("--sweep", "tts.feeding=token"),
        ("--sweep", "tts.feedings=token,sentence"),
        ("--sessions", "0"),
        ("--cases", "/no/such/folder"),
        ("--cases", "."),
        ("--baseline", "/no/such/report.json"),
        ("--baseline", "README.md"),
        ("--compare", "configs/tiny.yaml"),
        ("--compare", "configs/tiny.yaml", "configs/tiny.yaml"),
        ("--compare", "configs/tiny.yaml", "a.yaml", "--sweep", "tts.feeding=token,sentence"),
    ],
)
def test_bad_input_is_one_line(wrong, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("no report")
    assert main(["bench", "latency", "--virtual", "--report", str(tmp_path / "out"), *wrong]) == 2
    told = capsys.readouterr().err
    assert told.startswith("bench: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"keyword": []}', '{"pauses": [1]}', '{"interruption": {}}', '{"interruption": "stop.wav"}']
)
def test_bad_expectations_name_their_file(content, tmp_path, capsys):
    soundfile.write(tmp_path / "question.wav", 0.1 * np.ones(16_000), 16_000)
    (tmp_path / "question.json").write_text(content)
    assert main(["bench", "latency", "--cases", str(tmp_path), "--report", str(tmp_path / "out")]) == 2
    assert "question.json" in capsys.readouterr().err


def test_intervals_hold_the_truth_as_often_as_they_say_and_shrink_with_more_cases():
    rng = np.random.default_rng(0)
    found = [metrics.estimate(list(rng.normal(1.0, 0.1, 30)), metrics.mean) for _ in range(40)]
    assert all(e.low <= e.value <= e.high for e in found)
    assert 34 <= sum(e.low <= 1.0 <= e.high for e in found) <= 40
    many = metrics.estimate(list(rng.normal(1.0, 0.1, 1000)), metrics.mean)
    assert many.high - many.low < (found[0].high - found[0].low) / 3
    assert metrics.estimate([], metrics.p50) is None
    doubled = metrics.ratio([("a", 0.1, 0.2), ("b", 0.3, 0.6)])
    assert (doubled.low, doubled.value, doubled.high) == pytest.approx((2, 2, 2))


def test_paces_that_differ_are_called_so():
    assert pace_verdict([(0.50, 0.48), (0.60, 0.61)])["agree"]
    apart = pace_verdict([(0.70, 0.50), (0.80, 0.60)])
    assert not apart["agree"]
    assert "DISAGREE" in apart["text"]
