"""`launch.py weights`: what the chosen configuration needs, which file goes where, and whether what is there is whole."""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli import configuration
from configs.schema import BUNDLED, AppConfig

if TYPE_CHECKING:
    from tts.public import Part

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Source:
    """A public file or folder that a setting takes."""

    file: str
    size: str
    licence: str
    publisher: str


COSYVOICE = "FunAudioLLM/CosyVoice2-0.5B (Hugging Face), iic/CosyVoice2-0.5B (ModelScope)"
COMBINED = Source("s3gen.safetensors", "1.06 GB", "MIT", "ResembleAI/chatterbox (Hugging Face)")
PARAFORMER = Source(
    "a FunASR folder with model.pt, config.yaml, tokens.json and am.mvn",
    "0.9 GB",
    "FunASR model licence",
    "paraformer-zh, paraformer-en (FunASR's names)",
)
STREAMING_PARAFORMER = Source(PARAFORMER.file, "0.9 GB", PARAFORMER.licence, "paraformer-zh-streaming (FunASR's name)")


@dataclass(frozen=True, kw_only=True)
class Need:
    """One model that a configuration asks for."""

    title: str
    key: str  # the setting that says where it is
    folder: str  # of the bundled model
    voices: bool = False  # only for a voice from a recording
    public: tuple[Source, ...] = ()


NEEDS = (
    Need(
        title="recogniser, final pass (Paraformer)",
        key="asr.model",
        folder="asr/assets/paraformer",
        public=(PARAFORMER,),
    ),
    Need(
        title="recogniser, partial transcripts (Paraformer)",
        key="asr.streaming_model",
        folder="asr/assets/paraformer",
        public=(STREAMING_PARAFORMER,),
    ),
    Need(
        title="language model (Qwen)",
        key="llm.model",
        folder="llm/assets/qwen-small",
        public=(
            Source(
                "a folder with config.json, tokenizer.json and *.safetensors",
                "2 bytes per parameter",
                "Apache-2.0 (most sizes; see its card)",
                "any Qwen2 or Qwen3 instruct model, such as Qwen/Qwen3-0.6B (Hugging Face)",
            ),
        ),
    ),
    Need(title="text to speech tokens (TMT)", key="tts.tmt", folder="tts/assets/tmt"),
    Need(
        title="text to speech tokens (interleaved)",
        key="tts.interleaved.model",
        folder="tts/assets/interleaved",
        public=(Source("llm.pt", "2.02 GB", "Apache-2.0", COSYVOICE),),
    ),
    Need(title="draft heads of the interleaved model", key="tts.interleaved.heads", folder="tts/assets/vadusa"),
    Need(
        title="flow-matching decoder",
        key="tts.flow",
        folder="tts/assets/flow",
        public=(Source("flow.pt", "450 MB", "Apache-2.0", COSYVOICE), COMBINED),
    ),
    Need(
        title="vocoder",
        key="tts.vocoder",
        folder="tts/assets/vocoder",
        public=(Source("hift.pt", "83 MB", "Apache-2.0", COSYVOICE), COMBINED),
    ),
    Need(
        title="speech tokenizer",
        key="tts.speech_tokenizer",
        folder="tts/assets/speech_tokenizer",
        voices=True,
        public=(Source("speech_tokenizer_v2.onnx", "496 MB", "Apache-2.0", COSYVOICE), COMBINED),
    ),
    Need(
        title="speaker encoder",
        key="tts.speaker",
        folder="tts/assets/speaker",
        voices=True,
        public=(Source("campplus.onnx", "28 MB", "Apache-2.0", COSYVOICE), COMBINED),
    ),
)


def run(options: argparse.Namespace) -> int:
    """List, explain or check; 1 when something is missing or broken."""
    config = configuration(options)
    return {"list": list_needs, "where": explain, "check": check}[options.what](config)


def needs(config: AppConfig) -> Iterator[Need]:
    """The models that the configuration asks for."""
    unused = {"tts.tmt"} if config.tts.backend == "interleaved" else {"tts.interleaved.model", "tts.interleaved.heads"}
    if config.tts.interleaved.heads == "none":
        unused.add("tts.interleaved.heads")
    return (need for need in NEEDS if need.key not in unused)


def chosen(config: AppConfig, need: Need) -> str:
    """The value of the setting."""
    value: Any = config
    for name in need.key.split("."):
        value = getattr(value, name)
    return str(value)


