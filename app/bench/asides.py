"""`launch.py bench asides`: short sounds over a reply. Does an "uh-huh" leave it alone, does a "stop" silence it, and how soon?

Recogniser and turn taking alone, on the sample clock, with no echo of the reply: computing is not counted, so that any machine
gets the same. The words are made with flite and espeak-ng; there are two parts that share no voice.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from app.about import about
from app.assemble import build_recognizer, prepare_process
from app.bench.cases import CLIP_HZ, LEAD_S, in_room
from app.bench.simulate import Simulation
from app.bench.summary import weights
from app.configuration import configuration
from app.turn_taking import Hush, Interrupt, ReplyStarted, Resume, TurnTaking
from asr.base import Event, FinalTranscript, Recognizer
from audio_io.resample import resample
from configs.schema import ConfigError, EndpointConfig

HELD_OUT = "held-out"
VOICES = {
    HELD_OUT: ("rms", "kal16", "en-us+f5 p50", "en-us+Michael p50", "en-us+Alicia p55", "en-us+m8 p40"),
    "development": ("slt", "awb", "en-us+m1 p55", "en-us+f2 p60", "en-us+m3 p30", "en-gb-scotland+m5 p55"),
}
ASIDES = ("uh huh", "yeah", "okay", "right", "oh")
INTERRUPTIONS = ("stop", "wait", "no", "stop please")
LEVELS_DB = (0.0, -12.0)
SILENCE_S = 1.5  # after the words
FRAME = CLIP_HZ // 50
AT_ONCE, CONFIGURED = "words believed at once", "as configured"


@dataclass(frozen=True, kw_only=True, eq=False)
class Sound:
    """What is said over the reply."""

    voice: str
    words: str
    level_db: float
    samples: np.ndarray  # float32 (N,) at 16 kHz; the voice begins after LEAD_S
    voiced_s: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of the reply."""

    stopped: bool
    silent_s: float | None  # first sound of the voice -> the reply is silent, for good


def sounds(part: str) -> list[Sound]:
    """The words in every voice. Raises ConfigError where flite or espeak-ng is missing."""
    from app.small.synth import LEAD_S as SPOKEN_LEAD_S
    from app.small.synth import SAMPLE_RATE, SynthesizerError
    from app.small.voices import Speaker, held_out_voices, training_voices

    try:
        speaker = Speaker()
    except SynthesizerError as error:
        raise ConfigError(f"words cannot be spoken: {error}.") from error
    known = {voice.name: voice for voice in (*training_voices(), *held_out_voices())}
    found = []
    for row, name in enumerate(VOICES[part]):
        for column, words in enumerate((*ASIDES, *INTERRUPTIONS)):
            level_db = LEVELS_DB[(row + column) % len(LEVELS_DB)]
            speech = speaker.speak(words, known[name])
            spoken = resample(speech.samples, SAMPLE_RATE, CLIP_HZ)[round(SPOKEN_LEAD_S * CLIP_HZ) :]
            lead, tail = (np.zeros(round(length * CLIP_HZ), np.float32) for length in (LEAD_S, SILENCE_S))
            samples, _ = in_room([lead, spoken * 10 ** (level_db / 20), tail], np.random.default_rng(row))
            voiced_s = speech.words[-1][2] - speech.words[0][1]
            found.append(
                Sound(voice=name, words=words, level_db=level_db, samples=samples, voiced_s=round(voiced_s, 3))
            )
    return found


def events(recognizer: Recognizer, samples: np.ndarray) -> list[tuple[float, Event]]:
    """What the recogniser tells, and when, in seconds."""
    stream = recognizer.stream()
    found = []
    for at in range(0, len(samples), FRAME):
        found += [((at + FRAME) / CLIP_HZ, event) for event in stream.push(samples[at : at + FRAME])]
    return [*found, *((len(samples) / CLIP_HZ, event) for event in stream.finish())]


def judge(heard: Sequence[tuple[float, Event]], backchannel: frozenset[str], aside_s: float) -> Verdict:
    """Let turn taking decide, over a reply that sounds all the while."""
    turns = TurnTaking(backchannel, aside_s)
    turns.on(FinalTranscript(text="tell me a story", speech_start=0, speech_end=0, decided_at=0, compute_ms=0.0))
    turns.on(ReplyStarted())
    silent: float | None = None
    for at, event in heard:
        for action in turns.on(event):
            if isinstance(action, Hush | Interrupt) and silent is None:
                silent = at
            elif isinstance(action, Resume):
                silent = None
            if isinstance(action, Interrupt):
                return Verdict(stopped=True, silent_s=round((silent or at) - LEAD_S, 3))
    return Verdict(stopped=False, silent_s=None)


