"""15-minute figures of one point, from the bodies of verified packs: amounts, means, what is missing and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

QUARTER_MS: Final = 900_000
MOST_PACKS: Final = 20_000  # of a day; a pack each five seconds
DOUBTFUL: Final = frozenset({"suspect", "range", "frozen", "clock", "estimated", "substituted"})


class _Record(msgspec.Struct):
    n: str = ""
    bt: float | None = None
    t: float = 0.0
    v: float | None = None
    q: str = ""


class _Gap(msgspec.Struct):
    low: float = msgspec.field(name="from", default=0.0)
    high: float = msgspec.field(name="to", default=0.0)
    reason: str = ""
    points: str | list[str] = "*"


class _Pack(msgspec.Struct):
    e: list[_Record] = msgspec.field(default_factory=list)
    gaps: list[_Gap] = msgspec.field(default_factory=list)


_DECODER: Final = msgspec.json.Decoder(_Pack)


@dataclass(slots=True)
class Figure:
    """One interval [from_ms, to_ms) of a point.

    ``amount``: of a counter, its last reading less the last one before the interval. ``packs``: that reach into it.
    """

    from_ms: int
    to_ms: int
    packs: int = 0
    faulty: int = 0  # packs with a finding; nothing in them is counted
    readings: int = 0
    doubtful: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    first: float | None = None
    last: float | None = None
    amount: float | None = None
    covered_ms: int = 0  # by packs
    gaps_ms: Counter[str] = field(default_factory=Counter)

    @property
    def mean(self) -> float | None:
        """Mean of the readings received."""
        return self.total / self.readings if self.readings else None

    @property
    def known(self) -> float:
        """The share of the interval that packs cover without a gap of this point."""
        length = self.to_ms - self.from_ms
        return max(0.0, min(length, self.covered_ms - sum(self.gaps_ms.values()))) / length


@dataclass(frozen=True, slots=True)
class Figures:
    """A day of a point. ``stamp`` changes with the packs; ``birth``: sequence of the pack that declares the point."""

    point: str
    kind: str
    unit: str
    rows: list[Figure]
    stamp: str
    all_packs: bool  # False: there were more packs than are read
    birth: int | None = None


def figures_of(
    packs: Iterable[tuple[int, int, bool, bytes]],
    point: str,
    table: Mapping[str, Any],
    between: tuple[int, int],
    stamp: str = "",
    birth: int | None = None,
) -> Figures:
    """The figures of a point.

    Args:
        packs: beginning and end in ms, whether it is sound, and its body; in order of time.
        table: the point table of the birth, for kind and unit.
        between: beginning and end in ms, whole quarters of an hour.
    """
    start, end = between
    rows = [Figure(at, at + QUARTER_MS) for at in range(start, end, QUARTER_MS)]
    count = 0
    for low, high, sound, body in packs:
        count += 1
        first, last = max(0, (low - start) // QUARTER_MS), min(len(rows) - 1, (high - 1 - start) // QUARTER_MS)
        reached = rows[first : last + 1]
        for row in reached:
            row.packs += 1
            row.faulty += not sound
            if sound:
                row.covered_ms += min(high, row.to_ms) - max(low, row.from_ms)
        if sound and reached:
            try:
                pack = _DECODER.decode(body)
            except msgspec.DecodeError:  # a value of a type that points do not have
                continue
            _add_readings(rows, pack.e, point, start)
            _add_gaps(reached, pack.gaps, point)
    found: Mapping[str, Any] = next(
        (one for one in table.get("points", ()) if isinstance(one, dict) and one.get("n") == point), {}
    )
    kind, unit = found.get("kind"), found.get("u", found.get("du", ""))
    _add_amounts(rows)
    return Figures(
        point, kind if isinstance(kind, str) else "", unit if isinstance(unit, str) else "", rows, stamp,
        count < MOST_PACKS, birth,
    )  # fmt: skip


def _add_readings(rows: list[Figure], records: list[_Record], point: str, start: int) -> None:
    base = 0.0
    for record in records:
        if record.bt is not None:
            base = record.bt
        if record.n != point or record.v is None:
            continue
        place = (round((base + record.t) * 1000) - start) // QUARTER_MS
        if not 0 <= place < len(rows):
            continue
        row, value = rows[place], record.v
        row.readings += 1
        row.doubtful += record.q in DOUBTFUL
        row.total += value
        row.low, row.high = min(row.low, value), max(row.high, value)
        row.first = value if row.first is None else row.first
        row.last = value


def _add_gaps(rows: list[Figure], gaps: list[_Gap], point: str) -> None:
    for gap in gaps:
        if gap.points != "*" and point not in gap.points:
            continue
        low, high = round(gap.low * 1000), round(gap.high * 1000)
        for row in rows:
            if (both := min(high, row.to_ms) - max(low, row.from_ms)) > 0:
                row.gaps_ms[gap.reason] += both


def _add_amounts(rows: list[Figure]) -> None:
    """How much a counter rose: from the last reading before each interval, if the interval before has one."""
    before: float | None = None
    for row in rows:
        base = row.first if before is None else before
        if row.last is not None and base is not None and row.last >= base:
            row.amount = row.last - base
        before = row.last
