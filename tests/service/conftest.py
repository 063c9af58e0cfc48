"""Scenarios of one file run side by side: most of their time is waiting for an agent, a broker or a clock."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from service_kit import House

AT_ONCE = 5
Play = Callable[[Path, House], Any]


@pytest.fixture(scope="module")
def plays(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Any]]]:
    """Runs every ``play_NAME`` of the file whose ``test_NAME`` was selected; all have ended before the first test."""
    if not shutil.which("mosquitto"):
        pytest.skip("no mosquitto here")
    selected = {item.originalname for item in request.session.items if item.module is request.module}  # type: ignore[attr-defined]
    wanted: dict[str, Play] = {
        name: function
        for name, function in vars(request.module).items()
        if name.startswith("play_") and getattr(function, "tests", {name.replace("play_", "test_", 1)}) & selected
    }

    def run(play: Play, folder: Path) -> Any:
        with House(folder) as house:
            return play(folder, house)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {name: pool.submit(run, play, tmp_path_factory.mktemp(name)) for name, play in wanted.items()}
    yield futures


@pytest.fixture
def played(request: pytest.FixtureRequest, plays: dict[str, Future[Any]]) -> Any:
    """What the scenario of this test returned; what it raised is raised here."""
    test = request.node.originalname
    for name, future in plays.items():
        play = getattr(request.module, name)
        if test in getattr(play, "tests", {name.replace("play_", "test_", 1)}):
            return future.result()
    raise LookupError(f"no scenario for {test}")
