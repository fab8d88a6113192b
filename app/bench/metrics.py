"""Conversations -> figures. What can be read off the recording is; the trace is only believed where both agree."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from app.bench.acoustic import Heard, Span
from app.bench.cases import CLIP_HZ, Case
from app.bench.talk import Conversation
from app.trace import AUDIBLE, TurnTrace
from tts.base import SAMPLE_RATE

STAGES = (
    "end_of_turn",
    "asr_final",
    "llm_first_token",
    "tokens_needed",
    "text_to_token",
    "decoder",
    "vocoder",
    "leading_silence",
    "output",
)
TOLERANCE_S = 0.020  # trace and recording must agree within it
NEAR_S = 0.3  # an onset of the recording this far from the trace's is another sound
NEAR_ONSET_S = 0.02  # a recording's first voice may seem to begin this much before it was played: frames, resampling
GAIN_FRAME = 120  # samples of the recording: 5 ms
FAINT = 4 * AUDIBLE  # frames of a reply below it tell nothing about its level
ROUNDS = 1000


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One answered turn. Seconds; None for what did not happen."""

    variant: str
    case: str
    repeat: int
    turn: int
    cold: bool  # the first of its assistant in this run
    voice_to_voice_s: float | None  # read off the recording
    trace_s: float | None  # the same by the trace
    stages: dict[str, float] | None  # by the trace; they sum to `trace_s`
    disagreement: str | None
    after_end_of_turn_s: float | None  # end-of-turn decision -> first audible sample
    first_audio_s: float | None  # first token of the language model -> first audible sample
    interrupted: bool
    error: str | None
    transcript: str
    reply: str
    sentences: int
    underruns: int
    speculations: int
    speculations_dropped: int
    spoken_s: float
    compute_s: float  # of the synthesiser, text to samples
    made_s: float  # audio that this computing made
    cost: tuple[tuple[float, float], ...]  # (second of the reply, computing seconds per spoken second)
    correct: bool | None

    @property
    def key(self) -> str:
        """What pairs it with the same turn of another assistant or run."""
        return f"{self.case}/{self.turn}/{self.repeat}"


@dataclass(frozen=True, kw_only=True)
class Manners:
    """How a conversation went beside its latency; None where the case does not ask."""

    variant: str
    case: str
    repeat: int
    expected_replies: int
    replies: int
    cut_off: bool | None  # a turn was taken for over before the user had ended
    wait_s: float | None  # last voice of the user -> the decision that his turn is over; None after a cut-off
    replies_in_pauses: int | None
    duck_s: float | None  # first voice over the reply -> end of the reply's last sound at its level
    stop_s: float | None  # first voice of the interruption -> last audible sample of the reply
    resumed_s: float | None  # last sound of a cough or a back-channel word -> the reply is at its own level again
    interrupted_by_words: bool | None
    interrupted_by_aside: bool | None  # a cough or a back-channel word
    heard_words_off: int | None  # the trace's heard text against what the recording played
    spoken_s: float
    unknown_sounds: int  # replies in the recording that no trace knows


def stages(trace: TurnTrace) -> dict[str, float] | None:
    """The trace's waterfall in finer stages; they sum to its voice-to-voice."""
    coarse = trace.waterfall
    if coarse is None:
        return None
    marks = trace.marks
    chunk = next(c for c in marks.decoder_chunks if c.num_samples)
    computed = sum(step.synth_ms for step in marks.speech_steps if step.at <= chunk.at) / 1000
    text_to_token = min(computed, coarse["text_to_token_s"])
    vocoder = min(chunk.vocoder_ms / 1000, coarse["decoder_s"])
    output = chunk.plays_at - max(chunk.at, marks.final_transcript or chunk.at)  # it may have waited for the turn's end
    return {
        "end_of_turn": coarse["end_of_turn_s"],
        "asr_final": coarse["asr_s"],
        "llm_first_token": coarse["llm_first_token_s"],
        "tokens_needed": coarse["text_to_token_s"] - text_to_token,
        "text_to_token": text_to_token,
        "decoder": coarse["decoder_s"] - vocoder,
        "vocoder": vocoder,
        "leading_silence": coarse["output_s"] - output,
        "output": output,
    }


