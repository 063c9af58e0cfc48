"""Values that stand still and should not. field pain 70"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agent.service.recent_readings import LOOK_EVERY_MS, STILL_MS, Stillness
from drivers.model import DeviceSpec, Kind, Point, Quality, Reason
from ext.ring import Ring

MINUTE = 60_000
T0 = 1_795_500_000_000
POINTS = (
    Point("ac.voltage.l1", Kind.GAUGE, "V"),
    Point("ac.frequency", Kind.GAUGE, "Hz"),
    Point("ac.power.active", Kind.GAUGE, "W"),
    Point("ac.energy.active.import", Kind.COUNTER, "Wh"),
    Point("heat.temperature.flow", Kind.GAUGE, "Cel"),
    Point("device.state", Kind.STATE),
    Point("device.clock.offset", Kind.GAUGE, "s", clock="utc"),
    Point("ac.voltage.l2", Kind.GAUGE, "V", ratio="apply"),
    Point("dc.power", Kind.GAUGE, "kW"),
    Point("dc.energy.generation", Kind.COUNTER, "kWh"),
    Point("ac.energy.import", Kind.COUNTER, "kWh"),
    Point("ac.energy.export", Kind.COUNTER, "kWh", type="f32"),
)
V, HZ, P, E, HEAT, STATE, CLOCK, HIGH, DC_P, DC_E, IMPORT, EXPORT = range(len(POINTS))
METER = {V: (2301, -1), HZ: (5001, -2), P: (1500, 0), E: (123456, 1)}


class Watched:
    """One device, looked at every half minute."""

    def __init__(self, ring: Ring, ratio_pt: int = 1) -> None:
        self.ring, self.still, self.now_ms = ring, Stillness(), T0
        self.spec = DeviceSpec(
            "m1", "p/g/m1", "1", "modbus", "test/test", POINTS, (1000, 1000, 1000, 0, 0), ratio_pt=Decimal(ratio_pt)
        )

    def run(self, minutes: float, values: dict[int, tuple[int, int]], table: int = 1, may_rest: bool = False) -> Any:
        end = self.now_ms + int(minutes * MINUTE)
        while self.now_ms < end:
            self.now_ms += MINUTE // 2
            rows = [(n, *value, Quality.GOOD) for n, value in values.items()]
            rows.append((HEAT, 0, 0, Reason.SENTINEL) if HEAT not in values else rows.pop())
            position = self.ring.append_values(table, self.now_ms, self.now_ms * 10**6, 1, rows)
            self.still.look(self.spec, self.ring, table, [[position]], self.now_ms)
        return self.still.facts(self.spec, self.now_ms, may_rest)


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    ring = Ring.create(str(tmp_path / "ring"), 1 << 20, 1, 2, bytes(32))
    yield ring
    ring.close()


def test_a_frozen_meter_is_found_after_ten_minutes_and_forgotten_when_it_moves(ring: Ring) -> None:
    watched = Watched(ring)
    assert watched.run(9, METER) is None, "too early"
    found = watched.run(4, METER)
    assert found == {"since": (T0 + MINUTE // 2) / 1000, "values": 4, "zero": False}
    assert watched.run(2, METER | {V: (2302, -1)}) is None, "one digit is enough"
    assert watched.run(12, METER | {V: (2302, -1)})["values"] == 4
    assert watched.run(2, METER, table=2) is None, "another table: its points may be others"


def test_a_device_that_got_fewer_points_is_looked_at_anew_at_once(ring: Ring) -> None:
    """The agent ended: numbers of the points before were looked up among those that a reload had left."""
    watched = Watched(ring)
    watched.run(14, METER | {IMPORT: (12345_67, -2)})
    assert watched.still.facts(watched.spec, watched.now_ms, False) and watched.still.idle_counter(watched.spec)
    fewer = replace(watched.spec, points=POINTS[:1])
    watched.still.look(fewer, ring, 2, [], watched.now_ms + 1000)
    assert watched.still.facts(fewer, watched.now_ms + 1000, False) is None
    assert watched.still.idle_counter(fewer) is None


def test_states_and_the_clock_do_not_count_as_movement(ring: Ring) -> None:
    watched = Watched(ring)
    for n in range(13):
        found = watched.run(1, METER | {STATE: (n, 0), CLOCK: (n, 0)})
    assert found is not None and found["values"] == 4


@pytest.mark.parametrize(
    ("values", "is_found"),
    [
        ({HEAT: (6531, -2), P: (0, 0), E: (77, 3)}, False),  # a heat meter without flow: no grid, no power
        ({V: (230, 0), HZ: (500, -1), P: (0, 0)}, False),  # too coarse to move within ten minutes
        ({HZ: (5000, -2), P: (0, 0), E: (123456, 1)}, True),  # an inverter at night still sees the grid move
        ({V: (0, -1), HZ: (0, -2), P: (0, 0), E: (123456, 1)}, False),  # a feeder that is switched off
        ({DC_P: (25, -1), DC_E: (88, 0)}, False),  # 2.5 kW make 0.4 kWh: less than a step
        ({DC_P: (300, -1), DC_E: (88, 0)}, True),  # 30 kW make five of them
        ({DC_P: (-300, -1), DC_E: (88, 0)}, True),
        ({HIGH: (230_00, 0)}, False),  # 230 steps behind a voltage transformer of 100
    ],
)
def test_only_what_has_to_move_is_judged(ring: Ring, values: dict[int, tuple[int, int]], is_found: bool) -> None:
    assert (Watched(ring, ratio_pt=100 if HIGH in values else 1).run(13, values) is not None) is is_found


def test_nothing_but_zeros_is_found_unless_it_may_be_dark(ring: Ring) -> None:
    zeros = dict.fromkeys(METER, (0, 0))
    watched = Watched(ring)
    assert watched.run(13, zeros)["zero"] is True
    assert watched.still.facts(watched.spec, watched.now_ms, True) is None
    assert Watched(ring).run(13, {P: (0, 0), E: (0, 0)}) is None, "no voltage among them"


def test_a_clock_that_was_set_begins_anew(ring: Ring) -> None:
    watched = Watched(ring)
    watched.run(8, METER)
    watched.now_ms -= 30 * MINUTE
    assert watched.run(9, METER) is None and STILL_MS > 3 * LOOK_EVERY_MS
    assert watched.run(4, METER)
    watched.now_ms += 60 * MINUTE
    assert watched.run(2, METER) is None, "and forward"


@pytest.mark.parametrize(
    ("power_w", "counters", "is_found"),
    [
        (1500, {IMPORT: (12345_67, -2)}, True),  # 250 Wh in ten minutes, a step is 10 Wh
        (1500, {IMPORT: (0, -2)}, True),  # it never counted
        (1500, {IMPORT: (12345, 0)}, False),  # a step is 1 kWh
        (1500, {IMPORT: (12345_000, -3)}, False),  # the last digits may be none
        (200, {IMPORT: (12345_67, -2)}, False),  # 33 Wh
        (-1500, {IMPORT: (12345_67, -2)}, False),  # it feeds in, and nothing has to count
        (-1500, {EXPORT: (12345_67, -2)}, True),
        (-1500, {EXPORT: (12345678_9, -1)}, False),  # a float of 12 GWh has steps of 1 kWh
        (0, {IMPORT: (12345_67, -2)}, False),
    ],
)
def test_a_counter_that_stands_still_beside_its_power_is_found(
    ring: Ring, power_w: int, counters: dict[int, tuple[int, int]], is_found: bool
) -> None:
    """All else moves, so that the device does not stand still."""
    watched = Watched(ring)
    for n in range(26):
        assert watched.still.idle_counter(watched.spec) is None or n > 20, "too early"
        sign = -1 if power_w < 0 else 1
        assert watched.run(0.5, {V: (2301 + n, -1), P: (power_w + sign * n * bool(power_w), 0)} | counters) is None
    found = watched.still.idle_counter(watched.spec)
    assert (found is not None) is is_found
    if found is not None:
        (counter,) = counters
        assert (found["counter"], found["power"]) == (POINTS[counter].name, "ac.power.active")
        assert abs(power_w) <= found["least_w"] <= abs(power_w) + 4
        moved = {n: (mantissa + 1, exponent) for n, (mantissa, exponent) in counters.items()}
        watched.run(2, {V: (2301, -1), P: (power_w, 0)} | moved)
        assert watched.still.idle_counter(watched.spec) is None


def test_a_counter_that_moves_or_is_read_seldom_is_no_finding(ring: Ring) -> None:
    watched = Watched(ring)
    for n in range(40):  # another direction counts: the sign is wrong, not the counter
        watched.run(0.5, {P: (1500 + n, 0), IMPORT: (500, -2), EXPORT: (500 + n, -2)})
    assert watched.still.idle_counter(watched.spec) is None
    old = ring.append_values(1, watched.now_ms, watched.now_ms * 10**6, 1, [(IMPORT, 700, -2, Quality.GOOD)])
    for n in range(40):  # its pace is a quarter of an hour
        watched.now_ms += MINUTE // 2
        rows = [(P, 1500 + n, 0, Quality.GOOD)]
        position = ring.append_values(1, watched.now_ms, watched.now_ms * 10**6, 1, rows)
        watched.still.look(watched.spec, ring, 1, [[old], [position]], watched.now_ms)
    assert watched.still.idle_counter(watched.spec) is None
