"""One RS-485 line, many tongues: DL/T 645 and M-Bus at 2400, CJ/T 188 and Modbus at 9600."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from drivers.cjt188.simulate import Cjt188Meter
from drivers.dlt645.simulate import Dlt645Meter
from drivers.line import Line
from drivers.mbus.simulate import MbusMeter
from drivers.model import ConfigError, DeviceException, Kind, LineTimeout, Point
from drivers.sim.bus import quiet_s
from drivers.sim.device import SimDevice
from drivers.sim.image import Image
from drivers.sim.meters import MixedBus
from tests.kits.meters import ALL, TICK, Cabinet, RealCabinet, bcd, points_of

KAM = bytes.fromhex("2D2C")
POWER = Point("ac.power.active", Kind.GAUGE, "W", "normal", address=10)
ENERGY = points_of("dlt645/2007", ["ac.energy.import"])
HEAT = points_of("mbus/heat", ["heat.energy"])
WATER = points_of("cjt188/water", ["water.volume"])


def mixed(slow: int, fast: int) -> MixedBus:
    image = Image()
    image.put_words(10, [4321])
    telegram = b"\x72" + bcd("12345678") + KAM + bytes((1, 4, 5, 0, 0, 0)) + bytes.fromhex("0C06") + bcd("00123456")
    water = bcd("00123456") + b"\x2c"
    bus = MixedBus(
        [
            Dlt645Meter(name="e", baud=slow, address="000000000161", values={"00010000": bcd("00123456")}),
            MbusMeter(name="h", baud=slow, address=5, telegrams=(telegram,)),
            Cjt188Meter(name="w", baud=fast, meter_type=0x10, address="22223333444455", values={0x901F: water}),
        ],
        [SimDevice(5, image)],
    )
    bus.device_baud[5] = fast
    return bus


def four(cabinet: Cabinet, line: Line, slow: int, fast: int) -> list[tuple[object, tuple[Point, ...], object]]:
    """(driver, its points, the value it must find)."""
    return [
        (cabinet.device(line, "dlt645", "161", ENERGY, serial=f"{slow} 8E1"), ENERGY, Decimal("1234.56")),
        (cabinet.device(line, "modbus", "5", (POWER,), serial=f"{fast} 8N1"), (POWER,), Decimal(4321)),
        (cabinet.device(line, "mbus", "5", HEAT, serial=f"{slow} 8E1"), HEAT, Decimal(123456)),
        (
            cabinet.device(line, "cjt188", "22223333444455", WATER, serial=f"{fast} 8E1"),
            WATER,
            Decimal("1234.56"),
        ),
    ]


async def test_four_protocols_and_two_speeds_on_one_line(real_cabinet: RealCabinet) -> None:
    """DL/T 645 at 2400 and Modbus at 9600 with the byte times of both; the owner switches and keeps quiet."""
    bus = mixed(2400, 9600)
    line = await real_cabinet.pty(bus, baud=9600)
    for turn in range(2):
        for device, points, value in four(real_cabinet, line, 2400, 9600)[: 4 if turn else 2]:
            result = await device.poll(TICK + turn, ALL)  # type: ignore[attr-defined]
            assert result.error is None, result.error
            assert list(real_cabinet.since(points).values()) == [value]
    (sim,) = real_cabinet.sims
    assert sim.wrong_baud == sim.collisions == 0  # type: ignore[union-attr]
    assert sim.quiet_min_s >= quiet_s(9600) * 0.9  # type: ignore[union-attr]


async def test_who_asks_at_once_waits_his_turn(real_cabinet: RealCabinet) -> None:  # field pain 19
    bus = mixed(57600, 115200)
    line = await real_cabinet.pty(bus, baud=115200)
    devices = four(real_cabinet, line, 57600, 115200)
    for turn in range(5):
        results = await asyncio.gather(*(device.poll(TICK + turn, ALL) for device, _, _ in devices))  # type: ignore[attr-defined]
        assert all(result.error is None and result.answered for result in results)
    assert line.stats.timeouts == line.stats.broken == line.stats.foreign == 0
    assert real_cabinet.sims[0].collisions == 0  # type: ignore[union-attr]


async def test_a_dead_meter_does_not_take_its_neighbours_along(cabinet: Cabinet) -> None:  # field pain 9
    bus = mixed(57600, 115200)
    bus.meters[0].faults.set("silence")
    line = await cabinet.pty(bus, baud=115200)
    found = []
    for device, points, _ in four(cabinet, line, 57600, 115200):
        result = await device.poll(TICK, ALL)  # type: ignore[attr-defined]
        found.append((type(result.error), *cabinet.since(points).values()))
    assert found[0][0] is LineTimeout
    assert [f[0] for f in found[1:]] == [type(None)] * 3


async def test_a_panel_that_talks_by_itself_is_borne(cabinet: Cabinet) -> None:  # field pain 13
    """Foreign frames of all kinds between and within the answers: no value is wrong, the port stays open."""
    bus = mixed(115200, 115200)
    line = await cabinet.pty(bus, baud=115200)
    devices = four(cabinet, line, 115200, 115200)
    others = [
        Dlt645Meter(address="000000000999", values={"00010000": bcd("00000001")}).hear(
            bytes.fromhex("68990900000000681104333334333A16")
        ),
        bytes.fromhex("0903020001"),
        b"\xe5",
        bytes.fromhex("68FE"),
    ]
    for turn, noise in enumerate(others * 2):
        for device, points, value in devices:
            cabinet.sims[0].say(noise or b"\xff")
            result = await device.poll(TICK + turn, ALL)  # type: ignore[attr-defined]
            for got in cabinet.since(points).values():
                shown = got[0] if isinstance(got, tuple) else got
                assert shown == value or str(shown).startswith("gap"), "wrong is worse than missing"
            assert result.error is None or not isinstance(result.error, DeviceException)
    assert line.is_open and line.stats.opened == 1


async def test_a_serial_server_has_one_setting(cabinet: Cabinet) -> None:
    line = await cabinet.tcp(mixed(2400, 9600), serial="9600 8N1")
    with pytest.raises(ConfigError, match="cannot be set over tcp"):
        cabinet.device(line, "dlt645", "161", ENERGY, serial="2400 8E1")
