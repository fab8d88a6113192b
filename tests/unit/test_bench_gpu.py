"""`bench gpu`: the same code at reduced sizes on a CPU; its figures are those of stand-ins with known delays."""

import json
import time
from dataclasses import asdict
from threading import get_ident
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from app import cli
from app.bench import gpu
from app.bench.chain import SIZES
from app.bench.conversations import Turn, hold
from app.bench.gpu_page import page
from app.bench.writer import Writer, WriterThread
from tests.graph_tape import TapeCapture
from tts.base import PcmChunk, SpeechStep

SMALL = ["bench", "gpu", "--random-weights", "--size", "small", "--device", "cpu"]
QUICK = ["--concurrency", "2", "--turns", "1", "--question-s", "0.3", "--reply-tokens", "8", "--repeats", "1"]
FEW_STEPS = ["--set", "tts.num_flow_steps=1", "--set", "tts.flow_guidance=0"]


@pytest.mark.parametrize("backend", ["syncspeech", "interleaved"])
def test_the_small_chain_is_measured_from_end_to_end(backend, tmp_path, capsys):
    assert cli.main([*SMALL, *QUICK, *FEW_STEPS, "--backend", backend, "--report", str(tmp_path)]) == 0
    values = json.loads((tmp_path / "report.json").read_text())
    assert (tmp_path / "report.md").read_text() == page(values) == capsys.readouterr().out
    assert all(found["p95"] >= found["p50"] > 0 for found in values["stages"].values())
    assert all(count > 10 for count in values["launches"].values())
    assert values["stages"].keys() == values["launches"].keys()
    voice, turns = values["voice"], values["conversations"]["2"]
    assert voice["busy_tokens_per_s"] > 0
    assert voice["spoken_s"] > 1
    assert turns["turns"] == 2
    assert turns["voice_to_voice_ms"]["p50"] == pytest.approx(300 + turns["decision_to_audible_ms"]["p50"])
    assert min(values["weights_gib"].values()) > 0
    assert values["memory_gib"]["resident"] > 0.1
    assert values["about"]["config"]["tts"]["num_flow_steps"] == 1


