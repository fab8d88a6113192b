"""FunASR at arm's length: a quick import, and models built from values without a network, a print or a log handler."""

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import random
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from asr.base import RecognizerError
from asr.funasr_weights import read_shapes, require_fit

# What a Paraformer needs of FunASR's registry. A plain `import funasr` imports every model it has (4-12 s, 0.6 GB).
_NEEDED = (
    "funasr.models.paraformer.model",
    "funasr.models.paraformer.decoder",
    "funasr.models.paraformer.cif_predictor",
    "funasr.models.paraformer_streaming.model",
    "funasr.models.sanm.encoder",
    "funasr.models.scama.encoder",
    "funasr.frontends.wav_frontend",
    "funasr.tokenizer.char_tokenizer",
)
_SPEAKER_CLUSTERING = "funasr.models.campplus.cluster_backend"  # optional for FunASR; costs a second of scikit-learn


def import_funasr(*, whole: bool = False, also: Sequence[str] = ()) -> Any:
    """Import FunASR's `AutoModel` class and register Paraformer and the modules `also`; with `whole`, everything it has.

    FunASR's package file imports all sub-modules. To load only some, an empty package object with the same path takes
    its place; the sub-modules are FunASR's own, unchanged.

    Raises:
        RecognizerError: FunASR is not installed or cannot be imported.
    """
    with _quiet():
        try:
            if "funasr" not in sys.modules and not whole:
                _import_light()
            elif whole and not hasattr(sys.modules.get("funasr"), "import_submodules"):
                sys.modules.pop("funasr", None)
                importlib.import_module("funasr")
            auto = importlib.import_module("funasr.auto.auto_model")
            for name in (*_NEEDED, *also):
                importlib.import_module(name)
            return auto.AutoModel
        except ImportError as error:
            raise RecognizerError(f"FunASR cannot be imported ({error}); install it: pip install funasr") from error


def _import_light() -> None:
    spec = importlib.util.find_spec("funasr")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("not installed")
    package = types.ModuleType("funasr")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules["funasr"] = package
    blocked = _SPEAKER_CLUSTERING not in sys.modules
    try:
        if blocked:
            sys.modules[_SPEAKER_CLUSTERING] = None  # type: ignore[assignment]  # makes its import fail at once
        package.AutoModel = importlib.import_module("funasr.auto.auto_model").AutoModel  # type: ignore[attr-defined]
    except BaseException:
        del sys.modules["funasr"]
        raise
    finally:
        if blocked:
            del sys.modules[_SPEAKER_CLUSTERING]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Undo what FunASR does to the process: prints, a handler and level on the root logger, random seeds."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    python_state, numpy_state = random.getstate(), np.random.get_state()
    blocker = logging.NullHandler()
    root.addHandler(blocker)  # `logging.basicConfig` does nothing where there is a handler
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        root.handlers[:] = handlers
        root.setLevel(level)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def build(
    config: Mapping[str, Any],
    tokens: Sequence[str],
    cmvn_file: Path | None,
    *,
    device: str = "cpu",
    num_threads: int = 0,
) -> Any:
    """An `AutoModel` with random weights from FunASR's config values; nothing is looked up anywhere.

    `num_threads` 0 keeps the process's thread count (FunASR sets it for the whole process).
    """
    auto_model = import_funasr()
    values = json.loads(json.dumps(config))  # FunASR writes into what it is given
    with tempfile.TemporaryDirectory() as folder, _quiet():
        token_file = Path(folder) / "tokens.json"
        token_file.write_text(json.dumps(list(tokens)), encoding="utf-8")
        values["tokenizer_conf"] = {**values.get("tokenizer_conf", {}), "token_list": str(token_file)}
        values["frontend_conf"] = {"dither": 0.0, **values.get("frontend_conf", {})}
        if cmvn_file is not None:
            values["frontend_conf"]["cmvn_file"] = str(cmvn_file)
        return auto_model(**values, **options(device, num_threads))


def build_folder(folder: Path, *, device: str, num_threads: int) -> Any:
    """An `AutoModel` of a FunASR folder with `model.pt`. Raises RecognizerError where that does not fill the model."""
    file = folder / "model.pt"
    shapes = read_shapes(file)
    built = _build_folder(folder, device, num_threads)
    require_fit(built.model, shapes, file)
    return built


def load_kind(
    folder: Path, *, kinds: Sequence[str], needed: Sequence[str], also: Sequence[str], device: str, refusal: str
) -> Any:
    """An `AutoModel` of a FunASR folder that holds a model of one of the `kinds`, FunASR's class names.

    Args:
        folder: with the files that are `needed`.
        kinds: see above.
        needed: names of files, config.yaml and model.pt among them.
        also: FunASR's modules that register the kinds.
        device: as in build_folder.
        refusal: what other kinds do not do, and what to give instead.

    Raises:
        RecognizerError: a file is missing or damaged, or the model is of another kind.
    """
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise RecognizerError(f"{folder} is no whole FunASR folder: it has no {', '.join(missing)}.")
    try:
        kind = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise RecognizerError(
            f"{folder / 'config.yaml'} does not say which model it is: fetch the folder again."
        ) from None
    if kind not in kinds:
        raise RecognizerError(f"{folder} holds FunASR's {kind}, which {refusal}.")
    import_funasr(also=also)
    try:
        return build_folder(folder, device=device, num_threads=0)
    except RecognizerError:
        raise
    except Exception as error:  # FunASR raises whatever its pickle, tokenizer or config reader raise
        reason = " ".join(str(error).split())[:160]
        raise RecognizerError(f"FunASR cannot load the {kind} in {folder}: {reason}") from error


def _build_folder(folder: Path, device: str, num_threads: int) -> Any:
    values = {"model": str(folder), "frontend_conf": {"dither": 0.0}, **options(device, num_threads)}
    with contextlib.suppress(RuntimeError), _quiet():  # a class outside the light import: try again with everything
        return import_funasr()(**values)
    auto_model = import_funasr(whole=True)
    with _quiet():
        return auto_model(**values)


def offline_front_end(num_mels: int) -> Any:
    """FunASR's log-mel front end without stacking, normalisation and dither."""
    import_funasr()
    return importlib.import_module("funasr.frontends.wav_frontend").WavFrontend(n_mels=num_mels, dither=0.0)


def build_model(config: Mapping[str, Any], tokens: Sequence[str]) -> torch.nn.Module:
    """FunASR's model alone, for training."""
    model: torch.nn.Module = build(config, tokens, None).model
    return model


def options(device: str, num_threads: int) -> dict[str, Any]:
    """Arguments that keep `AutoModel` quiet, offline and from changing the thread count."""
    return {
        "device": device,
        "ncpu": num_threads or torch.get_num_threads(),
        "disable_update": True,
        "disable_pbar": True,
        "disable_log": True,
        "log_level": "ERROR",
    }
