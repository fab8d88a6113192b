"""A prepared corpus on disk: shards of arrays, an index, statistics, and the tokenizer whose text tokens it holds.

DIR/settings.json     what it was made with: codebook, text vocabulary, longest duration, ...
DIR/tokenizer.json    of the text tokens
DIR/shards/N.safetensors, N.json    arrays of the items of a shard; one line of the index for each, and what was rejected
DIR/index.jsonl, rejected.jsonl, stats.json    of all shards
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tts.base import CheckpointError
from tts.training.tmt import TimedText, TmtExample

# array -> how many of its rows an item takes: text tokens of the two forms, speech tokens
_ARRAYS = {
    "first_ids": "first_sizes",
    "first_durations": "first_sizes",
    "later_ids": "later_sizes",
    "later_durations": "later_sizes",
    "tokens": "token_sizes",
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """An item that can be trained on."""

    entry: Mapping[str, Any]  # its line of the index
    example: TmtExample
    speaker: np.ndarray  # (E,)


def write_shard(folder: Path, number: int, items: Sequence[Prepared], rejected: Sequence[Mapping[str, Any]]) -> None:
    """Write a shard; it is there when its JSON file is."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{number:05d}"
    if items:
        examples = [item.example for item in items]
        arrays = {
            "first_ids": np.concatenate([e.first.ids for e in examples]).astype(np.int32),
            "first_durations": np.concatenate([e.first.durations for e in examples]).astype(np.int16),
            "first_sizes": np.array([len(e.first.ids) for e in examples], np.int32),
            "later_ids": np.concatenate([e.later.ids for e in examples]).astype(np.int32),
            "later_durations": np.concatenate([e.later.durations for e in examples]).astype(np.int16),
            "later_sizes": np.array([len(e.later.ids) for e in examples], np.int32),
            "tokens": np.concatenate([e.tokens for e in examples]).astype(np.int16),
            "token_sizes": np.array([len(e.tokens) for e in examples], np.int32),
            "speakers": np.stack([item.speaker for item in items]).astype(np.float32),
        }
        partial = folder / f"{name}.part"
        save_file(arrays, partial)
        partial.replace(folder / f"{name}.safetensors")
    entries = [{**item.entry, "shard": number, "row": row} for row, item in enumerate(items)]
    write_json(folder / f"{name}.json", {"entries": entries, "rejected": list(rejected)})


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    partial = path.with_suffix(".part")
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_shard(folder: Path, number: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lines of the index and of what was rejected."""
    values = json.loads((folder / f"{number:05d}.json").read_text(encoding="utf-8"))
    return values["entries"], values["rejected"]


class Dataset(Sequence[TmtExample]):
    """All items of a prepared corpus; an example is cut out of the arrays when it is asked for."""

    def __init__(self, directory: Path) -> None:
        """Read the arrays of `directory`. Raises CheckpointError."""
        self.directory = directory
        try:
            self.settings = json.loads((directory / "settings.json").read_text(encoding="utf-8"))
            index = (directory / "index.jsonl").read_text(encoding="utf-8").splitlines()
            self.entries: list[dict[str, Any]] = [json.loads(line) for line in index]
            numbers = dict.fromkeys(entry["shard"] for entry in self.entries)
            shards = [load_file(directory / "shards" / f"{number:05d}.safetensors") for number in numbers]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(
                f"{directory} is not a whole prepared corpus ({error}): make or finish it with "
                "`python launch.py data prepare`."
            ) from None
        if not shards:
            raise CheckpointError(f"{directory} holds no item that can be trained on: see its rejected.jsonl.")
        self._arrays = {name: np.concatenate([shard[name] for shard in shards]) for name in _ARRAYS}
        sizes = {name: np.concatenate([shard[name] for shard in shards]) for name in set(_ARRAYS.values())}
        self._edges = {name: np.concatenate([[0], np.cumsum(size, dtype=np.int64)]) for name, size in sizes.items()}
        if len(sizes["token_sizes"]) != len(self.entries):
            raise CheckpointError(f"{directory}: index.jsonl and the shards are of different runs; prepare it again.")

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[TmtExample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        """The example of an index, or those of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)

        def cut(name: str) -> np.ndarray:
            edges = self._edges[_ARRAYS[name]]
            return self._arrays[name][edges[index] : edges[index + 1]]

        return TmtExample(
            TimedText(cut("first_ids"), cut("first_durations")),
            TimedText(cut("later_ids"), cut("later_durations")),
            cut("tokens"),
        )
