"""Facts for `status` about readings: how many of those due in the last ten minutes exist, and whether values change.

The numbers come from the tallies of sealed packs. Every 100 s the newest records of the ring are compared with earlier
values. This finds gateways that repeat old answers, and devices whose measuring voltage is missing. No work is done
for each single reading.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from agent.pack import seconds
from drivers.model import FIRST_REASON, DeviceSpec, Kind, Point, Quality, Reason
from ext.ring import ANSWER, Ring

WINDOW_MS = 600_000
BUCKETS = 20
FEWEST_TICKS = 10  # counts of at least this many of the shortest periods are typical: one lost tick is at most 10 %
SETTLING_MS = 60_000  # just after a start, counts are not typical: all paces are due, and identities are read
# reasons that are not faults, in this order: it is dark, a tool uses the line, no agent ran, the clock was set
EXCUSED = frozenset((Reason.ASLEEP, Reason.LENT, Reason.STOPPED, Reason.CLOCK))
LOOK_EVERY_MS: Final = 100_000  # interval between checks for changed values
STILL_MS: Final = 600_000  # values that do not change for this long are suspect
# If a grid voltage or frequency is at least this many steps of its resolution, it changes within ten minutes.
FINE: Final = 1000
STEPS: Final = 5  # a counter is stuck if it stands still while the power should have moved it by this many steps
GRID: Final = re.compile(r"(.+\.)?ac\.(voltage|frequency)(\.|$)")
VOLTAGE: Final = re.compile(r"(^|\.)voltage(\.|$)")
POWER: Final = re.compile(r"(?P<domain>.+)\.power(\.active)?$")
# power -> (counters that advance while it is positive, counters that advance while it is negative). The names of the
# power and of its counters begin with the same prefix, such as ``ac.``.
GROWS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "power.active": (("energy.import", "energy.total"), ("energy.export", "energy.total")),
    "power.generation": (("energy.generation",), ()),
}
AC_POWER: Final = re.compile(r"(?P<part>(.+\.)?ac\.)(?P<power>power\.(active|generation))")
FLOAT_STEP: Final = {"f16": 2.0**-10, "f32": 2.0**-23}  # type -> its resolution as a share of the value
WATTS: Final[Mapping[str, float]] = {"W": 1, "kW": 1e3, "MW": 1e6}
WATT_HOURS: Final[Mapping[str, float]] = {"Wh": 1, "kWh": 1e3, "MWh": 1e6}


@dataclass(slots=True)
class _Bucket:
    from_ms: int
    to_ms: int
    tally: Counter[int]


class RecentReadings:
    """Counts the recent due readings of a stream by quality (0: good) or gap reason (128 and above), in bounded memory.

    The window is ten minutes, or eleven of the shortest periods if that is longer. If a pack is even longer, the window
    is the newest pack. The first minute after a start is not typical, so it is dropped as soon as later packs exist.
    """

    def __init__(self, start_ms: int) -> None:
        self._settled_ms = start_ms + SETTLING_MS
        self._settled = False
        self._buckets: deque[_Bucket] = deque()
        self._total: Counter[int] = Counter()

    def add(self, from_ms: int, to_ms: int, tally: Mapping[int, int], period_ms: int) -> None:
        """Add the tally of a pack. ``period_ms``: the shortest period of the stream."""
        if self._buckets and to_ms < self._buckets[-1].to_ms:  # the clock was set back
            self._buckets.clear()
            self._total.clear()
            self._settled_ms = min(self._settled_ms, to_ms)
        if not self._settled and (from_ms + to_ms) // 2 >= self._settled_ms:
            self._settled = True
            self._buckets.clear()
            self._total.clear()
        _add(self._total, tally)
        window_ms = _window_ms(period_ms)
        if self._buckets and to_ms - self._buckets[-1].from_ms <= window_ms // BUCKETS:
            last = self._buckets[-1]
            last.to_ms = to_ms
            _add(last.tally, tally)
        else:
            self._buckets.append(_Bucket(from_ms, to_ms, Counter(tally)))
        self._forget(to_ms - window_ms)

    def facts(self, now_ms: int, period_ms: int, silent: Mapping[int, int], sealed_ms: int) -> dict[str, Any] | None:
        """The counts for the snapshot. None: no reading was due yet.

        Args:
            silent: tally of the readings due since ``sealed_ms`` that were not answered. A silent stream is sealed
                rarely, so these readings are not in its packs yet.
        """
        begin_ms = now_ms - _window_ms(period_ms)
        self._forget(begin_ms)
        kept = self._buckets and (not silent or self._buckets[-1].to_ms > begin_ms)
        total = Counter(silent) + self._total if kept else Counter(silent)
        if not total:
            return None
        first_ms = self._buckets[0].from_ms if kept else max(begin_ms, sealed_ms)
        end_ms = now_ms if silent else self._buckets[-1].to_ms
        due, missing = total.total(), {Reason(code): n for code, n in total.items() if code >= FIRST_REASON}
        readings = due - sum(missing.values())
        expected = due - sum(n for reason, n in missing.items() if reason in EXCUSED)
        return {
            "from": seconds(max(first_ms, begin_ms) if begin_ms < end_ms else first_ms),
            "to": seconds(end_ms),
            "settled": self._settled and end_ms - first_ms >= FEWEST_TICKS * period_ms,
            "due": due,
            "readings": readings,
            # a single missing reading is never rounded away
            "complete": min(round(readings / expected, 4), 1.0 if readings == expected else 0.9999)
            if expected
            else None,
            "missing": {r.name.lower(): n for r, n in sorted(missing.items(), key=lambda item: (-item[1], item[0]))},
            "valueless_since": seconds(since) if (since := self._valueless_ms()) else None,
            "marked": {Quality(code).name.lower(): n for code, n in sorted(total.items()) if 0 < code < FIRST_REASON},
        }

    def _valueless_ms(self) -> int:
        """The time in UTC ms since which no due reading had a value. 0: the newest readings have values."""
        since_ms = 0
        for bucket in reversed(self._buckets):
            if any(count and code < FIRST_REASON for code, count in bucket.tally.items()):
                break
            if bucket.tally.total():
                since_ms = bucket.from_ms
        return since_ms

    def _forget(self, before_ms: int) -> None:
        """Forget buckets that end before a time, except the newest one."""
        while len(self._buckets) > 1 and self._buckets[0].to_ms <= before_ms:
            self._total -= self._buckets.popleft().tally


def _add(counts: Counter[int], tally: Mapping[int, int]) -> None:
    """Like ``Counter.update``, which takes five times as long for the one or two entries of a usual tally."""
    for code, count in tally.items():
        counts[code] = counts.get(code, 0) + count


def _window_ms(period_ms: int) -> int:
    return max(WINDOW_MS, (FEWEST_TICKS + 1) * period_ms)


class _Value(NamedTuple):
    mantissa: int
    exponent: int


@dataclass(slots=True)
class _IdleCounters:
    """The counters that belong to a power and have not changed since ``since_ms``, and the lowest power meanwhile."""

    grows: tuple[int, ...]  # numbers of the counters that the power must advance
    values: dict[int, _Value]
    since_ms: int
    to_ms: int
    least_w: float

    def holds(self, grows: tuple[int, ...], found: Mapping[int, tuple[int, _Value]]) -> bool:
        """True if all counters that were read are unchanged, and the power has the same direction."""
        return grows == self.grows and all(value == self.values.get(n, value) for n, (_, value) in found.items())


@dataclass(slots=True)
class Stillness:
    """The last values of a device, and since when no value has changed. Idle counters are tracked separately."""

    since_ms: int = 0
    _look_ms: int = 0
    _table: int = -1
    _values: dict[int, _Value] = field(default_factory=dict)  # by point number
    _idle: dict[int, _IdleCounters] = field(default_factory=dict)  # by the number of the power's point

    def look(self, spec: DeviceSpec, ring: Ring, table: int, visits: Iterable[Sequence[int]], now_ms: int) -> None:
        """Compare the values of the newest visits with the previous values, at most every 100 s.

        If the device has another table, the previous values are forgotten at once, because the numbers of its points
        may have changed.
        """
        since_look_ms = now_ms - self._look_ms
        if table != self._table or not 0 <= since_look_ms < 2 * LOOK_EVERY_MS:  # other points, or the clock was set
            self._values.clear()
            self._idle.clear()
        self._table = table
        if 0 <= since_look_ms < LOOK_EVERY_MS:
            return
        self._look_ms = now_ms
        newest: dict[int, tuple[int, _Value]] = {}  # point number -> (tick, value)
        for position in (position for visit in visits for position in visit):
            record = ring.record(position)
            if record is None or record.kind != ANSWER or record.table != table:
                continue
            for point, mantissa, exponent, quality in record.values:
                if quality < FIRST_REASON and newest.get(point, (0,))[0] <= record.tick_ms:
                    newest[point] = record.tick_ms, _Value(mantissa, exponent)
        found = {n: value for n, (_, value) in newest.items() if _is_measured(spec.points[n])}
        if not self._values or any(value != self._values.get(n, value) for n, value in found.items()):
            self.since_ms = now_ms
        self._values |= found
        self._look_at_counters(spec, newest)

    def _look_at_counters(self, spec: DeviceSpec, newest: Mapping[int, tuple[int, _Value]]) -> None:
        numbers = {spec.points[n].name: n for n in newest}
        for name, power in numbers.items():
            named, (_, value) = AC_POWER.fullmatch(name), newest[power]
            if named is None or spec.points[power].unit not in WATTS:
                continue
            part, both = named["part"], GROWS[named["power"]]
            grows = tuple(numbers[one] for end in both[value.mantissa < 0] if (one := f"{part}{end}") in numbers)
            if not grows or not value.mantissa:
                self._idle.pop(power, None)
                continue
            found = {
                n: newest[n]
                for other, n in numbers.items()
                if other.startswith(f"{part}energy.") and spec.points[n].kind is Kind.COUNTER
            }
            watts = _watts(spec.points[power], value)
            first_ms = min(newest[n][0] for n in grows)
            before = self._idle.get(power)
            if before is None or not before.holds(grows, found):
                values = {n: value for n, (_, value) in found.items()}
                self._idle[power] = _IdleCounters(grows, values, first_ms, first_ms, watts)
            else:
                before.to_ms, before.least_w = first_ms, min(before.least_w, watts)
                before.values |= {n: value for n, (_, value) in found.items()}

    def idle_counter(self, spec: DeviceSpec) -> dict[str, Any] | None:
        """For the snapshot: a counter that did not move for ten minutes, although the power should have moved it."""
        for power, idle in self._idle.items():
            span_ms = idle.to_ms - idle.since_ms
            moved_wh = idle.least_w * span_ms / 3_600_000
            step_wh = max(_step_wh(spec, spec.points[n], idle.values[n]) for n in idle.grows)
            if span_ms >= STILL_MS and moved_wh >= STEPS * step_wh:
                counter = spec.points[idle.grows[0]].name
                return {"since": idle.since_ms / 1000, "counter": counter, "power": spec.points[power].name,
                        "least_w": round(idle.least_w, 3)}  # fmt: skip
        return None

    def facts(self, spec: DeviceSpec, now_ms: int, may_rest: bool) -> dict[str, Any] | None:
        """Frozen values, for the snapshot. None: the values change, or they may correctly stay the same.

        Args:
            may_rest: it is or may be dark now, and the device may then show only zeros.
        """
        if not self._values or now_ms - self.since_ms < STILL_MS:
            return None
        points = [(spec.points[n], value) for n, value in self._values.items()]
        is_zero = not any(value.mantissa for _, value in points)
        if is_zero and (may_rest or not any(VOLTAGE.search(point.name) for point, _ in points)):
            return None
        if not is_zero and not (_is_on_grid(spec, points) or _counts(spec, points)):
            return None
        return {"since": self.since_ms / 1000, "values": len(points), "zero": is_zero}


def _is_measured(point: Point) -> bool:
    return point.kind in (Kind.GAUGE, Kind.COUNTER) and not point.name.startswith("device.") and not point.clock


def _watts(point: Point, value: _Value) -> float:
    """The magnitude of a power in W. The unit of ``point`` must be in ``WATTS``."""
    return abs(value.mantissa) * 10.0**value.exponent * WATTS[point.unit]


def _steps(spec: DeviceSpec, point: Point, value: _Value) -> float:
    """The distance of a value from zero, in steps of the device's own resolution."""
    ratio = spec.ratio_pt if point.ratio == "apply" and VOLTAGE.search(point.name) else 1
    return abs(value.mantissa) / max(float(ratio), 1.0)


