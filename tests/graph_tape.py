"""What a CUDA graph is, on a CPU: the operators of one run, run again on the same memory, whatever Python would do by now."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Keeps every operator's call and what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found

    def play(self) -> None:
        """Run all of them again, into the memory that their results had."""
        for func, args, kwargs, found in self.calls:
            for old, new in zip(tree_leaves(found), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class TapeCapture:
    """`tts.modules.graphs.Capture` for a CPU; counts what is played, of all captures."""

    num_played = 0

    def __init__(self) -> None:
        self._tape: Tape | None = None

    @contextmanager
    def around(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self._tape:
                self.end()

    def begin(self) -> None:
        self._tape = Tape()
        self._tape.__enter__()

    def end(self) -> Callable[[], None]:
        tape, self._tape = self._tape, None
        assert tape
        tape.__exit__(None, None, None)

        def play() -> None:
            TapeCapture.num_played += 1
            tape.play()

        return play
