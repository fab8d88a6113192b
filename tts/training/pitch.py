"""F0 of 24 kHz speech by normalised cross-correlation and a best path through its lags (after Talkin's RAPT, 1995).

Shape letters: B batch, N samples, T frames of 20 ms, L lags. Works at 8 kHz below 1.2 kHz; range 60-500 Hz.
"""

import math
from functools import lru_cache

import torch
from torch.nn import functional

_RATE_HZ = 8000
_DECIMATION = 3
_HOP = 160
_SHORTEST, _LONGEST = 16, 133  # lags: 500 Hz, 60 Hz
_WINDOW = 256
_FLOOR = _WINDOW * 1e-5  # energy of a window too quiet to have a pitch
_UNVOICED_SCORE = 0.55  # correlation that a voiced frame must exceed
_OCTAVE_BIAS = 0.04  # a period's multiples correlate as well as the period: prefer the shortest
_OCTAVE_JUMP_COST = 0.6
_VOICING_CHANGE_COST = 0.25


def f0_24k(samples_BN: torch.Tensor) -> torch.Tensor:
    """F0 in Hz (B, N // 480), 0 where unvoiced; frame t is centred on sample 480 t + 240, as the mel frames are."""
    num_frames = samples_BN.shape[1] // 480
    taps = _low_pass(samples_BN.device)
    slow = functional.conv1d(samples_BN[:, None], taps[None, None], stride=_DECIMATION, padding=len(taps) // 2)[:, 0]
    span = _WINDOW + _LONGEST + 1
    left = span // 2 - _HOP // 2
    padded = functional.pad(slow, (left, span))
    frames = padded.unfold(1, span, _HOP)[:, :num_frames]
    size = 512
    head = torch.fft.rfft(frames[..., :_WINDOW], size)
    correlation = torch.fft.irfft(torch.fft.rfft(frames, size) * head.conj(), size)[..., : _LONGEST + 2]
    total = functional.pad(frames.square().cumsum(-1), (1, 0))
    energy = total[..., _WINDOW : _WINDOW + _LONGEST + 2] - total[..., : _LONGEST + 2]
    normal = correlation / ((energy[..., :1] + _FLOOR) * (energy + _FLOOR)).sqrt()
    inner = normal[..., _SHORTEST : _LONGEST + 1]
    peak = (inner >= normal[..., _SHORTEST - 1 : _LONGEST]) & (inner >= normal[..., _SHORTEST + 1 : _LONGEST + 2])
    lag_BT = _best_path(torch.where(peak, inner, torch.full_like(inner, -1.0)))
    voiced = lag_BT >= 0
    index = (lag_BT.clamp_min(0) + _SHORTEST)[..., None]
    before, at, after = (normal.gather(-1, index + step)[..., 0] for step in (-1, 0, 1))
    curve = before - 2 * at + after
    shift = torch.where(curve < -1e-6, 0.5 * (before - after) / curve.clamp_max(-1e-6), torch.zeros_like(at))
    return torch.where(voiced, _RATE_HZ / (index[..., 0] + shift.clamp(-0.5, 0.5)), torch.zeros_like(at))


def _best_path(normal_BTL: torch.Tensor) -> torch.Tensor:
    """Viterbi over the lags and the unvoiced state: index of the lag per frame (B, T), -1 where unvoiced."""
    _, num_frames, num_lags = normal_BTL.shape
    octave = (torch.arange(num_lags, device=normal_BTL.device) + _SHORTEST).float().log2()
    score = normal_BTL - _OCTAVE_BIAS * (octave - octave[0])
    score = functional.pad(score, (0, 1), value=_UNVOICED_SCORE)
    cost = functional.pad(
        _OCTAVE_JUMP_COST * (octave[:, None] - octave[None]).abs(), (0, 1, 0, 1), value=_VOICING_CHANGE_COST
    )
    cost[-1, -1] = 0.0
    best, back = score[:, 0], []
    for t in range(1, num_frames):
        best, origin = (best[:, :, None] - cost).max(dim=1)
        best = best + score[:, t]
        back.append(origin)
    path = [best.argmax(dim=1)]
    for origin in reversed(back):
        path.append(origin.gather(1, path[-1][:, None])[:, 0])
    lag_BT = torch.stack(path[::-1], dim=1)
    return torch.where(lag_BT == num_lags, torch.full_like(lag_BT, -1), lag_BT)


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # kept tensors must also serve training
def _low_pass(device: torch.device) -> torch.Tensor:
    """Windowed sinc at 24 kHz, cut at 1.2 kHz."""
    time = torch.arange(-36, 37, device=device) / 24_000
    taps = torch.sinc(2 * 1200.0 * time) * torch.hann_window(75, periodic=False, device=device)[1:-1]
    return taps / taps.sum()


def cents(a_hz: torch.Tensor, b_hz: torch.Tensor) -> torch.Tensor:
    """Interval between two positive frequencies in hundredths of a semitone, unsigned."""
    return (a_hz / b_hz).log2().abs() * 1200 if a_hz.numel() else a_hz.new_full((1,), math.nan)
