"""CosyVoice 2's streaming vocoder as it is published, with the faults that ours does not repeat: for comparisons."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tts.decoder.vocoder import Vocoder

KEPT_FRAMES = 8  # of the mel before, put before the next
OVERLAP = KEPT_FRAMES * 480  # samples that are faded and held back


@dataclass
class UpstreamVocoder:
    """Each chunk alone: a new phase, of which the overlap's source is replaced by the last one, and a Hamming cross-fade."""

    vocoder: Vocoder
    given_BMT: Tensor | None = None  # mel that the vocoder was given, the kept frames included
    mel_BMT: Tensor | None = None  # last frames of the call before
    source_BN: Tensor | None = None  # last samples of its source
    tail_BN: Tensor | None = None  # last samples, not returned yet

    @torch.inference_mode()
    def step(self, mel_BMT: Tensor, *, last: bool) -> Tensor:
        """New mel frames (B, M, T) -> samples (B, N); all but the last call hold `OVERLAP` samples back."""
        if self.mel_BMT is not None:
            mel_BMT = torch.cat([self.mel_BMT, mel_BMT], dim=2)
        f0_BT = self.vocoder.predict_f0(mel_BMT)
        silence = f0_BT.new_zeros(len(f0_BT), f0_BT.shape[1] * 480, self.vocoder.config.num_harmonics + 1)
        source_BN = self.vocoder.source(f0_BT, silence, torch.zeros(len(f0_BT), dtype=torch.float64))
        if self.source_BN is not None:
            source_BN[:, :OVERLAP] = self.source_BN
        samples_BN = self.vocoder.decode(mel_BMT, source_BN)
        if self.tail_BN is not None:
            rising, falling = torch.hamming_window(2 * OVERLAP, periodic=False).chunk(2)
            samples_BN[:, :OVERLAP] = samples_BN[:, :OVERLAP] * rising + self.tail_BN * falling
        self.given_BMT, self.mel_BMT = mel_BMT, mel_BMT[..., -KEPT_FRAMES:]
        self.source_BN, self.tail_BN = source_BN[:, -OVERLAP:], samples_BN[:, -OVERLAP:]
        return samples_BN if last else samples_BN[:, :-OVERLAP]
