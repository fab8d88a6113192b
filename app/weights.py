"""`launch.py weights`: what the chosen configuration needs, which file goes where, whether it is whole, and fetching it."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import hub
from app.configuration import configuration, has_gpu
from app.hub import Wanted, WeightsError
from app.needs import chosen, is_there, lies, needs, place, published_gb, size_of
from app.weights_table import ALIGNER, Need
from configs.loader import DEFAULTS
from configs.schema import BUNDLED, AppConfig, ConfigError

if TYPE_CHECKING:
    from tts.public import Part


def run(options: argparse.Namespace) -> int:
    """List, explain, check or fetch; 1 when something is missing or broken."""
    if options.config is None and has_gpu():  # what this machine could run, also before its weights are there
        options.config = DEFAULTS / "gpu.yaml"
    config = configuration(options)
    if options.what == "get":
        return get(config, hub.HUBS if options.hub == "auto" else (options.hub,), options.names)
    return {"list": list_needs, "where": explain, "check": check}[options.what](config)


def list_needs(config: AppConfig) -> int:
    """Print what is needed, its size on disk or MISSING, and its licence."""
    missing = 0
    for need in needs(config):
        path, value = place(config, need), chosen(config, need)
        there = is_there(config, need)
        missing += not there
        size = f"{size_of(path, need, value) / 1e6:.1f} MB" if there else _missing(need, value)
        purpose = ", for voices from recordings" if need.voices else ""
        _write(f"{need.title}{purpose}")
        _write(f"    {need.key}={value}  {size}  {_licence(need, value, path)}")
    _write(f"\n{missing} missing: {_remedy(config)}." if missing else "\nEverything is there.")
    return 1 if missing else 0


def _missing(need: Need, value: str) -> str:
    published = published_gb(need, value)
    return f"MISSING ({published:g} GB to fetch)" if published else "MISSING"


def _remedy(config: AppConfig) -> str:
    names = any(need.wanted(chosen(config, need)) for need in needs(config))
    return "`launch.py weights get` fetches what public repositories have" if names else "see `launch.py weights where`"


def explain(config: AppConfig) -> int:
    """Print where each model is looked for and which public files its setting takes."""
    for need in needs(config):
        path = place(config, need)
        _write(need.title)
        _write(f"    now: {path}{'' if path.exists() else ' (MISSING)'}")
        for source in need.public:
            repository = source.repository
            _write(f"    or:  {', '.join(source.files)}, {source.gb:g} GB, {repository.licence}")
            tag = f", {repository.modelscope_revision}" if repository.modelscope_revision else ""
            also = f", {repository.modelscope} (ModelScope{tag})" if repository.modelscope else ""
            _write(f"         from {repository.name} (Hugging Face, {repository.revision[:12]}){also}")
        if need.public:
            _write(f"         --set {need.key}=PATH, or ={need.public[0].repository.name} and `launch.py weights get`")
        else:
            _write(f"    or:  --set {need.key}=FOLDER of your own training; no public file fits")
    _write(
        "\nPATH is the file or its folder. `launch.py weights get` fetches what the settings name by OWNER/REPOSITORY; on a\n"
        "machine without a network, put the files anywhere and give the PATH. `launch.py weights check` reads all of them.\n"
        "A public decoder wants tts.num_flow_steps=10 and tts.flow_temperature=1; text-to-token model, tokenizer and decoder\n"
        "must speak the same speech tokens."
    )
    return 0


def get(config: AppConfig, hubs: tuple[str, ...], names: Sequence[str] = ()) -> int:
    """Fetch what this machine lacks of what the configuration names in public repositories; 1 when something is missing.

    `names`: aligners, instead of what the configuration names. Raises ConfigError.
    """
    values = [(ALIGNER, name) for name in names] or [(need, chosen(config, need)) for need in needs(config)]
    absent: dict[str, tuple[Wanted, list[Need]]] = {}
    for need, value in values:
        wanted = need.wanted(value)
        if wanted is None and names:
            raise ConfigError(f"{value} is no name of a public aligner: write fa-zh, or OWNER/REPOSITORY.")
        if wanted is None or hub.local(wanted):
            path = lies(need, value)
            _write(f"  {'ok     ' if path.exists() else 'MISSING'} {need.title} ({need.key}): {path}")
            continue
        before, asking = absent.get(wanted.repository.name, (wanted, []))
        patterns, optional = (tuple(dict.fromkeys(a + b)) for a, b in zip(before.parts, wanted.parts, strict=True))
        together = Wanted(repository=wanted.repository, patterns=patterns, optional=optional)
        absent[wanted.repository.name] = together, [*asking, need]
    for wanted, asking in absent.values():
        _write(f"  getting {wanted.repository.name} for {', '.join(need.key for need in asking)}")
        try:
            _write(f"  ok      {hub.fetch(wanted, hubs)}")
        except WeightsError as error:
            _write(f"  FAULT   {error}\n          {_by_hand(wanted, asking)}")
    missing = sum(not lies(need, value).exists() for need, value in values)
    if missing:
        _write(f"\n{missing} missing; what no hub has: see `launch.py weights where`.")
        return 1
    _write("\nEverything is there." + ("" if names else " `launch.py weights check` reads it."))
    return 0


def _by_hand(wanted: Wanted, asking: list[Need]) -> str:
    settings = " ".join(f"{need.option}FOLDER" for need in asking)
    return (
        f"Run it again to go on with what is missing; or fetch {', '.join(wanted.patterns)} of {wanted.repository.name} on "
        f"another machine, put them into one FOLDER here, and use {settings}."
    )


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
                raise FileNotFoundError(f"{path} is not there; {_remedy(config)}")
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
        _check_hearing(need, path, config)
        return path
    if key == "llm.model":
        from llm import folder

        folder.check_whole(path)
        return path
    return _check_speech(key, path)


def _check_hearing(need: Need, path: Path, config: AppConfig) -> None:
    from asr.fsmn_vad import FsmnVad
    from asr.paraformer import Paraformer
    from asr.punctuation import Punctuator

    if need.key == "asr.vad":
        FsmnVad.load(path)
    elif need.key == "asr.punctuation":
        Punctuator.load(path)
    else:
        value = BUNDLED if chosen(config, need) == BUNDLED else str(path)
        Paraformer.load(value, None, word_search=config.asr.word_search and need.key == "asr.model")


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


def _licence(need: Need, value: str, path: Path) -> str:
    """The licence of the bundled model, of the repository, or of the public file that the path names or holds."""
    wanted = need.wanted(value)
    if value == BUNDLED or wanted:
        return wanted.repository.licence if wanted else "Apache-2.0"
    for source in need.public:
        if path.name == source.files[0] or (len(source.files) == 1 and (path / source.files[0]).is_file()):
            return source.repository.licence
    return "licence: see where it came from"


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
