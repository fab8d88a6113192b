"""Voice activity by FunASR's FSMN-VAD (Zhang et al., Deep-FSMN, arXiv 1803.05030) in the place of silero-vad (`asr.vad`).

Of FunASR's model the network is used, not what decides there on beginnings and ends: turns are taken in `asr.stream`, the
same way whatever hears the voice.
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr.base import SAMPLE_RATE, RecognizerError
from asr.funasr_model import load_kind

_MODULES = ("funasr.models.fsmn_vad_streaming.model", "funasr.models.fsmn_vad_streaming.encoder")
_KINDS = ("FsmnVADStreaming",)


class FsmnVad:
    """The network of a FunASR folder, read-only."""

    def __init__(self, auto_model: Any) -> None:
        self._model, ends = auto_model.model.eval(), auto_model.kwargs["frontend"]
        options = self._model.vad_opts
        self._silent = list(options.sil_pdf_ids)
        self._margin = float(options.speech_noise_thres)
        self.frame, self.hop = (SAMPLE_RATE * ms // 1000 for ms in (ends.frame_length, ends.frame_shift))
        self.stacked = int(ends.lfr_m)
        self._normalise = ends.cmvn
        self._fbank = importlib.import_module("funasr.frontends.wav_frontend").WavFrontend(
            fs=SAMPLE_RATE,
            window=ends.window,
            n_mels=ends.n_mels,
            frame_length=ends.frame_length,
            frame_shift=ends.frame_shift,
            dither=0.0,
            upsacle_samples=ends.upsacle_samples,
        )

    @classmethod
    def load(cls, folder: Path) -> "FsmnVad":
        """Read a folder: config.yaml, model.pt, am.mvn. Raises RecognizerError."""
        built = load_kind(
            folder,
            kinds=_KINDS,
            needed=("config.yaml", "model.pt", "am.mvn"),
            also=_MODULES,
            device="cpu",
            refusal="does not hear where a voice is; asr.vad takes silero, or the folder or name of fsmn-vad",
        )
        ends = built.kwargs["frontend"]
        if ends.lfr_n != 1 or ends.fs != SAMPLE_RATE or any(_looks_ahead(part) for part in built.model.modules()):
            raise RecognizerError(
                f"{folder} holds a voice activity model that skips frames, looks ahead, or hears {ends.fs} Hz; asr.vad takes "
                f"one for streams of {SAMPLE_RATE} Hz, such as fsmn-vad."
            )
        return cls(built)

    def detector(self) -> "FsmnDetector":
        """A detector with its own memory."""
        return FsmnDetector(self)

    def features(self, samples: np.ndarray) -> torch.Tensor:
        """Log-mel frames (T, mels) of float32 samples (N,), one for each whole frame."""
        waveform = torch.from_numpy(samples)[None]
        frames: torch.Tensor = self._fbank(waveform, [len(samples)])[0][0]
        return frames

    def speech(self, stacks: torch.Tensor, memory: dict[str, torch.Tensor]) -> float:
        """Probability of a voice in frames with their neighbours (T, stacked * mels), on the scale of `asr.vad_threshold`.

        FunASR takes a frame for speech where the voice's probability is above the silence's by a margin of the folder's
        (`speech_noise_thres`); that point is 0.5 here, linear on both sides.
        """
        shift, scale = self._normalise
        scores = self._model.encoder(((stacks + shift) * scale).float()[None], cache=memory)[0]
        voice = 1 - scores[:, self._silent].sum(-1).mean().item()
        above = 2 * voice - 1 - self._margin
        return 0.5 + above / (2 * (1 - self._margin if above > 0 else 1 + self._margin))


class FsmnDetector:
    """One stream through the network (`asr.vad.SpeechDetector`); it hears a voice two frames late."""

    def __init__(self, model: FsmnVad) -> None:
        self._model = model
        self._samples = np.zeros(0, np.float32)
        self._frames: torch.Tensor | None = None
        self._memory: dict[str, torch.Tensor] = {}
        self._last = 0.0

    @torch.inference_mode()
    def __call__(self, window: np.ndarray) -> float:
        """Speech probability of the frames that a window of float32 samples completes; without any, as before."""
        model, around = self._model, (self._model.stacked - 1) // 2
        self._samples = np.concatenate([self._samples, window])
        count = max(0, (len(self._samples) - model.frame) // model.hop + 1)
        if not count:
            return self._last
        frames = model.features(self._samples[: (count - 1) * model.hop + model.frame])
        self._samples = self._samples[count * model.hop :]
        if self._frames is None:  # before the first frame stand copies of it
            self._frames = frames[:1].expand(around, -1)
        self._frames = torch.cat([self._frames, frames])
        stacks = self._frames.unfold(0, model.stacked, 1) if len(self._frames) >= model.stacked else None
        if stacks is not None:
            self._last = model.speech(stacks.transpose(1, 2).flatten(1), self._memory)
            self._frames = self._frames[len(stacks) :]
        return self._last

    def reset(self) -> None:
        """Forget what was heard."""
        self._samples, self._frames, self._memory, self._last = np.zeros(0, np.float32), None, {}, 0.0


def _looks_ahead(part: torch.nn.Module) -> bool:
    return getattr(part, "conv_right", None) is not None
