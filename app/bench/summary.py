"""Figures -> report.json: one value, interval and count per row, with all that they were measured on."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from app.about import about
from app.bench.metrics import (
    STAGES,
    Estimate,
    Manners,
    Turn,
    estimate,
    mean,
    p50,
    p90,
    paired,
    ratio,
    trusted,
    warm,
)
from app.bench.parts import Variant
from app.bench.simulate import Simulation
from configs.schema import BUNDLED, AppConfig

COUNTED = (
    "Voice-to-voice is the time from the last voiced sample of the user to the first audible sample of the assistant "
    "(-50 dBFS), read off the stereo recordings by an energy detector that is not the assistant's own (for questions in "
    "noise: off the question without it). The wait for the end of the turn and the silence at the start of the reply are "
    "counted. There is no sound device in it: one adds its own 10 to 40 ms each way."
)
ROOT = Path(__file__).parents[2]
BUNDLED_WEIGHTS = {
    "asr.model": "asr/assets/paraformer",
    "asr.streaming_model": "asr/assets/paraformer",
    "llm.model": "llm/assets/qwen-small",
    "tts.tmt": "tts/assets/tmt",
    "tts.interleaved": "tts/assets/interleaved",
    "tts.flow": "tts/assets/flow",
    "tts.vocoder": "tts/assets/vocoder",
}
UNUSED = {"syncspeech": "tts.interleaved", "interleaved": "tts.tmt"}  # by tts.backend


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    key: str
    title: str
    text: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything one assistant did in a run."""

    variant: Variant
    turns: list[Turn] = field(default_factory=list)
    manners: list[Manners] = field(default_factory=list)
    words: dict[str, Any] = field(default_factory=dict)  # "reply" and "say": spoken word error rates
    cpu_s: list[float] = field(default_factory=list)  # of the process, for each batch of conversations
    gpu_s: list[float] = field(default_factory=list)  # the same of the GPU; empty without one
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # turn -> its recording and marks
    replies: list[tuple[str, np.ndarray]] = field(default_factory=list)  # text and samples of those played to the end


def weights(config: AppConfig, simulation: Simulation) -> dict[str, str]:
    """Which weights a figure belongs to; the bundled ones by the start of their SHA-256."""
    found = {}
    simulated = {"asr": simulation.recogniser, "llm": simulation.language_model, "tts": simulation.speech}
    for key, folder in BUNDLED_WEIGHTS.items():
        section, _, name = key.partition(".")
        if key == UNUSED[config.tts.backend]:
            continue
        if simulated[section]:
            found[key] = "none (simulated)"
            continue
        if section == "asr" and config.asr.backend == "moonshine":
            found["asr.backend"] = f"moonshine-voice {version('moonshine-voice')}"
            continue
        chosen = getattr(getattr(config, section), name)
        if chosen != BUNDLED:
            found[key] = str(chosen)
            continue
        digest = hashlib.sha256()
        for path in sorted((ROOT / folder).glob("*.safetensors")):
            digest.update(path.read_bytes())
        found[key] = f"bundled {digest.hexdigest()[:12]}"
    return found


def rows(results: Results, simulation: Simulation) -> list[Row]:
    """The table of one assistant."""
    turns, talks = results.turns, results.manners
    answered = warm(turns)
    found = [
        *_latency(answered, turns),
        *_politeness(talks, turns),
        _count(
            "underruns",
            "underruns per minute of speech",
            sum(t.underruns for t in turns),
            sum(t.spoken_s for t in turns) / 60,
        ),
        *_words(turns, results.words),
        *_effort(results, simulation),
        Row(
            key="agreement",
            title="turns on which trace and recording agree within 20 ms",
            text=f"{sum(t.disagreement is None for t in turns)} of {len(turns)}",
            values={"agree": sum(t.disagreement is None for t in turns), "of": len(turns)},
        ),
    ]
    return [row for row in found if row is not None]


