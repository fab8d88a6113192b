"""The callbacks of a real sound server: they go on whatever Python does, and `launch.py bench device` counts breaks of the sound.

Needs Debian's jackd2 and libportaudio2; skipped without them, unless ASSISTANT_REQUIRE_JACK is set.
"""

import json
import os

import pytest

from tests.jack import HZ, PATIENCE_S, PERIOD, Program, Server, installed

if not installed() and not os.environ.get("ASSISTANT_REQUIRE_JACK"):
    pytest.skip("jackd is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("jack"))
    running.start()
    yield running
    running.stop()


def test_callbacks_go_on_while_a_thread_holds_the_interpreter(server, tmp_path):
    program = Program(tmp_path / "held.log", "-m", "tests.interpreter")
    try:
        assert program.process.wait(PATIENCE_S) == 0, program.output
    finally:
        program.close()
    assert program.output.count("went on") == 2, program.output


def test_every_callback_of_both_streams_is_noted(server, tmp_path):
    told = ["bench", "device", "--minutes", "0.05", "--busy", "1", "--report", str(tmp_path / "report")]
    program = Program(tmp_path / "bench.log", "launch.py", *told)
    try:
        assert program.process.wait(PATIENCE_S) in (0, 1), program.output  # by whether this machine lost sound
    finally:
        program.close()
    values = json.loads((tmp_path / "report" / "report.json").read_text())
    assert "JACK" in values["about"]["device"]
    assert set(values["figures"]) == {"at rest", "at work"}
    for held in values["figures"].values():
        assert held["replies"] >= 1
        assert held["speech_s"] > 0.5
        for notes in (held["microphone"], held["loudspeaker"]):
            assert notes["count"] >= held["speech_s"] * HZ / PERIOD / 2  # some may be lost
            assert notes["longest_wait_ms"] > 0
    assert "| callbacks | " in (tmp_path / "report" / "report.md").read_text()
    assert program.process.returncode == int(any(lost(values["figures"]["at work"])))


def lost(held):
    yield from (held["underruns"], held["lost_s"], held["loudspeaker"]["losses"], held["microphone"]["losses"])
