"""Function 43/14 is asked where a profile has a point of it, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.modbus.device import ModbusDevice
from drivers.model import Kind, LineTimeout, Point, ProfileError, Quality, Reason
from drivers.profile import load_profile
from drivers.sim.families import device_from_profile
from ext.ring import Ring
from tests.kits.lines import TICK, Field, gauge, sim_device, spec_of

Values = Callable[[], dict[int, object]]
FAST, ONCE = 1, 1 << 4
OBJECTS = [
    Point(name, Kind.TEXT, "", "once", function=43, address=n, type="str")
    for n, name in enumerate(("device.vendor", "device.model", "device.firmware"))
]
POINTS = [gauge(0), *OBJECTS]
SAID = {0: b"ACME", 1: b"MTR-3", 2: b"1.4"}


async def test_texts_come_once_and_registers_as_ever(field: Field, ring: Ring, values: Values) -> None:
    sim = sim_device(objects=dict(SAID))
    driver = ModbusDevice(spec_of(POINTS), field.line(await field.tcp(sim)), ring, 0)
    result = await driver.poll(TICK, FAST | ONCE)
    assert values() == {0: 0, 1: "ACME", 2: "MTR-3", 3: "1.4"}
    assert (result.asked, result.answered, result.error) == (2, 2, None)
    await driver.poll(TICK + 1000, FAST)
    assert values() == {0: 0} and sim.requests == {3: 2, 43: 1}
    found = await driver.read_points(["device.firmware", "x.p0", "device.vendor"])
    assert [(n, r.value) for n, r in found.items()] == [
        ("device.firmware", "1.4"),
        ("x.p0", 0),
        ("device.vendor", "ACME"),
    ]
    await driver.probe()
    assert sim.requests == {3: 4, 43: 2}


async def test_a_device_that_does_not_know_the_function(field: Field, ring: Ring, values: Values) -> None:
    points = [gauge(0), OBJECTS[0], replace(OBJECTS[1], optional=True)]
    driver = ModbusDevice(spec_of(points), field.line(await field.tcp(sim_device())), ring, 0)
    result = await driver.poll(TICK, FAST | ONCE)
    assert values() == {0: 0, 1: f"gap {Reason.EXCEPTION}", 2: f"gap {Reason.ABSENT}"} and result.answered == 2
    found = await driver.read_points(["device.vendor", "x.p0"])
    assert (found["device.vendor"].value, found["device.vendor"].quality) == (None, Reason.EXCEPTION)


async def test_an_object_that_is_empty_is_no_text(field: Field, ring: Ring, values: Values) -> None:
    driver = ModbusDevice(spec_of(OBJECTS), field.line(await field.tcp(sim_device(objects={1: b"MTR"}))), ring, 0)
    await driver.poll(TICK, ONCE)
    assert values() == {0: f"gap {Reason.ABSENT}", 1: "MTR", 2: f"gap {Reason.ABSENT}"}


async def test_a_silent_device_costs_one_timeout(field: Field, ring: Ring, values: Values) -> None:
    sim = sim_device(objects=dict(SAID))
    sim.faults.set("silence")
    driver = ModbusDevice(spec_of(POINTS), field.line(await field.tcp(sim), timeout_s=0.05), ring, 0)
    result = await driver.poll(TICK, FAST | ONCE)
    assert result.asked == 1 and set(values().values()) == {f"gap {Reason.TIMEOUT}"}
    with pytest.raises(LineTimeout):
        await driver.read_points(["device.vendor"])
    with pytest.raises(LineTimeout):
        await driver.probe()


PROFILE = """
schema = 1
vendor = "Example"
models = ["MTR*"]
kind = "meter"
protocol = "modbus"
source = "made up"
evidence = "derived"
defaults = { function = 3 }
point = [
  { name = "ac.voltage.l1", address = 0, type = "u16", unit = "V" },
  { name = "device.model", function = 43, address = 1 },
  { name = "device.firmware", function = 43, address = 2 },
]
[[variant]]
firmware = ">=2"
point = [{ name = "ac.frequency", address = 1, type = "u16", unit = "Hz" }]
[[sample]]
name = "s"
holding = { 0 = 230 }
expect = { "ac.voltage.l1" = 230 }
missing = ["device.model"]
"""


async def test_a_profile_picks_its_variant_by_it(field: Field, ring: Ring, values: Values, tmp_path: Path) -> None:
    path = tmp_path / "mtr.toml"
    path.write_text(PROFILE)
    profile = load_profile(path)
    assert {"device.model", "device.firmware"} <= set(profile.identity_points)
    sim, _ = device_from_profile(profile, texts={"device.firmware": "2.1"})
    base = replace(spec_of(profile.points), points=profile.points)
    driver = ModbusDevice(base, field.line(await field.tcp(sim)), ring, 0)
    said = await driver.read_points(profile.identity_points)
    assert (said["device.model"].value, said["device.firmware"].value) == ("MTR", "2.1")
    assert said["device.firmware"].quality == Quality.GOOD
    resolved = profile.resolve(firmware=str(said["device.firmware"].value))
    assert "ac.frequency" in {point.name for point in resolved.points}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{ name = "device.model", function = 43, address = 9 }', "address: 9 is out of range. Allowed: 0 to 2"),
        (
            '{ name = "device.model", function = 43 }',
            "Write the number of the object: 0 vendor, 1 product code, 2 revision",
        ),
        (
            '{ name = "device.model", function = 43, address = 1, count = 4 }',
            'the key "count" does not apply to function 43',
        ),
        (
            '{ name = "ac.voltage.l2", function = 43, address = 1, unit = "V" }',
            'a point of kind "gauge" cannot have the type str',
        ),
    ],
)
def test_what_means_nothing_is_refused(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "mtr.toml"
    path.write_text(PROFILE.replace('{ name = "device.model", function = 43, address = 1 }', line))
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    complaints = [str(one) for one in caught.value.complaints]
    assert any(told in text for text in complaints), complaints
