"""Adds up the amounts of single counters in a stretch of time: for balances, check meters and derived points.

The function ``sums`` reads columns for its own sums and passes them on to this module, so each page is read only once.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple, TypeVar

from agent.intervals.amounts import Convert, amounts_of
from agent.intervals.flows import amount_unit
from agent.intervals.page_format import Column, DecodedPage, SelectedRows
from agent.intervals.rows import FLAW, Flag
from ext.columns import Sums

T = TypeVar("T", bound=Hashable)
Wants = Callable[[str, Column], bool]
# as plain integers, because ``&`` of an enum creates an object each time
_FLAW, _POWER, _SPREAD = int(FLAW), int(Flag.POWER), int(Flag.SPREAD)


class MeterKey(NamedTuple):
    """Identifies one flow of one point of a stream."""

    stream: str
    point: str
    flow: str


@dataclass(frozen=True, slots=True)
class MeterAmount:
    """The amount of one flow of one point in one stretch."""

    key: MeterKey
    column: Column  # if the configuration changed in the stretch, the newest column
    unit: str
    amount: Decimal
    flawed: Decimal  # the part of ``amount`` that is spread, estimated, suspect or integrated from power
    covered_ms: int
    flags: Flag
    first_seq: int
    last_seq: int
    # True: the first (last) interval of the stretch is spread, so a part of its amount may belong outside the stretch
    ends_spread: tuple[bool, bool] = (False, False)

    @property
    def device(self) -> str:
        """The name of the device: ``inv1`` of ``park7/gw01/inv1``."""
        return self.key.stream.rpartition("/")[2]

    @property
    def place(self) -> str:
        """The name of the meter as people see it, such as ``inv1/meter.ac``."""
        return _place(self.key.stream, self.column.part)

    @property
    def count(self) -> Decimal:
        """The value of one count of the device, in ``unit``; 0 for an integrated power."""
        return _count(self.column)


# both functions are cached: they are called for each stretch, but their results change only with the configuration
@lru_cache(maxsize=4096)
def _place(stream: str, part: str) -> str:
    device = stream.rpartition("/")[2]
    return f"{device}/{part}" if part else device


@lru_cache(maxsize=4096)
def _count(column: Column) -> Decimal:
    if column.kind != "counter":
        return Decimal(0)
    return Decimal(column.count).scaleb(column.exponent) * amount_unit(column.point, column.unit)[1]


class Spans:
    """A set of stretches, each given by its number. It is kept as runs (first, last) of consecutive numbers."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, int]] = []

    def add(self, first: int, last: int) -> None:
        """Add the stretches ``first`` to ``last``."""
        if self._runs and self._runs[-1][0] <= first <= self._runs[-1][1] + 1:
            self._runs[-1] = self._runs[-1][0], max(last, self._runs[-1][1])
        else:
            self._runs.append((first, last))

    def add_places(self, places: array[int]) -> None:
        """Add the stretches that ``places`` lists: the number of each row's stretch, in the order of the rows."""
        start = before = places[0]
        if places[-1] - start < len(places) and places[-1] >= start:
            self.add(start, places[-1])  # the usual case: each stretch from the first to the last has a row
            return
        for place in places:
            if place > before + 1 or place < before:
                self.add(start, before)
                start = place
            before = place
        self.add(start, before)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Iterate over the runs. If the stretches were not added in order, runs may overlap."""
        return iter(self._runs)


def due_in(spans: Mapping[T, Spans], count: int) -> list[frozenset[T]]:
    """Return, for each of ``count`` stretches, the keys whose ``spans`` contain it.

    Consecutive stretches with the same keys share one set.
    """
    enter: dict[int, list[T]] = {}
    leave: dict[int, list[T]] = {}
    for who, runs in spans.items():
        for first, last in runs:
            enter.setdefault(first, []).append(who)
            leave.setdefault(last + 1, []).append(who)
    inside: dict[T, int] = {}
    out: list[frozenset[T]] = []
    now: frozenset[T] = frozenset()
    for at in range(count):
        if at in enter or at in leave:
            for who in enter.get(at, ()):
                inside[who] = inside.get(who, 0) + 1
            for who in leave.get(at, ()):
                inside[who] -= 1
            now = frozenset(who for who, depth in inside.items() if depth)
        out.append(now)
    return out


@dataclass(slots=True)
class _Whole:
    """The sums of a column by stretch, as integers in the scale of the column."""

    column: Column
    unit: str
    convert: Convert
    sums: Sums
    first_seq: list[int]
    last_seq: list[int]
    spans: Spans = field(default_factory=Spans)  # the stretches in which the column was configured
    # by stretch: start of its first interval, True if the first interval is spread; start of its last interval, True
    # if the last interval is spread
    ends: dict[int, tuple[int, bool, int, bool]] = field(default_factory=dict)

    def widen(self, at: int, t: DecodedPage, known: Sequence[int], first: int, last: int, low: int, high: int) -> None:
        """Add the rows ``first`` to ``last`` of a page, which came from the packs ``low`` to ``high``."""
        self.first_seq[at] = min(self.first_seq[at], low) or max(self.first_seq[at], low)
        self.last_seq[at] = max(self.last_seq[at], high)
        start, end = t.start[first], t.start[last]
        was = self.ends.get(at, (start, False, end, False))
        if start <= was[0]:
            was = start, bool(known[first] - 1 & _SPREAD), *was[2:]
        if end >= was[2]:
            was = *was[:2], end, bool(known[last] - 1 & _SPREAD)
        self.ends[at] = was


class MeterSums:
    """Adds up the columns that the function ``sums`` passes to it, by meter.

    Args:
        wants: returns True if a column of a stream counts.
        stretches: the number of stretches. If it is 1, all amounts are added to one stretch.
    """

    def __init__(self, wants: Wants, stretches: int = 1) -> None:
        self.wants, self._stretches = wants, stretches
        self._wholes: dict[tuple[MeterKey, str, int, str], _Whole] = {}
        self._due: list[frozenset[tuple[MeterKey, str, int, str]]] | None = None
        # start of the first and end of the last closed interval of all streams; ``sums`` sets them
        self.since_ms = self.until_ms = 0

    def take(self, t: DecodedPage, number: int, column: Column, mine: SelectedRows) -> None:
        """Add one column of a page."""
        known, lack = t.get(number, "flags"), t.get(number, "lack")
        power = _POWER if column.kind == "gauge" else 0
        is_one = self._stretches == 1
        for into, name in self._places(t.stream, column):
            if is_one:
                into.spans.add(0, 0)
            else:
                into.spans.add_places(mine.places)
            taken = into.sums.add(
                mine.rows, None if is_one else mine.places, known, t.get(number, name), t.length, lack, power
            )
            if is_one and taken:
                rows = mine.known(known, taken)
                into.widen(0, t, known, rows[0], rows[-1], *t.packs(rows))
                continue
            for n, at in zip(*mine, strict=True) if taken else ():
                if known[n]:
                    into.widen(at, t, known, n, n, t.first_seq[n], t.last_seq[n])

    def expect(self, stream: str, column: Column, span: tuple[int, int]) -> None:
        """Note that a column is configured in the stretches ``span`` (first, last), even if it has no amounts there."""
        for into, _ in self._places(stream, column):
            into.spans.add(*span if self._stretches > 1 else (0, 0))

    def _places(self, stream: str, column: Column) -> Iterator[tuple[_Whole, str]]:
        """Yield, for each amount of a column, the sum that it is added to, and the name of the field that holds it."""
        self._due = None
        for flow, name, unit, convert in amounts_of(column):
            key = MeterKey(stream, column.point, flow), column.unit, column.exponent, column.kind
            into = self._wholes.get(key)
            if into is None:
                sums = Sums(self._stretches, _FLAW)
                zeros = [0] * self._stretches
                into = self._wholes[key] = _Whole(column, unit, convert, sums, zeros, zeros.copy())
            into.column = column
            yield into, name

    def found(self, at: int = 0) -> list[MeterAmount]:
        """Return the amounts of all meters that were configured in the stretch ``at``, by stream, point and flow.

        If the unit or scale of a counter changed, its amounts are added up only if they have the same amount unit.
        ``covered_ms`` is 0 if nothing is known of a meter.
        """
        if self._due is None:
            self._due = due_in({key: w.spans for key, w in self._wholes.items()}, self._stretches)
        out: dict[MeterKey, MeterAmount] = {}
        for (key, *rest), w in self._wholes.items():
            if (key, *rest) not in self._due[at]:
                continue
            amount, flawed, covered_ms, flags = w.sums.get(at) or (0, 0, 0, 0)
            one = MeterAmount(
                key,
                w.column,
                w.unit,
                w.convert(amount),
                w.convert(flawed),
                covered_ms,
                Flag(flags),
                w.first_seq[at],
                w.last_seq[at],
                w.ends.get(at, (0, False, 0, False))[1::2],
            )
            out[key] = added(out[key], one) if key in out and out[key].unit == one.unit else one
        return [out[key] for key in sorted(out)]


def added(one: MeterAmount, other: MeterAmount) -> MeterAmount:
    """Add up the amounts of one meter in two consecutive stretches. ``one`` is the earlier one."""
    return MeterAmount(
        other.key,
        other.column,
        other.unit,
        one.amount + other.amount,
        one.flawed + other.flawed,
        one.covered_ms + other.covered_ms,
        one.flags | other.flags,
        min(one.first_seq, other.first_seq) or max(one.first_seq, other.first_seq),
        max(one.last_seq, other.last_seq),
        (one.ends_spread[0], other.ends_spread[1]),
    )
