"""A token in software, if one is here; and what was not tried, said at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.cli.main import outcome
from tests.kits import tokens as token_kit
from tests.kits.tokens import Token

SKIPPED: list[str] = []


@pytest.fixture(scope="session")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Token]:
    """One for all tests: the library reads its configuration once in the life of a process."""
    if why := token_kit.why_no_token():
        if why not in SKIPPED:
            SKIPPED.append(why)
        pytest.skip(why)
    made = Token(tmp_path_factory.mktemp("token"), token_kit.module())
    before = {name: os.environ.get(name) for name in made.env}
    os.environ.update(made.env)
    yield made
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A skip nobody hears of looks like a test that passed."""
    for why in SKIPPED:
        terminalreporter.write_line(f"keys in tokens were not tried: {why}")


@pytest.fixture
def mh(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """(exit code, stdout, stderr) of a command line, without the configuration of an agent installed here."""
    monkeypatch.setenv("MH_CONFIG", str(tmp_path / "none.toml"))

    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = outcome([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err, err
        return code, out, err

    return run
