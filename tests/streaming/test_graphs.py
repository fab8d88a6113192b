"""Recorded steps say what the models say. The recordings are a CUDA graph's stand-in: frozen operators on frozen memory."""

import copy
import logging
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

import tts
from configs.schema import RuntimeConfig, TtsConfig
from tests.graph_tape import TapeCapture
from tests.streaming import test_flow, test_interleaved, test_vadusa, test_vocoder
from tests.streaming.test_flow import PROMPT, PROMPT_MEL, SPEAKER, TOKENS
from tests.tmt import TEXT, make, stream
from tts.base import PcmChunk
from tts.modules.graphs import Graphs, outside
from tts.stream import primed


@dataclass
class Sums:
    """What a function remembers: a running sum of fixed shape, and rows that become more."""

    total: torch.Tensor = field(default_factory=lambda: torch.zeros(3))
    rows: list[torch.Tensor] = field(default_factory=list)

    def tensors(self) -> list[torch.Tensor]:
        return [self.total]

    def caches(self) -> list[list[torch.Tensor]]:
        return [self.rows]

    def clone(self) -> "Sums":
        return Sums(self.total.clone(), list(self.rows))


def step(x: torch.Tensor, sums: Sums) -> torch.Tensor:
    """x (N, 3): the running sum, and how many rows there are by now."""
    sums.total += (2 * x).sum(dim=0)
    doubled = x * 2

    def count(rows: list[torch.Tensor]) -> torch.Tensor:
        rows.append(doubled.clone())
        return torch.full_like(x, len(rows)) + rows[0]

    return outside(count, sums.rows) + sums.total


def values(count: int, size: int = 2) -> list[torch.Tensor]:
    return list(torch.randn(count, size, 3, generator=torch.Generator().manual_seed(count)))


def taught(function=step) -> Graphs:
    graphs = Graphs(function, "sum", capture=TapeCapture)
    with graphs.learning():
        graphs([values(1)[0]], Sums())
    return graphs


@torch.inference_mode()
def test_what_is_remembered_belongs_to_its_owner():
    graphs, ours, theirs = taught(), [Sums(), Sums()], [Sums(), Sums()]
    before = TapeCapture.num_played
    for number, x in enumerate(values(9)):
        who = number % 2
        assert torch.equal(graphs([x], ours[who]), step(x, theirs[who]))
        assert torch.equal(ours[who].total, theirs[who].total)
    assert TapeCapture.num_played == before + 18  # two graphs a step, a call between
    assert [len(sums.rows) for sums in ours] == [5, 4]


@torch.inference_mode()
def test_a_result_is_the_callers_own():
    graphs, sums = taught(), Sums()
    first = graphs([values(2)[0]], sums)
    kept = first.clone()
    graphs([values(2)[1]], sums)
    assert torch.equal(first, kept)


@torch.inference_mode()
def test_other_shapes_and_other_threads_do_without():
    graphs, before = taught(), TapeCapture.num_played
    (long,) = values(1, size=5)
    assert torch.equal(graphs([long], Sums()), step(long, Sums()))
    found = []

    def other() -> None:
        with torch.inference_mode():
            found.append(graphs([values(1)[0]], Sums()))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert torch.equal(found[0], step(values(1)[0], Sums()))
    assert TapeCapture.num_played == before
    with graphs.learning():
        graphs([long], Sums())
    assert graphs.num_recordings == 2


@torch.inference_mode()
def test_a_function_that_no_graph_can_hold_is_left_as_it_is(caplog):
    calls = []

    def counts(x: torch.Tensor, sums: Sums) -> torch.Tensor:
        calls.append(x)
        return x + len(calls)  # a number that the recording would keep

    with caplog.at_level(logging.WARNING):
        graphs = taught(counts)
    assert graphs.num_recordings == 0
    assert "computes something else" in caplog.text
    calls.clear()
    assert torch.equal(graphs([torch.zeros(2, 3)], Sums()), torch.ones(2, 3))


@torch.inference_mode()
def test_a_recording_that_fails_is_told_and_done_without(caplog):
    class Failing(TapeCapture):
        def end(self):
            super().end()
            raise RuntimeError("operation not permitted when stream is capturing\nand so on")

    graphs = Graphs(step, "sum", capture=Failing)
    with caplog.at_level(logging.WARNING), graphs.learning():
        found = graphs([values(1)[0]], Sums())
    assert "no CUDA graph of the sum: operation not permitted when stream is capturing; it runs without" in caplog.text
    assert torch.equal(found, step(values(1)[0], Sums()))
    assert torch.equal(graphs([values(1)[0]], Sums()), found)


@pytest.mark.parametrize("config", [test_flow.BOUNDED, test_flow.GUIDED], ids=["bounded", "guided"])
@pytest.mark.parametrize("first_chunks", [(), (2, 3)])
def test_the_decoder(config, first_chunks):
    plain, recorded = test_flow.build(config), test_flow.build(config)
    start = plain.start(SPEAKER, PROMPT, PROMPT_MEL, first_chunks=first_chunks)
    recorded.use_graphs(start, TapeCapture)
    assert recorded.graphs.num_recordings == recorded.encoder.graphs.num_recordings == 1 + len(first_chunks)
    before, mels = TapeCapture.num_played, []
    for flow in (plain, recorded):
        states = start.clone(), start.clone()
        pieces = [
            flow.step(piece if who == 0 else piece.flip(1), state, last=end == 47)
            for end, piece in zip(
                [3, 7, 11, 12, 30, 34, 40, 47], TOKENS.split([3, 4, 4, 1, 18, 4, 6, 7], dim=1), strict=True
            )
            for who, state in enumerate(states)
        ]
        mels.append(torch.cat(pieces, dim=2))
    assert mels[0].shape[2] == 2 * 2 * 47
    assert (mels[0] - mels[1]).abs().max() < 1e-5
    assert TapeCapture.num_played > before + 20


