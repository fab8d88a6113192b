"""`launch.py bench analysis`: what SyncSpeech's paper analyses, repeated on the synthetic corpus.

First the bundled model speaks held-out sentences in every setting of `spoken_settings`; then small models are trained from
nothing, each but for one thing like another (`ablations`). What is finished stays in the report's folder, so that an interrupted
run goes on.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

import tts
from app.about import about
from app.assemble import prepare_process
from app.bench.ablations import ABLATIONS, FULL, AnalysisPlan, held_out_losses, train_all
from app.bench.analysis_page import page
from app.bench.listening import JUDGE, Listening
from app.bench.spoken_settings import GROUPS, REFERENCE, Sentence, Setting, speak
from app.configuration import configuration
from app.small.corpus import Corpus, CorpusError
from app.small.judges import difference, error_rate
from app.small.plan import ROOT, Places
from configs.loader import DEFAULTS, load_as
from configs.schema import ConfigError
from tts.alignment.durations import text_pieces
from tts.base import TOKEN_HZ
from tts.tmt.model import Tmt
from tts.vocabulary import TextVocabulary

RECORDED, DECODED = "recordings", "their true speech tokens, decoded"
Say = Callable[[Sentence, int], tuple[Future[str], int]]  # a sentence and its number: what is heard, its speech tokens
ROUND = 4  # sentences after which the report is written anew
NUM_LOSSES = 40  # sentences at least
NUM_JUDGED = 40  # sentences of every ablation at most
NEEDED = ("prose", "voices", "words", "heldout")


class Said(NamedTuple):
    """A sentence as it was said, and what the judge heard."""

    text: str
    heard: str
    num_tokens: int  # speech tokens


class Memory:
    """What was heard already, sentence by sentence; a file for every way of speaking."""

    def __init__(self, folder: Path, sentences: Sequence[Sentence]) -> None:
        self._folder, self._sentences = folder, sentences
        folder.mkdir(parents=True, exist_ok=True)

    def heard(self, name: str, say: Say) -> list[Said]:
        """What is heard of every sentence; `say` speaks those that are new."""
        path = self._folder / f"{''.join(c if c.isalnum() else '_' for c in name)}.json"
        lines = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        known = {text: Said(text, heard, count) for text, heard, count in lines}
        new = [(number, one) for number, one in enumerate(self._sentences) if one.text not in known]
        bar = tqdm(new, desc=name, disable=not sys.stderr.isatty(), leave=False)
        for sentence, (future, count) in [(sentence, say(sentence, number)) for number, sentence in bar]:
            known[sentence.text] = Said(sentence.text, future.result(), count)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(list(known.values()), indent=0), encoding="utf-8")
        partial.replace(path)
        return [known[sentence.text] for sentence in self._sentences]


def held_out_speech(places: Places, count: int) -> list[Sentence]:
    """Aligned held-out utterances of the assistant's own voice. Raises CorpusError."""
    from app.small.steps.text_to_token import alignments

    path = places.asset("tmt") / "tokenizer.json"
    speech = Corpus(places.corpus("heldout"))
    made = alignments(places, "heldout", TextVocabulary(path), text_pieces(path))
    found = (Sentence(utterance.text, example, speech.samples(utterance)) for utterance, example in made if example)
    return list(islice(found, count))


def settings() -> list[Setting]:
    """Every setting once, the reference first."""
    return list(dict.fromkeys([REFERENCE, *(setting for group in GROUPS.values() for setting in group)]))


def spoken(model: Tmt, setting: Setting, listening: Listening) -> Say:
    """What `Memory.heard` takes: a model that speaks in a setting."""

    def listen(sentence: Sentence, number: int) -> tuple[Future[str], int]:
        tokens = speak(model, sentence.example, setting, number)
        return listening.tokens(tokens), len(tokens)

    return listen


def listen_to_settings(model: Tmt, memory: Memory, listening: Listening) -> dict[str, list[Said]]:
    """What the judge hears of recordings, of decoded recordings, and of the model in every setting."""

    def recorded(sentence: Sentence, _: int) -> tuple[Future[str], int]:
        return listening.samples(sentence.samples), len(sentence.example.tokens)

    def decoded(sentence: Sentence, _: int) -> tuple[Future[str], int]:
        return listening.tokens(sentence.example.tokens), len(sentence.example.tokens)

    found = {RECORDED: memory.heard(RECORDED, recorded), DECODED: memory.heard(DECODED, decoded)}
    for setting in tqdm(settings(), desc="settings", disable=not sys.stderr.isatty()):
        found[setting.name] = memory.heard(setting.name, spoken(model, setting, listening))
    return found


