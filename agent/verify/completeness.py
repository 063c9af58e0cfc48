"""Checks the completeness of one pack, or of all parts of a tick.

Readings plus gaps must equal the readings that were due.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .point_table import DAY_MS, Gap, PointTable, Unit, by_day
from .report import Day
from .seam import ChainLink
from .strict import MAX_REASON, clean


@dataclass(frozen=True, slots=True)
class PackFault:
    """A rule that a signed pack breaks.

    ``code`` is ``due`` if the pack's readings and gaps do not add up to the due readings. If the pack breaks
    another rule, it is ``rule``.
    """

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class PackCounts:
    """The records and gaps of a pack. ``balance`` compares them when the birth and all parts of the tick are known."""

    link: ChainLink
    points: Mapping[str, int]  # point -> number of records
    readings: int  # number of all records
    gaps: tuple[Gap, ...]
    # (point, unit) pairs of ``PackRecords.unit_changes``, which are checked when the birth is known. Empty if they were
    # checked already.
    units: tuple[tuple[str, Unit], ...] = ()

    def plus(self, other: PackCounts) -> PackCounts:
        """Return the sum of two parts of one tick."""
        points = Counter(self.points)
        points.update(other.points)
        return replace(
            self,
            points=points,
            readings=self.readings + other.readings,
            gaps=self.gaps + other.gaps,
            units=self.units + other.units,
        )


@dataclass(frozen=True, slots=True)
class Balance:
    """The numbers of readings of gauges and counters: due readings, received readings, and readings in gaps.

    All are 0 after a fault.
    """

    due: int = 0
    got: int = 0
    # reason -> number of due readings in the pack's gaps with this reason
    gaps: Mapping[str, int] = field(default_factory=dict)
    days: tuple[tuple[int, Day], ...] = ()  # (number of the UTC day since 1970, completeness of that day)
    faults: tuple[PackFault, ...] = ()


def balance(parts: Sequence[PackCounts], table: PointTable) -> Balance:
    """Return the completeness of a pack, or of a tick in parts.

    Args:
        parts: counts of one pack, or of all parts of a tick in any order.
        table: point table of the birth that the parts name.
    """
    whole = parts[0]
    for other in parts[1:]:
        whole = whole.plus(other)
    if texts := table.check_units(whole.units):
        return Balance(faults=(PackFault("rule", clean(texts[0], MAX_REASON)),))
    link = whole.link
    total = table.balance(whole.points, whole.gaps, link.from_ms, link.to_ms)
    if total.faults:
        more = f"; and {len(total.faults) - 1} more" if len(total.faults) > 1 else ""
        return Balance(faults=(PackFault("due", clean(total.faults[0] + more, MAX_REASON)),))
    first = link.from_ms // DAY_MS
    if first == (link.to_ms - 1) // DAY_MS and not whole.gaps:
        days: tuple[tuple[int, Day], ...] = ((first, Day(total.due, total.got)),) if total.due else ()
    else:
        days = tuple(
            (number, Day(due, due - gaps, asleep, gaps - asleep))
            for number, due, gaps, asleep in by_day(table, whole.gaps, link.from_ms, link.to_ms)
            if due
        )
    return Balance(total.due, total.got, total.gaps, days)
