"""The input of a ledger, and the rows of intervals, as plain values. Amounts are exact decimals, never floats.

An interval is ``[start_ms, end_ms)`` in UTC ms, cut on local time (``agent.intervals.calendar``). Its amount is the
growth of a counter between its ends, interpolated between the readings around each end; it names those readings, so
that anybody can repeat the sum from the packs ``first_seq`` to ``last_seq`` of the stream.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from decimal import Decimal
from enum import IntFlag

from agent.intervals.gap_sums import Gap


class Flag(IntFlag):
    """Flags of an amount. 0: measured, complete and good."""

    SPREAD = 1  # a long stretch without readings touches the interval: the total is known, its place in time is linear
    ESTIMATED = 2  # a reading with quality estimated or substituted took part
    INCOMPLETE = 4  # a part of the interval is not covered: the amount is a lower bound
    SUSPECT = 8  # a reading with quality suspect, range, frozen or clock took part
    ROLLOVER = 16  # the counter passed its end; the amount is exact
    RESET = 32  # it fell to zero and lives on from there; what it counted between the two readings is lost
    SWAP = 64  # it jumped to another level: another meter or a setting by hand; as above
    GLITCH = 128  # readings that were none (a zero, all ones, a spike) were passed over; the amount is exact
    BACK_STEP = 256  # it went back a little; nothing is counted until it is past its highest level again
    EPOCH = 512  # a new counter (identity, ratio, scale, variant): the stretch between the two is not counted
    CLOCK = 1024  # the clock was set within; what fell into repeated time is added to what was there
    POWER = 2048  # integrated from power readings, as there is no counter
    LATE = 4096  # known or corrected after the interval was closed


FLAW = Flag.SPREAD | Flag.ESTIMATED | Flag.SUSPECT | Flag.POWER  # counts into the estimated share


@dataclass(frozen=True, slots=True)
class EndReading:
    """A reading that an amount came from."""

    seq: int  # pack of the stream that holds it; 0: not known
    time_ms: int  # when it was read, as in the pack
    value: Decimal  # in the device's unit, as read


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """One point of one stream in one interval, with all corrections applied.

    ``amount`` is None for gauges, and for counters unknown in the interval (INCOMPLETE,
    ``covered_ms`` 0). ``unit`` is the amount's: kWh, kvarh, kVAh, GJ (heat and cold), m3, Nm3, t; low, high, mean and
    demands are in ``gauge_unit``. A power that is integrated because there is no counter has POWER and an amount; where
    it went both ways, two rows, one a flow. ``first`` is the last reading at or before the start (or the first one
    within), ``last`` the first reading at or after the end (or the last one within).
    """

    stream: str  # "park7/gw01/inv1"
    part: str  # the front of point names that the role was given to: "ac", "meter.ac", "" for the whole device
    point: str  # "ac.energy.import"
    role: str  # "" where the configuration gives none
    parent: str  # place in the metering tree, "" where the configuration gives none
    flow: str  # what the amount is for its role, see ``agent.intervals.flows``; "" for points beside the main ones
    start_ms: int
    end_ms: int
    amount: Decimal | None
    unit: str
    flags: Flag
    covered_ms: int  # of the interval, between two good readings of one counter
    spread_ms: int  # of these, in stretches longer than ``max_gap``
    readings: int  # good ones within [start, end)
    first: EndReading | None
    last: EndReading | None
    first_seq: int  # packs that the row came from, both included; 0: none
    last_seq: int
    revision: int  # 0 as first written; grows with each correction
    low: Decimal | None = None  # gauges: lowest, highest, time-weighted mean (trapezoid over covered time)
    high: Decimal | None = None
    mean: Decimal | None = None
    demand: Decimal | None = None  # highest mean of a sliding window, of those that end in the interval
    demand_fixed: Decimal | None = None  # of the fixed window (00:00, 00:15, ...) that ends in the interval
    gauge_unit: str = ""  # of low, high, mean and the demands: kW for powers

    @property
    def completeness(self) -> Decimal:
        """Covered share of the interval, 0 to 1, at most six decimals."""
        length = self.end_ms - self.start_ms
        return Decimal(min(self.covered_ms, length) * 1_000_000 // length) / 1_000_000


@dataclass(frozen=True, slots=True)
class Source:
    """Where a sum came from: one stream's packs, and the readings at the outer ends."""

    stream: str
    point: str
    first_seq: int
    last_seq: int
    first: EndReading | None
    last: EndReading | None


@dataclass(frozen=True, slots=True)
class RoleSum:
    """All counters of one role and flow over one stretch.

    ``completeness`` is the mean over the counters that were configured in the stretch, weighted by time; where it is 0,
    nothing is known and the amount has no meaning. ``estimated`` is the part of ``amount`` that carries a flag of
    ``FLAW``, in the same unit. ``meters``: (stream, point) of all counters that were configured, heard of or not.
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


# --- what goes into a ledger, and what it tells of it

QUALITIES = {"suspect": 1, "range": 2, "frozen": 3, "clock": 4, "estimated": 5, "substituted": 6}
RANGE = 2


@dataclass(frozen=True, slots=True)
class PackSpan:
    """The facts of a pack that intervals need."""

    seq: int
    boot: str
    from_ms: int
    to_ms: int
    part: tuple[int, int] | None = None  # of one tick that was too large for a pack: k of n
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, slots=True)
class CounterEvent:
    """The verdict on a counter's reading, for an event of its stream. Values exact, in the device's unit."""

    point: str
    kind: str  # rollover reset swap glitch back_step
    time_ms: int
    value: Decimal | None  # None: beyond all counters
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
