"""Simulated lines for scans, and commands run in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MadeUpTime
from tests.kits.scans import Park


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def mh(capsys: pytest.CaptureFixture[str], field: Park) -> Callable[..., Said]:
    """Run a command line here."""

    def run(*args: str | Path) -> Said:
        capsys.readouterr()
        code = field.outcome([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Said(code, out, err)

    return run


@pytest.fixture
def field() -> Park:
    return Park()


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"made-up time": MadeUpTime}
