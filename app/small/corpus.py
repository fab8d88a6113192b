"""The synthetic corpus: spoken text with exact phone and word times, written once and read by every trainer.

A set is a folder: `audio.i16` (int16 mono 24 kHz, utterances back to back), `index.jsonl` (one `Utterance` per line)
and, when finished, `complete.json`. Building is seeded; an interrupted build goes on after the last whole utterance.
"""

import argparse
import functools
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from app.small import text as spoken_text
from app.small.synth import SAMPLE_RATE, AlignmentError, Speech
from app.small.voices import DEFAULT, Speaker, Voice, draw, held_out_voices, training_voices
from configs.schema import ConfigError
from llm.training import dialogue

QUESTIONS = ("questions", "questions_dev")  # what is reported, and what a person looks at who improves the models
SETS = ("voices", "heldout", "heldout_seen", "heldout_voices", *QUESTIONS, "prose", "words")
_HELD_OUT = Path(__file__).parent / "heldout"
_CHUNK = 400  # texts drawn at a time
_PROSE_ROUNDS = 4
_MIN_S, _MAX_S = 0.6, 12.0


class CorpusError(ConfigError):
    """A set is missing or damaged; the message says which and how to build it."""


@dataclass(frozen=True)
class Utterance:
    """One utterance of a set; times in seconds from its first sample."""

    id: str
    voice: str
    offset: int  # samples before it in audio.i16
    num_samples: int
    text: str
    words: tuple[tuple[str, float, float], ...]  # (word, start, end) for every white-space separated word of text
    phones: tuple[tuple[str, float], ...]  # (name in synth.PHONES, end)
    answer: tuple[tuple[str, ...], ...] = ()  # held-out questions only: each group needs one of its words in the reply

    @property
    def duration_s(self) -> float:
        """Length in seconds, silence at both ends included."""
        return self.num_samples / SAMPLE_RATE


class Corpus:
    """Reads one set; a set that is still being built is read as far as it goes."""

    def __init__(self, directory: Path) -> None:
        index, audio = directory / "index.jsonl", directory / "audio.i16"
        if not index.exists() or not audio.exists():
            raise CorpusError(f"there is no corpus in {directory}: make it with 'python -m app.small.corpus'")
        with index.open(encoding="utf-8") as lines:
            self.utterances = [_utterance(json.loads(line)) for line in lines if line.endswith("\n")]
        self.complete = (directory / "complete.json").exists()
        self._audio = np.memmap(audio, dtype=np.int16, mode="r") if self.utterances else np.zeros(0, np.int16)
        if self.utterances and self.utterances[-1].offset + self.utterances[-1].num_samples > len(self._audio):
            raise CorpusError(f"{audio} is shorter than its index says: delete {directory} and build it again")

    @property
    def hours(self) -> float:
        """Speech in the set so far."""
        return sum(u.duration_s for u in self.utterances) / 3600

    def samples(self, utterance: Utterance) -> np.ndarray:
        """The utterance's audio (num_samples,) float32 in [-1, 1] at 24 kHz."""
        part = self._audio[utterance.offset : utterance.offset + utterance.num_samples]
        return part.astype(np.float32) / 32768


def _utterance(line: dict) -> Utterance:
    return Utterance(
        id=line["id"],
        voice=line["voice"],
        offset=line["offset"],
        num_samples=line["num_samples"],
        text=line["text"],
        words=tuple((word, start, end) for word, start, end in line["words"]),
        phones=tuple((name, end) for name, end in line["phones"]),
        answer=tuple(tuple(group) for group in line.get("answer", ())),
    )


@dataclass(frozen=True)
class Line:
    """What is to be spoken: id within the set, text, voice and speed."""

    id: str
    text: str
    voice: Voice
    rate: float = 1.0
    answer: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Part:
    """A stretch of a set: lines by chunk, until `hours` are spoken; hours None: the first chunk, whole."""

    name: str
    lines: Callable[[int], list[Line]]  # chunk index -> lines
    hours: float | None = None
    max_repeats: int = 1  # how often one text may occur in the set


