"""The flow trainer: batches, loss, learning, weights folder."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tts.decoder.config import EncoderConfig, EstimatorConfig, small_config
from tts.decoder.flow import FlowDecoder
from tts.training.flow import FlowTask, FlowTraining, FlowUtterance, flow_matching_loss, task

CONFIG = replace(
    small_config(20),
    encoder=EncoderConfig(width=32, num_heads=2, ffn_width=32, num_blocks=1, num_up_blocks=1),
    estimator=EstimatorConfig(width=32, num_heads=2, head_width=8, num_transformers=1, num_mid_blocks=1, time_width=32),
)
TRAINING = FlowTraining(batch_size=6, min_crop_s=0.8, max_crop_s=1.2)


def speech(num_tokens: int, voice: int, seed: int) -> FlowUtterance:
    """Each token has its own spectrum, each voice its own loudness: all that is to be learned."""
    tokens = np.random.default_rng(seed).integers(0, 20, num_tokens)
    spectra = np.random.default_rng(0).normal(size=(20, 80))
    mel = (-4.4 + 2.2 * (spectra[tokens] + 1.5 * (-1) ** voice)).repeat(2, axis=0).T
    speaker = np.random.default_rng(voice).normal(size=192).astype(np.float32)
    return FlowUtterance(tokens, mel.astype(np.float16), speaker, f"voice {voice}")


DATA = [speech(30 + 7 * i, i % 2, i) for i in range(8)]
HELD_OUT = [speech(40, i % 2, 100 + i) for i in range(4)]


def test_small_model_fits_its_budget() -> None:
    with torch.device("meta"):
        small = FlowDecoder(small_config(729))
    assert sum(p.numel() for p in small.parameters()) < 5_000_000


def test_batches_depend_on_the_step_alone_and_keep_tokens_and_mel_together() -> None:
    one, two = task(DATA, CONFIG, TRAINING), task(DATA, CONFIG, TRAINING)
    assert torch.equal(one.batch(7).target, two.batch(7).target)
    assert one.batch(7).target.shape != one.batch(8).target.shape or not torch.equal(
        one.batch(7).target, one.batch(8).target
    )
    spectra = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 80))).float()
    prompts = 0
    for step in range(6):
        batch = one.batch(step)
        rest = batch.target - spectra[batch.tokens].repeat_interleave(2, dim=1)
        assert (rest.abs() - 1.5).abs().max() < 0.01
        assert set(batch.cond[batch.cond != 0].tolist()) <= set(batch.target.flatten().tolist())
        lengths = (batch.cond != 0).any(2).sum(1)
        assert lengths.max() <= 0.7 * batch.target.shape[1] + 1
        assert torch.equal(batch.free == 0, (batch.cond != 0).any(2))
        prompts += int((lengths > 0).sum())
    assert 10 <= prompts <= 32


def test_lookahead_of_a_crop_is_the_recordings_own() -> None:
    batch = FlowTask([speech(400, 0, 0)], CONFIG, TRAINING).batch(0)
    tokens = speech(400, 0, 0).tokens
    for row in range(6):
        crop = torch.cat([batch.tokens[row], batch.context[row]]).tolist()
        places = [i for i in range(len(tokens)) if tokens[i : i + 10].tolist() == crop[:10]]
        assert any(tokens[i : i + len(crop)].tolist() == crop for i in places)
        assert batch.context_mask[row].tolist() == [1, 1, 1]
    short = FlowTask([speech(20, 0, 0)], CONFIG, TRAINING).batch(0)
    assert short.tokens.shape[1] == 20
    assert short.context_mask.sum() == 0


def fit(flow_task: FlowTask, steps: int) -> dict[str, float]:
    """Train, and give the figures of before and after."""
    optimizer = torch.optim.AdamW([p for p in flow_task.module.parameters() if p.requires_grad], 5e-3)
    for step in range(steps):
        loss, _ = flow_task.loss(step, step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return flow_task.evaluate()


def test_the_encoder_learns_a_mel_then_the_estimator_the_voices(tmp_path: Path) -> None:
    torch.manual_seed(0)
    leading = [item for item in DATA if item.voice == "voice 0"]
    first = FlowTask(leading, CONFIG, TRAINING, validation=HELD_OUT[::2])
    before = first.evaluate()
    after = fit(first, 50)
    assert set(after) == {"mu_l1"}
    assert after["mu_l1"] < 0.6 * before["mu_l1"]
    first.export(tmp_path / "encoder")

    second = FlowTask(DATA, CONFIG, TRAINING, encoder=tmp_path / "encoder", validation=HELD_OUT)
    flow: FlowDecoder = second.module
    encoder = {name: value.clone() for name, value in flow.encoder.state_dict().items()}
    before = second.evaluate()
    after = fit(second, 60)
    assert all(torch.equal(value, encoder[name]) for name, value in flow.encoder.state_dict().items())
    assert after["mu_l1"] == before["mu_l1"]
    # The tokens say nothing of the voice: only the estimator, which has the speaker, can beat the encoder.
    assert after["mel_l1_cool"] < 0.7 * after["mu_l1"]

    second.export(tmp_path / "flow")
    loaded = FlowDecoder.load(tmp_path / "flow")
    assert loaded.config == CONFIG
    speaker = torch.from_numpy(HELD_OUT[0].speaker)[None]
    tokens = torch.from_numpy(HELD_OUT[0].tokens)[None]
    torch.testing.assert_close(loaded.generate(tokens, speaker), flow.generate(tokens, speaker), atol=0.1, rtol=0)


def test_a_prompt_is_seen_but_not_learned() -> None:
    """Its frames have no loss; the frames after it hear it."""
    torch.manual_seed(0)
    flow_task = FlowTask(DATA, CONFIG, TRAINING)
    flow: FlowDecoder = flow_task.module
    torch.nn.init.normal_(flow.decoder.estimator.final_proj.weight)
    batch = flow_task.batch(0)
    prompted = (batch.free == 0).any(1)
    assert prompted.any()

    def loss(target: torch.Tensor, cond: torch.Tensor) -> float:
        torch.manual_seed(1)
        mu = torch.zeros_like(target)
        value = flow_matching_loss(
            flow, target, mu, flow.project_speaker(batch.speaker), cond, time_B=torch.zeros(len(target)),
            noise_BTM=torch.randn(target.shape), keep_B=torch.ones(len(target)), chunked=False, learned_BT=batch.free,
        )  # fmt: skip
        return float(value.detach())

    in_prompt = (batch.free == 0)[..., None]
    before = loss(batch.target, batch.cond)
    assert loss(torch.where(in_prompt, batch.target + 5.0, batch.target), batch.cond) == pytest.approx(before, rel=1e-5)
    assert abs(loss(batch.target, torch.where(in_prompt, batch.cond + 5.0, batch.cond)) - before) > 1e-3 * before


def test_unusable_data_is_named() -> None:
    with pytest.raises(ValueError, match="at least one recording"):
        FlowTask([], CONFIG)
    broken = replace(DATA[0], mel=DATA[0].mel[:, :-1])
    with pytest.raises(ValueError, match="voice 0"):
        FlowTask([broken], CONFIG)
