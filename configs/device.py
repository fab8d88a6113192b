"""Where the models run: one answer for every room."""

import re

from configs.schema import ConfigError


def resolve(name: str) -> str:
    """`cpu`, `cuda` or `cuda:N` of the setting `runtime.device`. Raises ConfigError for one that is not there."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ConfigError(f"runtime.device is {name!r}; choose auto, cpu, cuda or cuda:N.")
    if name == "cpu":
        return name
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if count else "cpu"
    if int(name.partition(":")[2] or 0) >= count:
        there = f"sees {count} GPU(s)" if count else "sees no GPU (driver, or a CPU build of torch)"
        raise ConfigError(
            f"runtime.device is {name}, but torch {there}. Set runtime.device=cpu, or see `launch.py doctor`."
        )
    return name
