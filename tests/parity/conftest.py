"""Which folder of golden vectors the tests run on, and what they found there."""

import re

import pytest

from tests.parity.golden import Golden

GOLDEN = pytest.StashKey[Golden]()


def pytest_configure(config: pytest.Config) -> None:
    folder = config.getoption("golden")
    if folder is None:
        config.stash[GOLDEN] = Golden()
    elif (folder / "config.json").is_file():
        config.stash[GOLDEN] = Golden(folder, given=True)
    else:
        raise pytest.UsageError(f"--golden {folder}: there is no config.json in it")


@pytest.fixture(scope="session")
def golden_folder(request: pytest.FixtureRequest) -> Golden:
    return request.config.stash[GOLDEN]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per recorded mel, per recorded token trace and per recorded stream."""
    golden = metafunc.config.stash[GOLDEN]
    patterns = {
        "recorded_mel": ("flow_io", r"(mel_P(\d+)_N(\d+)_(full|stream)_(fin|nofin))"),
        "streamed_mel": ("flow_io", r"(mel_P(\d+)_N(\d+)_stream_fin)"),
        "recorded_tokens": ("llm_io", r"(gen_(bi|uni)_(prompt|noprompt)(?:_(\d+))?)"),
    }
    for fixture, (file, pattern) in patterns.items():
        if fixture in metafunc.fixturenames:
            found = [match.groups() for name in golden.names(file) if (match := re.fullmatch(pattern, name))]
            metafunc.parametrize(fixture, found, ids=[groups[0] for groups in found])
    if "recorded_stream" in metafunc.fixturenames:
        streams = golden.streams()
        metafunc.parametrize("recorded_stream", streams.items(), ids=streams.keys())
    if "growing_prompt" in metafunc.fixturenames:
        found = [re.fullmatch(r"mel_P(\d+)_prefix\d+_stream_nofin", name) for name in golden.names("flow_io")]
        metafunc.parametrize("growing_prompt", sorted({int(match[1]) for match in found if match}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    golden = config.stash[GOLDEN]
    if not golden.given:
        return
    terminalreporter.section(f"largest error of each tensor of {golden.folder}")
    for (file, name), (error, allowed) in sorted(golden.errors.items()):
        mark = "" if error <= allowed else "  TOO FAR"
        terminalreporter.write_line(f"{file:26} {name:44} {error:8.1e}  allowed {allowed:.0e}{mark}")
