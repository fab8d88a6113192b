"""Which models a configuration asks for, and where each lies on this machine."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from app import hub
from app.weights_table import NEEDS, Need
from configs.schema import BUNDLED, NONE, SILERO, AppConfig, ConfigError

ROOT = Path(__file__).parent.parent


def needs(config: AppConfig) -> Iterator[Need]:
    """The models that the configuration asks for."""
    unused = {"tts.tmt"} if config.tts.backend == "interleaved" else {"tts.interleaved.model", "tts.interleaved.heads"}
    if config.llm.engine == "openai":
        unused.add("llm.model")  # the server has it
    if config.asr.backend == "moonshine":
        unused |= {"asr.model", "asr.streaming_model"}  # its package has its own
    return (need for need in NEEDS if need.key not in unused and chosen(config, need) not in (NONE, SILERO))


def chosen(config: AppConfig, need: Need) -> str:
    """The value of the setting."""
    value: Any = config
    for name in need.key.split("."):
        value = getattr(value, name)
    return str(value)


def place(config: AppConfig, need: Need) -> Path:
    """Where the model must lie, or lies in a hub's cache."""
    return lies(need, chosen(config, need))


def lies(need: Need, value: str) -> Path:
    """The place of what a setting's value names."""
    if value == BUNDLED:
        return ROOT / need.folder
    wanted = need.wanted(value)
    return (wanted and hub.local(wanted)) or Path(value).expanduser()


def is_there(config: AppConfig, need: Need) -> bool:
    """Whether the model lies in its place, at a glance: what ships has its weights, and no safetensors file is cut."""
    path = place(config, need)
    if not path.exists():
        return False
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    if chosen(config, need) == BUNDLED and not files:
        return False
    return all(_is_whole(file) for file in files if file.suffix == ".safetensors")


def _is_whole(file: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    try:
        with safe_open(file, "numpy"):
            return True
    except (OSError, SafetensorError):
        return False


def everything_there(config: AppConfig) -> bool:
    """Whether this machine has all that the configuration asks for."""
    return all(place(config, need).exists() for need in needs(config))


def located(config: AppConfig, section: str) -> AppConfig:
    """The configuration with folders of this machine for what a section names in a hub. Raises ConfigError.

    Nothing is fetched: that is done by `launch.py weights get`, never in the middle of a conversation.
    """
    for need in needs(config):
        wanted = need.wanted(chosen(config, need)) if need.key.startswith(f"{section}.") else None
        if wanted is None:
            continue
        folder = hub.local(wanted)
        if folder is None:
            raise ConfigError(
                f"{need.key}={chosen(config, need)} is no folder here, and no hub's cache on this machine holds "
                f"{', '.join(wanted.patterns)} of it: run `launch.py weights get` with the same settings."
            )
        config = _with(config, need.key.split("."), str(folder))
    return config


def published_gb(need: Need, value: str) -> float:
    """Size of what a setting names in a public repository of the table; 0: not known."""
    wanted = need.wanted(value)
    return next((source.gb for source in need.public if wanted and source.repository == wanted.repository), 0.0)


def size_of(path: Path, need: Need | None = None, value: str = "") -> int:
    """Bytes of a file, or of the files of a folder; of a hub's folder only what the need wants of it."""
    if path.is_file():
        return path.stat().st_size
    wanted = need.wanted(value) if need else None
    patterns = wanted.all if wanted else ["*"]
    files = {file for pattern in patterns for file in path.glob(pattern) if file.is_file()}
    return sum(file.stat().st_size for file in files)


def _with(value: Any, names: list[str], new: str) -> Any:
    changed = new if len(names) == 1 else _with(getattr(value, names[0]), names[1:], new)
    return dataclasses.replace(value, **{names[0]: changed})
