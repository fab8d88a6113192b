"""What a reference says is found in it, or left out with a line that says why."""

import numpy as np
import pytest

import tts
from app.ask import SAMPLE_QUESTION
from audio_io.file import read_audio
from tts.alignment.durations import MisalignedError
from tts.alignment.sphinx import SphinxAligner
from tts.base import CheckpointError
from tts.prompt import PromptReader, sentence
from tts.text import SpokenStream
from tts.tmt.decode import DecodeOptions, TmtDecoder
from tts.tmt.model import Tmt
from tts.tmt.prompt import PreparedPrompt
from tts.vocabulary import TextVocabulary
from tts.voice import read_reference

VOCABULARY = tts.ASSETS / "tmt" / "tokenizer.json"
SAID = "What is two plus three?"


@pytest.fixture(scope="module")
def aligner() -> SphinxAligner:
    return SphinxAligner()


def test_words_are_found_in_order_within_the_speech(aligner) -> None:
    samples = read_audio(SAMPLE_QUESTION, 16_000).samples
    found = aligner.align(samples, SAID)
    assert [word for word, _, _ in found.words] == ["what", "is", "two", "plus", "three"]
    times = np.array([time for _, *span in found.words for time in span])
    assert (np.diff(times) >= 0).all()
    loud = np.flatnonzero(np.abs(samples) > 0.1 * np.abs(samples).max()) / 16_000
    assert times[0] == pytest.approx(loud[0], abs=0.15)
    assert times[-1] == pytest.approx(loud[-1], abs=0.2)
    ends = np.array([end for _, end in found.phones])
    assert len(ends) >= 13
    assert (np.diff(ends) >= 0).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("What is two plus threeish?", "does not have 'threeish'"),
        ("The nurse smiled and gave the little girl a sticker this morning.", "not found in the recording"),
        ("...", "nothing to align"),
    ],
)
def test_a_text_that_is_not_there_is_told(aligner, text, message) -> None:
    samples = read_audio(SAMPLE_QUESTION, 16_000).samples
    with pytest.raises(MisalignedError, match=message):
        aligner.align(samples, text)
    assert aligner.align(samples, SAID).words  # it goes on after that


def reader(**options: object) -> PromptReader:
    return PromptReader(VOCABULARY, **{"language": "en", "aligner": "pocketsphinx", "max_duration": 63, **options})


def test_a_prompt_is_the_spoken_form_with_the_speech_of_each_token() -> None:
    reference = read_reference(SAMPLE_QUESTION)
    tokens = np.arange(len(reference.samples) // 960) % 27
    prompt = reader().read(reference, tokens, "what is 2 plus 3")
    vocabulary = TextVocabulary(VOCABULARY)
    expected = SpokenStream(vocabulary.encode, share_ids=False)
    words = [*expected.push(0, "What is two plus three."), *expected.finish()]
    assert prompt.ids == tuple(word.id for word in words)
    assert prompt.durations.sum() == len(tokens) == len(np.concatenate(prompt.blocks))
    assert (np.concatenate(prompt.blocks) == tokens).all()
    spoken = [i for i, word in enumerate(words) if word.text.strip(" .")]
    assert (prompt.durations[spoken] > 0).mean() > 0.8


@pytest.mark.parametrize("text", ["Good evening, how have you been since yesterday?", "Zyzzyva.", "***"])
def test_what_cannot_be_aligned_enters_without_its_text_and_says_so_in_one_line(text) -> None:
    reference = read_reference(SAMPLE_QUESTION)
    tokens = np.zeros(len(reference.samples) // 960, np.int64)
    prompt = reader().read(reference, tokens, text)
    assert "only its speech is gone on from" in prompt.note
    assert "\n" not in prompt.note
    assert prompt.ids == ()
    assert prompt.tokens is tokens
    model = Tmt.load(tts.ASSETS / "tmt")
    prepared = PreparedPrompt(model, prompt)
    assert not prepared.has_text
    assert prepared.note == prompt.note
    spoken = []
    for state in (None, prepared.state(DecodeOptions(top_k=1)), prepared.state(DecodeOptions(top_k=1))):
        decoder = TmtDecoder(model, DecodeOptions(top_k=1), state)
        for token, _ in TextVocabulary(VOCABULARY).encode("Good evening."):
            decoder.push(token)
        decoder.finish()
        blocks = []
        while (block := decoder.step()) is not None:
            assert block.text_token == len(blocks)
            blocks.append(block.tokens.tolist())
        spoken.append(blocks)
    assert spoken[1] == spoken[2] != spoken[0]


def test_an_aligner_that_is_not_there_is_told(tmp_path) -> None:
    reference = read_reference(SAMPLE_QUESTION)
    with pytest.raises(CheckpointError, match="no aligner"):
        reader(aligner=str(tmp_path / "none")).read(reference, np.zeros(9, np.int64), SAID)


def test_a_transcript_is_written_as_a_sentence() -> None:
    assert sentence(" what   is that ") == "What is that."
    assert sentence("Who is it?") == "Who is it?"
    assert sentence("你好") == "你好."


def test_the_first_word_behind_a_prompt_has_its_space() -> None:
    vocabulary = TextVocabulary(VOCABULARY)
    text = "Good morning, Anna."
    for share_ids in (True, False):
        plain, later = (SpokenStream(vocabulary.encode, share_ids=share_ids, later=later) for later in (False, True))
        pieces = vocabulary.encode(text) if share_ids else [(0, text)]
        alone, behind = ([], [])
        for stream, said in ((plain, alone), (later, behind)):
            for piece in pieces:
                said += stream.push(*piece)
            said += stream.finish()
        assert [t.id for t in behind] == [i for i, _ in vocabulary.encode(f" {text}")]
        assert "".join(t.text for t in behind) == "".join(t.text for t in alone) == text
        assert [t.owner for t in behind][-4:] == [t.owner for t in alone][-4:]
        assert behind[0].owner <= alone[0].owner
