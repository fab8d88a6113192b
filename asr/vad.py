"""Voice activity: Silero's ONNX model on windows of 32 ms, a hysteresis, and the acoustic ends of a voiced stretch."""

import importlib.util
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from asr.base import SAMPLE_RATE, RecognizerError

WINDOW = 512  # samples, fixed by the model
WINDOW_MS = 1000 * WINDOW / SAMPLE_RATE
_CONTEXT = 64  # samples of the previous window that the model sees again
_SMOOTHED = 5  # frames of 10 ms
_EXIT_MARGIN = 0.15  # a voice stops counting this far below the threshold at which it began to


class SpeechDetector(Protocol):
    """Gives each window of `WINDOW` samples a speech probability; remembers what it heard."""

    def __call__(self, window: np.ndarray) -> float:
        """Probability of one window."""
        ...

    def reset(self) -> None:
        """Forget what was heard."""
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
    voice when it is within 35 dB of the loudest and 8 dB above the quietest, by itself and averaged over 50 ms:
    noise comes and goes within single frames.
    """
    frame = SAMPLE_RATE // 100
    count = (end - start) // frame
    if count < _SMOOTHED:
        return start, end
    power = np.square(samples[start : start + count * frame].astype(np.float64)).reshape(count, frame).mean(1)
    steady = np.convolve(power, np.full(_SMOOTHED, 1 / _SMOOTHED), "same")
    least = max(steady.max() * 10**-3.5, np.percentile(steady, 5) * 10**0.8, 1e-12)
    loud = np.flatnonzero((steady > least) & (power > least))
    if not len(loud):
        return start, end
    return start + int(loud[0]) * frame, start + (int(loud[-1]) + 1) * frame
