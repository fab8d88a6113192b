"""A program that is started afresh in its place keeps its arguments and what was said."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, sys, tempfile
from app import afresh
from llm.base import Message
tempfile.tempdir = sys.argv[1]
earlier = afresh.carried_over()
if earlier is None:
    print("first", flush=True)
    afresh.start([Message("user", 'what is "two" plus three'), Message("assistant", "Five...")])
print([[m.role, m.content] for m in earlier], sys.argv[1:], afresh.carried_over(), os.getpid())
"""


def test_the_second_program_knows_what_was_said_to_the_first(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    said = [["user", 'what is "two" plus three'], ["assistant", "Five..."]]
    assert out == f"first\n{said} {[str(tmp_path)]} None {process.pid}\n"
    assert list(tmp_path.iterdir()) == []
