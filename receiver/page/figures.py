"""Calculates 15-minute figures of a point from verified packs: amounts, means, gaps with their reasons."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

QUARTER_MS: Final = 900_000
MOST_PACKS: Final = 20_000  # at most this many packs of a day are read, which is enough for one pack every five seconds
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
    """The amount, mean and gaps of a point in one interval [from_ms, to_ms).

    ``amount``: for a counter, its increase in the interval (see ``_add_amounts``); None if it is not known.
    """

    from_ms: int
    to_ms: int
    packs: int = 0  # number of packs that overlap the interval
    faulty: int = 0  # number of these packs that have a finding; their readings are left out
    readings: int = 0
    doubtful: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    first: float | None = None
    last: float | None = None
    amount: float | None = None
    covered_ms: int = 0  # length of the part of the interval that sound packs cover
    gaps_ms: Counter[str] = field(default_factory=Counter)

    @property
    def mean(self) -> float | None:
        """The mean of the readings. None if there are no readings."""
        return self.total / self.readings if self.readings else None

    def length_ms(self, now_ms: int) -> int:
        """The length of the part of the interval that has passed. At least 1, even if the interval is yet to begin."""
        return max(1, min(self.to_ms, now_ms) - self.from_ms)

    def known(self, now_ms: int) -> float:
        """The share of the passed part that is covered by packs and does not lie in a gap of this point."""
        length = self.length_ms(now_ms)
        return max(0.0, min(length, self.covered_ms - sum(self.gaps_ms.values()))) / length


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a point for a day. ``stamp`` changes when packs arrive, are settled, or get a finding.

    ``birth``: sequence of the pack that declares the point; None: that pack is not stored.
    """

    point: str
    kind: str
    unit: str
    rows: list[Figure]
    stamp: str
    all_packs: bool  # False: the day has ``MOST_PACKS`` packs or more, so some may not have been read
    birth: int | None = None


def figures_of(
    packs: Iterable[tuple[int, int, bool, bytes]],
    point: str,
    table: Mapping[str, Any],
    between: tuple[int, int],
    stamp: str = "",
    birth: int | None = None,
) -> Figures:
    """Calculate the figures of a point.

    Args:
        packs: (beginning in UTC ms, end, whether the pack is sound, its body), in order of time. They begin a quarter
            of an hour before ``between``, because a counter's first increase counts from the last reading before.
        table: the point table of the birth, which has kind and unit of the point.
        between: (beginning, end) in UTC ms, both at whole quarters of an hour.
    """
    start, end = between[0] - QUARTER_MS, between[1]
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
            except msgspec.DecodeError:  # a member has an unexpected type
                continue
            _add_readings(rows, pack.e, point, start)
            _add_gaps(reached, pack.gaps, point)
    found: Mapping[str, Any] = next(
        (one for one in table.get("points", ()) if isinstance(one, dict) and one.get("n") == point), {}
    )
    kind, unit = found.get("kind"), found.get("u", found.get("du", ""))
    _add_amounts(rows)
    return Figures(
        point, kind if isinstance(kind, str) else "", unit if isinstance(unit, str) else "", rows[1:], stamp,
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
    """Set the amount of each interval: the increase up to its last reading.

    The increase counts from the last reading of the previous interval. If the previous interval has no reading, or if
    the counter went back in it, it counts from the first reading of the interval itself. After a step back, the last
    reading may be a single wrong one, and then the step from it to the next reading is not consumption.
    """
    before: float | None = None
    for row in rows:
        base, before = row.first if before is None else before, row.last
        if row.last is None or base is None:
            continue
        if row.last >= base:
            row.amount = row.last - base
        else:
            before = None
