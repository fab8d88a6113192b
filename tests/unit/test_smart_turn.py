"""Smart Turn's ONNX file as a judge of turn ends: a stand-in with its inputs and outputs."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import asr
from asr.base import SAMPLE_RATE, RecognizerError
from asr.smart_turn import HEARD_S, SmartTurn
from configs.schema import AsrConfig, EndpointConfig, RuntimeConfig

FRAMES = 100 * HEARD_S


def write(path, name="input_features", frames=FRAMES, gain=4.0, last=20):
    """A model that finds a turn over when the mean of the `last` frames is low: sigmoid(-gain * mean)."""
    weights = np.zeros((1, 80, frames), np.float32)
    weights[:, :, -last:] = -gain / (80 * last)
    graph = helper.make_graph(
        [
            helper.make_node("Mul", [name, "weights"], ["weighed"]),
            helper.make_node("ReduceSum", ["weighed", "axes"], ["sum"], keepdims=0),
            helper.make_node("Sigmoid", ["sum"], ["probability"]),
            helper.make_node("Unsqueeze", ["probability", "last"], ["logits"]),
        ],
        "stand-in",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 80, frames])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(np.array([1], np.int64), "last"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    onnx.save(made, path)
    return path


def voice(seconds, silence_s=0.0):
    noise = np.random.default_rng(1).normal(0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)
    return np.concatenate([noise, np.zeros(round(silence_s * SAMPLE_RATE), np.float32)])


@pytest.mark.parametrize("seconds", [0.05, 1.0, 7.9, 12.0])
def test_the_end_of_what_was_heard_is_at_the_end_of_the_window(tmp_path, seconds):
    judge, speech = SmartTurn(write(tmp_path / "model.onnx")), voice(seconds)
    assert judge.log_odds(voice(seconds, 0.3), len(speech)) > judge.log_odds(speech, len(speech)) + 1


def test_what_is_older_than_it_hears_does_not_count_and_it_is_never_quite_sure(tmp_path):
    judge, speech = SmartTurn(write(tmp_path / "model.onnx", gain=1000.0)), voice(HEARD_S, 0.3)
    before = np.concatenate([np.full(SAMPLE_RATE, 0.9, np.float32), speech])
    assert judge.log_odds(before, len(before)) == judge.log_odds(speech, len(speech)) == pytest.approx(9.21, abs=0.01)


def test_an_empty_turn_is_judged(tmp_path):
    assert np.isfinite(SmartTurn(write(tmp_path / "model.onnx")).log_odds(np.zeros(0, np.float32), 0))


def test_a_file_that_is_none_is_told(tmp_path):
    with pytest.raises(RecognizerError, match=r"there is no file .*pipecat-ai/smart-turn-v3"):
        SmartTurn(tmp_path / "model.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(RecognizerError, match="no whole ONNX file"):
        SmartTurn(tmp_path / "text.onnx")
    cut = write(tmp_path / "cut.onnx")
    cut.write_bytes(cut.read_bytes()[:-500])
    with pytest.raises(RecognizerError, match="no whole ONNX file"):
        SmartTurn(cut)
    for name, frames in (("features", FRAMES), ("input_features", 3000)):
        with pytest.raises(RecognizerError, match="another model"):
            SmartTurn(write(tmp_path / "other.onnx", name, frames))


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, "SmartTurn"),
        ({"backend": "moonshine"}, "SmartTurn"),
        ({"sound": "never"}, "NoneType"),
        ({"smart_turn": ""}, "TurnSound"),
        ({"smart_turn": "", "backend": "moonshine"}, "NoneType"),
    ],
)
def test_it_is_asked_where_it_is_named(tmp_path, monkeypatch, settings, wanted):
    values = {"smart_turn": str(write(tmp_path / "model.onnx"))} | settings
    backend = values.pop("backend", "paraformer")
    monkeypatch.setattr(asr, "_reader", lambda config, runtime: None)
    config = AsrConfig(backend=backend, endpoint=EndpointConfig(**values))
    recognizer = asr.build(config, RuntimeConfig(device="cpu"))
    assert type(recognizer._options.endpoint.ear).__name__ == wanted
