"""`launch.py bench device`: does the sound of a conversation break on a busy machine?

Other processes keep every core busy while the assistant plays replies through the configured sound device, with its own
models at work on their threads: the recogniser hears every captured frame, language model and voice make the next reply while
the last one is heard. A reply is played again until the next is whole, so that no figure tells how fast the voice is made.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app.about import HostShare, about
from app.assemble import Assistant, prepare_process
from app.bench.cases import built_in
from app.configuration import configuration
from app.talk import open_device
from audio_io.base import CAPTURE_HZ, FRAME_MS
from audio_io.local import LocalDevice
from configs.schema import AppConfig, ConfigError
from tts.base import PcmChunk

if TYPE_CHECKING:
    from audio_io.callbacks import CallbackNotes

AT_REST = 0.1  # of the time: measured before, with the assistant's own models at rest
PAUSE_S = 1.0  # between two replies
TICK_S = 0.02  # how often the event loop is looked at
BURN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(1_000_000))"


@dataclass(frozen=True, kw_only=True)
class Notes:
    """What the callbacks of one stream noted."""

    count: int
    losses: int
    longest_wait_ms: float

    @classmethod
    def of(cls, noted: "CallbackNotes") -> "Notes":
        """What was noted so far."""
        return cls(count=noted.count, losses=noted.losses, longest_wait_ms=1000 * noted.longest_wait_s)


@dataclass(frozen=True, kw_only=True)
class Held:
    """What became of the sound in so many seconds."""

    seconds: float
    replies: int
    made: int  # of them by the models meanwhile
    speech_s: float
    underruns: int  # times the queue ran dry within a reply
    lost_s: float  # of the microphone, for which its queue had no room
    loop_late_ms: float  # the longest that the event loop came too late
    realtime: bool  # the callbacks' thread goes before all others
    microphone: Notes
    loudspeaker: Notes


@contextmanager
def busy(num_processes: int) -> Iterator[None]:
    """Other processes compute meanwhile; they end with this one."""
    others = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(num_processes)]
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.wait()


def has_realtime_thread() -> bool:
    """Whether a thread of this process has real-time priority: here only one of the sound system's can."""
    threads = Path("/proc/self/task").iterdir()
    return any(os.sched_getscheduler(int(thread.name)) in (os.SCHED_FIFO, os.SCHED_RR) for thread in threads)


async def made_by(assistant: Assistant, question: str) -> list[np.ndarray]:
    """The chunks of the reply to a question, float32 (N,) each."""
    conversation = assistant.new_conversation()
    conversation.add_user(question)
    speech, chunks = await assistant.tts_worker.run(assistant.new_speech, assistant.choices()), []
    async with aclosing(assistant.chat.stream(conversation.messages())) as tokens:  # type: ignore[type-var]
        async for token in tokens:
            speech.push(token.id, token.text)
    speech.finish()
    while not speech.done:
        made = await assistant.tts_worker.run(speech.step)
        if isinstance(made, PcmChunk):
            chunks.append(made.samples)
    return chunks


class _Conversation:
    """Plays replies and hears the microphone for a while."""

    def __init__(self, device: LocalDevice, assistant: Assistant, questions: Iterator[str], *, at_rest: bool) -> None:
        self._device, self._assistant, self._questions = device, assistant, questions
        self._at_rest = at_rest
        self._heard = self._heard_until = 0  # samples of the microphone
        self.replies = self.made = self.underruns = 0
        self.speech_s = self.loop_late_s = 0.0

    @property
    def lost_s(self) -> float:
        """How much of the microphone was lost."""
        return (self._heard_until - self._heard) / CAPTURE_HZ

    async def hold(self, seconds: float, reply: list[np.ndarray]) -> None:
        """Converse for about so long; `reply` is there for a beginning. Raises DeviceError."""
        try:
            await self._hold(seconds, reply)
        except ExceptionGroup as group:  # of the tasks beside the playing
            raise group.exceptions[0] from None

    async def _hold(self, seconds: float, reply: list[np.ndarray]) -> None:
        async with asyncio.TaskGroup() as tasks:
            listening, watching = tasks.create_task(self._listen()), tasks.create_task(self._watch_loop())
            making: asyncio.Task[list[np.ndarray]] | None = None
            end = self._device.clock.now() + seconds
            while self._device.clock.now() < end:
                if making is not None and making.done():
                    reply, self.made, making = making.result(), self.made + 1, None
                if making is None and not self._at_rest:
                    making = tasks.create_task(made_by(self._assistant, next(self._questions)))
                await self._speak(reply)
                await asyncio.sleep(PAUSE_S)
            for task in (listening, watching, making):
                if task:
                    task.cancel()

    async def _speak(self, reply: list[np.ndarray]) -> None:
        device, ahead_s = self._device, self._assistant.config.audio.max_ahead_s
        for number, chunk in enumerate(reply, 1):
            begins = device.play(chunk, last=number == len(reply))
            await device.clock.sleep_until(begins + len(chunk) / device.playback_hz - ahead_s)
        await device.drained()
        self.replies += 1
        self.underruns += device.underruns
        self.speech_s += sum(map(len, reply)) / device.playback_hz

    async def _watch_loop(self) -> None:
        while True:
            due = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            self.loop_late_s = max(self.loop_late_s, time.perf_counter() - due)

    async def _listen(self) -> None:
        recognition = self._assistant.recognizer.stream()
        async for frame in self._device.frames():
            self._heard, self._heard_until = self._heard + len(frame.samples), frame.start + len(frame.samples)
            if not self._at_rest:
                await self._assistant.asr_worker.run(recognition.push, frame.samples)


