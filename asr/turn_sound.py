"""Does a voice sound as if its turn were over? The pitch falls and the last syllable is drawn out and fades where people end;
in the middle of a sentence it is held up. A small convolutional network hears the last 0.8 s before a silence.

Weights and what they were learned from: `assets/turn_sound`. Made by `asr/training/turn_sound.py`.

Shape letters: T frames of 20 ms, C what is known of each (mel bands, pitch), S samples of a frame.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from asr.base import SAMPLE_RATE, RecognizerError

ASSETS = Path(__file__).parent / "assets" / "turn_sound"
HOP = SAMPLE_RATE // 50
FRAMES_BEFORE, FRAMES_AFTER = 40, 4  # of the end of the voice
_STEPS_HEARD = -(-(FRAMES_BEFORE + FRAMES_AFTER) // 4)  # after two convolutions that take every second frame
_FRAMES_COMPARED = 120  # before the end, to which level, colour and pitch are compared
_BANDS = 20
NUM_FEATURES = _BANDS + 3
_MEL_SAMPLES, _MEL_FFT = SAMPLE_RATE // 40, 512
_LOWEST_HZ, _HIGHEST_HZ = 80.0, 7600.0
_LOUD = 5.0  # log power below the loudest frame to which a frame counts as loud
_FLOOR = 1e-5  # power that counts as silence
_PITCH_RATE = SAMPLE_RATE // 2
_PITCH_SAMPLES, _PITCH_FFT = _PITCH_RATE // 25, 1024
_LOWEST_PITCH_HZ, _HIGHEST_PITCH_HZ = 60.0, 400.0
_OCTAVE_COST = 0.05  # of the autocorrelation, since two periods are as alike as one
_VOICED = 0.5  # of the autocorrelation at its peak
_FEWEST_VOICED = 5  # frames from which the speaker's own pitch is known


def features(samples: np.ndarray, end: int) -> np.ndarray:
    """What is heard around sample `end`, where a voice ends, in the turn up to now.

    `samples`: float32 (N,) at 16 kHz; what is missing of them counts as silence. Returns float32 (T, C): the level of each mel
    band beside its mean where it is loud, the pitch in octaves from the speaker's middle one (0 without), whether the frame is
    voiced, and how clearly.
    """
    centres = end + HOP // 2 + HOP * np.arange(-_FRAMES_COMPARED, FRAMES_AFTER)
    centres = centres[centres >= 0] if end >= HOP * FRAMES_BEFORE else centres[-FRAMES_BEFORE - FRAMES_AFTER :]
    mel_TB = np.log(_frames(samples, centres, _MEL_SAMPLES, _MEL_WINDOW, _MEL_FFT) @ _MEL_BANK.T + _FLOOR)
    level_T = mel_TB.mean(1)
    mel_TB -= mel_TB[level_T > level_T.max() - _LOUD].mean(0)
    octaves_T, clear_T = _pitch(samples[: max(end, 0)], centres[:-FRAMES_AFTER])
    voiced_T = clear_T > _VOICED
    own = np.median(octaves_T[voiced_T]) if voiced_T.sum() > _FEWEST_VOICED else None
    rise_T = np.zeros(len(octaves_T)) if own is None else np.where(voiced_T, np.clip(octaves_T - own, -1.0, 1.0), 0.0)
    pitch_TC = np.pad(np.stack([rise_T, voiced_T, clear_T], axis=1), ((0, FRAMES_AFTER), (0, 0)))
    return np.concatenate([mel_TB, pitch_TC], axis=1)[-FRAMES_BEFORE - FRAMES_AFTER :].astype(np.float32)


class TurnSound(nn.Module):
    """The learned judge."""

    def __init__(self, channels: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        self.channels = channels
        self.hear = nn.Sequential(
            nn.Conv1d(NUM_FEATURES, channels, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv1d(channels, channels, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
        )
        self.judge = nn.Linear(channels * _STEPS_HEARD, 1)

    def forward(self, heard_BTC: torch.Tensor) -> torch.Tensor:
        """Log-odds (B,) that the turn is over, where as many are as are not."""
        return self.judge(self.hear(heard_BTC.transpose(1, 2)))[:, 0]

    @torch.inference_mode()
    def log_odds(self, samples: np.ndarray, end: int) -> float:
        """The same of one turn; see `features`."""
        return float(self(torch.from_numpy(features(samples, end))[None])[0])

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"kind": "turn_sound", "channels": self.channels}
        (folder / "config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")
        save_file(
            {name: value.half().contiguous() for name, value in self.state_dict().items()}, folder / "model.safetensors"
        )


@cache
def bundled() -> TurnSound:
    """The one that ships. Raises RecognizerError."""
    try:
        model = TurnSound(json.loads((ASSETS / "config.json").read_text(encoding="utf-8"))["channels"])
        model.load_state_dict({n: value.float() for n, value in load_file(ASSETS / "model.safetensors").items()})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise RecognizerError(f"{ASSETS} is damaged ({error}); take it from the repository again") from error
    return model.eval()


def _frames(samples: np.ndarray, centres: np.ndarray, size: int, window: np.ndarray, fft: int) -> np.ndarray:
    """Power spectra (T, fft // 2 + 1) of windows around samples, silent beyond both ends."""
    places = centres[:, None] + np.arange(-(size // 2), size - size // 2)
    inside = (places >= 0) & (places < len(samples))
    frames_TS = (
        np.where(inside, samples[np.clip(places, 0, len(samples) - 1)], 0.0) if len(samples) else np.zeros(places.shape)
    )
    return np.abs(np.fft.rfft((frames_TS - frames_TS.mean(1, keepdims=True)) * window, fft, axis=1)) ** 2


def _pitch(samples: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Octaves above 1 Hz, and how clear the pitch is (0 to 1), of frames around samples: the autocorrelation's peak."""
    halved = samples[: len(samples) // 2 * 2].reshape(-1, 2).mean(1)
    power = _frames(halved, centres // 2, _PITCH_SAMPLES, _PITCH_WINDOW, _PITCH_FFT)
    alike = np.fft.irfft(power, axis=1)[:, : round(_PITCH_RATE / _LOWEST_PITCH_HZ)]
    alike = alike / (alike[:, :1] + 1e-6) / _WINDOW_ALIKE[: alike.shape[1]]
    shortest = round(_PITCH_RATE / _HIGHEST_PITCH_HZ)
    lags = np.arange(shortest, alike.shape[1])
    periods = lags[(alike[:, shortest:] - _OCTAVE_COST * np.log2(lags)).argmax(1)]
    return np.log2(_PITCH_RATE / periods), np.clip(alike[np.arange(len(periods)), periods], 0.0, 1.0)


def _mel_bank() -> np.ndarray:
    """Triangles (bands, frequencies), evenly spaced on the mel scale."""
    lowest, highest = (1127 * np.log1p(hertz / 700) for hertz in (_LOWEST_HZ, _HIGHEST_HZ))
    mels = np.linspace(lowest, highest, _BANDS + 2)
    low, middle, high = (700 * np.expm1(mels / 1127)[i : i + _BANDS, None] for i in range(3))
    hertz = np.fft.rfftfreq(_MEL_FFT, 1 / SAMPLE_RATE)
    return np.clip(np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)), 0.0, None)


_MEL_WINDOW, _PITCH_WINDOW = (np.hanning(size + 2)[1:-1].astype(np.float32) for size in (_MEL_SAMPLES, _PITCH_SAMPLES))
_MEL_BANK = _mel_bank().astype(np.float32)
_WINDOW_ALIKE = np.fft.irfft(np.abs(np.fft.rfft(_PITCH_WINDOW, _PITCH_FFT)) ** 2)
_WINDOW_ALIKE /= _WINDOW_ALIKE[0]
