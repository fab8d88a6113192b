"""A sound server without a sound card, the real `talk` at one end of it and a person at the other.

`python -m tests.jack FILE` is that person: it says the recordings whose paths come on standard input, prints "said FIRST LAST"
after each (samples since its start), and keeps in FILE what it said and heard: float32, two channels, `HZ`.
"""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile

ROOT = Path(__file__).parents[1]
HZ = 48_000
PERIOD = 1024
SERVER = f"assistant_test_{os.getpid()}"
ENVIRONMENT = {"JACK_DEFAULT_SERVER": SERVER, "JACK_NO_START_SERVER": "1", "JACK_NO_AUDIO_RESERVATION": "1"}
PATIENCE_S = float(os.environ.get("ASSISTANT_TEST_PATIENCE_S", "300"))  # a busy machine is slow
AUDIBLE = 0.003  # root mean square of 50 ms
WINDOW = HZ // 20
T = TypeVar("T")


def installed() -> bool:
    """Whether JACK is here."""
    return all(map(shutil.which, ("jackd", "jack_lsp", "jack_connect")))


def until(look: Callable[[], T], what: Callable[[], str], seconds: float = PATIENCE_S) -> T:
    """Look again and again until something is there."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {what()}"
        time.sleep(0.3)
    return found


def spans(samples: np.ndarray, gap_s: float = 1.0) -> list[tuple[int, int]]:
    """Where there is sound, float32 (N,) at `HZ`: first and last sample, joined over shorter gaps."""
    whole = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
    loud = np.flatnonzero(np.sqrt(np.square(whole).mean(1)) > AUDIBLE)
    if not len(loud):
        return []
    breaks = np.flatnonzero(np.diff(loud) * WINDOW > gap_s * HZ)
    firsts, lasts = loud[np.r_[0, breaks + 1]], loud[np.r_[breaks, len(loud) - 1]] + 1
    return [(int(first) * WINDOW, int(last) * WINDOW) for first, last in zip(firsts, lasts, strict=True)]


class Server:
    """JACK's dummy driver; sound goes from program to program only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        driver = f"-d dummy -r {HZ} -p {PERIOD} -C 1 -P 1"
        command = f"jackd -n {SERVER} -r -S -p 64 -t 20000 {driver}".split()
        with (self._folder / "jackd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **ENVIRONMENT})
        until(lambda: "system:playback_1" in self.ports(), lambda: (self._folder / "jackd.log").read_text())

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def ports(self) -> dict[str, set[str]]:
        """Every port and what it is connected with."""
        done = self._command("jack_lsp", "-c")
        found: dict[str, set[str]] = {}
        for line in done.stdout.splitlines() if done.returncode == 0 else []:
            if line.startswith(" "):
                found[list(found)[-1]].add(line.strip())
            elif ":" in line:
                found[line.strip()] = set()
        return found

    def programs(self) -> dict[str, tuple[str, str]]:
        """Those that have a microphone and a loudspeaker there, and these two ports."""
        found: dict[str, dict[str, str]] = {}
        for port in self.ports():
            name, _, kind = port.rpartition(":")
            if name != "system":
                found.setdefault(name, {})[kind.partition("_")[0]] = port
        return {name: (kinds["in"], kinds["out"]) for name, kinds in found.items() if len(kinds) == 2}

    def connect(self, source: str, sink: str) -> bool:
        self._command("jack_connect", source, sink)
        return sink in self.ports().get(source, ())

    @staticmethod
    def _command(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            words, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT}, timeout=PATIENCE_S, check=False
        )


