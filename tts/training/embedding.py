"""A language model's text embedding as the beginning of the synthesiser's."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from configs.vocabulary import vocabulary_id
from tts.base import CheckpointError

_NAME = "embed_tokens.weight"
_SCALE = 0.02  # standard deviation of a new embedding's entries


def text_embedding(folder: Path, vocabulary: str, num_rows: int, dim: int) -> torch.Tensor:
    """The input embedding of a Qwen folder, (rows <= num_rows, dim): its main directions, or filled up with zeros.

    Args:
        folder: config.json, tokenizer.json and *.safetensors, as transformers saves them.
        vocabulary: `vocabulary_id` that its tokenizer must have.
        num_rows, dim: of the table to be filled.
    Raises CheckpointError.
    """
    try:
        if vocabulary_id(folder / "tokenizer.json") != vocabulary:
            raise CheckpointError(
                f"{folder} has another text vocabulary than the prepared corpus: prepare it with --tokenizer {folder}."
            )
        table = _read(folder)[:num_rows].float()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is not a Qwen folder with {_NAME} ({error}).") from None
    table = table - table.mean(0)
    if table.shape[1] > dim:
        _, directions = torch.linalg.eigh(table.T @ table)
        table = table @ directions[:, -dim:].flip(1)
    table = table * (_SCALE / table.std())
    return torch.nn.functional.pad(table, (0, dim - table.shape[1]))


def _read(folder: Path) -> torch.Tensor:
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        weights = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = [file for name, file in weights.items() if name.endswith(_NAME)]
    for name in names:
        with safe_open(folder / name, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 (not a dict)
                if key.endswith(_NAME):
                    return opened.get_tensor(key)
    raise KeyError(_NAME)
