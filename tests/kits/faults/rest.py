"""Checks a copy of the store between two runs of an agent: does it have everything that it must have?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.store import Store
from agent.verify import Report, Verdict, Verifier
from ext.ring import ANSWER, Ring
from tests.kits.faults.tally import Ledger, Tally
from tests.kits.house import Agent, Heard, Name, until


class AtRest:
    """Follows a store over many deaths of the agent. Each ``look`` reads only new packs, but judges all so far."""

    def __init__(self, folder: Path, kid: str) -> None:
        self._folder = folder
        self._verifier = Verifier([kid])
        self._last: dict[str, int] = {}
        self.packs: dict[Name, bytes] = {}
        self.heads: dict[str, int] = {}  # stream -> to_ms

    def look(self, state: Path) -> list[dict[str, Any]]:
        """The packs that are new since the last look. Asserts that all packs up to here are valid."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        for path in state.glob("store.db*"):
            if path.suffix in (".db", ".db-wal"):
                shutil.copy(path, self._folder / path.name)
        if not (self._folder / "store.db").exists():
            return []
        new: list[dict[str, Any]] = []
        store = Store.open(self._folder / "store.db", 16 << 20)
        try:
            assert store.quarantine is None, store.quarantine
            if kept := store.keys.newest():
                self._verifier.feed(kept[1])
            for stream, head in store.packs.heads().items():
                self.heads[stream] = head.to_ms
                while page := store.packs.after(stream, self._last.get(stream, 0), head.seq):
                    for pack in page:
                        self.packs[pack.stream, pack.boot, pack.seq] = pack.data
                        self._verifier.feed(pack.data)
                        new.append(json.loads(pack.data))
                    self._last[stream] = page[-1].seq
        finally:
            store.close()
        report = self.report()
        assert report.verdict in (Verdict.VERIFIED, Verdict.NOTHING), (report.reasons, report.faults[:5])
        return new

    def report(self) -> Report:
        return self._verifier.report()

    def unstored(self, heard: Sequence[Heard]) -> list[Name]:
        """Published packs that are not in the store with the same bytes. There must be none (promise 2)."""
        found = []
        for message in heard:
            if message.road in ("readings", "backfill"):
                pack = json.loads(message.payload)
                name = (pack["stream"], pack["boot"], pack["seq"])
                if self.packs.get(name) != message.payload:
                    found.append(name)
        return found


class Survivors:
    """Checks, over many deaths of the agent, that each served number is once in the store or still in a ring.

    ``held``: numbers that rings held, by device. ``on_the_wire``: numbers whose answers were cut off, by device. One
    death cuts off at most one answer of a device.
    """

    def __init__(self, rest: AtRest, meters: Mapping[str, Tally], period_ms: int) -> None:
        self._rest, self._meters = rest, meters
        self._ledgers = {name: Ledger(name, meter, period_ms) for name, meter in meters.items()}
        self.held: dict[str, set[int]] = {name: set() for name in meters}
        self.on_the_wire: dict[str, set[int]] = {name: set() for name in meters}

    def hold(self, rings: Sequence[Path]) -> None:
        """Record the numbers in these rings. They must have arrived in the end."""
        for name, numbers in in_rings(rings, self._meters).items():
            self.held[name] |= numbers

    def check(self, state: Path, rings: Sequence[Path], heard: Sequence[Heard], death: str) -> None:
        """Assert that no number is lost or sealed twice, and that all published packs are in the store."""
        new = self._rest.look(state)
        self.hold(rings)
        for name, ledger in self._ledgers.items():
            ledger.take(new)
            assert not ledger.twice, f"{death}: {name}: {ledger.twice} are sealed twice"
            gone = set(ledger.missing) - self.held[name] - self.on_the_wire[name]
            assert len(gone) <= 1, f"{death}: {name}: {sorted(gone)} were served and are nowhere"
            self.on_the_wire[name] |= gone
        assert not (lost := self._rest.unstored(heard)), f"{death}: published, and not in the store: {lost}"

    def check_end(self, books: Mapping[str, Ledger]) -> None:
        """Assert that all numbers arrived, except those whose answers a death cut off."""
        for name, book in books.items():
            may = self.on_the_wire[name]
            assert set(book.missing) == may, f"{name}: {book.missing} did not come, {may} may"


def in_rings(rings: Sequence[Path], meters: Mapping[str, Any]) -> dict[str, set[int]]:
    """The numbers in these rings, by device."""
    numbers: set[int] = set()
    for path in rings:
        ring = Ring.open(str(path))
        try:
            for record in ring.scan(ring.tail, ring.head):
                if record.kind == ANSWER:
                    numbers |= {v.mantissa * 10**v.exponent for v in record.values if v.exponent >= 0}
        finally:
            ring.close()
    return {
        name: {n for n in numbers if meter.first < n < meter.first + 1_000_000 and n in meter.served}
        for name, meter in meters.items()
    }


def killed(agent: Agent, meters: Mapping[str, Any]) -> dict[str, set[int]]:
    """Kill the agent when its rings hold readings of each device that are not sealed. Returns their numbers."""
    held = until(lambda: all((found := in_rings(agent.rings, meters)).values()) and found, what=lambda: agent.said)
    assert held
    agent.kill()
    left = in_rings(agent.rings, meters)
    return {name: numbers | left[name] for name, numbers in held.items()}
