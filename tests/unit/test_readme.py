"""The README is read by tests: what it names exists."""

import re
import shlex
from pathlib import Path

import pytest

from app import cli
from app.small.plan import ON_REQUEST

ROOT = Path(cli.__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAX_BUNDLED_MB = 72
ROOMS = ("asr", "llm", "tts")


def commands():
    found = re.findall(r"(?:\.venv/bin/)?python3? launch\.py ([^`\n|]*)", README)
    return sorted({command.split("&&")[0].strip() for command in found})


@pytest.mark.parametrize("command", [c for c in commands() if c])
def test_every_command_is_understood(command):
    cli.parser().parse_args(shlex.split(command))


def test_every_command_is_named():
    actions = [action for action in cli.parser()._actions if action.dest == "command"]
    for name in actions[0].choices:
        assert f"launch.py {name}" in README


def test_every_path_of_the_tree_exists():
    tree = README.split("## The house")[1].split("```")[1]
    paths, folders = [], []
    for line in tree.strip().splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders = [*folders[:depth], name.rstrip("/")]
        paths.append(ROOT.joinpath(*folders))
    assert len(paths) > 30
    assert [path for path in paths if not path.exists()] == []


def test_nothing_is_left_to_fill_in():
    assert "{{" not in README
    for card in [path for room in ROOMS for path in ROOT.glob(f"{room}/assets/*/MODEL_CARD.md")]:
        assert "{{" not in card.read_text(encoding="utf-8"), card


def test_the_bundled_weights_are_small_and_have_cards():
    found = [path for room in ROOMS for path in ROOT.glob(f"{room}/assets/**/*.safetensors")]
    weights = [path for path in found if not set(path.parts) & set(ON_REQUEST)]  # those are made here, and do not ship
    assert len(weights) >= 8
    assert sum(path.stat().st_size for path in weights) / 1e6 <= MAX_BUNDLED_MB
    for path in weights:
        assert (path.parent / "MODEL_CARD.md").exists(), path
        if path.name == "model.safetensors":
            assert (path.parent / "config.json").exists(), path


SECTIONS = ("Data", "Command", "Minutes", "Metrics", "Limits", "Licence")
WEIGHTS = ("*.safetensors", "weights.json")
FOLDERS = sorted({path.parent for room in ROOMS for name in WEIGHTS for path in ROOT.glob(f"{room}/assets/*/{name}")})


@pytest.mark.parametrize(
    "folder", [f for f in FOLDERS if f.name not in ON_REQUEST], ids=lambda folder: str(folder.relative_to(ROOT))
)
def test_every_card_says_what_a_card_must(folder):
    """A section is a heading, a point of a list, a row of a table or a line with a colon, and something stands in it."""
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    for section in SECTIONS:
        begins = rf"^(?:(?:#+ |- |\| ){section}\b[^:|\n]*[:|\n]|{section}:)"
        found = re.search(rf"{begins}\s*(\S.*)", card, re.MULTILINE | re.IGNORECASE)
        assert found, f"{section} is missing"
        assert not found[1].startswith("#"), f"{section} is empty"
        if section == "Command":
            assert "python launch.py train small" in card


def test_no_pickles_are_shipped():
    assert not [
        path for pattern in ("*.pt", "*.bin", "*.pkl", "*.ckpt") for path in ROOT.glob(f"*/assets/**/{pattern}")
    ]
