"""`bench decoder`: both ways give the same mel, and its report says what was measured."""

import json

import pytest
import torch

from app import cli
from app.bench.decoder import ANEW, CACHED, Chunk, page, play, ratios
from tts.decoder.config import EncoderConfig, EstimatorConfig, FlowConfig
from tts.decoder.flow import FlowDecoder


@pytest.mark.parametrize("left_chunks", [None, 2])
def test_both_ways_decode_the_same_mel(left_chunks):
    torch.manual_seed(3)
    flow = FlowDecoder(
        FlowConfig(
            vocabulary_size=50, chunk_tokens=5, num_flow_steps=2, max_left_chunks=left_chunks,
            encoder=EncoderConfig(width=32, num_heads=2, ffn_width=32, num_blocks=1, num_up_blocks=1),
            estimator=EstimatorConfig(
                width=32, num_heads=2, head_width=16, num_transformers=1, num_mid_blocks=1, time_width=32
            ),
        )
    ).eval()  # fmt: skip
    chunks = play(flow, 2.0)
    assert [chunk.end_s for chunk in chunks] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert max(chunk.difference for chunk in chunks) < 1e-4
    assert all(chunk.seconds[way] > 0 for chunk in chunks for way in (CACHED, ANEW))


def test_ratios_are_of_sums_and_of_the_first_and_last_fifth():
    chunks = [Chunk(n, {CACHED: 1.0, ANEW: float(n)}, 0.0) for n in range(1, 11)]
    found = ratios(chunks)
    assert found["anew_over_cached"] == pytest.approx(5.5)
    assert found["last_over_first_cached"] == 1.0
    assert found["last_over_first_anew"] == pytest.approx(9.5 / 1.5)


def test_the_command_writes_its_report_and_refuses_what_cannot_be(tmp_path, capsys):
    assert cli.main(["bench", "decoder", "--seconds", "3", "--report", str(tmp_path)]) == 0
    values = json.loads((tmp_path / "report.json").read_text())
    assert (tmp_path / "report.md").read_text() == page(values) == capsys.readouterr().out
    assert values["difference"] < 1e-3
    assert values["chunks"][-1]["end_s"] == pytest.approx(3.2)
    assert cli.main(["bench", "decoder", "--seconds", "0"]) == 2
    assert "--seconds 0" in capsys.readouterr().err
