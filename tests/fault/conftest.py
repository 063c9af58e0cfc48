"""Runs the scenarios that the selected tests ask for side by side: most of their time is waiting.

A test says ``@pytest.mark.plays("broker_outages")`` and takes ``row`` (or ``rows``, by name, where it names several).
"""

from __future__ import annotations

import importlib
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kits.faults.rows import SCENARIOS, Row, play

HERE = Path(__file__).parent
AT_ONCE = 8
for file in sorted(HERE.glob("play_*.py")):  # they register their scenarios
    importlib.import_module(f"tests.fault.{file.stem}")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "plays(*names): the scenarios whose rows the test looks at")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # whichever of them comes first waits for all scenarios
        if HERE in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))


def names_of(item: pytest.Item) -> tuple[str, ...]:
    if any(mark.args and mark.args[0] for mark in item.iter_markers("skipif")):
        return ()
    return tuple(name for mark in item.iter_markers("plays") for name in mark.args)


@pytest.fixture(scope="module")
def played_rows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[Row]]:
    """All scenarios that were asked for, the longest first; all have ended before the first of these tests begins."""
    if not shutil.which("mosquitto"):
        pytest.skip("no mosquitto here (apt: mosquitto)")
    wanted = {name for item in request.session.items for name in names_of(item)}
    order = sorted(wanted, key=lambda name: -SCENARIOS[name].about_s * SCENARIOS[name].rounds)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return {
            name: pool.submit(play, name, SCENARIOS[name].rounds, 1, tmp_path_factory.mktemp(name)) for name in order
        }


@pytest.fixture
def rows(request: pytest.FixtureRequest, played_rows: dict[str, Future[Row]]) -> dict[str, Row]:
    """The rows of the scenarios that the test names; what one raised is raised here."""
    return {name: played_rows[name].result() for name in names_of(request.node)}


@pytest.fixture
def row(rows: dict[str, Row]) -> Row:
    """The row of a test that names one scenario."""
    (only,) = rows.values()
    return only
