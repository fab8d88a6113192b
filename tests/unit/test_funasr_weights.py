"""A FunASR folder whose model.pt does not fill its model is refused, with what is wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asr.base import RecognizerError
from asr.paraformer import Paraformer
from asr.timestamps import TimestampModel
from tests.training.test_funasr_aligner import CONFIG, RECOGNISER, write

State = dict[str, Any]
HEAD = "decoder.output_layer.weight"


class Hostile:
    """Writes a file when it is unpickled without care."""

    def __init__(self, victim: Path) -> None:
        self._victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._victim,)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = write(tmp_path_factory.mktemp("whole") / "recogniser", RECOGNISER)
    return path


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "recogniser"))


def change(folder: Path, changed: Callable[[State], Any]) -> None:
    torch.save(changed(torch.load(folder / "model.pt", weights_only=True)), folder / "model.pt")


def load(folder: Path) -> State:
    model: torch.nn.Module = Paraformer.load(str(folder), None)._offline.model
    return model.state_dict()


@pytest.mark.parametrize(
    "written",
    [
        dict,
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {**state, "encoder.norm.num_batches_tracked": torch.tensor(7)},
    ],
    ids=["plain", "of a trainer", "of several GPUs", "with a counter"],
)
def test_every_tensor_is_taken(whole: Path, folder: Path, written: Callable[[State], Any]) -> None:
    change(folder, written)
    loaded = load(folder)
    state = torch.load(whole / "model.pt", weights_only=True)
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            lambda state: {name: value for name, value in state.items() if not name.startswith("encoder.")},
            r"missing \d\d \(encoder\.\S+ \[.*, \.\.\.\)\. Fetch",
        ),
        (
            lambda state: state | {HEAD: state[HEAD][:-1]},
            rf"misshapen 1 \({HEAD} is \[\d+, \d+\], expected \[\d+, \d+\]\)",
        ),
        (
            lambda state: {"decoder.more" if name == HEAD else name: value for name, value in state.items()},
            rf"missing 1 \({HEAD} \[.*\]\); extra 1 \(decoder\.more \[",
        ),
        (lambda state: [1, 2], "holds a list, not a table"),
    ],
    ids=["missing encoder", "misshapen head", "renamed tensor", "no table"],
)
def test_what_does_not_fit_is_named(folder: Path, changed: Callable[[State], Any], words: str) -> None:
    change(folder, changed)
    with pytest.raises(RecognizerError, match=words) as error:
        load(folder)
    assert str(folder / "model.pt") in str(error.value)
    assert "\n" not in str(error.value)


def test_tensors_beyond_the_model_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(folder, lambda state: state | {"decoder.more": torch.zeros(2, 3)})
    load(folder)
    assert "no place: extra 1 (decoder.more [2, 3])" in caplog.text


def test_a_pickle_that_runs_code_is_refused(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    change(folder, lambda state: {**state, "more": Hostile(victim)})
    with pytest.raises(RecognizerError, match=r"asks for \S+ while it is read, which could run code"):
        load(folder)
    assert not victim.exists()


@pytest.mark.parametrize("kept", [0, 10, 5000])
def test_a_truncated_file_is_told(folder: Path, kept: int) -> None:
    file = folder / "model.pt"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(RecognizerError, match=r"model\.pt is not a complete weights file .* fetch it again"):
        load(folder)


def test_the_aligner_is_read_as_strictly(tmp_path: Path) -> None:
    folder = write(tmp_path / "fa-zh", CONFIG)
    change(folder, lambda state: {name: value for name, value in state.items() if "cif_output2" not in name})
    with pytest.raises(RecognizerError, match=r"missing 2 \(predictor\.cif_output2\.bias"):
        TimestampModel.load(folder)
