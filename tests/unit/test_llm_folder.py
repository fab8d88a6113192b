"""`launch.py weights check` of a language model: every tensor, every file and the tokenizer, without computing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.cli import main
from llm.base import ChatModelError
from llm.folder import BUNDLED_FOLDER, check_whole

INDEX = "model.safetensors.index.json"
NORM = "model.layers.1.mlp.up_proj.weight"
State = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLED_FOLDER, tmp_path / "qwen"))


@pytest.fixture
def sharded(folder: Path) -> Path:
    """The same model in two files."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    parts = {f"model-0000{part + 1}-of-00002.safetensors": names[part::2] for part in range(2)}
    for file, kept in parts.items():
        save_file({name: state[name] for name in kept}, folder / file)
    weight_map = {name: file for file, kept in parts.items() for name in kept}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def change(folder: Path, changed: Callable[[State], State]) -> None:
    save_file(changed(load_file(folder / "model.safetensors")), folder / "model.safetensors")


def configure(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_whole_model_passes(folder: Path) -> None:
    check_whole(folder)


def test_a_model_in_two_files_passes(sharded: Path) -> None:
    check_whole(sharded)


def test_a_head_that_is_the_embedding_may_be_left_out_or_be_there(folder: Path) -> None:
    change(folder, lambda state: state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()})
    check_whole(folder)
    change(folder, lambda state: state | {"model.rotary_emb.inv_freq": torch.zeros(32)})
    check_whole(folder)


def test_packed_weights_are_left_to_the_engine(folder: Path) -> None:
    configure(folder, quantization_config={"quant_method": "awq"})
    change(folder, lambda state: {f"{name}.qweight": value for name, value in state.items()})
    check_whole(folder)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (lambda state: {name: value for name, value in state.items() if name != NORM}, rf"missing 1: {NORM}\)"),
        (lambda state: {name: state[name] for name in (NORM,)}, r"missing \d\d: .*, \.\.\.\)"),
        (lambda state: state | {NORM: state[NORM][1:]}, rf"misshapen 1: {NORM} is \[703, 256\], expected \[704, 256\]"),
        (lambda state: state | {"model.more": torch.zeros(2)}, r"extra 1: model\.more"),
    ],
    ids=["missing", "many missing", "misshapen", "extra"],
)
def test_tensors_that_do_not_fit_are_named(folder: Path, changed: Callable[[State], State], words: str) -> None:
    change(folder, changed)
    with pytest.raises(ChatModelError, match=rf"do not fit their config\.json \({words}"):
        check_whole(folder)


def test_a_head_of_its_own_must_be_there(folder: Path) -> None:
    configure(folder, tie_word_embeddings=False)
    with pytest.raises(ChatModelError, match=r"missing 1: lm_head\.weight"):
        check_whole(folder)


def test_a_missing_file_of_several_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ChatModelError, match=rf"has no model-00002-of-00002\.safetensors, which its {INDEX} names"):
        check_whole(sharded)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_a_damaged_list_of_files_is_told(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content)
    with pytest.raises(ChatModelError, match="does not say which files"):
        check_whole(sharded)


def test_the_tokenizer_is_read(folder: Path) -> None:
    configure(folder, vocab_size=100)
    with pytest.raises(ChatModelError, match="not a pair"):
        check_whole(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ChatModelError, match="is not a tokenizer"):
        check_whole(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ChatModelError, match=r"tokenizer\.json is missing"):
        check_whole(folder)


def test_values_that_make_no_model_are_told(folder: Path) -> None:
    configure(folder, hidden_size="wide")
    with pytest.raises(ChatModelError, match=r"config\.json describes no model"):
        check_whole(folder)


def test_the_command_tells_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder, lambda state: {name: value for name, value in state.items() if name != NORM})
    assert main(["weights", "check", "--set", f"llm.model={folder}"]) == 1
    fault = next(line for line in capsys.readouterr().out.splitlines() if "FAULT" in line)
    assert f"missing 1: {NORM}" in fault
