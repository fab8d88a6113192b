"""Qwen on transformers, for machines without vLLM: one token at a time on a thread of its own, as the caller asks for it.

The key-value cache of the last conversation stays: the next turn computes only what is new in its prompt.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import DynamicCache

from configs.schema import LlmConfig
from llm import folder
from llm.base import ChatModelError, Message, TextToken
from llm.vocabulary import Vocabulary

_LARGE = 200_000_000  # parameters; smaller models are computed in float32 on a CPU, which is faster there


@dataclass
class _Past:
    """A key-value cache and the ids whose keys and values it holds."""

    cache: DynamicCache
    ids: list[int] = field(default_factory=list)


class TransformersChat:
    """A chat model."""

    def __init__(self, config: LlmConfig, device: str) -> None:
        directory = folder.find(config.model)
        self._max_positions = int(folder.check(directory)["max_position_embeddings"])
        self._config, self._device = config, device
        self._vocabulary = Vocabulary(directory)
        self._model = _load(directory, device, len(self._vocabulary))
        self._generator = torch.Generator(device).manual_seed(config.seed)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="llm")
        self._idle: _Past | None = None

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
        """Generate a reply. Each token is computed when it is asked for; closing ends the reply after the running token."""
        config, loop = self._config, asyncio.get_running_loop()
        temperature = config.temperature if temperature is None else temperature
        prompt = self._vocabulary.prompt(messages)
        if len(prompt) + config.max_reply_tokens > self._max_positions:
            raise ChatModelError(
                f"the conversation has {len(prompt)} tokens; with a reply of {config.max_reply_tokens} it is longer than "
                f"the {self._max_positions} that the model can take. Lower llm.max_context_tokens."
            )
        # A second reply at the same time finds no idle cache and begins with an empty one.
        past, self._idle = self._idle or _Past(DynamicCache(config=self._model.config)), None
        detokenizer = self._vocabulary.detokenizer()
        try:
            new = await loop.run_in_executor(self._thread, self._rewind, past, prompt)
            for _ in range(config.max_reply_tokens):
                token = await loop.run_in_executor(self._thread, self._step, past, new, temperature)
                if token in self._vocabulary.stop_ids:
                    break
                yield TextToken(token, detokenizer.push(token))
                new = [token]
        except torch.OutOfMemoryError:
            past = _Past(DynamicCache(config=self._model.config))  # what it held may be half a step
            raise ChatModelError(
                "the GPU's memory is full. End other programs that use it, or lower llm.max_context_tokens."
            ) from None
        finally:
            self._idle = past

    async def warm_up(self) -> None:
        """Run the model once, so that the first turn is as fast as the others."""
        past = _Past(DynamicCache(config=self._model.config))
        ids = self._vocabulary.prompt([Message("user", "hello")])
        loop = asyncio.get_running_loop()
        for new in (ids, ids[:1]):
            await loop.run_in_executor(self._thread, self._step, past, new, 0.0)

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _rewind(self, past: _Past, prompt: list[int]) -> list[int]:
        """Cut the cache to what it shares with the prompt; return the rest of the prompt (at least its last id)."""
        shared = 0
        for held, wanted in zip(past.ids, prompt[:-1], strict=False):
            if held != wanted:
                break
            shared += 1
        if past.cache.get_seq_length() > shared:
            past.cache.crop(shared)
        del past.ids[shared:]
        return prompt[shared:]

    @torch.inference_mode()
    def _step(self, past: _Past, new: list[int], temperature: float) -> int:
        """Feed ids and choose the next one."""
        ids = torch.tensor([new], device=self._device)
        out = self._model(input_ids=ids, past_key_values=past.cache, use_cache=True, logits_to_keep=1)
        past.ids += new
        # Rows of the output layer beyond the tokenizer's ids are padding of the public models.
        logits = out.logits[0, -1, : len(self._vocabulary)].float()
        return _choose(logits, temperature, self._config.top_p, self._generator)


def _choose(logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """The likeliest id at temperature 0; else one drawn from the nucleus. `logits`: (vocabulary,)."""
    if temperature <= 0:
        return int(logits.argmax())
    chances, order = (logits / temperature).softmax(-1).sort(descending=True)
    chances[chances.cumsum(-1) - chances > top_p] = 0
    return int(order[torch.multinomial(chances, 1, generator=generator)])


def _load(directory: Path, device: str, num_tokens: int) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as their_logging

    # What is wrong with a folder is said by our error; its table and its progress bar are not for our users.
    their_logging.set_verbosity_error()
    their_logging.disable_progress_bar()
    small = folder.num_parameters(directory) < _LARGE
    dtype = torch.float32 if device == "cpu" and small else torch.bfloat16
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (
        Exception
    ) as error:  # transformers and its parts raise errors of many kinds for a folder that is not consistent
        raise ChatModelError(f"the model in {directory} cannot be loaded: {type(error).__name__}: {error}") from None
    wrong = {kind.replace("_", " "): sorted(map(str, names)) for kind, names in report.items() if names}
    if wrong:
        parts = "; ".join(f"{kind}: {', '.join(names[:3])}" for kind, names in wrong.items())
        raise ChatModelError(f"the weights in {directory} do not fit their config.json ({parts}).")
    if model.config.vocab_size < num_tokens:
        raise ChatModelError(
            f"{directory}: the tokenizer has {num_tokens} tokens, the model knows {model.config.vocab_size}. They are not a pair."
        )
    return model.to(device).eval()
