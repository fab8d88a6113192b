"""The interleaved text-speech model against vectors of the public implementation (reduced size, seeded weights)."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.parity.golden import EXACT, Golden, Vectors
from tts.base import CheckpointError
from tts.interleaved import sequence
from tts.interleaved.config import InterleavedConfig
from tts.interleaved.decode import DecodeOptions, InterleavedDecoder, Prompt
from tts.interleaved.model import TIED_HEAD, InterleavedLm
from tts.interleaved.sampling import Chooser, RepetitionAware, fallback, nucleus

LOGITS = "llm_logits"  # tolerance
# Until where the tokens without upstream's faults equal the bundled recordings; those not named are equal throughout.
FAULTLESS = {"gen_bi_noprompt_12": 30, "gen_bi_noprompt_10": 30, "gen_bi_prompt_12": 25}


@pytest.fixture(scope="module")
def golden(golden_folder: Golden) -> Vectors:
    return golden_folder.vectors("llm_io")


@pytest.fixture(scope="module")
def weights(golden_folder: Golden) -> dict[str, Tensor]:
    return {name: value.float() for name, value in golden_folder.weights("llm_weights").items()}


@pytest.fixture(scope="module")
def model(golden_folder: Golden, weights: dict[str, Tensor]) -> InterleavedLm:
    made = InterleavedLm(golden_folder.interleaved()).eval().requires_grad_(False)
    made.load_weights(weights, "golden")
    if {value.dtype for value in golden_folder.weights("llm_weights").values()} == {torch.float16}:
        # Vectors whose weights were rounded to float16: the rotary rates were rounded with them.
        made.llm.model.model.rates = made.llm.model.model.rates.half().float()
    return made


def ids(*parts: Tensor | int) -> Tensor:
    """Input ids (1, S) of sos or task id, text (as it is) and speech (shifted by the caller)."""
    return torch.cat([torch.tensor([part]) if isinstance(part, int) else part for part in parts])[None]


def test_full_size_names_shapes_and_order(golden_folder: Golden) -> None:
    with torch.device("meta"):
        ours = InterleavedLm(InterleavedConfig()).state_dict()
    assert [(name, list(value.shape)) for name, value in ours.items()] == golden_folder.manifest("llm")


def test_weights_load_with_and_without_the_tied_text_output(model: InterleavedLm, weights: dict[str, Tensor]) -> None:
    table = weights["llm.model.model.embed_tokens.weight"]
    for state in (weights, {**weights, TIED_HEAD: torch.zeros_like(table)}):
        made = InterleavedLm(model.config)
        made.load_weights(state, "golden")
        assert torch.equal(made.llm.model.model.embed_tokens.weight, table)
    broken = {name: value for name, value in weights.items() if name != "llm_decoder.bias"}
    with pytest.raises(CheckpointError, match=rf"missing 1 \(llm_decoder\.bias \[{model.config.num_speech_ids}\]\)"):
        InterleavedLm(model.config).load_weights(broken, "golden")


@torch.inference_mode()
def test_logits_of_a_text_complete_sequence(model: InterleavedLm, golden: Vectors) -> None:
    config = model.config
    text, speech = golden["text"][0], golden["speech"][0] + config.speech_offset
    hidden = model(model.embed(ids(config.sos, text, config.task, speech)))
    golden.close("uni_logits", model.llm_decoder(hidden), LOGITS)


@torch.inference_mode()
def test_logits_of_an_interleaved_sequence(model: InterleavedLm, golden: Vectors) -> None:
    config = model.config
    text, speech = golden["text"][0], golden["speech"][0] + config.speech_offset
    rest = (text[10:], config.task, speech[30:])
    hidden = model(model.embed(ids(config.sos, text[:5], speech[:15], text[5:10], speech[15:30], *rest)))
    golden.close("bi_hidden", hidden, LOGITS)
    golden.close("bi_logits", model.llm_decoder(hidden), LOGITS)


@torch.inference_mode()
@pytest.mark.parametrize(("name", "form"), [("bistream", sequence.interleaved), ("unistream", sequence.complete)])
def test_training_sequences_targets_and_loss(model: InterleavedLm, golden: Vectors, name: str, form: object) -> None:
    text, speech = golden["text"][0].numpy(), golden["speech"][0].numpy()
    losses, num_right, num_targets = 0.0, 0, 0
    for row, (num_text, num_speech) in enumerate([(12, 45), (10, 40)]):
        made, targets = form(model.config, text[:num_text], speech[:num_speech])
        theirs = golden[f"train_{name}_target"][row]
        length = int(golden[f"train_{name}_input_len"][row])
        assert len(made) == len(targets)
        golden.near(f"train_{name}_input_len", torch.tensor(len(made)), torch.tensor(length), EXACT)
        ours = torch.from_numpy(np.where(targets == sequence.IGNORED, -1, targets))
        golden.near(f"train_{name}_target", ours, theirs[:length], EXACT)
        embedded = model.embed(torch.from_numpy(made)[None])
        golden.near(f"train_{name}_input", embedded[0], golden[f"train_{name}_input"][row, :length], EXACT)
        logits = model.llm_decoder(model(embedded))[0]
        losses += float(F.cross_entropy(logits, torch.from_numpy(targets), reduction="sum"))
        num_right += int((logits.argmax(dim=1).numpy() == targets).sum())
        num_targets += int((targets != sequence.IGNORED).sum())
    golden.close(f"train_{name}_loss", torch.tensor([losses / num_targets]), LOGITS)
    golden.close(f"train_{name}_acc", torch.tensor([num_right / num_targets]), 1e-6)


def recorded_choice(config: InterleavedConfig, length: int) -> Chooser:
    """What the recordings chose by: the likeliest speech token, end of speech as soon as it may come after `length`."""

    def choose(scores: np.ndarray, history: Sequence[int], generator: np.random.Generator) -> int:
        spoken = sum(token < config.num_speech_tokens for token in history)
        if spoken >= length and scores[config.eos] > -np.inf:
            return config.eos
        return int(scores[: config.num_speech_tokens].argmax())

    return choose


def test_generated_tokens(
    model: InterleavedLm, golden: Vectors, golden_folder: Golden, recorded_tokens: tuple[str, ...]
) -> None:
    name, form, prompted, num_text = recorded_tokens
    recorded = golden[name].tolist()
    text = golden["text"][0, : int(num_text) if num_text else None].tolist()
    prompt = None
    if prompted == "prompt":
        prompt = Prompt(golden["prompt_text"][0].numpy(), golden["prompt_speech"][0].numpy())

    def generate(*, exact: bool) -> list[int]:
        choose = recorded_choice(model.config, len(recorded))
        options = DecodeOptions(choose=choose, interleaved=form == "bi", upstream_exact=exact)
        decoder = InterleavedDecoder(model, options, prompt=prompt)
        for token in text:
            decoder.push(token)
        decoder.finish()
        spoken: list[int] = []
        while (block := decoder.step()) is not None:
            spoken += block.tokens.tolist()
        return spoken

    golden.close(name, torch.tensor(generate(exact=True)), EXACT)
    if not golden_folder.given:
        spoken, until = generate(exact=False), FAULTLESS.get(name, len(recorded))
        assert spoken[:until] == recorded[:until]
        assert (spoken == recorded) == (until == len(recorded))


@pytest.mark.parametrize(("name", "drawn"), [("ras", "ras_nucleus_probs"), ("ras_flat", "ras_flat_probs")])
def test_nucleus(golden: Vectors, name: str, drawn: str) -> None:
    scores, drawn_from = golden[f"{name}_logp"].double().numpy(), golden[drawn].double().numpy()
    count = len(drawn_from)
    found, weights_of = nucleus(scores, 0.8, 25)
    assert len(found) == count
    assert np.array_equal(found, np.argsort(-scores, kind="stable")[:count])
    golden.near(drawn, torch.from_numpy(weights_of), torch.from_numpy(drawn_from / drawn_from.sum()), 1e-6)


def test_fallback_of_a_repetition(golden: Vectors) -> None:
    scores = golden["ras_logp"].double().numpy()
    repeated = int(golden["ras_rep_fallback_probs"].argmin())
    golden.close("ras_rep_fallback_probs", torch.from_numpy(fallback(scores, repeated)), 1e-6)


class Recorded(np.random.Generator):
    """Draws the likeliest id, and counts the draws."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))
        self.sets: list[int] = []

    def choice(self, ids: object, p: np.ndarray) -> int:
        self.sets.append(int((p > 0).sum()))
        return int(np.arange(ids)[p.argmax()] if isinstance(ids, int) else ids[p.argmax()])


def test_second_draw_only_for_ids_within_the_window(golden: Vectors) -> None:
    scores = golden["ras_logp"].double().numpy()
    likeliest, nucleus_size = int(scores.argmax()), len(golden["ras_nucleus_probs"])
    for history, sets in (
        ([], [nucleus_size]),
        ([likeliest, *range(100, 110)], [nucleus_size]),
        ([likeliest, *range(100, 109)], [nucleus_size, len(scores) - 1]),
    ):
        generator = Recorded()
        drawn = RepetitionAware()(scores, history, generator)
        assert generator.sets == sets
        assert (drawn == likeliest) == (len(sets) == 1)
    assert RepetitionAware(may_repeat=True)(scores, [likeliest], Recorded()) == likeliest
