"""`bench decoder`: both ways give the same mel, and its report says what was measured."""

import json

import pytest
import torch

from app import cli
from app.bench.decoder import ANEW, CACHED, Chunk, page, play, ratios
from tts.decoder.config import EncoderConfig, EstimatorConfig, FlowConfig
from tts.decoder.flow import MAX_CHUNKS_PER_PASS, FlowDecoder


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
    chunks, held = play(flow, 2.0)
    assert [chunk.end_s for chunk in chunks] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert max(chunk.difference for chunk in chunks) < 1e-4
    assert all(chunk.seconds[way] > 0 for chunk in chunks for way in (CACHED, ANEW))
    # Keys and values, float32: an encoder block of width 32 at 25 Hz, one at 50 Hz, and three transformer layers of as much
    # at 50 Hz, for both flow steps and with and without the condition.
    per_second = 2 * 4 * 32 * (25 + 50 + 3 * 50 * 2 * 2)
    kept_s = 4.0 + 2.0 if left_chunks is None else 0.2 * (left_chunks + 1)
    assert held.per_second * 2**20 == pytest.approx(per_second)
    assert held.kept * 2**20 == pytest.approx(per_second * kept_s)
    of_pass = MAX_CHUNKS_PER_PASS * 0.2 * held.per_second
    assert held.kept <= held.allocated <= 2 * (held.kept + of_pass)


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
    assert values["memory"]["kept"] == pytest.approx(3.6 * values["memory"]["per_second"])  # 8 chunks, and the newest
    assert f"| kept after the reply | {values['memory']['kept']:.1f} |" in page(values)
    assert cli.main(["bench", "decoder", "--seconds", "0"]) == 2
    assert "--seconds 0" in capsys.readouterr().err
