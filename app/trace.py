"""Marks of a turn on one clock -> latency waterfall. TRACE.json is the contract for everything that measures.

The clock is the capture sample clock in seconds: 0 is the first captured sample. Voice-to-voice is the acoustic figure:
last voiced sample of the user -> first audible sample of the assistant. The stages of the waterfall sum to it.
Schema: `app/trace.schema.json`.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

AUDIBLE = 10 ** (-50 / 20)  # amplitude from which a sample of the assistant counts as audible: -50 dBFS

STAGES = ("end_of_turn_s", "asr_s", "llm_first_token_s", "text_to_token_s", "decoder_s", "output_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTokenMark:
    """A text token of the language model arrived."""

    index: int
    id: int
    text: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStepMark:
    """The text-to-token model made the speech tokens of one text token, or of several at once."""

    text_token: int
    num_speech_tokens: int
    num_samples: int  # that are played of them (24 kHz)
    capped: bool = False
    token_end: int
    synth_ms: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderChunkMark:
    """The decoder turned speech tokens into samples; `plays_at` is when the device plays the first of them."""

    num_speech_tokens: int
    num_samples: int
    token_end: int
    synth_ms: float
    at: float
    plays_at: float
    vocoder_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelMark:
    """The reply was ducked (gain below 1) or silenced (0) because of a voice over it, or came back (1)."""

    at: float
    gain: float


@dataclass(slots=True, kw_only=True)
class Marks:
    """When things happened in a turn; seconds on the capture sample clock, None for what did not happen."""

    last_voiced: float | None = None
    end_of_turn: float | None = None
    final_transcript: float | None = None
    llm_first_token: float | None = None
    text_tokens: list[TextTokenMark] = field(default_factory=list)
    speech_steps: list[SpeechStepMark] = field(default_factory=list)
    decoder_chunks: list[DecoderChunkMark] = field(default_factory=list)
    levels: list[LevelMark] = field(default_factory=list)
    llm_done: float | None = None
    first_audible_sample: float | None = None
    last_sample: float | None = None


@dataclass(slots=True, kw_only=True)
class TurnTrace:
    """All that is measured of one turn."""

    turn: int
    transcript: str
    reply: str = ""
    heard: str = ""
    interrupted: bool = False
    error: str | None = None
    underruns: int = 0
    speculations: int = 0  # replies begun in a pause of the user, of which at most one is this turn's
    speculations_dropped: int = 0
    marks: Marks = field(default_factory=Marks)

    @property
    def voice_to_voice_s(self) -> float | None:
        """Last voiced sample of the user -> first audible sample of the assistant."""
        if self.marks.first_audible_sample is None or self.marks.last_voiced is None:
            return None
        return self.marks.first_audible_sample - self.marks.last_voiced

    @property
    def waterfall(self) -> dict[str, float] | None:
        """Seconds per stage, in order; they sum to `voice_to_voice_s`. None when nothing was heard."""
        m = self.marks
        if self.voice_to_voice_s is None or not m.decoder_chunks:
            return None
        chunk = next(c for c in m.decoder_chunks if c.num_samples)
        first_steps = [s.at for s in m.speech_steps if s.at <= chunk.at]
        making = (m.llm_first_token, first_steps[-1] if first_steps else m.llm_first_token, chunk.at)
        # what was made before the turn was over cost no time after it
        made = (at if at is None or m.final_transcript is None else max(at, m.final_transcript) for at in making)
        times: list[float] = []
        for at in (m.last_voiced, m.end_of_turn, m.final_transcript, *made, m.first_audible_sample):
            if (
                at is not None or times
            ):  # what never was, such as a first token where an apology is spoken, took no time
                times.append(times[-1] if at is None else at)
        return {stage: b - a for stage, a, b in zip(STAGES, times[:-1], times[1:], strict=True)}

    def heard_by(self, played_samples: int) -> str:
        """The reply's text up to the last language model token whose speech was played whole (samples at 24 kHz)."""
        total, tokens = 0, 0
        for step in self.marks.speech_steps:
            total += step.num_samples
            if total > played_samples:
                break
            tokens = step.token_end
        return "".join(mark.text for mark in self.marks.text_tokens[:tokens])

    def to_json(self) -> dict[str, Any]:
        """The turn as it stands in TRACE.json."""
        values = asdict(self)
        return {**values, "voice_to_voice_s": self.voice_to_voice_s, "waterfall": self.waterfall}


def first_audible(samples: np.ndarray) -> int | None:
    """Index of the first audible sample of a chunk (float32 mono), None in silence."""
    loud = np.flatnonzero(np.abs(samples) > AUDIBLE)
    return int(loud[0]) if len(loud) else None


def waterfall_line(trace: TurnTrace) -> str:
    """One line for people: `turn 1  voice-to-voice 612 ms = end of turn 420 + asr 24 + ...`."""
    total, stages = trace.voice_to_voice_s, trace.waterfall
    if total is None or stages is None:
        return f"turn {trace.turn}  no audible reply"
    parts = " + ".join(f"{name.removesuffix('_s').replace('_', ' ')} {1000 * s:.0f}" for name, s in stages.items())
    return f"turn {trace.turn}  voice-to-voice {1000 * total:.0f} ms = {parts}"


def write_json(path: Path, turns: list[TurnTrace], about: dict[str, Any]) -> None:
    """Write TRACE.json in one go: `about` (versions, config, weights) and the turns."""
    text = json.dumps({"about": about, "turns": [turn.to_json() for turn in turns]}, indent=1)
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(text + "\n", "utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
