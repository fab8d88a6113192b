"""What the training voices say: cased, punctuated text in spoken form (no digits, no symbols).

Half of it imitates conversation (sampled from pocketsphinx's trigram language model), half comes from the templates of
`app/small/templates.txt`, whose slots are filled from the word lists of the same file. Rare words are drawn on purpose.
"""

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from num2words import num2words
from pocketsphinx import Config, LogMath, NGramModel, get_model_path

_HERE = Path(__file__).parent
_MIN_WORDS, _MAX_WORDS = 3, 24
_VOCABULARY = 9000
_COVERED = 16_000  # words that `coverage` goes through
_COMMON, _RARE = 500, 220  # candidates of one draw: the most common words, and a sample of the others


class SpokenText:
    """A seeded source of sentences over `vocabulary` (lower case, most common first).

    One instance holds the language model and the word lists (1.5 s to load)."""

    def __init__(self) -> None:
        folder = get_model_path()
        self._log_base = float(np.log(1.0001))
        self._model = NGramModel(Config(), LogMath(), os.path.join(folder, "en-us", "en-us.lm.bin"))
        self._lists, self._templates = _read_templates()
        self._sets = {name: frozenset(values) for name, values in self._lists.items()}
        self._rude = re.compile("|".join(self._lists["rude"]))
        spelled = Path(folder, "en-us", "cmudict-en-us.dict").read_text(encoding="utf-8").splitlines()
        words = sorted(filter(self._speakable, {line.split(" ", 1)[0] for line in spelled}))
        scores = np.array([self._model.prob([w]) for w in words])
        ranked = [words[i] for i in np.argsort(-scores, kind="stable")]
        self.vocabulary = ranked[:_VOCABULARY]
        self._covered = [word for word in ranked if "'" not in word or word in self.vocabulary][200:_COVERED]
        proper = [self._lists[k] for k in ("name", "place_name", "day", "month", "nationality", "proper")]
        self._cased = {word.lower(): word for names in proper for word in " ".join(names).split()} | {"i": "I"}
        for start in ("i'm", "i'll", "i've", "i'd"):
            self._cased[start] = start.capitalize()

    @cached_property
    def _weights(self) -> np.ndarray:
        """Chance of each template: one with more slots says more different things."""
        slots = np.array([template.count("{") for template in self._templates], dtype=float)
        return np.asarray((1 + slots) / (1 + slots).sum())

    def prose(self, seed: int, count: int) -> list[str]:
        """`count` different utterances of one to three sentences, 3 to 24 words in all."""
        rng = np.random.default_rng(seed)
        found: dict[str, None] = {}
        while len(found) < count:
            sentences = [self._sentence(rng)]
            more = int(rng.choice(3, p=(0.74, 0.20, 0.06)))
            for _ in range(more):
                following = self._sentence(rng)
                if sum(len(s.split()) for s in (*sentences, following)) <= _MAX_WORDS:
                    sentences.append(following)
            utterance = " ".join(sentences)
            if _MIN_WORDS <= len(utterance.split()) <= _MAX_WORDS:
                found[utterance] = None
        return list(found)

    def coverage(self, chunk: int, size: int = 600) -> list[str]:
        """Sentences that hold the next `size` words of a shuffled list of 16,000 in inner positions, about three each."""
        chunks = len(self._covered) // size
        order = np.random.default_rng(chunk // chunks).permutation(len(self._covered))
        start = chunk % chunks * size
        waiting = [self._covered[i] for i in order[start : start + size]]
        rng = np.random.default_rng((chunk, 1))
        found: list[str] = []
        while waiting:
            words = self._sampled(rng)
            places = [i for i in range(1, len(words)) if words[i] not in self._sets["open_end"]]
            for place in sorted(rng.permutation(places)[: min(3, len(waiting))]):
                words[place] = waiting.pop()
            if len(words) >= _MIN_WORDS:
                found.append(self._punctuated(words, rng))
        return found

    def written(self, line: str) -> str:
        """A line as a recogniser writes it (lower case, bare) with capitals and its full stop or question mark."""
        words = line.rstrip(".?! ").split()
        stems = [word.lower().partition("'")[0] for word in words[:6]]
        asks = (stems[:1] and stems[0] in self._sets["question_word"]) or bool(self._sets["asking"].intersection(stems))
        text = " ".join(self._case(word) if word.islower() else word for word in words)
        mark = line[-1] if line[-1:] in (".", "?", "!") else "?" if asks else "."
        return text[:1].upper() + text[1:] + mark

    def _sentence(self, rng: np.random.Generator) -> str:
        return self._from_template(rng) if rng.random() < 0.45 else self._from_model(rng)

    def _from_template(self, rng: np.random.Generator) -> str:
        template = self._templates[int(rng.choice(len(self._templates), p=self._weights))]
        text = re.sub(r"\{(\w+)\}", lambda slot: self._fill(slot[1], rng), template)
        text = re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)
        return text[0].upper() + text[1:]

    def _fill(self, slot: str, rng: np.random.Generator) -> str:
        if slot == "number":
            numbers = [rng.integers(0, 21), rng.integers(0, 100), rng.integers(0, 1000)]
            return number_words(int(rng.choice(numbers)), rng)
        if slot == "large":
            return number_words(int(rng.choice([rng.integers(100, 3000), rng.integers(1000, 100_000)])), rng)
        if slot == "ordinal":
            return num2words(int(rng.integers(1, 32)), to="ordinal")
        if slot == "year":
            return num2words(int(rng.integers(1700, 2060)), to="year")
        if slot == "letters":
            return " ".join(chr(65 + int(i)) for i in rng.integers(0, 26, size=int(rng.integers(2, 4))))
        if slot == "word":  # any word of the vocabulary: coverage
            return self._case(self.vocabulary[int(rng.integers(200, len(self.vocabulary)))])
        options = self._lists[slot]
        return options[int(rng.integers(len(options)))]

    def _from_model(self, rng: np.random.Generator) -> str:
        return self._punctuated(self._sampled(rng), rng)

    def _punctuated(self, words: Sequence[str], rng: np.random.Generator) -> str:
        """A sentence of bare lower-case words with capitals, commas and its mark."""
        joints = self._sets["joint"]
        out: list[str] = []
        for index, word in enumerate(words):
            inner = 1 < index < len(words) - 2 and word in joints and not out[-1].endswith(",")
            if inner and rng.random() < 0.4:
                out[-1] += ","
            opener = index == 0 and word in self._sets["opener"] and len(words) > 2 and rng.random() < 0.6
            out.append(self._case(word) + ("," if opener else ""))
        asks = words[0] in self._sets["question_word"] and rng.random() < 0.85
        mark = "?" if asks else "!" if rng.random() < 0.06 else "."
        text = " ".join(out) + mark
        return text[0].upper() + text[1:]

    def _sampled(self, rng: np.random.Generator) -> list[str]:
        """Words of one sentence. Candidates: all common words and a weighted sample of the rare ones."""
        target, coverage = int(rng.integers(3, 15)), rng.random() < 0.55
        scale = (len(self.vocabulary) - _COMMON) / _RARE
        history, out = ["<s>"], list[str]()
        while len(out) < 18:
            past = history[-2:][::-1]
            if len(out) >= 2 and out[-1] not in self._sets["open_end"]:
                stop = np.exp(self._model.prob(["</s>", *past]) * self._log_base) * (6 if len(out) >= target else 0.7)
                if rng.random() < stop or len(out) >= 15:
                    break
            rare = rng.integers(_COMMON, len(self.vocabulary), size=_RARE)
            candidates = self.vocabulary[:_COMMON] + [self.vocabulary[i] for i in rare]
            scores = np.array([self._model.prob([c, *past]) for c in candidates])
            weights = np.exp((scores - scores.max()) * self._log_base)
            weights[_COMMON:] *= scale
            word = candidates[int(rng.choice(len(candidates), p=weights / weights.sum()))]
            if coverage and out and rng.random() < 0.4:
                word = self.vocabulary[int(rng.integers(300, len(self.vocabulary)))]
            if out and word == out[-1]:
                continue
            out.append(word)
            history.append(word)
        return out

    def _speakable(self, word: str) -> bool:
        """True of plain, polite words that flite and espeak-ng both read as written."""
        if not re.fullmatch(r"[a-z]+('[a-z]+)?", word) or self._rude.search(word) or word in self._sets["abbreviation"]:
            return False
        if len(word) <= 2:
            return word in ("a", "i") or word in self._sets["two_letters"]
        return re.search(r"[aeiouy]", word) is not None

    def _case(self, word: str) -> str:
        stem, mark, rest = word.partition("'")
        return self._cased.get(word) or self._cased.get(stem, stem) + mark + rest


