"""FunASR's `model.pt`, compared with the model that was filled from it: FunASR drops what does not fit, in silence."""

import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from asr.base import RecognizerError

log = logging.getLogger(__name__)
Shapes = Mapping[str, tuple[int, ...]]

_WRAPPINGS = ("state_dict", "model_state_dict", "model")  # in which FunASR's trainers put the tensors, and it unwraps
_PREFIX = "module."  # of a model that was trained on several GPUs; FunASR looks for both names
_BOOKKEEPING = "num_batches_tracked"  # counters that no inference reads
_SHOWN = 4


def read_shapes(file: Path) -> Shapes:
    """Names and shapes of the tensors of a file that torch.save wrote; what could run code is refused.

    Raises RecognizerError.
    """
    try:
        values = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            raise _incomplete(file, "what it begins with is not what torch.save writes") from None
        raise RecognizerError(
            f"{file} asks for {wanted[1]} while it is read, which could run code, and was refused: a recogniser needs tensors "
            "only. Fetch it from its publisher, or save the model's state_dict alone."
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _incomplete(file, (str(error).strip().splitlines() or ["it ends early"])[0][:160]) from None
    for name in _WRAPPINGS:
        if isinstance(values, dict) and name in values:
            values = values[name]
    if not isinstance(values, dict):
        raise RecognizerError(f"{file} holds a {type(values).__name__}, not a table of named tensors.")
    return {
        str(name).removeprefix(_PREFIX): tuple(value.shape)
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def require_fit(model: torch.nn.Module, shapes: Shapes, file: Path) -> None:
    """Refuse a model of which a part was not filled. Raises RecognizerError; tensors beyond it are told in a warning."""
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    differences = {
        "missing": [f"{name} {list(own[name])}" for name in own.keys() - shapes.keys()],
        "extra": [f"{name} {list(shapes[name])}" for name in shapes.keys() - own.keys()],
        "misshapen": [
            f"{name} is {list(shapes[name])}, expected {list(own[name])}"
            for name in own.keys() & shapes.keys()
            if own[name] != shapes[name]
        ],
    }
    told = {}
    for label, found in differences.items():
        names = sorted(name for name in found if _BOOKKEEPING not in name)
        if names:
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            told[label] = f"{label} {len(names)} ({shown})"
    if told.keys() == {"extra"}:
        log.warning("%s holds tensors for which the config.yaml beside it has no place: %s.", file, told["extra"])
    elif told:
        raise RecognizerError(
            f"{file} does not fit the config.yaml beside it: {'; '.join(told.values())}. Fetch both again, from one publisher."
        )


def _incomplete(file: Path, reason: str) -> RecognizerError:
    return RecognizerError(
        f"{file} is not a complete weights file ({reason}). It may be half downloaded: fetch it again."
    )
