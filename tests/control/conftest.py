"""The control socket: served in a thread here, or by an agent of its own user among other users."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.cli.main import outcome

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parent.parent / "service"))
sys.path.insert(2, str(Path(__file__).parent.parent / "line"))
sys.path.insert(3, str(Path(__file__).parent.parent / "export"))

from control_kit import Served


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
