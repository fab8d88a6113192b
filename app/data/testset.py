"""Texts to speak and how what was heard is scored, by the conventions of seed-tts-eval."""

import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from configs.schema import ConfigError

WANTED = (
    'give lines of JSON with "text" and, if a voice is to be cloned, "prompt_audio" (optional: id, prompt_text), or of '
    "seed-tts-eval's meta.lst: id|prompt text|prompt audio|text"
)


@dataclass(frozen=True, slots=True)
class Case:
    """One text, in the voice of a recording if there is one."""

    id: str
    text: str
    prompt: Path | None = None
    prompt_text: str = ""  # what the recording says


def read_testset(path: Path) -> list[Case]:
    """All cases of a file. Raises ConfigError."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the test set cannot be read ({error}); {WANTED}.") from None
    cases = []
    for number, line in enumerate(lines, 1):
        try:
            case = _from_json(line, number, path.parent) if path.suffix == ".jsonl" else _from_list(line, path.parent)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(f"{path}, line {number}: {WANTED}.") from None
        if not any(letter.isalnum() for letter in case.text):
            raise ConfigError(f"{path}, line {number}: its text has no words.")
        if case.prompt is not None and not case.prompt.is_file():
            raise ConfigError(f"{path}, line {number}: there is no recording {case.prompt}.")
        cases.append(case)
    if not cases:
        raise ConfigError(f"{path}: no test in it; {WANTED}.")
    if len({case.id for case in cases}) < len(cases):
        raise ConfigError(f"{path}: two tests have the same id.")
    return cases


def _from_json(line: str, number: int, folder: Path) -> Case:
    values = json.loads(line)
    prompt = values.get("prompt_audio")
    return Case(
        str(values.get("id", f"{number:05d}")),
        values["text"].strip(),
        folder / prompt if prompt else None,
        str(values.get("prompt_text", "")).strip(),
    )


def _from_list(line: str, folder: Path) -> Case:
    name, said, prompt, text = line.split("|")[:4]
    return Case(name.strip(), text.strip(), folder / prompt.strip() if prompt.strip() else None, said.strip())


def language_of(cases: Sequence[Case]) -> str:
    """`zh` where most texts have Chinese characters, else `en`."""
    chinese = sum(any("CJK" in unicodedata.name(letter, "") for letter in case.text) for case in cases)
    return "zh" if 2 * chinese > len(cases) else "en"


def units(text: str, language: str) -> list[str]:
    """What is counted: words without punctuation and case, or the characters of Mandarin (simplified with zhconv)."""
    kept = "".join(c for c in text if unicodedata.category(c)[0] not in "PS" or (c == "'" and language == "en"))
    if language == "en":
        return kept.lower().split()
    if find_spec("zhconv"):
        import zhconv

        kept = zhconv.convert(kept, "zh-cn")
    return [letter for letter in kept.lower() if not letter.isspace()]


@dataclass(frozen=True)
class Score:
    """Errors over a test set, each interval 95 % by bootstrap."""

    macro: float  # mean of the utterances' rates: what is usually published
    low: float
    high: float
    micro: float  # all errors by all units
    num_units: int


def errors(truth: str, heard: str, language: str) -> tuple[int, int]:
    """Substitutions, deletions and insertions; units of the truth."""
    import jiwer

    want, got = units(truth, language), units(heard, language)
    result = jiwer.process_words(" ".join(want), " ".join(got))
    return result.substitutions + result.deletions + result.insertions, len(want)


def score(counted: Sequence[tuple[int, int]]) -> Score:
    """Of `errors` of every utterance."""
    from app.small.judges import bootstrap

    wrong, total = np.array(list(_columns(counted)))
    rates = wrong / total
    low, high = bootstrap(lambda i: float(rates[i].mean()), len(rates))
    return Score(float(rates.mean()), low, high, float(wrong.sum() / total.sum()), int(total.sum()))


def _columns(counted: Sequence[tuple[int, int]]) -> Iterator[list[float]]:
    yield [float(wrong) for wrong, _ in counted]
    yield [float(total) for _, total in counted]
