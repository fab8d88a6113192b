"""Weights on disk: one folder holds `model.safetensors`, `config.json` and `MODEL_CARD.md`."""

import dataclasses
import json
import pickle
import re
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tts.base import CheckpointError

_COUNTERS = {"epoch", "step"}  # numbers that CosyVoice's trainer leaves beside the tensors


def save(
    directory: Path,
    model: nn.Module,
    config: Any,
    *,
    dtype: torch.dtype = torch.float16,
    without: Collection[str] = (),
) -> None:
    """Write a model's parameters (floating point ones as `dtype`), but those `without`, and its config (dataclass or dict)."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {
        name: (value.to(dtype) if value.is_floating_point() else value).contiguous().cpu()
        for name, value in model.state_dict().items()
        if name not in without
    }
    is_value = dataclasses.is_dataclass(config) and not isinstance(config, type)
    values = dataclasses.asdict(config) if is_value else dict(config)
    save_file(state, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_config(directory: Path) -> dict[str, Any]:
    """Read a weights folder's `config.json`. Raises CheckpointError."""
    path = directory / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"no weights in {directory}: config.json is missing. Check the path in the config, or make the small "
            "models with `python launch.py train small`."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}). Restore it from the repository.") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not hold a JSON object. Restore it from the repository.")
    return values


def read_state(directory: Path) -> dict[str, torch.Tensor]:
    """Read a weights folder's tensors, floating point ones as float32. Raises CheckpointError."""
    path = directory / "model.safetensors"
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"no weights in {directory}: model.safetensors is missing.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}). It may be truncated: fetch or train it again."
        ) from None
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def load_into(model: nn.Module, state: dict[str, torch.Tensor], source: Path | str) -> None:
    """Fill `model` strictly; the error names what is missing, extra or misshapen. Raises CheckpointError."""
    require_fit(model, state, source)
    model.load_state_dict(state)


def require_fit(model: nn.Module, state: dict[str, torch.Tensor], source: Path | str) -> None:
    """Compare names and shapes only, so that `model` may be on the meta device. Raises CheckpointError."""
    own = model.state_dict()
    differences = {
        "missing": [f"{name} {list(own[name].shape)}" for name in own if name not in state],
        "extra": [f"{name} {list(state[name].shape)}" for name in state if name not in own],
        "misshapen": [
            f"{name} is {list(state[name].shape)}, expected {list(own[name].shape)}"
            for name in own
            if name in state and own[name].shape != state[name].shape
        ],
    }
    parts = [
        f"{label} {len(names)} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
        for label, names in differences.items()
        if names
    ]
    if parts:
        raise CheckpointError(f"{source} does not fit {type(model).__name__}: {'; '.join(parts)}.")


def public_names(state: dict[str, torch.Tensor], source: Path | str) -> dict[str, torch.Tensor]:
    """Bring a public file's names to ours: GAN training prefixes them, older torch names weight norm otherwise.

    Raises CheckpointError when two tensors get the same name.
    """
    prefix, renamed = "generator.", dict[str, torch.Tensor]()
    prefixed = any(name.startswith(prefix) for name in state)
    for name, value in state.items():
        if prefixed and name.startswith("discriminator."):
            continue
        name = name.removeprefix(prefix)
        for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
            if name.endswith(f".{old}"):
                name = f"{name.removesuffix(old)}parametrizations.weight.{new}"
        if name in renamed:
            raise CheckpointError(f"{source} holds {name} twice, under two spellings of its name.")
        renamed[name] = value
    return renamed


def unreadable(file: Path, error: Exception | str) -> CheckpointError:
    """What to say of a file that cannot be read: half downloaded, or only git-lfs's pointer to it."""
    try:
        with file.open("rb") as opened:
            start = opened.read(32)
    except OSError:
        start = b""
    if start.startswith(b"version https://git-lfs"):
        return CheckpointError(f"{file} is only git-lfs's pointer to the file: run `git lfs pull` in its folder.")
    reason = (str(error).strip().splitlines() or ["it ends early"])[0][:160]
    return CheckpointError(
        f"{file} is not a complete weights file ({reason}). It may be half downloaded: fetch it again."
    )


def read_pickle(file: Path) -> dict[str, Any]:
    """The named values of a file that torch.save wrote; what could run code is refused. Raises CheckpointError."""
    try:
        values = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            raise unreadable(file, "what it begins with is not what torch.save writes") from None
        raise CheckpointError(
            f"{file} asks for {wanted[1]} while it is read, which could run code, and was refused: a weights file needs "
            "tensors only. Fetch it from its publisher, or save the model's state_dict alone."
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise unreadable(file, error) from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise CheckpointError(f"{file} holds a {type(values).__name__}, not a table of named tensors.")
    return {name: value for name, value in values.items() if name not in _COUNTERS or isinstance(value, torch.Tensor)}