def place(config: AppConfig, need: Need) -> Path:
    """Where the model must lie."""
    value = chosen(config, need)
    return ROOT / need.folder if value == BUNDLED else Path(value).expanduser()


def list_needs(config: AppConfig) -> int:
    """Print what is needed, its size on disk or MISSING, and its licence."""
    missing = 0
    for need in needs(config):
        path, value = place(config, need), chosen(config, need)
        licence = "Apache-2.0" if value == BUNDLED else _licence(need, path)
        there = path.exists()
        missing += not there
        size = f"{size_of(path) / 1e6:.1f} MB" if there else "MISSING"
        purpose = ", for voices from recordings" if need.voices else ""
        _write(f"{need.title}{purpose}")
        _write(f"    {need.key}={value}  {size}  {licence}")
    _write(f"\n{missing} missing: see `launch.py weights where`." if missing else "\nEverything is there.")
    return 1 if missing else 0


def explain(config: AppConfig) -> int:
    """Print where each model is looked for and which public files its setting takes."""
    for need in needs(config):
        path = place(config, need)
        _write(need.title)
        _write(f"    now: {path}{'' if path.exists() else ' (MISSING)'}")
        for source in need.public:
            _write(f"    or:  {source.file}, {source.size}, {source.licence}")
            _write(f"         from {source.publisher}")
        if need.public:
            _write(f"         --set {need.key}=PATH")
        else:
            _write(f"    or:  --set {need.key}=FOLDER of your own training; no public file fits")
    _write(
        "\nPATH is the file or its folder. Nothing is downloaded here: fetch it on a machine with a network, put it anywhere,\n"
        "and run `launch.py weights check` with the same settings. A public decoder wants tts.num_flow_steps=10 and\n"
        "tts.flow_temperature=1; text-to-token model, tokenizer and decoder must speak the same speech tokens."
    )
    return 0


def check(config: AppConfig) -> int:
    """Read every model as strictly as the assistant does; 1 when one is missing or broken."""
    from asr.base import RecognizerError
    from llm.base import ChatModelError
    from tts.base import SynthesisError

    faults = 0
    for need in needs(config):
        path = place(config, need)
        try:
            if not path.exists():
                name = "; a hub's name is fetched when the assistant first starts" if _may_be_name(need, path) else ""
                raise FileNotFoundError(f"{path} is not there{name}; see `launch.py weights where`")
            read = _check(need, path, config)
        except (RecognizerError, ChatModelError, SynthesisError, OSError) as error:
            faults += 1
            _write(f"  FAULT  {need.title} ({need.key}): {error}")
        else:
            _write(f"  ok     {need.title}: {read}")
    _write(f"\n{faults} of them cannot be used." if faults else "\nEverything is whole.")
    return 1 if faults else 0


def _check(need: Need, path: Path, config: AppConfig) -> Path:
    """Read one model; returns what was read. Raises the errors of its room."""
    key = need.key
    if key.startswith("asr."):
        from asr.paraformer import Paraformer

        Paraformer.load(chosen(config, need), None, word_search=config.asr.word_search and key == "asr.model")
        return path
    if key == "llm.model":
        from llm import folder

        folder.check(path)
        return path
    return _check_speech(key, path)


def _check_speech(key: str, path: Path) -> Path:
    from tts import public
    from tts.interleaved.drafts import DraftHeads
    from tts.tmt.model import Tmt

    own: dict[str, Callable[[Path], object]] = {"tts.tmt": Tmt.load, "tts.interleaved.heads": DraftHeads.load}
    parts: dict[str, Part[Any, Any]] = {
        "tts.interleaved.model": public.INTERLEAVED,
        "tts.flow": public.FLOW,
        "tts.vocoder": public.VOCODER,
        "tts.speech_tokenizer": public.SPEECH_TOKENIZER,
        "tts.speaker": public.SPEAKER,
    }
    file = public.check(parts[key], path) if key in parts else None
    if file is None:
        (own.get(key) or parts[key].ours)(path)
    return file or path


def _may_be_name(need: Need, path: Path) -> bool:
    """Whether the recogniser's or the language model's loader would ask a hub for it."""
    return need.key.startswith(("asr.", "llm.")) and not path.is_absolute()


def _licence(need: Need, path: Path) -> str:
    """The licence of the public file that the path names or holds."""
    for source in need.public:
        if path.name == source.file or (path / source.file).is_file():
            return source.licence
    return "licence: see where it came from"


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files of a folder; 0 where there is nothing."""
    if not path.exists():
        return 0
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
