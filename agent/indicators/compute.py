"""Computes two things from stored intervals: the figures of a period, and the slots of the green-power trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Literal

from agent.indicators.declared import Declaration
from agent.indicators.definitions import PeriodKind
from agent.indicators.evaluate import evaluate
from agent.indicators.figure import Figure, Period
from agent.indicators.plan import IndicatorPlan
from agent.indicators.supply import Supply, families
from agent.indicators.trace import ZERO, TraceSlot
from agent.intervals.calendar import Calendar
from agent.intervals.query import PageSource
from agent.intervals.rows import FLAW, EndReading, Flag, RoleSum, Source
from agent.intervals.sums import Unwritten, sums

ROLLING_DAYS = 365
_GREEN = ("generation.pv", "generation.wind", "generation.hydro")
_DEMAND_FLOWS = ("import", "charge", "consumption", "heat")
_UNPROVEN = Flag.INCOMPLETE | Flag.SPREAD  # an interval with one of these does not prove a peak
Demand = tuple[Decimal, tuple[Source, ...]]


def period_of(calendar: Calendar, kind: PeriodKind, at_ms: int, until_ms: int) -> Period:
    """Return the period of this kind that contains ``at_ms``.

    "rolling": the 365 days before the local day of ``at_ms``.

    Args:
        until_ms: intervals are known up to this time. The part of the period before this time counts as elapsed.
    """
    day = calendar.day(at_ms)
    if kind == "rolling":
        start, end = calendar.midnight(day - timedelta(days=ROLLING_DAYS)), calendar.midnight(day)
        label = f"{calendar.day(start)}/{day}"
    else:
        start, end = calendar.stretch(kind, at_ms)
        local = calendar.local(start)
        label = {
            "interval": local.isoformat(timespec="minutes"),
            "day": f"{day}",
            "month": f"{day:%Y-%m}",
            "year": f"{day.year:04}",
        }[kind]
    first, after = calendar.stretch("year", start)
    return Period(kind, start, end, label, calendar.day(start).year, after - first, min(max(until_ms, start), end))


class PeriodTotals:
    """The sums of a period, added up day by day. So a year needs no long query, and its rows need not fit into memory.

    Only role sums of single intervals are added. They may come in any order, but each of them only once.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str, str], RoleSum] = {}
        self._known_ms: dict[tuple[str, str, str], Decimal] = {}
        self._demands: dict[str, Demand] = {}

    def add(self, parts: Iterable[RoleSum]) -> None:
        """Add the role sums of single intervals, for example of those of a day."""
        parts = list(parts)
        for role, found in demands(parts).items():
            if role not in self._demands or found[0] > self._demands[role][0]:
                self._demands[role] = found
        groups: dict[tuple[str, str, str], list[RoleSum]] = {}
        for one in parts:
            groups.setdefault((one.role, one.flow, one.unit), []).append(one)
        for key, group in groups.items():
            before = self._sums.get(key)
            self._sums[key] = merge([before, *group] if before is not None else group)
            known = sum((one.completeness * (one.end_ms - one.start_ms) for one in group), ZERO)
            self._known_ms[key] = self._known_ms.get(key, ZERO) + known

    def supply(self, entries: Sequence[Declaration], period: Period) -> Supply:
        """Return the amounts for the figures of the period.

        Time without any interval, even whole days, counts as unknown.
        """
        shares = {key: min(known / period.elapsed_ms, Decimal(1)) for key, known in self._known_ms.items()}
        whole = [replace(one, completeness=shares[key]) for key, one in self._sums.items()]
        return Supply(whole, entries, self._demands)

    @property
    def roles(self) -> frozenset[str]:
        """The roles that have a sum, even if its amount is unknown."""
        return frozenset(role for role, _, _ in self._sums)

    def traced_share(self, period: Period) -> Decimal:
        """Return the known share of the green-power trace, 0 to 1.

        It is the lowest share of its inputs, as for a figure.
        """
        known = (self._known_ms[key] for key, one in self._sums.items() if _slot_field(one))
        return min((min(ms / period.elapsed_ms, Decimal(1)) for ms in known), default=ZERO)

    def figures(self, plan: IndicatorPlan, period: Period, entries: Sequence[Declaration]) -> tuple[Figure, ...]:
        """Return all figures of the plan for the period, computed from the intervals that were added so far."""
        return evaluate(plan, period, self.supply(entries, period))


def intervals_of(
    book: PageSource, calendar: Calendar, start_ms: int, end_ms: int, unwritten: Iterable[Unwritten] = ()
) -> list[RoleSum]:
    """Return the role sums of each single interval. A day of 500 counters takes some tens of ms."""
    return sums(book, calendar, start_ms, end_ms, "interval", unwritten=unwritten) if end_ms > start_ms else []


