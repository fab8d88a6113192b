"""The trainer of the small chat model."""

import itertools
import json
import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from app.small.loop import LoopConfig, train
from llm.folder import BUNDLED_FOLDER, check
from llm.training.qwen import USER_WEIGHT, Batch, QwenTraining, task
from llm.training.score import HELD_OUT, Question, read_questions
from llm.training.vocabulary import NUM_IDS
from llm.training.vocabulary import train as train_vocabulary
from llm.vocabulary import MESSAGE_END, Vocabulary

TINY = QwenTraining(
    width=64, num_layers=2, num_heads=2, num_key_value_heads=1, head_dim=32, feed_forward=96, num_rows=3
)
PROSE = ["The moon rose above the old harbor.", "Nobody had seen the captain since Monday."]
QUESTION = Question(turns=("what is two plus two",), needs=(("four", "4"),))


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(BUNDLED_FOLDER)


def make(vocabulary, **changes):
    torch.manual_seed(0)
    values = {name: getattr(TINY, name) for name in TINY.__dataclass_fields__}
    return task(vocabulary, PROSE, [QUESTION], QwenTraining(**(values | changes)))


def test_batches_depend_on_the_step_alone(vocabulary):
    first, second = make(vocabulary), make(vocabulary)
    second.batch(3)
    for name in Batch.__dataclass_fields__:
        assert torch.equal(getattr(first.batch(7), name), getattr(second.batch(7), name))
    assert not torch.equal(first.batch(7).ids_BL, first.batch(8).ids_BL)


def test_the_loss_is_on_replies_and_lightly_on_users(vocabulary):
    batch = make(vocabulary, prose_share=0.0).batch(1)
    ids, weights = batch.ids_BL[0], batch.weights_BL[0]
    (end,) = vocabulary.encode(MESSAGE_END)
    replies = vocabulary.detokenizer()
    text = "".join(replies.push(int(i)) for i in ids[weights == 1.0])
    assert text.count(MESSAGE_END) >= 3
    assert "<|im_start|>" not in text
    assert "assistant\n" not in text
    assert sorted(set(weights.tolist())) == pytest.approx([0.0, USER_WEIGHT, 1.0])
    assert (weights[ids == end] == 1.0).any()  # where to stop is learnt too


def test_held_out_questions_are_left_out_of_the_batches(vocabulary):
    text = vocabulary.detokenizer().push
    said = {
        line.split("<|im_end|>")[0].strip()
        for seed in range(4)
        for row in make(vocabulary, prose_share=0.0).batch(seed).ids_BL
        for line in "".join(text(int(i)) for i in row).split("<|im_start|>user\n")[1:]
    }
    frequent = sorted(said)[:40]
    questions = [Question(turns=(line,), needs=()) for line in frequent[:20]]
    trainer = task(vocabulary, PROSE, questions, TINY, unseen=frequent[20:])
    assert len(frequent) == 40
    for seed in range(4):
        drawn = "".join(text(int(i)) for row in trainer.batch(seed).ids_BL for i in row)
        assert not any(f"<|im_start|>user\n{line}<|im_end|>" in drawn for line in frequent)


def test_packed_conversations_do_not_see_each_other(vocabulary):
    trainer = make(vocabulary)
    trainer.module.eval()
    batch = trainer.batch(2)
    row = slice(0, 1)
    alone = batch.owner_BL[0] == 2
    changed = batch.ids_BL.clone()
    changed[0, batch.owner_BL[0] == 1] = 5  # another first conversation
    weights = torch.where(batch.owner_BL[row] == 2, batch.weights_BL[row], 0.0)
    assert alone.any()
    assert (weights > 0).any()

    def loss(ids):
        packed = Batch(ids[row], batch.positions_BL[row], weights, batch.owner_BL[row])
        return trainer._cross_entropy(packed)

    assert torch.equal(loss(batch.ids_BL), loss(changed))
    cut = [value[row][:, alone] for value in (batch.ids_BL, batch.positions_BL, batch.weights_BL, batch.owner_BL)]
    assert trainer._cross_entropy(Batch(*cut)).item() == pytest.approx(loss(batch.ids_BL).item(), rel=0.02)  # bfloat16


def test_training_lowers_the_loss_and_exports_what_transformers_loads(vocabulary, tmp_path):
    trainer = make(vocabulary)
    before = trainer.evaluate()["cross_entropy"]
    loop = LoopConfig(steps=25, learning_rate=3e-3, warmup_steps=3, checkpoint_every=100, evaluate_every=100)
    figures = train(trainer, loop, tmp_path / "work", tmp_path / "out", progress_bar=False)
    assert figures["cross_entropy"] < before - 1.0
    check(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = trainer.batch(1).ids_BL
    with torch.no_grad():
        expected, got = trainer.module(ids).logits, model(ids).logits
    assert torch.allclose(got, expected, atol=0.05)  # stored in float16
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["model_type"] == "qwen3"
    assert vocabulary.encode(MESSAGE_END) == [values["eos_token_id"]]


def test_the_vocabulary_is_the_same_for_the_same_text_and_fits_qwens_format():
    rng = random.Random(4)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(3, 7))) for _ in range(3000)]
    lines = [f"{a} said {b}." for a, b in itertools.pairwise(words)]
    first, second = train_vocabulary(iter(lines)), train_vocabulary(iter(lines))
    assert first.to_str() == second.to_str()
    assert first.get_vocab_size() == NUM_IDS
    assert first.token_to_id("<|im_end|>") == NUM_IDS - 1
    assert first.encode("it's 42").tokens[-2:] == ["4", "2"]  # digits one by one


def test_too_little_text_for_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="more varied text"):
        train_vocabulary(["hello there"])


@pytest.mark.skipif(not (BUNDLED_FOLDER / "model.safetensors").exists(), reason="the small models are not trained yet")
def test_the_bundled_model_is_no_worse_than_when_it_was_trained(vocabulary):
    """A floor under the 91 % that its card reports."""
    trainer = task(vocabulary, [], read_questions(HELD_OUT))
    trainer.module = AutoModelForCausalLM.from_pretrained(BUNDLED_FOLDER, dtype=torch.float32).eval()
    verdicts = trainer.verdicts()
    assert sum(verdicts) >= 0.88 * len(verdicts)
