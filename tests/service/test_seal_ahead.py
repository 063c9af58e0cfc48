"""Sealing ahead of the pack boundary: what lies half a ring back is sealed, and nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from agent.clock import SteadyClock
from agent.pack import BirthTable, Packer
from agent.poll import DevicePoll
from agent.service.db_thread import DatabaseThread
from agent.service.seal_jobs import Stream
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
            stream.record(number, [self.ring.append_values(number, tick, tick * 1_000_000, 1, values)], True)

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
