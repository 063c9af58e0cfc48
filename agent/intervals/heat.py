"""Computes heat from flow and temperatures for parts without a heat counter.

If a meter counts GJ itself, its count is used.

The volumetric heat capacity of water (density times specific heat at atmospheric pressure) is from IAPWS-IF97, in a
table like that of the heat coefficients in EN 1434-1, annex A. It is taken at the mean of both temperatures, with
linear interpolation. For a flow sensor in the return, the result is within 1 % of the coefficient of EN 1434, for
differences of temperature up to 40 K.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal

from agent.intervals.anomalies import TOO_LARGE
from agent.intervals.rows import RANGE, SlotReadings
from agent.intervals.tracked_points import FLOW_SECONDS, HEAT_PLACES, TrackedPoint
from drivers.model import Quality

# heat capacity in kJ/(m3 K) at 0, 10, ... 100 degrees
CAPACITY = (4217, 4194, 4177, 4162, 4147, 4131, 4115, 4097, 4078, 4059, 4040)


def capacity(celsius: Decimal) -> Decimal:
    """Return the heat capacity of water in kJ/(m3 K).

    Below 0 degrees it is the value at 0 degrees, above 100 degrees the value at 100 degrees.
    """
    place = min(max(celsius / 10, Decimal(0)), Decimal(10))
    low = min(int(place), 9)
    return CAPACITY[low] + (CAPACITY[low + 1] - CAPACITY[low]) * (place - low)


def heat_flow(flow: Decimal, unit: str, supply: Decimal, back: Decimal) -> Decimal:
    """Return the heat in kW that water at this ``flow`` gives off as it cools from ``supply`` to ``back`` degrees.

    ``unit``: the unit of the flow, such as m3/h. The result is negative if the water becomes warmer.
    """
    numerator, denominator = FLOW_SECONDS[unit]
    return flow * numerator * capacity((supply + back) / 2) * (supply - back) / denominator


class HeatFlows:
    """The computed heat flows of one stream. Each reading of a flow gives one, with the newest temperatures."""

    def __init__(self, slots: Sequence[TrackedPoint]) -> None:
        self._slots = slots
        self._makers: dict[int, list[tuple[int, TrackedPoint]]] = {}
        for n, w in enumerate(slots):
            if w.heat:
                self._makers.setdefault(w.heat[0], []).append((n, w))
        self._parts = {slot for w in slots if w.heat for slot in w.heat}
        # slot of a flow or temperature -> the last reading (time in ms, value, quality)
        self.last: dict[int, tuple[int, int, int]] = {}

    def added(self, batch: SlotReadings) -> SlotReadings:
        """Return the readings, and after each reading of a flow the heat flows that are computed from it.

        A heat flow has the worst quality of its flow and its temperatures. In a signed figure, all of a computed heat
        counts as estimated in any case, so the quality changes no figure.
        """
        if not self._makers:
            return batch
        out = SlotReadings(array("H"), array("q"), array("q"), b"")
        qualities = bytearray()
        for slot, time, value, quality in zip(batch.slots, batch.times, batch.values, batch.qualities, strict=True):
            good = quality != RANGE and value != TOO_LARGE
            found = [(slot, value, quality)]
            if slot in self._parts and good:
                self.last[slot] = (time, value, quality)
            for number, w in self._makers.get(slot, ()) if good else ():
                power = self._power(w, time)
                if power is not None:
                    found.append((number, power, max((self.last[part][2] for part in w.heat or ()), key=_badness)))
            for number, item, judged in found:
                out.slots.append(number)
                out.times.append(time)
                out.values.append(item)
                qualities.append(judged)
        out.qualities = bytes(qualities)
        return out

    def _power(self, w: TrackedPoint, time_ms: int) -> int | None:
        """Return the heat flow in 10^-HEAT_PLACES kW; None if a temperature is missing or older than two periods."""
        assert w.heat is not None
        limit = 2 * max(w.period_ms, 1000)
        found = []
        for slot in w.heat:
            last = self.last.get(slot)
            if last is None or not 0 <= time_ms - last[0] <= limit:
                return None
            found.append(Decimal(last[1]).scaleb(self._slots[slot].column.exponent))
        power = heat_flow(found[0], self._slots[w.heat[0]].column.unit, found[1], found[2])
        return int(power.scaleb(HEAT_PLACES).to_integral_value(ROUND_HALF_EVEN))


def _badness(quality: int) -> int:
    """Return a number that is higher for a worse quality: good, then replaced by an estimate, then doubtful."""
    return 0 if quality == Quality.GOOD else 1 if quality in (Quality.ESTIMATED, Quality.SUBSTITUTED) else 2
