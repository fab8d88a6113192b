"""The features equal those of the public models' own front ends (golden vectors)."""

import numpy as np
import pytest
import torch

from tests.parity.golden import Golden, Vectors
from tts import features

FEATURES = "features"  # tolerance
FBANK = 4e-4  # the golden vectors, float32, are 1.6e-4 from the same in float64 in their quietest bands, as ours can be


@pytest.fixture(scope="module")
def golden(golden_folder: Golden) -> Vectors:
    return golden_folder.vectors("features_s3_campplus_io")


@pytest.mark.parametrize(("fmax", "name"), [(8000.0, "mel24k_fmax8000"), (12000.0, "mel24k_fmaxNone_gan")])
def test_mel_24k(golden: Vectors, fmax: float, name: str) -> None:
    golden.close(name, features.mel_24k(golden["wav24k"], fmax), FEATURES)


def test_mel_filters(golden: Vectors) -> None:
    bank = features._slaney_bank(24_000, 1920, 80, 8000.0, torch.device("cpu"))
    golden.close("melbank_fmax8000_rowsum", bank.sum(dim=1), 1e-6)


def test_log_mel_16k(golden: Vectors) -> None:
    golden.close("logmel128_16k", features.log_mel_16k(golden["wav16k"]), FEATURES)


def test_log_mel_range_is_cut_per_item(golden: Vectors) -> None:
    loud = golden["wav16k"]
    both = features.log_mel_16k(torch.cat([loud, loud * 1e-3]))
    torch.testing.assert_close(both[1:], features.log_mel_16k(loud * 1e-3))


def test_fbank_16k(golden: Vectors) -> None:
    fbank = features.fbank_16k(golden["wav16k"][0])
    golden.close("kaldi_fbank80_16k", fbank, FBANK)
    golden.close("kaldi_fbank80_16k_cmn", fbank - fbank.mean(dim=0, keepdim=True), FBANK)


def test_frames_per_second() -> None:
    one_second = torch.randn(2, 24_000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert features.mel_24k(one_second).shape == (2, 80, 50)
    assert features.log_mel_16k(one_second[:, :16_000], num_mels=80).shape == (2, 80, 100)


def test_resample_keeps_a_tone() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(24_000) / 24_000).astype(np.float32)
    out = features.resample(tone, 24_000, 16_000)
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert out.shape == (16_000,)
    assert out.dtype == np.float32
    assert np.abs(out - expected)[200:-200].max() < 1e-3
