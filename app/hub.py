"""Public repositories of weights: found in the hubs' caches on this machine, or fetched, complete and as published."""

import errno
import fnmatch
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

HUBS = ("huggingface", "modelscope")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SPARE = 200_000_000  # bytes that must stay free on the disk


class WeightsError(Exception):
    """Weights cannot be fetched; the message says what, where and what to do next."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A public repository."""

    name: str  # on Hugging Face
    modelscope: str = ""  # on ModelScope; empty: not there
    revision: str = "main"  # on Hugging Face; a commit where we know one
    modelscope_revision: str | None = None  # a tag on ModelScope where we know one
    licence: str = "see its card"
    sums: dict[str, tuple[int, str]] = field(default_factory=dict)  # bytes and SHA-256 of the files of that commit


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Files of a repository, as patterns; each must match at least one file."""

    repository: Repository
    patterns: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Needed and optional patterns."""
        return self.patterns, self.optional

    @property
    def all(self) -> list[str]:
        """Every pattern."""
        return [*self.patterns, *self.optional]


def is_name(value: str) -> bool:
    """Whether it is written as `owner/repository` and is no path here."""
    return bool(_NAME.fullmatch(value)) and not Path(value).expanduser().exists()


def local(wanted: Wanted) -> Path | None:
    """The folder of a hub's cache that holds all that is wanted; None: it must be fetched. Uses no network."""
    folders = [*_in_huggingface(wanted.repository), *_in_modelscope(wanted.repository)]
    return next((folder for folder in folders if folder.is_dir() and not missing(wanted, folder)), None)


def missing(wanted: Wanted, folder: Path) -> list[str]:
    """Patterns without a file in the folder, and parts of a model that its index names but that are not there."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    absent = [pattern for pattern in wanted.patterns if not fnmatch.filter(names, pattern)]
    for index in fnmatch.filter(names, "*.index.json"):
        try:
            parts = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError):
            absent.append(index)
        else:
            absent += sorted(parts - set(names))
    return absent


def fetch(wanted: Wanted, hubs: Sequence[str] = HUBS) -> Path:
    """Download what is wanted and not there into a hub's cache; the first hub that answers. Raises WeightsError."""
    reasons = []
    for hub in hubs:
        if hub == "modelscope" and not wanted.repository.modelscope:
            reasons.append(f"ModelScope has no {wanted.repository.name}")
            continue
        try:
            folder = (_from_huggingface if hub == "huggingface" else _from_modelscope)(wanted)
        except _Unreachable as error:
            reasons.append(str(error))
            continue
        absent = missing(wanted, folder)
        if absent:
            raise WeightsError(f"{wanted.repository.name} has no {', '.join(absent[:4])}: it is another kind of model.")
        return folder
    raise WeightsError("; ".join(reasons))


class _Unreachable(Exception):
    """A hub does not answer, or not with what was asked for."""


def _from_huggingface(wanted: Wanted) -> Path:
    import huggingface_hub
    from huggingface_hub import constants

    repository, place = wanted.repository, Path(constants.HF_HUB_CACHE)
    _require_answer(constants.ENDPOINT, "Hugging Face")
    logging.getLogger("huggingface_hub").setLevel("ERROR")  # our errors say what it would
    asked: dict[str, Any] = {"revision": repository.revision, "allow_patterns": wanted.all}
    try:
        planned = huggingface_hub.snapshot_download(repository.name, dry_run=True, **asked)
    except Exception as error:  # the hub's errors, the network's and the disk's have no common base
        raise _explained(error, repository, "Hugging Face", place) from None
    _require_space(planned, place)
    try:
        folder = Path(huggingface_hub.snapshot_download(repository.name, **asked))
        published = huggingface_hub.HfApi().list_repo_tree(repository.name, recursive=True, revision=folder.name)
        sums = {entry.path: entry.lfs.sha256 for entry in published if getattr(entry, "lfs", None) is not None}
    except Exception as error:  # see above
        raise _explained(error, repository, "Hugging Face", place) from None
    _verify(wanted, folder, sums | {name: checksum for name, (_, checksum) in repository.sums.items()})
    return folder


