"""The golden rule for the interleaved text-speech model: streaming decoding is the whole-sequence answer."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import tts
from configs.schema import InterleavedTtsConfig, RuntimeConfig, TtsConfig
from tts import checkpoint
from tts.base import CheckpointError, PcmChunk, SynthesisError
from tts.interleaved.config import InterleavedConfig
from tts.interleaved.decode import DecodeOptions, InterleavedDecoder, Prompt
from tts.interleaved.model import InterleavedLm
from tts.interleaved.sampling import greedy
from tts.interleaved.state import InterleavedState
from tts.stream import SyncSpeech, VoicedTokens
from tts.vocabulary import TextVocabulary

CONFIG = InterleavedConfig(
    text_vocab_size=40, num_speech_tokens=27, dim=32, num_layers=3, num_heads=4, num_kv_heads=2, ff_dim=48
)
RNG = np.random.default_rng(3)
TEXT = [int(i) for i in RNG.integers(0, 40, 14)]
PROMPT = Prompt(RNG.integers(0, 40, 7), RNG.integers(0, 27, 20))


def make(**liked: float) -> InterleavedLm:
    """A model with weights large enough that every visible position matters; `liked` adds to the scores of an id."""
    torch.manual_seed(0)
    model = InterleavedLm(CONFIG).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.35)
    for name, score in {"fill": -50.0, **liked}.items():
        model.llm_decoder.bias[getattr(CONFIG, name)] = score
    return model


def speak(decoder: InterleavedDecoder) -> list[list[int]]:
    blocks = []
    while (block := decoder.step()) is not None:
        blocks.append(block.tokens.tolist())
    return blocks


def stream(
    model: InterleavedLm,
    text: list[int],
    arrivals: Sequence[int] = (),
    prompt: Prompt | None = None,
    **options: object,
) -> tuple[list[list[int]], InterleavedDecoder]:
    """Blocks of an utterance whose text arrives in portions of the given sizes (then all the rest)."""
    decoder = InterleavedDecoder(model, DecodeOptions(**options), prompt=prompt)
    blocks: list[list[int]] = []
    rest = list(text)
    for size in [*arrivals, len(text)]:
        for token in rest[:size]:
            decoder.push(token)
        rest = rest[size:]
        if not rest:
            decoder.finish()
        blocks += speak(decoder)
    return blocks, decoder


def whole(text: list[int], blocks: list[list[int]], num_groups: int) -> tuple[list[int], list[int]]:
    """Input ids of a finished utterance, and the position that predicts each of its speech tokens."""
    ids, places = [CONFIG.sos], []
    for group in range(num_groups):
        ids += text[5 * group : 5 * group + 5]
        for token in blocks[group]:
            places.append(len(ids) - 1)
            ids.append(token + CONFIG.speech_offset)
    ids += [*text[5 * num_groups :], CONFIG.task]
    for token in [token for block in blocks[num_groups:] for token in block]:
        places.append(len(ids) - 1)
        ids.append(token + CONFIG.speech_offset)
    return ids, places


@torch.inference_mode()
def test_a_pass_in_pieces_equals_one_pass() -> None:
    model = make()
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 40 + 2 + 30, (1, 60)))
    expected = model(model.embed(ids))
    for sizes in ([1] * 60, [20, 1, 5, 1, 33], [59, 1]):
        state = InterleavedState.create(CONFIG, capacity=8)
        made = torch.cat([model(model.embed(part), state) for part in ids.split(sizes, dim=1)], dim=1)
        torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)
        assert state.end == 60


@torch.inference_mode()
def test_padding_at_the_end_changes_nothing() -> None:
    model = make()
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, 72, (3, 20)))
    padded = torch.cat((ids, torch.zeros(3, 7, dtype=torch.long)), dim=1)
    torch.testing.assert_close(model(model.embed(padded))[:, :20], model(model.embed(ids)), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize(("length", "groups"), [(14, 2), (10, 2), (4, 0)])
def test_streaming_equals_one_pass_over_the_whole(length: int, groups: int) -> None:
    model = make()
    blocks, decoder = stream(model, TEXT[:length], [1, 3, 1, 2], choose=greedy, min_ratio=4, max_ratio=6)
    spoken = [token for block in blocks for token in block]
    assert decoder.done
    assert [len(block) for block in blocks[:groups]] == [15] * groups
    assert len(set(spoken)) > 5
    ids, places = whole(TEXT[:length], blocks, groups)
    scores = model.llm_decoder(model(model.embed(torch.tensor([ids]))))[0, places, :27]
    assert scores.argmax(-1).tolist() == spoken


@pytest.mark.parametrize("prompt", [None, PROMPT])
@pytest.mark.parametrize("interleaved", [True, False])
def test_any_arrival_of_the_text_gives_the_same_speech(prompt: Prompt | None, interleaved: bool) -> None:
    model = make(fill=1.0)  # so that groups end early too
    options = {"seed": 7, "interleaved": interleaved, "prompt": prompt}
    expected, _ = stream(model, TEXT, **options)
    assert len(expected) > 1
    for arrivals in ([1] * 14, [2] * 7, [5, 1, 1, 3], [13]):
        assert stream(model, TEXT, arrivals, **options)[0] == expected
    assert any(stream(model, TEXT, seed=seed, interleaved=interleaved, prompt=prompt)[0] != expected for seed in (1, 2))


@pytest.mark.parametrize("bound", [1, 4, 100])
def test_shorter_steps_give_the_same_speech_and_cover_the_same_text(bound: int) -> None:
    model = make()
    flat = lambda blocks: [token for block in blocks for token in block]
    expected, _ = stream(model, TEXT, seed=1)
    assert flat(stream(model, TEXT, [3, 6], seed=1, max_step_tokens=bound)[0]) == flat(expected)
    decoder = InterleavedDecoder(model, DecodeOptions(seed=1, max_step_tokens=bound))
    for token in TEXT:
        decoder.push(token)
    decoder.finish()
    covered, spoken = [-1], 0
    while (block := decoder.step()) is not None:
        assert len(block.tokens) <= bound
        spoken += len(block.tokens)
        assert block.text_token == (13 if decoder.done else max(-1, min(5 * (spoken // 15), 10) - 2))
        covered.append(block.text_token)
    assert covered == sorted(covered)
    assert covered[-1] == 13


def test_buffers_grow_without_a_change_in_the_result() -> None:
    model = make()
    expected, _ = stream(model, TEXT * 3, choose=greedy)
    decoder = InterleavedDecoder(model, DecodeOptions(choose=greedy), InterleavedState.create(CONFIG, capacity=8))
    for token in TEXT * 3:
        decoder.push(token)
    decoder.finish()
    assert speak(decoder) == expected


def test_clone_and_reset() -> None:
    model = make()
    expected, _ = stream(model, TEXT, seed=2)
    decoder = InterleavedDecoder(model, DecodeOptions(seed=2))
    for token in TEXT:
        decoder.push(token)
    decoder.finish()
    first = [decoder.step(), decoder.step()]
    copy = InterleavedDecoder(model, DecodeOptions(seed=2), decoder.state.clone())
    speak(decoder)
    assert [block.tokens.tolist() for block in first if block] + speak(copy) == expected
    decoder.state.reset_()
    assert not decoder.done
    for token in TEXT:
        decoder.push(token)
    decoder.finish()
    assert speak(decoder) == expected


def test_starts_at_the_fifth_text_token_and_flushes_at_the_end() -> None:
    decoder = InterleavedDecoder(make())
    for token in TEXT[:4]:
        decoder.push(token)
        assert decoder.step() is None
    decoder.push(TEXT[4])
    first = decoder.step()
    assert first is not None
    assert (first.text_token, len(first.tokens)) == (3, 15)
    assert decoder.step() is None
    assert not decoder.done
    decoder.finish()
    assert decoder.step() is not None
    speak(decoder)
    assert decoder.done
    assert decoder.step() is None


@pytest.mark.parametrize("interleaved", [True, False])
def test_empty_and_single_token_texts(interleaved: bool) -> None:
    decoder = InterleavedDecoder(make(), DecodeOptions(interleaved=interleaved))
    decoder.finish()
    assert decoder.done
    assert decoder.step() is None
    blocks, decoder = stream(make(eos=50.0), [5], interleaved=interleaved)
    assert decoder.done
    assert sum(map(len, blocks)) == 2  # the shortest speech of one text token


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize(("ratios", "eos", "expected", "cut"), [((4, 9), 90.0, 4, False), ((4, 9), -90.0, 9, True)])
def test_length_limits(interleaved: bool, ratios: tuple[float, float], eos: float, expected: int, cut: bool) -> None:
    low, high = ratios
    blocks, decoder = stream(make(eos=eos), TEXT, min_ratio=low, max_ratio=high, interleaved=interleaved)
    assert sum(map(len, blocks)) == expected * len(TEXT)
    assert decoder.done
    assert decoder.state.cut == cut


@pytest.mark.parametrize("length", [10, 12])
def test_the_last_token_of_a_group_is_read_once(length: int) -> None:
    sizes = {}
    for exact in (False, True):
        blocks, decoder = stream(make(eos=50.0), TEXT[:length], min_ratio=4, max_ratio=4, interleaved=True)
        if exact:
            chosen = iter([*(token for block in blocks for token in block), CONFIG.eos])
            options = DecodeOptions(choose=lambda *_, chosen=chosen: next(chosen), upstream_exact=True)
            decoder = InterleavedDecoder(make(), options)
            for token in TEXT[:length]:
                decoder.push(token)
            decoder.finish()
            speak(decoder)
        spoken = sum(map(len, blocks))
        # sos, text, task id, all speech but the last token, which nothing follows; upstream asks for the end after it
        sizes[exact] = decoder.state.end - (1 + length + 1 + spoken - 1)
    assert sizes == {False: 0, True: 2}


def test_speech_without_an_end_is_cut_at_the_default_length() -> None:
    blocks, decoder = stream(make(eos=-90.0), TEXT[:6])
    assert sum(map(len, blocks)) == 20 * 6
    assert decoder.state.cut


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("name", ["unused", "eos", "fill"])
def test_ids_that_do_not_belong_are_never_chosen(name: str, interleaved: bool) -> None:
    model = make(**{name: 90.0})
    blocks, decoder = stream(model, TEXT, interleaved=interleaved, max_ratio=5)
    assert decoder.done
    assert all(0 <= token < 27 for block in blocks for token in block)
    if name == "eos":  # it may end the speech, but only after the text
        assert sum(map(len, blocks)) == (30 if interleaved else 28)


@pytest.mark.parametrize("name", ["unused", "eos"])
def test_upstream_fails_on_ids_that_do_not_belong(name: str) -> None:
    model = make(**{name: 90.0})
    with pytest.raises(SynthesisError, match=f"chose id {getattr(CONFIG, name)}"):
        stream(model, TEXT, upstream_exact=True)


@pytest.mark.parametrize(
    ("num_prompt_text", "num_prompt_speech", "num_text"), [(2, 40, 6), (7, 20, 3), (1, 60, 14), (4, 15, 2)]
)
def test_prompt_speech_is_never_lost(num_prompt_text: int, num_prompt_speech: int, num_text: int) -> None:
    prompt = Prompt(np.array(TEXT[:num_prompt_text]), np.arange(num_prompt_speech) % 27)
    model, text = make(eos=50.0), TEXT[:num_text]
    blocks, decoder = stream(model, text, [1, 1], prompt)
    read = 1 + num_prompt_text + num_text + 1 + num_prompt_speech + sum(map(len, blocks))
    # The end of speech comes after reading everything, or the last group's last token is read with the task id.
    assert decoder.state.end == read
    assert not decoder.state.prompt


def test_upstream_loses_prompt_speech_when_the_text_ends_early() -> None:
    prompt = Prompt(np.array(TEXT[:2]), np.arange(40) % 27)
    _, decoder = stream(make(eos=50.0), TEXT[:6], (), prompt, upstream_exact=True)
    assert len(decoder.state.prompt) == 25


def test_a_prompt_that_ends_with_its_group_is_followed_by_text() -> None:
    prompt = Prompt(np.array(TEXT[:5]), np.arange(15))
    decoder = InterleavedDecoder(make(), prompt=prompt)
    for token in TEXT[:4]:
        decoder.push(token)
        assert decoder.step() is None
    decoder.push(TEXT[4])
    block = decoder.step()
    assert block is not None
    assert (block.text_token, decoder.state.end) == (3, 1 + 5 + 15 + 5 + 14)
    exact = InterleavedDecoder(make(unused=-50.0, eos=-50.0), DecodeOptions(upstream_exact=True), prompt=prompt)
    assert exact.step() is not None


@torch.inference_mode()
@pytest.mark.parametrize("dim", [16, 64])
def test_any_width(dim: int) -> None:
    config = dataclasses.replace(CONFIG, dim=dim)
    model = InterleavedLm(config)
    ids = torch.tensor([[config.sos, 3, config.task, config.speech_offset + 2]])
    assert model(model.embed(ids)).shape == (1, 4, dim)


def test_bad_input_is_named() -> None:
    model = make()
    with pytest.raises(SynthesisError, match="min_ratio 3"):
        InterleavedDecoder(model, DecodeOptions(min_ratio=3, max_ratio=2))
    with pytest.raises(SynthesisError, match="max_step_tokens 0"):
        InterleavedDecoder(model, DecodeOptions(max_step_tokens=0))
    with pytest.raises(SynthesisError, match="speech tokenizer"):
        InterleavedDecoder(model, prompt=Prompt(np.array([1]), np.array([27])))
    decoder = InterleavedDecoder(model)
    with pytest.raises(SynthesisError, match="text token 40"):
        decoder.push(40)
    decoder.finish()
    with pytest.raises(SynthesisError, match="after the end"):
        decoder.push(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 3}, "unknown window"),
        ({"dim": 30}, "dim 30"),
        ({"num_kv_heads": 3}, "num_kv_heads"),
        ({"text_chunk": 0}, "text_chunk 0"),
    ],
)
def test_a_foreign_config_is_named(changes: dict[str, int], message: str) -> None:
    values = {**dataclasses.asdict(CONFIG), **changes}
    with pytest.raises(CheckpointError, match=message):
        InterleavedConfig.from_values(values)
    assert InterleavedConfig.from_values(dataclasses.asdict(CONFIG)) == CONFIG


def test_voiced_text_of_blocks_of_several_tokens() -> None:
    ends = VoicedTokens()
    ends.owners, ends.num_pushed = [0, 0, 1, 3, 4], 6
    for text_token, num_speech in ((-1, 4), (2, 11), (2, 15), (4, 3)):
        ends.add(text_token, num_speech)
    assert [ends.at(count, complete=True) for count in (0, 4, 14, 15, 30, 32, 33)] == [0, 0, 0, 2, 2, 2, 6]


@pytest.fixture(scope="module")
def synthesizer(tmp_path_factory: pytest.TempPathFactory) -> SyncSpeech:
    """The bundled models with an untrained interleaved one."""
    folder = tmp_path_factory.mktemp("interleaved")
    shutil.copy(tts.ASSETS / "tmt" / "tokenizer.json", folder)
    vocabulary = TextVocabulary(folder / "tokenizer.json")
    config = dataclasses.replace(
        CONFIG, text_vocab_size=len(vocabulary), num_speech_tokens=729, vocabulary_id=vocabulary.id
    )
    torch.manual_seed(0)
    checkpoint.save(folder, InterleavedLm(config), config)
    return tts.build(
        TtsConfig(backend="interleaved", interleaved=InterleavedTtsConfig(model=str(folder))), RuntimeConfig()
    )


def test_the_stream_speaks_with_it_and_text_is_voiced_in_order(synthesizer: SyncSpeech) -> None:
    heard = []
    tokens = synthesizer.tokenize("It takes the text in groups of five.")
    for at_once in (1, len(tokens)):
        stream = synthesizer.stream()
        samples: list[np.ndarray] = []
        ends = [0]
        for number, (token, text) in enumerate(tokens, start=1):
            stream.push(token, text)
            if number == len(tokens):
                stream.finish()
            while not number % at_once and (made := stream.step()) is not None:
                ends.append(made.token_end)
                samples += [made.samples] if isinstance(made, PcmChunk) else []
                assert stream.done or not isinstance(made, PcmChunk) or made.token_end < len(tokens)
        assert stream.done
        assert ends[-1] == len(tokens)
        heard.append(np.concatenate(samples))
    assert len(heard[0]) > 24_000
    np.testing.assert_array_equal(heard[0], heard[1])


def test_what_it_cannot_do_is_told(
    synthesizer: SyncSpeech, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    synthesizer.stream(speed=1.2)
    assert "speaks at its own rate" in caplog.text
    monkeypatch.setattr(tts, "ASSETS", tmp_path)
    with pytest.raises(CheckpointError, match=r"^[^\n]*`python launch.py train small interleaved`[^\n]*$"):
        tts.build(TtsConfig(backend="interleaved"), RuntimeConfig())