def figures(heard: dict[str, list[Said]]) -> dict[str, dict[str, Any]]:
    """Word error rate, its distance to the reference setting, and length of the speech, by way of speaking."""
    texts = [said.text for said in heard[REFERENCE.name]]
    understood = {name: [said.heard for said in spoken] for name, spoken in heard.items()}
    seconds = {name: sum(said.num_tokens for said in spoken) / TOKEN_HZ for name, spoken in heard.items()}
    return {
        name: {
            **asdict(error_rate(texts, found)),
            "more_than_reference": difference(texts, found, understood[REFERENCE.name]),
            "seconds": seconds[name],
            "length": seconds[name] / seconds[RECORDED],
        }
        for name, found in understood.items()
    }


def losses(model: Tmt, sentences: Sequence[Sentence], folder: Path) -> dict[str, dict[str, float]]:
    """Losses on held-out speech at every look-ahead, and with every fault in the history; kept in a file."""
    path = folder / f"losses_{len(sentences)}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    examples = [sentence.example for sentence in sentences]
    settings = [*GROUPS["Look-ahead"], *GROUPS["Faults in the history"]]
    for setting in tqdm(settings, desc="losses", disable=not sys.stderr.isatty()):
        if setting.name not in known:
            known[setting.name] = held_out_losses(model, examples, setting)
            path.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return known


def check(options: argparse.Namespace, places: Places) -> None:
    """Raises ConfigError for what is missing."""
    if options.sentences < 2 or (options.steps is not None and options.steps < 0):
        raise ConfigError("bench analysis: --sentences is 2 at least, --steps 0 (no ablations) at least.")
    needed = NEEDED if options.steps != 0 else NEEDED[-1:]
    try:
        complete = all(Corpus(places.corpus(name)).complete for name in needed)
    except CorpusError:
        complete = False
    if not complete or not all((places.work / f"tokens_{name}.npz").exists() for name in needed):
        raise ConfigError(
            f"bench analysis: {places.work} does not hold the corpus and its speech tokens; make them with "
            f"`python launch.py train small corpus tokens --work {places.work}`."
        )


def run(options: argparse.Namespace) -> int:
    """Analyse, write the report, print it."""
    config = configuration(options)
    plan = load_as(AnalysisPlan, DEFAULTS / "train" / "analysis.yaml")
    places = Places(options.work, ROOT)
    check(options, places)
    prepare_process(config)
    torch.set_num_threads(config.runtime.num_threads)
    everything = held_out_speech(places, max(options.sentences, NUM_LOSSES))
    sentences = everything[: options.sentences]
    model = Tmt.load(tts.ASSETS / "tmt")
    made_by = hashlib.sha256((tts.ASSETS / "tmt" / "model.safetensors").read_bytes()).hexdigest()[:8]
    kept = options.report / f"of_{made_by}"  # other weights begin anew
    kept.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "about": about(
            config,
            judge=JUDGE,
            sentences_of_losses=len(everything),
            threads=config.runtime.num_threads,
            weights=f"bundled temporal masked transformer ({made_by}), decoder and vocoder",
            steps=plan.loop.steps if options.steps is None else options.steps,
        ),
        "losses": losses(model, everything, kept),
    }
    with Listening(config) as listening:
        for count in range(min(ROUND, len(sentences)), len(sentences) + ROUND, ROUND):
            some = sentences[:count]
            values["spoken"] = figures(listen_to_settings(model, Memory(kept / "heard", some), listening))
            values["about"] |= {"sentences": len(some), "words": sum(len(one.text.split()) for one in some)}
            write(options.report, values)
        if options.steps != 0:
            values["ablations"] = ablations(plan, options, places, everything, listening)
            write(options.report, values)
    sys.stdout.write(page(values))
    return 0


def ablations(
    plan: AnalysisPlan,
    options: argparse.Namespace,
    places: Places,
    everything: Sequence[Sentence],
    listening: Listening,
) -> dict[str, dict[str, Any]]:
    """Figures of the small models, and how well the judge understands them where they speak at all."""
    loop = plan.loop if options.steps is None else replace(plan.loop, steps=options.steps)
    folder = options.report / f"trained_{loop.steps}"
    trained = train_all(replace(plan, loop=loop), places, folder, everything, show_bar=sys.stderr.isatty())
    memory = Memory(folder / "heard", everything[: min(NUM_JUDGED, options.sentences)])
    greedy = Setting(name="greedy", top_k=1)
    said = {name: memory.heard(name, spoken(model, greedy, listening)) for name, (model, _) in trained.items()}
    texts = [one.text for one in said[FULL.name]]
    heard = {name: [one.heard for one in every] for name, every in said.items()}
    return {
        one.name: {
            **trained[one.name][1],
            "words": asdict(error_rate(texts, heard[one.name])),
            "more_words": difference(texts, heard[one.name], heard[one.against]),
        }
        for one in ABLATIONS
    }


def write(folder: Path, values: dict[str, Any]) -> None:
    """The report as far as it goes."""
    (folder / "report.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(page(values), encoding="utf-8")
