"""What every recogniser promises (asr/base.py), checked on the bundled weights and on a FunASR folder with model.pt."""

import contextlib
import io
import json
import logging
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

import asr
from asr.base import SAMPLE_RATE, FinalTranscript, PartialTranscript, RecognizerError, SpeechStarted, VoiceHeard
from asr.moonshine import Moonshine
from asr.paraformer import ASSETS, Paraformer
from asr.units import normalise, word_errors
from configs.schema import AsrConfig, RuntimeConfig

QUESTION = Path(__file__).parent.parent / "assets" / "asr" / "question.wav"
TEXT = "what is the capital of france"
CPU = RuntimeConfig(device="cpu")


@pytest.fixture(scope="module")
def question():
    samples, rate = soundfile.read(QUESTION, dtype="float32")
    assert rate == SAMPLE_RATE
    return samples


@pytest.fixture(scope="module", params=["paraformer", "moonshine"])
def recognizer(request):
    recognizer = asr.build(AsrConfig(backend=request.param), CPU)
    recognizer.warm_up()
    return recognizer


def run(recognizer, samples, size=320):
    stream = recognizer.stream()
    events = [e for i in range(0, len(samples), size) for e in stream.push(samples[i : i + size])]
    return events + stream.finish()


def errors(text):
    return word_errors(TEXT.split(), normalise(text).split())


def padded(samples, before_s=0.6, after_s=1.2):
    return np.concatenate(
        [np.zeros(int(before_s * SAMPLE_RATE), np.float32), samples, np.zeros(int(after_s * SAMPLE_RATE), np.float32)]
    )


def test_a_spoken_question_becomes_text(recognizer, question):
    assert errors(recognizer.transcribe(question)) <= 1


def test_the_final_words_are_chosen_by_the_folders_search_unless_it_is_switched_off(question):
    searching, plain = Paraformer.load(), Paraformer.load(word_search=False)
    calls = []
    search = searching._offline.model.beam_search
    searching._offline.model.beam_search = lambda **given: calls.append(given["am_scores"]) or search(**given)
    assert word_errors(TEXT.split(), searching.transcribe(question).split()) <= 1
    assert len(calls) == 1
    assert plain._offline.model.beam_search is None


def test_a_stream_gives_partials_and_the_same_final(recognizer, question):
    events = run(recognizer, padded(question))
    finals = [e for e in events if isinstance(e, FinalTranscript)]
    assert len(finals) == 1
    assert errors(finals[0].text) <= 1
    assert [type(e) for e in events[:2]] == [VoiceHeard, SpeechStarted]
    partials = [e for e in events if isinstance(e, PartialTranscript)]
    assert partials, "no partial transcript"
    assert any(TEXT.startswith(normalise(p.text)[:8]) for p in partials)
    assert finals[0].decided_at - finals[0].speech_end <= 0.47 * SAMPLE_RATE  # a finished question


def test_any_chunking_gives_the_same_turns(recognizer, question):
    samples = padded(question)

    def turns(size):
        return [
            (type(e), *(getattr(e, f) for f in e.__dataclass_fields__ if f != "compute_ms"))
            for e in run(recognizer, samples, size)
        ]

    assert turns(len(samples)) == turns(777)


def test_streaming_alone_hears_most_words(question):
    model = Paraformer.load()
    stream = model.stream()
    for part in np.array_split(padded(question, 0.3, 0.3), 13):
        stream.push(part)
    words = stream.finish().split()
    assert word_errors(TEXT.split(), words) <= 2


def test_noise_at_15_db_is_understood(recognizer, question):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, len(question)) * np.sqrt(np.mean(question**2)) * 10 ** (-15 / 20)
    assert errors(recognizer.transcribe((question + noise).astype(np.float32))) <= 1


NOISE = np.random.default_rng(0).normal(0, 0.02, 2 * SAMPLE_RATE)
HUM = 0.1 * np.sin(2 * np.pi * 100 / SAMPLE_RATE * np.arange(2 * SAMPLE_RATE))


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(10), np.zeros(SAMPLE_RATE), NOISE, HUM])
def test_where_nobody_speaks_there_are_no_words(recognizer, samples):
    assert recognizer.transcribe(samples.astype(np.float32)) == ""
    assert not [e for e in run(recognizer, samples.astype(np.float32)) if isinstance(e, FinalTranscript)]


