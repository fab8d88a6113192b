"""Aligned utterances of a set, kept in a file: only the first training of a text-to-token model waits for their alignment.

The file holds a fingerprint of all that they come from; where that is another one, they are made anew.
"""

import hashlib
import inspect
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from app.small.steps.material import save_arrays

if TYPE_CHECKING:
    from tts.training.tmt import TmtExample

_COLUMNS: dict[str, Callable[["TmtExample"], np.ndarray]] = {
    "first_ids": lambda example: example.first.ids,
    "first_durations": lambda example: example.first.durations,
    "later_ids": lambda example: example.later.ids,
    "later_durations": lambda example: example.later.durations,
    "tokens": lambda example: example.tokens,
}


class Kept(NamedTuple):
    """A file of examples, and what they come from."""

    path: Path
    fingerprint: str

    def read(self) -> "list[TmtExample] | None":
        """The examples; None where there is no such file, or one of something else."""
        from tts.training.tmt import TimedText, TmtExample

        try:
            with np.load(self.path) as stored:
                if str(stored["fingerprint"]) != self.fingerprint:
                    return None
                columns = [np.split(stored[name], np.cumsum(stored[f"{name}_sizes"])[:-1]) for name in _COLUMNS]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return [TmtExample(TimedText(*row[:2]), TimedText(*row[2:4]), row[4]) for row in zip(*columns, strict=True)]

    def write(self, examples: "Sequence[TmtExample]") -> None:
        """Keep examples, at least one."""
        arrays = {"fingerprint": np.array(self.fingerprint)}
        for name, column in _COLUMNS.items():
            arrays[name] = np.concatenate([column(example) for example in examples])
            arrays[f"{name}_sizes"] = np.array([len(column(example)) for example in examples])
        save_arrays(self.path, **arrays)


def fingerprint(voice: str, *files: Path) -> str:
    """Of a voice, of the content of files that are there, and of the code that maps times to text tokens."""
    from tts.alignment import durations
    from tts.text.characters import ALONE
    from tts.training.tmt import example

    digest = hashlib.sha256()
    for value in (voice, ALONE, inspect.getsource(durations), inspect.getsource(example)):
        digest.update(hashlib.sha256(value.encode()).digest())
    for path in filter(Path.is_file, files):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
