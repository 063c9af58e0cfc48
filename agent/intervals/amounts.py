"""Converts the cells of pages to readable rows, with units, decimals and flags."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache, partial
from operator import attrgetter
from typing import Final

from agent.intervals.calendar import HOUR_MS
from agent.intervals.flows import amount_unit, gauge_unit, power_amount
from agent.intervals.page_format import Column, Group, GroupCell, end_reading, is_taken_back
from agent.intervals.rows import Flag, IntervalRow

PARTS = 3  # decimals of stored amounts: they are thousandths of a count
# If less than this share of a stretch is known, a sum of 0 proves nothing, because the counters had no time to advance.
ZERO_FROM: Final = Decimal("0.1")
Convert = Callable[[int], Decimal]


def tidy(value: Decimal) -> Decimal:
    """Return the number without trailing zeros or an exponent, so that equal numbers have the same text.

    A small negative number that was rounded is -0 in Decimal; it becomes 0.
    """
    short = value.normalize() or Decimal(0)
    return short.quantize(Decimal(1)) if int(short.as_tuple().exponent) > 0 else short


def mean_of_role(amount: Decimal, known: Decimal, length_ms: int) -> Decimal | None:
    """Return the mean power of a role over a period: the amount per hour, with six decimals. None: unknown.

    The known amount is divided by the length of the whole period. It is not scaled up, because the known share is a
    mean over devices and tells nothing about the power of the missing devices.

    Args:
        known: the known share of the period, 0 to 1.
    """
    if not known or (not amount and known < ZERO_FROM):
        return None
    return mean_of(amount, length_ms)


def mean_of(amount: Decimal, length_ms: int) -> Decimal:
    """Return an amount in ``length_ms`` as the amount per hour, with six decimals."""
    return tidy((amount * HOUR_MS / length_ms).quantize(Decimal("1e-6")))


def _scaled(unit: str, factor: Decimal, exponent: int) -> tuple[str, Convert]:
    return unit, lambda n: tidy(Decimal(n).scaleb(exponent) * factor)


@lru_cache(maxsize=4096)  # cached, because it is called for every page, and columns change only with the configuration
def amounts_of(column: Column) -> tuple[tuple[str, str, str, Convert], ...]:
    """Return (flow, field, unit, conversion) of each amount in a column.

    A power can have two amounts: one for its values above zero, one for its values below zero.
    """
    if column.kind == "counter":
        unit, convert = _scaled(*amount_unit(column.point, column.unit), column.exponent - PARTS)
        return ((column.flow, "amount", unit, convert),)

    def area(n: int) -> Decimal:
        return tidy(power_amount(column.point, column.unit, Decimal(n).scaleb(column.exponent))[1])

    unit = power_amount(column.point, column.unit, Decimal(0))[0] if column.flow else ""
    above, _, below = column.flow.partition(",")
    return tuple((flow, name, unit, area) for flow, name in ((above, "above"), (below, "below")) if flow)


def row_of(stream: str, point: str, start: int, group: Group) -> list[IntervalRow]:
    """Return the rows of one point in one interval, made from all its valid cells.

    There is one row, or two for a power that had both directions, one for each flow.

    The cells may have different scales and units, because these can change within the interval. So each cell is
    converted with its own column. Amounts in another unit than that of the last column are left out.
    """
    t, n, number = group[-1]
    column, end = t.shape.columns[number], start + t.length[n]
    known = [g for g in group if g[0].get(g[2], "flags")[g[1]] and not is_taken_back(*g)]
    flags, covered, spread, readings = Flag(0), 0, 0, 0
    for page, row, place in known:
        flags |= Flag(page.get(place, "flags")[row] - 1)
        covered += page.length[row] - page.get(place, "lack")[row]
        spread += page.get(place, "spread")[row]
        readings += page.get(place, "readings")[row]
    if covered < end - start:
        flags |= Flag.INCOMPLETE
    if len(known) > 1:
        flags |= Flag.EPOCH if len({g[0].shape.columns[g[2]].epoch for g in known}) > 1 else Flag.CLOCK
    firsts = [m for p, r, c in known if (m := end_reading(p, c, r, "first"))]
    lasts = [m for p, r, c in known if (m := end_reading(p, c, r, "last"))]
    shared, in_time = _Shared(known, column), attrgetter("time_ms", "seq")
    out = []
    # a gauge without amounts still gets one row; "" is not the name of a field, so no amount is converted
    for flow, name, unit, _ in amounts_of(column) or (("", "", gauge_unit(column.unit)[0], Decimal),):
        gauge = column.kind == "gauge"
        amounts = list(_converted(known, name, unit))
        amount = sum(amounts, Decimal(0)) if amounts else None
        if gauge and name == "below" and not amount:
            continue
        out.append(
            IntervalRow(
                stream=stream,
                part=column.part,
                point=point,
                role=column.role,
                parent=column.parent,
                flow=flow,
                start_ms=start,
                end_ms=end,
                amount=amount,
                unit=unit,
                flags=flags | (Flag.POWER if gauge and name else Flag(0)),
                covered_ms=min(covered, end - start),
                spread_ms=min(spread, end - start),
                readings=readings,
                first=min(firsts, key=in_time, default=None),
                last=max(lasts, key=in_time, default=None),
                first_seq=min((p.first_seq[r] for p, r, _ in known), default=0),
                last_seq=max((p.last_seq[r] for p, r, _ in known), default=0),
                revision=max((p.revision[r] for p, r, _ in known), default=0),
                low=shared.low,
                high=shared.high,
                mean=shared.mean,
                demand=shared.demand,
                demand_fixed=shared.fixed,
                gauge_unit=shared.unit,
            )
        )
    return out


def _converted(known: Group, name: str, unit: str) -> Iterator[Decimal]:
    """Yield the field ``name`` of each cell whose amount is in this unit."""
    for page, row, place in known:
        for _, field, found, convert in amounts_of(page.shape.columns[place]):
            if (field, found) == (name, unit):
                yield convert(page.get(place, name)[row])


class _Shared:
    """The members that all rows of one point share: low, high, mean and demands. Those of powers are in kW."""

    def __init__(self, known: Group, column: Column) -> None:
        self.low: Decimal | None = None
        self.high: Decimal | None = None
        self.mean: Decimal | None = None
        self.demand: Decimal | None = None
        self.fixed: Decimal | None = None
        self.unit = ""
        measure = gauge_unit if column.kind == "gauge" else partial(amount_unit, column.point)
        unit, _ = measure(column.unit)
        # the cells with the same kind and unit as ``column``, each with the factor that converts its stored values to
        # ``unit``
        cells = []
        for cell in known:
            own = cell[0].shape.columns[cell[2]]
            found, factor = measure(own.unit)
            if own.kind == column.kind and found == unit:
                cells.append((cell, factor.scaleb(own.exponent)))
        if column.kind == "gauge":
            self.unit = unit
            self._gauge(cells)
        self._demands(cells, column, unit)

    def _gauge(self, cells: Sequence[tuple[GroupCell, Decimal]]) -> None:
        read = [(cell, scale) for cell, scale in cells if cell[0].get(cell[2], "readings")[cell[1]]]
        if read:
            self.low = tidy(min(p.get(c, "low")[r] * scale for (p, r, c), scale in read))
            self.high = tidy(max(p.get(c, "high")[r] * scale for (p, r, c), scale in read))
        covered = sum(p.length[r] - p.get(c, "lack")[r] for (p, r, c), _ in cells)
        if covered:
            areas = ((p.get(c, "above")[r] - p.get(c, "below")[r]) * scale for (p, r, c), scale in cells)
            # all factors of gauges are powers of ten, so the finest scale is the one with the lowest exponent
            fine = min(scale.adjusted() for _, scale in cells) - PARTS
            self.mean = tidy((sum(areas, Decimal(0)) / covered).quantize(Decimal(1).scaleb(fine)))

    def _demands(self, cells: Sequence[tuple[GroupCell, Decimal]], column: Column, unit: str) -> None:
        """Set the demands.

        A demand is the highest mean power of a window: the amount of the window divided by its length.
        """
        # the growth of a counter is in thousandths of a count and per hour, the area of a power in ms
        per = Decimal(HOUR_MS).scaleb(-PARTS) if column.kind == "counter" else Decimal(1)
        for name in ("demand", "fixed"):
            means = [
                ((n - 1) * scale * per / p.shape.period_ms).quantize(Decimal("1e-6"))
                for (p, r, c), scale in cells
                if (n := p.get(c, name)[r]) and p.shape.period_ms
            ]
            if not means:
                continue
            if column.kind == "counter":
                self.unit = {"kWh": "kW", "kvarh": "kvar", "kVAh": "kVA"}.get(unit, f"{unit}/h")
            setattr(self, name, tidy(max(means)))
