"""Sealing ahead of the pack boundary: what lies half a ring back is sealed, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from agent.clock import SteadyClock
from agent.pack import BirthTable, Packer
from agent.poll import DevicePoll
from agent.service import sealing
from agent.service.db_thread import DatabaseThread
from agent.service.seal_jobs import SealJob, Stream
from agent.service.sealing import SealScheduler
from agent.store import Store, StoreFull
from drivers.model import Reason
from ext.ring import Ring

T0 = 1_795_500_000_000
CLOCK: dict[str, Any] = {"error_ms": None, "kernel_boot": "0" * 36, "mono_ms": 1, "synced": True}
POINTS = [{"n": f"x.p{n}", "u": "W", "kind": "gauge", "pace": "fast", "period": 1, "phase": 0} for n in range(62)]
SLOTS = 64  # of an answer
RING = 1 << 16  # 4,096 slots: 64 answers


class Settled:
    """A device whose ticks before ``settled_ms`` are settled."""

    idle, first_ms = True, 0

    def __init__(self) -> None:
        self.settled_ms = 1 << 62

    def awaits_first_record(self, now_ms: int) -> bool:
        return False


class Site:
    """Streams on one small ring, a clock of its own, and a store that can be full."""

    def __init__(self, folder: Path) -> None:
        self.now_ms, self.full = T0, False
        self.steady = SteadyClock(lambda: self.now_ms * 1_000_000, lambda: (self.now_ms - T0) * 1_000_000)
        self.db_thread = DatabaseThread(lambda: self._store(folder), lambda: CLOCK)
        self.sealing = SealScheduler(self.db_thread, self.steady, 900_000)
        self.db_thread.on_trouble = self.sealing.set_trouble
        self.ring = Ring.create(str(folder / "ring"), RING, 7, 8, bytes(32))
        self.streams: dict[str, Stream] = {}
        self.polls: dict[str, Settled] = {}
        for n, name in enumerate(("_gateway", "a", "b")):
            points = [] if name == "_gateway" else POINTS
            table = BirthTable(f"p/g/{name}", {"config": None, "device": None, "points": points})
            stream = Stream(
                table.stream, Packer(table.stream, "0" * 15 + "1", None, lambda payload: "e30..sig", T0, 65536), T0
            )
            stream.switch_table(n, table, T0, self.ring)
            self.streams[name] = stream
        self.sealing.open(self.streams["_gateway"])
        for name in ("a", "b"):
            self.polls[name] = Settled()
            self.sealing.add(self.streams[name], cast(DevicePoll, self.polls[name]))

    def _store(self, folder: Path) -> Store:
        store = Store.open(folder / "store.db")
        commit = store.packs.commit

        def narrow(packs: Any, *more: Any, **rest: Any) -> list[int]:
            if packs and self.full:
                raise StoreFull("no room", where="here")
            return commit(packs, *more, **rest)

        store.packs.commit = narrow  # type: ignore[method-assign]
        return store

    def read(self, name: str, count: int = 1) -> None:
        """Answers of a device, a second apart."""
        stream = self.streams[name]
        number = stream.table_version.number
        for _ in range(count):
            tick, self.now_ms = self.now_ms, self.now_ms + 1000
            values = [(n, tick // 1000 % 1000, 0, 0) for n in range(62)]
            position = self.ring.append_values(number, tick, tick * 1_000_000, 1, values)
            self.sealing.record(stream, number, [position], True)

    async def ahead(self) -> dict[str, int]:
        """One turn; how many readings of each stream it sealed."""
        before = {name: stream.readings for name, stream in self.streams.items()}
        await self.sealing.seal_ahead()
        return {
            name: (s.readings - before[name]) // 62 for name, s in self.streams.items() if s.readings > before[name]
        }

    async def ticks(self, name: str) -> list[int]:
        """Seconds after the start of every reading that is durable."""
        stream = f"p/g/{name}"
        packs = await self.db_thread.call(lambda s: [json.loads(p.data) for p in s.packs.after(stream, 0, 1 << 30)])
        assert not any("gaps" in pack for pack in packs), packs
        found: set[int] = set()
        base = 0.0
        for record in (record for pack in packs for record in pack.get("e", ())):
            base = record.get("bt", base)
            found.add(int(base + record.get("t", 0)) - T0 // 1000)
        return sorted(found)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    await made.db_thread.start()
    yield made
    await made.db_thread.stop()
    made.ring.close()


async def test_nothing_is_sealed_before_half_and_all_of_it_then(site: Site) -> None:
    for _ in range(31):
        site.read("a")
        assert await site.ahead() == {}
    site.read("a")
    assert await site.ahead() == {"a": 32} and await site.ahead() == {}
    assert await site.ticks("a") == list(range(32))


async def test_hours_between_two_boundaries_lose_nothing(site: Site) -> None:
    """The ring holds 64 s, the boundary is 15 minutes away."""
    for _ in range(900):
        site.read("a")
        await site.ahead()
    assert site.ring.overwritten > 700, "the ring came round many times"
    done = await site.ticks("a")
    assert done == list(range(len(done))) and len(done) >= 900 - 32


async def test_only_streams_that_lie_back_are_sealed_also_silent_ones(site: Site) -> None:
    site.read("b")
    site.streams["b"].quiet, site.streams["b"].start_ms = True, None
    site.streams["b"].packer.use(site.streams["b"].table_version.table)
    site.streams["b"].news = False
    site.read("a", 20)
    assert await site.ahead() == {}
    await site.sealing.seal(site.now_ms, [site.streams["a"]])
    site.read("a", 11)
    assert await site.ahead() == {"b": 1}, "its record would be overwritten; those of a are young"


async def test_a_device_that_is_being_asked_is_sealed_up_to_there(site: Site) -> None:
    site.read("a", 40)
    site.polls["a"].settled_ms = T0 + 5000
    assert await site.ahead() == {"a": 5}
    assert await site.ahead() == {}, "nothing more is settled: no empty pack a turn"
    site.polls["a"].settled_ms = 1 << 62
    assert await site.ahead() == {"a": 35}


async def test_a_store_that_cannot_commit_is_not_asked_every_turn(site: Site) -> None:
    site.full = True
    site.read("a", 33)
    assert await site.ahead() == {} and site.sealing.trouble
    site.full = False
    assert await site.ahead() == {}, "only after a while"
    site.sealing.set_trouble(None)
    assert await site.ahead() == {"a": 33}


async def test_another_ring_is_looked_at_from_its_own_beginning(site: Site, tmp_path: Path) -> None:
    site.read("a", 31)
    assert await site.ahead() == {}
    first, site.ring = site.ring, Ring.create(str(tmp_path / "ring.2"), RING, 9, 8, bytes(32))
    for n, name in enumerate(("_gateway", "a", "b"), 10):
        stream = site.streams[name]
        stream.switch_table(n, stream.table_version.table, site.now_ms, site.ring)
    assert site.sealing.rings() == {first, site.ring}
    site.read("a", 31)
    assert await site.ahead() == {}
    site.read("a")
    assert await site.ahead() == {"a": 63}, "a stream is sealed in order, the older ring first"
    await site.sealing.seal(site.now_ms, list(site.streams.values()))
    assert site.sealing.rings() == {site.ring}
    first.close()
    assert await site.ticks("a") == list(range(63))
    packs = await site.db_thread.call(lambda s: [json.loads(p.data) for p in s.packs.after("p/g/a", 0, 1 << 30)])
    assert sum("table" in pack for pack in packs) == 1, "the table is the same: no other birth"


async def test_an_answer_at_the_boundary_makes_the_next_pack_due(site: Site) -> None:
    """It was read before the empty pack up to it was sealed, and would have waited for a quarter of an hour."""
    stream = site.streams["a"]
    site.now_ms = T0 + 60_000
    site.read("a")  # the tick of the boundary
    assert await site.sealing.seal(T0 + 60_000, [stream])
    assert stream.readings == 0 and stream.quiet and stream.due(T0 + 120_000)
    assert await site.sealing.seal(T0 + 61_000, [stream])
    assert stream.readings == 62 and stream.recent_facts(1 << 62, T0 + 61_000, Reason.ABSENT) is not None
    site.now_ms = T0 + 120_000
    assert await site.sealing.seal(T0 + 120_000, [stream])
    assert stream.quiet and not stream.due(T0 + 180_000), "a device that is silent may wait"


async def comes(what: Callable[[], bool]) -> None:
    """Wait until it is so. A healthy run never waits for long."""
    async with asyncio.timeout(60):
        while not what():  # noqa: ASYNC110 - nothing says that it is so
            await asyncio.sleep(0.005)


async def test_the_record_that_fills_half_of_the_ring_wakes_the_sealing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No timer looks at the ring in between: the next boundary and the next turn are a quarter of an hour away."""
    monkeypatch.setattr(sealing, "TURN_MS", 900_000)
    monkeypatch.setattr(sealing, "AHEAD_S", 900.0)
    site.now_ms += 1000  # past the moment in which the boundary is looked at
    looks: list[int] = []
    ahead = site.sealing.seal_ahead

    async def seal_ahead() -> None:
        looks.append(site.ring.head)
        await ahead()

    async def turn() -> None:
        turns.append(site.ring.head)

    turns: list[int] = []
    site.sealing.on_turn = turn  # the last that ``run`` calls before it sleeps
    monkeypatch.setattr(site.sealing, "seal_ahead", seal_ahead)
    running = asyncio.create_task(site.sealing.run())
    try:
        await comes(lambda: bool(turns))
        await asyncio.sleep(0)
        stream, half = site.streams["a"], RING // 32  # in slots, which have 16 bytes
        site.read("a")
        await comes(lambda: len(looks) == 1)
        site.read("a", half // SLOTS - 1)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(looks) == 1 and not stream.readings and site.ring.head == half
        site.read("a")
        await comes(lambda: stream.readings == (half // SLOTS + 1) * 62)
        assert len(looks) == 2
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_many_streams_are_sealed_in_groups(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packs of thousands of devices were in memory until the last one was committed."""
    monkeypatch.setattr(sealing, "JOBS_AT_ONCE", 1)
    groups: list[Sequence[SealJob]] = []
    seal = site.db_thread.seal

    async def in_turn(jobs: Sequence[SealJob], whole: bool = False) -> int:
        assert not any(job.packs or job.sealed for group in groups[: full_at - 1] for job in group), "they are freed"
        groups.append(jobs)
        site.full = full_at == len(groups)
        return await seal(jobs, whole)

    monkeypatch.setattr(site.db_thread, "seal", in_turn)
    streams, full_at = [site.streams["a"], site.streams["b"]], 2
    site.read("a", 5)
    site.read("b", 5)
    assert not await site.sealing.seal(site.now_ms, streams)
    assert [s.readings // 62 for s in streams] == [5, 0] and not any(s.sealing for s in streams)
    assert site.sealing.trouble and len(groups) == 2
    site.read("b", 5)
    assert await site.sealing.seal(site.now_ms, streams)
    assert [s.readings // 62 for s in streams] == [5, 10] and not site.sealing.trouble
    assert [len(group) for group in groups] == [1] * 4
    assert await site.sealing.cut(site.now_ms, site.now_ms + 3_600_000)
    assert [len(group) for group in groups[4:]] == [1, 1, 1, 3], "a step is for all streams or for none"


async def test_a_burst_needs_the_whole_of_a_small_ring(site: Site) -> None:
    """24 devices, read at once every 10 s, filled 61 % of the ring: what was less than half a ring old stayed unsealed,
    and the next burst overwrote it.
    """
    site.sealing.seals_early = True
    for _ in range(20):
        site.read("a", 16)
        site.read("b", 16)
        assert await site.ahead() == {"a": 16, "b": 16}
        site.read("a", 4)
        site.read("b", 3)
        assert await site.ahead() == {}
        site.read("a", 25)
        assert await site.ahead() == {"a": 29, "b": 3}
    for stream in (site.streams["a"], site.streams["b"]):
        assert stream.oldest(site.ring) is None
