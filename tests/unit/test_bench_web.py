"""Several people at once: how a page's loudspeaker is imitated, and a visit to a server around scripted parts."""

import asyncio

import numpy as np
import pytest
from websockets.asyncio.client import connect

from app.about import HostShare
from app.bench.cases import CLIP_HZ, Case
from app.bench.web import HZ, Answer, Playback, Visitor, page, questions
from tests.fakes import ScriptedChat, user_says
from tests.web import assistant, serving

LOUD = np.full(HZ // 10, 3000, np.int16)


def test_a_loudspeaker_that_has_played_all_counts_an_underrun():
    reply = Playback()
    reply.take(10.0, 0, np.concatenate([np.zeros(480, np.int16), LOUD]), last=False)
    assert reply.first_audible_at == pytest.approx(10.01)
    reply.take(10.05, len(LOUD) + 480, LOUD, last=False)
    assert reply.underruns == []
    assert reply.played(10.1) == pytest.approx(HZ // 10)
    reply.take(11.0, reply.received, LOUD, last=True)
    assert reply.underruns == [pytest.approx(0.21)]
    assert reply.ends_at == pytest.approx(11.1)
    assert reply.complete


def test_what_is_sent_again_is_played_once():
    reply = Playback()
    reply.take(0.0, 0, LOUD, last=False)
    reply.take(0.0, 0, np.concatenate([LOUD, LOUD]), last=True)
    assert reply.received == 2 * len(LOUD)


def test_each_person_begins_elsewhere():
    first, second = questions(2, 3)
    assert len(first) == len(second) == 3
    assert first[0].name != second[0].name
    assert all(case.keywords for case in first)


async def test_a_visitor_asks_hears_and_measures():
    voice = np.concatenate([np.full(CLIP_HZ // 2, 0.2, np.float32), np.zeros(CLIP_HZ // 5, np.float32)])
    case = Case(name="hello", samples=voice, text="hello", keywords=(("three",),))
    parts = assistant(ScriptedChat("one two three four five"), user_says("hello there", 0.3, 0.8))
    async with serving(parts) as site, connect(f"ws://127.0.0.1:{site.port}/talk/ws", compression=None) as socket:
        async with asyncio.timeout(900):
            visitor = Visitor(socket, "a visitor")
            (answer,) = await visitor.visit([case], 0.0)
    assert visitor.trouble is None
    assert answer.right
    assert answer.reply_s > 0.3
    assert answer.voice_to_voice_s is not None
    assert -0.5 < answer.voice_to_voice_s < 20


def test_the_report_has_a_line_for_each_person():
    heard = Answer(case="sum", right=True, voice_to_voice_s=0.5, reply_s=2.0, underruns_first=1, underruns_later=0)
    early = Answer(case="sum", right=True, voice_to_voice_s=-0.2, reply_s=2.0, underruns_first=0, underruns_later=0)
    silent = Answer(case="sum", right=False, voice_to_voice_s=None, reply_s=0.0, underruns_first=0, underruns_later=2)
    figures = {"people": [[vars(heard), vars(early), vars(silent)], [vars(silent)]], "wall_s": 10.0}
    figures |= {
        "server_cpu_s": 3.0,
        "speaking_threads": 2,
        "server_peak_mib": 700.0,
        "host_took": 0.25,
        "trouble": [None, "the connection broke"],
    }
    told = page({"about": {"machine": "a machine", "load": (1.0, 2.0)}, "figures": figures})
    assert "| 1 | 2 of 3 | 1 | 2 of 3 | 500, 500 ms | 2 | 1 |" in told
    assert "| 2 | 0 of 1 | 0 | 0 of 1 | none | 2 | 0 |" in told
    assert "2 thread(s) for the voice" in told
    assert "Person 2: the connection broke" in told
    assert "took 25 % of the cores' work time" in told


async def test_a_visitor_whose_connection_breaks_says_so():
    parts = assistant(ScriptedChat("one two three"), [])
    case = Case(name="hello", samples=np.full(CLIP_HZ // 2, 0.2, np.float32), text="hello")
    async with serving(parts) as site, connect(f"ws://127.0.0.1:{site.port}/talk/ws", compression=None) as socket:
        visitor = Visitor(socket, "a visitor")
        visiting = asyncio.create_task(visitor.visit([case, case], 0.0))
        await asyncio.sleep(0.5)
        socket.transport.abort()
        async with asyncio.timeout(900):
            answers = await visiting
    assert len(answers) == 1
    assert answers[0].voice_to_voice_s is None
    assert "the connection broke" in visitor.trouble


def test_what_the_host_takes_is_a_share_of_the_time_in_which_there_was_work(monkeypatch):
    times = iter([(100, 10), (160, 30), (160, 10)])
    monkeypatch.setattr("app.about._core_times", lambda: next(times))
    host = HostShare()
    assert host.taken() == 0.25
    assert host.taken() == 0.0


def test_the_host_takes_no_more_than_all():
    assert 0.0 <= HostShare().taken() <= 1.0