def test_recorded_stages_are_timed_beside_those_without_graphs(tmp_path, monkeypatch):
    """On a CPU with recordings in the place of graphs."""
    monkeypatch.setattr(Writer, "has_graphs", True)
    build = gpu.build

    def recorded(*arguments, **options):
        chain = build(*arguments, **options)
        monkeypatch.setattr(chain.synthesizer, "warm_up", lambda: chain.synthesizer.use_graphs(TapeCapture))
        return chain

    monkeypatch.setattr(gpu, "build", recorded)
    assert cli.main([*SMALL, *QUICK, *FEW_STEPS, "--report", str(tmp_path)]) == 0
    stages = json.loads((tmp_path / "report.json").read_text())["stages"]
    assert [name for name in stages if name.endswith(", CUDA graphs")] == [
        "language model, next token, CUDA graphs",
        "text to token, one step, CUDA graphs",
        "flow decoder, one chunk (25 tokens), CUDA graphs",
    ]
    assert {name.removesuffix(", CUDA graphs") for name in stages} < stages.keys()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "cuda"], "--device cuda: PyTorch finds no GPU"),
        (["--concurrency", "1,x"], "--concurrency 1,x"),
        (["--concurrency", "0,2"], "--concurrency 0,2"),
        (["--turns", "0"], "above 0"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(options, words, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main([*SMALL, *options]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_it_is_said_that_weights_are_random():
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["bench", "gpu"])


def writer(slots=3):
    torch.manual_seed(1)
    return Writer(SIZES["small"].writer, num_slots=slots, device=torch.device("cpu"), dtype=torch.float32)


@torch.inference_mode()
def test_the_writer_reads_its_cache():
    whole, pieces = writer(), writer()
    ids = torch.tensor([[3, 141, 59, 26]])
    row, last = slice(1, 2), None
    wanted = whole._forward(ids, torch.arange(4)[None], row)
    for place in range(4):
        last = pieces._forward(ids[:, place : place + 1], torch.tensor([[place]]), row)
    assert torch.equal(last, wanted)
    torch.testing.assert_close(pieces.keys[:, 1, :, :4], whole.keys[:, 1, :, :4], atol=1e-5, rtol=0)
    assert pieces.keys[:, 0].abs().max() == pieces.keys[:, 2].abs().max() == 0


def test_steps_are_of_static_sizes_and_go_on():
    made = writer(slots=6)
    assert made.sizes == [1, 2, 4, 6]
    made.begin(1)
    place = int(made.positions[1])
    assert len(made.step(2)) == 2
    assert int(made.positions[1]) == place + 1
    assert int(made.positions[2]) == 0
    made.step(3)
    assert int(made.positions[3]) == 1  # three take part as four


def test_every_reply_gets_its_tokens():
    thread, told = WriterThread(writer()), {0: 0, 2: 0}

    def tell(slot):
        told[slot] += 1

    thread.write(0, 3, lambda: tell(0))
    thread.write(2, 7, lambda: tell(2))
    deadline = time.monotonic() + 30
    while sum(told.values()) < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    thread.close()
    assert told == {0: 3, 2: 7}


class Voice:
    """Speaks a token in 3 ms, a chunk in 5 ms, of which the first 40 ms are silent; needs two tokens for a chunk."""

    def __init__(self):
        self.given, self.spoken, self.finished, self.done = 0, 0, False, False

    def push(self, _index, _text):
        self.given += 1

    def finish(self):
        self.finished = True

    def step(self, in_hand_s=0.0):
        if self.spoken < self.given:
            self.spoken += 1
            time.sleep(0.003)
            return SpeechStep(text_token=0, num_speech_tokens=1, num_samples=960, token_end=0, synth_ms=3.0)
        if not self.finished or self.done:
            return None
        self.done = True
        time.sleep(0.005)
        samples = np.full(2400, 0.5, np.float32)
        samples[:960] = 0
        return PcmChunk(samples=samples, token_end=1, num_speech_tokens=1, synth_ms=5.0, last=True, vocoder_ms=1.0)


class SlowWriter:
    def begin(self, _slot):
        time.sleep(0.02)

    def step(self, _count):
        time.sleep(0.01)


def test_a_turn_is_the_sum_of_its_stages():
    warmed = []
    chain = SimpleNamespace(
        recognizer=SimpleNamespace(transcribe=lambda _samples: time.sleep(0.05)),
        writer=SlowWriter(),
        synthesizer=SimpleNamespace(stream=lambda **_options: Voice(), warm_up=lambda: warmed.append(get_ident())),
    )
    turns = hold(chain, 2, num_turns=2, question=np.zeros(160, np.float32), text=["a", "b", "c"])
    assert len(turns) == 4
    assert len(warmed) == 1
    assert warmed[0] != get_ident()  # by the thread that speaks, whose graphs they are
    for turn in turns:
        assert sum(asdict(turn)[name] for name in Turn.STAGES) == pytest.approx(turn.first_audible_ms, abs=1e-6)
        assert turn.asr_ms >= 50
        assert turn.llm_ms >= 20
        assert turn.text_to_token_ms == pytest.approx(9)
        assert turn.decoder_ms == pytest.approx(5)
        assert turn.silence_ms == pytest.approx(40)
        assert turn.waiting_ms >= 10  # two more words
        assert (turn.spoken_s, turn.underruns) == (0.1, 0)


def test_launches_are_counted():
    one = gpu.launches(lambda: torch.ones(2) + 1, torch.device("cpu"))
    assert gpu.launches(lambda: [torch.ones(2) + 1 for _ in range(5)], torch.device("cpu")) == 5 * one > 0
