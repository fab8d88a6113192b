"""The temporal masked transformer's trainer: it learns, its batches depend on the step alone, its export decodes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tts.alignment.durations import MisalignedError
from tts.tmt.config import TmtConfig, small_config
from tts.tmt.decode import DecodeOptions, TmtDecoder
from tts.tmt.layout import Field, TrainingSequence, one_step
from tts.tmt.model import Tmt
from tts.training.shared_parts import speech_parts, text_parts
from tts.training.tmt import TimedText, TmtExample, TmtTask, TmtTraining, example, task

CONFIG = TmtConfig(
    text_vocab_size=32,
    num_speech_tokens=27,
    num_duration_classes=8,
    dim=64,
    num_layers=2,
    num_heads=2,
    ff_dim=96,
    window=8,
    max_lookahead=8,
    index_slots=16,
    frame_embeddings=True,
)
PIECES = [b" " + bytes([97 + i % 26]) * (1 + i // 26) for i in range(32)]
TRAINING = TmtTraining(batch_positions=1200, lookaheads={1: 0.7, 8: 0.3}, dropout=0.0)


def spoken(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A made-up language: durations, and speech tokens that count up from the text token's own."""
    durations = ids % 4
    durations[-1] = 2
    tokens = [(3 * i + k) % 27 for i, length in zip(ids, durations, strict=True) for k in range(length)]
    return durations, np.array(tokens)


def utterances(count: int, seed: int) -> list[TmtExample]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ids = rng.integers(0, 32, rng.integers(4, 9))
        durations, tokens = spoken(ids)
        made.append(TmtExample(TimedText(ids, durations), TimedText(ids, durations), tokens))
    return made


def make(training: TmtTraining = TRAINING) -> TmtTask:
    return task(CONFIG, PIECES, utterances(200, 0), utterances(20, 1), training)


def test_it_learns_and_the_export_decodes(tmp_path: Path) -> None:
    trained = make()
    optimizer = torch.optim.AdamW(trained.module.parameters(), lr=4e-3, betas=(0.9, 0.95))
    trained.module.train()
    before = trained.evaluate()
    for step in range(140):
        loss, _ = trained.loss(step, step / 140)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained.module.eval()
    after = trained.evaluate()
    assert before["token_accuracy"] < 0.2
    assert after["token_accuracy"] > 0.9
    assert after["duration_error"] < 0.4

    trained.export(tmp_path)
    model = Tmt.load(tmp_path)
    assert model.config == CONFIG
    right = total = 0
    for utterance in utterances(10, 2):
        decoder = TmtDecoder(model, DecodeOptions(top_k=1))
        for token in utterance.first.ids:
            decoder.push(int(token))
        decoder.finish()
        said = []
        while (block := decoder.step()) is not None:
            said.append(block.tokens)
        ends = np.cumsum(utterance.first.durations)[:-1]
        for mine, true in zip(said, np.split(utterance.tokens, ends), strict=True):
            right += len(mine) == len(true) and (mine == true).all()
            total += 1
    assert right / total > 0.7


def test_the_papers_mask_trains_one_step_of_each_sequence() -> None:
    config = dataclasses.replace(CONFIG, mask="paper")
    trained = task(config, PIECES, utterances(200, 0), utterances(20, 1), dataclasses.replace(TRAINING, joined=(1.0,)))
    optimizer = torch.optim.AdamW(trained.module.parameters(), lr=4e-3, betas=(0.9, 0.95))
    before = trained.evaluate()
    for step in range(60):
        loss, _ = trained.loss(step, step / 60)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = trained.evaluate()
    assert after["token_ce"] < 0.7 * before["token_ce"]
    assert after["duration_ce"] < 0.7 * before["duration_ce"]
    batch = trained._train_batch(0, alternate=False)
    for rows, speech, duration in zip(batch.rows, batch.speech_target, batch.duration_target, strict=True):
        assert len(set(rows[Field.INDEX, speech >= 0].tolist())) <= 1
        assert (duration >= 0).sum() <= 1


