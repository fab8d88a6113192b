"""The configuration that a command's options name."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from app.needs import everything_there
from configs.loader import DEFAULTS, load
from configs.schema import AppConfig, ConfigError


def configuration(options: argparse.Namespace, extra: Sequence[str] = ()) -> AppConfig:
    """The configuration that a command's options name."""
    settings = [*extra, *options.settings]
    if getattr(options, "voice", None):
        settings.append(f"tts.voice={options.voice}")
    if getattr(options, "voice_text", None) is not None:
        if not options.voice:
            raise ConfigError("--voice-text is what a recording says: name the recording with --voice REF.wav.")
        if not options.voice_text.strip():
            raise ConfigError("--voice-text is empty; leave it out, or write what the recording says.")
        text = json.dumps(options.voice_text, ensure_ascii=False)
        settings += [f"tts.voice_text={text}", "tts.prompt_prosody=true"]
    if getattr(options, "speed", None) is not None:
        if not 0.5 <= options.speed <= 2.0:
            raise ConfigError(f"--speed {options.speed:g}: choose a rate between 0.5 and 2.0.")
        settings.append(f"tts.speed={options.speed}")
    return load(options.config or default_config(), settings)


def default_config() -> Path:
    """The configuration used when none is named: for the GPU where one and all of its weights are there."""
    return DEFAULTS / ("gpu.yaml" if _gpu_ready() else "tiny.yaml")


def has_gpu() -> bool:
    """Whether an NVIDIA driver runs: a look that costs nothing."""
    return Path("/proc/driver/nvidia/version").exists()


def _gpu_ready() -> bool:
    if not has_gpu() or not everything_there(load(DEFAULTS / "gpu.yaml")):
        return False
    import torch

    return bool(torch.cuda.is_available())
