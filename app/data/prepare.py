"""`launch.py data prepare`: recordings and texts -> speech tokens, speaker vectors and durations of text tokens.

Items are cut into shards in the order of their ids; workers make whole shards, each depends on its items alone. So a run
that was killed goes on with the shards that are missing, and the result is the same for any number of workers.
"""

import argparse
import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from app.configuration import configuration
from app.data import aligners
from app.data.sources import Item, read_source
from configs.device import resolve
from configs.schema import ConfigError, TtsConfig
from configs.vocabulary import vocabulary_id

if TYPE_CHECKING:
    from tts.alignment.textgrid import Alignment
    from tts.training.dataset import Prepared

HZ = 16_000
LEAD_S, TAIL_S = 0.08, 0.2  # kept before the first word and after the last one
SILENT_PEAK = 10 ** (-60 / 20)
MAX_UNMATCHED = 0.1  # share of the letters that the aligner may have heard otherwise (<unk>, "mr" for "mister")


class RejectedError(Exception):
    """An item cannot be used: (kind, reason)."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How items are prepared; what the result depends on."""

    tts: TtsConfig
    tokenizer: Path  # tokenizer.json of the text tokens
    aligner: Path | None  # folder of a model, for items without a TextGrid
    device: str
    min_s: float
    max_s: float
    max_duration: int  # of a text token, in speech tokens


def run(options: argparse.Namespace) -> int:
    """Prepare a corpus, or the rest of it."""
    from app.assemble import prepare_process

    config = configuration(options)
    prepare_process(config)
    if options.workers < 1:
        raise ConfigError(f"--workers {options.workers}: at least 1.")
    if options.max_duration < 1:
        raise ConfigError(f"--max-duration {options.max_duration}: at least 1 speech token.")
    plan = Plan(
        tts=config.tts,
        tokenizer=_tokenizer(options.tokenizer, config.tts),
        aligner=aligners.located(options.aligner) if options.aligner else None,
        device=config.runtime.device,
        min_s=options.min_s,
        max_s=options.max_s,
        max_duration=options.max_duration,
    )
    items = read_source(options.source, options.alignments)[: options.limit]
    shards = [items[i : i + options.shard_items] for i in range(0, len(items), options.shard_items)]
    settings = _settings(plan, items, options.shard_items)
    _begin(options.out, plan, settings)
    missing = [n for n in range(len(shards)) if not (options.out / "shards" / f"{n:05d}.json").exists()]
    bar = tqdm(total=len(items), desc="prepare", unit="item", disable=not sys.stderr.isatty())
    bar.update(len(items) - sum(len(shards[n]) for n in missing))
    if options.workers == 1:
        for number in missing:
            bar.update(make_shard(plan, options.out, number, shards[number], bar))
    else:
        with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(make_shard, plan, options.out, n, shards[n]) for n in missing]
            try:
                for done in as_completed(waiting):
                    bar.update(done.result())
            except BrokenProcessPool:
                raise OSError(
                    "a worker died, perhaps for want of memory: run it again with fewer --workers; what is done is kept."
                ) from None
    bar.close()
    return 0 if _finish(options.out, len(shards), settings) else 1


def make_shard(plan: Plan, out: Path, number: int, items: Sequence[Item], bar: "tqdm | None" = None) -> int:
    """Prepare the items of a shard and write it; returns how many the bar has not counted yet."""
    from tts.training.dataset import write_shard

    prepare = preparer(plan)
    prepared, rejected = [], []
    for item in items:
        try:
            prepared.append(prepare(item))
        except RejectedError as error:
            kind, reason = error.args
            rejected.append({"id": item.id, "audio": str(item.audio), "kind": kind, "reason": reason})
        if bar is not None:
            bar.update()
    write_shard(out / "shards", number, prepared, rejected)
    return 0 if bar is not None else len(items)


@lru_cache(maxsize=1)
def preparer(plan: Plan) -> "Preparer":
    """The loaded models of this process."""
    return Preparer(plan)


