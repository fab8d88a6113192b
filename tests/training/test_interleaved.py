"""The interleaved model's trainer: it learns, its batches depend on the step alone, its export decodes."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from app.small.loop import LoopConfig, train
from tts.interleaved.config import InterleavedConfig, small_config
from tts.interleaved.decode import DecodeOptions, InterleavedDecoder
from tts.interleaved.model import TIED_HEAD, InterleavedLm
from tts.interleaved.sampling import greedy
from tts.interleaved.sequence import IGNORED
from tts.tmt.config import TmtConfig
from tts.tmt.config import small_config as small_tmt
from tts.tmt.model import Tmt
from tts.training.interleaved import InterleavedTask, InterleavedTraining
from tts.training.tmt import TimedText, TmtExample, TmtTask, TmtTraining

CONFIG = InterleavedConfig(
    text_vocab_size=32, num_speech_tokens=27, dim=64, num_layers=2, num_heads=4, num_kv_heads=2, ff_dim=96
)
PIECES = [b" " + bytes([97 + i % 26]) * (1 + i // 26) for i in range(32)]
TRAINING = InterleavedTraining(batch_positions=1600, joined=(1.0,), dropout=0.0)
SPOKEN = 4  # speech tokens of a text token


def utterances(count: int, seed: int) -> list[TmtExample]:
    """A made-up language: speech tokens that count up from the text token's own."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ids = rng.integers(0, 8, rng.integers(4, 9))
        tokens = (3 * ids[:, None] + np.arange(SPOKEN)).ravel() % 27
        text = TimedText(ids.astype(np.int32), np.full(len(ids), SPOKEN, np.int16))
        made.append(TmtExample(text, text, tokens.astype(np.int16)))
    return made


def make(training: InterleavedTraining = TRAINING, count: int = 200) -> InterleavedTask:
    return InterleavedTask(CONFIG, PIECES, utterances(count, 0), utterances(20, 1), training)


def test_it_learns_and_the_export_decodes(tmp_path: Path) -> None:
    trained = make()
    before = trained.evaluate()
    loop = LoopConfig(steps=150, learning_rate=4e-3, warmup_steps=10, device="cpu", average_decay=0.9)
    after = train(trained, loop, tmp_path / "work", tmp_path / "out", progress_bar=False)
    for form in ("", "complete_"):
        assert before[f"{form}token_accuracy"] < 0.2
        assert after[f"{form}token_accuracy"] > 0.8
        assert after[f"{form}token_ce"] < 0.3 * before[f"{form}token_ce"]

    model = InterleavedLm.load(tmp_path / "out")
    assert model.config == CONFIG
    for interleaved in (True, False):
        right = total = 0
        for utterance in utterances(10, 2):
            decoder = InterleavedDecoder(model, DecodeOptions(choose=greedy, interleaved=interleaved))
            for token in utterance.first.ids:
                decoder.push(int(token))
            decoder.finish()
            said: list[int] = []
            while (block := decoder.step()) is not None:
                said += block.tokens.tolist()
            total += len(utterance.tokens)
            right += sum(mine == true for mine, true in zip(said, utterance.tokens.tolist(), strict=False))
        assert right / total > 0.6, interleaved


def test_folding_keeps_the_result_and_the_export_has_no_text_output(tmp_path: Path) -> None:
    trained = make()
    trained.module.eval()
    ids, targets = trained.batches.train(0)
    with torch.no_grad():
        expected = trained.module(ids, targets != IGNORED)
        plain = trained.module.folded().eval()
        made = plain.llm_decoder(plain(plain.embed(ids)))[targets != IGNORED]
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)
    trained.export(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(plain.state_dict()) - set(file.keys()) == {TIED_HEAD}
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118


def test_batches_depend_on_the_step_alone() -> None:
    walked, jumped = make(), make()
    for step in range(20):
        last = walked.batches.train(step)
    for mine, other in zip(last, jumped.batches.train(19), strict=True):
        assert torch.equal(mine, other)
    for mine, other in zip(walked.batches.train(0), jumped.batches.train(0), strict=True):
        assert torch.equal(mine, other)


def test_half_of_the_sequences_are_interleaved() -> None:
    trained = make()
    rows = [row for step in range(40) for row in trained.batches.train(step).targets]
    share = np.mean([bool((row == CONFIG.fill).any()) for row in rows])
    # texts of 4 tokens, a fifth of all, have no full group in either form
    assert 0.3 < share < 0.5
    assert all((row == CONFIG.eos).sum() == 1 for row in rows)


def test_slow_text_is_not_interleaved() -> None:
    short = [TmtExample(u.first, u.later, u.tokens[: 3 * len(u.first.ids)]) for u in utterances(20, 0)]
    trained = InterleavedTask(CONFIG, PIECES, short, short, dataclasses.replace(TRAINING, interleaved_share=1.0))
    assert not (trained.batches.train(0).targets == CONFIG.fill).any()


def test_every_speech_token_is_a_target_once() -> None:
    trained = make()
    batch = trained.batches.train(0)
    spoken = sum(len(trained.batches._examples[i].tokens) for group in trained.batches.plan.groups(0) for i in group)
    assert ((batch.targets >= 0) & (batch.targets < CONFIG.eos)).sum() == spoken
    assert batch.targets.shape == batch.ids.shape


def test_a_step_has_the_utterances_of_the_other_model_s_step() -> None:
    tmt = TmtConfig(text_vocab_size=32, num_speech_tokens=27, dim=16, num_layers=1, num_heads=2, ff_dim=16)
    other = TmtTask(tmt, PIECES, utterances(200, 0), [], TmtTraining())
    ours = make(InterleavedTraining())
    for step in range(5):
        assert ours.batches.plan.groups(step) == other.plan.groups(step)


def test_the_small_model_is_as_large_as_the_one_it_is_compared_with() -> None:
    count = lambda model: sum(p.numel() for p in model.parameters())
    ours = count(InterleavedLm(small_config(text_vocab_size=2048, num_speech_tokens=729)))
    theirs = count(Tmt(small_tmt(text_vocab_size=2048, num_speech_tokens=729)))
    assert 0.95 < ours / theirs < 1.1
