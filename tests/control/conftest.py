"""The control socket: served in a thread here, or by an agent of its own user among other users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.cli.main import outcome
from tests.kits.control import Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as running:
        yield running


@pytest.fixture
def mh(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """(exit code, stdout, stderr) of a command line."""

    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = outcome([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err, err
        return code, out, err

    return run