def _from_modelscope(wanted: Wanted) -> Path:
    repository = wanted.repository
    _require_answer(f"https://{os.environ.get('MODELSCOPE_DOMAIN', 'www.modelscope.cn')}", "ModelScope")
    try:
        from modelscope import snapshot_download
    except ImportError:
        raise _Unreachable("ModelScope's package is not installed (pip install modelscope)") from None
    logging.getLogger("modelscope_hub").setLevel("ERROR")
    try:
        folder = Path(
            snapshot_download(repository.modelscope, revision=repository.modelscope_revision, allow_patterns=wanted.all)
        )
    except Exception as error:  # see above
        raise _explained(error, repository, "ModelScope", _modelscope_cache()) from None
    _verify(wanted, folder, {name: checksum for name, (_, checksum) in repository.sums.items()})
    return folder


def _require_answer(url: str, hub: str) -> None:
    """Find out in seconds that there is no network; the libraries try again for half a minute."""
    if urllib.request.getproxies():
        return
    parts = urllib.parse.urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 443), timeout=10):
            pass
    except OSError as error:
        raise _Unreachable(f"{hub} cannot be reached at {url} ({error})") from None


def _require_space(planned: Any, place: Path) -> None:
    needed = sum(file.file_size or 0 for file in planned if file.will_download)
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed and needed + _SPARE > free:
        raise _no_space(place, f"{needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free")


def _no_space(place: Path, amount: str) -> WeightsError:
    return WeightsError(
        f"no space for the download in {place}: {amount}. Make room, or set HF_HOME (MODELSCOPE_CACHE) to a folder on "
        "another disk; what is already there is kept."
    )


def _explained(error: Exception, repository: Repository, hub: str, place: Path) -> Exception:
    """What a library's error, or one of those beneath it, means to the user."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return _no_space(place, "the disk is full")
        if isinstance(cause, RepositoryNotFoundError | RevisionNotFoundError):
            return _Unreachable(
                f"{hub} has no {repository.name} (revision {repository.revision}), or not for everyone: check the name"
            )
        deepest, cause = cause, cause.__cause__ or cause.__context__
    reason = (str(deepest).strip().splitlines() or [""])[0][:160]
    return _Unreachable(f"{hub} cannot be reached ({type(deepest).__name__}: {reason})")


def _verify(wanted: Wanted, folder: Path, sums: dict[str, str]) -> None:
    """Compare the files with their published SHA-256; a wrong one is removed. Raises WeightsError."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    chosen = {path: path.relative_to(folder).as_posix() for path in files}
    for path, name in chosen.items():
        if name not in sums or not any(fnmatch.fnmatch(name, pattern) for pattern in wanted.all):
            continue
        found = sha256(path)
        if found != sums[name]:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            raise WeightsError(
                f"{name} of {wanted.repository.name} arrived damaged (SHA-256 {found[:12]}..., published "
                f"{sums[name][:12]}...) and was removed: run the command again."
            )


def sha256(path: Path) -> str:
    """Checksum of a file, with a progress bar for large ones."""
    digest, size = hashlib.sha256(), path.stat().st_size
    hidden = None if size > 50_000_000 else True
    with (
        path.open("rb") as file,
        tqdm(total=size, unit="B", unit_scale=True, desc=f"checking {path.name}", disable=hidden) as bar,
    ):
        while block := file.read(1 << 22):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _in_huggingface(repository: Repository) -> list[Path]:
    from huggingface_hub import constants

    home = Path(constants.HF_HUB_CACHE) / f"models--{repository.name.replace('/', '--')}"
    commit = repository.revision
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        reference = home / "refs" / commit
        commit = reference.read_text().strip() if reference.is_file() else "none"
    return [home / "snapshots" / commit]


def _in_modelscope(repository: Repository) -> list[Path]:
    """Where its package keeps a repository today, and where it did before."""
    if not repository.modelscope:
        return []
    home, (owner, name) = _modelscope_cache(), repository.modelscope.split("/")
    return [
        *sorted((home / "models" / f"{owner}--{name}" / "snapshots").glob("*")),
        *(home / part / "models" / owner / name.replace(".", "___") for part in ("", "hub")),
    ]


def _modelscope_cache() -> Path:
    return Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()
