"""The interleaved text-speech model against vectors of the public implementation (reduced size, seeded weights)."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from tts.base import CheckpointError
from tts.interleaved import sequence
from tts.interleaved.config import InterleavedConfig
from tts.interleaved.decode import DecodeOptions, InterleavedDecoder, Prompt
from tts.interleaved.model import TIED_HEAD, InterleavedLm
from tts.interleaved.sampling import RepetitionAware, fallback, nucleus

GOLDEN = Path(__file__).parents[1] / "assets" / "golden"
REDUCED = InterleavedConfig(
    text_vocab_size=160, num_speech_tokens=243, dim=48, num_layers=2, num_heads=4, num_kv_heads=2, ff_dim=96
)
LENGTH = 40  # speech tokens of the recorded utterances


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "llm_io.safetensors")


def weights() -> dict[str, Tensor]:
    return {name: value.float() for name, value in load_file(GOLDEN / "llm_weights.safetensors").items()}


@pytest.fixture(scope="module")
def model() -> InterleavedLm:
    made = InterleavedLm(REDUCED).eval().requires_grad_(False)
    made.load_weights(weights(), "golden")
    # The vectors were made with weights rounded to float16, and the rotary rates were rounded with them.
    made.llm.model.model.rates = made.llm.model.model.rates.half().float()
    return made


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def ids(*parts: Tensor | int) -> Tensor:
    """Input ids (1, S) of sos or task id, text (as it is) and speech (shifted by the caller)."""
    return torch.cat([torch.tensor([part]) if isinstance(part, int) else part for part in parts])[None]


def test_full_size_names_shapes_and_order() -> None:
    manifest = json.loads((GOLDEN / "llm_manifest.json").read_text())
    with torch.device("meta"):
        ours = InterleavedLm(InterleavedConfig()).state_dict()
    assert [(name, list(value.shape)) for name, value in ours.items()] == list(manifest.items())


def test_weights_load_with_and_without_the_tied_text_output() -> None:
    table = weights()["llm.model.model.embed_tokens.weight"]
    for state in (weights(), {**weights(), TIED_HEAD: torch.zeros(160, 48)}):
        made = InterleavedLm(REDUCED)
        made.load_weights(state, "golden")
        assert torch.equal(made.llm.model.model.embed_tokens.weight, table)
    broken = weights()
    del broken["llm_decoder.bias"]
    with pytest.raises(CheckpointError, match=r"missing 1 \(llm_decoder.bias \[246\]\)"):
        InterleavedLm(REDUCED).load_weights(broken, "golden")


@torch.inference_mode()
def test_logits_of_a_text_complete_sequence(model: InterleavedLm, golden: dict[str, Tensor]) -> None:
    text, speech = golden["text"][0], golden["speech"][0] + REDUCED.speech_offset
    hidden = model(model.embed(ids(REDUCED.sos, text, REDUCED.task, speech)))
    close(model.llm_decoder(hidden), golden["uni_logits"])


@torch.inference_mode()
def test_logits_of_an_interleaved_sequence(model: InterleavedLm, golden: dict[str, Tensor]) -> None:
    text, speech = golden["text"][0], golden["speech"][0] + REDUCED.speech_offset
    rest = (text[10:], REDUCED.task, speech[30:])
    hidden = model(model.embed(ids(REDUCED.sos, text[:5], speech[:15], text[5:10], speech[15:30], *rest)))
    close(hidden, golden["bi_hidden"])
    close(model.llm_decoder(hidden), golden["bi_logits"])


@torch.inference_mode()
@pytest.mark.parametrize(("name", "form"), [("bistream", sequence.interleaved), ("unistream", sequence.complete)])
def test_training_sequences_targets_and_loss(
    model: InterleavedLm, golden: dict[str, Tensor], name: str, form: object
) -> None:
    text, speech = golden["text"][0].numpy(), golden["speech"][0].numpy()
    losses, num_targets = 0.0, 0
    for row, (num_text, num_speech) in enumerate([(12, 45), (10, 40)]):
        made, targets = form(REDUCED, text[:num_text], speech[:num_speech])
        theirs = golden[f"train_{name}_target"][row]
        length = int(golden[f"train_{name}_input_len"][row])
        assert len(made) == len(targets) == length
        assert np.array_equal(np.where(targets == sequence.IGNORED, -1, targets), theirs[:length].numpy())
        embedded = model.embed(torch.from_numpy(made)[None])
        assert torch.equal(embedded[0], golden[f"train_{name}_input"][row, :length])
        logits = model.llm_decoder(model(embedded))[0]
        losses += float(F.cross_entropy(logits, torch.from_numpy(targets), reduction="sum"))
        num_targets += int((targets != sequence.IGNORED).sum())
    assert losses / num_targets == pytest.approx(float(golden[f"train_{name}_loss"]), abs=1e-5)


def recorded_choice(scores: np.ndarray, history: Sequence[int], generator: np.random.Generator) -> int:
    """What the recordings chose by: the likeliest speech token, end of speech as soon as it may come after 40."""
    spoken = sum(token < REDUCED.num_speech_tokens for token in history)
    if spoken >= LENGTH and scores[REDUCED.eos] > -np.inf:
        return REDUCED.eos
    return int(scores[: REDUCED.num_speech_tokens].argmax())


def generate(
    model: InterleavedLm, text: list[int], prompt: Prompt | None, interleaved: bool, exact: bool = True
) -> list[int]:
    options = DecodeOptions(choose=recorded_choice, interleaved=interleaved, upstream_exact=exact)
    decoder = InterleavedDecoder(model, options, prompt=prompt)
    for token in text:
        decoder.push(token)
    decoder.finish()
    spoken: list[int] = []
    while (block := decoder.step()) is not None:
        spoken += block.tokens.tolist()
    return spoken


@pytest.mark.parametrize(
    ("name", "num_text", "prompted", "interleaved"),
    [
        ("bi_noprompt_12", 12, False, True),
        ("bi_noprompt_10", 10, False, True),
        ("bi_noprompt_3", 3, False, True),
        ("bi_prompt_12", 12, True, True),
        ("uni_noprompt", 12, False, False),
        ("uni_prompt", 12, True, False),
    ],
)
def test_generated_tokens(
    model: InterleavedLm, golden: dict[str, Tensor], name: str, num_text: int, prompted: bool, interleaved: bool
) -> None:
    text = golden["text"][0, :num_text].tolist()
    prompt = Prompt(golden["prompt_text"][0].numpy(), golden["prompt_speech"][0].numpy()) if prompted else None
    recorded = golden[f"gen_{name}"].tolist()
    assert generate(model, text, prompt, interleaved) == recorded
    # Without upstream's faults the tokens are the same up to where it reads the last token twice.
    spoken = generate(model, text, prompt, interleaved, exact=False)
    until = {"bi_noprompt_12": 30, "bi_noprompt_10": 30, "bi_prompt_12": 25}.get(name, LENGTH)
    assert spoken[:until] == recorded[:until]
    assert (spoken == recorded) == (until == LENGTH)


@pytest.mark.parametrize(("name", "count"), [("ras", 12), ("ras_flat", 25)])
def test_nucleus(golden: dict[str, Tensor], name: str, count: int) -> None:
    scores = golden[f"{name}_logp"].double().numpy()
    drawn_from = golden["ras_nucleus_probs" if name == "ras" else "ras_flat_probs"].double().numpy()
    found, weights_of = nucleus(scores, 0.8, 25)
    assert len(found) == count
    assert np.array_equal(found, np.argsort(-scores, kind="stable")[:count])
    np.testing.assert_allclose(weights_of, drawn_from / drawn_from.sum(), atol=1e-6)


def test_fallback_of_a_repetition(golden: dict[str, Tensor]) -> None:
    scores = golden["ras_logp"].double().numpy()
    theirs = golden["ras_rep_fallback_probs"].numpy()
    np.testing.assert_allclose(fallback(scores, int(theirs.argmin())), theirs, atol=1e-6)


class Recorded(np.random.Generator):
    """Draws the likeliest id, and counts the draws."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))
        self.sets: list[int] = []

    def choice(self, ids: object, p: np.ndarray) -> int:
        self.sets.append(int((p > 0).sum()))
        return int(np.arange(ids)[p.argmax()] if isinstance(ids, int) else ids[p.argmax()])


def test_second_draw_only_for_ids_within_the_window(golden: dict[str, Tensor]) -> None:
    scores = golden["ras_logp"].double().numpy()
    likeliest = int(scores.argmax())
    for history, sets in (
        ([], [12]),
        ([likeliest, *range(100, 110)], [12]),
        ([likeliest, *range(100, 109)], [12, 245]),
    ):
        generator = Recorded()
        drawn = RepetitionAware()(scores, history, generator)
        assert generator.sets == sets
        assert (drawn == likeliest) == (len(sets) == 1)
    assert RepetitionAware(may_repeat=True)(scores, [likeliest], Recorded()) == likeliest
