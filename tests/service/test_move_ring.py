"""Devices that continue in another ring: also one that was identified meanwhile, and one whose table cannot be kept.

The ring before is removed, and its tables are deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.pack import BirthTable, Packer
from agent.service.app import Service
from agent.service.devices import DeviceManager, RingMove, move_to_ring
from agent.service.rings import RingFiles, discard
from agent.service.seal_jobs import Stream
from agent.store import Store, StoreDamaged, StoreFull
from ext.ring import Ring

T0 = 1_795_500_000_000


def table(config: str) -> BirthTable:
    return BirthTable("p/g/m1", {"config": config, "device": None, "points": []})


class Poll:
    """A device that is idle; notes whether it may go on, and where it writes."""

    def __init__(self) -> None:
        self.paused, self.where = False, (0, 0)

    async def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def use_ring(self, ring: Ring, number: int) -> None:
        assert self.paused
        self.where = (ring.ring_id, number)


class Manager:
    """The parts of the device manager that a move needs."""

    def __init__(self, fails: Exception | None) -> None:
        self._fails, self._next, self.registered = fails, 100, list[tuple[int, int, BirthTable]]()
        self.pollers = {"roof": SimpleNamespace(wake=lambda: None)}
        self.ring: Ring | None = None

    def number(self) -> int:
        self._next += 1
        return self._next

    def cut_ms(self, device: Any) -> int:
        return T0 + 5000

    async def register(self, ring: Ring, tables: list[tuple[int, BirthTable]]) -> None:
        if self._fails is not None:
            raise self._fails
        self.registered += [(ring.ring_id, number, table) for number, table in tables]


@pytest.fixture
def rings(tmp_path: Path) -> Iterator[tuple[Ring, Ring]]:
    made = [Ring.create(str(tmp_path / f"ring.{n}"), 1 << 16, n, 1, bytes(32)) for n in (1, 2)]
    yield made[0], made[1]
    for ring in made:
        ring.close()


async def move(rings: tuple[Ring, Ring], known: BirthTable, now: BirthTable, fails: Exception | None = None) -> Any:
    stream = Stream("p/g/m1", cast(Packer, None), T0)
    stream.switch_table(0, now, T0, rings[0])
    stream.record(0, [7], True)
    device = SimpleNamespace(stream=stream, poll=Poll(), config=SimpleNamespace(name="m1", line="roof"))
    manager = Manager(fails)
    try:
        await move_to_ring(cast(DeviceManager, manager), rings[1], [RingMove(cast(Any, device), 10, known)])
    finally:
        assert not device.poll.paused and manager.ring is rings[1]
    return device, manager


async def test_it_continues_under_the_number_that_was_registered(rings: tuple[Ring, Ring]) -> None:
    known = table("a")
    device, manager = await move(rings, known, known)
    assert device.poll.where == (2, 10) and manager.registered == []
    versions = [(v.ring.ring_id, v.number, v.start_ms) for v in device.stream.table_versions]
    assert versions == [(1, 0, T0), (2, 10, T0 + 5000)]


async def test_a_device_that_was_identified_meanwhile_takes_its_new_table_along(rings: tuple[Ring, Ring]) -> None:
    now = table("b")
    device, manager = await move(rings, table("a"), now)
    assert device.poll.where == (2, 101) and manager.registered == [(2, 101, now)]
    assert device.stream.table_version.table is now


async def test_a_device_whose_table_cannot_be_kept_stays_in_the_first_ring(
    rings: tuple[Ring, Ring], caplog: pytest.LogCaptureFixture
) -> None:
    device, _ = await move(rings, table("a"), table("b"), StoreFull("no room", where="here"))
    assert device.poll.where == (0, 0) and device.stream.table_version.ring is rings[0]
    assert "m1 could not move to the new ring and stays in the previous ring: here: no room" in caplog.text


async def test_a_damaged_store_ends_it(rings: tuple[Ring, Ring]) -> None:
    with pytest.raises(StoreDamaged):
        await move(rings, table("a"), table("b"), StoreDamaged("not a database", where="here"))


class DatabaseThreadStub:
    """Runs functions at once; refuses so many of them first."""

    def __init__(self, store: Store, refusals: int) -> None:
        self._store, self.refusals = store, refusals

    async def call(self, function: Callable[[Store], Any]) -> Any:
        await asyncio.sleep(0)
        if self.refusals:
            self.refusals -= 1
            raise StoreFull("no room", where="here")
        return function(self._store)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Any]:
    """The parts of a service that has moved to its second ring; nothing is left in the first."""
    store, files = Store.open(tmp_path / "store.db"), RingFiles(tmp_path, "0" * 15 + "1")

    async def seal(now_ms: int, streams: object) -> None:
        await asyncio.sleep(0)

    sealing = SimpleNamespace(streams={}, seal=seal, rings=lambda: {files.current.ring})
    clock = SimpleNamespace(now_ms=lambda: T0)
    made = SimpleNamespace(rings=files, sealing=sealing, clock=clock, db_thread=DatabaseThreadStub(store, 0))
    for size in (1 << 16, 1 << 17):
        files.use(files.create(size, bytes(32)))
        made.first = getattr(made, "first", files.current.ring.ring_id)
        store.documents.register_tables(files.current.ring.ring_id, [(0, "p/g/m1", {"ring": size})])
    made.next, made.store = files.create(1 << 18, bytes(32)), store
    yield made
    discard(made.next)
    files.close(True)
    store.close()


def kept(service: Any) -> list[bool]:
    """Of the first ring, the second and the next: whether the store has its tables."""
    rings = [service.first, service.rings.current.ring.ring_id, service.next.ring.ring_id]
    return [bool(service.store.documents.tables(ring)) for ring in rings]


async def test_the_tables_of_a_removed_ring_are_deleted_at_the_next_turn_if_the_store_refuses_first(
    service: Any, tmp_path: Path
) -> None:
    """The ring was gone, so that no turn tried again, and its tables stayed until the next start."""
    service.db_thread.refusals = 2
    for _ in range(2):
        with pytest.raises(StoreFull):
            await Service.remove_sealed_rings(service)
        assert not service.rings.changing and not (tmp_path / f"ring.{0:015d}1").exists()
        assert kept(service) == [True, True, False]
    await Service.remove_sealed_rings(service)
    assert kept(service) == [False, True, False]
    service.db_thread.refusals = 1  # nothing is left to do, so that it is not asked
    await Service.remove_sealed_rings(service)


async def test_two_callers_remove_a_ring_once_and_keep_the_tables_of_a_ring_that_is_not_in_use_yet(
    service: Any,
) -> None:
    """A reload and the turn; and the next reload has stored its tables already."""
    service.store.documents.register_tables(service.next.ring.ring_id, [(0, "p/g/m1", {"ring": 3})])
    await asyncio.gather(*(Service.remove_sealed_rings(service) for _ in range(3)))
    assert kept(service) == [False, True, True] and not service.rings.removed