def _latency(answered: Sequence[Turn], turns: Sequence[Turn]) -> list[Row | None]:
    times = [t.voice_to_voice_s for t in answered if t.voice_to_voice_s is not None]
    after = [t.after_end_of_turn_s for t in answered if t.after_end_of_turn_s is not None]
    first = [t.first_audio_s for t in answered if t.first_audio_s is not None]
    cold = [t.voice_to_voice_s for t in turns if t.cold and t.voice_to_voice_s is not None]
    return [
        _milliseconds("voice_to_voice_p50", "voice-to-voice, median", estimate(times, p50)),
        _milliseconds("voice_to_voice_p90", "voice-to-voice, 90th percentile", estimate(times, p90)),
        _plain("voice_to_voice_max", "voice-to-voice, longest", max(times, default=None)),
        _plain("cold", "voice-to-voice of the run's first turn (not counted above)", cold[0] if cold else None),
        _milliseconds(
            "after_end_of_turn", "end-of-turn decision to first audible sample, median", estimate(after, p50)
        ),
        _milliseconds(
            "first_audio", "language model's first token to first audible sample, median", estimate(first, p50)
        ),
    ]


def _politeness(talks: Sequence[Manners], turns: Sequence[Turn]) -> list[Row | None]:
    stops = [m.stop_s for m in talks if m.stop_s is not None]
    ducks = [m.duck_s for m in talks if m.duck_s is not None]
    resumed = [m.resumed_s for m in talks if m.resumed_s is not None]
    begun, dropped = sum(t.speculations for t in turns), sum(t.speculations_dropped for t in turns)
    off = [float(m.heard_words_off) for m in talks if m.heard_words_off is not None]
    pauses = [m.replies_in_pauses for m in talks if m.replies_in_pauses is not None]
    wrong = sum(m.replies != m.expected_replies for m in talks)
    return [
        _share("cut_offs", "false cut-offs: a turn taken for over too early", [m.cut_off for m in talks]),
        _milliseconds(
            "wait",
            "wait for the end of the turn, mean",
            estimate([m.wait_s for m in talks if m.wait_s is not None], mean),
        ),
        Row(
            key="replies_in_pauses",
            title="replies begun in the user's pauses",
            text=f"{sum(pauses)} in {len(pauses)} recordings with pauses",
            values={"value": sum(pauses), "of": len(pauses)},
        )
        if pauses
        else None,
        Row(
            key="wrong_replies",
            title="conversations with more or fewer replies than expected",
            text=f"{wrong} of {len(talks)}",
            values={"value": wrong, "of": len(talks)},
        ),
        _milliseconds("duck", "voice over a reply to a fainter reply, median", estimate(ducks, p50)),
        _plain("duck_max", "the same, longest", max(ducks, default=None)),
        _milliseconds("barge_in_stop", "interruption to silence, median", estimate(stops, p50)),
        _plain("barge_in_stop_max", "the same, longest", max(stops, default=None)),
        _share(
            "missed_barge_ins",
            "interruptions that did not stop the reply",
            [None if m.interrupted_by_words is None else not m.interrupted_by_words for m in talks],
        ),
        _share(
            "false_barge_ins",
            "replies stopped by a cough or a back-channel word",
            [m.interrupted_by_aside for m in talks],
        ),
        _plain("resumed", "end of such a sound to the reply at its level again, longest", max(resumed, default=None)),
        Row(
            key="speculations",
            title="replies begun in a pause and dropped",
            text=f"{dropped} of {begun} ({100 * dropped / begun:.0f} %)",
            values={"value": dropped, "of": begun},
        )
        if begun
        else None,
        Row(
            key="heard_text",
            title="words between the remembered and the played part of an interrupted reply, mean",
            text=f"{np.mean(off):.1f} ({len(off)})",
            values={"value": float(np.mean(off)), "count": len(off)},
        )
        if off
        else None,
    ]


def _words(turns: Sequence[Turn], words: dict[str, Any]) -> list[Row | None]:
    found: list[Row | None] = [
        _share("correct", "answers with the right keywords", [t.correct for t in turns]),
    ]
    for key, title in (
        ("reply", "spoken word error rate of the replies, pocketsphinx"),
        ("say", "the same texts by `say`"),
    ):
        rate = words.get(key)
        if rate is not None:
            found.append(Row(key=f"wer_{key}", title=title, text=str(rate), values=dataclasses.asdict(rate)))
    return found


