"""The rest of a reference's timbre: what a decoder loses of a voice in every frame is given back to every frame.

A narrow flow-matching decoder draws near to its training voices and smooths what it draws. Both show when it says the
reference itself once more: each mel band then has another mean and a smaller variance than the recording. The difference,
measured once per voice, maps every later frame (mean and global variance of synthetic speech: Toda and Tokuda, 2007).
T frames, M mel bands; log mels as the decoder gives them.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from tts.base import CheckpointError

_QUIET = 0.35  # share of frames that are taken for pauses
_SMOOTHED = 5  # mel bands over which the ratio of the deviations is averaged
_LEAST, _MOST = 0.8, 1.5  # of that ratio
_SLOW_FRAMES = 50.0  # frames of a reference that count as much as the assumption that nothing differs


@dataclass(frozen=True)
class Timbre:
    """An affine map of each mel band."""

    scale_M1: Tensor
    shift_M1: Tensor

    def __call__(self, mel_BMT: Tensor) -> Tensor:
        """The mel (B, M, T) in the reference's timbre."""
        return mel_BMT * self.scale_M1 + self.shift_M1


def difference(made_MT: Tensor, true_MT: Tensor) -> Timbre:
    """What brings the decoder's own reading of a reference to the recording, both (M, T), in mean and deviation."""
    if made_MT.shape != true_MT.shape:
        raise CheckpointError(f"mels of {list(made_MT.shape)} and {list(true_MT.shape)} cannot be compared.")
    loudness_T = true_MT.mean(0)
    spoken = loudness_T > loudness_T.quantile(_QUIET) if len(loudness_T) else loudness_T.bool()
    count = int(spoken.sum())
    if count < 2:
        return Timbre(true_MT.new_ones(len(true_MT), 1), true_MT.new_zeros(len(true_MT), 1))
    made_MT, true_MT = made_MT[:, spoken], true_MT[:, spoken]
    sure = count / (count + _SLOW_FRAMES)
    ratio_M = true_MT.std(1) / made_MT.std(1).clamp(min=1e-3)
    padded = F.pad(ratio_M[None, None], (_SMOOTHED // 2, _SMOOTHED // 2), mode="replicate")
    ratio_M = F.avg_pool1d(padded, _SMOOTHED, stride=1)[0, 0].clamp(_LEAST, _MOST)
    scale_M = 1 + sure * (ratio_M - 1)
    made_mean_M = made_MT.mean(1)
    shift_M = made_mean_M * (1 - scale_M) + sure * (true_MT.mean(1) - made_mean_M)
    return Timbre(scale_M[:, None], shift_M[:, None])
