"""Times of words and tokens: how tokens make words, and what the files look like."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.timestamps import Timed, Timeline, group, to_json, to_vtt, writing
from configs.schema import ConfigError
from tests.fakes import ScriptedSpeech
from tts.base import SAMPLES_PER_TOKEN, SpeechStep
from tts.feeding import SentenceStream


def step(text: str, count: int, left_out: int = 0) -> SpeechStep:
    samples = count * SAMPLES_PER_TOKEN - left_out
    return SpeechStep(text_token=0, num_speech_tokens=count, num_samples=samples, token_end=0, synth_ms=1.0, text=text)


def timeline(*tokens: tuple[str, int]) -> Timeline:
    made = Timeline()
    for text, count in tokens:
        made.add(step(text, count))
    return made


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([("He", 5), ("llo", 5), (" there", 10)], [("Hello", 0.0, 0.4), ("there", 0.4, 0.8)]),
        ([("Well", 5), (",", 5), (" so", 5), (".", 5)], [("Well,", 0.0, 0.2), ("so.", 0.4, 0.6)]),
        ([(" don", 2), ("'t", 3), (" ", 1), ("2", 4)], [("don't", 0.0, 0.2), ("2", 0.24, 0.4)]),
        ([('"', 5), ("I", 5), ('" ', 5), ("am", 5)], [('"I"', 0.2, 0.4), ("am", 0.6, 0.8)]),
        ([("so", 5), (" -", 5), (" it", 5), (" ...", 5)], [("so", 0.0, 0.2), ("it", 0.4, 0.6)]),
        ([("", 0), ("", 1), ("é", 4), ("té", 5)], [("été", 0.0, 0.4)]),
        ([("un", 0), ("done", 5), (" x", 0)], [("undone", 0.0, 0.2), ("x", 0.2, 0.2)]),
        ([], []),
        ([(".", 3)], []),
    ],
)
def test_words_from_tokens(tokens, words):
    assert [(w.text, w.start, w.end) for w in timeline(*tokens).words()] == words


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["a", " b", "c", ".", " -", "", " ", "d "]), st.integers(0, 9)), max_size=15))
def test_words_cover_the_letters_in_order(tokens):
    made = timeline(*tokens)
    words = made.words()
    letters = re.sub(r"[\W_]", "", "".join(text for text, _ in tokens))
    assert re.sub(r"[\W_]", "", "".join(word.text for word in words)) == letters
    edges = [edge for word in words for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    for text, start, end in ((t.text, t.start, t.end) for t in made.tokens if t.text.strip().isalpha()):
        assert any(word.start <= start and end <= word.end and text.strip() in word.text for word in words)


def test_what_is_left_out_takes_no_time():
    made = Timeline()
    made.add(step("A", 1, left_out=960))
    made.add(step(" b", 5, left_out=240))
    assert made.tokens == [Timed("A", 0.0, 0.0), Timed(" b", 0.0, 0.19)]


def test_json_and_vtt():
    made = timeline(("<A", 5), (" b", 0), (" c", 91_000))
    values = json.loads(to_json(made))
    assert values["words"][0] == {"text": "<A", "start": 0.0, "end": 0.2}
    assert [token["text"] for token in values["tokens"]] == ["<A", " b", " c"]
    assert to_vtt(made) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:00.200\n&lt;A\n\n00:00:00.200 --> 00:00:00.201\nb\n\n"
        "00:00:00.200 --> 01:00:40.200\nc\n"
    )
    assert json.loads(to_json(Timeline())) == {"words": [], "tokens": []}


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "times.json"
    with pytest.raises(RuntimeError), writing(path, Timeline()):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with writing(path, timeline(("a", 1))):
        assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["times.json"]
    for bad in (tmp_path, tmp_path / "nowhere" / "x.json"):
        with pytest.raises(ConfigError, match=re.escape(str(bad))), writing(bad, Timeline()):
            pass


def test_sentences_that_are_spoken_one_by_one_stay_apart():
    class Speech(ScriptedSpeech):
        def step(self, in_hand_s=0.0):
            made = super().step(in_hand_s)
            return step("Hi", 5) if isinstance(made, SpeechStep) else made

    stream = SentenceStream(Speech)
    for text in ("Hi.", " Hi."):
        stream.push(0, text)
    stream.finish()
    made = Timeline()
    while (result := stream.step()) is not None:
        if isinstance(result, SpeechStep):
            made.add(result)
    assert [word.text for word in group(made.tokens)] == ["Hi", "Hi"]
