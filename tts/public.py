"""Public weights files, read strictly into our own modules.

Two layouts are known: CosyVoice2-0.5B's folder and chatterbox's `s3gen.safetensors`, which holds the same flow and
vocoder, the speech tokenizer and the speaker encoder under a prefix each. Their sizes are the defaults of the config
classes; that of the language model stands in the Qwen folder beside `llm.pt`. Nothing in a file is executed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tts import checkpoint, onnx_file
from tts.base import CheckpointError
from tts.decoder.config import FlowConfig
from tts.decoder.flow import FlowDecoder
from tts.decoder.vocoder import Vocoder, VocoderConfig
from tts.interleaved.config import InterleavedConfig
from tts.interleaved.model import TEXT_TABLE, TIED_HEAD, InterleavedLm
from tts.onnx_file import OnnxWeights
from tts.speaker import SpeakerConfig, SpeakerEncoder
from tts.tokenizer import SpeechTokenizer, SpeechTokenizerConfig

COMBINED = "s3gen.safetensors"
TEXT_FOLDER = "CosyVoice-BlankEN"  # its tokenizer and the shape of its language model, in CosyVoice 2's folder
_TABLES = {"tokenizer._mel_filters", "tokenizer.window"}  # chatterbox keeps its front end's tables; ours are computed

State = dict[str, Tensor]
M = TypeVar("M", bound=nn.Module)
C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class Part(Generic[M, C]):
    """One model of a public release."""

    name: str
    file: str  # in CosyVoice 2's folder
    prefix: str = ""  # of its tensors in the combined file; empty: not in it
    config: C  # the public shape ...
    shape: Callable[[Path, State], C] | None = None  # ... unless the file and its folder say another
    make: Callable[[C], M]  # with the file's names
    ours: Callable[[Path], M]  # reads a weights folder of our own
    name_of: Callable[[str], str] = lambda name: name  # an ONNX file's name -> the model's
    completed: Callable[[State, State], State] = lambda state, own: state  # with what a file may leave out
    finished: Callable[[M], M] = lambda model: model


def _tokenizer_name(name: str) -> str:
    """The exported tokenizer is the encoder itself, and projects to the code under another name."""
    if name.startswith("quantizer."):
        return name.replace("quantizer.project_in", "quantizer._codebook.project_down")
    return f"encoder.{name.removeprefix('encoder.')}"


_NORM_BEHIND = (  # which normalisation an exporter multiplies into a convolution of the speaker encoder
    (r"conv(\d)", r"bn\1"),
    (r"shortcut\.0", "shortcut.1"),
    (r"tdnn\.linear", "tdnn.nonlinear.batchnorm"),
    (r"linear1", "nonlinear2.batchnorm"),
    (r"transit\d+\.linear", "out_nonlinear.batchnorm"),
)


def _with_norms(state: State, own: State) -> State:
    """An exporter multiplies normalisations into the convolutions before them, which then have a bias: undo that."""
    counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    filled = {name: torch.zeros((), dtype=value.dtype) for name, value in counters.items()} | state
    for name in [name for name in state if name.endswith(".bias") and name not in own]:
        conv = name.removesuffix(".bias")
        for pattern, norm in _NORM_BEHIND:
            behind, found = re.subn(rf"(?<=\.){pattern}$", norm, conv)
            if found and f"{behind}.running_var" in own and f"{behind}.running_var" not in state:
                bias = filled.pop(name)
                filled[f"{behind}.weight"], filled[f"{behind}.bias"] = torch.ones_like(bias), bias
                filled[f"{behind}.running_mean"] = torch.zeros_like(bias)
                filled[f"{behind}.running_var"] = torch.full_like(bias, 1 - _EPSILON)
                break
    return filled


def _with_head(state: State, own: State) -> State:
    """The language model's unused text output is its text table."""
    return {TIED_HEAD: state[TEXT_TABLE], **state} if TEXT_TABLE in state else state


_EPSILON = nn.BatchNorm1d(1).eps  # with 1 - epsilon as its variance a normalisation changes nothing


def _qwen_shape(file: Path, state: State) -> InterleavedConfig:
    """CosyVoice 2's sizes, or those that the Qwen folder beside the file and the speech table say."""
    path = file.parent / TEXT_FOLDER / "config.json"
    if not path.is_file():
        return InterleavedConfig()
    values = checkpoint.read_config(path.parent)
    rows = state["speech_embedding.weight"].shape[0] if "speech_embedding.weight" in state else 0
    try:
        return InterleavedConfig(
            text_vocab_size=values["vocab_size"],
            num_speech_tokens=max(rows - 3, 1) if rows else InterleavedConfig.num_speech_tokens,
            dim=values["hidden_size"],
            num_layers=values["num_hidden_layers"],
            num_heads=values["num_attention_heads"],
            num_kv_heads=values["num_key_value_heads"],
            ff_dim=values["intermediate_size"],
            rope_base=values["rope_theta"],
            norm_eps=values["rms_norm_eps"],
        )
    except KeyError as error:
        raise CheckpointError(f"{path} does not say {error}: it is not the config.json of a Qwen2 model.") from None


