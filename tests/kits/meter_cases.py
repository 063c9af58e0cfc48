"""Runs commands of ``meterhouse decode`` in this process, for tests."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from agent.cli.decode import decode as group


def decode(command: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run ``meterhouse decode COMMAND ... --json``. Returns (exit code, the printed object)."""
    outcome = CliRunner().invoke(group, [command, *arguments, "--json"])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    found = json.loads(outcome.stdout)
    assert found["ok"] is (outcome.exit_code == 0)
    assert outcome.exit_code in (0, 4)
    return outcome.exit_code, found


def values(found: dict[str, Any]) -> list[Any]:
    return [reading["value"] for reading in found["readings"]]


@contextmanager
def flat_memory(most_mib: float = 8.0) -> Iterator[None]:
    """Assert that this process is less than ``most_mib`` larger after the block than before it."""

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    before = resident()
    yield
    assert resident() - before < most_mib