def with_truth(case: Case, heard: Heard) -> Heard:
    """For a question in noise, which hides where a voice ends: the voice of the question without it."""
    return heard if case.clean is None else heard.knowing(case.voiced, len(case.samples) / CLIP_HZ)


def acoustic(trace: TurnTrace, heard: Heard) -> tuple[float | None, str | None]:
    """Voice-to-voice as the recording has it, and what is wrong with the trace if it says something else."""
    claimed = trace.marks.first_audible_sample
    if claimed is None:
        return None, None
    onset = heard.onset_near(claimed, NEAR_S)
    if onset is None:
        return None, f"the trace has a reply at {claimed:.3f} s, the recording has none there"
    ended = heard.user_end_before(onset)
    if ended is None:
        return None, "a reply before anybody spoke"
    found = onset - ended
    told, parts = trace.voice_to_voice_s, stages(trace)
    if told is None or parts is None:
        return found, "the trace has no voice-to-voice, the recording has one"
    off = sum(parts.values()) - found
    if abs(off) > TOLERANCE_S:
        return (
            found,
            f"{1000 * sum(parts.values()):.0f} ms by the trace's stages, {1000 * found:.0f} ms in the recording",
        )
    early = min(parts.values())
    if early < -TOLERANCE_S:
        return found, f"a stage of {1000 * early:.0f} ms"
    return found, None


def turn_figures(
    talk: Conversation, heard: Heard, variant: str, repeat: int, *, cold: bool, correct: Sequence[bool | None]
) -> list[Turn]:
    """Every turn of a conversation."""
    found = []
    for index, trace in enumerate(talk.turns):
        voice_to_voice, disagreement = acoustic(trace, heard)
        marks = trace.marks
        first, decided, token = marks.first_audible_sample, marks.end_of_turn, marks.llm_first_token
        made = sum(chunk.num_samples for chunk in marks.decoder_chunks) / SAMPLE_RATE
        found.append(
            Turn(
                variant=variant,
                case=talk.case.name,
                repeat=repeat,
                turn=index + 1,
                cold=cold and index == 0,
                voice_to_voice_s=voice_to_voice,
                trace_s=trace.voice_to_voice_s,
                stages=stages(trace),
                disagreement=disagreement,
                after_end_of_turn_s=first - decided if first is not None and decided is not None else None,
                first_audio_s=first - token if first is not None and token is not None else None,
                interrupted=trace.interrupted,
                error=trace.error,
                transcript=trace.transcript,
                reply=trace.reply,
                sentences=num_sentences(trace.reply),
                underruns=trace.underruns,
                speculations=trace.speculations,
                speculations_dropped=trace.speculations_dropped,
                spoken_s=sum(span.end - span.start for span in reply_spans(talk.turns, index, heard)),
                compute_s=_computed(trace),
                made_s=made,
                cost=_cost(trace),
                correct=correct[index],
            )
        )
    return found


def num_sentences(text: str) -> int:
    """How many sentences a text has."""
    return len([part for part in re.split(r"[.!?]+[\"')\]]*(?:\s+|$)", text) if part.strip()])


def reply_spans(turns: Sequence[TurnTrace], index: int, heard: Heard) -> list[Span]:
    """What the recording has of the reply to a turn: its sounds up to the next reply."""
    begins = [t.marks.first_audible_sample for t in turns]
    first = begins[index]
    if first is None:
        return []
    following = min((at for at in begins[index + 1 :] if at is not None), default=math.inf)
    return [span for span in heard.assistant if first - TOLERANCE_S <= span.start < following - TOLERANCE_S]


def _computed(trace: TurnTrace) -> float:
    marks = trace.marks
    steps, chunks = marks.speech_steps, marks.decoder_chunks
    return (sum(step.synth_ms for step in steps) + sum(chunk.synth_ms for chunk in chunks)) / 1000


