"""Many lines start in groups, so that the first reading does not wait for the last connection."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.clock import SteadyClock
from agent.poll import LinePoller
from agent.service import devices
from agent.service.devices import LINES_AT_ONCE, DeviceManager


async def test_each_group_of_lines_is_full_before_the_next_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first group had one line less. After a reload, the lines that ran before counted too."""
    groups: dict[asyncio.Event, int] = {}

    async def counted(poller: LinePoller, turn: asyncio.Event) -> None:
        groups[turn] = groups.get(turn, 0) + 1
        await turn.wait()

    monkeypatch.setattr(devices, "_run_in_turn", counted)
    unused = cast(Any, None)
    manager = DeviceManager(unused, SteadyClock(), unused, unused, unused)
    counts = []
    for lines in (2 * LINES_AT_ONCE + 20, 3 * LINES_AT_ONCE + 30, 3 * LINES_AT_ONCE + 30):
        manager.devices = cast(Any, [
            SimpleNamespace(config=SimpleNamespace(line=f"line{n}"), poll=SimpleNamespace(working=False))
            for n in range(lines)
        ])  # fmt: skip
        groups.clear()
        manager.start_pollers()
        await asyncio.gather(*manager._tasks.values())  # ends: each group gets its turn
        counts.append(list(groups.values()))
    assert counts == [[LINES_AT_ONCE, LINES_AT_ONCE, 20], [LINES_AT_ONCE, 10], []]
    await manager.stop_pollers()


async def test_a_stop_ends_the_starts_of_all_lines_also_if_a_reload_began_more() -> None:
    """Only the newest start was cancelled, so the earlier one ran on after the stop."""
    unused = cast(Any, None)
    manager = DeviceManager(unused, SteadyClock(), unused, unused, unused)
    before = asyncio.all_tasks()
    for lines in (2 * LINES_AT_ONCE, 4 * LINES_AT_ONCE):
        manager.devices = cast(Any, [
            SimpleNamespace(config=SimpleNamespace(line=f"line{n}"), poll=SimpleNamespace(working=False))
            for n in range(lines)
        ])  # fmt: skip
        manager.start_pollers()
    assert [task.get_name() for task in asyncio.all_tasks() - before].count("lines in turn") == 2
    await manager.stop_pollers()
    assert asyncio.all_tasks() == before
