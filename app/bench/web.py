"""`launch.py bench web`: several people talk with a running `launch.py web` at once, over the WebSocket of its page."""

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from app.about import HostShare, about
from app.assemble import speaking_threads
from app.bench.acoustic import user_spans
from app.bench.cases import CLIP_HZ, Case, built_in
from app.configuration import configuration
from app.small.judges import satisfies  # here, since it takes seconds, which people who talk already would wait for
from app.trace import AUDIBLE
from app.web.protocol import HEADER
from audio_io.base import DeviceError
from audio_io.resample import resample
from configs.schema import ConfigError

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

HZ = 48_000  # of a browser's microphone and loudspeaker
FRAME = HZ // 50
REPORT_S = 0.05  # how often a page says what it has played
FIRST_S = 1.0  # of a reply: later underruns are counted apart
PATIENCE_S = 600.0  # for the server to start, and for an answer
APART_S = 0.9  # between the first questions of two people
BREATH_S = 1.0  # of silence after a reply


@dataclass(kw_only=True)
class Playback:
    """A reply as a loudspeaker plays it: at once, and what comes late leaves a gap. Times are the loop's."""

    received: int = 0  # samples
    ends_at: float = 0.0  # when all that was received has sounded
    underruns: list[float] = field(default_factory=list)  # seconds of the reply that had sounded
    first_audible_at: float | None = None
    complete: bool = False

    def take(self, now: float, start: int, pcm: np.ndarray, *, last: bool) -> None:
        """Samples that have come, int16 (N,)."""
        pcm = pcm[max(0, self.received - start) :]
        if self.received and now > self.ends_at and len(pcm):
            self.underruns.append(self.received / HZ)
        begins = max(now, self.ends_at)
        loud = np.flatnonzero(np.abs(pcm.astype(np.float32)) > AUDIBLE * 32768)
        if self.first_audible_at is None and len(loud):
            self.first_audible_at = begins + int(loud[0]) / HZ
        self.ends_at, self.received = begins + len(pcm) / HZ, self.received + len(pcm)
        self.complete = self.complete or last

    def played(self, now: float) -> int:
        """Samples that have sounded."""
        return max(0, self.received - round(max(0.0, self.ends_at - now) * HZ))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of one question."""

    case: str
    right: bool | None  # by the words of the reply; None: not judged
    voice_to_voice_s: float | None
    reply_s: float
    underruns_first: int  # within the first second of the reply
    underruns_later: int


class Visitor:
    """One page: sends its microphone, plays what it gets, says what it has played."""

    def __init__(self, socket: "ClientConnection", name: str) -> None:
        self._socket, self._name = socket, name
        self._to_say = np.zeros(0, np.int16)
        self._said_at = 0.0  # when the first of the samples above is captured
        self._replies: dict[int, Playback] = {}
        self._words: list[str] = []
        self._turn_over = asyncio.Event()
        self.trouble: str | None = None

    async def visit(self, cases: Sequence[Case], wait_s: float) -> list[Answer]:
        """Ask every question, the next a breath after the answer to the last; fewer where the connection breaks."""
        rates = {"capture_hz": HZ, "output_hz": HZ}
        await self._send(type="hello", page=self._name, session=None, reply=None, received=0, **rates)
        answers: list[Answer] = []
        async with asyncio.TaskGroup() as group:
            works = (self._listen(), self._microphone(), self._report())
            tasks = [group.create_task(self._until_closed(work)) for work in works]
            await asyncio.sleep(wait_s)
            for case in cases:
                if self.trouble is None:
                    answers.append(await self._ask(case))
            await self._until_closed(self._send(type="bye"))
            for task in tasks:
                task.cancel()
        return answers

    async def _until_closed(self, work: Coroutine[Any, Any, None]) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            await work
        except ConnectionClosed as closed:
            self.trouble = self.trouble or f"the connection broke: {closed}"
            self._turn_over.set()

    async def _ask(self, case: Case) -> Answer:
        loop = asyncio.get_running_loop()
        self._replies.clear()
        self._words.clear()
        self._turn_over.clear()
        voiced = user_spans(case.samples, CLIP_HZ)[-1].end
        spoken = resample(case.samples, CLIP_HZ, HZ)
        self._said_at = 0.0
        self._to_say = np.round(np.clip(spoken, -1, 1) * 32767).astype(np.int16)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._turn_over.wait()
                while any(reply.ends_at > loop.time() for reply in self._replies.values()):
                    await asyncio.sleep(REPORT_S)
        await asyncio.sleep(BREATH_S)
        replies = list(self._replies.values())
        audible = [reply.first_audible_at for reply in replies if reply.first_audible_at is not None]
        late = [at for reply in replies for at in reply.underruns]
        return Answer(
            case=case.name,
            right=_right(case, "".join(self._words)),
            voice_to_voice_s=min(audible) - self._said_at - voiced if audible else None,
            reply_s=sum(reply.received for reply in replies) / HZ,
            underruns_first=sum(at < FIRST_S for at in late),
            underruns_later=sum(at >= FIRST_S for at in late),
        )

    async def _microphone(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += FRAME / HZ
            await asyncio.sleep(max(0.0, due - loop.time()))
            if len(self._to_say) and not self._said_at:
                self._said_at = due - FRAME / HZ
            frame, self._to_say = self._to_say[:FRAME], self._to_say[FRAME:]
            await self._socket.send(np.pad(frame, (0, FRAME - len(frame))).astype("<i2").tobytes())

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        async for message in self._socket:
            if isinstance(message, bytes):
                reply, start, last = HEADER.unpack_from(message)
                pcm = np.frombuffer(message, "<i2", offset=HEADER.size)
                self._replies.setdefault(reply, Playback()).take(loop.time(), start, pcm, last=bool(last))
                continue
            told = json.loads(message)
            if told["type"] == "ping":
                await self._send(type="pong", at=told["at"])
            elif told["type"] == "word":
                self._words.append(told["text"])
            elif told["type"] == "turn":
                self._turn_over.set()
            elif told["type"] in ("failed", "over"):
                self.trouble = str(told["reason"])

    async def _report(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(REPORT_S)
            for number, reply in list(self._replies.items())[-1:]:
                await self._send(
                    type="played", reply=number, samples=reply.played(loop.time()), underruns=len(reply.underruns), latency_s=0.0
                )  # fmt: skip

    async def _send(self, **message: Any) -> None:
        await self._socket.send(json.dumps(message))


def _right(case: Case, text: str) -> bool | None:
    if not case.keywords:
        return None
    return satisfies(text, case.keywords)


def questions(sessions: int, turns: int) -> Iterator[list[Case]]:
    """What each person asks: the built-in questions without interjections, each beginning elsewhere."""
    cases = [case for case in built_in() if case.keywords and case.interjection is None and not case.pauses]
    for person in range(sessions):
        yield [cases[(person * 5 + turn) % len(cases)] for turn in range(turns)]


async def visit_all(port: int, sessions: int, turns: int) -> list[tuple[list[Answer], str | None]]:
    """Everybody at once; the answers of each, and what went wrong."""
    from websockets.asyncio.client import connect

    async def one(person: int, cases: list[Case]) -> tuple[list[Answer], str | None]:
        async with connect(f"ws://127.0.0.1:{port}/talk/ws", compression=None, ping_timeout=None) as socket:
            visitor = Visitor(socket, f"person {person}")
            return await visitor.visit(cases, person * APART_S), visitor.trouble

    return await asyncio.gather(*(one(*each) for each in enumerate(questions(sessions, turns))))


@asynccontextmanager
async def serving(options: argparse.Namespace) -> AsyncIterator[tuple[int, int]]:
    """`launch.py web` with the same configuration: its port and its process number."""
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "launch.py"), "web", "--port", "0", "--max-sessions", str(options.sessions)]
    if options.config:
        command += ["--config", str(options.config.resolve())]
    with tempfile.TemporaryDirectory() as voices:
        for setting in [*options.settings, f"web.voices={voices}"]:
            command += ["--set", setting]
        process = await asyncio.create_subprocess_exec(*command, cwd=root, stdout=asyncio.subprocess.PIPE)
        try:
            assert process.stdout
            async with asyncio.timeout(PATIENCE_S):
                found = None
                while found is None and (line := await process.stdout.readline()):
                    found = re.search(rb"127\.0\.0\.1:(\d+)", line)
            if found is None:
                raise DeviceError("`launch.py web` did not start; try it by itself.")
            yield int(found[1]), process.pid
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _measure(options: argparse.Namespace) -> dict[str, Any]:
    async with serving(options) as (port, pid):
        began, cpu, host = time.perf_counter(), _cpu_s(pid), HostShare()
        people = await visit_all(port, options.sessions, options.turns)
        wall_s = time.perf_counter() - began
        return {
            "people": [[asdict(answer) for answer in answers] for answers, _ in people],
            "trouble": [trouble for _, trouble in people],
            "wall_s": wall_s,
            "server_cpu_s": _cpu_s(pid) - cpu,
            "host_took": host.taken(),
            "server_peak_mib": _peak_mib(pid),
        }


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mib(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def page(values: dict[str, Any]) -> str:
    """The report for people."""
    told, found = values["about"], values["figures"]
    before, after = told["load"]
    spoken = sum(answer["reply_s"] for answers in found["people"] for answer in answers)
    rows = []
    for index, answers in enumerate(found["people"]):
        heard = [answer["voice_to_voice_s"] for answer in answers if answer["voice_to_voice_s"] is not None]
        waits = [wait for wait in heard if wait > 0]
        right = [answer["right"] for answer in answers if answer["right"] is not None]
        wait = f"{1000 * median(waits):.0f}, {1000 * max(waits):.0f} ms" if waits else "none"
        rows.append(
            f"| {index + 1} | {len(heard)} of {len(answers)} | {len(heard) - len(waits)} | {sum(right)} of {len(right)} "
            f"| {wait} | {sum(a['underruns_later'] for a in answers)} | {sum(a['underruns_first'] for a in answers)} |"
        )
    return "\n".join(
        [
            f"# {len(found['people'])} people at once on the page's WebSocket",
            "",
            f"{told['machine']}; **load average {before:.1f} before, {after:.1f} after** (whatever is above "
            f"{len(found['people'])} or so is other work on this machine, the figures are then that much worse); bundled "
            f"weights, {found['speaking_threads']} thread(s) for the voice, one for each other model. Server and clients share "
            "the machine. Each person asks the built-in questions at the "
            "pace of speech, 48 kHz both ways, and reports what was played as the page does.",
            "",
            "Voice-to-voice: last voiced sample of the user to first audible sample at his loudspeaker. An underrun: the "
            "loudspeaker has played all that has come, and the reply is not over.",
            "",
            "| person | answered | before the question was over | right words | voice-to-voice of the others, median, longest | "
            "underruns after a reply's first s | in it |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            *(f"Person {index + 1}: {trouble}\n" for index, trouble in enumerate(found["trouble"]) if trouble),
            f"{spoken:.0f} s of speech in {found['wall_s']:.0f} s; the server took {found['server_cpu_s']:.0f} s of CPU "
            f"({found['server_cpu_s'] / max(spoken, 1e-9):.2f} per spoken second) and {found['server_peak_mib']:.0f} MiB. "
            f"The host of this (virtual) machine took {100 * found['host_took']:.0f} % of the cores' work time for others.",
            "",
        ]
    )


def run(options: argparse.Namespace) -> int:
    """Measure, write the report, print it; 1 when somebody was cut off."""
    for name in ("sessions", "turns"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name} {getattr(options, name)}: give a number from 1 on.")
    config = configuration(options)
    before = os.getloadavg()[0]
    found = asyncio.run(_measure(options)) | {"speaking_threads": speaking_threads(config, options.sessions)}
    values = {"about": about(config, load=[before, os.getloadavg()[0]]), "figures": found}
    options.report.mkdir(parents=True, exist_ok=True)
    (options.report / "report.json").write_text(json.dumps(values) + "\n", encoding="utf-8")
    (options.report / "report.md").write_text(page(values), encoding="utf-8")
    sys.stdout.write(page(values))
    return int(any(found["trouble"]))
