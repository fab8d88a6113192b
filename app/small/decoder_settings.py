"""`launch.py eval decoder`: what fewer flow steps and smaller first chunks cost in quality, and what the steps save.

True speech tokens of held-out sentences go through the decoder with each setting; all begin with the same noise. Every
sentence goes through all of them before the next one, so that a busy machine is busy for all.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from app.about import about
from app.assemble import build_synthesizer, prepare_process
from app.configuration import configuration
from app.small.corpus import Corpus, Utterance
from app.small.evaluate import heard_by
from app.small.judges import bootstrap, error_rate, words
from asr.units import word_errors
from configs.schema import AppConfig, ConfigError
from tts.base import SAMPLE_RATE

STEPS = (10, 4, 2, 1)
GUIDANCE = 0.7  # the public decoder's
JUDGE = "pocketsphinx"


@dataclass(frozen=True)
class Setting:
    """How the decoder runs."""

    num_steps: int
    guidance: float = 0.0
    first_chunks: tuple[int, ...] = ()  # speech tokens

    @property
    def name(self) -> str:
        """As it stands in the table."""
        guidance = f", guidance {self.guidance:g}" if self.guidance else ""
        chunks = f", first chunks {'-'.join(map(str, self.first_chunks))}" if self.first_chunks else ""
        return f"{self.num_steps}{guidance}{chunks}"


SETTINGS = (
    *(Setting(count) for count in STEPS),
    *(Setting(count, GUIDANCE) for count in (10, 2)),
    *(Setting(2, first_chunks=sizes) for sizes in ((8,), (5, 5), (3, 5))),
)


@dataclass(frozen=True)
class Decoded:
    """What one setting makes of all sentences."""

    mels: Sequence[np.ndarray]  # natural-log mel (1, 80, T) each
    recordings: Sequence[np.ndarray]  # (N,) each
    seconds: float  # of computing in the decoder


def run(options: argparse.Namespace) -> int:
    """Decode, listen, write the report, print it."""
    if options.limit < 2:
        raise ConfigError(f"--limit {options.limit}: at least 2 sentences are needed for an interval.")
    config = configuration(options)
    prepare_process(config)
    torch.set_num_threads(config.runtime.num_threads)
    speech = Corpus(options.work / "corpus" / "heldout")
    items = speech.utterances[: options.limit]
    recordings = [speech.samples(item) for item in items]
    found = decode_all(config, recordings)
    spoken = {"original": recordings, **{setting.name: made.recordings for setting, made in found.items()}}
    texts = iter(heard_by(JUDGE, [samples for all_made in spoken.values() for samples in all_made]))
    heard = {name: [next(texts) for _ in items] for name in spoken}
    values = {
        "about": about(config, sentences=len(items), judge=JUDGE, threads=config.runtime.num_threads),
        "figures": figures(items, found, heard),
    }
    options.report.mkdir(parents=True, exist_ok=True)
    (options.report / "report.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    (options.report / "report.md").write_text(page(values), encoding="utf-8")
    sys.stdout.write(page(values))
    return 0


def decode_all(config: AppConfig, recordings: Sequence[np.ndarray]) -> dict[Setting, Decoded]:
    """Every recording's speech tokens through the decoder with every setting."""
    voices: dict[Setting, Any] = {}
    for setting in SETTINGS:
        chosen = replace(
            config.tts,
            num_flow_steps=setting.num_steps,
            flow_guidance=setting.guidance,
            first_chunks=setting.first_chunks,
            feeding="token",
        )
        voices[setting] = build_synthesizer(replace(config, tts=chosen))
    spent = dict.fromkeys(SETTINGS, 0.0)
    mels: dict[Setting, list[np.ndarray]] = {setting: [] for setting in SETTINGS}
    spoken: dict[Setting, list[np.ndarray]] = {setting: [] for setting in SETTINGS}
    for samples in tqdm(recordings, desc="sentences", disable=not sys.stderr.isatty()):
        tokens = voices[SETTINGS[0]].speech_tokens(samples)
        for setting, voice in voices.items():
            began = time.process_time()
            mel = voice.decode(tokens)
            spent[setting] += time.process_time() - began
            mels[setting].append(mel)
            spoken[setting].append(voice.vocode(mel))
    return {setting: Decoded(mels[setting], spoken[setting], spent[setting]) for setting in SETTINGS}


def figures(
    items: Sequence[Utterance], found: dict[Setting, Decoded], heard: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """By setting: word error rate, its difference to the most steps over the same sentences, mel distance, cost."""
    truths = [item.text for item in items]
    best = SETTINGS[0]
    wrong = {
        name: np.array([word_errors(words(truth), words(text)) for truth, text in zip(truths, texts, strict=True)])
        for name, texts in heard.items()
    }
    counts = np.array([len(words(truth)) for truth in truths])
    made: dict[str, dict[str, Any]] = {"original": {"word_errors": asdict(error_rate(truths, heard["original"]))}}
    for setting, decoded in found.items():
        more = wrong[setting.name] - wrong[best.name]
        low, high = bootstrap(partial(share, more, counts), len(counts))
        spoken_s = sum(len(samples) for samples in decoded.recordings) / SAMPLE_RATE
        made[setting.name] = {
            "word_errors": asdict(error_rate(truths, heard[setting.name])),
            "more_errors": {"rate": float(more.sum() / counts.sum()), "low": low, "high": high},
            "mel_distance": float(
                np.mean([np.abs(a - b).mean() for a, b in zip(decoded.mels, found[best].mels, strict=True)])
            ),
            "rtf": decoded.seconds / spoken_s,
        }
    return made


def share(errors: np.ndarray, counts: np.ndarray, drawn: np.ndarray) -> float:
    """Errors per word of the drawn sentences."""
    return float(errors[drawn].sum() / counts[drawn].sum())


def page(values: dict[str, Any]) -> str:
    """The report for people."""
    run, found = values["about"], values["figures"]

    def rate(of: dict[str, float], sign: str = "") -> str:
        return f"{100 * of['rate']:{sign}.1f} % ({100 * of['low']:{sign}.1f} to {100 * of['high']:{sign}.1f})"

    rows = [
        f"| {name} | {rate(row['word_errors'])} | {rate(row['more_errors'], '+')} | {row['mel_distance']:.3f} "
        f"| {row['rtf']:.3f} |"
        for name, row in found.items()
        if name != "original"
    ]
    return "\n".join(
        [
            f"# Steps and first chunks of the flow-matching decoder, {run['sentences']} held-out sentences",
            "",
            f"{run['machine']}, {run['threads']} thread(s), torch {run['packages']['torch']}; tts.flow "
            f"{run['config']['tts']['flow']}, tts.vocoder {run['config']['tts']['vocoder']}, flow_temperature "
            f"{run['config']['tts']['flow_temperature']:g}. From true speech tokens, in the assistant's own voice, in chunks "
            f"as in streaming; first chunks are counted in speech tokens. Judge: {run['judge']}; intervals: 95 % "
            "bootstrap over sentences. Mel distance: mean absolute difference of the natural-log mel to that of the first row, "
            "from the same noise. Real-time factor: processor time of the flow decoder per second of speech.",
            "",
            "| flow steps | word error rate | more than the first row, same sentences | mel distance | real-time factor |",
            "|---|---|---|---|---|",
            f"| original recordings | {rate(found['original']['word_errors'])} | | | |",
            *rows,
            "",
        ]
    )
