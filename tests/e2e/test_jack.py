"""`launch.py talk` through a sound server: a person asks, is silent, coughs, interrupts, and loses the sound card.

Needs Debian's jackd2 and libportaudio2; skipped without them, unless ASSISTANT_REQUIRE_JACK is set.
"""

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from app.ask import SAMPLE_QUESTION
from app.bench.cases import built_in
from app.small.judges import hear_moonshine, satisfies
from audio_io.file import read_audio, write_wav
from audio_io.resample import resample
from tests.jack import HZ, Person, Program, Server, installed, spans

if not installed() and not os.environ.get("ASSISTANT_REQUIRE_JACK"):
    pytest.skip("jackd is not installed", allow_module_level=True)

TURN_OVER = r"\nturn \d+ .*\n"  # a line of the output
LISTENING = "listening through"


class Talk:
    """The running program and the person in front of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = Server(folder)
        self.ends = ExitStack()
        self.ends.callback(self.server.stop)

    def begin(self) -> None:
        """Start everything."""
        self.server.start()
        self.program = Program(self.folder / "talk.log", "launch.py", "talk")
        self.ends.callback(self.program.close)
        self.program.wait_for(LISTENING)
        self.meet()

    def meet(self) -> None:
        """A person comes."""
        self.person = Person(self.server, self.folder, f"person{len(list(self.folder.glob('person*.raw')))}")
        self.ends.callback(self.person.close)
        self.person.face()

    def recording(self, name: str, samples: np.ndarray, rate: int) -> Path:
        path = self.folder / f"{name}.wav"
        write_wav(path, resample(samples, rate, HZ), HZ)
        return path

    def ask(self) -> str:
        """Ask the sample question; what a stranger understands of the answer."""
        before = len(self.program.output)
        question = read_audio(SAMPLE_QUESTION, HZ)
        _, asked = self.person.say(self.recording("question", question.samples, HZ))
        self.hear_out(before)
        return hear_moonshine(self.person.heard(asked), HZ)

    def hear_out(self, before: int, turns: int = 1) -> None:
        """Listen until so many turns are over that were not when the output was so long."""
        for _ in range(turns):
            before = self.program.wait_for(TURN_OVER, before).end() - 1
        self.person.wait(1.0)


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """One conversation for all the tests here, in their order."""
    running = Talk(tmp_path_factory.mktemp("jack"))
    with running.ends:
        running.begin()
        yield running


@pytest.fixture(scope="module")
def cases(talk):
    """The built-in recordings: what is asked, and what is uttered over the reply."""
    return {
        case.name: (
            talk.recording(f"{case.name}.0", case.samples, 16_000),
            talk.recording(f"{case.name}.1", case.interjection.samples, 16_000),
        )
        for case in built_in()
        if case.interjection
    }


def test_who_comes_is_told_what_the_recogniser_does_not_know(talk):
    assert "asr.backend=moonshine" in talk.program.output


def test_the_answer_to_a_spoken_question_is_heard(talk):
    assert satisfies(talk.ask(), [["five", "5"]])


def test_silence_is_not_answered(talk):
    before, now = len(talk.program.output), talk.person.now
    talk.person.wait(5.0)
    assert spans(talk.person.heard(now)) == []
    assert "you:" not in talk.program.output[before:]


def test_the_reply_goes_on_after_a_cough(talk, cases):
    question, cough = cases["cough_over_reply"]
    before = len(talk.program.output)
    _, asked = talk.person.say(question)
    talk.person.hear(asked, 1.0)
    _, coughed = talk.person.say(cough)
    talk.hear_out(before)
    told = talk.program.output[before:]
    assert "interrupted" not in told
    assert told.count("you: ") == 1
    talk.person.hear(coughed, 1.0)


def test_who_speaks_over_the_reply_silences_it_and_is_answered(talk, cases):
    story, words = cases["barge_in"]
    before = len(talk.program.output)
    _, asked = talk.person.say(story)
    talk.person.hear(asked, 1.0)
    _, said = talk.person.say(words)
    talk.hear_out(before, turns=2)
    told = talk.program.output[before:]
    assert "[interrupted]" in told
    assert "two plus two" in told.rpartition("you: ")[2]  # said over the reply, of which words are often misheard
    talk.person.hear(said, 1.0)


def test_a_lost_device_is_told_and_the_conversation_goes_on_with_the_next(talk):
    before = len(talk.program.output)
    talk.person.close()
    talk.server.stop()
    told = talk.program.wait_for(r"(?m)^.* has ended\. Starting afresh with what was said\. Looking again .*$", before)
    talk.server.start()
    talk.program.wait_for(LISTENING, told.end())
    talk.meet()
    assert satisfies(talk.ask(), [["five", "5"]])
    assert "Traceback" not in talk.program.output


def test_it_leaves_when_it_is_told_to(talk):
    assert talk.program.leave() == 0
    assert "Traceback" not in talk.program.output
