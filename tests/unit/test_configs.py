import dataclasses

import pytest

from app import cli
from app.small.plan import SmallTraining
from configs.loader import DEFAULTS, load, load_as
from configs.schema import AppConfig, ConfigError


def knobs(kind=AppConfig, prefix=""):
    for field in dataclasses.fields(kind):
        yield f"{prefix}{field.name}", field
        if dataclasses.is_dataclass(field.type):
            yield from knobs(field.type, f"{prefix}{field.name}.")


def test_every_knob_has_a_line_of_documentation():
    undocumented = [name for name, field in knobs() if not field.metadata.get("doc")]
    assert not undocumented


@pytest.mark.parametrize("path", sorted(DEFAULTS.glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_files_load(path):
    assert isinstance(load(path), AppConfig)


def test_settings_win_over_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("tts:\n  speed: 1.5\n  lookahead: 2\n")
    config = load(file, ["tts.speed=1.1", "asr.endpoint.min_silence_ms=300"])
    assert (config.tts.speed, config.tts.lookahead, config.asr.endpoint.min_silence_ms) == (1.1, 2, 300)


def test_whole_number_serves_where_a_number_is_asked():
    assert load(None, ["tts.speed=1"]).tts.speed == 1.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["tts.sped=1.1"], ["tts.sped", "did you mean tts.speed"]),
        (["tt.speed=1.1"], ["tt", "did you mean tts"]),
        (["tts.speed=fast"], ["tts.speed", "'fast'", "number"]),
        (["tts.lookahead=1.5"], ["tts.lookahead", "whole number"]),
        (["tts.lookahead=true"], ["tts.lookahead", "whole number"]),
        (["llm.engine=onnx"], ["llm.engine", "transformers"]),
        (["tts=3"], ["tts", "section"]),
        (["tts.speed"], ["section.key=value"]),
        (["tts.speed.x=1"], ["tts.speed"]),
        (["runtime.num_threads=0"], ["runtime.num_threads is 0", "at least 1"]),
        (["tts.seed=-1"], ["tts.seed is -1", "at least 0"]),
        (["audio.max_ahead_s=-0.5"], ["audio.max_ahead_s is -0.5", "at least 0"]),
        (["audio.max_ahead_s=.nan"], ["audio.max_ahead_s", "at least 0"]),
        (["tts.flow_guidance=-2"], ["tts.flow_guidance", "at least -1"]),
        (["tts.num_flow_steps=0"], ["tts.num_flow_steps", "at least 1"]),
        (["llm.max_reply_tokens=0"], ["llm.max_reply_tokens", "at least 1"]),
        (["tts.duration_top_k=0"], ["tts.duration_top_k", "at least 1"]),
    ],
)
def test_mistakes_are_told_in_one_line(settings, words):
    with pytest.raises(ConfigError) as error:
        load(None, settings)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


SMALL = DEFAULTS / "train" / "small.yaml"


def test_settings_change_a_plan_of_training():
    plan = load_as(SmallTraining, SMALL, ["tmt.steps=7", "tmt_mask=paper", "tmt.betas=[0.5, 0.6]"])
    assert (plan.tmt.steps, plan.tmt_mask, plan.tmt.betas) == (7, "paper", (0.5, 0.6))
    assert plan.flow == load_as(SmallTraining, SMALL).flow


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("tmt.stepps=7", ["small.yaml with --set-plan", "tmt.stepps", "did you mean tmt.steps"]),
        ("tmt.steps=many", ["tmt.steps is 'many'", "whole number"]),
        ("tmt.steps=0", ["tmt.steps is 0", "at least 1"]),
        ("tmt.warmup_steps=0", ["tmt.warmup_steps is 0", "at least 1"]),
        ("tmt_mask=none", ["tmt_mask", "prefix, paper"]),
        ("tmt.steps", ["--set-plan tmt.steps:", "for example --set-plan tmt.steps=1000"]),
        ("tmt.steps.x=1", ["--set-plan tmt.steps.x=1", "is a value"]),
    ],
)
def test_mistakes_in_a_plan_are_told_in_one_line(setting, words, capsys, monkeypatch):
    monkeypatch.setattr("app.small.pipeline.keep_memory", lambda: None)  # it would begin pytest anew
    assert cli.main(["train", "small", "speaker", "--set-plan", setting]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for word in words:
        assert word in error


def test_what_a_plan_lacks_is_named(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text("".join(f"{line}\n" for line in SMALL.read_text().splitlines() if "steps: 2400" not in line))
    with pytest.raises(ConfigError, match=r"plan\.yaml: flow_encoder\.steps must be given"):
        load_as(SmallTraining, file)


@pytest.mark.parametrize("what", ["small", "tmt", "student"])
def test_the_commands_that_train_take_their_plan_by_the_same_options(what):
    data = [] if what == "small" else ["--data", "speech"]
    given = ["--plan", "p.yaml", "--set-plan", "a.b=1", "--set-plan", "c=2"]
    options = cli.parser().parse_args(["train", what, *data, *given])
    assert (options.plan.name, options.plan_settings) == ("p.yaml", ["a.b=1", "c=2"])
    options = cli.parser().parse_args(["train", what, *data, "--config", "c.yaml", "--set", "a.b=1"])
    if what == "student":  # these are the assistant's configuration, which reads the recordings
        assert (options.config.name, options.settings, options.plan, options.plan_settings) == (
            "c.yaml", ["a.b=1"], None, []
        )  # fmt: skip
    else:
        assert (options.plan.name, options.plan_settings) == ("c.yaml", ["a.b=1"])


@pytest.mark.parametrize(
    ("content", "word"), [("tts: [1, 2", "YAML"), ("- 1\n", "sections"), ("tts: 3\n", "section"), ("\xff\xfe", "YAML")]
)
def test_broken_files(tmp_path, content, word):
    file = tmp_path / "broken.yaml"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=word if content != "\xff\xfe" else "read|YAML|sections"):
        load(file)


def test_missing_file_names_the_shipped_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"tiny\.yaml"):
        load(tmp_path / "nothing.yaml")


def test_an_empty_file_is_the_defaults(tmp_path):
    file = tmp_path / "empty.yaml"
    file.write_text("")
    assert load(file) == AppConfig()
