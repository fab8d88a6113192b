"""`launch.py weights`: what is needed, where it goes, whether it is whole."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from app.cli import main
from app.weights_table import NEEDS
from configs.schema import AppConfig
from tts import public


def settings(**values: Any) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]


def write_public(part: public.Part[Any, Any], folder: Path, **changed: torch.Tensor) -> Path:
    """A file of full size in the public layout; one shared number stands for every tensor, so that it stays small."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in part.make(part.config).state_dict().items()}
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()} | changed, folder / part.file)
    return folder / part.file


def test_every_need_names_a_setting_of_the_configuration() -> None:
    for need in NEEDS:
        value: Any = AppConfig()
        for name in need.key.split("."):
            assert name in {field.name for field in dataclasses.fields(value)}
            value = getattr(value, name)


def test_list_shows_sizes_and_licences(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["weights", "list"]) == 0
    out = capsys.readouterr().out
    assert "tts.flow=bundled  9.9 MB  Apache-2.0" in out
    assert "interleaved" not in out
    (tmp_path / "flow.pt").write_bytes(bytes(2_000_000))
    assert main(["weights", "list", *settings(tts__flow=tmp_path, tts__vocoder=tmp_path / "no")]) == 1
    out = capsys.readouterr().out
    assert f"tts.flow={tmp_path}  2.0 MB  Apache-2.0" in out
    assert f"tts.vocoder={tmp_path / 'no'}  MISSING" in out
    assert "1 missing" in out


def test_the_backend_decides_what_is_needed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    chosen = settings(tts__backend="interleaved", tts__interleaved__model=tmp_path)
    assert main(["weights", "list", *chosen]) == 0
    out = capsys.readouterr().out
    assert "tts.interleaved.model" in out
    assert "tts.tmt" not in out
    assert "tts.interleaved.heads" not in out
    assert main(["weights", "list", *chosen, *settings(tts__interleaved__heads=tmp_path / "heads")]) == 1
    assert f"tts.interleaved.heads={tmp_path / 'heads'}  MISSING" in capsys.readouterr().out


def test_moonshine_brings_its_own_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = settings(asr__model=tmp_path / "no", asr__streaming_model=tmp_path / "nor")
    assert main(["weights", "list", *missing]) == 1
    assert "2 missing" in capsys.readouterr().out
    assert main(["weights", "list", *missing, *settings(asr__backend="moonshine")]) == 0
    assert "asr.model" not in capsys.readouterr().out


def test_where_names_files_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "where", *settings(tts__flow="/nowhere")]) == 0
    out = capsys.readouterr().out
    for words in ("now: /nowhere (MISSING)", "flow.pt", "hift.pt", "s3gen.safetensors", "--set tts.vocoder=PATH"):
        assert words in out
    assert "no public file fits" in out


def test_check_reads_the_bundled_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "check"]) == 0
    out = capsys.readouterr().out
    assert out.count("  ok  ") == 8
    assert "Everything is whole" in out


def test_check_reads_public_files_and_says_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flow, vocoder = write_public(public.FLOW, tmp_path), write_public(public.VOCODER, tmp_path)
    chosen = settings(tts__flow=flow, tts__vocoder=tmp_path)
    assert main(["weights", "check", *chosen]) == 0
    out = capsys.readouterr().out
    assert f"flow-matching decoder: {flow}" in out
    assert f"vocoder: {vocoder}" in out

    write_public(public.FLOW, tmp_path, **{"encoder_proj.bias": torch.zeros(79)})
    vocoder.write_bytes(vocoder.read_bytes()[:1000])
    chosen += settings(tts__tmt=tmp_path / "no", llm__model=tmp_path, tts__speaker=tmp_path)
    assert main(["weights", "check", *chosen]) == 1
    faults = [line for line in capsys.readouterr().out.splitlines() if "FAULT" in line]
    assert len(faults) == 5
    text = "\n".join(faults)
    for words in (
        "misshapen 1 (encoder_proj.bias is [79], expected [80])",
        "hift.pt is not a complete weights file",
        f"{tmp_path / 'no'} is not there",
        "no language model in",
        "no weights in",
    ):
        assert words in text


def test_exit_code_2_is_for_the_user(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "check", "--set", "tts.flo=x"]) == 2
    assert "did you mean tts.flow" in capsys.readouterr().err
    for arguments in (["weights"], ["weights", "steal"]):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2
