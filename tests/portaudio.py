"""PortAudio without a sound system: the test calls the callbacks, which are the compiled ones."""

import types

import numpy as np
from cffi import FFI

INPUT_OVERFLOW, OUTPUT_UNDERFLOW = 2, 4  # flags of a callback
_FFI = FFI()
_CALLBACK = "int(*)(const void *, void *, unsigned long, const double *, unsigned long, void *)"


class Stream:
    """An open stream."""

    latency, active, stopped = 0.0, True, False
    time = 0.0  # of its clock

    def __init__(self, kind, *, callback, userdata, **options):
        self.kind, self.options = kind, options
        self._callback, self._userdata = _FFI.cast(_CALLBACK, callback), userdata

    def start(self): ...

    def close(self): ...

    def call(self, samples: np.ndarray, flags: int = 0, *, at: float = 0.0) -> None:
        """One callback at a time of the clock; it takes or, for a loudspeaker, fills float32 samples (N,)."""
        place = _FFI.cast("void *", samples.ctypes.data)
        pair = (place, _FFI.NULL) if self.kind == "input" else (_FFI.NULL, place)
        times = _FFI.new("double[3]", [0.0, at, 0.0])
        assert self._callback(*pair, len(samples), times, flags, self._userdata) == 0


class PortAudio(types.SimpleNamespace):
    """One sound device with a microphone and a loudspeaker, of a host that is not JACK."""

    PortAudioError = RuntimeError
    default = types.SimpleNamespace(device=(0, 0))
    _StreamBase = Stream
    host, default_hz = "ALSA", 16_000.0

    def check_input_settings(self, **_): ...

    def check_output_settings(self, **_): ...

    def query_devices(self, number=None):
        device = {"name": "x", "max_input_channels": 1, "max_output_channels": 2, "default_samplerate": self.default_hz}
        return [device] if number is None else {**device, "hostapi": 0}

    def query_hostapis(self, number):
        return {"name": self.host}
