"""Voice activity: Silero's ONNX model on windows of 32 ms, a hysteresis, and the acoustic ends of a voiced stretch."""

import importlib.util
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from asr.base import SAMPLE_RATE, RecognizerError

WINDOW = 512  # samples, fixed by the model
WINDOW_MS = 1000 * WINDOW / SAMPLE_RATE
_CONTEXT = 64  # samples of the previous window that the model sees again
_FRAME, _HOP = SAMPLE_RATE // 100, SAMPLE_RATE // 200
_SMOOTHED = 9  # frames over which a band's power must stand out of the noise
_QUIET_PERCENT = 10  # of the frames are noise alone
_BAND_BINS = (1, 3, 20)  # first bins of 100 Hz: from 100, 300 and 2000 Hz
_ABOVE_NOISE = np.array([6.3, 2.0, 1.6])  # times the noise; the fewer bins, the more it comes and goes
_FAINTEST = 1e-9
_EXIT_MARGIN = 0.15  # a voice stops counting this far below the threshold at which it began to


class SpeechDetector(Protocol):
    """Gives each window of `WINDOW` samples a speech probability; remembers what it heard."""

    def __call__(self, window: np.ndarray) -> float:
        """Probability of one window."""
        ...

    def reset(self) -> None:
        """Forget what was heard."""
        ...


class VoiceActivity(Protocol):
    """A loaded model of voice activity."""

    def detector(self) -> SpeechDetector:
        """A detector with its own memory."""
        ...


class SileroModel:
    """The network, read-only. The weights are the ones inside the silero-vad wheel.

    Its package is not imported: that would set torch's thread count for the whole process.
    """

    def __init__(self) -> None:
        spec = importlib.util.find_spec("silero_vad")
        path = (
            Path(spec.submodule_search_locations[0]) / "data" / "silero_vad.onnx"
            if spec and spec.submodule_search_locations
            else None
        )
        if path is None or not path.is_file():
            raise RecognizerError("silero-vad is not installed; install it: pip install silero-vad onnxruntime")
        try:
            import onnxruntime
        except ImportError as error:
            raise RecognizerError("onnxruntime is not installed; install it: pip install onnxruntime") from error
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        self.session: Any = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])

    def detector(self) -> "SileroDetector":
        """A detector with its own memory."""
        return SileroDetector(self)


class SileroDetector:
    """One stream through the network."""

    def __init__(self, model: SileroModel) -> None:
        self._session = model.session
        self._rate = np.array(SAMPLE_RATE, np.int64)
        self._state = np.zeros((2, 1, 128), np.float32)
        self._context = np.zeros(_CONTEXT, np.float32)

    def __call__(self, window: np.ndarray) -> float:
        """Speech probability of `WINDOW` samples of float32."""
        heard = np.concatenate([self._context, window])[None]
        output, self._state = self._session.run(None, {"input": heard, "state": self._state, "sr": self._rate})
        self._context = heard[0, -_CONTEXT:]
        return float(output[0, 0])

    def reset(self) -> None:
        """Forget what was heard."""
        self._state = np.zeros_like(self._state)
        self._context = np.zeros_like(self._context)


class Hysteresis:
    """Is there a voice? Enters at the threshold, leaves a margin below it."""

    def __init__(self, threshold: float) -> None:
        self._enter = threshold
        self._leave = max(0.05, threshold - _EXIT_MARGIN)
        self.voiced = False

    def __call__(self, probability: float) -> bool:
        """Take the next window's probability."""
        self.voiced = probability >= (self._leave if self.voiced else self._enter)
        return self.voiced

    def reset(self) -> None:
        """Back to silence."""
        self.voiced = False


def voiced_span(samples: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """Tighten [start, end) to the first and last sample that carry a voice, by energy in frames of 10 ms.

    Detectors react late and let go late; response times are measured from the acoustic end of speech. A frame carries a
    voice when what stands out of the noise, in it and around it, is within 35 dB of the loudest frame. The noise is
    judged band by band, by the quietest frames: a word often ends in a hiss that a noise of low pitch does not hide.
    """
    if end - start < 3 * _FRAME:
        return start, end
    frames = np.lib.stride_tricks.sliding_window_view(samples[start:end], _FRAME)[::_HOP]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(_FRAME + 2)[1:-1], axis=1)) ** 2
    power = np.add.reduceat(spectrum, _BAND_BINS, axis=1)
    even = np.ones(min(_SMOOTHED, len(power)))
    steady = np.stack([np.convolve(band, even / len(even), "same") for band in power.T], axis=1)
    noise = np.percentile(steady, _QUIET_PERCENT, axis=0)
    voice = np.where(steady > _ABOVE_NOISE * noise, np.maximum(power - noise, 0.0), 0.0).sum(1)
    lasting = np.minimum(voice, np.convolve(voice, np.full(3, 1 / 3), "same")[: len(voice)])
    loud = np.flatnonzero(lasting > max(voice.max() * 10**-3.5, _FAINTEST))
    if not len(loud):
        return start, end
    centre = start + _FRAME // 2
    return centre + int(loud[0]) * _HOP - _HOP // 2, centre + int(loud[-1]) * _HOP + _HOP // 2