def listened(recognizer: Recognizer, sound: Sound, endpoint: EndpointConfig) -> dict[str, Any]:
    """One row of the report."""
    heard = events(recognizer, sound.samples)
    finals = [event.text for _, event in heard if isinstance(event, FinalTranscript)]
    words = frozenset(endpoint.backchannel)
    return {
        "voice": sound.voice,
        "words": sound.words,
        "level_db": sound.level_db,
        "voiced_s": sound.voiced_s,
        "recognised": " / ".join(finals),
        AT_ONCE: asdict(judge(heard, words, 0.0)),
        CONFIGURED: asdict(judge(heard, words, endpoint.aside_ms / 1000)),
    }


def figures(rows: Sequence[dict[str, Any]], way: str) -> dict[str, str]:
    """What counts, of one way to decide."""
    asides = [row[way] for row in rows if row["words"] in ASIDES]
    meant = [row[way] for row in rows if row["words"] in INTERRUPTIONS]
    silent = [1000 * row["silent_s"] for row in meant if row["stopped"]]
    times = f"{np.median(silent):.0f} / {max(silent):.0f} ms" if silent else "-"
    return {
        "asides that stop the reply": f"{sum(row['stopped'] for row in asides)} of {len(asides)}",
        '"uh huh" among them': f"{sum(row[way]['stopped'] for row in rows if row['words'] == ASIDES[0])}"
        f" of {sum(row['words'] == ASIDES[0] for row in rows)}",
        "interruptions that stop it": f"{sum(row['stopped'] for row in meant)} of {len(meant)}",
        "from the voice to silence, median / longest": times,
    }


def page(values: dict[str, Any]) -> str:
    """The report for people."""
    run, table = values["about"], values["figures"]
    lines = [
        "# Short sounds over a reply",
        "",
        f"- {len(values['rows'])} sounds, part {run['part']}: {', '.join(ASIDES)} are asides, {', '.join(INTERRUPTIONS)} are "
        f"meant; {len(VOICES[run['part']])} synthetic voices, levels {' and '.join(f'{x:.0f}' for x in LEVELS_DB)} dB.",
        "- Recogniser and turn taking alone, on the sample clock, no echo of the reply; computing is not counted.",
        f"- Weights: asr.model {run['weights']}; asr.endpoint.aside_ms {run['aside_ms']} as configured, 0 at once.",
        "",
        f"| | {AT_ONCE} | {CONFIGURED} |",
        "|---|---|---|",
        *(f"| {key} | {table[AT_ONCE][key]} | {table[CONFIGURED][key]} |" for key in table[CONFIGURED]),
    ]
    wrong = [row for row in values["rows"] if row[CONFIGURED]["stopped"] is not (row["words"] in INTERRUPTIONS)]
    if wrong:
        lines += ["", "| judged wrongly as configured | voice | recognised as |", "|---|---|---|"]
        lines += [f"| {row['words']} | {row['voice']} | {row['recognised'] or 'nothing'} |" for row in wrong]
    return "\n".join([*lines, ""])


def run(options: argparse.Namespace) -> int:
    """Listen, write the report, print it."""
    config = configuration(options)
    prepare_process(config)
    recognizer = build_recognizer(config)
    bar = tqdm(sounds(options.part), unit="sound", disable=not sys.stderr.isatty())
    rows = [listened(recognizer, sound, config.asr.endpoint) for sound in bar]
    listener = weights(config, Simulation())["asr.model"]
    values = {
        "about": about(config, part=options.part, weights=listener, aside_ms=config.asr.endpoint.aside_ms),
        "figures": {way: figures(rows, way) for way in (AT_ONCE, CONFIGURED)},
        "rows": rows,
    }
    options.report.mkdir(parents=True, exist_ok=True)
    (options.report / "report.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    (options.report / "report.md").write_text(page(values), encoding="utf-8")
    sys.stdout.write(page(values))
    return 0
