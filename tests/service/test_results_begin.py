"""Results that waited for a silent meter begin where they first could, also after a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.config import load_config
from agent.service.results.publisher import ResultPublisher
from agent.store import Store

HOUR = 3_600_000
NOON = 1_795_780_800_000
CONFIG = """[site]
id = "park7"
gateway = "gw01"
timezone = "Asia/Shanghai"

[interval]
length = "5 min"
"""


class Desk:
    """The database thread, as results use it."""

    def __init__(self, store: Store) -> None:
        self.store, self.on_committed = store, None

    async def call(self, work: Callable[[Store], Any]) -> Any:
        return work(self.store)


async def start(folder: Path, now_ms: int, *, producers: bool = True) -> int:
    """An agent's start; from when on it makes results."""
    (folder / "agent.toml").write_text(CONFIG)
    store = Store.open(folder / "store.db")
    begins: list[int] = []

    def packer(stream: str, from_ms: int) -> Any:
        begins.append(from_ms)
        return SimpleNamespace(from_ms=from_ms, use=lambda table: None)

    clock, sealing = SimpleNamespace(now_ms=lambda: now_ms), SimpleNamespace(streams={})
    intervals = ResultPublisher(load_config(folder / "agent.toml"), Desk(store), sealing, clock, packer)  # type: ignore[arg-type]
    intervals.producers = [SimpleNamespace()] if producers else []  # type: ignore[list-item]
    await intervals.open(None, SimpleNamespace(stream="park7/gw01/_indicators"))  # type: ignore[arg-type]
    store.close()
    return begins[0]


async def test_a_restart_while_the_first_results_wait_loses_none(tmp_path: Path) -> None:
    """Kills ten minutes apart, and nothing of a day was signed: nothing said so either."""
    assert await start(tmp_path, NOON + 45_000) == NOON
    assert await start(tmp_path, NOON + 11 * 60_000) == NOON
    assert await start(tmp_path, NOON + HOUR) == NOON


@pytest.mark.parametrize("later", [48 * HOUR, -48 * HOUR])
async def test_what_lies_far_away_is_another_time(tmp_path: Path, later: int) -> None:
    """A clock that was wrong at first, or a gateway that was put away."""
    assert await start(tmp_path, NOON) == NOON
    assert await start(tmp_path, NOON + later) == NOON + later


async def test_results_that_are_wanted_later_begin_then(tmp_path: Path) -> None:
    assert await start(tmp_path, NOON, producers=False) == NOON
    assert await start(tmp_path, NOON + HOUR) == NOON + HOUR
    assert await start(tmp_path, NOON + 2 * HOUR) == NOON + HOUR
