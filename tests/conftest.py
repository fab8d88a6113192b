"""Small networks are fastest with one thread; two fight over the cores of a small machine."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden", type=Path, metavar="DIR", help="run tests/parity on another folder of golden vectors (any sizes)"
    )


@pytest.fixture(scope="session")
def speech_programs():
    """flite and espeak-ng, which training alone needs: without them a test is skipped, but for CI, which installs them."""
    from app.small.synth import Espeak, Flite, SynthesizerError

    try:
        Flite(), Espeak()
    except SynthesizerError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
