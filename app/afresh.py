"""The program started afresh in its place, with what was said: where only a new process finds its devices again."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from llm.base import Message

_CARRIED = "ASSISTANT_CARRIED_OVER"  # environment variable: path of what was said


def start(said: list[Message]) -> NoReturn:
    """Replace this process by the same command."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False, encoding="utf-8") as file:
        json.dump([[message.role, message.content] for message in said], file)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, sys.orig_argv, {**os.environ, _CARRIED: file.name})


def carried_over() -> list[Message] | None:
    """What was said before the program was started afresh; None when it was not."""
    path = os.environ.pop(_CARRIED, None)
    if path is None:
        return None
    file = Path(path)
    said = [Message(role, content) for role, content in json.loads(file.read_text(encoding="utf-8"))]
    file.unlink()
    return said
