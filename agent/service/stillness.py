"""Devices whose values stand still: behind a gateway that repeats old answers, or without their measuring voltage.

Looked at from time to time, in what the newest visits left in the ring: nothing is done for each reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from drivers.model import DeviceSpec, Kind, Point, Reason
from ext.ring import ANSWER, Ring

LOOK_EVERY_MS: Final = 100_000
STILL_MS: Final = 600_000
FINE: Final = 1000  # steps from zero to the value: a grid moves its voltage and frequency by one of them at any time
STEPS: Final = 5  # of a counter, that its power must have made meanwhile
GRID: Final = re.compile(r"(.+\.)?ac\.(voltage|frequency)(\.|$)")
VOLTAGE: Final = re.compile(r"(^|\.)voltage(\.|$)")
POWER: Final = re.compile(r"(?P<domain>.+)\.power(\.active)?$")
WATTS: Final[Mapping[str, float]] = {"W": 1, "kW": 1e3, "MW": 1e6}
WATT_HOURS: Final[Mapping[str, float]] = {"Wh": 1, "kWh": 1e3, "MWh": 1e6}


class _Value(NamedTuple):
    mantissa: int
    exponent: int


@dataclass(slots=True)
class Stillness:
    """The last values of one device, and since when none of them has changed."""

    since_ms: int = 0
    _look_ms: int = 0
    _table: int = -1
    _values: dict[int, _Value] = field(default_factory=dict)  # by point

    def look(self, spec: DeviceSpec, ring: Ring, table: int, visits: Iterable[Sequence[int]], now_ms: int) -> None:
        """Compare the values of the newest visits with those before; does nothing for most of its calls."""
        since_look_ms = now_ms - self._look_ms
        if 0 <= since_look_ms < LOOK_EVERY_MS:
            return
        if table != self._table or not 0 <= since_look_ms < 2 * LOOK_EVERY_MS:  # other points, or the clock was set
            self._values.clear()
        self._look_ms, self._table = now_ms, table
        newest: dict[int, tuple[int, _Value]] = {}  # point -> its tick
        for position in (position for visit in visits for position in visit):
            record = ring.record(position)
            if record is None or record.kind != ANSWER or record.table != table:
                continue
            for point, mantissa, exponent, quality in record.values:
                if quality < min(Reason) and newest.get(point, (0,))[0] <= record.tick_ms:
                    newest[point] = record.tick_ms, _Value(mantissa, exponent)
        found = {n: value for n, (_, value) in newest.items() if _is_measured(spec.points[n])}
        if not self._values or any(value != self._values.get(n, value) for n, value in found.items()):
            self.since_ms = now_ms
        self._values |= found

    def facts(self, spec: DeviceSpec, now_ms: int, may_rest: bool) -> dict[str, Any] | None:
        """For the snapshot: None while it moves, or while nothing of it has to.

        Args:
            may_rest: it is dark, or may be, for a device that then shows zeros.
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


def _steps(spec: DeviceSpec, point: Point, value: _Value) -> float:
    """How many of the device's own steps a value is away from zero."""
    ratio = spec.ratio_pt if point.ratio == "apply" and VOLTAGE.search(point.name) else 1
    return abs(value.mantissa) / max(float(ratio), 1.0)


def _is_on_grid(spec: DeviceSpec, points: Sequence[tuple[Point, _Value]]) -> bool:
    """Does it show a voltage or frequency of a grid, finely enough?"""
    return any(GRID.match(point.name) and _steps(spec, point, value) >= FINE for point, value in points)


def _counts(spec: DeviceSpec, points: Sequence[tuple[Point, _Value]]) -> bool:
    """Does it show a power that must have moved a counter beside it?"""
    ratio = float(spec.ratio_ct * spec.ratio_pt)
    for point, value in points:
        named = POWER.fullmatch(point.name)
        if named is None or point.unit not in WATTS or not value.mantissa:
            continue
        moved_wh = abs(value.mantissa) * 10.0**value.exponent * WATTS[point.unit] * STILL_MS / 3_600_000
        for counter, count in points:
            if counter.kind is Kind.COUNTER and counter.name.startswith(f"{named['domain']}.energy"):
                step_wh = 10.0**count.exponent * WATT_HOURS.get(counter.unit, 1e9)
                if moved_wh >= STEPS * step_wh * (ratio if counter.ratio == "apply" else 1):
                    return True
    return False
