"""The input of a ledger, and the rows of intervals, as plain values. Amounts are exact decimals, never floats.

An interval is ``[start_ms, end_ms)`` in UTC ms, aligned to local time (``agent.intervals.calendar``). Its amount is the
growth of a counter between its ends, interpolated between the readings around each end. A row contains these readings,
so that anybody can repeat the sum from the packs ``first_seq`` to ``last_seq`` of the stream.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from decimal import Decimal
from enum import IntFlag

from agent.intervals.gap_sums import Gap


class Flag(IntFlag):
    """Flags of an amount. 0: measured, complete and good."""

    SPREAD = 1  # the interval touches a long time without readings, whose growth is known and spread evenly over it
    ESTIMATED = 2  # a reading with quality estimated or substituted took part
    INCOMPLETE = 4  # a part of the interval is not covered: the amount is a lower bound
    SUSPECT = 8  # a reading with quality suspect, range, frozen or clock took part
    ROLLOVER = 16  # the counter passed its end; the amount is exact
    RESET = 32  # the counter fell to zero and counts on from there; the growth between the two readings is lost
    SWAP = 64  # the counter jumped to another level: new meter, or set by hand; the growth in between is lost
    GLITCH = 128  # invalid readings (a zero, all ones, a spike) were skipped; the amount is exact
    BACK_STEP = 256  # the counter went back a little; nothing is counted until it exceeds its highest level
    EPOCH = 512  # a new counter (identity, ratio, scale, variant): the time between old and new is not counted
    CLOCK = 1024  # the clock was set in the interval; amounts of repeated clock time are added up
    POWER = 2048  # integrated from power readings, because there is no counter
    LATE = 4096  # known or corrected after the interval was closed


FLAW = Flag.SPREAD | Flag.ESTIMATED | Flag.SUSPECT | Flag.POWER  # an amount with one of these flags counts as estimated


@dataclass(frozen=True, slots=True)
class EndReading:
    """A reading that an amount came from."""

    seq: int  # sequence of the pack that contains it; 0: not known
    time_ms: int  # when it was read, as in the pack
    value: Decimal  # in the device's unit, as read


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """One point of one stream in one interval, with all corrections applied.

    ``amount`` is None for gauges, and for counters that are unknown in the interval (INCOMPLETE, ``covered_ms`` 0).
    ``unit`` is the unit of the amount: kWh, kvarh, kVAh, GJ (heat and cold), m3, Nm3, t. Low, high, mean and demands
    are in ``gauge_unit``. A power that is integrated because there is no counter has an amount and the flag POWER; if
    it had both directions, it has two rows, one for each flow. ``first`` is the last reading at or before the start (or
    the first one within), ``last`` is the first reading at or after the end (or the last one within).
    """

    stream: str  # "park7/gw01/inv1"
    part: str  # prefix of the point names that have the role: "ac", "meter.ac", "" for the whole device
    point: str  # "ac.energy.import"
    role: str  # "" if the configuration gives none
    parent: str  # the meter above in the metering tree, "" if the configuration gives none
    flow: str  # meaning of the amount for the role, see ``agent.intervals.flows``; "" if it is not a main point
    start_ms: int
    end_ms: int
    amount: Decimal | None
    unit: str
    flags: Flag
    covered_ms: int  # time of the interval that lies between two good readings of one counter
    spread_ms: int  # the part of ``covered_ms`` in which two readings are further apart than ``max_gap``
    readings: int  # good readings within [start, end)
    first: EndReading | None
    last: EndReading | None
    first_seq: int  # first and last pack that the row came from; 0: none
    last_seq: int
    revision: int  # 0 as first written; grows with each correction
    low: Decimal | None = None  # gauges: lowest, highest, time-weighted mean (trapezoid over covered time)
    high: Decimal | None = None
    mean: Decimal | None = None
    demand: Decimal | None = None  # highest mean of the sliding windows that end in the interval
    demand_fixed: Decimal | None = None  # mean of the fixed window (00:00, 00:15, ...) that ends in the interval
    gauge_unit: str = ""  # of low, high, mean and the demands: kW for powers

    @property
    def completeness(self) -> Decimal:
        """Covered share of the interval, 0 to 1, at most six decimals."""
        length = self.end_ms - self.start_ms
        return Decimal(min(self.covered_ms, length) * 1_000_000 // length) / 1_000_000


@dataclass(frozen=True, slots=True)
class Source:
    """A source of a sum: the packs of one stream, and the readings at the outer ends."""

    stream: str
    point: str
    first_seq: int
    last_seq: int
    first: EndReading | None
    last: EndReading | None


@dataclass(frozen=True, slots=True)
class RoleSum:
    """The sum of all counters of one role and flow in one stretch.

    ``completeness`` is the mean over the counters that were configured in the stretch, weighted by time; if it is 0,
    nothing is known and the amount has no meaning. ``estimated`` is the part of ``amount`` that carries a flag of
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
        """The counters without any known interval in the whole stretch."""
        return self.meters - {(source.stream, source.point) for source in self.sources}


# --- input and events of a ledger

QUALITIES = {"suspect": 1, "range": 2, "frozen": 3, "clock": 4, "estimated": 5, "substituted": 6}
RANGE = 2


@dataclass(frozen=True, slots=True)
class PackSpan:
    """The facts of a pack that intervals need."""

    seq: int
    boot: str
    from_ms: int
    to_ms: int
    part: tuple[int, int] | None = None  # (k, n): part k of n of a tick that was too large for one pack
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, slots=True)
class CounterEvent:
    """The verdict on a counter's reading, for an event of its stream. Values are exact, in the device's unit."""

    point: str
    kind: str  # rollover, reset, swap, glitch or back_step
    time_ms: int
    value: Decimal | None  # None: a value that no counter can reach
    before_ms: int
    before: Decimal
    growth: Decimal
    count: int
    until_ms: int

    @property
    def key(self) -> tuple[str, str, int]:
        """Equal for repetitions of the same event."""
        return self.point, self.kind, self.time_ms


@dataclass(slots=True)
class SlotReadings:
    """Readings of a pack by slot, in order."""

    slots: array[int]
    times: array[int]
    values: array[int]
    qualities: bytes