async def measure(assistant: Assistant, seconds: float, num_busy: int) -> dict[str, Held]:
    """The sound with the models at rest and at work. Raises DeviceError."""
    questions = cycle([case.text for case in built_in() if case.text])
    reply = await made_by(assistant, next(questions))
    found = {}
    for name, length in (("at rest", AT_REST * seconds), ("at work", seconds)):
        with busy(num_busy), open_device(assistant.config) as device:
            talk = _Conversation(device, assistant, questions, at_rest=name == "at rest")
            began, realtime = time.perf_counter(), has_realtime_thread()
            await talk.hold(length, reply)
            found[name] = Held(
                seconds=time.perf_counter() - began,
                replies=talk.replies,
                made=talk.made,
                speech_s=talk.speech_s,
                underruns=talk.underruns,
                lost_s=talk.lost_s,
                loop_late_ms=1000 * talk.loop_late_s,
                realtime=realtime,
                microphone=Notes.of(device.input_notes),
                loudspeaker=Notes.of(device.output_notes),
            )
    return found


def sound_system(device: LocalDevice) -> str:
    """Microphone, loudspeaker and what they are reached through."""
    import sounddevice

    host = sounddevice.query_hostapis(sounddevice.query_devices(device.loudspeaker.id)["hostapi"])["name"]
    names = [repr(one.name) for one in (device.microphone, device.loudspeaker) if one]
    return f"{' and '.join(names)} of {host}"


def page(values: dict[str, Any]) -> str:
    """The report for people."""
    told, figures = values["about"], values["figures"]
    rest, work = figures["at rest"], figures["at work"]

    def row(title: str, value: Any) -> str:
        return f"| {title} | {value(rest)} | {value(work)} |"

    return "\n".join(
        [
            f"# The sound of a conversation of {work['seconds'] / 60:.0f} minutes on a busy machine",
            "",
            f"{told['machine']}; {told['busy']} other processes of this benchmark computed without a pause; load average "
            f"{told['load']['before'][0]:.1f} before, {told['load']['after'][0]:.1f} after, which counts other work on this "
            f"machine too; its host took {100 * told['host_took']:.1f} % of the cores' work time for others. Sound: "
            f"{told['device']}, {FRAME_MS} ms per callback asked for; its thread "
            f"{'has' if work['realtime'] else 'has no'} real-time priority. Bundled weights, one thread per model. Replies are "
            "played as in `talk`; recogniser, language model and voice work on their threads meanwhile (at work), or do not (at "
            "rest). A reply is played again until the next is whole, so that no figure here tells how fast the voice is made.",
            "",
            "| | models at rest | models at work |",
            "|---|---|---|",
            row("length, of it speech", lambda f: f"{f['seconds']:.0f} s, {f['speech_s']:.0f} s"),
            row("replies played; made meanwhile", lambda f: f"{f['replies']}; {f['made']}"),
            row("**times the queue ran dry within a reply** (goal: 0)", lambda f: f["underruns"]),
            row("lost for lack of room in the microphone's queue", lambda f: f"{f['lost_s']:.2f} s"),
            row(
                "**losses that the sound system reported**, loudspeaker and microphone (goal: 0)",
                lambda f: f"{f['loudspeaker']['losses']} and {f['microphone']['losses']}",
            ),
            row("callbacks", lambda f: f"{f['loudspeaker']['count']} and {f['microphone']['count']}"),
            row(
                "longest from one to the next",
                lambda f: f"{f['loudspeaker']['longest_wait_ms']:.0f} and {f['microphone']['longest_wait_ms']:.0f} ms",
            ),
            row("longest that the event loop came too late", lambda f: f"{f['loop_late_ms']:.0f} ms"),
            "",
            "A loss: a callback was not done when the sound system needed its samples. The callbacks are compiled and do not "
            "wait for Python's interpreter: one is late where its thread got no processor; with JACK also where its server or "
            "another of its programs was late.",
            "",
        ]
    )


async def _measure(config: AppConfig, seconds: float, num_busy: int) -> dict[str, Held]:
    assistant = await Assistant.load(config, lambda text: None)
    try:
        return await measure(assistant, seconds, num_busy)
    finally:
        assistant.close()


def run(options: argparse.Namespace) -> int:
    """Converse, write the report, print it; 1 when sound was lost."""
    if not 0.05 <= options.minutes <= 600:
        raise ConfigError(f"--minutes {options.minutes:g}: give a length from 0.05 to 600.")
    num_busy = os.cpu_count() or 1 if options.busy is None else options.busy
    if not 0 <= num_busy <= 1000:
        raise ConfigError(f"--busy {num_busy}: give a number of processes from 0 to 1000.")
    config = configuration(options)
    device = open_device(config)  # a missing one is told before the models are loaded
    prepare_process(config)
    before, host = os.getloadavg(), HostShare()
    found = asyncio.run(_measure(config, 60 * options.minutes, num_busy))
    figures = {name: asdict(held) for name, held in found.items()}
    load = {"before": before, "after": os.getloadavg()}
    told = about(config, load=load, host_took=host.taken(), busy=num_busy, device=sound_system(device))
    values = {"about": told, "figures": figures}
    options.report.mkdir(parents=True, exist_ok=True)
    (options.report / "report.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    (options.report / "report.md").write_text(page(values), encoding="utf-8")
    sys.stdout.write(page(values))
    work = found["at work"]
    return int(bool(work.underruns or work.lost_s or work.loudspeaker.losses or work.microphone.losses))
