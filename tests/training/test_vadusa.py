"""The draft heads' trainer: it learns with the model at rest and together with it, and its export saves passes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from app.small.loop import LoopConfig, train
from tests.training.test_interleaved import CONFIG, TRAINING, make, utterances
from tts.base import CheckpointError
from tts.interleaved.decode import DecodeOptions, InterleavedDecoder
from tts.interleaved.drafts import Drafter, DraftHeads
from tts.interleaved.model import InterleavedLm
from tts.interleaved.sampling import greedy
from tts.interleaved.sequence import IGNORED, interleaved
from tts.training.drafts import DraftTask, DraftTraining, draft_targets

LOOP = LoopConfig(steps=60, learning_rate=4e-3, warmup_steps=10, device="cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the made-up language, trained for a moment."""
    folder = tmp_path_factory.mktemp("base")
    loop = dataclasses.replace(LOOP, steps=120, average_decay=0.9)
    train(make(), loop, folder / "work", folder / "out", progress_bar=False)
    return folder / "out"


def task(base: Path, **options: object) -> DraftTask:
    training = DraftTraining(sequences=TRAINING, **options)
    return DraftTask(InterleavedLm.load(base), utterances(200, 0), utterances(20, 1), training)


def spoken(model: InterleavedLm, drafter: Drafter | None) -> tuple[list[list[int]], int]:
    """Speech of some utterances and the passes that it took."""
    said, passes = [], 0
    for utterance in utterances(6, 2):
        decoder = InterleavedDecoder(model, DecodeOptions(choose=greedy), drafter=drafter)
        for token in utterance.first.ids:
            decoder.push(int(token))
        decoder.finish()
        tokens = []
        while (block := decoder.step()) is not None:
            tokens += block.tokens.tolist()
        said.append(tokens)
        passes += decoder.state.num_passes
    return said, passes


@pytest.mark.parametrize("together", [False, True])
def test_it_learns_and_the_export_saves_passes(base: Path, tmp_path: Path, together: bool) -> None:
    trained = task(base, num_heads=4, together=together)
    before = trained.evaluate()
    after = train(trained, LOOP, tmp_path / "work", tmp_path / "out", progress_bar=False)
    for number in range(1, 5):
        assert after[f"head_{number}_accuracy"] > before[f"head_{number}_accuracy"]
    # A token is the one before plus one, or begins the next text token's four: head 1 can know half of them or more.
    assert after["head_1_accuracy"] > 0.6
    assert after["accepted"] > 2 * before["accepted"]

    heads = DraftHeads.load(tmp_path / "out")
    assert heads.config.accuracies == trained.accuracies()
    assert [head[0] for head in heads.config.accuracies] == [after[f"head_{number}_accuracy"] for number in range(1, 5)]
    assert all(0 < sum(head) < 1.001 for head in heads.config.accuracies)
    tuned = tmp_path / "out" / "interleaved"
    assert tuned.exists() == together
    model = InterleavedLm.load(tuned if together else base)
    drafted, plain = spoken(model, Drafter(heads)), spoken(model, None)
    assert drafted[0] == plain[0]
    assert drafted[1] < 0.6 * plain[1]


@pytest.mark.parametrize("together", [False, True])
def test_the_model_is_trained_only_together_with_the_heads(base: Path, together: bool) -> None:
    trained = task(base, together=together)
    trained.loss(0, 0.0)[0].backward()
    gradients = [parameter.grad for parameter in trained.module.lm.parameters()]
    assert all(gradient is None for gradient in gradients) != together
    assert trained.module.lm.llm_decoder.weight.requires_grad == together
    assert trained.module.heads.heads[5].block.weight.grad is not None
    assert set(trained.loss(1, 0.0)[1]) == {"draft_ce", *(["token_ce"] if together else [])}


def test_untrained_heads_guess_what_the_model_says_next(base: Path) -> None:
    module = task(base).module
    hidden = torch.randn(5, CONFIG.dim)
    expected = module.lm.llm_decoder(hidden)[:, :27] - module.lm.llm_decoder.bias[:27]
    for logits in module.heads(hidden):
        torch.testing.assert_close(logits, expected)
    assert module.heads(hidden, 4).shape == (4, 5, 27)


def test_heads_that_have_learnt_are_gone_on_with(base: Path) -> None:
    model, learnt = InterleavedLm.load(base), DraftHeads(dataclasses.replace(task(base).config, num_heads=6))
    options = DraftTraining(sequences=TRAINING, num_heads=4, together=True)
    module = DraftTask(model, utterances(20, 0), utterances(5, 1), options, learnt).module
    hidden = torch.randn(5, CONFIG.dim)
    torch.testing.assert_close(module.heads(hidden), learnt(hidden, 4))
    more = dataclasses.replace(options, num_heads=7)
    with pytest.raises(CheckpointError, match=r"6 draft heads of width .* the training of 7"):
        DraftTask(model, utterances(20, 0), utterances(5, 1), more, learnt)


def test_heads_look_ahead_within_speech_only() -> None:
    text, speech = np.arange(7), np.arange(24)
    _, own = interleaved(CONFIG, text, speech)
    targets = torch.from_numpy(own)[None].repeat(2, 1)
    targets[1, 30:] = IGNORED  # padding
    first = 5  # the position of a group's last text token, which the group's first speech token follows
    last = 1 + 5 + 15 + 2  # that of the task id
    for ahead in (1, 3, 6):
        drafted = draft_targets(targets, ahead, 27)
        expected = np.full(len(own), IGNORED)
        expected[first : first + 15 - ahead] = speech[ahead:15]
        expected[last : last + 9 - ahead] = speech[15 + ahead :]
        assert drafted[0].tolist() == expected.tolist()
        assert drafted[1, :30].tolist() == [*expected[: 30 - ahead], *[IGNORED] * ahead]
        assert (drafted[1, 30:] == IGNORED).all()
    assert (draft_targets(targets[:, :3], 6, 27) == IGNORED).all()


def test_accuracies_count_every_candidate_once(base: Path) -> None:
    trained = task(base, num_heads=2)
    trained.module.eval()
    table = trained.accuracies()
    right = np.zeros((2, 10))
    total = np.zeros(2)
    for form in (True, False):
        for batch, _ in trained.batches.held_out(interleaved=form):
            hidden, _ = trained._hidden(batch)
            for number in range(2):
                drafted = draft_targets(batch.targets, number + 1, 27)
                for row, position in (drafted != IGNORED).nonzero().tolist():
                    order = trained.module.heads.heads[number](hidden[row, position]).argsort(descending=True)[:10]
                    right[number] += (order == drafted[row, position]).numpy()
                    total[number] += 1
    np.testing.assert_allclose(table, right / total[:, None], atol=2e-3)
