"""Any chunking of a recording is resampled as the whole."""

import numpy as np
import pytest

from audio_io.resample import StreamingResampler, resample


def tone(hz: int, seconds: float = 1.0) -> np.ndarray:
    time = np.arange(round(hz * seconds)) / hz
    return (0.5 * np.sin(2 * np.pi * 440 * time) + 0.2 * np.sin(2 * np.pi * 1300 * time)).astype(np.float32)


@pytest.mark.parametrize(
    ("from_hz", "to_hz"), [(48_000, 16_000), (44_100, 16_000), (24_000, 48_000), (8_000, 16_000), (16_000, 16_000)]
)
@pytest.mark.parametrize("sizes", [(1, 7), (160,), (4_000, 3, 999)])
def test_any_chunking_equals_the_whole(from_hz: int, to_hz: int, sizes: tuple[int, ...]) -> None:
    samples = tone(from_hz, 0.4)
    stream, parts, start, turn = StreamingResampler(from_hz, to_hz), [], 0, 0
    while start < len(samples):
        size = sizes[turn % len(sizes)]
        parts.append(stream.push(samples[start : start + size]))
        start, turn = start + size, turn + 1
    chunked = np.concatenate([*parts, stream.finish()])
    whole = resample(samples, from_hz, to_hz)
    assert len(chunked) == len(whole) == round(len(samples) * to_hz / from_hz)
    np.testing.assert_allclose(chunked, whole, atol=1e-5)


def test_a_tone_stays_the_tone() -> None:
    whole = resample(tone(48_000), 48_000, 16_000)
    np.testing.assert_allclose(whole[800:-800], tone(16_000)[800:-800], atol=1e-3)


def test_a_finished_stream_begins_anew() -> None:
    stream = StreamingResampler(48_000, 16_000)
    first = np.concatenate((stream.push(tone(48_000)), stream.finish()))
    second = np.concatenate((stream.push(tone(48_000)), stream.finish()))
    np.testing.assert_array_equal(first, second)
