"""Sealing that pauses for days, as on a full disk: bounded while it lasts, and quick when it goes on."""

from __future__ import annotations

import asyncio
import json
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest

from agent.clock import SteadyClock
from agent.keys import create_key
from agent.pack import BirthTable, Head, Packer
from agent.service.db_thread import DatabaseThread
from agent.service.seal_jobs import SealJob, SealSegment, Stream
from agent.service.sealing import SealScheduler
from drivers.model import Reason
from ext.ring import Ring

T0 = 1_795_500_000_000
NAME = "park7/gw01/m1"
CLOCK = {"error_ms": None, "kernel_boot": "0b6f3c0e-8a5e-4c1f-9d53-0c2f8f1a7e11", "mono_ms": 1, "synced": None}
POINT = {"u": "W", "kind": "gauge", "pace": "fast", "period": 1, "phase": 0}
DAYS_MS = 5 * 86_400_000


def calls_of(work: Callable[[], object]) -> int:
    """How many functions this calls, in Python and below: what it costs, on any machine."""
    calls = 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    made = Ring.create(str(tmp_path / "ring"), 1 << 16, 5, 6, bytes(32))
    yield made
    made.close()


@pytest.fixture
def stream(tmp_path: Path, ring: Ring) -> Stream:
    table = BirthTable(NAME, {"config": None, "device": None, "points": [{"n": f"x.p{n}", **POINT} for n in range(50)]})
    sign = create_key(tmp_path / "signing.key", T0 // 1000).signer("mh-pack")
    packer = Packer(NAME, "3f2a9c41d07be815", None, sign, T0, 65_536)
    made = Stream(NAME, packer, T0)
    made.switch_table(0, table, T0, ring)
    made.start_ms = None
    packer.use(table)
    return made


def read(ring: Ring, tick_ms: int) -> int:
    return ring.append_values(0, tick_ms, (tick_ms + 5) * 1_000_000, 1, [(n, n, 0, 0) for n in range(50)])


def test_days_of_nothing_are_one_gap_and_cost_no_time(ring: Ring, stream: Stream) -> None:
    """Tick by tick they took 2.6 s and 50 MB for three days of one device, with the database thread in the middle."""
    # field pain 46 and 55
    places = array("Q", (read(ring, T0 + n * 1000) for n in range(200)))  # more than the ring holds
    places.extend(read(ring, T0 + DAYS_MS + n * 1000) for n in range(20))
    assert places[0] < ring.tail
    kept = array("Q", (place for place in places if place >= ring.tail and place in places[200:]))
    end = T0 + DAYS_MS + 20_000
    shape = stream.table_version
    job = SealJob(stream, end, [SealSegment(ring, 0, shape.table, kept, end)], [], Reason.DISK)
    calls = calls_of(lambda: job.seal(CLOCK))
    packs = [json.loads(pack.data) for pack in job.packs]
    assert calls < DAYS_MS / 1000, "not even one for each tick"
    assert all(a["to"] == b["from"] for a, b in pairwise(packs))
    assert (packs[0]["from"], packs[-1]["to"]) == (T0 / 1000, end / 1000)
    assert {gap["reason"] for pack in packs for gap in pack.get("gaps", ())} == {"disk"}
    gone = sum(gap["to"] - gap["from"] for pack in packs for gap in pack.get("gaps", ()))
    assert gone == DAYS_MS / 1000 and all(gap["points"] == "*" for pack in packs for gap in pack.get("gaps", ()))
    assert sum(len(pack.get("e", ())) for pack in packs) == 20 * 50


def test_a_device_that_was_never_read_meanwhile(ring: Ring, stream: Stream) -> None:
    job = SealJob(
        stream,
        T0 + DAYS_MS,
        [SealSegment(ring, 0, stream.table_version.table, array("Q"), T0 + DAYS_MS)],
        [],
        Reason.STOPPED,
    )
    job.seal(CLOCK)
    packs = [json.loads(pack.data) for pack in job.packs]
    (gap,) = packs[-1]["gaps"]
    assert (gap["from"], gap["to"], gap["reason"]) == (T0 / 1000, (T0 + DAYS_MS) / 1000, "stopped")


def test_a_start_whose_first_packs_had_to_wait_was_stopped_before(ring: Ring, stream: Stream) -> None:
    """Whatever keeps the first packs of a boot from being sealed: until its start nobody ran."""
    # found by the fault harness: a disk that failed right after the start was blamed for the time before it
    start = T0 + 5_000
    places = array("Q", (read(ring, start + n * 1000) for n in range(3)))
    shape = stream.table_version
    job = SealJob(
        stream, start + 4_000, [SealSegment(ring, 0, shape.table, places, start + 4_000)], [], Reason.DISK, start
    )
    job.seal(CLOCK)
    packs = [json.loads(pack.data) for pack in job.packs]
    gaps = [(gap["from"], gap["to"], gap["reason"]) for pack in packs for gap in pack.get("gaps", ())]
    assert gaps == [(T0 / 1000, start / 1000, "stopped"), (start / 1000 + 3, start / 1000 + 4, "disk")]


class FullDisk:
    """Commits nothing."""

    async def seal(self, jobs: Sequence[SealJob], whole: bool = False) -> int:
        return 0


async def test_what_waits_does_not_outgrow_the_ring(ring: Ring, stream: Stream) -> None:
    """Promise 7: only what the ring still holds is remembered while nothing can be sealed."""
    # field pain 55
    sealing = SealScheduler(cast(DatabaseThread, FullDisk()), SteadyClock(), 1000)
    sealing.open(stream)
    for n in range(5_000):
        stream.record(0, [read(ring, T0 + n * 1000)], True)
        if n % 100 == 0:
            assert not await sealing.cut(T0 + n * 1000, T0 + n * 1000)
    await asyncio.sleep(0)
    assert not await sealing.cut(T0 + 5_000_000, T0 + 5_000_000)
    assert len(stream.table_version.positions) <= ring.slots // 52 + 1
    assert stream.table_version.positions[0] >= ring.tail


@pytest.mark.parametrize("known", [True, False])
def test_a_stream_begins_where_its_device_was_first_reached(tmp_path: Path, ring: Ring, known: bool) -> None:
    """What an earlier run sealed is followed by the gap ``stopped`` up to there; a new stream has nothing before."""
    table = BirthTable(NAME, {"config": None, "device": None, "points": [{"n": f"x.p{n}", **POINT} for n in range(50)]})
    sign = create_key(tmp_path / "signing.key", T0 // 1000).signer("mh-pack")
    head = Head("0b6f3c0e8a5e4c1f", 7, "A" * 43, T0 - 60_000) if known else None
    stream = Stream(NAME, Packer(NAME, "3f2a9c41d07be815", head, sign, T0, 65_536), T0)
    stream.switch_table(0, table, T0, ring)
    assert stream.begin_at(T0 + 3000)
    stream.record(0, [read(ring, T0 + 3000)], True)
    assert not stream.begin_at(T0 + 4000), "something is recorded"
    job = stream.job(T0 + 4000)
    job.seal(CLOCK)
    packs = [json.loads(pack.data) for pack in job.packs]
    gaps = [gap for pack in packs for gap in pack.get("gaps", ())]
    stopped = {"from": T0 // 1000 - 60, "points": "*", "reason": "stopped", "to": T0 // 1000 + 3}
    assert gaps == ([stopped] if known else [])
    assert packs[0]["from"] == (T0 // 1000 - 60 if known else T0 // 1000 + 3)
    assert len(packs[-1]["e"]) == 50 and packs[-1]["to"] == T0 // 1000 + 4
    assert not stream.begin_at(T0 + 5000), "a job is under way"
