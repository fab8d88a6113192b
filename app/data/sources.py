"""What a corpus consists of: a folder laid out like LibriTTS, or a JSONL manifest."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.schema import ConfigError

AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".opus")
TEXTS = (".normalized.txt", ".original.txt", ".txt", ".lab")  # the first that is there is taken
WANTED = (
    "give a folder of recordings with a text file beside each (NAME.wav, NAME.normalized.txt), or a JSONL file whose lines "
    'are {"audio": FILE, "text": ...} with, if known, id, speaker and alignment'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One recording and its text, not looked at yet."""

    id: str
    audio: Path
    text: str = ""
    speaker: str = ""
    alignment: Path | tuple[tuple[str, float, float], ...] | None = None  # TextGrid, or (word, start, end)
    fault: str = ""  # why it cannot be used, where that is known already


def read_source(source: Path, alignments: Path | None = None) -> list[Item]:
    """All items, sorted by id; TextGrids are looked for in `alignments` and beside the recordings. Raises ConfigError."""
    if alignments is not None and not alignments.is_dir():
        raise ConfigError(f"{alignments}: no such folder; --alignments takes the folder of the TextGrids.")
    grids = {path.stem: path for path in sorted((alignments or source).rglob("*.TextGrid"))} if source.exists() else {}
    if source.is_dir():
        items = list(_folder(source, grids))
    elif source.is_file():
        items = list(_manifest(source, grids))
    else:
        raise ConfigError(f"{source}: there is no such corpus; {WANTED}.")
    if not items:
        raise ConfigError(f"{source}: nothing is in it; {WANTED}.")
    seen: set[str] = set()
    unique = []
    for item in sorted(items, key=lambda item: item.id):
        unique.append(replace(item, fault=item.fault or "another item has the same id") if item.id in seen else item)
        seen.add(item.id)
    return unique


def _folder(root: Path, grids: Mapping[str, Path]) -> Iterator[Item]:
    recordings, texts = dict[str, Path](), dict[str, Path]()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        ending = next((end for end in (*AUDIO, *TEXTS) if name.lower().endswith(end)), "")
        stem = name[: -len(ending)]
        if ending in AUDIO and path.is_file():
            recordings.setdefault(stem, path)
        elif ending and (stem not in texts or TEXTS.index(ending) < TEXTS.index(_ending(texts[stem]))):
            texts[stem] = path
    # LibriTTS has README.txt and the like too: only its own kind of text calls for a recording
    alone = {stem for stem, path in texts.items() if _ending(path) == TEXTS[0]}
    for stem in sorted(recordings.keys() | alone):
        audio, text, fault = recordings.get(stem), "", ""
        if audio is None:
            fault = f"there is no recording beside {texts[stem].name}"
        elif stem not in texts:
            fault = "there is no text beside the recording"
        else:
            try:
                text = texts[stem].read_text(encoding="utf-8-sig").strip()
            except (OSError, UnicodeDecodeError):
                fault = f"{texts[stem].name} is not readable as UTF-8 text"
        yield Item(
            id=stem,
            audio=audio or root / stem,
            text=text,
            speaker=_speaker(root, stem),
            alignment=grids.get(Path(stem).name),
            fault=fault,
        )


def _ending(path: Path) -> str:
    return next(end for end in TEXTS if path.name.lower().endswith(end))


def _speaker(root: Path, stem: str) -> str:
    """SPEAKER/CHAPTER/SPEAKER_CHAPTER_... as in LibriTTS, else the folder of the recording."""
    parts = Path(stem).parts
    if len(parts) > 2 and parts[-1].startswith(f"{parts[-3]}_"):
        return parts[-3]
    return parts[-2] if len(parts) > 1 else root.name


def _manifest(path: Path, grids: Mapping[str, Path]) -> Iterator[Item]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error}); {WANTED}.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            yield _entry(path.parent, values, grids)
        except (ValueError, KeyError, TypeError, AttributeError):
            yield Item(id=f"line {number}", audio=path, fault=f'line {number} is not {{"audio": FILE, "text": ...}}')


def _entry(folder: Path, values: Mapping[str, Any], grids: Mapping[str, Path]) -> Item:
    audio = folder / str(values["audio"])
    given = values.get("alignment")
    alignment: Path | tuple[tuple[str, float, float], ...] | None
    if isinstance(given, Sequence) and not isinstance(given, str):
        alignment = tuple((str(word), float(start), float(end)) for word, start, end in given)
    else:
        alignment = folder / given if given else grids.get(audio.stem)
    text = values.get("text")
    return Item(
        id=str(values.get("id") or Path(str(values["audio"])).with_suffix("").as_posix()),
        audio=audio,
        text=text.strip() if isinstance(text, str) else "",
        speaker=str(values.get("speaker") or audio.parent.name),
        alignment=alignment,
        fault="" if isinstance(text, str) else "it has no text",
    )
