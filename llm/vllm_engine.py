"""Qwen on vLLM, in one of two homes (`llm.vllm_process`), each owned by one thread of ours.

`own`: vLLM's synchronous engine in this process; the thread runs what is put into its inbox, and steps as long as a request
is unfinished. `child`: vLLM's AsyncLLM, whose engine core computes in a process of its own, which this process's interpreter
lock cannot delay; the thread runs its event loop. Tokens come back as ids; the text is made here, so that it never breaks
inside a character.
"""

import asyncio
import contextlib
import gc
import itertools
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from configs.schema import LlmConfig
from llm import folder
from llm.base import ChatModelError, Message, TextToken
from llm.vocabulary import Vocabulary

# Read by vLLM when it is imported. Without multiprocessing its engine runs in this process; a host address keeps it from
# looking for one on the network.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",  # a fork of a process with threads may hang
}
_LARGE = 200_000_000  # parameters; smaller models are computed in float32 on a CPU
_WORKSPACE_GIB, _KV_CACHE_GIB = 2.0, 3.0  # what the engine may take on a GPU beside the weights
_REQUESTS = 2  # of one conversation at once: the reply that is heard, and one begun before the turn is surely over

_Item = tuple[list[int], bool] | ChatModelError  # new ids and whether they are the last; or why there will be none
_Emit = Callable[[_Item], None]


