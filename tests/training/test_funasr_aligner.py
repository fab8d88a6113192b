"""Mandarin aligned by FunASR's timestamp models: tiny ones of random weights, built by FunASR's own classes."""

import json
import math

import numpy as np
import pytest
import soundfile
import torch
import yaml

from app import cli
from app.data import aligners
from asr.base import RecognizerError
from asr.funasr_model import build, import_funasr, options
from asr.timestamps import _MODULES, TimesError, TimestampModel, spans
from configs.schema import ConfigError
from tts.alignment.durations import MisalignedError
from tts.training.dataset import Dataset

DIM, MELS = 16, 560
SECONDS, HEARD = 3.0, 11  # tokens that the model hears in so much sound, whatever it is
CONFIG = {
    "model": "MonotonicAligner",
    "model_conf": {"length_normalized_loss": False, "predictor_bias": 1},
    "encoder": "SANMEncoder",
    "encoder_conf": {"output_size": DIM, "attention_heads": 2, "linear_units": DIM, "num_blocks": 1, "input_layer": "pe",
                     "pos_enc_class": "SinusoidalPositionEncoder", "kernel_size": 11, "sanm_shfit": 0,
                     "selfattention_layer_type": "sanm"},
    "predictor": "CifPredictorV3",
    "predictor_conf": {"idim": DIM, "threshold": 1.0, "l_order": 1, "r_order": 1, "tail_threshold": 0.45,
                       "smooth_factor2": 0.25, "noise_threshold2": 0.01, "upsample_times": 3, "use_cif1_cnn": False,
                       "upsample_type": "cnn_blstm"},
    "frontend": "WavFrontend",
    "frontend_conf": {"fs": 16000, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10,
                      "lfr_m": 7, "lfr_n": 6},
    "specaug": "SpecAugLFR",
    "specaug_conf": {"apply_time_warp": False, "apply_freq_mask": True, "freq_mask_width_range": [0, 30],
                     "num_freq_mask": 1, "lfr_rate": 6, "apply_time_mask": True, "time_mask_width_range": [0, 12],
                     "num_time_mask": 1},
    "tokenizer": "CharTokenizer",
    "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
}  # fmt: skip
RECOGNISER = {
    **CONFIG,
    "model": "BiCifParaformer",
    "model_conf": {"predictor_weight": 1.0, "predictor_bias": 1, "sampling_ratio": 0.75},
    "decoder": "ParaformerSANMDecoder",
    "decoder_conf": {"attention_heads": 2, "linear_units": DIM, "num_blocks": 1, "att_layer_num": 1, "kernel_size": 11,
                     "sanm_shfit": 0},
}  # fmt: skip


def write(folder, config):
    """A folder as the public ones are; the time between tokens is the same throughout, by its last bias."""
    folder.mkdir()
    line = " ".join(["1"] * MELS)
    shift = f"<AddShift> {MELS} {MELS}\n<LearnRateCoef> 0 [ {line} ]\n"
    scale = f"<Rescale> {MELS} {MELS}\n<LearnRateCoef> 0 [ {line} ]\n"
    (folder / "am.mvn").write_text(f"<Nnet>\n<Splice> {MELS} {MELS}\n[ 0 ]\n{shift}{scale}</Nnet>\n")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    tokens = ["<blank>", "<s>", "</s>", *"我们都是好朋友你", "hel@@", "lo", "<unk>"]
    (folder / "tokens.json").write_text(json.dumps(tokens))
    (folder / "seg_dict").write_text("hello hel@@ lo\n" + "".join(f"{c} {c}\n" for c in "我们都是好朋友你"))
    import_funasr(also=_MODULES)
    torch.manual_seed(0)
    model = build(config, tokens, folder / "am.mvn").model
    frames = 3 * math.ceil((SECONDS * 100 - 2) / 6)
    with torch.no_grad():
        model.predictor.cif_output2.weight *= 0.0
        model.predictor.cif_output2.bias.fill_(torch.logit(torch.tensor(((HEARD + 1) / frames + 0.01) / 0.25)).item())
    torch.save(model.state_dict(), folder / "model.pt")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("funasr") / "fa-zh", CONFIG)


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(0).normal(0, 0.1, int(SECONDS * 16_000)).astype(np.float32)


@pytest.mark.parametrize("config", [CONFIG, RECOGNISER], ids=lambda config: config["model"])
def test_characters_begin_where_funasr_says(tmp_path, samples, config):
    aligner = aligners.load(write(tmp_path / "model", config), "cpu")
    found = aligner.align(samples, "我们都是，好朋友！你们好，hello。").words
    assert [word for word, _, _ in found] == [*"我们都是好朋友你们好", "hello"]
    starts, ends = np.array([times for _, *times in found]).T
    assert np.diff(starts) == pytest.approx(
        np.full(10, SECONDS / 13), abs=0.02
    )  # 12 tokens and the end, on a 20 ms grid
    assert ends[:-1].tolist() == starts[1:].tolist()
    assert ends[-1] - starts[-1] > 1.5 * SECONDS / 13  # two tokens of Latin letters
    if config is CONFIG:
        auto = import_funasr()(model=str(tmp_path / "model"), frontend_conf={"dither": 0.0}, **options("cpu", 0))
        text = ("sound", "text")
        said = auto.generate(input=(samples, "我 们 都 是 好 朋 友 你 们 好 hello"), data_type=text)[0]["timestamp"]
        assert (starts * 1000).round().tolist() == [start for start, _ in said]


