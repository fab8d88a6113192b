"""The recogniser: samples -> voice activity -> words (Paraformer, or another) -> end of turn.

Everything happens on the sample clock in windows of 32 ms, so any chunking of the samples gives the same events.
A turn goes through three states: no voice; a voice too short to be sure of; a turn with pauses in it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

import numpy as np

from asr.base import (
    SAMPLE_RATE,
    Event,
    FinalTranscript,
    PartialTranscript,
    RecognizerError,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    SpeechSustained,
    VoiceHeard,
    VoiceLost,
)
from asr.endpoint import Endpoint
from asr.vad import WINDOW, Hysteresis, SpeechDetector, VoiceActivity, voiced_span

_READ_MS = 64  # silence after which the words so far are read, ahead of the decision
_PAUSE_MS = 160  # silence that counts as a pause
_TAIL = SAMPLE_RATE // 100  # samples of voice behind what was read that are worth another reading
_AHEAD_MS = 350  # before the end of a turn whose words call for more, that they may be all is told
_STIR_MS = 96  # what stirs at the end of a pause is heard out for so long: a detector is late where a voice comes back
_ONSET_GAP_MS = 96  # silence that ends a voice too short to be speech
_MAX_WHOLE_S = 14.0  # longer recordings are transcribed turn by turn


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """Times of the recogniser; `configs.schema.AsrConfig` documents them."""

    vad_threshold: float
    notice_threshold: float
    min_speech_ms: int
    sustained_ms: int
    pre_roll_ms: int
    partial_interval_ms: int
    max_turn_s: float
    endpoint: Endpoint


class GrowingText(Protocol):
    """One utterance that is read while it grows."""

    @property
    def text(self) -> str:
        """What has been recognised so far."""
        ...

    def push(self, samples: np.ndarray) -> bool:
        """Take float32 mono samples at 16 kHz; true when the text may have changed."""
        ...


class Reader(Protocol):
    """What makes words of samples; without voice activity and turns."""

    def transcribe(self, samples: np.ndarray) -> str:
        """Text of one utterance, float32 mono at 16 kHz, shape (N,)."""
        ...

    def stream(self) -> GrowingText | None:
        """A new utterance; None where what there is so far has to be read again for each partial transcript."""
        ...


def _as_it_is(text: str) -> str:
    return text


class StreamingRecognizer:
    """A loaded recogniser (`asr.base.Recognizer`). `punctuate` sets marks in what is told as whole, not in what is judged."""

    def __init__(
        self,
        reader: Reader,
        vad: VoiceActivity,
        options: StreamOptions,
        punctuate: Callable[[str], str] = _as_it_is,
    ) -> None:
        self._reader = reader
        self._vad = vad
        self._options = options
        self._punctuate = punctuate

    def stream(self, patience: Callable[[], float] = lambda: 1.0) -> "TurnStream":
        """A stream for one microphone or file; see `asr.base.Recognizer.stream`."""
        return TurnStream(self._reader, self._vad.detector(), self._options, patience, self._punctuate)

    def transcribe(self, samples: np.ndarray) -> str:
        """Text of a recording, float32 mono at 16 kHz, shape (N,); a long one is cut at its pauses."""
        samples = _checked(samples)
        if len(samples) <= _MAX_WHOLE_S * SAMPLE_RATE:
            return self._punctuate(self._reader.transcribe(samples)) if self._has_voice(samples) else ""
        stream = self.stream()
        events = [*stream.push(samples), *stream.finish()]
        return " ".join(e.text for e in events if isinstance(e, FinalTranscript) and e.text)

    def warm_up(self) -> None:
        """Run every model once, so that the first turn is as fast as the tenth."""
        noise = np.random.default_rng(0).normal(0, 0.01, 2 * SAMPLE_RATE).astype(np.float32)
        detector = self._vad.detector()
        for window in _windows(noise):
            detector(window)
        self._reader.transcribe(noise)
        self._punctuate("hello")
        partial = self._reader.stream()
        if partial is not None:
            partial.push(noise)

    def _has_voice(self, samples: np.ndarray) -> bool:
        """False where nobody speaks: of that, recognisers make words."""
        detector = self._vad.detector()
        return any(detector(window) >= self._options.notice_threshold for window in _windows(samples))


class TurnStream:
    """One microphone or file (`asr.base.RecognitionStream`)."""

    def __init__(
        self,
        reader: Reader,
        detector: SpeechDetector,
        options: StreamOptions,
        patience: Callable[[], float] = lambda: 1.0,
        punctuate: Callable[[str], str] = _as_it_is,
    ) -> None:
        self._reader = reader
        self._detector = detector
        self._patience = patience
        self._punctuate = punctuate
        self._voice = Hysteresis(options.vad_threshold)
        self._options = options
        self._pending = np.zeros(0, np.float32)
        self._clock = 0  # samples that went through the detector
        self._heard = np.zeros(0, np.float32)  # samples kept; they end at the clock
        self._onset: int | None = None  # first window of a voice that may become a turn
        self._voiced_samples = 0  # of that voice
        self._noticed: int | None = None  # last window of a voice that was told of, turn or not
        self._turn: _Turn | None = None
        self._last_voiced = 0  # end of the last voiced window
        self.speech_probability = 0.0
        self.level_dbfs = -120.0

    def push(self, samples: np.ndarray) -> list[Event]:
        """Take float32 mono samples at 16 kHz, shape (N,), and return the events they caused."""
        self._pending = np.concatenate([self._pending, _checked(samples)])
        events: list[Event] = []
        used = 0
        while len(self._pending) - used >= WINDOW:
            events += self._window(self._pending[used : used + WINDOW])
            used += WINDOW
        self._pending = self._pending[used:]
        return events

    def finish(self) -> list[Event]:
        """Close a running turn at once."""
        events: list[Event] = []
        if len(self._pending):
            rest = len(self._pending)
            events = self._window(np.pad(self._pending, (0, WINDOW - rest)))
            self._pending = np.zeros(0, np.float32)
        if (
            self._turn is None
            and self._onset is not None
            and self._voiced_samples >= self._samples(self._options.min_speech_ms)
        ):
            events += self._begin()
        if self._turn is not None:
            events += self._end(self._write(self._read()))
        return events

    def reset(self) -> None:
        """Forget the running turn; the sample clock goes on."""
        self._turn = None
        self._onset = self._noticed = None
        self._voiced_samples = 0
        self._detector.reset()
        self._voice.reset()

    def _window(self, window: np.ndarray) -> list[Event]:
        self.speech_probability = self._detector(window)
        self.level_dbfs = float(10 * np.log10(np.mean(np.square(window, dtype=np.float64)) + 1e-12))
        voiced = self._voice(self.speech_probability)
        self._clock += WINDOW
        self._heard = np.concatenate([self._heard, window])
        if voiced:
            self._last_voiced = self._clock
        if self._turn is None:
            events = self._listen(voiced)
            if self._turn is None:
                self._forget()
            return events
        self._turn.feed(window)
        return self._follow(voiced)

    def _listen(self, voiced: bool) -> list[Event]:
        """No turn yet: wait for enough voice."""
        events = self._notice()
        if voiced:
            if self._onset is None:
                self._onset, self._voiced_samples = self._clock - WINDOW, 0
            self._voiced_samples += WINDOW
            if self._voiced_samples >= self._samples(self._options.min_speech_ms):
                return [*events, *self._begin()]
        elif self._onset is not None and self._clock - self._last_voiced >= self._samples(_ONSET_GAP_MS):
            self._onset = None
        return events

    def _notice(self) -> list[Event]:
        """Tell of a voice, or something like it, before it is sure; and when it was none."""
        if self.speech_probability >= self._options.notice_threshold:
            before, self._noticed = self._noticed, self._clock
            return [VoiceHeard(at=self._clock - WINDOW)] if before is None else []
        if self._noticed is None or self._onset is not None:
            return []
        if self._clock - self._noticed < self._samples(_ONSET_GAP_MS):
            return []
        self._noticed = None
        return [VoiceLost(at=self._clock)]

    def _lasted(self, milliseconds: float) -> bool:
        """Count one more voiced window; true when the voice has just become so long."""
        before = self._voiced_samples
        self._voiced_samples += WINDOW
        return before < self._samples(milliseconds) <= self._voiced_samples

    def _begin(self) -> list[Event]:
        assert self._onset is not None
        begin = max(self._base, self._onset - self._samples(self._options.pre_roll_ms))
        self._turn = _Turn(begin, self._reader.stream())
        self._turn.feed(self._heard[begin - self._base :])
        start, _ = voiced_span(self._heard, begin - self._base, len(self._heard))
        self._turn.speech_start = self._base + start
        self._onset = self._noticed = None
        return [SpeechStarted(at=self._turn.speech_start)]

    def _follow(self, voiced: bool) -> list[Event]:
        """A turn is running: partial transcripts, pauses, its end."""
        turn = self._turn
        assert turn is not None
        events = self._voice_back(turn) if voiced else self._silence(turn)
        if voiced and self._lasted(self._options.sustained_ms):
            events.append(SpeechSustained(at=self._clock))
        if not turn.is_read and turn.partial_due(self._clock, self._samples(self._options.partial_interval_ms)):
            events += self._partial(turn.streamed_text(self._read))
        required = self._patience() * self._options.endpoint.required_silence_ms(turn.pause_words, turn.pause_sound)
        over = self._clock - turn.pause_begin - self._samples(required)
        if turn.in_pause and not turn.told_whole and turn.pause_text and over >= -self._samples(_AHEAD_MS):
            turn.told_whole = True
            events.append(SpeechPaused(text=turn.pause_text, complete=True))
        if turn.in_pause and over >= 0 and not (over < self._samples(_STIR_MS) and self._stirs(turn)):
            events += self._end(turn.pause_text)
        elif self._clock - turn.begin >= self._options.max_turn_s * SAMPLE_RATE:
            events += self._end(turn.pause_text if turn.is_read else self._write(self._read()))
        return events

    def _voice_back(self, turn: "_Turn") -> list[Event]:
        """A voiced window: what was read is not all."""
        was_read, in_pause, turn.is_read, turn.in_pause = turn.is_read, turn.in_pause, False, False
        if in_pause:
            self._voiced_samples = 0
            return [SpeechStarted(at=self._clock - WINDOW)]
        return [SpeechResumed()] if was_read else []

    def _silence(self, turn: "_Turn") -> list[Event]:
        """A window without voice: read early, and again where the detector let go before the voice did; then it is a pause."""
        if turn.in_pause:
            return []
        events: list[Event] = []
        silence = self._clock - self._last_voiced
        if turn.is_read:
            if self._speech_end() > turn.pause_begin + _TAIL:
                events = self._read_pause(turn)
        elif silence >= self._samples(_READ_MS):
            events = self._read_pause(turn)
        if turn.is_read and silence >= self._samples(_PAUSE_MS):
            turn.in_pause = True
            turn.told_whole = self._is_whole(turn)
            events.append(SpeechEnded(at=turn.pause_begin, text=turn.pause_text, complete=turn.told_whole))
        return events

    def _read_pause(self, turn: "_Turn") -> list[Event]:
        """The words up to here, and whether they may be all; nothing where the same words were told in this pause."""
        before = turn.pause_words if turn.is_read else None
        turn.is_read, turn.pause_begin, turn.pause_words = True, self._speech_end(), self._read()
        begin = turn.begin - self._base
        turn.pause_sound = self._options.endpoint.hear(self._heard[begin:], turn.pause_begin - turn.begin)
        if turn.pause_words == before:
            return []
        turn.pause_text = self._write(turn.pause_words)
        return [*self._partial(turn.pause_words), SpeechPaused(text=turn.pause_text, complete=self._is_whole(turn))]

    def _is_whole(self, turn: "_Turn") -> bool:
        return bool(turn.pause_words) and not self._options.endpoint.calls_for_more(turn.pause_words, turn.pause_sound)

    def _partial(self, text: str) -> list[Event]:
        turn = self._turn
        assert turn is not None
        if not text or text == turn.text:
            return []
        stable = _common_words(turn.text, text)
        turn.text = text
        at = turn.pause_begin if turn.is_read else self._last_voiced
        return [PartialTranscript(text=text, stable_chars=stable, at=at)]

    def _read(self) -> str:
        """The final pass over the turn so far, which ends in at least a pause: recognisers lose a word that ends abruptly."""
        turn = self._turn
        assert turn is not None
        begun = time.perf_counter()
        missing = max(0, self._samples(_PAUSE_MS) - (self._clock - self._last_voiced))
        text = self._reader.transcribe(np.pad(self._heard[turn.begin - self._base :], (0, missing)))
        turn.compute_ms = 1000 * (time.perf_counter() - begun)
        return text

    def _write(self, words: str) -> str:
        """What was read, with punctuation, for those who are told; its last mark says nothing about the end of the turn."""
        turn = self._turn
        assert turn is not None
        begun = time.perf_counter()
        text = self._punctuate(words)
        turn.compute_ms += 1000 * (time.perf_counter() - begun)
        return text

    def _end(self, text: str) -> list[Event]:
        turn = self._turn
        assert turn is not None
        final = FinalTranscript(
            text=text,
            speech_start=turn.speech_start,
            speech_end=turn.pause_begin if turn.in_pause else self._speech_end(),
            decided_at=self._clock,
            compute_ms=turn.compute_ms,
        )
        events: list[Event] = [] if turn.in_pause else [SpeechEnded(at=final.speech_end)]
        self._turn = None
        self._voiced_samples = 0
        self._forget()
        return [*events, final]

    def _stirs(self, turn: "_Turn") -> bool:
        """True where the energy shows a voice just now, of which the detector is not sure yet."""
        end = self._speech_end()
        return end > turn.pause_begin + _TAIL and self._clock - end < 2 * WINDOW

    def _speech_end(self) -> int:
        """Last voiced sample of the turn; detectors let go late, so the energy decides."""
        turn = self._turn
        assert turn is not None
        _, end = voiced_span(self._heard, turn.begin - self._base, len(self._heard))
        return self._base + end

    @property
    def _base(self) -> int:
        """Clock of the first sample kept."""
        return self._clock - len(self._heard)

    def _forget(self) -> None:
        """Outside a turn, keep what the next one may need."""
        begin = self._clock if self._onset is None else self._onset
        keep = self._clock - begin + self._samples(self._options.pre_roll_ms)
        if len(self._heard) > keep:
            self._heard = self._heard[len(self._heard) - keep :]

    @staticmethod
    def _samples(milliseconds: float) -> int:
        return int(milliseconds * SAMPLE_RATE / 1000)


class _Turn:
    """What is known of a running turn."""

    def __init__(self, begin: int, partial: GrowingText | None) -> None:
        self.begin = begin  # clock of its first sample, pre-roll included
        self.speech_start = begin
        self.text = ""  # of the last partial transcript
        self.is_read = False  # the voice has stopped, and the words before that were read
        self.in_pause = False  # it has stopped for long enough
        self.told_whole = False  # that those words may be all
        self.pause_words = ""  # those words, as they were read
        self.pause_text = ""  # and as they are told
        self.pause_sound = 0.0  # log-odds that it sounded like an end
        self.pause_begin = begin  # acoustic end of the voice before; the detector lets go later
        self.compute_ms = 0.0  # of the last final pass
        self._partial = partial
        self._streamed = False
        self._last_partial = begin

    def feed(self, samples: np.ndarray) -> None:
        if self._partial is not None:
            self._streamed |= self._partial.push(samples)

    def partial_due(self, clock: int, interval: int) -> bool:
        """True when there are new words to show: the stream read a chunk, or, without a stream, the interval passed."""
        if self._partial is not None:
            due, self._streamed = self._streamed, False
            return due
        if clock - self._last_partial < interval:
            return False
        self._last_partial = clock
        return True

    def streamed_text(self, read: Callable[[], str]) -> str:
        """Words of the streaming model, or of a pass over everything where there is none."""
        return self._partial.text if self._partial is not None else read()


def _common_words(before: str, after: str) -> int:
    """Length of the common words at the beginning."""
    pairs = zip(before.split(), after.split(), strict=False)
    return len(" ".join(new for _, new in takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _windows(samples: np.ndarray) -> np.ndarray:
    """Samples (N,) as windows (M, WINDOW), the last one filled with silence."""
    return np.pad(samples, (0, -len(samples) % WINDOW)).reshape(-1, WINDOW)


def _checked(samples: np.ndarray) -> np.ndarray:
    if samples.ndim != 1:
        raise RecognizerError(f"the recogniser takes mono samples of shape (N,), not {samples.shape}")
    samples = samples.astype(np.float32, copy=False)
    return samples if np.isfinite(samples).all() else np.nan_to_num(samples, posinf=0.0, neginf=0.0)