def merge(parts: Sequence[RoleSum]) -> RoleSum:
    """Merge sums of the same role, flow and unit.

    Their completeness is averaged by time, and their sources are joined.
    """
    first = parts[0]
    whole_ms = sum(one.end_ms - one.start_ms for one in parts)
    known = sum((one.completeness * (one.end_ms - one.start_ms) for one in parts), Decimal(0))
    flags = Flag(0)
    sources: dict[tuple[str, str], Source] = {}
    before: tuple[Source, ...] = ()
    for one in parts:
        flags |= one.flags
        if one.sources is before:
            continue  # the sources are joined already: the stretches of a day may share one tuple of sources
        before = one.sources
        for source in one.sources:
            key = (source.stream, source.point)
            sources[key] = _widened(sources[key], source) if key in sources else source
    return RoleSum(
        first.role,
        first.flow,
        min(one.start_ms for one in parts),
        max(one.end_ms for one in parts),
        sum((one.amount for one in parts), Decimal(0)),
        first.unit,
        known / whole_ms,
        sum((one.estimated for one in parts), Decimal(0)),
        flags,
        tuple(sources[key] for key in sorted(sources)),
        frozenset[tuple[str, str]]().union(*{one.meters for one in parts}),
    )


def _widened(one: Source, other: Source) -> Source:
    early, late = (one, other) if _at(one.first) <= _at(other.first) else (other, one)
    last = max((one, other), key=lambda source: source.last.time_ms if source.last else 0).last
    seqs = [seq for seq in (one.first_seq, other.first_seq) if seq]
    return Source(
        one.stream, one.point, min(seqs, default=0), max(one.last_seq, other.last_seq), early.first or late.first, last
    )


def _at(mark: EndReading | None) -> int:
    return mark.time_ms if mark is not None else 1 << 62


def demands(windows: Iterable[RoleSum]) -> dict[str, Demand]:
    """Return the highest mean power of an interval, in kW, by role and by family of roles (`load.*`).

    Mean power is the energy of the interval divided by its length. A family has the sum of its roles in the interval.

    An interval that is incomplete or spread is left out, because it does not prove a peak.
    """
    sums: dict[tuple[str, str, int, int], list[RoleSum]] = {}
    unproven: set[tuple[str, str, int, int]] = set()
    for one in windows:
        if one.flow not in _DEMAND_FLOWS or one.unit != "kWh":
            continue
        is_proven = not one.flags & _UNPROVEN
        for name in (one.role, *families(one.role)):
            key = (name, one.flow, one.start_ms, one.end_ms)
            sums.setdefault(key, []).append(one)
            if not is_proven:
                unproven.add(key)
    found: dict[str, Demand] = {}
    for key, parts in sums.items():
        if key in unproven:
            continue
        name, _, start_ms, end_ms = key
        kilowatts = sum([one.amount for one in parts], ZERO) * 3_600_000 / (end_ms - start_ms)
        if name not in found or kilowatts > found[name][0]:
            found[name] = (kilowatts, tuple(source for one in parts for source in one.sources))
    return found


def slots_of(parts: Iterable[RoleSum], calendar: Calendar, by: Literal["interval", "hour"] = "hour") -> list[TraceSlot]:
    """Return the amounts of the green-power trace, one object for each slot. A slot without any counter is left out."""
    found: dict[tuple[int, int], dict[str, Decimal]] = {}
    broken: set[tuple[int, int]] = set()
    # by slot, then by role and flow: True if nothing is known of this flow in the slot
    unknown: dict[tuple[int, int], dict[str, bool]] = {}
    hour_of: dict[int, tuple[int, int]] = {}
    for one in parts:
        name = _slot_field(one)
        if name:
            key = one.start_ms, one.end_ms
            if by == "hour":
                if one.start_ms not in hour_of:
                    hour_of[one.start_ms] = calendar.stretch("hour", one.start_ms)
                key = hour_of[one.start_ms]
            fields = found.setdefault(key, {})
            fields[name] = fields.get(name, ZERO) + one.amount
            if one.completeness != 1 or one.flags & FLAW:
                broken.add(key)
            part, was = f"{one.role}.{one.flow}", unknown.setdefault(key, {})
            was[part] = was.get(part, True) and not one.completeness
    missing = {key: tuple(sorted(part for part, nothing in parts.items() if nothing)) for key, parts in unknown.items()}
    return [
        TraceSlot(*key, complete=key not in broken, missing=missing[key], **fields)  # type: ignore[arg-type]
        for key, fields in sorted(found.items())
    ]


_SLOT_FIELDS: Mapping[tuple[str, str], str] = {
    ("direct", "import"): "direct",
    ("grid", "import"): "grid_import",
    ("grid", "export"): "grid_export",
    ("storage", "charge"): "charge",
    ("storage", "discharge"): "discharge",
}


def _slot_field(one: RoleSum) -> str:
    if one.unit != "kWh":
        return ""
    if one.role in _GREEN and one.flow == "generation":
        return "generation"
    return _SLOT_FIELDS.get((one.role, one.flow), "")
