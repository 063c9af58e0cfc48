"""The point table of a birth. It tells which point is due at which tick."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from sys import intern
from typing import Final

from .strict import MAX_SHOWN, Refused, shown

KINDS: Final = frozenset(("gauge", "counter", "state", "text"))
DAY_MS: Final = 86_400_000
EPOCH: Final = date(1970, 1, 1).toordinal()
MAX_POINTS: Final = 65_536
# limit of the combinations of period and phase in one table; real tables have few, because a device has five paces
MAX_GRIDS: Final = 256
# limit of the steps for all gaps of one pack; a gap takes one step for each point and day
MAX_GAP_WORK: Final = 200_000
MAX_DAYS: Final = 4000  # limit of the days in one time range; all later days are one more row
Unit = object  # the unit ``u``, or (u, du) if the record or point has a ``du``


def ms_of(value: object, what: str) -> int:
    """Convert seconds with at most three decimals to whole ms. Raises Refused."""
    if type(value) is int:
        if -(1 << 43) < value < 1 << 43:
            return value * 1000
    elif type(value) is float and -(2.0**43) < value < 2.0**43:
        ms = round(value * 1000)
        if ms / 1000 == value:
            return ms
    raise Refused("shape", f"{what} is {shown(value)}, expected seconds with at most three decimals")


def ticks(from_ms: int, to_ms: int, period_ms: int, phase_ms: int) -> int:
    """Return the number of ticks ``k * period + phase`` in ``[from_ms, to_ms)``."""
    return max(0, (phase_ms - from_ms) // period_ms - (phase_ms - to_ms) // period_ms)


@dataclass(frozen=True, slots=True)
class Gap:
    """A gap as a pack states it. ``points``: None means all points of the table."""

    from_ms: int
    to_ms: int
    points: tuple[str, ...] | None
    reason: str


@dataclass(slots=True)
class Completeness:
    """The numbers of due and received readings, and the faults that were found."""

    due: int = 0
    got: int = 0
    gaps: dict[str, int] = field(default_factory=dict)  # reason -> number of due readings in gaps
    faults: list[str] = field(default_factory=list)


class PointTable:
    """The points of a birth. Points with the same period and phase form a group, and their ticks are a grid.

    ``names``: names of all points; None if the birth has no points.
    """

    def __init__(self, table: object) -> None:
        points = table.get("points") if isinstance(table, dict) else None
        if not isinstance(points, list) or len(points) > MAX_POINTS:
            raise Refused("shape", "a birth without table.points")
        epoch = table.get("epoch") if isinstance(table, dict) else None
        if epoch is not None and (type(epoch) is not int or not 0 <= epoch < 1 << 53):
            raise Refused("shape", f"epoch of the birth's table is {shown(epoch)}, expected a whole number")
        self.epoch: int | None = epoch  # the counter epoch; None if the birth does not state it
        grids: dict[tuple[int, int], list[str]] = {}
        self.units: dict[str, Unit] = {}
        for point in points:
            name = point.get("n") if isinstance(point, dict) else None
            if not isinstance(name, str):
                raise Refused("shape", "a point without name in the birth's table")
            name = intern(name)
            if name in self.units:
                raise Refused("shape", f"the birth's table has {shown(name)} twice")
            u, du = _text(point.get("u")), _text(point.get("du"))
            if "\0" in name + u + du:
                raise Refused("shape", f"a NUL character in the name or unit of {shown(name)}")
            kind = point.get("kind")
            if not isinstance(kind, str) or kind not in KINDS:
                raise Refused("shape", f"{name[:MAX_SHOWN]} is of kind {shown(kind)}")
            self.units[name] = unit_of(u, du)
            period = point.get("period")
            if period is None or kind not in ("gauge", "counter"):
                continue
            period_ms = ms_of(period, f"period of {name[:MAX_SHOWN]}")
            if period_ms <= 0:
                raise Refused("shape", f"period of {name[:MAX_SHOWN]} is {shown(period)}")
            phase_ms = ms_of(point.get("phase", 0), f"phase of {name[:MAX_SHOWN]}")
            grids.setdefault((period_ms, phase_ms % period_ms), []).append(name)
            if len(grids) > MAX_GRIDS:
                raise Refused("shape", f"the birth's table has more than {MAX_GRIDS} different periods and phases")
        self.names: frozenset[str] | None = frozenset(self.units) or None
        self.grids = tuple((period, phase, tuple(names)) for (period, phase), names in grids.items())
        # The last balance without gaps, as (counts, ticks, result). It is kept because the next pack mostly has the
        # same counts and ticks, so the result can be used again.
        self._last: tuple[Mapping[str, int], list[int], Completeness] | None = None
        self._grid_of = {name: (period, phase) for period, phase, names in self.grids for name in names}
        # Names, units and counts of the last pack without a fault. They are kept because the next pack mostly has the
        # same names and units.
        self._counted: tuple[list[str], list[Unit], Mapping[str, int]] | None = None

    def count(self, names: list[str], units: list[Unit]) -> tuple[Mapping[str, int], list[str]]:
        """Return (point -> number of records, list of faults).

        The list has a fault for the first record whose unit differs from the unit of its point. The caller must not
        change the result.
        """
        if (last := self._counted) and last[0] == names and last[1] == units:
            return last[2], []
        counts, faults = Counter(names), self.check_units(zip(names, units, strict=True))
        if not faults:
            self._counted = (names, units, counts)
        return counts, faults

    def check_units(self, pairs: Iterable[tuple[str, Unit]]) -> list[str]:
        """Return a fault for the first record whose unit differs from the unit of its point; empty if all units fit."""
        for name, unit in pairs if self.names is not None else ():
            want = self.units.get(name, unit)
            if want != unit:
                return [f"{name[:MAX_SHOWN]} comes in unit {_shown_unit(unit)}, its birth says {_shown_unit(want)}"]
        return []

    def due(self, from_ms: int, to_ms: int) -> int:
        """Return the number of readings due in ``[from_ms, to_ms)``."""
        return sum(ticks(from_ms, to_ms, period, phase) * len(names) for period, phase, names in self.grids)

    def gap_readings(self, gap: Gap, from_ms: int, to_ms: int) -> int:
        """Return the number of readings in ``gap`` that were due in ``[from_ms, to_ms)``."""
        low, high = max(gap.from_ms, from_ms), min(gap.to_ms, to_ms)
        if low >= high:
            return 0
        if gap.points is None:
            return self.due(low, high)
        return sum(ticks(low, high, *self._grid_of[name]) for name in gap.points if name in self._grid_of)

    def balance(self, counts: Mapping[str, int], gaps: Sequence[Gap], from_ms: int, to_ms: int) -> Completeness:
        """Compare records and gaps with the readings due in ``[from_ms, to_ms)``.

        Args:
            counts: point name -> number of records.
        """
        ticked = [ticks(from_ms, to_ms, period, phase) for period, phase, _ in self.grids]
        if not gaps and (last := self._last) and last[0] is counts and last[1] == ticked:
            return last[2]  # counts and ticks are the same as in the previous pack
        result = Completeness()
        if gaps and (work := self._gap_work(gaps)) > MAX_GAP_WORK:
            result.faults.append(f"{len(gaps)} gaps, too many to be compared with the table ({work} steps)")
            return result
        if self.names is not None:
            if not counts.keys() <= self.names:
                strange = sorted(counts.keys() - self.names)
                result.faults.append(f"a record of {strange[0][:MAX_SHOWN]}, which the birth does not know")
            for gap in gaps:
                if gap.points is not None and not self.names.issuperset(gap.points):
                    strange = sorted(frozenset(gap.points) - self.names)
                    result.faults.append(f"a gap of {strange[0][:MAX_SHOWN]}, which the birth does not know")
        missing = self._gap_ticks(gaps, result) if gaps else {}
        for due, (_, _, names) in zip(ticked, self.grids, strict=True):
            result.due += due * len(names)
            for name in names:
                got = counts.get(name, 0)
                result.got += got
                lost = missing.get(name, 0) if missing else 0
                if got + lost != due:
                    result.faults.append(_unbalanced(name, due, got, lost))
        if not gaps:
            self._last = (counts, ticked, result)
        return result

    def _gap_work(self, gaps: Sequence[Gap]) -> int:
        """Return how many steps the comparison with these gaps takes. Real packs need a few thousand."""
        grids = len(self.grids)
        whole = sum(gap.points is None for gap in gaps)
        work, names = whole * grids, set[str]()
        for gap in gaps:
            each = grids if gap.points is None else len(gap.points)
            work += each * min(MAX_DAYS, 1 + (gap.to_ms - gap.from_ms) // DAY_MS)
            names.update(gap.points or ())
        return work + whole * len(names)

    def _gap_ticks(self, gaps: Sequence[Gap], result: Completeness) -> dict[str, int]:
        """Return point -> number of its ticks in gaps.

        Adds the readings in gaps by reason to ``result``, and a fault for each point with a tick in two gaps.
        """
        spans: dict[str, list[tuple[int, int]]] = {}
        whole = [(gap.from_ms, gap.to_ms) for gap in gaps if gap.points is None]
        missing: dict[str, int] = {}
        of_grid = dict.fromkeys(self.grids, 0)  # grid -> number of its ticks in gaps that cover all points
        for gap in gaps:
            total = 0
            if gap.points is None:
                for grid in self.grids:
                    count = ticks(gap.from_ms, gap.to_ms, grid[0], grid[1])
                    of_grid[grid] += count
                    total += count * len(grid[2])
            else:
                for name in gap.points:
                    if (place := self._grid_of.get(name)) and (count := ticks(gap.from_ms, gap.to_ms, *place)):
                        total += count
                        missing[name] = missing.get(name, 0) + count
                        spans.setdefault(name, []).append((gap.from_ms, gap.to_ms))
            result.gaps[gap.reason] = result.gaps.get(gap.reason, 0) + total
        for grid, count in of_grid.items():
            if count:
                for name in grid[2]:
                    missing[name] = missing.get(name, 0) + count
        for _, _, names in self.grids if len(whole) > 1 else ():
            spans.setdefault(names[0], [])
        for name, own in spans.items():
            if len(own) + len(whole) > 1 and _twice(sorted(own + whole), *self._grid_of[name]):
                result.faults.append(f"a tick of {name[:MAX_SHOWN]} lies in two gaps")
        return missing


def unit_of(u: object, du: object) -> Unit:
    """Return the unit of a record or point as one value. Pass "" for a missing ``u`` or ``du``."""
    return u if du == "" else (u, du)


def _shown_unit(unit: Unit) -> str:
    parts = unit if isinstance(unit, tuple) else (unit,)
    return "".join(map(str, parts))[:MAX_SHOWN] or "none"


def _text(value: object) -> str:
    return value if isinstance(value, str) else shown(value) if value else ""


def _twice(spans: list[tuple[int, int]], period_ms: int, phase_ms: int) -> bool:
    reached = spans[0][1]
    for low, high in spans[1:]:
        if low < reached and ticks(low, min(high, reached), period_ms, phase_ms):
            return True
        reached = max(reached, high)
    return False


def _unbalanced(name: str, due: int, got: int, gap: int) -> str:
    name = name[:MAX_SHOWN]
    if got + gap < due:
        return f"{name}: {due} due, {got} read and {gap} in gaps: {due - got - gap} unaccounted for"
    return f"{name}: {due} due, but {got} read and {gap} in gaps: {got + gap - due} too many"


def day_name(number: int) -> str:
    """Return a day number since 1970 as YYYY-MM-DD. Returns "?" for a day outside the calendar."""
    return date.fromordinal(EPOCH + number).isoformat() if -EPOCH < number < 10**6 else "?"


def by_day(table: PointTable, gaps: Sequence[Gap], from_ms: int, to_ms: int) -> list[tuple[int, int, int, int]]:
    """Divide the readings of a balanced time range at UTC midnight.

    Returns for each day: the day number since 1970, the number of due readings, how many of these are in gaps, and how
    many of these gap readings have the reason ``asleep``.
    """
    # Only a clock that began at 0 (1970) makes a range longer than the limit. So all days beyond it share one row.
    last = from_ms // DAY_MS + MAX_DAYS
    lost: dict[int, tuple[int, int]] = {}
    for gap in gaps:
        for day, low, high in _days(max(gap.from_ms, from_ms), min(gap.to_ms, to_ms), last):
            count = table.gap_readings(gap, low, high)
            gone, asleep = lost.get(day, (0, 0))
            lost[day] = (gone + count, asleep + (count if gap.reason == "asleep" else 0))
    return [(day, table.due(low, high), *lost.get(day, (0, 0))) for day, low, high in _days(from_ms, to_ms, last)]


def _days(from_ms: int, to_ms: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Yield (day, from, to) of each UTC day in a time range. The day ``last`` lasts until the end of the range."""
    while from_ms < to_ms:
        day = min(from_ms // DAY_MS, last)
        high = to_ms if day == last else min(to_ms, (day + 1) * DAY_MS)
        yield day, from_ms, high
        from_ms = high
