"""`launch.py weights get` against a hub on this machine, and without one."""

import errno
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from app import hub, needs
from app.cli import main
from app.data import aligners
from app.weights_table import ALIGNER, COSYVOICE, NEEDS, PARAFORMER_ZH, SEACO_ZH
from configs.loader import load
from configs.schema import ConfigError
from tests.fake_hub import COMMIT, FakeHub
from tests.unit.test_weights_command import settings

OWN = "someone/copy"
CONTENT = bytes(range(256)) * 4000  # a megabyte
FILES = {
    OWN: {"flow.pt": CONTENT, "hift.pt": b"h" * 1000, "llm.pt": b"never asked for"},
    "someone/qwen": {
        "config.json": b"{}",
        "tokenizer.json": b"{}",
        "model.safetensors.index.json": json.dumps(
            {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
        ).encode(),
        "m-1.safetensors": b"1" * 100,
        "m-2.safetensors": b"2" * 100,
        "README.md": b"not needed",
    },
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv("MODELSCOPE_DOMAIN", "127.0.0.1:9")  # nobody listens there
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return folder


@pytest.fixture
def served(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub({name: dict(files) for name, files in FILES.items()}).serving() as fake:
        monkeypatch.setattr(constants, "ENDPOINT", fake.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", fake.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield fake


@pytest.fixture
def unserved(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


def get(*arguments: str, **values: Any) -> int:
    return main(["weights", "get", *arguments, *settings(**values)])


DECODER = {"tts__flow": OWN, "tts__vocoder": OWN}


def test_what_is_named_is_fetched_once_and_found_without_the_hub(
    served: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "list", *settings(**DECODER)]) == 1
    assert "`launch.py weights get` fetches" in capsys.readouterr().out
    assert get(**DECODER) == 0
    out = capsys.readouterr().out
    assert f"getting {OWN} for tts.flow, tts.vocoder" in out
    assert COMMIT in out  # what `main` was
    assert sorted(path for path, _ in served.asked) == ["flow.pt", "hift.pt"]
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert get(**DECODER) == 0
    assert "getting" not in capsys.readouterr().out
    assert main(["weights", "list", *settings(**DECODER)]) == 0
    assert f"tts.flow={OWN}  1.0 MB" in capsys.readouterr().out
    folder = Path(needs.located(load(None, settings(**DECODER)[1::2]), "tts").tts.flow)
    assert (folder / "flow.pt").read_bytes() == CONTENT


def test_a_broken_connection_goes_on_where_it_broke(
    served: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    monkeypatch.setattr("time.sleep", lambda _: None)
    served.cut["flow.pt"] = 300_000
    assert get(tts__flow=OWN) == 0
    assert [wanted for path, wanted in served.asked] == ["", f"bytes={300_000 // (1 << 16) * (1 << 16)}-"]
    assert next(cache.rglob("flow.pt")).read_bytes() == CONTENT


def test_a_stopped_run_keeps_the_files_that_are_whole(
    served: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def give_up(_: float) -> None:  # where the library waits before it tries again
        raise KeyboardInterrupt

    served.cut["flow.pt"] = 300_000
    with monkeypatch.context() as waiting:
        waiting.setattr("time.sleep", give_up)
        assert get(**DECODER) == 1
    assert "stopped" in capsys.readouterr().err
    assert main(["weights", "list", *settings(**DECODER)]) == 1
    assert get(**DECODER) == 0
    assert sorted(path for path, _ in served.asked) == ["flow.pt", "flow.pt", "hift.pt"]


def test_every_part_of_a_model_is_needed(served: FakeHub, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert get(llm__model="someone/qwen") == 0
    assert not list(cache.rglob("README.md"))
    next(cache.rglob("m-2.safetensors")).unlink()
    need = next(need for need in NEEDS if need.key == "llm.model")
    wanted = need.wanted("someone/qwen")
    assert wanted is not None
    assert hub.local(wanted) is None
    assert get(llm__model="someone/qwen") == 0
    assert hub.local(wanted) is not None


def test_a_damaged_file_is_removed(served: FakeHub, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served.wrong.add("flow.pt")
    assert get(tts__flow=OWN) == 1
    assert "flow.pt of someone/copy arrived damaged" in capsys.readouterr().out
    assert not list(cache.rglob("flow.pt"))
    served.wrong.clear()
    for listing in cache.rglob("trees/*.json"):
        listing.unlink()
    assert get(tts__flow=OWN) == 0


def test_the_published_checksum_wins(served: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """CosyVoice 2's files are known here: another file of that name at that commit is refused."""
    served.repositories[COSYVOICE.name] = {"flow.pt": b"something else"}
    assert get(tts__flow=COSYVOICE.name) == 1
    assert "published ff4c2f867674..." in capsys.readouterr().out


def test_no_space(served: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    free = SimpleNamespace(total=10**9, used=10**9, free=500_000)
    monkeypatch.setattr("app.hub.shutil.disk_usage", lambda _: free)
    assert get(tts__flow=OWN) == 1
    assert "no space for the download" in (out := capsys.readouterr().out)
    assert "0.00 GB are needed, 0.00 GB are free" in out
    assert not served.asked


def test_the_disk_fills_up(served: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    whole = huggingface_hub.snapshot_download

    def filling(*arguments: Any, dry_run: bool = False, **values: Any) -> Any:
        if dry_run:
            return whole(*arguments, dry_run=True, **values)
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("writing failed") from error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", filling)
    assert get(tts__flow=OWN) == 1
    assert "no space for the download" in capsys.readouterr().out


def test_no_network(unserved: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert get(tts__flow=COSYVOICE.name, tts__vocoder=COSYVOICE.name) == 1
    out = capsys.readouterr().out
    assert "Hugging Face cannot be reached" in out
    assert "ModelScope cannot be reached" in out
    assert "fetch flow.pt, hift.pt of FunAudioLLM/CosyVoice2-0.5B on another machine" in out
    assert "--set tts.flow=FOLDER --set tts.vocoder=FOLDER" in out
    with pytest.raises(ConfigError, match=r"holds flow\.pt of it: run `launch\.py weights get`"):
        needs.located(load(None, [f"tts.flow={COSYVOICE.name}"]), "tts")


def test_a_wrong_name_and_a_wrong_kind(served: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert get(tts__flow="nobody/nothing") == 1
    assert "Hugging Face has no nobody/nothing" in capsys.readouterr().out
    assert get(tts__flow="someone/qwen") == 1
    assert "someone/qwen has no flow.pt: it is another kind of model" in capsys.readouterr().out


def test_a_folder_that_is_there_needs_no_hub(unserved: None, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "flow.pt").write_bytes(b"x")
    assert get(tts__flow=tmp_path) == 0
    assert get(tts__flow=tmp_path / "absent") == 1
    assert "1 missing" in capsys.readouterr().out


def test_modelscopes_cache_is_used(unserved: None, tmp_path: Path, capsys: Any) -> None:
    for folder in ("models/iic--CosyVoice2-0.5B/snapshots/master", "hub/models/iic/CosyVoice2-0___5B"):
        place = tmp_path / "modelscope" / folder
        place.mkdir(parents=True)
        (place / "flow.pt").write_bytes(b"x")
        assert get(tts__flow=COSYVOICE.name) == 0
        assert str(place) in capsys.readouterr().out
        (place / "flow.pt").unlink()


def test_modelscope_where_hugging_face_is_not(
    unserved: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked: list[Any] = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        (tmp_path / "flow.pt").write_bytes(b"another flow")
        return str(tmp_path)

    monkeypatch.setattr("modelscope.snapshot_download", download, raising=False)
    monkeypatch.setattr(hub, "_require_answer", lambda url, name: None if name == "ModelScope" else stop(name))

    def stop(name: str) -> None:
        raise hub._Unreachable(f"{name} is away")

    assert get(tts__flow=COSYVOICE.name) == 1
    assert asked == [("iic/CosyVoice2-0.5B", None, ["flow.pt"])]
    assert "arrived damaged" in capsys.readouterr().out
    assert get("--hub", "huggingface", tts__flow=COSYVOICE.name) == 1
    assert len(asked) == 1
    assert get(asr__model="paraformer-zh") == 1
    assert asked[1][:2] == (PARAFORMER_ZH.modelscope, "v2.0.4")


def test_the_table_is_consistent() -> None:
    for need in (*NEEDS, ALIGNER):
        for source in need.public:
            repository = source.repository
            wanted = need.wanted(repository.name)
            assert wanted is not None
            assert wanted.repository is repository
            for file, (size, checksum) in repository.sums.items():
                assert re.fullmatch(r"[0-9a-f]{64}", checksum), file
                assert size > 10**6
            assert repository.revision == "main" or re.fullmatch(r"[0-9a-f]{40}", repository.revision)
            assert repository.revision != "main" or repository.modelscope_revision, repository.name
    assert {need.key for need in NEEDS if need.wanted("paraformer-en")} >= {"asr.model", "asr.streaming_model"}


def test_what_one_hub_does_not_have_is_asked_of_the_other(
    served: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        for file in ("model.pt", "config.yaml", "tokens.json", "am.mvn"):
            (tmp_path / file).write_bytes(b"another model")
        return str(tmp_path)

    monkeypatch.setattr("modelscope.snapshot_download", download, raising=False)
    monkeypatch.setattr(hub, "_require_answer", lambda url, name: None)
    assert get(SEACO_ZH.name) == 1
    assert asked == [(SEACO_ZH.modelscope, "v2.0.4")]
    assert "model.pt of iic/speech_seaco_paraformer" in (out := capsys.readouterr().out)
    assert "published 3d491689244e" in out
    assert not (tmp_path / "model.pt").exists()


def test_an_aligner_is_fetched_by_its_name(
    served: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("model.pt", "config.yaml", "tokens.json", "am.mvn", "seg_dict")
    served.repositories["funasr/fa-zh"] = {**dict.fromkeys(names, b"x"), "README.md": b"not needed"}
    assert get("fa-zh", **DECODER) == 0
    out = capsys.readouterr().out
    assert (
        out.count("getting") == out.count("getting funasr/fa-zh for --aligner") == 1
    )  # nothing that the settings name
    assert sorted(path.name for path in aligners.located("fa-zh").iterdir()) == sorted(names)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert get("fa-zh", **DECODER) == 0
    assert get("fa", **DECODER) == 2
    assert "no name of a public aligner" in capsys.readouterr().err
    assert get("someone/aligner", **DECODER) == 1
    assert "use --aligner FOLDER" in capsys.readouterr().out
