"""Who gets how much of a GPU's memory: recogniser, voice and language model share one."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.needs import ROOT, chosen, needs, place, published_gb, size_of
from configs.schema import BUNDLED, AppConfig

_CONTEXT_GIB = 0.8  # CUDA itself and its kernels
_ASR_GIB, _TTS_GIB, _LLM_GIB = 1.0, 1.0, 2.0  # room to compute in, beside weights and caches
_MOST_CACHE_GIB, _LEAST_CACHE_GIB = 3.0, 0.5  # the language model's, for some conversations or just one
_SPOKEN_S = 40.0  # prompt and longest reply that the decoder keeps
_MEL_HZ = 50


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Memory in GiB. The parts are what each asks for; the language model's cache is what is left, within limits."""

    total: float
    parts: Mapping[str, float]

    @property
    def needed(self) -> float:
        """All parts together."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the GPU has that much."""
        return self.needed <= self.total

    @property
    def llm_share(self) -> float:
        """The part of the GPU that vLLM may take (its `gpu_memory_utilization`)."""
        own = sum(size for name, size in self.parts.items() if name.startswith("language model"))
        return min(own / self.total, 1.0)

    def lines(self) -> list[str]:
        """The plan in words."""
        amounts = ", ".join(f"{name} {size:.1f}" for name, size in self.parts.items())
        verdict = f"{self.total - self.needed:.1f} left" if self.fits else f"{self.needed - self.total:.1f} too much"
        return [f"{amounts} GiB", f"{self.needed:.1f} of {self.total:.1f} GiB: {verdict}"]


def plan(total: float, *, asr: float, tts: float, llm: float, speech_cache: float, processes: int = 1) -> Plan:
    """Share `total` GiB out among `processes`, given the weights of each model and the decoder's cache, in GiB."""
    fixed = {
        "CUDA": processes * _CONTEXT_GIB,
        "recogniser": asr + _ASR_GIB,
        "voice": tts + _TTS_GIB,
        "voice's cache": speech_cache,
        "language model": llm + _LLM_GIB,
    }
    cache = min(max(total - sum(fixed.values()), _LEAST_CACHE_GIB), _MOST_CACHE_GIB)
    return Plan(total=total, parts={**fixed, "language model's cache": cache})


def speech_cache_gib(
    *, layers: int, width: int, num_flow_steps: int, guided: bool, conversations: int, number_bytes: int = 4
) -> float:
    """The decoder's keys and values of every layer, flow step and guidance row, for the longest replies."""
    rows = 2 if guided else 1
    per_frame = layers * 2 * width * number_bytes * num_flow_steps * rows
    return per_frame * _SPOKEN_S * _MEL_HZ * conversations / 2**30


def plan_for(config: AppConfig, total: float, conversations: int = 1) -> Plan:
    """The plan for a configuration, from the sizes of its files; of those that are not there, the published ones."""
    from tts import checkpoint
    from tts.decoder.config import FlowConfig
    from tts.precision import resolve

    weights = dict.fromkeys(("asr", "tts", "llm"), 0.0)
    for need in needs(config):
        if need.key == "asr.streaming_model" and config.asr.streaming_model == config.asr.model:
            continue  # one set of weights for both
        value, path = chosen(config, need), place(config, need)
        size = size_of(path, need, value) if path.exists() else published_gb(need, value) * 1e9
        weights[need.key.partition(".")[0]] += size / 2**30
    flow = FlowConfig()
    if config.tts.flow == BUNDLED:
        flow = FlowConfig.from_dict(checkpoint.read_config(ROOT / "tts/assets/flow"))
    estimator = flow.estimator
    cache = speech_cache_gib(
        layers=estimator.num_transformers * (2 + estimator.num_mid_blocks),
        width=estimator.num_heads * estimator.head_width,
        num_flow_steps=config.tts.num_flow_steps,
        guided=(flow.guidance if config.tts.flow_guidance < 0 else config.tts.flow_guidance) > 0,
        conversations=conversations,
        number_bytes=resolve(config.tts.dtype, config.runtime.device).itemsize,
    )
    return plan(total, speech_cache=cache, processes=2 if config.llm.vllm_process == "child" else 1, **weights)


def total_gib(device: str) -> float | None:
    """Memory of the GPU; None where torch sees none."""
    import torch

    if not torch.cuda.is_available():
        return None
    return float(torch.cuda.get_device_properties(device if ":" in device else 0).total_memory) / 2**30
