"""`bench tts`: what random weights are made to say, and what is computed from the times."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import tts
from app import cli
from app.bench.contestants import (
    ASSUMED,
    BASELINE,
    DURATIONS,
    PAPER,
    SPEECH_PER_TEXT,
    TMT,
    VADUSA,
    published,
    untrained,
    variants,
)
from app.bench.listening import decoding_cost
from app.bench.memory import peak_mib
from app.bench.text_to_token import Step, figures, first_packet, measure, play, ratios, window_cost
from app.bench.text_to_token_page import drawings, page
from configs.schema import ConfigError, InterleavedTtsConfig, TtsConfig
from tts import checkpoint
from tts.interleaved.config import InterleavedConfig
from tts.interleaved.tree import grow
from tts.tmt.config import TmtConfig
from tts.tmt.model import Tmt


def tiny(text_per_step=1, **knobs):
    return untrained(
        TmtConfig(
            text_vocab_size=50,
            num_speech_tokens=200,
            dim=32,
            num_layers=1,
            num_heads=2,
            ff_dim=32,
            max_lookahead=4,
            text_per_step=text_per_step,
        ),
        InterleavedConfig(
            text_vocab_size=50, num_speech_tokens=200, dim=32, num_layers=1, num_heads=2, num_kv_heads=2, ff_dim=32
        ),
        torch.device("cpu"),
        TtsConfig(interleaved=InterleavedTtsConfig(**knobs)),
    )


CPU = torch.device("cpu")


def test_random_weights_speak_as_long_as_real_speech():
    field = tiny()
    measured = measure(field, 6, 9.0, CPU)
    plain, drafted, paper, tmt = (measured.figures[name] for name in (BASELINE, VADUSA, PAPER, TMT))
    assert plain["speech_s"] == drafted["speech_s"]
    assert tmt["speech_s"] == pytest.approx(plain["speech_s"], rel=0.25)
    assert paper["speech_s"] == pytest.approx(tmt["speech_s"], rel=0.25)
    assert paper["passes"] == tmt["passes"]
    assert plain["tokens_per_pass"] == pytest.approx(1)
    assert plain["accepted"] == 0
    assert tmt["tokens_per_pass"] > 0.6 * SPEECH_PER_TEXT
    assert field.num_nodes == 16
    expected = grow(ASSUMED, 16, 4).expected(ASSUMED)
    assert 0.6 * expected < drafted["accepted"] < 1.2 * expected
    assert drafted["tokens_per_pass"] > 1.5
    assert drafted["weights_mib"] > plain["weights_mib"]
    assert paper["weights_mib"] == tmt["weights_mib"] <= tmt["peak_mib"]
    assert (paper["cache_mib"], tmt["cache_mib"] > 0) == (0, True)
    assert [at for at, _ in measured.curves[TMT]][:2] == [2, 4]
    assert all(cost > 0 for _, cost in measured.curves[TMT])
    assert sum(map(len, measured.spoken)) == round(tmt["speech_s"] * 25)
    for found in measured.figures.values():
        found["rtf_whole"] = None
    values = {
        "about": dict.fromkeys(("machine", "device", "threads", "dtype", "num_texts", "num_nodes"), "")
        | {"size": "small", "weights": "random", "paper_weights": "those of the prefix mask", "decoder_rtf": None}
        | {"windows": {"paper": 0, "prefix": 32}},
        "figures": measured.figures,
        "ratios": ratios(measured.figures),
        "words": {},
        "curves": measured.curves,
    }
    assert set(values["ratios"]) == {
        "rtf_interleaved_over_tmt",
        "fpl_a_interleaved_over_tmt",
        "rtf_interleaved_over_vadusa",
        "rtf_tmt_paper_over_prefix",
    }
    told = page(json.loads(json.dumps(values)))
    assert all(name in told for name in (*measured.figures, *values["ratios"]))
    assert "draft heads" not in told
    for count, tolerance in itertools.product((4, 6), (1, 2)):
        grid = {"rtf": plain["rtf"] / count, "tokens_per_pass": tolerance}
        values["figures"][f"VADUSA, {count} heads, 64 nodes, tolerance {tolerance}"] = drafted | grid
    assert "| draft heads | nodes | tolerance 1 | tolerance 2 |\n|---|---|---|---|\n| 4 | 64 | 1.00 (4.00) |" in page(
        values
    )
    assert "| 6 | 64 | 1.00 (6.00) | 2.00 (6.00) |" in page(values)
    assert drawings(values).count("<svg") == 4


def test_random_weights_take_durations_as_they_occur_in_speech():
    text = np.arange(400) % 50
    contestants = {contestant.name: contestant for contestant in tiny(text_per_step=2).contestants}
    one, two = (play(contestants[name], text, 3) for name in (TMT, f"{TMT}, 2 text tokens per step"))
    spoken = [step.num_tokens for step in one.steps]
    assert spoken == [step.num_tokens for step in two.steps]
    lasting = np.bincount(spoken, minlength=len(DURATIONS))
    expected = 400 * DURATIONS / DURATIONS.sum()
    assert ((lasting - expected) ** 2 / np.maximum(expected, 1)).sum() < 45  # chi-squared, 19 degrees of freedom: 0.1 %
    assert len(one.tokens) / 400 == pytest.approx(SPEECH_PER_TEXT, abs=0.6)


def test_the_paper_mask_shares_the_weights_and_reads_everything_at_each_step():
    _, _, paper, tmt = tiny().contestants
    assert {weight.data_ptr() for weight in paper.model.parameters()} == {
        weight.data_ptr() for weight in tmt.model.parameters()
    }
    assert (paper.model.config.mask, paper.model.config.window, tmt.model.config.mask) == ("paper", 0, "prefix")
    read = {}
    for contestant in (paper, tmt):
        sizes = read[contestant.name] = []
        hook = contestant.model.register_forward_hook(
            lambda _module, inputs, _out, sizes=sizes: sizes.append(inputs[0].shape[2])
        )
        tokens = play(contestant, range(20), 0).tokens
        hook.remove()
        assert sizes[-1] < len(tokens) or contestant is paper
    assert read[PAPER][-1] == 21 + 20 + len(play(paper, range(20), 0).tokens)


def test_the_grid_has_every_tolerance_and_as_many_heads_as_there_are():
    heads = tiny().contestants[1].heads
    found = [one for _, one in variants(InterleavedTtsConfig(), heads, (8, 64))]
    assert len(found) == 16
    assert {(one.num_heads, one.nodes, one.tolerance) for one in found} == {
        (count, nodes, tolerance) for count in (4, 6) for nodes in (8, 64) for tolerance in (1, 2, 3, 4)
    }


@pytest.mark.parametrize(("most", "shown"), [(1, []), (2, [2]), (4, [2, 4])])
def test_several_at_once_are_two_and_as_many_as_the_model_has_learnt(most, shown):
    names = [contestant.name for contestant in tiny(text_per_step=most).contestants]
    assert names[names.index(TMT) + 1 :] == [f"{TMT}, {count} text tokens per step" for count in shown]


def test_several_text_tokens_in_a_step_take_fewer_passes():
    *_, single, several = tiny(text_per_step=2).contestants
    assert (several.name, several.ahead) == (f"{TMT}, 2 text tokens per step", True)
    plain, fast = (play(contestant, range(30), 0) for contestant in (single, several))
    assert fast.num_passes < 0.7 * plain.num_passes
    assert len(fast.steps) == len(plain.steps) == 30
    assert {step.num_text for step in fast.steps} == {30}
    assert 2 < len(fast.tokens) / 30 < 11
    found = figures(several, [fast], fast, 1.0)
    assert (found["fpl_l_paper_ms"], found["fpl_l_pipelined_ms"]) == (None, None)
    assert found["fpl_a_ms"] > 0


def test_the_weights_of_a_model_trained_with_the_papers_mask(tmp_path):
    shape = tiny().contestants[-1].model.config
    for mask in ("prefix", "paper"):
        model = Tmt(replace(shape, mask=mask))
        checkpoint.save(tmp_path / mask, model, model.config)
    assert published(tmp_path / "paper", shape).config.mask == "paper"
    with pytest.raises(ConfigError, match="trained with the mask prefix"):
        published(tmp_path / "prefix", shape)
    with pytest.raises(ConfigError, match="num_speech_tokens"):
        published(tmp_path / "paper", replace(shape, num_speech_tokens=7))


def test_peak_memory_is_of_the_work():
    found, peak = peak_mib(CPU, lambda: torch.zeros(40 << 18).sum().item())
    assert found == 0
    assert peak == pytest.approx(40, abs=8)


def test_decoder_and_vocoder_are_timed_chunk_by_chunk():
    config = TtsConfig()
    flow, vocoder = tts.load_flow(config, "cpu"), tts.load_vocoder(config, "cpu")
    given = []
    step = flow.step
    flow.step = lambda tokens, state, *, last=False: given.append(tokens.shape[1]) or step(tokens, state, last=last)
    tokens = [np.arange(2 * flow.config.chunk_tokens + 1)]
    assert decoding_cost(flow, vocoder, tokens, 1) > 0
    assert given[1:] == 2 * [flow.config.chunk_tokens, flow.config.chunk_tokens, 1]


def test_more_heads_and_nodes_are_accepted_more_often():
    accepted = []
    for knobs in ({"num_heads": 4, "nodes": 8}, {"num_heads": 6, "nodes": 128}):
        drafted = tiny(**knobs).contestants[1]
        played = play(drafted, range(40), 0)
        accepted.append(played.num_accepted / played.num_drafted)
    assert 0.5 < accepted[0] < accepted[1]


def test_text_is_handed_over_when_it_is_needed():
    plain, _, _, tmt = tiny().contestants
    assert [step.num_text for step in play(plain, range(12), 0).steps][:3] == [5, 10, 12]
    played = play(tmt, range(6), 0)
    assert [step.num_text for step in played.steps] == [2, 3, 4, 5, 6, 6]
    assert played.num_passes == 7


def test_first_packet_latency():
    steps = [Step(2, 0.010, 6), Step(3, 0.002, 6), Step(4, 0.002, 6), Step(5, 9.0, 6)]
    assert first_packet(steps, 0.0, pipelined=False) == pytest.approx(0.014)
    assert first_packet(steps, 0.025, pipelined=False) == pytest.approx(0.050 + 0.014)
    assert first_packet(steps, 0.025, pipelined=True) == pytest.approx(0.102)
    assert first_packet(steps[:1], 0.025, pipelined=True) == pytest.approx(0.060)


def test_cost_of_a_part_of_the_speech():
    steps = [Step(1, 0.1, 25), Step(2, 0.2, 25), Step(3, 0.3, 50)]
    assert window_cost(steps, 0.0, 2.0) == pytest.approx(0.15)
    assert window_cost(steps, 2.0, 9.0) == pytest.approx(0.15)
    assert window_cost(steps, 1.0, 9.0) == pytest.approx(0.5 / 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--texts", "0"], "--texts 0"),
        (["--words", "-1"], "--words -1"),
        (["--long", "1"], "--long 1"),
        (["--grid"], "train small interleaved vadusa"),
        (["--grid", "64", "0"], "at least 1 node"),
        (["--paper", "weights"], "train small interleaved vadusa"),
        (["--words", "3"], "train small interleaved vadusa"),
        (["--device", "cuda"], "no GPU"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tts, "ASSETS", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "tts", "--report", str(tmp_path / "report"), *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "report").exists()
