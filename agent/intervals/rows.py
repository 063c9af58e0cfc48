"""The input of a ledger, and the rows of intervals, as plain values. Amounts are exact decimals, never floats.

An interval is ``[start_ms, end_ms)`` in UTC ms, aligned to local time (``agent.intervals.calendar``). Its amount is the
growth of a counter between its ends. The counter's value at each end is interpolated between the readings around this
end. A row contains these readings, so that anybody can repeat the calculation from the packs ``first_seq`` to
``last_seq`` of the stream.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from decimal import Decimal
from enum import IntFlag
from typing import NamedTuple

from agent.intervals.gap_sums import Gap


class Flag(IntFlag):
    """Flags of an amount. 0 means that the amount is measured, complete and good."""

    # the interval touches a long time without readings: the growth in that time is known, and is spread evenly over it
    SPREAD = 1
    ESTIMATED = 2  # a reading with the quality estimated or substituted was used
    INCOMPLETE = 4  # a part of the interval is not covered, so the amount is a lower bound
    SUSPECT = 8  # a reading with the quality suspect, range, frozen or clock was used
    ROLLOVER = 16  # the counter rolled over at its highest value; the amount is exact
    RESET = 32  # the counter fell to zero and counts on from there; the growth between the two readings is lost
    # the counter jumped to another level (a new meter, or set by hand); the growth between the two readings is lost
    SWAP = 64
    GLITCH = 128  # invalid readings (a zero, all ones, a spike) were skipped; the amount is exact
    BACK_STEP = 256  # the counter went back a little; no growth is counted until it exceeds its highest level
    # a new counter began (identity, ratio, scale or variant changed); the time between old and new is not counted
    EPOCH = 512
    # the clock was set in the interval; if clock time was repeated, the amounts of both passes are added up
    CLOCK = 1024
    POWER = 2048  # the amount is integrated from power readings, because there is no counter
    LATE = 4096  # the amount became known, or was corrected, after the interval was closed


FLAW = Flag.SPREAD | Flag.ESTIMATED | Flag.SUSPECT | Flag.POWER  # an amount with one of these flags counts as estimated


@dataclass(frozen=True, slots=True)
class EndReading:
    """A reading that an amount was computed from."""

    seq: int  # sequence of the pack that contains the reading; 0: not known
    time_ms: int  # the time of the reading, as in the pack
    value: Decimal  # value as read, in the device's unit


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """One point of one stream in one interval, with all corrections applied.

    - ``amount`` is None for gauges, and for counters that are unknown in the interval (INCOMPLETE, ``covered_ms`` 0).
    - ``unit`` is the unit of the amount: kWh, kvarh, kVAh, GJ (heat and cold), m3, Nm3, t.
    - ``low``, ``high``, ``mean`` and the demands are in ``gauge_unit``.
    - ``first`` is the last reading at or before the start. If there is none, it is the first reading within the
      interval.
    - ``last`` is the first reading at or after the end. If there is none, it is the last reading within the interval.

    A power that is integrated because there is no counter has an amount and the flag POWER. If it had both directions,
    it has two rows, one for each flow.
    """

    stream: str  # full name, such as "park7/gw01/inv1"
    part: str  # prefix of the point names to which the role belongs: "ac", "meter.ac", or "" for the whole device
    point: str  # such as "ac.energy.import"
    role: str  # "" if the configuration gives none
    parent: str  # the meter above in the metering tree, "" if the configuration gives none
    # the flow of the role that the amount counts for, see ``agent.intervals.flows``; "" if the point is not a main
    # counter
    flow: str
    start_ms: int
    end_ms: int
    amount: Decimal | None
    unit: str
    flags: Flag
    covered_ms: int  # the time of the interval, in ms, between good readings of one counter
    spread_ms: int  # the part of ``covered_ms`` in which two readings are further apart than ``max_gap``
    readings: int  # number of good readings within [start, end)
    first: EndReading | None
    last: EndReading | None
    first_seq: int  # the first and last pack that the row was made from; 0: none
    last_seq: int
    revision: int  # 0: the row as first written; each correction has a higher revision
    # only for gauges: ``low`` and ``high`` are the lowest and highest value, ``mean`` is the time-weighted mean
    # (trapezoid over covered time)
    low: Decimal | None = None
    high: Decimal | None = None
    mean: Decimal | None = None
    demand: Decimal | None = None  # the highest mean of the sliding windows that end in the interval
    demand_fixed: Decimal | None = None  # the mean of the fixed window (00:00, 00:15, ...) that ends in the interval
    gauge_unit: str = ""  # unit of low, high, mean and the demands; kW for powers

    @property
    def completeness(self) -> Decimal:
        """The share of the interval that is covered, 0 to 1, with at most six decimals."""
        length = self.end_ms - self.start_ms
        return Decimal(min(self.covered_ms, length) * 1_000_000 // length) / 1_000_000


@dataclass(frozen=True, slots=True)
class Source:
    """A source of a sum: packs of one stream, and the readings at both ends."""

    stream: str
    point: str
    first_seq: int
    last_seq: int
    first: EndReading | None
    last: EndReading | None


@dataclass(frozen=True, slots=True)
class RoleSum:
    """The sum of all counters of one role and flow in one stretch.

    ``completeness`` is the mean over the counters that were configured in the stretch, weighted by time. If it is 0,
    nothing is known, and ``amount`` does not apply. ``estimated`` is the part of ``amount`` that has a flag of
    ``FLAW``, in the same unit. ``meters``: (stream, point) of all counters that were configured.
    """

    role: str
    flow: str
    start_ms: int
    end_ms: int
    amount: Decimal
    unit: str
    completeness: Decimal
    estimated: Decimal
    flags: Flag
    sources: tuple[Source, ...]
    meters: frozenset[tuple[str, str]] = frozenset()

    @property
    def silent(self) -> frozenset[tuple[str, str]]:
        """The counters of which nothing is known in the whole stretch."""
        return self.meters - {(source.stream, source.point) for source in self.sources}


# --- input and events of a ledger

QUALITIES = {"suspect": 1, "range": 2, "frozen": 3, "clock": 4, "estimated": 5, "substituted": 6}
RANGE = 2


class PackSpan(NamedTuple):
    """The members of a pack from which intervals are made."""

    seq: int
    boot: str
    from_ms: int
    to_ms: int
    part: tuple[int, int] | None = None  # (k, n): part k of n of a tick that was too large for one pack
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, slots=True)
class CounterEvent:
    """The verdict on a reading of a counter, for an event in its stream. Values are exact, in the device's unit."""

    point: str
    kind: str  # rollover, reset, swap, glitch or back_step
    time_ms: int
    value: Decimal | None  # None: the reading has a value that a counter cannot reach
    before_ms: int
    before: Decimal
    growth: Decimal
    count: int
    until_ms: int

    @property
    def key(self) -> tuple[str, str, int]:
        """Repetitions of the same event have the same key."""
        return self.point, self.kind, self.time_ms


@dataclass(slots=True)
class SlotReadings:
    """The readings of a pack in order. Each has a slot, a time, a value and a quality."""

    slots: array[int]
    times: array[int]
    values: array[int]
    qualities: bytes
