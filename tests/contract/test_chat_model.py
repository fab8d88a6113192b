"""What every chat engine must do, run on each: transformers always, vLLM where it is installed.

ASSISTANT_REQUIRE_VLLM=1 makes a missing vLLM a failure instead of a skip.
"""

import asyncio
import importlib.util
import json
import multiprocessing
import os
import shutil
import weakref
from contextlib import aclosing

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import tts
from configs.schema import LlmConfig, RuntimeConfig, TtsConfig
from llm import build
from llm.base import ChatModelError, Message
from llm.folder import BUNDLED_FOLDER
from tts.base import SAMPLE_RATE, PcmChunk

NUM_TOKENS = 24
END = 2047  # <|im_end|>
UNTIED = {"tie_word_embeddings": False}
QUESTION = [Message("user", "what is the capital of france")]
has_vllm = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(
    not has_vllm and os.environ.get("ASSISTANT_REQUIRE_VLLM") != "1", reason="vLLM is not installed here"
)
ENGINES = [
    "transformers",
    *(pytest.param(name, marks=[pytest.mark.vllm, needs_vllm]) for name in ("vllm", "vllm-child")),
]


def make_folder(directory, **changes):
    """A Qwen3 of two layers with random weights, with the bundled tokenizer."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(3)
    values = {
        "vocab_size": 2048, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 512, "tie_word_embeddings": True,
        "bos_token_id": None, "eos_token_id": END, "initializer_range": 0.3,
    }  # fmt: skip
    Qwen3ForCausalLM(Qwen3Config(**(values | changes))).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUNDLED_FOLDER / name, directory)
    return directory


def config_for(engine, model, **changes):
    name, _, process = engine.partition("-")
    values = {"engine": name, "model": str(model), "max_reply_tokens": NUM_TOKENS, "max_context_tokens": 200}
    values["vllm_process"] = process or "own"
    return LlmConfig(**(values | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
    return request.param


@pytest.fixture(scope="module")
def chat(engine, folder):
    chat = build(config_for(engine, folder), RuntimeConfig(device="cpu"))
    yield chat
    chat.close()


async def reply(chat, messages, limit=None):
    tokens = []
    async with aclosing(chat.stream(messages)) as stream:
        async for token in stream:
            tokens.append(token)
            if len(tokens) == limit:
                break
    return tokens


async def test_a_reply_is_a_stream_of_ids_with_their_text(chat, folder):
    await chat.warm_up()
    tokens = await reply(chat, QUESTION)
    assert len(tokens) == NUM_TOKENS
    decode = Tokenizer.from_file(str(folder / "tokenizer.json")).decode
    text = "".join(token.text for token in tokens)
    assert text == decode([token.id for token in tokens], skip_special_tokens=False)[: len(text)]
    assert len({token.id for token in tokens}) > 3


async def test_the_engines_agree_with_plain_transformers(chat, folder):
    from transformers import Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text = "<|im_start|>user\nwhat is the capital of france<|im_end|>\n<|im_start|>assistant\n"
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    expected = []
    for _ in range(NUM_TOKENS):
        expected.append(int(model(torch.tensor([ids + expected])).logits[0, -1].argmax()))
    assert [token.id for token in await reply(chat, QUESTION)] == expected


async def test_the_next_turn_does_not_depend_on_what_is_cached(chat, folder, engine):
    first = "".join(token.text for token in await reply(chat, QUESTION))
    second = [*QUESTION, Message("assistant", first.replace("\ufffd", "")), Message("user", "and of italy")]
    after_the_first = await reply(chat, second)
    await reply(chat, [Message("user", "something else altogether")])
    assert await reply(chat, second) == after_the_first


async def test_closing_the_stream_ends_the_reply_and_leaves_the_model_ready(chat):
    whole = await reply(chat, QUESTION)
    for limit in (1, 5):
        assert await reply(chat, QUESTION, limit) == whole[:limit]
    assert await reply(chat, QUESTION) == whole


async def test_cancelling_the_task_ends_the_reply_and_leaves_the_model_ready(chat):
    whole = await reply(chat, QUESTION)
    for _ in range(5):
        task = asyncio.create_task(reply(chat, QUESTION))
        await asyncio.sleep(0.004)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await reply(chat, QUESTION) == whole


async def test_two_replies_at_once_do_not_disturb_each_other(chat):
    other = [Message("system", "Be brief."), Message("user", "tell me a story about a bear")]
    expected = await reply(chat, QUESTION), await reply(chat, other)
    assert tuple(await asyncio.gather(reply(chat, QUESTION), reply(chat, other))) == expected


@pytest.mark.parametrize("engine", ["transformers"], indirect=True, scope="module")  # vLLM reports its errors itself
async def test_a_full_gpu_ends_the_reply_and_leaves_the_model_ready(chat, monkeypatch):
    step, calls = chat._step, []

    def hungry(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(*arguments)

    before = await reply(chat, QUESTION)
    monkeypatch.setattr(chat, "_step", hungry)
    with pytest.raises(ChatModelError, match="the GPU's memory is full"):
        await reply(chat, QUESTION)
    assert await reply(chat, QUESTION) == before


@pytest.mark.parametrize("engine", [ENGINES[1]], indirect=True, scope="module")
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError, r"the GPU's memory is full\. .* llm\.gpu_share"),
        (ValueError, r"vLLM stopped with ValueError: no more\. Say it again; .* loaded anew"),
    ],
)
async def test_a_step_that_fails_ends_the_reply_and_the_next_has_a_new_engine(chat, error, words):
    def failing():
        raise error("no more")

    before = await reply(chat, QUESTION)
    broken = weakref.ref(chat._home._engine)
    broken().step = failing
    with pytest.raises(ChatModelError, match=words):
        await reply(chat, QUESTION)
    assert await reply(chat, QUESTION) == before
    assert broken() is None, "its memory is not given back"


@pytest.mark.parametrize("engine", [ENGINES[1]], indirect=True, scope="module")
async def test_the_next_turn_computes_only_what_is_new(chat):
    """vLLM keeps whole blocks of ids."""
    cached, step = {}, chat._home._engine.step

    def told():
        outputs = step()
        cached.update((output.request_id, output.num_cached_tokens) for output in outputs)
        return outputs

    chat._home._engine.step = told
    long = [Message("user", "tell me about the sun and the moon " * 30)]
    prompt = len(chat._vocabulary.prompt(long))
    answer = "".join(token.text for token in await reply(chat, long))
    await reply(chat, [*long, Message("assistant", answer.replace("\ufffd", "")), Message("user", "go on")])
    del chat._home._engine.step
    first, second = cached.values()
    assert first == 0
    assert prompt // 2 < second <= prompt + NUM_TOKENS


async def test_control_tokens_in_what_is_said_are_no_control_tokens(chat):
    plain = await reply(chat, [Message("user", "hello there")])
    assert await reply(chat, [Message("user", "hello<|im_end|> there<|im_start|>")]) == plain


async def test_a_conversation_beyond_the_model_is_refused_with_a_hint(chat):
    with pytest.raises(ChatModelError, match="max_context_tokens"):
        await reply(chat, [Message("user", "hello " * 1000)])
    assert len(await reply(chat, QUESTION)) == NUM_TOKENS


async def test_tokens_are_counted(chat):
    assert chat.count_tokens("") == 0
    assert 3 <= chat.count_tokens("hello there my friend") <= 12


@pytest.mark.parametrize("engine", [ENGINES[-1]], indirect=True, scope="module")
async def test_a_child_that_dies_ends_the_reply_with_what_happened_and_the_next_has_another(engine, folder):
    before = set(multiprocessing.active_children())
    dying = build(config_for(engine, folder), RuntimeConfig(device="cpu"))
    try:
        (child,) = set(multiprocessing.active_children()) - before
        whole = await reply(dying, QUESTION)
        child.kill()
        with pytest.raises(ChatModelError, match=r"vLLM stopped .* loaded anew"):
            await reply(dying, QUESTION)
        assert await reply(dying, QUESTION) == whole
        (other,) = set(multiprocessing.active_children()) - before
        assert other.pid != child.pid
    finally:
        dying.close()


@needs_vllm
@pytest.mark.vllm
def test_vllm_can_be_had_where_it_is_required():
    assert has_vllm


@pytest.mark.parametrize("engine", ENGINES[1:], indirect=True, scope="module")
async def test_the_bundled_models_ids_become_sound(engine):
    """Behind the tests of `chat`: closing an engine of this process ends what vLLM's others here share."""
    runtime = RuntimeConfig(device="cpu")
    chat, synthesizer = build(config_for(engine, BUNDLED_FOLDER), runtime), tts.build(TtsConfig(), runtime)
    try:
        assert chat.vocabulary_id == synthesizer.vocabulary_id
        tokens = await reply(chat, QUESTION)
    finally:
        chat.close()
    speech = synthesizer.stream(share_ids=True)
    for token in tokens:
        speech.push(token.id, token.text)
    speech.finish()
    steps = []
    while not speech.done:
        steps.append(speech.step())
    samples = np.concatenate([step.samples for step in steps if isinstance(step, PcmChunk)])
    words = "".join(token.text for token in tokens).split()
    assert "paris" in " ".join(words).lower()
    assert [(token.id, token.text) for token in tokens] == synthesizer.tokenize("".join(t.text for t in tokens))
    assert np.isfinite(samples).all()
    assert 0.01 < np.sqrt(np.mean(samples**2)) < 0.5
    assert 0.1 < len(samples) / SAMPLE_RATE / len(words) < 1.0
    assert max(step.token_end for step in steps) == len(tokens)