@torch.inference_mode()
@pytest.mark.parametrize("config", [test_flow.BOUNDED, test_flow.GUIDED], ids=["bounded", "guided"])
def test_the_decoders_encoder_sees_as_far_as_without(config):
    """The distances to past frames become more after the recording was made: every chunk, of twice what was taught."""
    plain, recorded = test_flow.build(config), test_flow.build(config)
    recorded.use_graphs(plain.start(SPEAKER), TapeCapture)
    state, other = plain.start(SPEAKER), recorded.start(SPEAKER)
    size, ahead = config.chunk_tokens, config.lookahead_tokens
    before = TapeCapture.num_played
    for start in range(0, 40, size):
        tokens, context = TOKENS[:, start : start + size], TOKENS[:, start + size : start + size + ahead]
        wanted = plain.encode(tokens, context, chunked=True, sizes=[size], state=state)
        found = recorded.encode(tokens, context, chunked=True, sizes=[size], state=other)
        assert (found - wanted).abs().max() < 1e-5
    graphs_of_one = 1 + config.encoder.num_blocks + config.encoder.num_up_blocks
    assert TapeCapture.num_played == before + 40 // size * graphs_of_one


@pytest.mark.parametrize("kind", [False, True], ids=["public", "causal"])
@pytest.mark.parametrize("pieces", [[20], [4, 10, 30]])
@torch.inference_mode()
def test_the_vocoder(kind, pieces):
    plain = test_vocoder.make_causal() if kind else test_vocoder.make_public()
    recorded = copy.deepcopy(plain)
    start = primed(plain, seed=3)
    recorded.use_graphs(start, pieces, TapeCapture)
    mel = test_vocoder.random_mel(frames=sum(pieces) + 5 * pieces[-1] + 4)
    before, sounds, played = TapeCapture.num_played, [], []
    for vocoder in (plain, recorded):
        states = start.clone(), start.clone()  # of two utterances that take turns
        found: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        parts = mel.split([*pieces, *[pieces[-1]] * 5, 4], dim=2)
        for number, part in enumerate(parts):
            for who, state in enumerate(states):
                last = number + 1 == len(parts)
                found[who].append(vocoder.stream(part if who == 0 else part.flip(2), state, last=last))
        sounds.append(torch.cat([torch.cat(one, dim=1) for one in found], dim=1))
        played.append(TapeCapture.num_played - before)
    assert sounds[0].shape[1] > 2 * 480 * (mel.shape[2] - 1)
    assert (sounds[0] - sounds[1]).abs().max() < 1e-5
    speaking = [
        number for number in range(1, len(pieces) + 6) if kind or sum(parts[n].shape[2] for n in range(number)) > 18
    ]
    assert played == [0, 2 * len(speaking)]  # each piece but the last, which has another length, is one graph


@pytest.mark.parametrize("window", [0, 4])
def test_the_text_to_token_model(window):
    plain, recorded = make(window=window), make(window=window)
    recorded.use_graphs(TapeCapture)
    before = TapeCapture.num_played
    for lookahead in (1, 5):
        wanted, _ = stream(plain, TEXT, lookahead, [1, 3, 1, 2], top_k=1)
        assert stream(recorded, TEXT, lookahead, [1, 3, 1, 2], top_k=1)[0] == wanted
    passes = 2 * (len(TEXT) + 1)
    assert TapeCapture.num_played >= before + passes * plain.config.num_layers


@pytest.mark.parametrize("nodes", [0, 12])
def test_the_interleaved_model_with_and_without_drafts(nodes):
    plain, recorded = test_interleaved.make(), test_interleaved.make()
    recorded.use_graphs(TapeCapture, num_positions=(1, nodes) if nodes else (1,))
    before = TapeCapture.num_played
    found = [
        test_vadusa.utterance(
            model, [1, 4, 2], test_vadusa.drafter(model, num_heads=4, num_nodes=nodes) if nodes else None, seed=5
        )
        for model in (plain, recorded)
    ]
    assert found[0][0] == found[1][0]
    assert TapeCapture.num_played > before + 10


def test_the_whole_synthesiser():
    synthesizer = tts.build(
        TtsConfig(duration_top_k=1, num_flow_steps=1, match_timbre=True), RuntimeConfig(device="cpu")
    )

    def said() -> np.ndarray:
        made = synthesizer.stream(share_ids=False)
        made.push(0, "Once there was a little whale named Oscar.")
        made.finish()
        steps = iter(made.step, None)
        return np.concatenate([chunk.samples for chunk in steps if isinstance(chunk, PcmChunk)])

    wanted, before = said(), TapeCapture.num_played
    synthesizer.use_graphs(TapeCapture)
    learnt = TapeCapture.num_played
    np.testing.assert_allclose(said(), wanted, atol=2e-3)
    assert TapeCapture.num_played - learnt > learnt - before > 0
