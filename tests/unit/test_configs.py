import dataclasses

import pytest

from configs.loader import DEFAULTS, load
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
