"""Recorded behaviours of firmware (reference/cases/dumps, kind `behaviour`), played by the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from drivers.modbus.device import ModbusDevice
from drivers.model import DeviceSpec, Kind, Limits, Point, Quality, Reason
from drivers.profile import find_profile, load_profile
from drivers.sim.device import SimDevice
from drivers.sim.families import device_from_profile
from drivers.sunspec.device import SunSpecDevice
from ext.ring import Ring
from tests.kits.lines import TICK, Field, gauge, sim_device, spec_of
from tests.kits.simulated import punch, sunspec_image

Values = Callable[[], dict[int, object]]
ALL = 31


async def polls(driver: ModbusDevice | SunSpecDevice, times: int) -> None:
    for n in range(times):
        await driver.poll(TICK + 1000 * n, ALL)


@pytest.mark.parametrize(
    ("family", "function", "first", "count"),
    [
        ("sungrow/sh", 4, 5740, 6),  # firmware/sungrow-sh10rt-fw95.14-5740, on a firmware that no variant knows
        ("huawei/sun2000", 3, 32080, 2),  # firmware/huawei-fw-moved-registers, likewise
        ("huawei/sun2000", 3, 37001, 4),
    ],
)
async def test_registers_that_a_firmware_refuses_cost_only_their_points(
    field: Field, ring: Ring, values: Values, family: str, function: int, first: int, count: int
) -> None:
    """field pains 24, 25, 30 and 40: no variant knows of it, and yet nothing else is lost in the end."""
    profile = load_profile(find_profile(family))
    sim, _ = device_from_profile(profile, turnaround_s=0.0)
    punch(sim.image, first, count, function=function)
    points = profile.points
    spec = DeviceSpec("inv", "p/g/inv", "1", "modbus", family, points, (1,) * 5, replace(profile.limits, quiet_s=None))
    line = field.line(await field.tcp(sim), timeout_s=1.0)
    driver = ModbusDevice(spec, line, ring, 0)
    await polls(driver, 40)
    values()
    await driver.poll(TICK + 99_000, ALL)
    found = values()
    touched = {
        n
        for n, p in enumerate(points)
        if p.function == function and p.address < first + count and first < p.address + p.count
    }
    refused = {n for n, value in found.items() if value in (f"gap {Reason.EXCEPTION}", f"gap {Reason.ABSENT}")}
    assert touched and touched == refused, [points[n].name for n in touched ^ refused]
    assert str(first) in driver.holes.summary() or driver.holes.summary()


async def test_an_exception_without_a_code_is_an_answer(field: Field, ring: Ring, values: Values) -> None:
    """firmware/sungrow-exception-code-0: 84h with code 0, which is in no standard. field pain 40"""
    sim = sim_device()
    sim.faults.set("exception=00*1")
    driver = ModbusDevice(spec_of([gauge(n) for n in range(10)]), field.line(await field.tcp(sim)), ring, 0)
    first = await driver.poll(TICK, ALL)
    assert first.answered == 1, "the device lives"
    assert set(values().values()) == {f"gap {Reason.EXCEPTION}"}
    await driver.poll(TICK + 1000, ALL)
    assert values() == {n: n for n in range(10)}


INVERTER = [
    Point("ac.power.generation", Kind.GAUGE, "W", "fast", key="103.W"),
    Point("ac.energy.generation", Kind.COUNTER, "Wh", "fast", key="103.WH"),
    Point("ac.frequency", Kind.GAUGE, "Hz", "fast", key="103.Hz"),
]


async def test_what_comes_after_a_nightly_reset_is_no_reading(field: Field, ring: Ring, values: Values) -> None:
    """firmware/solaredge-reconnect-sentinels: for 40 s all is FFFF, 8000 or zero. field pains 31, 33, 34 and 36

    Never a zero energy, and when the true value is back it is good at once: it did not step.
    """
    good = {"W": 5000, "W_SF": 0, "WH": 1_234_567, "WH_SF": 0, "Hz": 4998, "Hz_SF": -2}
    waking = {"W": -0x8000, "W_SF": -0x8000, "WH": 0, "WH_SF": 0, "Hz": 0xFFFF, "Hz_SF": -0x8000}

    def image_of(values: dict[str, int]) -> SimDevice:
        return SimDevice(1, sunspec_image([(103, values)]))

    sim = image_of(good)
    spec = replace(spec_of(INVERTER), protocol="sunspec", limits=Limits(timeout_s=1.0))
    driver = SunSpecDevice(spec, field.line(await field.tcp(sim)), ring, 0)
    await driver.poll(TICK, ALL)
    assert values() == pytest.approx({0: 5000, 1: 1_234_567, 2: 49.98})
    sim.image = image_of(waking).image
    for n in range(1, 4):
        await driver.poll(TICK + 1000 * n, ALL)
        assert values() == dict.fromkeys(range(3), f"gap {Reason.SENTINEL}")
    sim.image = image_of(good | {"WH": 1_234_570}).image
    await driver.poll(TICK + 9000, ALL)
    assert values() == pytest.approx({0: 5000, 1: 1_234_570, 2: 49.98}), "and none of it suspect"


async def test_a_frequency_that_no_grid_has_is_marked(field: Field, ring: Ring, values: Values) -> None:
    """firmware/sungrow-winet-p008-frequency: 500.9 Hz from a logger whose variant is not known yet."""
    profile = load_profile(find_profile("sungrow/sg"))
    point = replace(next(p for p in profile.points if p.name == "ac.frequency"), pace="fast", function=3, address=0)
    raw = int(500.9 / float(point.scale))
    driver = ModbusDevice(spec_of([point]), field.line(await field.tcp(sim_device(words=[raw]))), ring, 0)
    await driver.poll(TICK, 1)
    (found,) = values().values()
    assert isinstance(found, tuple) and found[1] == Quality.RANGE, found
