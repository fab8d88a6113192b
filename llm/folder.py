"""The folder of a Qwen model: where it is, and whether its files are whole, before anything heavy is imported."""

import json
import struct
from pathlib import Path
from typing import Any

from configs.schema import BUNDLED
from llm.base import ChatModelError

BUNDLED_FOLDER = Path(__file__).parent / "assets" / "qwen-small"
_INDEX = "model.safetensors.index.json"
_BOOKKEEPING = ("rotary_emb.inv_freq",)  # what older versions of transformers wrote beside the weights
_SHOWN = 3  # names in an error
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
        _header(path)
    if absent := sorted(_shards(directory) - {path.name for path in weights}):
        raise ChatModelError(
            f"{directory} has no {', '.join(absent[:_SHOWN])}, which its {_INDEX} names ({len(absent)} missing). Fetch the "
            "model again."
        )
    return config


def check_whole(directory: Path) -> None:
    """Compare every tensor's name and shape with the model that config.json describes, and read the tokenizer.

    Nothing is computed and no tensor is read. Raises ChatModelError.
    """
    from llm.vocabulary import Vocabulary

    values = check(directory)
    num_tokens, rows = len(Vocabulary(directory)), values.get("vocab_size")
    if not isinstance(rows, int) or rows < num_tokens:
        raise ChatModelError(
            f"{directory}: the tokenizer has {num_tokens} tokens, the model knows {rows}. They are not a pair."
        )
    if "quantization_config" in values:  # its tensors are packed, each kind in its own way and under its own names
        return
    paths = [directory / name for name in _shards(directory)] or list(directory.glob("*.safetensors"))
    held = {
        name: tuple(entry["shape"])
        for path in paths
        for name, entry in _header(path).items()
        if not name.endswith(_BOOKKEEPING)
    }
    own, spared = _described(directory)
    wrong = {
        "missing": sorted(own.keys() - held.keys() - spared),
        "extra": sorted(held.keys() - own.keys()),
        "misshapen": [
            f"{name} is {list(held[name])}, expected {list(own[name])}"
            for name in sorted(own.keys() & held.keys())
            if own[name] != held[name]
        ],
    }
    if any(wrong.values()):
        parts = "; ".join(
            f"{kind} {len(names)}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
            for kind, names in wrong.items()
            if names
        )
        raise ChatModelError(
            f"the weights in {directory} do not fit their config.json ({parts}). Fetch or train the model again."
        )


def _described(directory: Path) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Names and shapes of the model's tensors, and those that a file may leave out, for they are others' doubles."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory, local_files_only=True))
    except Exception as error:  # transformers raises errors of many kinds for values that are not consistent
        reason = " ".join(str(error).split())[:160]
        raise ChatModelError(
            f"{directory / 'config.json'} describes no model ({type(error).__name__}: {reason}). Restore it from where the "
            "model came from."
        ) from None
    doubles = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}, doubles


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


def _shards(directory: Path) -> set[str]:
    """Names of the files that a model in several files consists of; none where it is one file."""
    path = directory / _INDEX
    if not path.is_file():
        return set()
    try:
        return set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChatModelError(
            f"{path} does not say which files the model consists of ({type(error).__name__}). Fetch it again."
        ) from None


def _header(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, by name, after a look at how long it says that it must be."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (header_size,) = struct.unpack("<Q", file.read(8))
            if header_size > size:
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json.loads(file.read(header_size))
        header.pop("__metadata__", None)
        end = max(entry["data_offsets"][1] for entry in header.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ChatModelError(f"{path} is not a safetensors file ({error}). Fetch or train the model again.") from None
    if 8 + header_size + end != size:
        raise ChatModelError(
            f"{path} is truncated: {size} bytes of {8 + header_size + end}. Fetch or train the model again."
        )
    return header
