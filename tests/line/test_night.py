"""Silence of a photovoltaic inverter in the dark is sleep, counted apart; by day, and of others, it is a fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from drivers.line import Line
from drivers.modbus.device import ModbusDevice
from drivers.model import Kind, Point, Reason
from drivers.night import DARK_BELOW_DEG, Night
from drivers.sim.device import SimDevice
from drivers.sunspec.device import SunSpecDevice
from ext.ring import Ring
from tests.kits.lines import TICK, Field, gauge, mute_when, sim_device, spec_of

NORTH_POLE, SOUTH_POLE = Night(Decimal(90), Decimal(0)), Night(Decimal(-90), Decimal(0))  # TICK is in November


def crossings(place: Night, noon: datetime, height: float) -> tuple[datetime, datetime]:
    """When the sun rises and sets over ``height`` around a local noon, to the minute."""
    minutes = [noon + timedelta(minutes=n) for n in range(-720, 721)]
    up = [m for m in minutes if place.sun_deg(int(m.timestamp() * 1000)) >= height]
    return up[0], up[-1]


@pytest.mark.parametrize(
    ("latitude", "longitude", "sunrise", "sunset"),
    [  # as almanacs print them
        ("31.23", "121.47", "2026-06-20T20:50", "2026-06-21T11:01"),  # Shanghai, midsummer
        ("31.23", "121.47", "2026-12-20T22:49", "2026-12-21T08:55"),
        ("43.83", "87.62", "2026-06-20T22:27", "2026-06-21T13:52"),  # Ürümqi: Shanghai's clock, two hours later
        ("52.52", "13.40", "2026-03-20T05:11", "2026-03-20T17:18"),  # Berlin, equinox
        ("-33.87", "151.21", "2026-12-20T18:41", "2026-12-21T09:05"),  # Sydney
    ],
)
def test_the_sun_rises_when_almanacs_say(latitude: str, longitude: str, sunrise: str, sunset: str) -> None:
    place = Night(Decimal(latitude), Decimal(longitude))
    wanted = [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (sunrise, sunset)]
    noon = wanted[0] + (wanted[1] - wanted[0]) / 2
    for found, almanac in zip(crossings(place, noon, -0.833), wanted, strict=True):
        assert abs(found - almanac) <= timedelta(minutes=3), (found, almanac)
    morning, evening = crossings(place, noon, DARK_BELOW_DEG)
    for edge, almanac in ((morning, wanted[0]), (wanted[1], evening)):
        assert timedelta(minutes=20) <= edge - almanac <= timedelta(minutes=50)


def test_polar_days_and_nights() -> None:
    for hours in range(0, 48, 3):
        assert NORTH_POLE.is_dark(TICK + hours * 3_600_000) and not SOUTH_POLE.is_dark(TICK + hours * 3_600_000)


def faulty(fault: str) -> SimDevice:
    """A device with a fault from the start."""
    sim = sim_device()
    sim.faults.set(fault)
    return sim


Values = Callable[[], dict[int, object]]
POINTS = [gauge(0), gauge(100)]
OBJECTS = [
    Point("device.model", Kind.TEXT, "", "once", function=43, address=1, type="str", optional=True),
    Point("device.firmware", Kind.TEXT, "", "once", function=43, address=2, type="str"),
]


@pytest.mark.parametrize(
    ("place", "reason"), [(NORTH_POLE, Reason.ASLEEP), (SOUTH_POLE, Reason.TIMEOUT), (None, Reason.TIMEOUT)]
)
async def test_an_inverter_that_is_silent(field: Field, ring: Ring, values: Values, place: Night, reason: int) -> None:
    sim = faulty("silence")
    line = field.line(await field.tcp(sim), timeout_s=0.05)
    device = ModbusDevice(replace(spec_of(POINTS), night=place), line, ring, 1)
    assert (await device.poll(TICK, 1)).answered == 0
    assert values() == {0: f"gap {int(reason)}", 1: f"gap {int(reason)}"}
    sim.faults.clear()
    await device.poll(TICK + 1000, 1)
    assert values() == {0: 0, 1: 100}, "it wakes up: readings again at once"


@pytest.mark.parametrize(
    ("place", "reason"), [(NORTH_POLE, Reason.ASLEEP), (SOUTH_POLE, Reason.SENTINEL), (None, Reason.SENTINEL)]
)
async def test_an_inverter_that_answers_not_available(
    field: Field, ring: Ring, values: Values, place: Night, reason: int
) -> None:
    """Some answer all night, and have no values: what they do have counts. # field pain 31: never a zero"""
    line = field.line(await field.tcp(sim_device(words=[0xFFFF, 7])))
    device = ModbusDevice(replace(spec_of([gauge(0), gauge(1)]), night=place), line, ring, 1)
    await device.poll(TICK, 1)
    assert values() == {0: f"gap {int(reason)}", 1: 7}


async def test_one_mute_register_is_no_sleep(field: Field, ring: Ring, values: Values) -> None:
    """Who answers something is awake."""
    sim = mute_when(sim_device(), lambda address, _: address == 100)
    line = field.line(await field.tcp(sim), timeout_s=0.05)
    device = ModbusDevice(replace(spec_of(POINTS), night=NORTH_POLE), line, ring, 1)
    await device.poll(TICK, 1)
    assert values() == {0: 0, 1: f"gap {int(Reason.TIMEOUT)}"}


@pytest.mark.parametrize("points", [OBJECTS, [*OBJECTS, gauge(0)]])
async def test_the_identification_of_a_sleeping_inverter_sleeps(
    field: Field, ring: Ring, values: Values, points: list[Point]
) -> None:
    """At night its texts were faults, while its registers were asleep."""
    line = field.line(await field.tcp(faulty("silence")), timeout_s=0.05)
    device = ModbusDevice(replace(spec_of(points), night=NORTH_POLE), line, ring, 1)
    await device.poll(TICK, 31)
    assert set(values().values()) == {f"gap {int(Reason.ASLEEP)}"}


async def test_what_an_inverter_refuses_is_no_sleep(field: Field, ring: Ring, values: Values) -> None:
    line = field.line(await field.tcp(faulty("exception=04")), timeout_s=0.05)
    device = ModbusDevice(replace(spec_of([gauge(0)]), night=NORTH_POLE), line, ring, 1)
    await device.poll(TICK, 1)
    assert values() == {0: f"gap {int(Reason.EXCEPTION)}"}


async def test_a_sunspec_inverter_sleeps_too(field: Field, ring: Ring, values: Values) -> None:
    line: Line = field.line(await field.tcp(faulty("silence")), timeout_s=0.05)
    spec = replace(spec_of([replace(gauge(0), key="103.W")]), protocol="sunspec", night=NORTH_POLE)
    await SunSpecDevice(spec, line, ring, 1).poll(TICK, 1)
    assert values() == {0: f"gap {int(Reason.ASLEEP)}"}