async def test_the_end_token_ends_the_reply_and_is_not_given_out(engine, tmp_path):
    plain = build(config_for("transformers", make_folder(tmp_path / "a", **UNTIED)), RuntimeConfig(device="cpu"))
    ids = [token.id for token in await reply(plain, QUESTION)]
    plain.close()
    at = next(index for index in range(3, NUM_TOKENS) if ids[index] not in ids[:index])
    directory = make_folder(tmp_path / "b", **UNTIED)
    state = load_file(directory / "model.safetensors")
    rows = state["lm_head.weight"]  # let the end token win where that id did
    rows[[ids[at], END]] = rows[[END, ids[at]]]
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    chat = build(config_for(engine, directory), RuntimeConfig(device="cpu"))
    try:
        assert [token.id for token in await reply(chat, QUESTION)] == ids[:at]
    finally:
        chat.close()


def truncate(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def scribble(directory):
    (directory / "model.safetensors").write_text("this is not a model")


def make_foreign(directory):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "llama"}))


def drop_weights(directory):
    (directory / "model.safetensors").unlink()


def drop_config(directory):
    (directory / "config.json").unlink()


def drop_tokenizer(directory):
    (directory / "tokenizer.json").unlink()


def spoil_tokenizer(directory):
    (directory / "tokenizer.json").write_text('{"model": 1}')


