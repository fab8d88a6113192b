import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from app import trace as trace_module
from app.trace import (
    STAGES,
    DecoderChunkMark,
    SpeechStepMark,
    TextTokenMark,
    TurnTrace,
    first_audible,
    waterfall_line,
    write_json,
)

SCHEMA = json.loads((Path(trace_module.__file__).parent / "trace.schema.json").read_text())


def complete_turn():
    turn = TurnTrace(turn=1, transcript="how are you", reply="Fine.", heard="Fine.")
    marks = turn.marks
    marks.last_voiced, marks.end_of_turn, marks.final_transcript, marks.llm_first_token = 1.0, 1.3, 1.35, 1.4
    marks.text_tokens = [
        TextTokenMark(index=0, id=7, text="Fine", at=1.4),
        TextTokenMark(index=1, id=8, text=".", at=1.5),
    ]
    marks.speech_steps = [
        SpeechStepMark(text_token=0, num_speech_tokens=10, num_samples=9600, token_end=1, synth_ms=5.0, at=1.52),
        SpeechStepMark(text_token=1, num_speech_tokens=4, num_samples=3840, token_end=2, synth_ms=5.0, at=1.53),
    ]
    marks.decoder_chunks = [
        DecoderChunkMark(num_speech_tokens=14, num_samples=14 * 960, token_end=2, synth_ms=20.0, at=1.56, plays_at=1.58)
    ]
    marks.first_audible_sample, marks.last_sample, marks.llm_done = 1.62, 2.14, 1.5
    return turn


def test_the_stages_sum_to_voice_to_voice():
    turn = complete_turn()
    assert turn.voice_to_voice_s == pytest.approx(0.62)
    assert tuple(turn.waterfall) == STAGES
    assert sum(turn.waterfall.values()) == pytest.approx(turn.voice_to_voice_s)
    assert turn.waterfall["end_of_turn_s"] == pytest.approx(0.3)
    assert turn.waterfall["text_to_token_s"] == pytest.approx(0.13)
    assert turn.waterfall["output_s"] == pytest.approx(0.06)
    assert "voice-to-voice 620 ms = end of turn 300" in waterfall_line(turn)


@pytest.mark.parametrize("turn", [complete_turn(), TurnTrace(turn=2, transcript="x", error="the model stopped")])
def test_the_file_follows_its_schema(tmp_path, turn):
    path = tmp_path / "trace.json"
    write_json(path, [turn], {"machine": "m", "python": "3", "packages": {}, "config": {}})
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    assert list(tmp_path.iterdir()) == [path]


def test_a_stage_that_never_was_took_no_time():
    """An apology is spoken where the language model fails before its first word."""
    turn = complete_turn()
    turn.marks.llm_first_token = None
    assert tuple(turn.waterfall) == STAGES
    assert turn.waterfall["llm_first_token_s"] == 0.0
    assert sum(turn.waterfall.values()) == pytest.approx(turn.voice_to_voice_s)
    turn.marks.speech_steps.clear()
    assert sum(turn.waterfall.values()) == pytest.approx(turn.voice_to_voice_s)
    assert waterfall_line(turn).startswith("turn 1  voice-to-voice 620 ms")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "trace.json").mkdir()
    with pytest.raises(OSError, match=r"trace\.json"):
        write_json(tmp_path / "trace.json", [complete_turn()], {})
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


def test_the_schema_rejects_what_is_missing_or_unknown(tmp_path):
    turn = complete_turn().to_json()
    about = {"machine": "m", "python": "3", "packages": {}, "config": {}}
    for broken in ({k: v for k, v in turn.items() if k != "waterfall"}, {**turn, "extra": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"about": about, "turns": [broken]}, SCHEMA)


def test_a_turn_without_a_reply_has_no_figure():
    turn = TurnTrace(turn=1, transcript="x")
    assert turn.voice_to_voice_s is None
    assert turn.waterfall is None
    assert "no audible reply" in waterfall_line(turn)


def test_what_was_made_before_the_turn_was_over_costs_no_time_after_it():
    turn = complete_turn()
    marks = turn.marks
    marks.end_of_turn, marks.final_transcript = 1.57, 1.575  # after the first chunk was made
    assert list(turn.waterfall.values()) == pytest.approx([0.57, 0.005, 0.0, 0.0, 0.0, 0.045])
    marks.end_of_turn, marks.final_transcript = 1.45, 1.45  # after the first word
    assert list(turn.waterfall.values()) == pytest.approx([0.45, 0.0, 0.0, 0.08, 0.03, 0.06])


def test_first_audible_skips_silence_and_faint_noise():
    samples = np.zeros(1000, np.float32)
    samples[100:] = 0.001
    assert first_audible(samples) is None
    samples[400] = -0.1
    assert first_audible(samples) == 400
