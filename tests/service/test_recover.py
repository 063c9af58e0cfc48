"""What a killed run left in its ring: every case by hand, with a real store and a real ring."""

from __future__ import annotations

import json
import secrets
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.keys import Signer, create_key
from agent.pack import BirthTable, Head, Packer, SealedPack, base64url
from agent.service.recovery import Recovered, recover
from agent.store import Store
from ext.ring import Ring

T0 = 1_795_500_000_000
NAME = "park7/gw01/inv1"
CLOCK = {"error_ms": None, "kernel_boot": "0b6f3c0e-8a5e-4c1f-9d53-0c2f8f1a7e11", "mono_ms": 1, "synced": None}


def document(*names: str) -> dict[str, Any]:
    """A table of gauges that are due each second."""
    point = {"u": "W", "kind": "gauge", "pace": "fast", "period": 1, "phase": 0}
    return {"config": None, "device": None, "points": [{"n": name, **point} for name in names]}


class Run:
    """One boot on a store and a runtime directory; ``die`` leaves the ring as kill -9 does."""

    def __init__(self, folder: Path, signer: Signer) -> None:
        self.boot = secrets.token_bytes(8).hex()
        self.folder, self._sign = folder, signer.signer("mh-pack")
        self.open()
        self.packers: dict[str, Packer] = {}
        self.ring: Ring | None = None

    def open(self) -> None:
        """The store, as a start opens it."""
        self.store = Store.open(self.folder / "store.db", 16 << 20, destinations=["platform"])

    def packer(self, stream: str, from_ms: int = T0) -> Packer:
        if stream not in self.packers:
            known = self.store.packs.heads().get(stream)
            head = Head(known.boot, known.seq, base64url(known.hash), known.to_ms) if known else None
            self.packers[stream] = Packer(stream, self.boot, head, self._sign, from_ms, 65_536)
        return self.packers[stream]

    def begin(self, *tables: BirthTable) -> Packer:
        """A ring with these tables; the packer uses the first."""
        path = self.folder / f"ring.{self.boot}"
        self.ring = Ring.create(str(path), 1 << 16, secrets.randbits(63), int(self.boot, 16), bytes(32))
        self.store.documents.register_tables(
            self.ring.ring_id, [(n, table.stream, json.loads(table.encoded)) for n, table in enumerate(tables)]
        )
        self.packer(NAME).use(tables[0])
        return self.packer(NAME)

    def read(self, second: int, value: int, table: int = 0) -> int:
        """An answer at the tick ``second``."""
        assert self.ring
        tick = T0 + second * 1000
        return self.ring.append_values(table, tick, (tick + 5) * 1_000_000, 1, [(0, value, 0, 0)])

    def note(self, second: int, event: dict[str, Any], table: int = 0) -> None:
        assert self.ring
        self.ring.append_event(table, (T0 + second * 1000) * 1_000_000, 1, json.dumps(event).encode())

    def recover(self, second: int) -> Recovered:
        """What a start at ``second`` makes of the rings here."""
        return recover(self.store, self.folder, self.packer, CLOCK, T0 + second * 1000)

    def packs(self) -> list[dict[str, Any]]:
        """All that is stored."""
        return [json.loads(item.data) for item in self.store.packs.pending("platform", 0, 1000, 1 << 30)]

    def values(self) -> list[int]:
        return [record["v"] for pack in self.packs() for record in pack.get("e", ())]

    def commit(self, packs: list[SealedPack]) -> None:
        self.store.packs.commit(packs, {})

    def die(self) -> None:
        if self.ring:
            self.ring.close()
        self.store.close()


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return create_key(tmp_path / "signing.key", T0 // 1000)


@pytest.fixture
def runs(tmp_path: Path, signer: Signer) -> Iterator[Callable[[], Run]]:
    """``runs()`` starts the next boot; the one before must have died."""
    made: list[Run] = []

    def start() -> Run:
        made.append(Run(tmp_path, signer))
        return made[-1]

    yield start
    made[-1].die()


TABLE, OTHER = BirthTable(NAME, document("ac.power")), BirthTable(NAME, document("ac.power", "ac.voltage"))


def test_killed_before_its_very_first_pack(runs: Callable[[], Run]) -> None:
    """A stream without a head begins with what the ring holds, not with the start that recovers it."""
    # found by kills at random moments on a busy machine: a new installation, killed within its first second, twice
    for first in (10, 20):
        run = runs()
        run.begin(TABLE)
        for second in range(first, first + 3):
            run.read(second, second)
        run.die()
    last = runs()
    assert last.recover(60).readings == 6
    assert last.values() == [10, 11, 12, 20, 21, 22]
    packs = last.packs()
    assert packs[0]["from"] == T0 / 1000 + 10 and packs[0]["prev"] is None and packs[0]["seq"] == 1
    assert [(g["from"] - T0 / 1000, g["to"] - T0 / 1000, g["reason"]) for p in packs for g in p.get("gaps", ())] == [
        (13, 20, "stopped")
    ]


def test_what_was_sealed_is_not_sealed_again(runs: Callable[[], Run]) -> None:
    first = runs()
    packer = first.begin(TABLE)
    positions = array("Q", [first.read(n, n) for n in range(6)])
    first.commit(packer.seal(first.ring, positions, T0 + 4000, CLOCK))  # type: ignore[arg-type]
    first.die()
    second = runs()
    done = second.recover(20)
    assert (done.readings, done.lost_rings) == (2, []) and second.values() == [0, 1, 2, 3, 4, 5]
    assert not list(second.folder.glob("ring.*"))
    assert second.recover(20).packs == 0


def test_after_a_step_back_nothing_is_sealed_twice(runs: Callable[[], Run]) -> None:
    """The old records lie later than the head then; only their place in the ring tells that they are sealed."""
    first = runs()
    packer = first.begin(TABLE)
    first.commit(
        packer.seal(first.ring, array("Q", [first.read(n, n) for n in range(3600, 3603)]), T0 + 3_603_000, CLOCK)
    )  # type: ignore[arg-type]
    event = packer.step(T0 + 3000)
    first.commit(packer.seal(first.ring, array("Q"), T0 + 3000, CLOCK, [event]))  # type: ignore[arg-type]
    first.read(3, 77)
    first.die()
    second = runs()
    assert second.recover(20).readings == 1 and second.values() == [3600, 3601, 3602, 77]


def test_a_birth_alone_seals_no_reading(runs: Callable[[], Run]) -> None:
    first = runs()
    packer = first.begin(TABLE)
    first.commit(packer.seal(first.ring, array("Q", [first.read(0, 5)]), T0, CLOCK))  # type: ignore[arg-type]
    first.die()
    second = runs()
    second.recover(20)
    assert second.values() == [5]


def test_a_table_with_nothing_but_an_event(runs: Callable[[], Run]) -> None:
    """Killed between the event of a new identity and the first reading with it."""
    first = runs()
    first.begin(TABLE, OTHER)
    first.read(0, 1)
    first.note(1, {"event": "identity", "t": T0 // 1000 + 1}, table=1)
    first.die()
    second = runs()
    done = second.recover(20)
    assert done.readings == 1 and not done.lost_rings
    packs = second.packs()
    assert [len(p["table"]["points"]) for p in packs if "table" in p] == [1, 2]
    assert [e["event"] for p in packs for e in p.get("events", ())] == ["identity"]


def test_what_stands_before_damage_is_kept(runs: Callable[[], Run]) -> None:
    # field pain 52
    first = runs()
    first.begin(TABLE)
    places = [first.read(n, n) for n in range(5)]
    first.die()
    (path,) = first.folder.glob("ring.*")
    raw = bytearray(path.read_bytes())
    raw[4096 + 16 * places[3] + 6] = 99  # no kind of record
    path.write_bytes(raw)
    second = runs()
    done = second.recover(20)
    assert second.values() == [0, 1, 2]
    assert done.lost_rings == [path.name] and path.with_name(path.name + ".aside").exists()


def test_a_ring_that_the_store_does_not_know_is_set_aside(runs: Callable[[], Run]) -> None:
    first = runs()
    first.begin(TABLE)
    first.read(0, 1)
    first.store.documents.forget_rings([])
    first.die()
    second = runs()
    done = second.recover(20)
    assert done.lost_rings and not second.values()


def test_what_was_overwritten_is_gap_ring(runs: Callable[[], Run]) -> None:
    first = runs()
    packer = first.begin(TABLE)
    first.commit(packer.seal(first.ring, array("Q", [first.read(0, 0)]), T0 + 1000, CLOCK))  # type: ignore[arg-type]
    assert first.ring
    n = 0
    while not first.ring.overwritten or first.ring.tail < 200:
        n += 1
        first.read(n, n)
    first.die()
    second = runs()
    done = second.recover(n + 20)
    values = second.values()
    assert done.readings == len(values) - 1 and values[0] == 0 and values[-1] == n
    (gap,) = [g for p in second.packs() for g in p.get("gaps", ()) if g["reason"] == "ring"]
    assert gap["points"] == "*" and gap["from"] == T0 / 1000 + 1 and gap["to"] == T0 / 1000 + values[1]
