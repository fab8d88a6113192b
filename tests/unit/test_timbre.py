import pytest
import torch

from tts.base import CheckpointError
from tts.timbre import difference

BANDS, FRAMES = 80, 600


def mels(scale=1.0, shift=0.0, frames=FRAMES):
    """A mel with pauses, and what a decoder that smooths and shifts makes of it."""
    generator = torch.Generator().manual_seed(1)
    true = -4 + torch.randn(BANDS, frames, generator=generator)
    true[:, : frames // 4] -= 6
    made = (true + 4) * scale - 4 + shift
    return made, true


def test_the_decoders_reading_gets_the_recordings_mean_and_deviation():
    made, true = mels(scale=0.8, shift=0.5)
    mapped = difference(made, true)(made[None])[0]
    spoken = slice(FRAMES // 4, None)
    before, after = ((x[:, spoken] - true[:, spoken]).mean(1).abs().max() for x in (made, mapped))
    assert before > 0.4
    assert after < 0.15
    assert (mapped[:, spoken].std(1) / true[:, spoken].std(1)).sub(1).abs().mean() < 0.06


def test_a_reading_without_fault_is_left_alone_and_little_evidence_changes_little():
    made, true = mels()
    torch.testing.assert_close(difference(made, true)(made[None])[0], made)
    made, true = mels(shift=1.0, frames=8)
    assert (difference(made, true)(made[None])[0] - made).abs().max() < 0.2
    made, true = mels(shift=1.0, frames=0)
    assert difference(made, true)(torch.ones(1, BANDS, 3)).eq(1).all()


def test_frames_are_mapped_alone_and_no_band_wildly():
    made, true = mels(scale=0.1)
    timbre = difference(made, true)
    assert timbre.scale_M1.max() <= 1.5
    torch.testing.assert_close(torch.cat([timbre(made[None, :, :7]), timbre(made[None, :, 7:])], 2), timbre(made[None]))
    with pytest.raises(CheckpointError, match="cannot be compared"):
        difference(made[:, :5], true)