class VllmChat:
    """A chat model."""

    def __init__(self, config: LlmConfig, device: str, conversations: int = 1) -> None:
        """`conversations` are those held at once. Raises ChatModelError."""
        directory = folder.find(config.model)
        values = folder.check(directory)
        self._config = config
        self._vocabulary = Vocabulary(directory)
        rows = int(values["vocab_size"])
        if rows < len(self._vocabulary):
            raise ChatModelError(
                f"{directory}: the tokenizer has {len(self._vocabulary)} tokens, the model knows {rows}. They are not a pair."
            )
        self._max_positions = min(
            int(values["max_position_embeddings"]), 2 * (config.max_context_tokens + config.max_reply_tokens)
        )
        self._numbers = itertools.count()
        home = _Child if config.vllm_process == "child" else _Stepper
        self._home: _Stepper | _Child = home(
            lambda: _arguments(directory, device, self._max_positions, config.gpu_share, conversations)
        )

    @property
    def vocabulary_id(self) -> str:
        """Hash of the tokenizer."""
        return self._vocabulary.id

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text."""
        return len(self._vocabulary.encode(text))

    async def stream(
        self, messages: Sequence[Message], *, temperature: float | None = None
    ) -> AsyncIterator[TextToken]:
        """Generate a reply; closing aborts the request in the engine."""
        prompt, longest = self._vocabulary.prompt(messages), self._config.max_reply_tokens
        async for token in self._generate(prompt, longest, temperature):
            yield token

    async def warm_up(self) -> None:
        """Run the engine once, so that the first turn is as fast as the others."""
        async for _ in self._generate(self._vocabulary.prompt([Message("user", "hello")]), 3, None):
            pass

    def close(self) -> None:
        """Stop the thread and the engine."""
        self._home.close()

    async def _generate(
        self, prompt: list[int], max_tokens: int, temperature: float | None
    ) -> AsyncIterator[TextToken]:
        if len(prompt) + max_tokens > self._max_positions:
            raise ChatModelError(
                f"the conversation has {len(prompt)} tokens; with a reply of {max_tokens} it is longer than the "
                f"{self._max_positions} that the model can take. Lower llm.max_context_tokens."
            )
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        config, loop = self._config, asyncio.get_running_loop()
        temperature = config.temperature if temperature is None else temperature
        parameters = SamplingParams(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=config.top_p,
            seed=config.seed if temperature > 0 else None,
            stop_token_ids=sorted(self._vocabulary.stop_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        arrived: asyncio.Queue[_Item] = asyncio.Queue()
        name = f"reply-{next(self._numbers)}"

        def emit(item: _Item) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, item)

        detokenizer = self._vocabulary.detokenizer()
        self._home.begin(name, prompt, parameters, emit)
        try:
            finished = False
            while not finished:
                item = await arrived.get()
                if isinstance(item, ChatModelError):
                    raise item
                ids, finished = item
                for token in ids:
                    if token not in self._vocabulary.stop_ids:
                        yield TextToken(token, detokenizer.push(token))
        finally:
            self._home.abort(name)


class _Stepper:
    """The thread that owns an engine in this process. After a step that fails, the engine is built anew."""

    def __init__(self, arguments: Callable[[], dict[str, Any]]) -> None:
        """Raises ChatModelError."""
        self._arguments = arguments
        self._engine: Any = None
        self._inbox: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._receivers: dict[str, _Emit] = {}
        built: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(built,), name="llm", daemon=True)
        self._thread.start()
        built.result()

    def begin(self, name: str, prompt: list[int], parameters: Any, emit: _Emit) -> None:
        """Start a request; its tokens go to `emit`, called on this thread."""

        def start() -> None:
            from vllm import TokensPrompt

            try:
                self._ready().add_request(name, TokensPrompt(prompt_token_ids=prompt), parameters)
            except Exception as error:  # of this request; the others go on
                emit(_told(error))
                return
            self._receivers[name] = emit

        self._inbox.put(start)

    def abort(self, name: str) -> None:
        """Drop a request; nothing happens when it is over."""

        def stop() -> None:
            if self._receivers.pop(name, None):
                self._engine.abort_request([name])

        self._inbox.put(stop)

    def close(self) -> None:
        """End the thread after the running step."""
        self._inbox.put(None)
        self._thread.join(timeout=30)

    def _ready(self) -> Any:
        self._engine = self._engine or _build("LLMEngine", self._arguments)
        return self._engine

    def _run(self, built: "Future[None]") -> None:
        try:
            self._ready()
        except Exception as error:
            built.set_exception(error)
            return
        built.set_result(None)
        while self._take_in():
            self._step()
        self._drop()

    def _take_in(self) -> bool:
        """Run what is in the inbox; sleep while there is nothing to do. False when the thread is to end."""
        while not self._receivers or not self._inbox.empty():
            call = self._inbox.get()
            if call is None:
                return False
            try:
                call()
            except Exception as error:
                self._fail(error)
        return True

    def _step(self) -> None:
        try:
            outputs = self._engine.step()
        except Exception as error:
            self._fail(error)
            outputs = None
        if outputs is None:  # the error is gone, and with it the frames that held the engine
            self._drop()
            self._inbox.put(self._ready)  # at once, so that the next turn waits less
            return
        for output in outputs:
            emit = self._receivers.get(output.request_id)
            if emit is None:
                continue
            if output.finished:
                del self._receivers[output.request_id]
            emit((list(output.outputs[0].token_ids), output.finished))

    def _fail(self, error: Exception) -> None:
        for emit in self._receivers.values():
            emit(_told(error))
        self._receivers.clear()

    def _drop(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            with contextlib.suppress(Exception):  # of an engine that failed
                engine.engine_core.shutdown()
        del engine
        _give_back_memory()


class _Child:
    """The thread that owns an engine whose core lives in a child process. After the child's death, there is another."""

    def __init__(self, arguments: Callable[[], dict[str, Any]]) -> None:
        """Raises ChatModelError."""
        self._arguments = arguments
        self._engine: Any = None
        self._replies: dict[str, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm", daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._ready(), self._loop).result()
        except BaseException:
            self._end()
            raise

    async def _ready(self) -> Any:
        self._engine = self._engine or _build("AsyncLLM", self._arguments)
        return self._engine

    def begin(self, name: str, prompt: list[int], parameters: Any, emit: _Emit) -> None:
        """Start a request; its tokens go to `emit`, called on this thread."""

        def start() -> None:
            self._replies[name] = self._loop.create_task(self._reply(name, prompt, parameters, emit))

        self._loop.call_soon_threadsafe(start)

    async def _reply(self, name: str, prompt: list[int], parameters: Any, emit: _Emit) -> None:
        from vllm import TokensPrompt

        engine = None
        try:
            engine = await self._ready()
            async for output in engine.generate(TokensPrompt(prompt_token_ids=prompt), parameters, name):
                emit((list(output.outputs[0].token_ids), output.finished))
        except Exception as error:
            emit(_told(error))
            if engine is not None and engine is self._engine and engine.errored:
                self._drop()
                with contextlib.suppress(ChatModelError):  # the next reply tries again, and tells
                    await self._ready()
        finally:
            del self._replies[name]

    def abort(self, name: str) -> None:
        """Drop a request; nothing happens when it is over."""

        def stop() -> None:
            if name in self._replies:
                self._replies[name].cancel()  # upon which AsyncLLM aborts it in its core

        self._loop.call_soon_threadsafe(stop)

    def close(self) -> None:
        """End the child and the thread."""
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result(timeout=30)
        self._end()

    async def _shut_down(self) -> None:
        for reply in self._replies.values():
            reply.cancel()
        await asyncio.gather(*self._replies.values(), return_exceptions=True)
        self._drop()

    def _drop(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            with contextlib.suppress(Exception):  # of an engine whose child died
                engine.shutdown()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=30)
        self._loop.close()


def _told(error: Exception) -> ChatModelError:
    """What to say of an error: without itself, since its frames would keep the engine's memory."""
    import torch

    if isinstance(error, ChatModelError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return ChatModelError(
            "the GPU's memory is full. End other programs that use it, or lower llm.gpu_share or llm.max_context_tokens; "
            "vLLM is loaded anew."
        )
    reason = str(error).rstrip(".")
    return ChatModelError(
        f"vLLM stopped with {type(error).__name__}: {reason}. Say it again; where it must be, it is loaded anew."
    )


def _give_back_memory() -> None:
    """Free what an engine of this process held, so that the next one finds it free."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _build(kind: str, arguments: Callable[[], dict[str, Any]]) -> Any:
    """Make an `LLMEngine` or an `AsyncLLM`. Raises ChatModelError."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.llm_engine import LLMEngine

    values = arguments()
    try:
        if kind == "AsyncLLM":
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**values))
        return LLMEngine.from_engine_args(EngineArgs(**values))
    except Exception as error:  # vLLM raises what its many parts raise
        raise ChatModelError(f"vLLM cannot load {values['model']}: {type(error).__name__}: {error}") from error


def _arguments(
    directory: Path, device: str, max_positions: int, gpu_share: float, conversations: int
) -> dict[str, Any]:
    """What either engine is made with."""
    on_cpu = device == "cpu"
    small = folder.num_parameters(directory) < _LARGE
    memory = {} if on_cpu else {"gpu_memory_utilization": gpu_share or _gpu_share(directory, device)}
    return {
        "model": str(directory),
        "dtype": "float32" if on_cpu and small else "bfloat16",
        "max_model_len": max_positions,
        "max_num_seqs": _REQUESTS * conversations,
        "enable_prefix_caching": True,  # a turn computes only what is new in its conversation
        "enforce_eager": on_cpu,
        "skip_tokenizer_init": True,
        "disable_log_stats": True,
        **memory,
    }


def _gpu_share(directory: Path, device: str) -> float:
    """The share of the GPU that vLLM may take where nobody planned it: its weights, a cache and its workspace."""
    import torch

    total = torch.cuda.get_device_properties(device).total_memory / 2**30
    weights = 2 * folder.num_parameters(directory) / 2**30
    return min(0.85, (weights + _KV_CACHE_GIB + _WORKSPACE_GIB) / total)