@pytest.mark.parametrize(
    ("damage", "hint"),
    [
        (truncate, "truncated"),
        (scribble, "not a safetensors file"),
        (make_foreign, "llama"),
        (drop_weights, "no weights"),
        (drop_config, "config.json is missing"),
        (drop_tokenizer, "tokenizer.json is missing"),
        (spoil_tokenizer, "not a tokenizer"),
    ],
)
def test_a_damaged_folder_is_named_with_what_is_wrong(engine, folder, tmp_path, damage, hint):
    directory = tmp_path / "qwen"
    shutil.copytree(folder, directory)
    damage(directory)
    with pytest.raises(ChatModelError, match=hint) as error:
        build(config_for(engine, directory), RuntimeConfig(device="cpu"))
    assert str(directory) in str(error.value)


def test_weights_of_another_shape_are_refused(folder, tmp_path):
    directory = tmp_path / "qwen"
    shutil.copytree(folder, directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 128}))
    with pytest.raises(ChatModelError, match="do not fit"):
        build(config_for("transformers", directory), RuntimeConfig(device="cpu"))


def test_a_tokenizer_larger_than_the_model_is_refused(engine, tmp_path):
    with pytest.raises(ChatModelError, match="not a pair"):
        build(config_for(engine, make_folder(tmp_path, vocab_size=1000, eos_token_id=999)), RuntimeConfig(device="cpu"))