def test_stamps_of_tokens_become_spans_of_words():
    words = aligners.spoken_words("我有25块，“iPhone's”  一 个。")
    assert words == ["我", "有", "25", "块", "iPhone's", "一", "个"]
    counts = [1, 1, 2, 1, 3, 1, 1]
    stamps = [
        [-30, 150], [150, 390],  # longer than FunASR lets a token be: the next begins at 450
        [450, 600], [600, 700], [700, 940],  # then a pause
        [1200, 1300], [1300, 1350], [1350, 1500],
        [1500, 1700], [1700, 2600],  # the last: one half of the silence at the end is not the character's
    ]  # fmt: skip
    found = spans(stamps, counts, 3.0)
    assert np.round(found, 3).tolist() == [
        [0.0, 0.15], [0.15, 0.45], [0.45, 0.7], [0.7, 1.02], [1.2, 1.5], [1.5, 1.7], [1.7, 2.02],
    ]  # fmt: skip
    with pytest.raises(TimesError, match="times for 9 tokens where the text has 10"):
        spans(stamps[1:], counts, 3.0)


def test_each_digit_and_letter_without_an_entry_is_a_token(folder, samples):
    model = TimestampModel.load(folder)
    times = model.times(samples, ["我", "25", "hello", "xyz", "龘", "们", "2"])
    lengths = [round((end - start) / (SECONDS / 12)) for start, end in times]  # 11 tokens and the end
    assert lengths == [1, 2, 2, 3, 1, 1, 1]


@pytest.mark.parametrize(("text", "reason"), [
    ("我们" * 9, "hears 11 tokens where the text has 18"),
    ("我", "hears 11 tokens where the text has 1"),
    ("我们" * 200, "hears 11 tokens where the text has 400"),
    ("，。", "nothing to speak"),
])  # fmt: skip
def test_what_does_not_fit_is_told(folder, samples, text, reason):
    with pytest.raises(MisalignedError, match=reason):
        aligners.load(folder, "cpu").align(samples, text)


def test_too_short_a_recording_is_told(folder):
    with pytest.raises(TimesError, match="1 token"):
        TimestampModel.load(folder).times(np.zeros(100, np.float32), ["我"])


def test_a_wrong_folder_is_told(folder, tmp_path):
    with pytest.raises(RecognizerError, match=r"no config\.yaml, model\.pt"):
        TimestampModel.load(tmp_path)
    for name in ("model.pt", "tokens.json", "am.mvn"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    for content, reason in (
        ("model: SenseVoiceSmall\n", "holds FunASR's SenseVoiceSmall, which does not tell"),
        ("- 1\n", "does not say which model"),
        ("model: MonotonicAligner\n", "cannot load the MonotonicAligner"),
    ):
        (tmp_path / "config.yaml").write_text(content)
        with pytest.raises(RecognizerError, match=reason):
            TimestampModel.load(tmp_path)


def test_an_aligner_that_is_not_there_is_told(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    with pytest.raises(ConfigError, match="no such folder"):
        aligners.located(str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="weights get fa-zh` fetches them"):
        aligners.located("fa-zh")
    home = tmp_path / "modelscope" / "models" / "iic" / "speech_timestamp_prediction-v1-16k-offline"
    home.mkdir(parents=True)
    for name in ("model.pt", "config.yaml", "tokens.json", "am.mvn"):
        (home / name).touch()
    assert aligners.located("fa-zh") == home


@pytest.mark.parametrize(("language", "numbers"), [("none", "我们 2 5 hello 好朋友 10"), ("zh", "我们有2345个。")])
def test_a_mandarin_corpus_without_alignments_is_prepared(folder, samples, tmp_path, capsys, language, numbers):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["我们 是 友 你 好"] * 20, trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    texts = ["我们都是好朋友，你们好。", "我们都是，“hello”龘好朋友！", "我们" * 15, numbers]
    lines = [json.dumps({"id": str(i), "audio": "a.wav", "text": text}) for i, text in enumerate(texts)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    arguments = ["data", "prepare", tmp_path / "m.jsonl", "--out", tmp_path / "out", "--aligner", folder]
    arguments += ["--tokenizer", tmp_path / "tokenizer.json", "--set", f"tts.language={language}"]
    assert cli.main([*map(str, arguments)]) == 0
    assert "3 items" in capsys.readouterr().out
    data = Dataset(tmp_path / "out")
    assert [entry["id"] for entry in data.entries] == ["0", "1", "3"]
    assert data.entries[2]["text"] == (numbers if language == "none" else "我们有两千三百四十五个。")
    for example, entry in zip(data, data.entries, strict=True):
        assert example.first.ids.tolist() == tokenizer.encode(entry["text"]).ids
        assert example.first.durations.sum() == len(example.tokens) > 60
        assert (example.first.durations > 0).sum() >= 8
    (rejected,) = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert (rejected["id"], rejected["kind"]) == ("2", "alignment")
    assert "hears 11 tokens where the text has 30" in rejected["reason"]
