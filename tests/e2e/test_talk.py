"""`launch.py talk` as a person uses it, in a terminal and through a pipe; by typing, for machines without sound."""

import fcntl
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "launch.py", "talk", "--text"]


def test_lines_through_a_pipe_are_answered_one_after_the_other(tmp_path):
    done = subprocess.run(
        [*COMMAND, "--record", str(tmp_path)], input="hello there\n\nwhat is the opposite of hot\n",
        capture_output=True, text=True, timeout=120, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.index("you: hello there") < done.stdout.index("turn 1  voice-to-voice")
    assert done.stdout.index("turn 1  voice-to-voice") < done.stdout.index("you: what is the opposite of hot")
    assert "cold" in done.stdout.lower()
    assert "interrupted" not in done.stdout
    (wav,), (trace,) = tmp_path.glob("*.wav"), tmp_path.glob("*.json")
    samples, rate = soundfile.read(wav)
    assert (samples.shape[1], rate) == (2, 24_000)
    assert abs(samples[:, 1]).max() > 0.05
    assert not samples[:, 0].any()
    turns = json.loads(trace.read_text())["turns"]
    assert [turn["transcript"] for turn in turns] == ["hello there", "what is the opposite of hot"]


def _own_terminal() -> None:
    """Ctrl+C is a signal only to processes whose terminal it is."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A person at a terminal."""

    def __init__(self, *command: str) -> None:
        self._side, other = pty.openpty()
        self._process = subprocess.Popen(
            command,
            stdin=other,
            stdout=other,
            stderr=other,
            cwd=ROOT,
            preexec_fn=_own_terminal,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(other)
        self.seen = ""

    def wait_for(self, pattern: str, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            assert time.monotonic() < end, f"{pattern!r} never came; seen: {self.seen[-2000:]}"
            if select.select([self._side], [], [], 0.2)[0]:
                self.seen += os.read(self._side, 65536).decode(errors="replace")

    def type(self, keys: str) -> None:
        os.write(self._side, keys.encode())

    def leave(self, keys: str) -> int:
        self.type(keys)
        return self._process.wait(30)

    def close(self) -> None:
        os.close(self._side)
        try:
            assert self._process.wait(20) == 0  # a terminal that is closed is left too
        finally:
            self._process.kill()


@pytest.fixture
def terminal():
    """The running program; what it leaves behind is ended."""
    opened = Terminal(*COMMAND)
    yield opened
    opened.close()


def test_a_person_types_in_a_terminal_and_leaves(terminal):
    terminal.wait_for("listening")
    terminal.type("tgood morninh\x7fg\r")
    terminal.wait_for("good morning")
    terminal.wait_for(r"turn 1 ")
    assert terminal.leave("q") == 0


def test_a_closed_terminal_is_left_and_the_recording_kept(tmp_path):
    terminal = Terminal(*COMMAND, "--record", str(tmp_path))
    terminal.wait_for("listening")
    terminal.close()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".wav"]


def test_control_c_stops_the_reply_and_the_conversation_goes_on(terminal):
    terminal.wait_for("listening")
    terminal.type("ttell me a story about a fox\r")
    terminal.wait_for("speaking")
    terminal.type("\x03")
    terminal.wait_for(r"turn 1 ")
    assert terminal.leave("q") == 0


def test_control_c_while_nothing_is_spoken_asks_for_another_one(terminal):
    terminal.wait_for("listening")
    terminal.type("\x03")
    terminal.wait_for(r"Ctrl\+C again to leave")
    assert terminal.leave("\x03") == 0