def _step_wh(spec: DeviceSpec, point: Point, value: _Value) -> float:
    """An upper estimate of the resolution of a counter in Wh: trailing zeros may be digits that the device lacks."""
    mantissa, exponent = value
    while mantissa and not mantissa % 10:
        mantissa, exponent = mantissa // 10, exponent + 1
    ratio = float(spec.ratio_ct * spec.ratio_pt) if point.ratio == "apply" else 1.0
    size = abs(mantissa) * 10.0**exponent
    return max(10.0**exponent * ratio, size * FLOAT_STEP.get(point.type, 0.0)) * WATT_HOURS.get(point.unit, 1e9)


def _is_on_grid(spec: DeviceSpec, points: Sequence[tuple[Point, _Value]]) -> bool:
    """True if the device shows a grid voltage or frequency with enough resolution to change all the time."""
    return any(GRID.match(point.name) and _steps(spec, point, value) >= FINE for point, value in points)


def _counts(spec: DeviceSpec, points: Sequence[tuple[Point, _Value]]) -> bool:
    """True if the device shows a power that must have moved a counter in ten minutes."""
    ratio = float(spec.ratio_ct * spec.ratio_pt)
    for point, value in points:
        named = POWER.fullmatch(point.name)
        if named is None or point.unit not in WATTS or not value.mantissa:
            continue
        moved_wh = _watts(point, value) * STILL_MS / 3_600_000
        for counter, count in points:
            if counter.kind is Kind.COUNTER and counter.name.startswith(f"{named['domain']}.energy"):
                step_wh = 10.0**count.exponent * WATT_HOURS.get(counter.unit, 1e9)
                if moved_wh >= STEPS * step_wh * (ratio if counter.ratio == "apply" else 1):
                    return True
    return False