def _effort(results: Results, simulation: Simulation) -> list[Row | None]:
    turns = results.turns
    made = sum(t.made_s for t in turns)
    spoken = sum(m.spoken_s for m in results.manners)
    found: list[Row | None] = []
    if made:
        rtf = sum(t.compute_s for t in turns) / made
        found.append(
            Row(key="rtf", title="real-time factor of the synthesiser", text=f"{rtf:.3f}", values={"value": rtf})
        )
    if spoken and not simulation.everything:
        cpu = sum(results.cpu_s) / spoken
        found.append(
            Row(
                key="cpu",
                title="CPU seconds of the process per spoken second, listening included",
                text=f"{cpu:.2f}",
                values={"value": cpu},
            )
        )
    if spoken and results.gpu_s:
        gpu = sum(results.gpu_s) / spoken
        found.append(
            Row(
                key="gpu",
                title="seconds in which the GPU ran a kernel (sampled) per spoken second, listening included",
                text=f"{gpu:.2f}",
                values={"value": gpu},
            )
        )
    return found


def _milliseconds(key: str, title: str, value: Estimate | None) -> Row | None:
    if value is None:
        return None
    text = f"{1000 * value.value:.0f} ms ({1000 * value.low:.0f}-{1000 * value.high:.0f}, n={value.count})"
    return Row(key=key, title=title, text=text, values={**dataclasses.asdict(value), "unit": "s"})


def _plain(key: str, title: str, value: float | None) -> Row | None:
    if value is None:
        return None
    return Row(key=key, title=title, text=f"{1000 * value:.0f} ms", values={"value": value, "unit": "s"})


def _share(key: str, title: str, values: Sequence[bool | None]) -> Row | None:
    judged = [float(value) for value in values if value is not None]
    found = estimate(judged, mean)
    if found is None:
        return None
    text = f"{sum(judged):.0f} of {len(judged)} ({100 * found.low:.0f}-{100 * found.high:.0f} %)"
    return Row(key=key, title=title, text=text, values=dataclasses.asdict(found))


def _count(key: str, title: str, number: int, minutes: float) -> Row | None:
    if not minutes:
        return None
    value = number / minutes
    return Row(
        key=key,
        title=title,
        text=f"{value:.1f} ({number} in {60 * minutes:.0f} s)",
        values={"value": value, "count": number},
    )


def stage_table(turns: Sequence[Turn]) -> dict[str, dict[str, float]]:
    """Stage -> median and 90th percentile in seconds, over the turns whose trace the recording confirms."""
    parts = [turn.stages for turn in trusted(turns) if turn.stages]
    if not parts:
        return {}
    return {
        stage: {"p50": p50(np.array([p[stage] for p in parts])), "p90": p90(np.array([p[stage] for p in parts]))}
        for stage in STAGES
    }


def comparisons(results: Sequence[Results]) -> list[dict[str, Any]]:
    """Every assistant against the first, pair by pair on the same turns."""
    found = []
    for other in results[1:]:
        for of, title, only_long in (
            ("voice_to_voice_s", "voice-to-voice", False),
            ("first_audio_s", "language model's first token to first audible sample", False),
            ("first_audio_s", "the same, replies of two sentences or more", True),
        ):
            pairs = paired(results[0].turns, other.turns, of)
            if only_long:
                long = {t.key for t in results[0].turns if t.sentences >= 2} & {
                    t.key for t in other.turns if t.sentences >= 2
                }
                pairs = [pair for pair in pairs if pair[0] in long]
            value = ratio(pairs)
            if value is not None:
                found.append(
                    {
                        "first": results[0].variant.name,
                        "second": other.variant.name,
                        "of": of,
                        "title": title,
                        **dataclasses.asdict(value),
                        "pairs": [list(pair) for pair in pairs],
                    }
                )
    return found


def to_json(results: Sequence[Results], simulation: Simulation, run: dict[str, Any]) -> dict[str, Any]:
    """The whole of report.json."""
    return {
        "about": {**about(results[0].variant.config), "counted": COUNTED, "simulated": simulation.to_json(), **run},
        "variants": {
            r.variant.name: {
                "config": dataclasses.asdict(r.variant.config),
                "weights": weights(r.variant.config, simulation),
                "figures": {
                    row.key: {"title": row.title, "text": row.text, **row.values} for row in rows(r, simulation)
                },
                "stages": stage_table(r.turns),
                "turns": [{"key": turn.key, **dataclasses.asdict(turn)} for turn in r.turns],
                "conversations": [dataclasses.asdict(m) for m in r.manners],
                "files": r.files,
            }
            for r in results
        },
        "comparisons": comparisons(results),
    }
