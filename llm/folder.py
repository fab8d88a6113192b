"""The folder of a Qwen model: where it is, and whether its files are whole, before anything heavy is imported."""

import json
import struct
from pathlib import Path
from typing import Any

from configs.schema import BUNDLED
from llm.base import ChatModelError

BUNDLED_FOLDER = Path(__file__).parent / "assets" / "qwen-small"
ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def find(model: str) -> Path:
    """The folder of `bundled` or of a path. Names of hubs are turned into folders before they come here."""
    return BUNDLED_FOLDER if model == BUNDLED else Path(model).expanduser()


def check(directory: Path) -> dict[str, Any]:
    """The model's config.json, after a look at all its files. Raises ChatModelError."""
    config = _read_config(directory / "config.json")
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise ChatModelError(
            f"{directory} holds a model of type {kind!r}; the chat model must be one of {', '.join(ARCHITECTURES)}."
        )
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        raise ChatModelError(
            f"no weights in {directory}: there is no .safetensors file. Fetch or train the model again."
        )
    for path in weights:
        _check_safetensors(path)
    return config


def num_parameters(directory: Path) -> int:
    """Number of parameters, from the sizes of the files at two bytes each."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors")) // 2


def _read_config(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ChatModelError(
            f"no language model in {path.parent}: config.json is missing. Check llm.model in the config, or make the small "
            "one with `python launch.py train small`."
        ) from None
    except (OSError, ValueError) as error:
        raise ChatModelError(f"{path} cannot be read as JSON ({error}). Restore it from where it came from.") from None
    if not isinstance(values, dict):
        raise ChatModelError(f"{path} does not hold a JSON object. Restore it from where it came from.")
    return values


def _check_safetensors(path: Path) -> None:
    """A safetensors file says in its header how long it must be."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (header_size,) = struct.unpack("<Q", file.read(8))
            if header_size > size:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(header_size))
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ChatModelError(f"{path} is not a safetensors file ({error}). Fetch or train the model again.") from None
    if 8 + header_size + end != size:
        raise ChatModelError(
            f"{path} is truncated: {size} bytes of {8 + header_size + end}. Fetch or train the model again."
        )
