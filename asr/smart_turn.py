"""Smart Turn (pipecat-ai/smart-turn-v3, BSD-2-Clause): a network that learned from people's voices whether a turn is over.

Its ONNX file does not ship; who has it names it in `asr.endpoint.smart_turn`, and it is asked in the place of our own.
"""

from pathlib import Path
from typing import Any

import numpy as np

from asr.base import SAMPLE_RATE, RecognizerError

HEARD_S = 8
_INPUT = "input_features"
_SHAPE = (80, 100 * HEARD_S)  # Whisper's log-mel bands, frames of 10 ms
_SUREST = 1e-4  # a probability is no nearer to 0 or 1


class SmartTurn:
    """Hears the last 8 s of a turn; an `asr.endpoint.Ear`."""

    def __init__(self, path: Path) -> None:
        """Raises RecognizerError for a file that is missing, damaged or another model."""
        if not path.is_file():
            raise RecognizerError(
                f"asr.endpoint.smart_turn: there is no file {path}. Take a smart-turn-v3 file (ONNX, for the CPU) from "
                "pipecat-ai/smart-turn-v3 at Hugging Face, or leave the setting empty."
            )
        import onnxruntime
        from transformers import WhisperFeatureExtractor

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own, of many kinds
            reason = str(error).partition("\n")[0]
            raise RecognizerError(f"asr.endpoint.smart_turn: {path} is no whole ONNX file ({reason}).") from error
        inputs = self._session.get_inputs()
        if [found.name for found in inputs] != [_INPUT] or tuple(inputs[0].shape[1:]) != _SHAPE:
            raise RecognizerError(f"asr.endpoint.smart_turn: {path} is another model than Smart Turn 3.")
        self._features = WhisperFeatureExtractor(chunk_length=HEARD_S)

    def log_odds(self, samples: np.ndarray, end: int) -> float:
        """That a turn, float32 (N,) at 16 kHz, is over. It hears the silence behind the voice's end (`end`), too."""
        heard = samples[-HEARD_S * SAMPLE_RATE :]
        heard = np.pad(heard, (HEARD_S * SAMPLE_RATE - len(heard), 0))
        features = self._features(heard, sampling_rate=SAMPLE_RATE, do_normalize=True, return_tensors="np")
        values = {_INPUT: features["input_features"].astype(np.float32)}
        probability = np.clip(float(self._session.run(None, values)[0].flat[0]), _SUREST, 1 - _SUREST)
        return float(np.log(probability / (1 - probability)))
