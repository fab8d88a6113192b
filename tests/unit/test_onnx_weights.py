"""The public ONNX files: exported as their publishers did it, read as data, proven against the golden vectors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.parity.golden import Golden
from tests.public_folder import SPEAKER, ExportedTokenizer, export
from tts import checkpoint, public
from tts.base import CheckpointError
from tts.speaker import SpeakerEncoder
from tts.tokenizer import SpeechTokenizer

GOLDEN = Golden()


def filled(model: Any, name: str) -> Any:
    state = GOLDEN.weights(name)
    checkpoint.load_into(model, {n: v.float() if v.is_floating_point() else v for n, v in state.items()}, name)
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer() -> SpeechTokenizer:
    return filled(SpeechTokenizer(GOLDEN.speech_tokenizer()), "s3tok_weights")


@pytest.fixture(scope="module")
def speaker() -> SpeakerEncoder:
    return filled(SpeakerEncoder(GOLDEN.speaker()), "campplus_weights")


@pytest.fixture(scope="module")
def files(tokenizer: SpeechTokenizer, speaker: SpeakerEncoder, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("CosyVoice2-0.5B")
    export(
        ExportedTokenizer(tokenizer),
        torch.zeros(1, tokenizer.config.num_mels, 200),
        folder / "speech_tokenizer_v2.onnx",
    )
    export(speaker, torch.zeros(1, 250, 80), folder / "campplus.onnx")
    return folder


def changed(file: Path, target: Path, change: Callable[[Any], None]) -> Path:
    model = onnx.load(file)
    change(model.graph)
    onnx.save(model, target / file.name)
    return target / file.name


def test_tokenizer(files: Path, tokenizer: SpeechTokenizer) -> None:
    names = {value.name for value in onnx.load(files / "speech_tokenizer_v2.onnx").graph.initializer}
    assert {"quantizer.project_in.bias", "blocks.0.attn.fsmn_block.weight"} <= names  # as in the public file
    assert sum(name.startswith("onnx::MatMul_") for name in names) > 5
    loaded = public.load(public.SPEECH_TOKENIZER, files, config=tokenizer.config)
    golden = GOLDEN.vectors("features_s3_campplus_io")
    lengths = golden["s3_code_len"]
    codes = loaded(golden["s3_mel"], golden["s3_mel_len"])
    for item, length in enumerate(lengths.tolist()):
        assert torch.equal(codes[item, :length].int(), golden["s3_codes"][item, :length])
    for name, value in tokenizer.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_speaker(files: Path, speaker: SpeakerEncoder) -> None:
    golden = GOLDEN.vectors("features_s3_campplus_io")
    folded = onnx.load(files / "campplus.onnx").graph
    assert sum(value.name.startswith("onnx::Conv_") for value in folded.initializer) > 10
    golden.close("cam_emb", public.load(public.SPEAKER, files, config=speaker.config)(golden["cam_in"]), "campplus")


def test_speaker_whose_normalisations_were_left_in_place(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SpeakerEncoder(SPEAKER).eval()
    for name, value in model.named_buffers():
        if name.endswith("running_mean"):
            value.uniform_(-1, 1)
    export(model, torch.zeros(1, 250, 80), tmp_path / "campplus.onnx", folded=False)
    fbank = torch.linspace(-3, 3, 80 * 250).sin().view(1, 250, 80)
    with torch.inference_mode():
        torch.testing.assert_close(public.load(public.SPEAKER, tmp_path, config=SPEAKER)(fbank), model(fbank))


def test_the_files_run_as_exported(files: Path, tokenizer: SpeechTokenizer, speaker: SpeakerEncoder) -> None:
    """What onnxruntime makes of them is what our modules make of their weights."""
    import onnxruntime

    mel = torch.linspace(-1, 1, tokenizer.config.num_mels * 200).sin().view(1, -1, 200)
    session = onnxruntime.InferenceSession(files / "speech_tokenizer_v2.onnx")
    (bounded,) = session.run(None, {session.get_inputs()[0].name: mel.numpy()})
    loaded = public.load(public.SPEECH_TOKENIZER, files, config=tokenizer.config)
    with torch.inference_mode():
        np.testing.assert_allclose(bounded, loaded.quantizer.bounded(loaded.encoder(mel)).numpy(), atol=1e-4)
        fbank = torch.linspace(-3, 3, 80 * 250).sin().view(1, 250, 80)
        session = onnxruntime.InferenceSession(files / "campplus.onnx")
        (vector,) = session.run(None, {session.get_inputs()[0].name: fbank.numpy()})
        ours = public.load(public.SPEAKER, files, config=speaker.config)(fbank).numpy()
        np.testing.assert_allclose(vector, ours, atol=1e-3)


def test_epsilons_are_the_files(files: Path, tokenizer: SpeechTokenizer, tmp_path: Path) -> None:
    def change(graph: Any) -> None:
        for node in graph.node:
            if node.name.endswith("attn_ln/LayerNormalization"):
                next(a for a in node.attribute if a.name == "epsilon").f = 1e-6

    path = changed(files / "speech_tokenizer_v2.onnx", tmp_path, change)
    block = public.load(public.SPEECH_TOKENIZER, path, config=tokenizer.config).encoder.blocks[0]
    assert (block.attn_ln.eps, block.mlp_ln.eps) == (pytest.approx(1e-6), pytest.approx(1e-5))


def test_half_precision_becomes_float32(files: Path, speaker: SpeakerEncoder, tmp_path: Path) -> None:
    def change(graph: Any) -> None:
        for value in graph.initializer:
            value.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(value).astype(np.float16), value.name))

    path = changed(files / "campplus.onnx", tmp_path, change)
    loaded = public.load(public.SPEAKER, path, config=speaker.config)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32, torch.int64}


def test_missing_extra_and_misshapen_are_named(files: Path, speaker: SpeakerEncoder, tmp_path: Path) -> None:
    def change(graph: Any) -> None:
        kept = [value for value in graph.initializer if value.name != "xvector.dense.linear.weight"]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        graph.initializer.append(numpy_helper.from_array(np.zeros((2, 3), np.float32), "stray"))
        value = next(v for v in graph.initializer if v.name == "xvector.transit1.nonlinear.batchnorm.bias")
        value.CopyFrom(numpy_helper.from_array(np.zeros(3, np.float32), value.name))

    path = changed(files / "campplus.onnx", tmp_path, change)
    with pytest.raises(CheckpointError) as caught:
        public.load(public.SPEAKER, path, config=speaker.config)
    message = str(caught.value)
    assert str(path) in message
    assert "missing 1 (xvector.dense.linear.weight [" in message
    assert "extra 1 (stray [2, 3])" in message
    assert "misshapen 1 (xvector.transit1.nonlinear.batchnorm.bias is [3], expected [" in message


def test_another_model_is_refused(files: Path, tokenizer: SpeechTokenizer) -> None:
    with pytest.raises(CheckpointError, match=r"does not fit SpeechTokenizer: missing .* extra ") as caught:
        public.load(public.SPEECH_TOKENIZER, files / "campplus.onnx", config=tokenizer.config)
    assert len(str(caught.value)) < 1000
    with pytest.raises(CheckpointError, match=r"speech_tokenizer_v2\.onnx does not fit SpeechTokenizer: .*misshapen"):
        public.check(public.SPEECH_TOKENIZER, files)  # our small one is not of the public size


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(files: Path, tmp_path: Path, share: float) -> None:
    content = (files / "campplus.onnx").read_bytes()
    (tmp_path / "campplus.onnx").write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="fetch it again"):
        public.load(public.SPEAKER, tmp_path)


@pytest.mark.parametrize("content", [b"<!doctype html><title>Sign in</title>", b"\x08\x07", b"PK\x03\x04" * 20])
def test_other_content_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "campplus.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match="fetch it again"):
        public.load(public.SPEAKER, tmp_path)
    (tmp_path / "campplus.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        public.load(public.SPEAKER, tmp_path)


def test_tensors_in_other_files_are_never_opened(tmp_path: Path) -> None:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, 1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="../../etc/passwd")
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="/conv1/MatMul")
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph([node], "g", inputs[:1], inputs[1:], [weight]))
    (tmp_path / "campplus.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="keeps w in another file"):
        public.load(public.SPEAKER, tmp_path)