class _Writer:
    """Appends utterances to a set, and knows what an earlier run has left there."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._index_path, self._audio_path = directory / "index.jsonl", directory / "audio.i16"
        self.last_id: dict[str, str] = {}  # part -> id of its last utterance
        self.seconds: defaultdict[str, float] = defaultdict(float)  # part -> speech so far
        self.texts: Counter[str] = Counter()  # text key -> occurrences
        self.count = self._samples = 0
        self._recover()
        self._index = self._index_path.open("a", encoding="utf-8")
        self._audio = self._audio_path.open("ab")

    def _recover(self) -> None:
        """Drop what is half written: an index line without its end, audio without its index line."""
        self._index_path.touch()
        self._audio_path.touch()
        lines = self._index_path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):
            self._index_path.write_text("".join(whole), encoding="utf-8")
        for line in whole:
            entry = json.loads(line)
            self._note(entry["id"], entry["text"], entry["num_samples"])
        if self._audio_path.stat().st_size < 2 * self._samples:
            raise CorpusError(f"{self._audio_path} is shorter than its index: delete the folder and build again")
        os.truncate(self._audio_path, 2 * self._samples)

    def _note(self, line_id: str, text: str, num_samples: int) -> None:
        part = line_id.split("-")[0]
        self.last_id[part] = line_id
        self.seconds[part] += num_samples / SAMPLE_RATE
        self.texts[spoken_text.key(text)] += 1
        self._samples += num_samples
        self.count += 1

    def add(self, line: Line, speech: Speech) -> None:
        """Append one utterance: audio first, so that the index never names what is not there."""
        entry = {
            "id": line.id,
            "voice": line.voice.name,
            "offset": self._samples,
            "num_samples": len(speech.samples),
            "text": line.text,
            "words": speech.words,
            "phones": speech.phones,
        }
        if line.answer:
            entry["answer"] = line.answer
        self._audio.write((np.clip(speech.samples, -1, 1) * 32767).astype("<i2").tobytes())
        self._audio.flush()
        self._index.write(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n")
        self._index.flush()
        self._note(line.id, line.text, len(speech.samples))

    def close(self) -> None:
        self._index.close()
        self._audio.close()


def build(
    directory: Path,
    sets: Sequence[str] = SETS,
    hours: dict[str, float] | None = None,
    seed: int = 1,
    progress: bool = True,
) -> dict[str, float]:
    """Write the named sets below `directory`; finished sets are left alone, unless their list of questions has changed.

    Returns the hours of each.

    `hours` has the sizes of "voices", "prose" and "words" (9, 20 and 8 unless given).
    SynthesizerError when flite or espeak-ng is missing.
    """
    unknown = set(sets) - set(SETS)
    if unknown:
        raise CorpusError(f"there is no set {sorted(unknown)[0]!r}; the sets are {', '.join(SETS)}")
    sizes = {"voices": 9.0, "prose": 20.0, "words": 8.0} | (hours or {})
    made: dict[str, float] = {}
    for name in set(sets) & set(QUESTIONS):
        if is_outdated(directory / name):
            shutil.rmtree(directory / name)
    todo = [name for name in sets if not (directory / name / "complete.json").exists()]
    speaker = Speaker() if todo else None
    for name in sets:
        if speaker is not None and name in todo:
            _build_set(directory / name, _parts(name, sizes.get(name, 0.0), seed), speaker, seed, progress)
        made[name] = json.loads((directory / name / "complete.json").read_text(encoding="utf-8"))["hours"]
    return made


def is_outdated(directory: Path) -> bool:
    """Whether a set of questions holds some that are not on its list as they were recorded."""
    if not (directory / "index.jsonl").exists():
        return False
    listed = {(line.text, line.answer) for line in _held_out_lines(directory.name, 0)}
    return any((said.text, said.answer) not in listed for said in Corpus(directory).utterances)


def _build_set(directory: Path, parts: Sequence[Part], speaker: Speaker, seed: int, progress: bool) -> None:
    writer = _Writer(directory)
    total = round(sum(3600 * part.hours for part in parts if part.hours))
    done = round(sum(writer.seconds.values()))
    try:
        with tqdm(total=total or None, initial=done, desc=directory.name, unit="s", disable=not progress) as bar:
            for part in parts:
                for line in _remaining(part, writer):
                    if writer.texts[spoken_text.key(line.text)] >= part.max_repeats:
                        continue
                    try:
                        speech = speaker.speak(line.text, line.voice, rate=line.rate)
                    except AlignmentError:
                        continue
                    if _MIN_S <= len(speech.samples) / SAMPLE_RATE <= _MAX_S:
                        writer.add(line, speech)
                        bar.update(round(len(speech.samples) / SAMPLE_RATE))
    finally:
        writer.close()
    figures = {"hours": round(sum(writer.seconds.values()) / 3600, 3), "utterances": writer.count, "seed": seed}
    (directory / "complete.json").write_text(json.dumps(figures) + "\n", encoding="utf-8")


def _remaining(part: Part, writer: _Writer) -> Iterator[Line]:
    """The lines of a part that come after the last one written."""
    last = writer.last_id.get(part.name)
    chunk = int(last.split("-")[1]) if last else 0
    while part.hours is None or writer.seconds[part.name] < 3600 * part.hours:
        for line in part.lines(chunk):
            if last is not None and line.id <= last:
                continue
            yield line
            if part.hours is not None and writer.seconds[part.name] >= 3600 * part.hours:
                return
        chunk += 1
        if part.hours is None:
            return


def _parts(name: str, hours: float, seed: int) -> list[Part]:
    """The parts of a set: text of our own and dialogue. A long set has rounds of both, each a fair sample."""
    if name == "words":
        return [Part("words", functools.partial(_word_lines, seed * 1000 + 20), hours, 2)]
    if name not in ("prose", "voices"):
        return [Part(name, lambda _chunk: _held_out_lines(name, seed), max_repeats=99)]
    voices, talk_share, max_repeats, rounds = training_voices(), 0.5, 6, 1
    if name == "prose":
        voices, talk_share, max_repeats, rounds = voices[:1], 0.35, 3, _PROSE_ROUNDS
    parts: list[Part] = []
    for index in range(rounds):
        for kind, share, repeats in (("prose", 1 - talk_share, 1), ("talk", talk_share, max_repeats)):
            part_name = f"{kind}{index or ''}"
            own_seed = seed * 1000 + len(parts) + (10 if name == "prose" else 3)
            lines = functools.partial(_training_lines, part_name, own_seed, voices)
            parts.append(Part(part_name, lines, share * hours / rounds, repeats))
    return parts


def _training_lines(kind: str, seed: int, voices: tuple[Voice, ...], chunk: int) -> list[Line]:
    """Chunk `chunk` of a part: texts with voices and speeds; no sentence of the held-out lists."""
    rng = np.random.default_rng((seed, chunk))
    text_seed = int(rng.integers(2**31))
    texts = _source().prose(text_seed, _CHUNK) if kind.startswith("prose") else _dialogue_lines(text_seed, _CHUNK)
    forbidden = held_out_keys()
    lines: list[Line] = []
    for index, text in enumerate(texts):
        voice = draw(rng, voices) if len(voices) > 1 else voices[0]
        rate = round(float(rng.uniform(0.92, 1.1)), 3) if len(voices) > 1 else 1.0
        if not spoken_text.mentions(text, forbidden):
            lines.append(Line(f"{kind}-{chunk:04d}-{index:04d}", text, voice, rate))
    return lines


def _word_lines(seed: int, chunk: int) -> list[Line]:
    """Chunk `chunk` of the set "words": rare words in sentences, each said by the default voice and by another."""
    rng, voices, forbidden = np.random.default_rng((seed, chunk)), training_voices(), held_out_keys()
    lines: list[Line] = []
    for index, text in enumerate(_source().coverage(chunk)):
        if not spoken_text.mentions(text, forbidden):
            other = next(voice for voice in iter(lambda: draw(rng, voices), None) if voice.name != DEFAULT)
            rate = round(float(rng.uniform(0.92, 1.1)), 3)
            lines.append(Line(f"words-{chunk:04d}-{index:04d}a", text, voices[0]))
            lines.append(Line(f"words-{chunk:04d}-{index:04d}b", text, other, rate))
    return lines


@functools.cache
def _source() -> spoken_text.SpokenText:
    return spoken_text.SpokenText()


def _dialogue_lines(seed: int, count: int) -> list[str]:
    """`count` lines that users and assistants say, in spoken form."""
    found: list[str] = []
    while len(found) < count:
        for conversation in dialogue.conversations(seed, count // 4 + 1):
            for message in conversation:
                if message.role != "system":
                    line = _source().written(message.content) if message.role == "user" else message.content
                    found.extend(spoken_text.spoken(line))
        seed += 1
    order = np.random.default_rng(seed).permutation(len(found))[:count]
    return [found[i] for i in order]


def held_out_sentences() -> list[str]:
    """Hand-written sentences that are in no training text."""
    lines = (_HELD_OUT / "sentences.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line]


def held_out_questions(name: str = "questions") -> list[dict]:
    """One of `QUESTIONS`, in no training text: {"id", "text", "keywords": groups of alternatives}."""
    lines = (_HELD_OUT / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line]


def unseen_questions() -> list[str]:
    """The texts of all `QUESTIONS`, which every training leaves out."""
    return [question["text"] for name in QUESTIONS for question in held_out_questions(name)]


@functools.cache
def held_out_keys() -> frozenset[str]:
    """`text.key` of every held-out sentence and question."""
    texts = [*held_out_sentences(), *unseen_questions()]
    parts = [part for text in texts for part in spoken_text.sentences(text) if len(part.split()) > 3]
    return frozenset(spoken_text.key(text) for text in (*texts, *parts))


def _held_out_lines(name: str, seed: int) -> list[Line]:
    voices, held_out, sentences = training_voices(), held_out_voices(), held_out_sentences()
    by_name = {voice.name: voice for voice in voices}
    flite = [voice for voice in voices if voice.engine == "flite"]
    espeak = [voice for voice in voices if voice.engine == "espeak"]
    lines: list[Line] = []
    if name in QUESTIONS:
        for index, question in enumerate(held_out_questions(name)):
            answer = tuple(tuple(group) for group in question["keywords"])
            lines.append(Line(f"{name}-{question['id']}", question["text"], flite[index % 3], answer=answer))
        return lines
    order = np.random.default_rng(seed).permutation(len(espeak))
    for index, sentence in enumerate(sentences):
        if name == "heldout":
            chosen = [by_name[DEFAULT]]
        elif name == "heldout_voices":
            chosen = [held_out[index % len(held_out)]]
        else:
            chosen = [flite[index % len(flite)], espeak[order[index % len(espeak)]]]
        lines.extend(Line(f"{name}-{index:04d}-{i}", sentence, voice) for i, voice in enumerate(chosen))
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m app.small.corpus --work build/small --prose-hours 20 --voices-hours 9`."""
    parser = argparse.ArgumentParser(description="Make the synthetic speech corpus of the small models.")
    parser.add_argument("--work", type=Path, default=Path("build/small"), help="the sets go to WORK/corpus")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS, help="which sets to make")
    parser.add_argument("--prose-hours", type=float, default=20.0, help="hours of the default voice")
    parser.add_argument("--voices-hours", type=float, default=9.0, help="hours of all training voices")
    parser.add_argument("--words-hours", type=float, default=8.0, help="hours of rare words, all training voices")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    hours = {"prose": options.prose_hours, "voices": options.voices_hours, "words": options.words_hours}
    build(options.work / "corpus", options.sets, hours, options.seed)


if __name__ == "__main__":
    main()
