"""FSMN-VAD and CT-Transformer through FunASR's own classes, on small folders of random weights in the public layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import asr
from app.cli import main
from app.needs import located
from asr.base import FinalTranscript, RecognizerError, SpeechStarted
from asr.fsmn_vad import FsmnVad
from asr.funasr_model import import_funasr, options
from asr.punctuation import Punctuator
from asr.vad import WINDOW
from configs.loader import load
from configs.schema import ConfigError

QUESTION = Path(__file__).parents[1] / "assets" / "asr" / "question.wav"
MELS, STACKED = 8, 5
VAD: dict[str, Any] = {
    "model": "FsmnVADStreaming",
    "model_conf": {"sil_pdf_ids": [0], "speech_noise_thres": 0.6, "frame_in_ms": 10, "sample_rate": 16000},
    "encoder": "FSMN",
    "encoder_conf": {"input_dim": MELS * STACKED, "input_affine_dim": 12, "fsmn_layers": 2, "linear_dim": 16, "proj_dim": 8,
                     "lorder": 5, "rorder": 0, "lstride": 1, "rstride": 0, "output_affine_dim": 12, "output_dim": 6},
    "frontend": "WavFrontendOnline",
    "frontend_conf": {"fs": 16000, "window": "hamming", "n_mels": MELS, "frame_length": 25, "frame_shift": 10,
                      "lfr_m": STACKED, "lfr_n": 1},
}  # fmt: skip
PUNCTUATION: dict[str, Any] = {
    "model": "CTTransformer",
    "model_conf": {"vocab_size": 8, "punc_list": ["<unk>", "_", "，", "。", "？", "、"], "embed_unit": 16, "att_unit": 16,
                   "sentence_end_id": 3},
    "encoder": "SANMEncoder",
    "encoder_conf": {"input_size": 16, "output_size": 16, "attention_heads": 2, "linear_units": 16, "num_blocks": 1,
                     "input_layer": "pe", "kernel_size": 3, "sanm_shfit": 0},
    "tokenizer": "CharTokenizer",
    "tokenizer_conf": {"unk_symbol": "<unk>"},
}  # fmt: skip
WORDS = ["<unk>", "hello", "there", "how", "are", "you", "我", "们"]
END = 3  # of a sentence, in `punc_list`


def write_vad(folder: Path, **changed: Any) -> Path:
    folder.mkdir()
    config = VAD | changed
    count = MELS * STACKED
    shift = f"<AddShift> {count} {count}\n<LearnRateCoef> 0 [ {' '.join(['-8'] * count)} ]\n"
    scale = f"<Rescale> {count} {count}\n<LearnRateCoef> 0 [ {' '.join(['0.3'] * count)} ]\n"
    (folder / "am.mvn").write_text(f"<Nnet>\n<Splice> {count} {count}\n[ 0 ]\n{shift}{scale}</Nnet>\n")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    import_funasr(whole=True)
    from funasr.models.fsmn_vad_streaming.model import FsmnVADStreaming

    torch.manual_seed(0)
    model = FsmnVADStreaming(encoder="FSMN", encoder_conf=config["encoder_conf"], **config["model_conf"])
    torch.save(model.state_dict(), folder / "model.pt")
    return folder


def write_punctuation(folder: Path) -> Path:
    """It ends the sentence after every word."""
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(PUNCTUATION))
    (folder / "tokens.json").write_text(json.dumps(WORDS))
    import_funasr(whole=True)
    from funasr.models.ct_transformer.model import CTTransformer

    torch.manual_seed(0)
    values = PUNCTUATION["model_conf"]
    model = CTTransformer(encoder="SANMEncoder", encoder_conf=PUNCTUATION["encoder_conf"], **values)
    with torch.no_grad():
        model.decoder.weight *= 0.0
        model.decoder.bias.copy_(torch.eye(len(values["punc_list"]))[END])
    torch.save(model.state_dict(), folder / "model.pt")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vad(tmp_path_factory.mktemp("vad") / "fsmn-vad")


@pytest.fixture(scope="module")
def punctuation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_punctuation(tmp_path_factory.mktemp("punctuation") / "ct-punc")


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(0, 0.05, 40 * WINDOW) * np.repeat(rng.random(40) ** 2, WINDOW)).astype(np.float32)


def test_windows_give_what_the_whole_recording_gives(folder: Path, samples: np.ndarray) -> None:
    """FunASR's own whole pass: features, stacks, normalisation, and the network without a cache."""
    vad = FsmnVad.load(folder)
    detector = vad.detector()
    windows = samples.reshape(-1, WINDOW)
    found = [detector(window) for window in windows]
    built = import_funasr()(model=str(folder), frontend_conf={"dither": 0.0}, **options("cpu", 0))
    import funasr.frontends.wav_frontend as ends

    whole = ends.WavFrontend(**VAD["frontend_conf"], dither=0.0, cmvn_file=str(folder / "am.mvn"))
    frames, _ = whole(torch.from_numpy(samples)[None], [len(samples)])
    with torch.inference_mode():
        voice = 1 - built.model.encoder(frames.float(), cache=None)[0, :, 0].numpy()
    done, expected = 0, 0.0
    for number, value in enumerate(found):
        complete = max(0, ((number + 1) * WINDOW - 400) // 160 + 1 - STACKED // 2)
        if complete > done:
            above = 2 * voice[done:complete].mean() - 1 - 0.6
            expected = 0.5 + above / (2 * (0.4 if above > 0 else 1.6))
            done = complete
        assert value == pytest.approx(expected, abs=1e-5)
    assert done == len(frames[0]) - STACKED // 2  # all but the last, whose neighbours never come
    assert np.ptp(found) > 0.01
    detector.reset()
    assert [detector(window) for window in windows] == found


@settings(max_examples=10, deadline=None)
@given(st.floats(0, 1))
def test_a_frame_that_funasr_takes_for_speech_is_above_a_half(folder: Path, silence: float) -> None:
    vad = FsmnVad.load(folder)
    scores = torch.full((1, 3, 6), (1 - silence) / 5)
    scores[:, :, 0] = silence
    vad._model.encoder.forward = lambda frames, cache: scores
    found = vad.speech(torch.zeros(3, MELS * STACKED), {})
    assert -1e-6 <= found <= 1 + 1e-6
    if abs((1 - silence) - silence - 0.6) > 1e-4:
        assert (found > 0.5) == ((1 - silence) >= silence + 0.6)


def test_a_stream_takes_turns_by_it(folder: Path, monkeypatch: pytest.MonkeyPatch, samples: np.ndarray) -> None:
    heard = iter([0.0] * 5 + [0.9] * 20 + [0.0] * 1000)
    monkeypatch.setattr(FsmnVad, "speech", lambda *_: next(heard))
    config = load(None, [f"asr.vad={folder}"])
    stream = asr.build(config.asr, config.runtime).stream()
    events = stream.push(samples)
    assert any(isinstance(event, SpeechStarted) for event in events)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"frontend_conf": {**VAD["frontend_conf"], "lfr_n": 2}}, "skips frames, looks ahead, or hears 16000 Hz"),
        ({"encoder_conf": {**VAD["encoder_conf"], "rorder": 2, "rstride": 1}}, "skips frames, looks ahead"),
    ],
)
def test_another_kind_of_model_is_refused(tmp_path: Path, changed: Any, message: str) -> None:
    with pytest.raises(RecognizerError, match=message):
        FsmnVad.load(write_vad(tmp_path / "vad", **changed))


