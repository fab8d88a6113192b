"""Voices by name out of CosyVoice's `spk2info.pt`: a table of what is known of each speaker, as its tools write it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tts import checkpoint
from tts.base import CheckpointError, VoiceError
from tts.voice import Voice

_MARK = ".pt:"
# Speech tokens (1, S), log mel (1, 2 S, 80) and speaker vector (1, E): as CosyVoice adds a speaker, and as its server does.
_LAYOUTS = (
    ("flow_prompt_speech_token", "prompt_speech_feat", "flow_embedding"),
    ("speech_token", "speech_feat", "embedding"),
)


def is_named(path: Path) -> bool:
    """Whether it is `TABLE.pt:NAME`, or a table without a name, rather than a recording."""
    return _MARK in path.name or path.suffix == ".pt"


def named_voice(path: Path) -> Voice:
    """The voice that `TABLE.pt:NAME` names. Raises VoiceError."""
    table, _, name = str(path).partition(_MARK) if _MARK in path.name else (path.with_suffix(""), "", "")
    file = Path(f"{table}.pt").expanduser()
    entries = _read(file)
    if name not in entries:
        known = ", ".join(sorted(entries)[:12]) or "none"
        raise VoiceError(f"{file} has no voice {name!r}: write {file}:NAME with one of {known}.")
    entry = entries[name]
    if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
        raise VoiceError(f"{file}: {name} is a {type(entry).__name__}, not the values of a speaker.")
    for keys in _LAYOUTS:
        if all(key in entry for key in keys):
            return _voice(name, file, *(_tensor(entry, key, name, file) for key in keys))
    if "embedding" in entry:
        embedding = _tensor(entry, "embedding", name, file)
        return _voice(name, file, torch.zeros(1, 0), torch.zeros(1, 0, 80), embedding)
    raise VoiceError(f"{file}: {name} has no speaker vector; it holds {', '.join(list(entry)[:6]) or 'nothing'}.")


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise VoiceError(f"there is no voice table {file}: check the path.")
    try:
        values = checkpoint.read_pickle(file)
    except CheckpointError as error:
        raise VoiceError(str(error)) from None
    return values


def _tensor(entry: dict[str, Any], key: str, name: str, file: Path) -> Tensor:
    value = entry[key]
    if not isinstance(value, Tensor):
        raise VoiceError(f"{file}: {name}'s {key} is a {type(value).__name__}, not a tensor.")
    return value


def _voice(name: str, file: Path, tokens: Tensor, mel: Tensor, embedding: Tensor) -> Voice:
    if (
        tokens.ndim != 2
        or mel.ndim != 3
        or mel.shape[2] != 80
        or len(tokens) != 1
        or len(mel) != 1
        or not embedding.numel()
    ):
        shapes = f"{list(tokens.shape)}, {list(mel.shape)} and {list(embedding.shape)}"
        raise VoiceError(
            f"{file}: {name}'s tokens, mel and speaker vector are {shapes}, expected [1, S], [1, 2 S, 80], [1, E]."
        )
    count = min(tokens.shape[1], mel.shape[1] // 2)
    return Voice(
        name,
        tokens[0, :count].numpy().astype(np.int64),
        np.ascontiguousarray(mel[0, : 2 * count].float().numpy().T),
        embedding.reshape(-1).float().numpy(),
    )