def _cost(trace: TurnTrace) -> tuple[tuple[float, float], ...]:
    """Computing per spoken second along the reply, chunk by chunk."""
    points, spent, at = [], 0.0, 0.0
    before = -math.inf
    for chunk in trace.marks.decoder_chunks:
        spent += chunk.synth_ms + sum(s.synth_ms for s in trace.marks.speech_steps if before < s.at <= chunk.at)
        before = chunk.at
        if chunk.num_samples:
            length = chunk.num_samples / SAMPLE_RATE
            at += length
            points.append((round(at, 3), round(spent / 1000 / length, 5)))
            spent = 0.0
    return tuple(points)


def manners(talk: Conversation, heard: Heard, variant: str, repeat: int) -> Manners:
    """Everything of a conversation that is no latency."""
    case, turns = talk.case, talk.turns
    question = [s for s in heard.user if s.start < len(case.samples) / CLIP_HZ and s.end > case.words_from]
    ends = max((span.end for span in question), default=None)
    decisions = [t.marks.end_of_turn for t in turns if t.marks.end_of_turn is not None]
    replies = [spans for index in range(len(turns)) if (spans := reply_spans(turns, index, heard))]
    in_pauses = sum(a <= spans[0].start < b for spans in replies for a, b in case.pauses)
    spoken_over = case.interjection if talk.interjected_at is not None and turns else None
    by_words = turns[0].interrupted if spoken_over and spoken_over.interrupts else None
    by_aside = turns[0].interrupted if spoken_over and not spoken_over.interrupts else None
    over = voice_over(talk, heard) if spoken_over else None
    cut_off = None if ends is None or not case.replies else any(at < ends for at in decisions)
    first = min((at for at in decisions if ends is not None and at >= ends), default=None)
    return Manners(
        variant=variant,
        case=case.name,
        repeat=repeat,
        expected_replies=case.replies,
        replies=len(replies),
        cut_off=cut_off,
        wait_s=None if cut_off is not False or first is None or ends is None else first - ends,
        replies_in_pauses=in_pauses if case.pauses else None,
        duck_s=duck_time(talk, over) if over else None,
        stop_s=stop_time(talk, heard) if by_words else None,
        resumed_s=resume_time(talk, over) if over and by_aside is False else None,
        interrupted_by_words=by_words,
        interrupted_by_aside=by_aside,
        heard_words_off=heard_words_off(talk, heard) if by_words else None,
        spoken_s=sum(span.end - span.start for span in heard.assistant),
        unknown_sounds=_unknown(turns, heard),
    )


def voice_over(talk: Conversation, heard: Heard) -> Span | None:
    """What the user utters over the reply, from its first voice to its last."""
    since = (talk.interjected_at or 0.0) - NEAR_ONSET_S
    spans = [span for span in heard.user if span.start >= since]
    return Span(spans[0].start, spans[-1].end) if spans else None


def gains(talk: Conversation) -> tuple[np.ndarray, np.ndarray]:
    """(second at which a frame ends, level of the reply in it): the recording against the reply at its own level."""
    count = min(len(talk.both), len(talk.undisturbed)) // GAIN_FRAME
    played, whole = (
        np.sqrt(np.square(side[: count * GAIN_FRAME].astype(np.float64)).reshape(count, GAIN_FRAME).mean(1))
        for side in (talk.both[:, 1], talk.undisturbed)
    )
    loud = whole > FAINT
    return (1 + np.flatnonzero(loud)) * GAIN_FRAME / talk.rate, played[loud] / whole[loud]


def duck_time(talk: Conversation, over: Span) -> float | None:
    """From the first voice over a reply to the last sound that it still has at more than half its level; None: it had all."""
    at, level = gains(talk)
    faint = at[(at > over.start) & (level < 0.5)]
    if not len(faint):
        return None
    full = at[(at < faint[0]) & (level >= 0.5)]
    return max(0.0, float(full[-1]) - over.start) if len(full) else 0.0


