"""Two rings of one boot, as a kill in the change from one to the other leaves them; a real store and real rings."""

from __future__ import annotations

import json
import os
import secrets
from array import array
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent.keys import Signer, create_key
from agent.pack import BirthTable
from ext.ring import Ring
from tests.service.test_recover import CLOCK, NAME, OTHER, T0, TABLE, Run


class TwoRings(Run):
    """A run whose reload made a second ring. Table 0 of the first ring is table 10 of the second."""

    def begin_second(self, table: BirthTable = TABLE) -> Ring:
        assert self.ring
        path = self.folder / f"ring.{self.boot}.2"
        self.first, self.ring = self.ring, Ring.create(str(path), 1 << 17, secrets.randbits(63), 7, bytes(32))
        self.store.documents.register_tables(self.ring.ring_id, [(10, table.stream, json.loads(table.encoded))])
        return self.ring

    def rings(self) -> list[str]:
        return sorted(path.name.replace(self.boot, "BOOT") for path in self.folder.glob("ring.*"))

    def die(self) -> None:
        if hasattr(self, "first"):
            self.first.close()
        super().die()


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return create_key(tmp_path / "signing.key", T0 // 1000)


@pytest.fixture
def runs(tmp_path: Path, signer: Signer) -> Iterator[Callable[[], TwoRings]]:
    made: list[TwoRings] = []

    def start() -> TwoRings:
        made.append(TwoRings(tmp_path, signer))
        return made[-1]

    yield start
    made[-1].die()


def gaps(packs: list[dict[str, Any]]) -> list[tuple[float, float, str]]:
    return [(g["from"] - T0 / 1000, g["to"] - T0 / 1000, g["reason"]) for p in packs for g in p.get("gaps", ())]


def test_readings_of_both_rings_come_once_in_order_without_another_birth(runs: Callable[[], TwoRings]) -> None:
    run = runs()
    packer = run.begin(TABLE)
    positions = array("Q", [run.read(n, n) for n in range(6)])
    run.commit(packer.seal(run.ring, positions, T0 + 4000, CLOCK))  # type: ignore[arg-type]
    run.begin_second()
    for n in range(6, 10):
        run.read(n, n, 10)
    run.die()
    last = runs()
    assert last.recover(20).readings == 6
    assert last.values() == list(range(10)) and not list(last.folder.glob("ring.*"))
    packs = last.packs()
    assert all(a["to"] == b["from"] for a, b in pairwise(packs))
    assert gaps(packs) == [] and sum("table" in pack for pack in packs) == 2, "one a boot"


@pytest.mark.parametrize("newer_first", [False, True])
def test_the_order_is_that_of_the_names_not_of_the_clock(runs: Callable[[], TwoRings], newer_first: bool) -> None:
    run = runs()
    run.begin(TABLE)
    run.read(0, 0)
    run.begin_second()
    run.read(1, 1, 10)
    first, second = run.folder / f"ring.{run.boot}", run.folder / f"ring.{run.boot}.2"
    run.die()
    os.utime(second if newer_first else first, (1, 1))
    last = runs()
    last.recover(20)
    assert last.values() == [0, 1] and gaps(last.packs()) == []


def test_an_event_in_the_second_ring_that_is_older_than_the_next_tick_is_not_lost(
    runs: Callable[[], TwoRings],
) -> None:
    """Sealed on its own, the first ring would be sealed up to the next tick, and the event lies before it."""
    run = runs()
    run.begin(TABLE)
    run.read(0, 0)
    run.begin_second()
    run.note(0, {"event": "told", "t": T0 / 1000}, 10)
    run.die()
    last = runs()
    last.recover(20)
    assert [event["event"] for pack in last.packs() for event in pack.get("events", ())] == ["told"]


def test_a_stream_that_is_in_the_second_ring_already_takes_nothing_from_the_first(
    runs: Callable[[], TwoRings],
) -> None:
    """Killed between the last commit and the removal of the first ring."""
    run = runs()
    packer = run.begin(TABLE)
    positions = array("Q", [run.read(n, n) for n in range(3)])
    run.commit(packer.seal(run.ring, positions, T0 + 3000, CLOCK))  # type: ignore[arg-type]
    run.begin_second()
    positions = array("Q", [run.read(n, n, 10) for n in range(3, 6)])
    run.commit(packer.seal(run.ring, positions, T0 + 5000, CLOCK))  # type: ignore[arg-type]
    run.die()
    last = runs()
    assert last.recover(20).readings == 1 and last.values() == list(range(6))


def test_a_recovery_that_is_killed_before_it_removed_the_files_seals_nothing_twice(
    runs: Callable[[], TwoRings], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs()
    run.begin(TABLE)
    run.read(0, 0)
    run.begin_second()
    run.read(1, 1, 10)
    run.die()
    for removed in (0, 1):
        again = runs()
        unlink, calls = Path.unlink, iter(range(10))

        def killed(path: Path, *args: Any, n: int = removed, calls: Any = calls, unlink: Any = unlink) -> None:
            if next(calls) >= n:
                raise KeyboardInterrupt
            unlink(path)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "unlink", killed)
            again.recover(20)
        assert again.values() == [0, 1]
        again.die()
    last = runs()
    last.recover(30)
    assert last.values() == [0, 1] and not list(last.folder.glob("ring.*"))


def test_rings_that_never_came_into_use(runs: Callable[[], TwoRings]) -> None:
    """Killed while the second one was made, or before anything was written into it."""
    run = runs()
    run.begin(TABLE)
    run.read(0, 0)
    run.begin_second()
    (run.folder / f"ring.{run.boot}.3.new4711").write_bytes(bytes(1 << 16))
    run.die()
    last = runs()
    done = last.recover(20)
    assert (done.readings, done.lost_rings) == (1, []) and not list(last.folder.glob("ring.*"))


def test_damage_in_one_ring_keeps_nothing_of_the_other_back(runs: Callable[[], TwoRings]) -> None:
    run = runs()
    run.begin(TABLE)
    run.read(0, 0)
    run.begin_second(OTHER)
    run.read(1, 1, 10)
    run.read(2, 2, 11)  # a table that nobody knows
    boot = run.boot
    run.die()
    last = runs()
    assert last.recover(20).lost_rings == [f"ring.{boot}.2"]
    assert last.values() == [0, 1]
    assert [path.name for path in last.folder.glob("ring.*")] == [f"ring.{boot}.2.aside"]
    assert last.recover(30).lost_rings == [], "what is set aside stays there"


def test_two_rings_of_an_older_boot_come_before_that_of_the_next(runs: Callable[[], TwoRings]) -> None:
    """Two boots, the older one with two rings: all come, the older boot first."""
    old = runs()
    old.begin(TABLE)
    old.read(0, 0)
    old.begin_second()
    old.read(1, 1, 10)
    old.die()
    new = runs()
    new.begin(TABLE)
    new.read(5, 5)
    new.die()
    for path in new.folder.glob(f"ring.{old.boot}*"):
        os.utime(path, (1, 1))
    last = runs()
    last.recover(20)
    assert last.values() == [0, 1, 5] and last.packs()[0]["stream"] == NAME