class Preparer:
    """Looks at one item after the other."""

    def __init__(self, plan: Plan) -> None:
        import torch

        import tts
        from tts.alignment.durations import text_pieces
        from tts.vocabulary import TextVocabulary

        torch.set_num_threads(1)
        device = resolve(plan.device)
        self._plan = plan
        self._speech = tts.load_speech_tokenizer(plan.tts, device)
        self._speaker = tts.load_speaker(plan.tts, device)
        self._vocabulary, self._pieces = TextVocabulary(plan.tokenizer), text_pieces(plan.tokenizer)
        self._aligner = aligners.load(plan.aligner, device) if plan.aligner else None

    def __call__(self, item: Item) -> "Prepared":
        """The item as the trainer takes it. Raises RejectedError."""
        import torch

        from tts.alignment.durations import MisalignedError
        from tts.text import spoken
        from tts.training.dataset import Prepared
        from tts.training.tmt import example

        if item.fault:
            raise RejectedError("source", item.fault)
        if not item.text:
            raise RejectedError("text", "its text is empty")
        text = spoken(item.text, self._plan.tts.language).strip()
        if not any(letter.isalnum() for letter in text):
            raise RejectedError("text", f"nothing in its text can be spoken: {item.text[:40]!r}")
        samples = self._read(item.audio)
        try:
            alignment = self._align(item, samples, text)
            samples, words, phones = _trimmed(samples, alignment)
            tokens = self._speech.encode(samples)
            made = example(
                text,
                words,
                phones,
                tokens,
                self._encode,
                self._pieces,
                max_duration=self._plan.max_duration,
                max_unmatched=MAX_UNMATCHED,
            )
        except MisalignedError as error:
            raise RejectedError("alignment", str(error)) from None
        with torch.inference_mode():
            speaker = self._speaker.embed(samples)
        entry = {
            "id": item.id,
            "text": text,
            "speaker": item.speaker,
            "seconds": round(len(samples) / HZ, 3),
            "text_tokens": len(made.first.ids),
            "speech_tokens": len(tokens),
        }
        return Prepared(entry, made, speaker)

    def _encode(self, text: str) -> list[int]:
        return [token for token, _ in self._vocabulary.encode(text)]

    def _read(self, path: Path) -> np.ndarray:
        """The recording at 16 kHz."""
        import soundfile

        from audio_io.base import AudioFileError
        from audio_io.file import read_audio

        plan = self._plan
        try:
            samples = read_audio(path, HZ).samples
            rate = soundfile.info(path).samplerate
        except (AudioFileError, soundfile.LibsndfileError) as error:
            raise RejectedError("audio", str(error).removeprefix(f"{path}: ")) from None
        seconds = len(samples) / HZ
        if rate < HZ:
            raise RejectedError("sample rate", f"its sample rate is {rate} Hz, below {HZ}")
        if seconds < plan.min_s:
            raise RejectedError("length", f"it lasts {seconds:.2f} s, less than {plan.min_s:g}")
        if seconds > plan.max_s:
            raise RejectedError("length", f"it lasts {seconds:.1f} s, more than {plan.max_s:g}")
        if np.abs(samples).max() < SILENT_PEAK:
            raise RejectedError("audio", "it is silent")
        return samples

    def _align(self, item: Item, samples: np.ndarray, text: str) -> "Alignment":
        from tts.alignment.durations import MisalignedError
        from tts.alignment.textgrid import Alignment, read_textgrid
        from tts.alignment.written import as_spoken

        if item.alignment is not None:
            given = read_textgrid(item.alignment) if isinstance(item.alignment, Path) else Alignment(item.alignment)
            return Alignment(as_spoken(item.text, given.words, self._plan.tts.language), given.phones)
        if self._aligner is None:
            raise MisalignedError("it has no TextGrid, and no --aligner is given")
        return self._aligner.align(samples, text)