def test_a_batch_without_a_kind_of_target_has_a_finite_loss() -> None:
    trained = make()
    rows, speech, duration = one_step(CONFIG, np.array([1, 2]), np.array([1, 2]), np.arange(3), 1, 0)
    batch = trained._collate([TrainingSequence(rows, speech, duration)])
    speech_loss, duration_loss, figures = trained._losses(batch)
    assert speech_loss == 0
    assert duration_loss > 0
    assert np.isfinite(list(figures.values())).all()


def test_folding_keeps_the_result() -> None:
    trained = make()
    trained.module.eval()
    batch = trained._train_batch(0, alternate=False)
    with torch.no_grad():
        hidden = trained.module.tmt(batch.rows, batch.mask, table=trained.module.table())
        expected = hidden @ trained.module.head_weight().T
        plain = trained.module.folded().eval()
        torch.testing.assert_close(plain.speech_head(plain(batch.rows, batch.mask)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("alternate", [True, False])
def test_batches_depend_on_the_step_alone(alternate: bool) -> None:
    walked, jumped = make(), make()
    for step in range(30):
        last = walked._train_batch(step, alternate)
    first = walked._train_batch(0, alternate)
    for mine, other in zip(last, jumped._train_batch(29, alternate), strict=True):
        assert torch.equal(mine, other)
    for mine, other in zip(first, jumped._train_batch(0, alternate), strict=True):
        assert torch.equal(mine, other)


def test_an_epoch_uses_every_utterance_once_within_the_batch_size() -> None:
    planned = make().plan.epoch(3)
    used = [utterance for batch in planned for sequence in batch for utterance in sequence]
    assert sorted(used) == list(range(200))
    assert {len(sequence) for batch in planned for sequence in batch} == {1, 2, 3}
    trained = make()
    for step in range(len(planned)):
        rows = trained._train_batch(step, alternate=False).rows
        assert rows.shape[0] * rows.shape[2] <= TRAINING.batch_positions


def test_every_block_and_duration_is_a_target_once_per_packed_sequence() -> None:
    trained = make(dataclasses.replace(TRAINING, joined=(1.0,), shown_share=0.0))
    batch = trained._train_batch(0, alternate=False)
    sizes = [trained._examples[i] for group in trained.plan.groups(0) for i in group]
    assert (batch.speech_target >= 0).sum() == sum(len(u.tokens) for u in sizes)
    assert (batch.duration_target >= 0).sum() == sum(len(u.first.ids) for u in sizes)


def test_example_from_an_aligned_utterance() -> None:
    pieces = [b"hi", b" hi", b"."]
    made = example("hi.", [("hi.", 0.0, 0.4)], [], np.arange(15), lambda t: [1, 2] if t[0] == " " else [0, 2], pieces)
    assert made.first.ids.tolist() == [0, 2]
    assert made.later.ids.tolist() == [1, 2]
    assert made.first.durations.tolist() == [10, 5]
    with pytest.raises(MisalignedError, match="'ho' where the text has 'hi'"):
        example("hi.", [("ho.", 0.0, 0.4)], [], np.arange(15), lambda _: [0, 2], pieces)


def test_inconsistent_utterances_are_refused() -> None:
    broken = TmtExample(*[TimedText(np.array([1]), np.array([2]))] * 2, np.array([1]))
    with pytest.raises(ValueError, match="sum"):
        task(CONFIG, PIECES, [broken], [])


def test_parts_are_shared_by_variants_of_a_word() -> None:
    lower, capital, spaced = (set(text_parts(p)) for p in (b"hello", b"Hello", b" hello"))
    assert lower < capital
    assert lower < spaced
    assert len(set(map(tuple, speech_parts(27)))) == 27
    assert speech_parts(10) == [[]] * 10


def test_the_small_model_fits_its_budget() -> None:
    model = Tmt(small_config(text_vocab_size=2048, num_speech_tokens=729))
    assert sum(p.numel() for p in model.parameters()) * 2 < 15e6
