"""Hold one conversation on files and keep everything that can be measured of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.bench.acoustic import Span, user_spans
from app.bench.cases import CLIP_HZ, Case
from app.bench.parts import Parts
from app.bench.simulate import SimulatedRecognizer
from app.clock import never_skip
from app.events import BotSpeaking, SessionEvent, TurnDone, UserText
from app.trace import TurnTrace
from audio_io.clock import LoopClock
from audio_io.file_device import FileDevice

PATIENCE_S = 3.0  # silence after a recording in which a reply may still begin


@dataclass(frozen=True, kw_only=True, eq=False)
class Conversation:
    """What came of a case."""

    case: Case
    turns: tuple[TurnTrace, ...]
    both: np.ndarray  # float32 (N, 2) at 24 kHz: left the user, right the assistant
    undisturbed: np.ndarray  # the assistant's side as if nothing had ducked it, float32 (N,)
    rate: int
    interjected_at: float | None  # second at which the user's second recording begins


async def hold(parts: Parts, case: Case) -> Conversation:
    """Play a case to an assistant, at the pace of the running loop."""
    assistant = parts.assistant(case)
    device = FileDevice(LoopClock(), [case.samples], patience_s=PATIENCE_S)
    listener = _Listener(device, case, assistant.recognizer)
    listener.expect(0.0, [span for span in case.voiced if span.start >= case.words_from], case.text)
    device.waiting_for_reply = lambda: listener.open > 0
    session = assistant.converse(device, listener.notify)

    def computing() -> bool:
        if parts.chat is not None:
            return session.computing
        return assistant.asr_worker.busy or assistant.tts_worker.busy  # its stand-in only sleeps

    with never_skip(computing):
        await session.run()
    return Conversation(
        case=case,
        turns=tuple(listener.turns),
        both=device.conversation(),
        undisturbed=device.own_level(),
        rate=device.playback_hz,
        interjected_at=listener.interjected_at,
    )


class _Listener:
    """Counts open turns, keeps the traces, and speaks over the first reply where the case says so."""

    def __init__(self, device: FileDevice, case: Case, recognizer: object) -> None:
        self._device, self._case, self._recognizer = device, case, recognizer
        self.turns: list[TurnTrace] = []
        self.open = 0
        self.interjected_at: float | None = None

    def expect(self, begins: float, voiced: Sequence[Span], text: str) -> None:
        """Tell a stand-in for the recogniser what it is going to hear."""
        if isinstance(self._recognizer, SimulatedRecognizer):
            self._recognizer.expect(begins, voiced, text)

    def notify(self, event: SessionEvent) -> None:
        if isinstance(event, UserText) and event.final:
            self.open += 1
        elif isinstance(event, TurnDone):
            self.open -= 1
            self.turns.append(event.trace)
        elif isinstance(event, BotSpeaking) and self._case.interjection and self.interjected_at is None:
            words = self._case.interjection
            self.interjected_at = self._device.interject(words.samples, self._device.clock.now() + words.after_s)
            self.expect(self.interjected_at, user_spans(words.samples, CLIP_HZ), words.text)
