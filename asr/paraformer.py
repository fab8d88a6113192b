"""Paraformer through `funasr.AutoModel`: whole recordings, and streams in chunks of about half a second.

The bundled weights are one set for both: `ParaformerStreaming` for the partial transcripts, `Paraformer` for the final.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from asr.base import RecognizerError
from asr.funasr_model import build, build_folder
from asr.units import join
from asr.word_search import load_search

log = logging.getLogger(__name__)

BUNDLED = "bundled"
ASSETS = Path(__file__).parent / "assets" / "paraformer"
FRAME_MS = 60  # of the encoder
FRAME_SAMPLES = 960  # FunASR's streaming has this number built in
_MIN_SAMPLES = 2 * FRAME_SAMPLES
_STREAMING_ONLY = ("chunk_size", "stride", "pad_left", "encoder_att_look_back_factor", "decoder_att_look_back_factor")


@dataclass(frozen=True, kw_only=True)
class StreamingLayout:
    """How a stream is cut; the default is that of FunASR's public streaming models."""

    chunk_size: tuple[int, int, int] = (0, 10, 5)  # frames before, of and after the chunk
    encoder_chunk_look_back: int = 4
    decoder_chunk_look_back: int = 1

    @property
    def stride(self) -> int:
        """Samples per chunk."""
        return self.chunk_size[1] * FRAME_SAMPLES


class _Tokens:
    """FunASR's tokenizer, keeping the pieces: FunASR's own text loses word borders between chunks and merges "i a"."""

    def __init__(self, tokenizer: Any) -> None:
        # FunASR keeps what the last call was given: never wrap the wrapper of the call before.
        self._tokenizer: Any = tokenizer._tokenizer if isinstance(tokenizer, _Tokens) else tokenizer
        self.taken: list[str] = []

    def ids2tokens(self, ids: Iterable[int]) -> list[str]:
        tokens: list[str] = self._tokenizer.ids2tokens(ids)
        self.taken += tokens
        return tokens

    def tokens2text(self, tokens: Sequence[str]) -> str:
        text: str = self._tokenizer.tokens2text(tokens)
        return text


