"""What each single counter came to in a stretch of time: for the balance, for check meters, for sums of points.

Filled by ``sums`` while it goes through the pages for the roles, so that a month of 500 counters is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import NamedTuple

from agent.intervals.cells import Convert, amounts_of
from agent.intervals.page import Column
from agent.intervals.roles import amount_unit
from agent.intervals.rows import FLAW, Flag
from agent.intervals.taken import Taken

Wants = Callable[[str, Column], bool]
# plain numbers: an enum's & makes an object each time
_FLAW, _POWER, _SPREAD = int(FLAW), int(Flag.POWER), int(Flag.SPREAD)


class MeterKey(NamedTuple):
    """One flow of one point."""

    stream: str
    point: str
    flow: str


@dataclass(frozen=True, slots=True)
class Metered:
    """One flow of one point over one stretch."""

    key: MeterKey
    column: Column  # as it was last
    unit: str
    amount: Decimal
    flawed: Decimal  # of it: spread, estimated, suspect or integrated from power
    covered_ms: int
    flags: Flag
    first_seq: int
    last_seq: int
    ends_spread: tuple[bool, bool] = (False, False)  # its first and last interval: some of them may lie beyond

    @property
    def device(self) -> str:
        """``inv1`` of ``park7/gw01/inv1``."""
        return self.key.stream.rpartition("/")[2]

    @property
    def place(self) -> str:
        """``inv1/meter.ac``: how people call the meter."""
        return f"{self.device}/{self.column.part}" if self.column.part else self.device

    @property
    def count(self) -> Decimal:
        """What one count of the device is worth, in ``unit``; 0 of an integrated power."""
        if self.column.kind != "counter":
            return Decimal(0)
        factor = amount_unit(self.column.point, self.column.unit)[1]
        return Decimal(self.column.count).scaleb(self.column.exponent) * factor


@dataclass(slots=True)
class _Whole:
    """A column's sums by stretch, in its own whole numbers."""

    column: Column
    unit: str
    convert: Convert
    amount: list[int]
    flawed: list[int]
    covered_ms: list[int]
    flags: list[int]
    first_seq: list[int]
    last_seq: list[int]
    ends: dict[int, tuple[int, bool, int, bool]] = field(default_factory=dict)  # first and last start, spread there


class Meters:
    """Takes columns from ``sums``.

    Args:
        wants: whether a column of a stream counts.
        stretches: how many there are; 1: everything that is taken is one.
    """

    def __init__(self, wants: Wants, stretches: int = 1) -> None:
        self.wants, self._stretches = wants, stretches
        self._wholes: dict[tuple[MeterKey, str, int, str], _Whole] = {}
        self.since_ms = self.until_ms = 0  # all closed intervals of all streams lie in these; ``sums`` says it

    def take(self, t: Taken, number: int, column: Column, rows: Sequence[tuple[int, int]]) -> None:
        """One column of a page; ``rows``: (row, stretch)."""
        if not rows:
            return
        known, lack = t.get(number, "flags"), t.get(number, "lack")
        for flow, name, unit, convert in amounts_of(column):
            key = MeterKey(t.stream, column.point, flow), column.unit, column.exponent, column.kind
            if key not in self._wholes:
                six = [[0] * self._stretches for _ in range(6)]
                self._wholes[key] = _Whole(column, unit, convert, six[0], six[1], six[2], six[3], six[4], six[5])
            into = self._wholes[key]
            into.column = column
            amounts = t.get(number, name)
            power = _POWER if column.kind == "gauge" else 0
            if self._stretches == 1:
                self._add(into, 0, t, _picked(rows, known), known, amounts, lack, power)
                continue
            for n, at in rows:
                if known[n]:
                    self._add(into, at, t, slice(n, n + 1), known, amounts, lack, power)

    @staticmethod
    def _add(
        into: _Whole,
        at: int,
        t: Taken,
        rows: slice | Sequence[int],
        known: Sequence[int],
        amounts: Sequence[int],
        lack: Sequence[int],
        power: int,
    ) -> None:
        def pick(values: Sequence[int]) -> Sequence[int]:
            return values[rows] if isinstance(rows, slice) else [values[n] for n in rows]

        said, mine = pick(known), pick(amounts)
        if not said:
            return
        into.amount[at] += sum(mine)
        into.covered_ms[at] += sum(pick(t.length)) - sum(pick(lack))
        flags = power
        for flag in set(said):
            flags |= flag - 1
        into.flags[at] |= flags
        if flags & _FLAW:
            into.flawed[at] += sum([a for a, flag in zip(mine, said, strict=True) if (flag - 1 | power) & _FLAW])
        low, high = min(pick(t.first_seq)), max(pick(t.last_seq))
        into.first_seq[at] = min(into.first_seq[at], low) or max(into.first_seq[at], low)
        into.last_seq[at] = max(into.last_seq[at], high)
        starts = pick(t.start)
        was = into.ends.get(at, (starts[0], False, starts[-1], False))
        if starts[0] <= was[0]:
            was = starts[0], bool(said[0] - 1 & _SPREAD), *was[2:]
        if starts[-1] >= was[2]:
            was = *was[:2], starts[-1], bool(said[-1] - 1 & _SPREAD)
        into.ends[at] = was

    def found(self, at: int = 0) -> list[Metered]:
        """What was taken of one stretch, by stream, point and flow; what a counter was in other units is added."""
        out: dict[MeterKey, Metered] = {}
        for (key, *_), w in self._wholes.items():
            one = Metered(
                key,
                w.column,
                w.unit,
                w.convert(w.amount[at]),
                w.convert(w.flawed[at]),
                w.covered_ms[at],
                Flag(w.flags[at]),
                w.first_seq[at],
                w.last_seq[at],
                w.ends.get(at, (0, False, 0, False))[1::2],
            )
            out[key] = added(out[key], one) if key in out and out[key].unit == one.unit else one
        return [out[key] for key in sorted(out)]


def added(one: Metered, other: Metered) -> Metered:
    """Two stretches of one meter as one, in their order."""
    return replace(
        other,
        amount=one.amount + other.amount,
        flawed=one.flawed + other.flawed,
        covered_ms=one.covered_ms + other.covered_ms,
        flags=one.flags | other.flags,
        first_seq=min(one.first_seq, other.first_seq) or max(one.first_seq, other.first_seq),
        last_seq=max(one.last_seq, other.last_seq),
        ends_spread=(one.ends_spread[0], other.ends_spread[1]),
    )


def _picked(rows: Sequence[tuple[int, int]], known: Sequence[int]) -> slice | Sequence[int]:
    """The rows of which something is known: a slice where they follow each other, which is the fast road."""
    first, last = rows[0][0], rows[-1][0]
    if last - first == len(rows) - 1 and all(known):
        return slice(first, last + 1)
    return [n for n, _ in rows if known[n]]