def _read_templates() -> tuple[dict[str, list[str]], list[str]]:
    """Word lists ("name: a | b | c") and templates (every other line) of templates.txt."""
    lists: dict[str, list[str]] = {}
    templates: list[str] = []
    for line in (_HERE / "templates.txt").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"(\w+): (.*)", line):
            lists.setdefault(found[1], []).extend(part.strip() for part in found[2].split("|"))
        elif line and not line.startswith("#"):
            templates.append(line)
    return lists, templates


def number_words(number: int, rng: np.random.Generator) -> str:
    """A cardinal as people say it: with or without "and", with or without the hyphen, "a hundred" or "one hundred"."""
    text = num2words(number).replace(",", "")
    if rng.random() < 0.5:
        text = text.replace(" and ", " ")
    return text.replace("-", " ") if rng.random() < 0.3 else text


def spoken(text: str) -> list[str]:
    """A line of dialogue in spoken form, in pieces of at most 24 words; none when it has symbols."""
    text = re.sub(r"[\"“”()*]", "", text.replace("’", "'"))
    text = re.sub(r"\s*(?:[;:]|\s[-–]\s|—)\s*", ", ", text)
    text = re.sub(r"\.\.+|…", ".", text)
    text = re.sub(r"\d+", lambda number: num2words(int(number[0])).replace(",", ""), text)
    text = re.sub(r"\s+", " ", text).strip()
    if not re.fullmatch(r"[A-Za-z][A-Za-z',.?! -]*", text) or re.search(r"[,.?!'-]{2}|[.?!]\w|\b(Dr|Mr|Mrs)\.", text):
        return []
    pieces: list[str] = []
    for sentence in sentences(text if text[-1] in ".?!" else text + "."):
        if pieces and len(pieces[-1].split()) + len(sentence.split()) <= _MAX_WORDS:
            pieces[-1] += " " + sentence
        else:
            pieces.append(sentence)
    return [piece for piece in pieces if len(piece.split()) <= _MAX_WORDS]


def key(text: str) -> str:
    """What makes two sentences the same: the words, without case, hyphens and punctuation."""
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def sentences(text: str) -> list[str]:
    """The sentences of an utterance."""
    return [part for part in re.split(r"(?<=[.?!])\s+", text) if part]


def mentions(text: str, forbidden: frozenset[str] | Sequence[str]) -> bool:
    """True if the whole text or one sentence of it is forbidden (a set of `key`s)."""
    return key(text) in forbidden or any(key(sentence) in forbidden for sentence in sentences(text))
