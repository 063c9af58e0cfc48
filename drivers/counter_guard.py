"""Checks whether a counter value is possible before the reading is accepted as good.

A counter reveals an answer that is wrong but looks valid. Examples are a late answer, an answer shifted by one
register, and a register that was blank, zero or underflowed during start-up (field pains 10 to 14, 31 to 35). The
reading of an impossible value is marked ``suspect``. A real reset is accepted once the counter has counted on from its
new value for a while.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from drivers.model import DeviceSpec, Kind, Point
from drivers.plan import ratio_of
from drivers.registry import find_protocol

# A counter's new level is accepted after at least this time and this many readings that continue from it.
BELIEVED_S, BELIEVED_READINGS = 60.0, 3
HIGHEST_W = Decimal(1_000_000_000)  # upper limit for the power of any device in a park
# unit -> highest possible growth per second; the growth of counters in other units is not limited
_HIGHEST: dict[str, Decimal] = {
    **{unit: HIGHEST_W / 3600 for unit in ("Wh", "varh", "VAh")},
    **{f"k{unit}": HIGHEST_W / 3_600_000 for unit in ("Wh", "varh", "VAh")},
    **{f"M{unit}": HIGHEST_W / 3_600_000_000 for unit in ("Wh", "varh", "VAh")},
    "GWh": HIGHEST_W / 3_600_000_000_000,
    "J": HIGHEST_W,
    "kJ": HIGHEST_W / 1000,
    "MJ": HIGHEST_W / 1_000_000,
    "GJ": HIGHEST_W / 1_000_000_000,
    "m3": Decimal(1000),  # no pipe carries more
    "l": Decimal(1_000_000),
    "Nm3": Decimal(100_000),
    "kg": Decimal(1_000_000),
    "t": Decimal(1000),
    "Ah": Decimal(1000),
    "kAh": Decimal(1),
    "s": Decimal(2),  # operating time grows by 1 s per second; the limit is 2 because the counter may have coarse steps
    "min": Decimal(2) / 60,
    "h": Decimal(2) / 3600,
    "d": Decimal(2) / 86_400,
}
# growth above this many times the largest growth so far is possible, but suggests that the device was exchanged
LEAP = 1000
SLACK_S = 2.0  # added to the time between two readings, because a device may send a value that is this old
# counters in these units often show whole numbers only
_COARSE = frozenset(("MWh", "GWh", "Mvarh", "MVAh", "GJ", "t", "kAh", "min", "h", "d"))
STEPS = 2  # a counter may exceed its highest possible growth by this many steps of its last digit
# A value that falls by at most this share of itself may just have been rounded, because an f32 has a mantissa of only
# 24 bits.
_ROUNDING = Decimal(1) / (1 << 20)


@dataclass(frozen=True, slots=True)
class CounterRule:
    """The limits of one counter's changes."""

    highest: Decimal | None  # highest possible growth per second, in the counter's unit; None: there is no limit
    steps: Decimal = Decimal(0)  # growth that is always allowed beyond ``highest``, in the counter's unit
    falls: bool = False  # whether the value can fall, as in a net counter
    around: Decimal | None = None  # the value at which the counter rolls over to 0; None: unknown

    @classmethod
    def of(cls, point: Point, ratio: Decimal = Decimal(1), resolution: Decimal | None = Decimal(1)) -> CounterRule:
        """The rule for a profile's counter ``point``.

        Args:
            ratio: transformer ratio that the values are multiplied by.
            resolution: what one count of the device is before ``scale`` is applied; None: unknown.
        """
        end = Decimal(2**point.bits) if point.bits is not None else None
        if point.digits is not None and resolution is not None:
            end = 10**point.digits * resolution
        return cls(
            _HIGHEST.get(point.unit),
            STEPS * (max(abs(point.scale), Decimal(1)) if point.unit in _COARSE else abs(point.scale)) * ratio,
            point.is_signed or point.name.rpartition(".")[2] in ("net", "total"),
            end * abs(point.scale) * ratio if end is not None else None,
        )

    def fits(self, before: Decimal, after: Decimal, seconds: float) -> bool:
        """Whether the value can change from ``before`` to ``after`` within ``seconds``. A rollover is allowed."""
        step = after - before
        room = None if self.highest is None else self.highest * Decimal(seconds + SLACK_S) + self.steps
        if step < 0 and -step <= abs(before) * _ROUNDING:
            return True
        if step < 0 and not self.falls:
            if self.around is None or room is None or step + self.around < 0:
                return False
            step += self.around
        return room is None or abs(step) <= room


def _rule(point: Point, spec: DeviceSpec) -> CounterRule:
    resolution: Decimal | None = Decimal(1)
    if point.key:  # the driver returns the meter's value with its decimals, instead of a raw integer
        protocol = find_protocol(spec.protocol)
        resolution = None if protocol is None else protocol.resolution
    return CounterRule.of(point, ratio_of(point, spec), resolution)


@dataclass(slots=True)
class _Level:
    """The state of one counter: its last accepted value, and the deviating value that the counter has shown since then,
    if any.
    """

    value: Decimal
    at_s: float  # when ``value`` was read, in monotonic seconds
    step: Decimal = Decimal(0)  # the largest growth so far between two readings
    claim: Decimal | None = None  # the deviating value; None: the last value did not deviate
    claimed_s: float = 0.0  # when a deviating value was last reported
    since_s: float = 0.0  # when the counter first showed the deviating level, in monotonic seconds
    times: int = 0  # number of consistent readings at the deviating level, the first one included


class CounterJump(NamedTuple):
    """A counter changed to another level and then counted on from there. ``at_s``: time of the change, in monotonic
    seconds.
    """

    number: int
    before: Decimal
    after: Decimal
    at_s: float


class CounterGuard:
    """Checks the counters of one device. It compares each new value with the last accepted value of the counter."""

    def __init__(self, spec: DeviceSpec) -> None:
        self.counters = frozenset(n for n, point in enumerate(spec.points) if point.kind is Kind.COUNTER)
        self._rules = {n: _rule(spec.points[n], spec) for n in self.counters}
        self._levels: dict[int, _Level] = {}
        self.jump: CounterJump | None = None  # the newest jump that was accepted as a new level
        self.jumps = 0  # number of impossible changes of counters, and of changes beyond ``LEAP``

    def is_suspect(self, values: Iterable[tuple[int, Decimal]], now_s: float) -> bool:
        """Check the new values of some counters. Returns True if at least one value is impossible.

        ``values`` has pairs (point, value) that were read together at ``now_s``, in monotonic seconds.
        """
        doubtful = False
        for number, value in values:
            doubtful |= self._is_suspect(number, value, now_s)
        return doubtful

    def _is_suspect(self, number: int, value: Decimal, now_s: float) -> bool:
        level = self._levels.get(number)
        if level is None:
            self._levels[number] = _Level(value, now_s)
            return False
        rule = self._rules[number]
        if rule.fits(level.value, value, now_s - level.at_s):
            if (step := value - level.value) > level.step:
                self.jumps += 0 < LEAP * level.step < step
                level.step = step
        else:
            if level.claim is None or not rule.fits(level.claim, value, now_s - level.claimed_s):
                level.since_s, level.times = now_s, 0
                self.jumps += 1
            level.claim, level.claimed_s, level.times = value, now_s, level.times + 1
            if level.times < BELIEVED_READINGS or now_s - level.since_s < BELIEVED_S:
                return True
            self.jump = CounterJump(number, level.value, value, level.since_s)
        level.value, level.at_s, level.claim = value, now_s, None
        return False