def test_words_do_not_depend_on_what_was_heard_before(recognizer, question):
    rng = np.random.default_rng(2)
    clips = [(question + level * rng.standard_normal(len(question))).astype(np.float32) for level in (0.02, 0.05, 0.1)]
    before = [recognizer.transcribe(clip) for clip in clips]
    assert [recognizer.transcribe(clip) for clip in reversed(clips)] == before[::-1]


def test_moonshine_without_its_package_or_model_says_what_to_install(monkeypatch, tmp_path):
    import moonshine_voice

    monkeypatch.setattr(moonshine_voice, "get_assets_path", lambda: tmp_path)
    with pytest.raises(RecognizerError, match=r"cannot be loaded .* requirements\.txt"):
        Moonshine()
    monkeypatch.setitem(sys.modules, "moonshine_voice", None)
    with pytest.raises(RecognizerError, match="pip install"):
        Moonshine()


def test_loading_leaves_the_process_as_it_was(capfd):
    root = logging.getLogger()
    handlers, level, threads = list(root.handlers), root.level, torch.get_num_threads()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = (random.random(), np.random.rand(), torch.rand(1).item())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    model = Paraformer.load()
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    model.transcribe(np.zeros(SAMPLE_RATE, np.float32))
    assert (list(root.handlers), root.level, torch.get_num_threads()) == (handlers, level, threads)
    assert capfd.readouterr() == ("", "")


def test_the_import_is_light_and_offline():
    code = (
        "import sys, socket; socket.socket.connect = None\n"
        "import asr; assert 'torch' not in sys.modules\n"
        "from asr.paraformer import Paraformer; Paraformer.load()\n"
        "print(len([m for m in sys.modules if m.startswith('funasr.models.') and m.count('.') == 2]))\n"
        "assert 'sklearn' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(asr.__file__).parent.parent
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20
    assert done.stderr == ""


def test_a_funasr_folder_with_model_pt_runs_by_the_same_code(tmp_path, question):
    bundled = Paraformer.load()
    public = tmp_path / "public"
    public.mkdir()
    for name in ("config.yaml", "tokens.json", "am.mvn"):
        shutil.copy(ASSETS / name, public / name)
    torch.save(bundled._streaming.model.state_dict(), public / "model.pt")
    config = yaml.safe_load((public / "config.yaml").read_text())
    assert config["model"] == "ParaformerStreaming"
    model = Paraformer.load("bundled", str(public))
    stream = model.stream()
    stream.push(padded(question, 0.3, 0.6))
    assert stream.finish()


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(ASSETS, tmp_path / "model")
    return tmp_path / "model"


def test_missing_weights_name_the_file(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(RecognizerError, match=r"no model\.safetensors"):
        Paraformer.load(str(copy))
    with pytest.raises(RecognizerError, match="missing"):
        asr.build(AsrConfig(model=str(copy), streaming_model=str(copy)), CPU)


def test_damaged_weights_are_refused_in_one_line(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RecognizerError, match="damaged"):
        Paraformer.load(str(copy))


def test_foreign_weights_are_refused(copy):
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["encoder_conf"]["num_blocks"] -= 1
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(RecognizerError, match="does not fit"):
        Paraformer.load(str(copy))


def test_a_name_that_is_nowhere_is_one_clear_error(monkeypatch):
    with contextlib.redirect_stdout(io.StringIO()), pytest.raises(RecognizerError, match="no/such-model"):
        Paraformer.load("./no/such-model")


def test_the_bundled_folder_is_small_and_described():
    assert sum(f.stat().st_size for f in ASSETS.iterdir()) <= 18e6
    assert not list(ASSETS.glob("*.pt"))
    assert json.loads((ASSETS / "config.json").read_text())["kind"] == "paraformer"
    card = (ASSETS / "MODEL_CARD.md").read_text()
    assert all(word in card for word in ("Data", "Command", "Limits"))


def test_a_thousand_turns_leave_nothing_behind():
    model = Paraformer.load()
    samples = np.zeros(SAMPLE_RATE // 4, np.float32)
    for _ in range(30):
        model.transcribe(samples)
        stream = model.stream()
        stream.push(samples)
    for part in (model._offline, model._streaming):
        tokenizer = part.kwargs["tokenizer"]
        inner = getattr(tokenizer, "_tokenizer", tokenizer)
        assert not hasattr(inner, "_tokenizer")
