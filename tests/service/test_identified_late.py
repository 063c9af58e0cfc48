"""A device is identified anew at a tick while an older tick of another pace still waits for its poll."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.pack import BirthTable, Packer
from agent.poll import DevicePoll
from agent.service.identity import IdentityChecker
from agent.service.seal_jobs import Stream
from drivers.model import PACES
from ext.ring import Ring
from tests.agent.test_poll import FakeDriver, spec

T = 1_795_500_000_000
FAST, SLOW = 1 << PACES.index("fast"), 1 << PACES.index("slow")
NAME = "p/g/m1"


def table(config: str) -> BirthTable:
    points = [
        {"n": name, "kind": "gauge", "pace": pace, "period": period, "phase": 0, "u": unit, "source": {"type": "u16"}}
        for name, pace, period, unit in (("ac.power.active", "fast", 2, "W"), ("ac.frequency", "slow", 5, "Hz"))
    ]
    return BirthTable(NAME, {"config": config, "device": {}, "points": points})


@pytest.mark.parametrize("has_read", [True, False])
async def test_an_older_tick_is_late_and_not_lost(tmp_path: Path, has_read: bool) -> None:
    """Its reading came under the new table, which begins later: it was dropped, and its gap said `stopped`.

    At the first contact the new table begins with the stream, so the older tick is simply read.
    """
    ring = Ring.create(str(tmp_path / "ring"), 1 << 16, 1, 1, bytes(32))
    packer = Packer(NAME, "00000000000000aa", None, lambda body: "x..y", T, 1 << 16)
    stream, driver = Stream(NAME, packer, T), FakeDriver(spec("m1", 2000, 5000), 1)
    stream.switch_table(1, table("a"), T, ring)
    poll = DevicePoll(cast(Any, driver), ring, T, stream.record)

    def visit(tick_ms: int, *points: int) -> None:
        values = [(point, 5, 0, 0) for point in points]
        poll.record([ring.append_values(driver.table, tick_ms, tick_ms * 1_000_000, 0, values)], True)
        poll.visit_ended()

    for tick_ms, paces, points in ((T, FAST | SLOW, (0, 1)), (T + 2000, FAST, (0,)), (T + 4000, FAST, (0,))):
        poll.advance(tick_ms)
        poll.take(tick_ms, paces)
        if has_read:
            visit(tick_ms, *points)
    poll.advance(T + 6000)
    poll.take(T + 6000, FAST)

    async def register(ring: Ring, tables: object) -> None:
        pass

    checker = IdentityChecker(cast(Any, None), cast(Any, None), register, lambda: 2)
    device = SimpleNamespace(poll=poll, stream=stream, config=None, profile=None, identity=None)
    catalog = SimpleNamespace(known={}, spec=lambda *given: driver.spec, table=lambda *given: table("b"))
    await checker._identified(cast(Any, device), {}, T + 6000, cast(Any, catalog))
    visit(T + 6000, 0)
    assert poll.deadline()[1:] == ((0, 0) if has_read else (T + 5000, SLOW))
    if has_read:
        job = stream.job(T + 8000)
        job.seal({})
        packs = [json.loads(pack.data) for pack in job.packs]
        assert [pack["table"]["config"] for pack in packs if "table" in pack] == ["a", "b"]
        gaps = [(gap["reason"], gap["from"], gap["to"]) for pack in packs for gap in pack.get("gaps", ())]
        assert gaps == [("overload", T // 1000 + 5, T // 1000 + 6)]
    ring.close()