def test_weights_that_do_not_fit_the_settings_are_refused(tmp_path: Path, folder: Path) -> None:
    made = write_vad(tmp_path / "vad", encoder_conf={**VAD["encoder_conf"], "output_dim": 7})
    (made / "model.pt").write_bytes((folder / "model.pt").read_bytes())
    with pytest.raises(RecognizerError, match="misshapen"):
        FsmnVad.load(made)


def test_bad_folders(tmp_path: Path, folder: Path, punctuation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RecognizerError, match=r"is no whole FunASR folder: it has no config\.yaml, model\.pt, am\.mvn"):
        FsmnVad.load(tmp_path)
    with pytest.raises(RecognizerError, match=r"it has no config\.yaml, model\.pt, tokens\.json"):
        Punctuator.load(tmp_path)
    (punctuation / "am.mvn").write_text("")
    with pytest.raises(RecognizerError, match=r"holds FunASR's CTTransformer, which does not hear where a voice is"):
        FsmnVad.load(punctuation)
    config = load(None, ["asr.vad=fsmn-vad"])
    with pytest.raises(ConfigError, match=r"asr\.vad=fsmn-vad is no folder here"):
        located(config, "asr")
    values = [f"--set=asr.vad={folder}", f"--set=asr.punctuation={punctuation}"]
    assert main(["weights", "check", *values]) == 0
    assert "ok     voice activity (FSMN-VAD)" in (out := capsys.readouterr().out)
    assert "ok     punctuation (CT-Transformer)" in out
    cut = tmp_path / "cut"
    cut.mkdir()
    for name in ("config.yaml", "am.mvn"):
        (cut / name).write_bytes((folder / name).read_bytes())
    (cut / "model.pt").write_bytes((folder / "model.pt").read_bytes()[:500])
    assert main(["weights", "check", f"--set=asr.vad={cut}"]) == 1
    assert "FAULT  voice activity (FSMN-VAD) (asr.vad)" in capsys.readouterr().out


def test_what_is_recognised_is_punctuated(punctuation: Path) -> None:
    punctuate = Punctuator.load(punctuation)
    assert punctuate("hello there") == "Hello. There."
    assert punctuate("我们") == "我。们。"
    assert punctuate(" ") == ""
    config = load(None, [f"asr.punctuation={punctuation}"])
    recognizer = asr.build(config.asr, config.runtime)
    question, _ = soundfile.read(QUESTION, dtype="float32")
    assert recognizer.transcribe(question) == "What. Is. The. Capital. Of. France."
    stream = recognizer.stream()
    final = [*stream.push(question), *stream.finish()][-1]
    assert isinstance(final, FinalTranscript)
    assert final.text == "What. Is. The. Capital. Of. France."
