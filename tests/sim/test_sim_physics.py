"""The park conserves energy: at every instant, and over a day."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.model import Kind, Point
from drivers.sim.facts import PARK_PARTS, FactLookup, facts_of, in_unit
from drivers.sim.physics import WATER_WH_PER_M3K, Physics


@settings(max_examples=6)
@given(st.integers(0, 10_000), st.floats(0, 86_400), st.sampled_from([30.0, 60.0, 300.0]))
def test_a_day_balances(seed: int, start_s: float, step_s: float) -> None:
    """Grid is load plus charge less sun at every step, counters are sums of powers, storage keeps what it takes."""
    park = Physics(seed, start_s=start_s, step_s=step_s)
    plant, hours = park.plant, step_s / 3600
    began = [*park.counters.pv, park.counters.grid_import, park.counters.grid_export, park.counters.load]
    charge, discharge = park.counters.charge, park.counters.discharge
    soc, made, bought, sold, used = park.soc, [0.0] * len(plant.pv_w), 0.0, 0.0, 0.0
    for _ in range(int(86_400 / step_s)):
        assert abs(park.grid_w - (park.load_w + park.battery_w - sum(park.pv_w))) <= 1e-6
        assert abs(park.load_w - (park.base_w + park.workshop_w + park.compressor_w)) <= 1e-6
        assert math.isclose(
            park.heat_w, WATER_WH_PER_M3K * park.flow_m3h * (park.supply_c - park.return_c), rel_tol=1e-6
        )
        assert park.heat_w < park.compressor_w
        assert 0.09 < park.soc < 0.96 and abs(park.battery_w) <= plant.battery_w
        assert all(0 <= power <= rated for power, rated in zip(park.pv_w, plant.pv_w, strict=True))
        assert all(ac <= dc for ac, dc in zip(park.pv_w, park.pv_dc_w, strict=True))
        made = [total + power * hours for total, power in zip(made, park.pv_w, strict=True)]
        bought += max(0.0, park.grid_w) * hours
        sold += max(0.0, -park.grid_w) * hours
        used += park.load_w * hours
        park.step()
    ended = [*park.counters.pv, park.counters.grid_import, park.counters.grid_export, park.counters.load]
    assert [b - a for a, b in zip(began, ended, strict=True)] == pytest.approx(
        [*made, bought, sold, used], rel=1e-9, abs=1e-3
    )
    charge, discharge = park.counters.charge - charge, park.counters.discharge - discharge
    assert sum(made) + bought + discharge == pytest.approx(used + sold + charge, rel=1e-9)
    kept = charge * plant.charge_efficiency - discharge / plant.charge_efficiency
    assert park.soc - soc == pytest.approx(kept / plant.battery_wh, abs=1e-9)
    assert sum(made) > 100_000, "a summer's day on 120 kW of roof"


def test_night_is_dark_and_the_same_seed_is_the_same_day() -> None:
    one, two, other = Physics(5, start_s=0), Physics(5, start_s=0), Physics(6, start_s=0)
    assert sum(one.pv_w) == 0
    for _ in range(100):
        one.step()
        two.step()
        other.step()
    assert (one.grid_w, one.soc, one.counters) == (two.grid_w, two.soc, two.counters)
    assert one.grid_w != other.grid_w


def test_what_the_meters_say_fits_together() -> None:
    """Phases add up to the whole, strings to the DC power, cells to the battery's voltage."""
    park = Physics(3)
    for _ in range(50):
        park.step()
    grid, pv, storage = facts_of("grid", park), facts_of("pv1", park), facts_of("storage", park)
    for name in ("ac.power.active", "ac.power.reactive", "ac.energy.import", "ac.energy.export"):
        assert sum(grid[f"{name}.{phase}"] for phase in ("l1", "l2", "l3")) == pytest.approx(grid[name])
    assert math.hypot(grid["ac.power.active"], grid["ac.power.reactive"]) == pytest.approx(grid["ac.power.apparent"])
    strings = [pv[f"dc.string.{n}.voltage"] * pv[f"dc.string.{n}.current"] for n in range(1, 21)]
    assert sum(strings) == pytest.approx(pv["dc.power"])
    assert pv["ac.power.generation"] > 0 and pv["ac.power.active"] == -pv["ac.power.generation"]
    cells = FactLookup("storage", park)
    volts = [cells.get(f"battery.module.{m}.cell.{c}.voltage") for m in range(1, 8) for c in range(1, 17)]
    assert all(v is not None and 2.9 < v < 3.6 for v in volts)
    assert storage["battery.voltage"] == pytest.approx(sum(park.cell(n) for n in range(park.plant.cells)))
    assert storage["battery.voltage"] * storage["battery.current"] == pytest.approx(storage["battery.power"])


def test_parts_of_one_device_show_their_owner() -> None:
    park = Physics(3)
    inverter = FactLookup("pv1", park)
    assert inverter.get("meter.ac.power.active") == park.grid_w
    assert inverter.get("ac.energy.generation.today") == 0.0
    made = park.counters.pv[0]
    park.step()
    assert inverter.get("ac.energy.generation.today") == pytest.approx(park.counters.pv[0] - made)
    assert inverter.get("ac.nothing") is None
    assert set(PARK_PARTS) == {"grid", "load", "workshop", "storage", "heat", "pv1", "pv2", "pv3"}


@pytest.mark.parametrize(
    ("base", "unit", "shown"),
    [
        (1500.0, "kW", 1.5),
        (1500.0, "W", 1500.0),
        (3600.0, "kWh", 3.6),
        (1000.0, "MJ", 3.6),
        (3.3, "mV", 3300.0),
        (2.0, "l/h", 2000.0),
        (7200.0, "h", 2.0),
        (3e5, "MPa", 0.3),
    ],
)
def test_units(base: float, unit: str, shown: float) -> None:
    assert in_unit(base, unit) == pytest.approx(shown)


def test_a_point_of_a_summers_noon_is_in_range() -> None:
    park = Physics(1, start_s=12 * 3600)
    assert 20_000 < sum(park.pv_w) <= 132_000
    assert FactLookup("grid", park).get(Point("ac.frequency", Kind.GAUGE).name) == pytest.approx(50, abs=0.1)