class Program:
    """A process of ours whose output is kept."""

    def __init__(self, log: Path, *command: str) -> None:
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT,
                env={**os.environ, **ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, pattern: str, after: int = 0, seconds: float = PATIENCE_S) -> re.Match[str]:
        """The first place in the output after its first so many characters."""

        def look() -> re.Match[str] | None:
            found = re.compile(pattern).search(self.output, after)
            assert found or self.process.poll() is None, f"it ended: {self.output[-2000:]}"
            return found

        return until(look, lambda: f"{pattern!r} in {self.output[-2000:]}", seconds)

    def leave(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Person:
    """Talks with the assistant through the server."""

    def __init__(self, server: Server, folder: Path, name: str) -> None:
        before = set(server.programs())
        self._kept = folder / f"{name}.raw"
        self._program = Program(folder / f"{name}.log", "-m", "tests.jack", str(self._kept))
        self._program.wait_for("ready")
        (self._name,) = until(lambda: set(server.programs()) - before, lambda: f"the person in {server.ports()}")
        self._server = server

    def face(self) -> None:
        """Connect with the assistant."""

        def connected() -> bool:
            programs = self._server.programs()
            ears, mouth = programs.pop(self._name)
            return len(programs) == 1 and all(
                self._server.connect(mouth, microphone) and self._server.connect(loudspeaker, ears)
                for microphone, loudspeaker in programs.values()
            )

        until(connected, lambda: f"two programs in {self._server.ports()}")

    @property
    def now(self) -> int:
        """Samples since the start."""
        return self._kept.stat().st_size // 8

    def heard(self, first: int = 0) -> np.ndarray:
        """Everything heard from a sample on, float32 (N,)."""
        return self._both(first)[:, 1].copy()

    def said(self, first: int = 0) -> np.ndarray:
        """Everything said from a sample on, float32 (N,)."""
        return self._both(first)[:, 0].copy()

    def _both(self, first: int) -> np.ndarray:
        return np.fromfile(self._kept, np.float32, count=2 * (self.now - first), offset=8 * first).reshape(-1, 2)

    def say(self, recording: Path) -> tuple[int, int]:
        """Say a recording to its end; returns its first and last sample."""
        so_far = len(self._program.output)
        stdin = self._program.process.stdin
        assert stdin
        stdin.write(f"{recording}\n".encode())
        stdin.flush()
        found = self._program.wait_for(r"said (\d+) (\d+)\n", so_far)
        return int(found[1]), int(found[2])

    def hear(self, after: int, seconds: float) -> None:
        """Listen until there were so many seconds of sound after a sample, however broken."""

        def enough() -> bool:
            return sum(last - first for first, last in spans(self.heard(after), gap_s=0.2)) >= seconds * HZ

        until(enough, lambda: f"{seconds:g} s of sound; the log: {self._program.output[-500:]}")

    def wait(self, seconds: float) -> None:
        """Let so much sound time pass."""
        end = self.now + round(seconds * HZ)
        until(lambda: self.now >= end, lambda: f"{seconds:g} s of the server's time")

    def close(self) -> None:
        """Go away, without an outcry of the server."""
        stdin = self._program.process.stdin
        if stdin and not stdin.closed:
            stdin.close()
            self._program.process.wait(60)


def be_a_person(kept: Path) -> None:
    """What the person's process does; until its standard input is closed."""
    import sounddevice

    blocks: deque[np.ndarray] = deque()
    words = [np.zeros(0, np.float32)]
    position = [0]

    def copy(heard: np.ndarray, said: np.ndarray, frames: int, _time: object, _status: object) -> None:
        said[:, 0] = 0.0
        part = words[0][position[0] : position[0] + frames]
        said[: len(part), 0] = part
        position[0] += len(part)
        blocks.append(np.stack([said[:, 0], heard[:, 0]], axis=1))

    num_kept, begins = 0, None
    with (
        kept.open("wb") as out,
        sounddevice.Stream(samplerate=HZ, blocksize=PERIOD, channels=1, dtype="float32", callback=copy),
    ):
        sys.stdout.write("ready\n")
        while True:
            while blocks:
                block = blocks.popleft()
                if begins is None and len(words[0]) and block[:, 0].any():
                    begins = num_kept
                num_kept += len(block)
                out.write(block.tobytes())
            out.flush()
            if begins is not None and num_kept > begins + len(words[0]):
                sys.stdout.write(f"said {begins} {begins + len(words[0])}\n")
                words[0], begins = np.zeros(0, np.float32), None
            if select.select([sys.stdin], [], [], 0.05)[0]:
                line = sys.stdin.readline().strip()
                if not line:
                    return
                samples, rate = soundfile.read(line, dtype="float32")
                assert rate == HZ
                position[0], words[0] = len(samples), samples
                position[0] = 0


if __name__ == "__main__":
    be_a_person(Path(sys.argv[1]))