def _trimmed(
    samples: np.ndarray, alignment: "Alignment"
) -> tuple[np.ndarray, list[tuple[str, float, float]], list[tuple[str, float]]]:
    """Samples, words and phones without the silence at both ends, which would be waited for in vain."""
    from tts.alignment.durations import MisalignedError

    if not alignment.words:
        raise MisalignedError("the alignment has no words")
    start = max(0, round((min(begin for _, begin, _ in alignment.words) - LEAD_S) * HZ))
    end = min(len(samples), round((max(stop for _, _, stop in alignment.words) + TAIL_S) * HZ))
    if end <= start:
        raise MisalignedError("the words lie outside of the recording")
    from_s = start / HZ
    words = [(word, begin - from_s, stop - from_s) for word, begin, stop in alignment.words]
    phones = [(phone, stop - from_s) for phone, stop in alignment.phones if stop > from_s]
    return samples[start:end], words, phones


def _tokenizer(chosen: Path | None, config: TtsConfig) -> Path:
    """The tokenizer.json that was asked for, or that of the configured model."""
    import tts

    path = chosen or tts.tokenizer_file(config)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such tokenizer.json; --tokenizer takes one, or a Qwen folder.")
    return path


def _settings(plan: Plan, items: Sequence[Item], shard_items: int) -> dict[str, Any]:
    """What the result depends on, as settings.json has it."""
    import tts

    listed = "\n".join(repr(asdict(item)) for item in items)
    return {
        "num_speech_tokens": tts.load_speech_tokenizer(plan.tts).config.vocabulary_size,
        "vocabulary_id": vocabulary_id(plan.tokenizer),
        "max_duration": plan.max_duration,
        "speech_tokenizer": plan.tts.speech_tokenizer,
        "speaker": plan.tts.speaker,
        "language": plan.tts.language,
        "aligner": str(plan.aligner or ""),
        "min_s": plan.min_s,
        "max_s": plan.max_s,
        "shard_items": shard_items,
        "items": hashlib.sha256(listed.encode()).hexdigest()[:16],
    }


def _begin(out: Path, plan: Plan, settings: dict[str, Any]) -> None:
    """Begin a folder, or find that it was begun with the same settings."""
    from tts.training.dataset import write_json

    out.mkdir(parents=True, exist_ok=True)
    path = out / "settings.json"
    if not path.exists():
        shutil.copyfile(plan.tokenizer, out / "tokenizer.json")
        write_json(path, settings)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in settings if settings[name] != before.get(name)]
    if changed:
        raise ConfigError(
            f"{out} was begun with other settings ({', '.join(changed)}): choose another --out, or delete it."
        )


def _finish(out: Path, num_shards: int, settings: dict[str, Any]) -> int:
    """Write what is said of all shards together; returns the number of items."""
    from tts.training.dataset import read_shard, write_json

    entries, rejected = [], []
    for number in range(num_shards):
        found, lost = read_shard(out / "shards", number)
        entries += found
        rejected += lost
    for name, lines in (("index.jsonl", entries), ("rejected.jsonl", rejected)):
        partial = out / f"{name}.part"
        partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        partial.replace(out / name)
    figures = statistics(entries, rejected)
    write_json(out / "stats.json", {**figures, "settings": settings})
    kinds = ", ".join(f"{count} {kind}" for kind, count in figures["rejected"].items())
    sys.stdout.write(
        f"{out}: {figures['items']} items, {figures['hours']:.2f} h of {figures['speakers']} speakers, "
        f"{figures['speech_tokens_per_text_token']:.1f} speech tokens per text token; {len(rejected)} rejected"
    )
    sys.stdout.write(f" ({kinds}): {out / 'rejected.jsonl'} says why\n" if rejected else "\n")
    return len(entries)


def statistics(entries: Sequence[dict[str, Any]], rejected: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of a prepared corpus."""

    def column(name: str) -> Iterator[float]:
        return (entry[name] for entry in entries)

    seconds, text = sum(column("seconds")), sum(column("text_tokens"))
    return {
        "items": len(entries),
        "hours": round(seconds / 3600, 4),
        "speakers": len(set(column("speaker"))),
        "text_tokens": text,
        "speech_tokens": sum(column("speech_tokens")),
        "speech_tokens_per_text_token": round(sum(column("speech_tokens")) / max(text, 1), 3),
        "longest_s": max(column("seconds"), default=0.0),
        "most_text_tokens": max(column("text_tokens"), default=0),
        "rejected": dict(sorted(Counter(line["kind"] for line in rejected).items())),
    }
