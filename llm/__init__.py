"""The language model's room."""

import importlib.util

from configs.device import resolve
from configs.schema import LlmConfig, RuntimeConfig
from llm.base import ChatModel, ChatModelError


def build(config: LlmConfig, runtime: RuntimeConfig, conversations: int = 1) -> ChatModel:
    """Load the chat model that the configuration asks for, for so many conversations at once.

    Raises ChatModelError, ConfigError.
    """
    if config.engine == "openai":
        from llm.openai_client import OpenAiChat

        return OpenAiChat(config)
    import torch

    device = resolve(runtime.device)
    engine = config.engine
    if engine == "auto":
        engine = "vllm" if device.startswith("cuda") and has_vllm() else "transformers"
    if engine == "vllm":
        if not has_vllm():
            raise ChatModelError(
                "llm.engine is vllm, but vLLM is not installed. Install it, or set llm.engine=transformers."
            )
        from llm.vllm_engine import VllmChat

        return VllmChat(config, device, conversations)
    from llm.transformers_engine import TransformersChat

    if device == "cpu":
        torch.set_num_threads(runtime.num_threads)
    return TransformersChat(config, device)


def has_vllm() -> bool:
    """Whether vLLM is installed (it is not imported)."""
    return importlib.util.find_spec("vllm") is not None
