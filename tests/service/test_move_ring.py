"""Devices that continue in another ring: also one that was identified meanwhile, and one whose table cannot be kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.pack import BirthTable, Packer
from agent.service.devices import DeviceManager, RingMove, move_to_ring
from agent.service.seal_jobs import Stream
from agent.store import StoreDamaged, StoreFull
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
