"""Scenarios run side by side: most of their time is waiting for an agent, a broker or a clock."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.kits.house import House

AT_ONCE = 6
Play = Callable[[Path, House], Any]


def tests_of(name: str, play: Play) -> set[str]:
    """``play_NAME`` is the scenario of ``test_NAME``, or of the tests that its attribute ``tests`` names."""
    return getattr(play, "tests", {name.replace("play_", "test_", 1)})


def skipped(item: pytest.Item) -> bool:
    return any(mark.args and mark.args[0] for mark in item.iter_markers("skipif"))


def run(play: Play, folder: Path) -> Any:
    with House(folder) as house:
        return play(folder, house)


@pytest.fixture(scope="module")
def plays(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[Any]]:
    """Runs the scenarios of a module's selected tests; all have ended before the first of these tests begins."""
    if not shutil.which("mosquitto"):
        pytest.skip("no mosquitto here (apt: mosquitto)")
    asked = {
        item.originalname
        for item in request.session.items
        if item.module is request.module and "played" in item.fixturenames and not skipped(item)
    }
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return {  # once the pool has ended: no thread or process of a scenario is charged to a test
            name: pool.submit(run, play, tmp_path_factory.mktemp(name))
            for name, play in vars(request.module).items()
            if name.startswith("play_") and asked & tests_of(name, play)
        }


@pytest.fixture
def played(request: pytest.FixtureRequest, plays: dict[str, Future[Any]]) -> Any:
    """What the scenario of this test returned; what it raised is raised here."""
    for name, future in plays.items():
        if request.node.originalname in tests_of(name, getattr(request.module, name)):
            return future.result()
    raise LookupError(f"no scenario for {request.node.name}")
