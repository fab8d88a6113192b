"""CUDA graphs of a model's step: its kernels are recorded once for each shape, and from then on started by one call.

What depends on how much there is in the past, a cache that grows and attention over it, no graph can hold. A model hands that
to `outside`: there a recording ends one graph and begins the next, so that it is a row of graphs with calls between them.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)
S = TypeVar("S", bound="Remembered")
C = TypeVar("C")
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}  # of the largest value


class Remembered(Protocol):
    """What a function remembers from call to call."""

    def tensors(self) -> list[Tensor]:
        """Those of fixed shapes, changed in place; always in the same order."""
        ...

    def caches(self) -> list[Any]:
        """What grows, used through `outside` alone; always in the same order."""
        ...

    def clone(self) -> Any:
        """An independent copy."""
        ...


class Nothing:
    """What a function of its arguments alone remembers."""

    def tensors(self) -> list[Tensor]:
        """None."""
        return []

    def caches(self) -> list[Any]:
        """None."""
        return []

    def clone(self) -> "Nothing":
        """The same."""
        return self


class Capture(Protocol):
    """Records the kernels that start between `begin` and `end`, any number of times, for one recording."""

    def around(self) -> AbstractContextManager[object]:
        """Where the whole recording happens."""
        ...

    def begin(self) -> None: ...

    def end(self) -> Callable[[], None]:
        """What starts them again, on the same memory."""
        ...


class CudaCapture:
    """Graphs that share their memory, since they always run in the order in which they were recorded."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._graph: torch.cuda.CUDAGraph | None = None

    @contextmanager
    def around(self) -> Iterator[None]:
        """A stream of its own, since the default one cannot be recorded; as urgent, which the graphs' kernels stay."""
        stream = torch.cuda.Stream(priority=torch.cuda.current_stream().priority)
        torch.cuda.synchronize()
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            if self._graph is not None:
                self._graph.capture_end()
            torch.cuda.synchronize()

    def begin(self) -> None:
        """Record from here on; other threads go on as they are."""
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        self._graph = graph

    def end(self) -> Callable[[], None]:
        """The graph's start."""
        graph, self._graph = self._graph, None
        assert graph is not None
        graph.capture_end()
        return graph.replay


class Graphs:
    """A function of tensors and of what it remembers, called as it is; by recordings for shapes that it was taught.

    The function's result is one tensor. It depends on its arguments' values only within kernels, changes no argument but what
    it remembers, and is called by one thread at a time; only that which taught it uses the recordings.
    """

    def __init__(
        self, function: Callable[..., Tensor], name: str, *, capture: Callable[[], Capture] = CudaCapture
    ) -> None:
        self._function, self._name, self._capture = function, name, capture
        self._recordings: dict[object, _Recording | None] = {}
        self._thread: int | None = None
        self._learning = False

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Calls of shapes that are not known yet are recorded, and checked against the function."""
        self._thread, self._learning = threading.get_ident(), True
        try:
            yield
        finally:
            self._learning = False

    def __call__(self, inputs: Sequence[Tensor], remembered: Remembered) -> Tensor:
        """The function's result; may be called in `torch.inference_mode` alone."""
        if self._thread != threading.get_ident():
            return self._function(*inputs, remembered)
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if self._learning and shapes not in self._recordings:
            self._recordings[shapes] = self._learn(inputs, remembered)
        recording = self._recordings.get(shapes)
        if recording is None:
            return self._function(*inputs, remembered)
        return recording.run(inputs, remembered)

    @property
    def num_recordings(self) -> int:
        """Shapes for which there is a recording."""
        return sum(recording is not None for recording in self._recordings.values())

    def _learn(self, inputs: Sequence[Tensor], remembered: Remembered) -> "_Recording | None":
        expected = self._function(*inputs, remembered.clone())
        try:
            recording = _Recording(self._function, inputs, remembered, self._capture())
            found = recording.run(inputs, remembered.clone())
        except RuntimeError as error:
            log.warning("no CUDA graph of the %s: %s; it runs without.", self._name, str(error).partition("\n")[0])
            return None
        apart = (found.float() - expected.float()).abs().max()
        if not apart <= _TOLERANCE[expected.dtype] * expected.abs().max():
            log.warning(
                "the CUDA graph of the %s computes something else (%.2g apart); it runs without.", self._name, apart
            )
            return None
        return recording


_recording = threading.local()  # `now`: the recording that this thread is making


def outside(call: Callable[[C], Tensor], cache: C) -> Tensor:
    """`call(cache)`, which no graph holds. Its result has one shape, but for fewer rows in the last dimension but one.

    `cache` is one of `Remembered.caches`; everything else that `call` uses is the same from call to call, or in the same memory.
    """
    now: _Recording | None = getattr(_recording, "now", None)
    return call(cache) if now is None else now.outside(call, cache)


class _Recording:
    def __init__(
        self, function: Callable[..., Tensor], inputs: Sequence[Tensor], remembered: Remembered, capture: Capture
    ) -> None:
        """Raises RuntimeError for what cannot be recorded."""
        own: Remembered = remembered.clone()
        self._capture = capture
        self._inputs = [tensor.clone() for tensor in inputs]
        self._tensors = own.tensors()
        self._places = {id(cache): place for place, cache in enumerate(own.caches())}
        self._parts: list[Callable[[Sequence[Any]], object]] = []
        try:
            with capture.around():
                function(
                    *self._inputs, remembered.clone()
                )  # libraries set themselves up on this stream, which no graph may hold
                _recording.now = self
                capture.begin()
                self._output = function(*self._inputs, own)
                self._end()
        finally:
            _recording.now = None

    def _end(self) -> None:
        start = self._capture.end()
        self._parts.append(lambda _caches: start())

    def outside(self, call: Callable[[C], Tensor], cache: C) -> Tensor:
        self._end()
        place = self._places[id(cache)]
        result = call(cache)

        def again(caches: Sequence[Any]) -> None:
            rows = call(caches[place])
            result[..., : rows.shape[-2], :].copy_(rows)

        self._parts.append(again)
        self._capture.begin()
        return result

    def run(self, inputs: Sequence[Tensor], remembered: Remembered) -> Tensor:
        _copy(self._inputs, inputs)
        tensors, caches = remembered.tensors(), remembered.caches()
        _copy(self._tensors, tensors)
        for part in self._parts:
            part(caches)
        _copy(tensors, self._tensors)
        return self._output.clone()


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(list(targets), list(sources))


def learning(graphs: Graphs | None) -> AbstractContextManager[object]:
    """`Graphs.learning`, or nothing where there are no graphs."""
    return nullcontext() if graphs is None else graphs.learning()
