"""Makes the clips of the built-in cases from flite and espeak-ng: `python -m app.bench.make`. Needs both programs."""

import sys

import numpy as np

from app.bench.cases import ASSETS, CLIP_HZ, clip_path, plans
from app.small.synth import SAMPLE_RATE
from app.small.voices import Speaker, Voice
from audio_io.resample import resample


def main() -> int:
    """Speak every part of every plan into a file of its own."""
    import soundfile

    speaker = Speaker()
    ASSETS.mkdir(exist_ok=True)
    for plan in plans():
        engine, source, pitch = plan.voice
        voice = Voice(source, engine, source, pitch)  # type: ignore[arg-type]
        for index, text in enumerate(plan.texts):
            samples = resample(speaker.speak(text, voice).samples, SAMPLE_RATE, CLIP_HZ)
            path, samples = clip_path(plan.name, index), np.clip(samples, -1, 1)
            soundfile.write(path, samples, CLIP_HZ, "PCM_16", format="FLAC", compression_level=1.0)
    size = sum(path.stat().st_size for path in ASSETS.glob("*.flac"))
    sys.stdout.write(f"{ASSETS}: {size / 1e6:.2f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
