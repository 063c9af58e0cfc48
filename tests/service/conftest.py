"""Scenarios run side by side: most of their time is waiting for an agent, a broker or a clock."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.kits.house import House

AT_ONCE = 6
LONGEST_FIRST = (
    "play_figures_at_the_end_of_a_year",
    "play_keys_change_hands",
    "play_a_broker_that_was_away",
    "play_the_field",
    "play_steps_of_an_hour",
    "play_a_mangled_name",
)
Play = Callable[[Path, House], Any]


def tests_of(name: str, play: Play) -> set[str]:
    """``play_NAME`` is the scenario of ``test_NAME``, or of the tests that its attribute ``tests`` names."""
    return getattr(play, "tests", {name.replace("play_", "test_", 1)})


def skipped(item: pytest.Item) -> bool:
    return any(mark.args and mark.args[0] for mark in item.iter_markers("skipif"))


def run(play: Play, folder: Path) -> Any:
    with House(folder) as house:
        return play(folder, house)


@pytest.fixture(scope="session")
def plays(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Any]]]:
    """Runs the scenarios of all tests that were selected; all have ended before the first of these tests begins."""
    if not shutil.which("mosquitto"):
        pytest.skip("no mosquitto here")
    wanted: dict[str, Play] = {}
    for item in request.session.items:
        if "played" not in getattr(item, "fixturenames", ()) or skipped(item):
            continue
        for name, play in vars(item.module).items():  # type: ignore[attr-defined]
            if name.startswith("play_") and item.originalname in tests_of(name, play):  # type: ignore[attr-defined]
                wanted[name] = play

    order = sorted(wanted, key=lambda name: LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {name: pool.submit(run, wanted[name], tmp_path_factory.mktemp(name)) for name in order}
    yield futures


@pytest.fixture
def played(
    request: pytest.FixtureRequest, plays: dict[str, Future[Any]], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """What the scenario of this test returned; what it raised is raised here. A second chance is a scenario anew."""
    for name, future in plays.items():
        play = getattr(request.module, name, None)
        if play is not None and request.node.originalname in tests_of(name, play):
            if getattr(request.node, "execution_count", 1) > 1:
                return run(play, tmp_path_factory.mktemp(name))
            return future.result()
    raise LookupError(f"no scenario for {request.node.name}")
