"""Public weights files, read strictly into our own modules.

Two layouts are known: CosyVoice2-0.5B (`flow.pt`, `hift.pt`, `llm.pt`) and chatterbox's `s3gen.safetensors`, which holds
the same flow and vocoder, the speech tokenizer and the speaker encoder under a prefix each. Their sizes are the defaults
of the config classes. Nothing in a file is executed.
"""

import dataclasses
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tts import checkpoint
from tts.base import CheckpointError
from tts.decoder.config import FlowConfig
from tts.decoder.flow import FlowDecoder
from tts.decoder.vocoder import Vocoder, VocoderConfig
from tts.interleaved.config import InterleavedConfig
from tts.interleaved.model import InterleavedLm
from tts.speaker import SpeakerConfig, SpeakerEncoder
from tts.tokenizer import SpeechTokenizer, SpeechTokenizerConfig

COMBINED = "s3gen.safetensors"
_COUNTERS = {"epoch", "step"}  # numbers that CosyVoice's trainer leaves beside the tensors
_TABLES = {"tokenizer._mel_filters", "tokenizer.window"}  # chatterbox keeps its front end's tables; ours are computed


@dataclass(frozen=True, kw_only=True)
class Part:
    """One model of a public release."""

    name: str
    file: str = ""  # in CosyVoice 2's folder; empty: published there in another format
    prefix: str = ""  # of its tensors in the combined file; empty: not in it
    make: Callable[[], nn.Module]  # of the public size, with the file's names
    tied: dict[str, str] = dataclasses.field(default_factory=dict)  # tensors that may be left out: whose copy they are


FLOW = Part(name="flow decoder", file="flow.pt", prefix="flow.", make=lambda: FlowDecoder(FlowConfig()))
VOCODER = Part(
    name="vocoder", file="hift.pt", prefix="mel2wav.", make=lambda: Vocoder(VocoderConfig(), weight_norm=True)
)
INTERLEAVED = Part(
    name="interleaved text-speech model",
    file="llm.pt",
    make=lambda: InterleavedLm(InterleavedConfig()),
    tied={"llm.model.lm_head.weight": "llm.model.model.embed_tokens.weight"},
)
SPEECH_TOKENIZER = Part(
    name="speech tokenizer", prefix="tokenizer.", make=lambda: SpeechTokenizer(SpeechTokenizerConfig())
)
SPEAKER = Part(name="speaker encoder", prefix="speaker_encoder.", make=lambda: SpeakerEncoder(SpeakerConfig()))
_PREFIXES = tuple(part.prefix for part in (FLOW, VOCODER, SPEECH_TOKENIZER, SPEAKER))


def load_flow(path: Path, config: FlowConfig | None = None) -> FlowDecoder:
    """A flow decoder from a weights folder of ours, a public folder or file. `config`: shape of a public file.

    Raises CheckpointError.
    """
    file = find(FLOW, path)
    if file is None:
        return FlowDecoder.load(path)
    state, flow = read(FLOW, file), FlowDecoder(config or FlowConfig())
    checkpoint.load_into(flow, state, file)
    return flow.eval()


def load_vocoder(path: Path, config: VocoderConfig | None = None) -> Vocoder:
    """A vocoder, weight norm multiplied out; see `load_flow`."""
    file = find(VOCODER, path)
    if file is None:
        return Vocoder.load(path)
    return Vocoder.from_state(config or VocoderConfig(), read(VOCODER, file), file)


def load_interleaved(path: Path, config: InterleavedConfig | None = None) -> InterleavedLm:
    """The interleaved text-speech model, for inference; see `load_flow`."""
    file = find(INTERLEAVED, path)
    if file is None:
        return InterleavedLm.load(path)
    state, model = read(INTERLEAVED, file), InterleavedLm(config or InterleavedConfig())
    model.load_weights(state, file)
    return model.eval().requires_grad_(False)


def load_speech_tokenizer(path: Path, config: SpeechTokenizerConfig | None = None) -> SpeechTokenizer:
    """A speech tokenizer; the public one out of the combined file. See `load_flow`."""
    file = find(SPEECH_TOKENIZER, path)
    if file is None:
        return SpeechTokenizer.load(path)
    state, tokenizer = read(SPEECH_TOKENIZER, file), SpeechTokenizer(config or SpeechTokenizerConfig())
    checkpoint.load_into(tokenizer, state, file)
    return tokenizer.eval()


def load_speaker(path: Path, config: SpeakerConfig | None = None) -> SpeakerEncoder:
    """A speaker encoder; the public one out of the combined file. See `load_flow`."""
    file = find(SPEAKER, path)
    if file is None:
        return SpeakerEncoder.load(path)
    state, speaker = read(SPEAKER, file), SpeakerEncoder(config or SpeakerConfig())
    checkpoint.load_into(speaker, state, file)
    return speaker.eval()


def check(part: Part, path: Path) -> Path | None:
    """Compare a public file's names and shapes with the part's, without building the model.

    Returns the file, or None when `path` holds none of the part. Raises CheckpointError.
    """
    file = find(part, path)
    if file is None:
        return None
    state = read(part, file)
    for name, original in part.tied.items():
        if original in state:
            state.setdefault(name, state[original])
    with torch.device("meta"):
        model = part.make()
    checkpoint.require_fit(model, state, file)
    return file


def find(part: Part, path: Path) -> Path | None:
    """The public file of a part: `path` itself, or in the folder `path`; None for a folder that holds none."""
    if path.is_file():
        return path
    for name in (part.file, COMBINED if part.prefix else ""):
        if name and (path / name).is_file() and not (path / "config.json").is_file():
            return path / name
    return None


def read(part: Part, file: Path) -> dict[str, Tensor]:
    """A part's tensors under our names, floating point ones as float32. Raises CheckpointError."""
    values = _read_safetensors(part, file) if file.suffix == ".safetensors" else _read_pickle(file)
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
    return checkpoint.public_names(floats, file)


def _read_safetensors(part: Part, file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
            others = tuple(prefix for prefix in _PREFIXES if prefix != part.prefix)
            combined = any(part.prefix and name.startswith(part.prefix) for name in names)
            return {name: opened.get_tensor(name) for name in names if not (combined and name.startswith(others))}
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from None


def _read_pickle(file: Path) -> dict[str, Any]:
    try:
        values = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            raise _unreadable(file, "what it begins with is not what torch.save writes") from None
        raise CheckpointError(
            f"{file} asks for {wanted[1]} while it is read, which could run code, and was refused: a weights file needs "
            "tensors only. Fetch it from its publisher, or save the model's state_dict alone."
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _unreadable(file, error) from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise CheckpointError(f"{file} holds a {type(values).__name__}, not a table of named tensors.")
    return {name: value for name, value in values.items() if name not in _COUNTERS or isinstance(value, Tensor)}


def _unreadable(file: Path, error: Exception | str) -> CheckpointError:
    try:
        with file.open("rb") as opened:
            start = opened.read(32)
    except OSError:
        start = b""
    if start.startswith(b"version https://git-lfs"):
        return CheckpointError(f"{file} is only git-lfs's pointer to the file: run `git lfs pull` in its folder.")
    reason = (str(error).strip().splitlines() or ["it ends early"])[0][:160]
    return CheckpointError(
        f"{file} is not a complete weights file ({reason}). It may be half downloaded: fetch it again."
    )