class Paraformer:
    """The loaded models. Use from one thread at a time."""

    def __init__(self, offline: Any, streaming: Any | None, layout: StreamingLayout) -> None:
        self._offline = offline
        self._streaming = streaming
        self.layout = layout

    @classmethod
    def load(
        cls,
        model: str = BUNDLED,
        streaming_model: str | None = BUNDLED,
        *,
        device: str = "cpu",
        num_threads: int = 0,
        partial_interval_ms: int = 600,
        word_search: bool = True,
    ) -> "Paraformer":
        """Load `model` for whole recordings and `streaming_model` for streams (None: no streams).

        Each is `bundled`, a folder in the bundled format (config.yaml, tokens.json, am.mvn, config.json,
        model.safetensors), or a FunASR folder with model.pt. `partial_interval_ms` is the chunk of a
        public streaming model; a bundled one has the chunk it was trained with. `word_search`: where the folder has a
        search.json, its words are chosen with a language model (`asr/word_search.py`).

        Raises:
            RecognizerError: FunASR or the weights are missing, damaged or do not fit together.
        """
        layout = StreamingLayout()
        if _is_ours(model):
            offline, streaming, layout = _load_ours(_folder(model), device, num_threads)
            if word_search:
                offline.model.beam_search = load_search(_folder(model), offline.kwargs["tokenizer"].token_list)
                offline.model.nbest = 1
            if streaming_model == model:
                return cls(offline, streaming, layout)
        else:
            offline = _load_public(model, device, num_threads)
        if streaming_model is None:
            return cls(offline, None, layout)
        if _is_ours(streaming_model):
            _, streaming, layout = _load_ours(_folder(streaming_model), device, num_threads)
        else:
            chunk = max(2, round(partial_interval_ms / FRAME_MS))
            layout = StreamingLayout(chunk_size=(0, chunk, chunk // 2))
            streaming = _load_public(streaming_model, device, num_threads)
        return cls(offline, streaming, layout)

    def transcribe(self, samples: np.ndarray) -> str:
        """Text of one utterance, float32 mono at 16 kHz, shape (N,)."""
        if len(samples) < _MIN_SAMPLES:
            return ""
        tokens = _Tokens(self._offline.kwargs["tokenizer"])
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):  # FunASR draws a number in inference too
            self._offline.generate(input=np.ascontiguousarray(samples, np.float32), tokenizer=tokens, key="audio")
        return join(tokens.taken)

    def stream(self) -> "ParaformerStream | None":
        """A new stream, or None where no streaming model is loaded."""
        return ParaformerStream(self._streaming, self.layout) if self._streaming is not None else None


class ParaformerStream:
    """One utterance in chunks. The text only grows, except that its last word may get longer."""

    def __init__(self, model: Any, layout: StreamingLayout) -> None:
        self._model = model
        self._layout = layout
        self._cache: dict[str, Any] = {}
        self._pending = np.zeros(0, np.float32)
        self._tokens = _Tokens(model.kwargs["tokenizer"])

    @property
    def text(self) -> str:
        """What has been recognised so far."""
        return join(self._tokens.taken)

    def push(self, samples: np.ndarray) -> bool:
        """Take float32 mono samples at 16 kHz; true when at least one chunk was recognised."""
        self._pending = np.concatenate([self._pending, samples.astype(np.float32, copy=False)])
        stride = self._layout.stride
        done = 0
        while len(self._pending) - done >= stride:
            self._run(self._pending[done : done + stride], last=False)
            done += stride
        self._pending = self._pending[done:]
        return done > 0

    def finish(self) -> str:
        """Recognise the rest and return the whole text; the stream is over.

        The last chunk gets at least one frame of audio: FunASR's path for an empty one scales its features twice.
        """
        rest = self._pending
        missing = max(0, FRAME_SAMPLES - len(rest))
        self._run(np.concatenate([rest, np.zeros(missing, np.float32)]), last=True)
        self._pending = np.zeros(0, np.float32)
        return self.text

    def _run(self, samples: np.ndarray, *, last: bool) -> None:
        with torch.inference_mode():
            self._model.generate(
                input=np.ascontiguousarray(samples),
                cache=self._cache,
                is_final=last,
                chunk_size=list(self._layout.chunk_size),
                encoder_chunk_look_back=self._layout.encoder_chunk_look_back,
                decoder_chunk_look_back=self._layout.decoder_chunk_look_back,
                tokenizer=self._tokens,
                key="audio",  # FunASR would draw one at random
            )


def _folder(model: str) -> Path:
    return ASSETS if model == BUNDLED else Path(model)


def _is_ours(model: str) -> bool:
    return (
        model == BUNDLED
        or (Path(model) / "model.safetensors").is_file()
        or (Path(model).is_dir() and not (Path(model) / "model.pt").is_file())
    )


def _load_public(model: str, device: str, num_threads: int) -> Any:
    folder = Path(model).expanduser()
    if not folder.is_dir():  # FunASR would take it for a name and download it
        raise RecognizerError(
            f"there is no recogniser folder {model}; asr.model and asr.streaming_model take a FunASR folder, or a name such "
            "as funasr/paraformer-en, which `launch.py weights get` fetches."
        )
    try:
        return build_folder(folder, device=device, num_threads=num_threads)
    except RecognizerError:
        raise
    except Exception as error:  # FunASR raises whatever its hub client, pickle or config reader raise
        raise RecognizerError(f"FunASR cannot load the model {model!r}: {error}") from error


def _load_ours(folder: Path, device: str, num_threads: int) -> tuple[Any, Any, StreamingLayout]:
    """(offline, streaming, layout) with shared weights from a folder in the bundled format."""
    names = ("config.yaml", "tokens.json", "am.mvn", "config.json", "model.safetensors")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        hint = "train them with `python launch.py train small paraformer`" if folder == ASSETS else "see asr.model"
        raise RecognizerError(f"recogniser weights are missing: {folder} has no {', '.join(missing)}; {hint}")
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        tokens = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
        streaming_values = json.loads((folder / "config.json").read_text(encoding="utf-8"))["streaming"]
        layout = StreamingLayout(**{**streaming_values, "chunk_size": tuple(streaming_values["chunk_size"])})
        state = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
        models = [
            build(values, tokens, folder / "am.mvn", device=device, num_threads=num_threads)
            for values in (offline_config(config), config)
        ]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, SafetensorError) as error:
        raise RecognizerError(f"recogniser weights in {folder} are damaged or of another kind: {error}") from error
    try:
        for built in models:
            placed = {name: value.to(device) for name, value in state.items()} if device != "cpu" else state
            built.model.load_state_dict(placed, strict=True, assign=True)
            built.model.eval()
    except RuntimeError as error:
        raise RecognizerError(
            f"{folder / 'model.safetensors'} does not fit {folder / 'config.yaml'}: {error}"
        ) from error
    log.info("Paraformer from %s", folder)
    return models[0], models[1], layout


def offline_config(config: dict[str, Any]) -> dict[str, Any]:
    """FunASR's config of the whole-recording model with the same weights as a streaming one."""
    encoder = {k: v for k, v in config["encoder_conf"].items() if k not in _STREAMING_ONLY}
    return {
        **config,
        "model": "Paraformer",
        "encoder": "SANMEncoder",
        "encoder_conf": {**encoder, "input_layer": "pe"},
        "frontend": "WavFrontend",
    }