def resume_time(talk: Conversation, over: Span) -> float | None:
    """From the end of a sound that was no interruption to the reply at its own level; 0 where it never gave way."""
    at, level = gains(talk)
    faint = at[(at > over.start) & (level < 0.9)]
    return max(0.0, float(faint[-1]) - over.end) if len(faint) else 0.0


def stop_time(talk: Conversation, heard: Heard) -> float | None:
    """From the first voice of the interruption to the last audible sample of the reply that it stopped."""
    over, spans = voice_over(talk, heard), reply_spans(talk.turns, 0, heard)
    return max(0.0, spans[-1].end - over.start) if spans and over else None


def heard_words_off(talk: Conversation, heard: Heard) -> int | None:
    """Words between the heard text of the interrupted reply and what was played of it until the recording fell silent."""
    trace, spans = talk.turns[0], reply_spans(talk.turns, 0, heard)
    if not spans:
        return None
    begins = next(chunk.plays_at for chunk in trace.marks.decoder_chunks if chunk.num_samples)
    left = round((spans[-1].end - begins) * SAMPLE_RATE)
    tokens = 0
    for step in trace.marks.speech_steps:
        left -= step.num_samples
        if left < 0:
            break
        tokens = step.token_end
    played = "".join(mark.text for mark in trace.marks.text_tokens[:tokens])
    return abs(len(played.split()) - len(trace.heard.split()))


def _unknown(turns: Sequence[TurnTrace], heard: Heard) -> int:
    known = [
        (t.marks.first_audible_sample - NEAR_S, (t.marks.last_sample or 0.0) + NEAR_S)
        for t in turns
        if t.marks.first_audible_sample is not None
    ]
    return sum(not any(a <= span.start <= b for a, b in known) for span in heard.assistant)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 95 % bootstrap interval over `count` items."""

    value: float
    low: float
    high: float
    count: int


def estimate(values: Sequence[float], statistic: Callable[[np.ndarray], float], seed: int = 0) -> Estimate | None:
    """A statistic of values and how far it would move with other cases."""
    if not values:
        return None
    data = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    drawn = [statistic(data[rng.integers(len(data), size=len(data))]) for _ in range(ROUNDS)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value=float(statistic(data)), low=float(low), high=float(high), count=len(data))


def p50(data: np.ndarray) -> float:
    """Median."""
    return float(np.median(data))


def p90(data: np.ndarray) -> float:
    """90th percentile."""
    return float(np.percentile(data, 90))


def mean(data: np.ndarray) -> float:
    """Mean."""
    return float(data.mean())


def warm(turns: Iterable[Turn]) -> list[Turn]:
    """Turns whose voice-to-voice counts: audible, not the first of a run."""
    return [turn for turn in turns if turn.voice_to_voice_s is not None and not turn.cold]


def trusted(turns: Iterable[Turn]) -> list[Turn]:
    """Those of them whose trace and recording agree: only their stages are shown."""
    return [turn for turn in warm(turns) if turn.disagreement is None]


def paired(first: Sequence[Turn], second: Sequence[Turn], of: str) -> list[tuple[str, float, float]]:
    """(key, value of the first, of the second) for turns that both assistants answered."""
    left = {turn.key: getattr(turn, of) for turn in warm(first)}
    right = {turn.key: getattr(turn, of) for turn in warm(second)}
    both = [key for key in left if left[key] is not None and right.get(key) is not None]
    return [(key, float(left[key]), float(right[key])) for key in both]


def ratio(pairs: Sequence[tuple[str, float, float]]) -> Estimate | None:
    """How many times the second is the first: the geometric mean of the ratios pair by pair."""
    logs = [math.log(b / a) for _, a, b in pairs if a > 0 and b > 0]
    found = estimate(logs, mean)
    if found is None:
        return None
    return Estimate(value=math.exp(found.value), low=math.exp(found.low), high=math.exp(found.high), count=found.count)