FLOW = Part(
    name="flow decoder",
    file="flow.pt",
    prefix="flow.",
    config=FlowConfig(),
    make=FlowDecoder,
    ours=FlowDecoder.load,
)
VOCODER = Part(
    name="vocoder",
    file="hift.pt",
    prefix="mel2wav.",
    config=VocoderConfig(),
    make=lambda config: Vocoder(config, weight_norm=True),
    ours=Vocoder.load,
    finished=Vocoder.fuse,
)
INTERLEAVED = Part(
    name="interleaved text-speech model",
    file="llm.pt",
    config=InterleavedConfig(),
    shape=_qwen_shape,
    make=InterleavedLm,
    ours=InterleavedLm.load,
    completed=_with_head,
)
SPEECH_TOKENIZER = Part(
    name="speech tokenizer",
    file="speech_tokenizer_v2.onnx",
    prefix="tokenizer.",
    config=SpeechTokenizerConfig(),
    make=SpeechTokenizer,
    ours=SpeechTokenizer.load,
    name_of=_tokenizer_name,
)
SPEAKER = Part(
    name="speaker encoder",
    file="campplus.onnx",
    prefix="speaker_encoder.",
    config=SpeakerConfig(),
    make=SpeakerEncoder,
    ours=SpeakerEncoder.load,
    completed=_with_norms,
)
_PREFIXES = tuple(part.prefix for part in (FLOW, VOCODER, SPEECH_TOKENIZER, SPEAKER))


def load(part: Part[M, C], path: Path, *, config: C | None = None, device: torch.device | str = "cpu") -> M:
    """A model, for inference, from a weights folder of ours, a public folder or file. `config`: shape of a public file.

    Raises CheckpointError.
    """
    file = find(part, path)
    if file is None:
        return _ours(part, path).eval().requires_grad_(False).to(device)
    read = _read(part, file)
    config = config or _shape(part, file, read.tensors)
    state = _fitting(part, file, read.tensors, config)
    model = part.make(config)
    model.load_state_dict(state)
    read.apply_epsilons(model)
    return part.finished(model).eval().requires_grad_(False).to(device)


def check(part: Part[M, C], path: Path) -> Path | None:
    """Compare a public file's names and shapes with the part's, without building the model.

    Returns the file, or None when `path` holds none of the part. Raises CheckpointError.
    """
    file = find(part, path)
    if file is None:
        return None
    state = _read(part, file).tensors
    _fitting(part, file, state, _shape(part, file, state))
    return file


def find(part: Part[M, C], path: Path) -> Path | None:
    """The public file of a part: `path` itself, or in the folder `path`; None for a folder that holds none."""
    if path.is_file():
        return path
    for name in (part.file, COMBINED if part.prefix else ""):
        if name and (path / name).is_file() and not (path / "model.safetensors").is_file():
            return path / name
    return None


def _ours(part: Part[M, C], folder: Path) -> M:
    if folder.is_dir() and not (folder / "model.safetensors").is_file():
        fitting = " or ".join(name for name in (part.file, COMBINED if part.prefix else "") if name)
        raise CheckpointError(f"no weights in {folder}: it holds neither {fitting} nor model.safetensors.")
    return part.ours(folder)


def _fitting(part: Part[M, C], file: Path, state: State, config: C) -> State:
    """The file's tensors as the model of that shape takes them, which is not built to find out. Raises CheckpointError."""
    with torch.device("meta"):
        model = part.make(config)
    state = part.completed(state, model.state_dict())
    checkpoint.require_fit(model, state, file)
    return state


def _shape(part: Part[M, C], file: Path, state: State) -> C:
    return part.config if part.shape is None else part.shape(file, state)


def _read(part: Part[M, C], file: Path) -> OnnxWeights:
    """A part's tensors, floating point ones as float32. Raises CheckpointError."""
    if file.suffix == ".onnx":
        return onnx_file.read(file).renamed(part.name_of)
    values = _read_safetensors(part, file) if file.suffix == ".safetensors" else checkpoint.read_pickle(file)
    if part.prefix and any(name.startswith(part.prefix) for name in values):
        values = {
            name.removeprefix(part.prefix): value
            for name, value in values.items()
            if name not in _TABLES and (name.startswith(part.prefix) or not name.startswith(_PREFIXES))
        }
    foreign = [f"{name} ({type(value).__name__})" for name, value in values.items() if not isinstance(value, Tensor)]
    if foreign:
        raise CheckpointError(
            f"{file} is not a plain table of tensors: it holds {', '.join(foreign[:4])}"
            f"{', ...' if len(foreign) > 4 else ''}. Save the model's state_dict alone."
        )
    floats = {name: value.float() if value.is_floating_point() else value for name, value in values.items()}
    return OnnxWeights(checkpoint.public_names(floats, file))


def _read_safetensors(part: Part[M, C], file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
            others = tuple(prefix for prefix in _PREFIXES if prefix != part.prefix)
            combined = any(part.prefix and name.startswith(part.prefix) for name in names)
            return {name: opened.get_tensor(name) for name in names if not (combined and name.startswith(others))}
    except (SafetensorError, OSError) as error:
        raise checkpoint.unreadable(file, error) from None
