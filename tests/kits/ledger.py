"""Hand-made streams of packs, the ledger that reads them, and the pages that it writes."""

from __future__ import annotations

import json
from array import array
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from typing import Any

from agent.intervals.calendar import Calendar
from agent.intervals.ledger import Ledger, take_body
from agent.intervals.page_format import PageSchema, Row, StoredPage, encode
from agent.intervals.query import query
from agent.intervals.rows import IntervalRow, PackSpan
from agent.intervals.tracked_points import Rule
from ext.ring import Ring

LENGTH = 900_000
START = 1_795_500_000_000 // LENGTH * LENGTH
STREAM = "park7/gw01/m1"
ROLES = {"ac": "grid"}


def point(name: str, kind: str = "counter", unit: str = "kWh", period: float = 60, **more: Any) -> dict[str, Any]:
    source = {"type": "u32", "address": 0, "count": 2, "function": 3} | more.pop("source", {})
    return {"n": name, "kind": kind, "pace": "slow", "period": period, "phase": 0, "u": unit, "source": source, **more}


def table(
    *points: dict[str, Any], epoch: int = 1, roles: dict[str, str] | None = None, **device: Any
) -> dict[str, Any]:
    device = {"roles": ROLES if roles is None else roles, "parent": {}, "ratio": {"ct": "1", "pt": "1"}, **device}
    return {"config": "x", "device": device, "epoch": epoch, "points": list(points)}


class Packs:
    """The packs of a stream, one per minute, as parsed from JSON with ``parse_float=str``; and their ring."""

    def __init__(self, document: dict[str, Any], ring: Ring | None = None, every_ms: int = 60_000) -> None:
        self.every, self.ring = every_ms, ring
        self.seq, self.boot, self.to_ms = 0, "00000000000000aa", START
        self.bodies: list[dict[str, Any]] = []
        self.positions: list[array[int]] = []
        self.birth(document)

    def birth(self, document: dict[str, Any]) -> None:
        self.document = document
        self.names = [p["n"] for p in document["points"]]
        self._add(self.to_ms, [], array("Q"), table=document)

    def _add(self, to_ms: int, e: list[dict[str, Any]], positions: array[int], **more: Any) -> None:
        self.seq += 1
        body = {"boot": self.boot, "from": self.to_ms / 1000, "seq": self.seq, "to": to_ms / 1000, **more}
        if e:
            body["e"] = e
        self.bodies.append(json.loads(json.dumps(body), parse_float=str))
        self.positions.append(positions)
        self.to_ms = to_ms

    def pack(self, readings: Sequence[tuple[int, str, Decimal | int, str]], to_ms: int = 0) -> None:
        """Add a pack. A reading is (time, point, value, quality); its tick is its time rounded down to a second."""
        e, positions = [], array("Q")
        for time, name, value, quality in readings:
            record: dict[str, Any] = {"bt": time / 1000, "n": name, "v": float(value), "x": str(value)}
            e.append(record | ({"q": quality} if quality else {}))
            if self.ring is not None:
                sign, digits, exponent = Decimal(value).as_tuple()
                mantissa = int("".join(map(str, digits))) * (-1 if sign else 1)
                item = (self.names.index(name), mantissa, int(exponent), {"": 0, "suspect": 1, "estimated": 5}[quality])
                positions.append(self.ring.append_values(1, time // 1000 * 1000, time * 1_000_000, 0, [item]))
        self._add(to_ms or self.to_ms + self.every, e, positions)

    def step(self, by_ms: int) -> None:
        """Set the clock."""
        self.to_ms += by_ms

    def restart(self, down_ms: int) -> None:
        """Begin another boot after ``down_ms``."""
        self.boot = f"{int(self.boot, 16) + 1:016x}"
        self._add(self.to_ms, [], array("Q"), table=self.document)
        self._add(self.to_ms + down_ms, [], array("Q"))


class Book:
    """A ledger, and the pages that it wrote."""

    def __init__(self, calendar: Calendar | None = None, rule: Rule | None = None) -> None:
        self.calendar, self.rule = calendar or Calendar("Asia/Shanghai"), rule or Rule()
        self.ledger = Ledger(STREAM, self.calendar, self.rule)
        self.pages: list[StoredPage] = []
        self.made: list[tuple[PageSchema, list[Row]]] = []

    def read(self, bodies: Iterable[dict[str, Any]]) -> None:
        """Feed the ledger with packs."""
        for body in bodies:
            take_body(self.ledger, body)
            self.write()

    def read_ring(self, packs: Packs, first: int = 0) -> None:
        """Feed the ledger from the ring, as the agent does."""
        assert packs.ring is not None
        for body, positions in list(zip(packs.bodies, packs.positions, strict=True))[first:]:
            if "table" in body:
                self.ledger.use(body["table"])
            edges = (round(float(body[name]) * 1000) for name in ("from", "to"))
            self.ledger.take_ring(packs.ring, positions, [PackSpan(body["seq"], body["boot"], *edges)])
            self.write()

    def write(self) -> None:
        for shape, rows in self.ledger.rows():
            self.made.append((shape, rows))
            self.add(shape, rows)

    def add(self, shape: PageSchema, rows: Sequence[Row]) -> None:
        body = encode(rows, len(shape.columns))
        end = max(row.end_ms for row in rows)
        self.pages.append(StoredPage(len(self.pages) + 1, STREAM, rows[0].start_ms, end, shape.encode(), body))

    def interval_pages(self, from_ms: int, to_ms: int, streams: Collection[str] = ()) -> list[StoredPage]:
        return [page for page in self.pages if page.from_ms < to_ms and page.to_ms > from_ms]

    def rows(self, name: str = "ac.energy.import") -> list[IntervalRow]:
        return [row for row in query(self, 0, 1 << 50) if row.point == name]
