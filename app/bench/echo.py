"""`launch.py bench echo`: the assistant's own voice in the microphone. Does it trigger itself, is the user understood?

The room is synthetic: a delay and a decaying tail. The reply is never ducked here and goes on under every word of the user,
which is harder than a conversation, in which it gives way.
"""

import argparse
import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from app.about import about
from app.assemble import Assistant, prepare_process
from app.bench.cases import CLIP_HZ, built_in
from app.bench.words import said_at_once
from app.configuration import configuration
from asr.base import FinalTranscript, Recognizer, SpeechStarted, VoiceHeard
from audio_io.base import FRAME_SAMPLES
from audio_io.echo import echo_control
from audio_io.resample import resample
from tts.base import SAMPLE_RATE

if TYPE_CHECKING:
    from app.small.judges import ErrorRate

LEVELS_DB = (-20, -10, 0)  # of the echo, by the user's voice
DELAYS_MS = (10, 60, 120)
UNCANCELLED_MS = 60  # the delay at which the same is tried without echo cancellation
USER_LEVEL = 0.1  # root mean square of each utterance
BEFORE_S, AFTER_S = 1.0, 0.5  # of the reply alone around each utterance
LEAD_S = 3.0  # of the reply before the first
TAIL_S, DECAY_S, TAIL_LEVEL = 0.15, 0.03, 0.5  # of the room


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One room."""

    level_db: int
    delay_ms: int
    cancel: bool = True


def settings() -> list[Setting]:
    """Every room that is tried."""
    found = [Setting(level_db=level, delay_ms=delay) for level in LEVELS_DB for delay in DELAYS_MS]
    return found + [Setting(level_db=level, delay_ms=UNCANCELLED_MS, cancel=False) for level in LEVELS_DB]


def utterances() -> list[tuple[str, np.ndarray]]:
    """Text and samples, float32 (N,) at 16 kHz, of the built-in recordings that are one clean sentence."""
    found = []
    for case in built_in():
        if case.text and not case.pauses and case.clean is None and case.words_from < 1.0:
            first, last = (round(at * CLIP_HZ) for at in (case.voiced[0].start, case.voiced[-1].end))
            spoken = case.samples[first:last]
            found.append((case.text, spoken * (USER_LEVEL / np.sqrt(np.mean(np.square(spoken))))))
    return found


def room(delay_ms: int) -> np.ndarray:
    """Impulse response, float64 (N,) at 16 kHz, of power 1."""
    rng = np.random.default_rng(delay_ms)
    count = round(TAIL_S * CLIP_HZ)
    tail = np.exp(-np.arange(count) / (DECAY_S * CLIP_HZ)) * rng.standard_normal(count)
    response = np.concatenate(
        [np.zeros(round(delay_ms * CLIP_HZ / 1000)), [1.0], TAIL_LEVEL * tail / np.linalg.norm(tail)]
    )
    return response / np.linalg.norm(response)


def leaked(far: np.ndarray, setting: Setting) -> np.ndarray:
    """What of the reply is in the microphone, float32 (N,)."""
    echo = np.convolve(far, room(setting.delay_ms))[: len(far)]
    wanted = USER_LEVEL * 10 ** (setting.level_db / 20)
    return (echo * wanted / np.sqrt(np.mean(np.square(echo)))).astype(np.float32)


def heard_by_assistant(near: np.ndarray, far: np.ndarray, *, cancel: bool) -> np.ndarray:
    """The microphone after echo control, frame by frame as in a conversation; float32 (N,) each."""
    control = echo_control("webrtc" if cancel else "off")
    begins = range(0, len(near) - FRAME_SAMPLES + 1, FRAME_SAMPLES)
    return np.concatenate([control.process(near[i : i + FRAME_SAMPLES], far[i : i + FRAME_SAMPLES]) for i in begins])


def timeline(spoken: list[tuple[str, np.ndarray]]) -> tuple[np.ndarray, list[slice]]:
    """The user's side, float32 (N,) at 16 kHz, and where each utterance lies in it."""
    parts, places, at = [np.zeros(round(LEAD_S * CLIP_HZ), np.float32)], [], round(LEAD_S * CLIP_HZ)
    for _, samples in spoken:
        before, after = (np.zeros(round(seconds * CLIP_HZ), np.float32) for seconds in (BEFORE_S, AFTER_S))
        parts += [before, samples, after]
        places.append(slice(at + len(before) - len(after) // 2, at + len(before) + len(samples) + len(after) // 2))
        at += len(before) + len(samples) + len(after)
    return np.concatenate(parts).astype(np.float32), places


def understood(recognizer: Recognizer, user: np.ndarray, places: list[slice], texts: list[str]) -> "ErrorRate":
    """Word error rate of the utterances in what the assistant hears."""
    from app.small.judges import error_rate

    return error_rate(texts, [recognizer.transcribe(user[place]) for place in places])


def triggered(recognizer: Recognizer, samples: np.ndarray) -> dict[str, int]:
    """What the assistant takes for its user where only itself is heard."""
    stream = recognizer.stream()
    events = [*stream.push(samples), *stream.finish()]
    return {
        "turns": sum(isinstance(event, FinalTranscript) and bool(event.text) for event in events),
        "voices": sum(isinstance(event, SpeechStarted) for event in events),
        "noticed": sum(isinstance(event, VoiceHeard) for event in events),
    }


def measure(recognizer: Recognizer, reply: np.ndarray, spoken: list[tuple[str, np.ndarray]]) -> dict[str, Any]:
    """Every room with the user in it and without him; `reply`: float32 (N,) at 16 kHz."""
    user, places = timeline(spoken)
    far, texts = np.resize(reply, len(user)).astype(np.float32), [text for text, _ in spoken]
    alone = understood(recognizer, user, places, texts)
    rooms = []
    for setting in settings():
        echo = leaked(far, setting)
        rate = understood(recognizer, heard_by_assistant(user + echo, far, cancel=setting.cancel), places, texts)
        own = heard_by_assistant(echo, far, cancel=setting.cancel)
        rooms.append({**vars(setting), "wer": vars(rate), "self": triggered(recognizer, own)})
    return {"alone": vars(alone), "rooms": rooms, "seconds": len(user) / CLIP_HZ, "utterances": len(texts)}


def percent(rate: dict[str, float]) -> str:
    """A word error rate with its interval."""
    return f"{100 * rate['rate']:.0f} % ({100 * rate['low']:.0f}-{100 * rate['high']:.0f})"


def page(values: dict[str, Any]) -> str:
    """The report for people."""
    told, found = values["about"], values["figures"]
    return "\n".join(
        [
            "# The assistant's own voice in the microphone",
            "",
            f"{told['machine']}; load average {told['load']:.1f}, which no figure here depends on; bundled weights. "
            f"{found['utterances']} built-in recordings ({found['alone']['num_words']} words, flite and espeak-ng voices) spoken "
            f"over a reply of the bundled voice that goes on at its level for {found['seconds']:.0f} s, in a synthetic room (a "
            f"delay and a tail of {1000 * TAIL_S:.0f} ms). The echo's level is by the user's voice in the microphone. Echo "
            "cancellation begins untrained and is told no delay. No room, microphone or person was measured.",
            "",
            "Self-triggered: from the reply alone, what the recogniser takes for a turn with words (what it takes for speech; "
            "what would duck the reply for a moment).",
            "",
            f"Word error rate of the user without any reply: {percent(found['alone'])}.",
            "",
            "| echo | delay | cancellation | word error rate in double talk (95 % interval) | self-triggered (voices; notices) |",
            "|---|---|---|---|---|",
            *(
                f"| {r['level_db']:+d} dB | {r['delay_ms']} ms | {'WebRTC' if r['cancel'] else 'none'} | {percent(r['wer'])} | "
                f"{r['self']['turns']} ({r['self']['voices']}; {r['self']['noticed']}) |"
                for r in found["rooms"]
            ),
            "",
        ]
    )


async def _measure(config: Any) -> dict[str, Any]:
    assistant = await Assistant.load(config, lambda text: None)
    try:
        from app.bench.cases import REPLIES

        spoken = [said_at_once(assistant.synthesizer, assistant.voice, config.tts.speed, text) for text in REPLIES]
        reply = resample(np.concatenate(spoken), SAMPLE_RATE, CLIP_HZ)
        return measure(assistant.recognizer, reply, utterances())
    finally:
        assistant.close()


def run(options: argparse.Namespace) -> int:
    """Measure, write the report, print it; 1 when the assistant triggered itself in spite of echo cancellation."""
    config = configuration(options)
    prepare_process(config)
    found = asyncio.run(_measure(config))
    values = {"about": about(config, load=os.getloadavg()[0]), "figures": found}
    options.report.mkdir(parents=True, exist_ok=True)
    (options.report / "report.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    (options.report / "report.md").write_text(page(values), encoding="utf-8")
    sys.stdout.write(page(values))
    return int(any(r["self"]["turns"] for r in found["rooms"] if r["cancel"]))
