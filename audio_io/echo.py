"""The assistant must not hear itself: what the loudspeaker played is taken out of what the microphone captured."""

from typing import Any, Protocol

import numpy as np

from audio_io.base import CAPTURE_HZ, FRAME_SAMPLES, DeviceError

_BLOCK = CAPTURE_HZ // 100  # WebRTC works in blocks of 10 ms
_MAX_LEAD = CAPTURE_HZ // 5  # samples that the reference may be ahead of the microphone before it is pulled back
_AUDIBLE = 1e-3  # amplitude from which the reference counts as sound
_TAIL_S = 0.25  # how long a room answers
_LEARNING_S = 1.5  # audible sound that a canceller must have heard before its output can be trusted


class EchoControl(Protocol):
    """Cleans captured frames, given what was played at the time."""

    def process(self, near: np.ndarray, far: np.ndarray) -> np.ndarray:
        """Captured and played samples of one frame, float32 (320,) each -> the captured frame without the echo."""
        ...


class WebRtcEchoControl:
    """WebRTC's AEC3. Raises DeviceError when its package is missing.

    Until it has learned the room, it lets words of the first reply through: over that first moment of sound it is deaf.
    """

    def __init__(self, delay_ms: int = 0) -> None:
        """`delay_ms`: from a sample's way into the loudspeaker's queue to its echo in the microphone, as far as known."""
        try:
            import pywebrtc_audio
        except ImportError as error:
            raise DeviceError(
                "echo cancellation needs the package pywebrtc-audio: pip install -r requirements.txt, or choose "
                "--set audio.echo=half_duplex (you cannot interrupt then), or off with headphones."
            ) from error
        self._canceller: Any = pywebrtc_audio.EchoCanceller(CAPTURE_HZ, 1, delay_ms)
        self._learning, self._deaf = round(_LEARNING_S * CAPTURE_HZ), HalfDuplex()

    def process(self, near: np.ndarray, far: np.ndarray) -> np.ndarray:
        """See `EchoControl.process`."""
        blocks = [
            self._canceller.process(near[start : start + _BLOCK], far[start : start + _BLOCK])
            for start in range(0, len(near), _BLOCK)
        ]
        clean = np.concatenate(blocks).astype(np.float32)
        if self._learning <= 0:
            return clean
        if np.abs(far).max(initial=0.0) > _AUDIBLE:
            self._learning -= len(near)
        return self._deaf.process(clean, far)


class HalfDuplex:
    """The microphone is deaf while the loudspeaker plays, and a moment after."""

    def __init__(self) -> None:
        self._deaf = 0  # samples left

    def process(self, near: np.ndarray, far: np.ndarray) -> np.ndarray:
        """See `EchoControl.process`."""
        if np.abs(far).max(initial=0.0) > _AUDIBLE:
            self._deaf = len(near) + round(_TAIL_S * CAPTURE_HZ)
        elif self._deaf <= 0:
            return near
        self._deaf -= len(near)
        return np.zeros_like(near)


class Untouched:
    """For headphones: nothing leaks into the microphone."""

    def process(self, near: np.ndarray, far: np.ndarray) -> np.ndarray:
        """The captured frame as it is."""
        return near


def echo_control(kind: str, delay_ms: int = 0) -> EchoControl:
    """`webrtc`, `half_duplex` or `off`. Raises DeviceError."""
    if kind == "webrtc":
        return WebRtcEchoControl(delay_ms)
    return HalfDuplex() if kind == "half_duplex" else Untouched()


class Reference:
    """What was played, frame by frame beside the captured frames. The two need not arrive in step."""

    def __init__(self) -> None:
        self._waiting = np.zeros(0, np.float32)

    def push(self, played: np.ndarray) -> None:
        """Take played samples, float32 (N,) at 16 kHz."""
        self._waiting = np.concatenate((self._waiting, played))

    def frame(self) -> np.ndarray:
        """The next 320 samples; silence where none were played. A reference too far ahead is pulled back."""
        if len(self._waiting) > _MAX_LEAD + FRAME_SAMPLES:
            self._waiting = self._waiting[len(self._waiting) - FRAME_SAMPLES :]
        taken, self._waiting = self._waiting[:FRAME_SAMPLES], self._waiting[FRAME_SAMPLES:]
        return np.concatenate((taken, np.zeros(FRAME_SAMPLES - len(taken), np.float32)))
