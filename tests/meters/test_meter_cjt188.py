"""CJ/T 188 meters end to end: both identifier orders, units that do not fit, refusals, faults of the line."""

from __future__ import annotations

from decimal import Decimal

import pytest

from drivers.cjt188 import PROTOCOL
from drivers.cjt188.simulate import Cjt188Meter
from drivers.model import ConfigError, LineTimeout, Reason
from drivers.sim.faults import parse_fault
from tests.kits.codecs import cjt188
from tests.kits.meters import ALL, TICK, Cabinet, bcd, bus_of, points_of, replace, sent_frames

A = "22223333444455"
WATER = bcd("00123456") + b"\x2c" + bcd("00100000") + b"\x2c" + bytes.fromhex("00301208112620") + b"\x00\x00"
POINTS = tuple(p for p in points_of("cjt188/water") if not p.clock)  # that one moves with the time of the test
WANTED = {
    "water.volume": Decimal("1234.56"),
    "water.volume.settlement": Decimal(1000),
    "device.time": "2026-11-08T12:30:00",
    "device.status": Decimal(0),
}


def meter(**more: object) -> Cjt188Meter:
    return Cjt188Meter(meter_type=0x10, address=A, values={0x901F: WATER}, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("raw_tcp", [False, True])
async def test_a_water_meter_is_read(cabinet: Cabinet, raw_tcp: bool) -> None:
    bus = bus_of(meter(wake=b"\xfe\xfe\xfe"))
    line = await (cabinet.tcp(bus) if raw_tcp else cabinet.pty(bus))
    device = cabinet.device(line, "cjt188", A, POINTS)
    result = await device.poll(TICK, ALL)
    assert cabinet.since(POINTS) == WANTED
    assert (result.asked, result.answered) == (1, 1)
    assert device.plan_summary(ALL).requests == 1


async def test_the_order_of_the_identifier_is_found_at_the_meter(cabinet: Cabinet) -> None:
    bus = bus_of(meter(low_first=True))
    device = cabinet.device(await cabinet.pty(bus), "cjt188", A, POINTS, timeout_s=0.05)
    assert isinstance(
        (await device.poll(TICK, ALL)).error, LineTimeout
    )  # one silence a visit: a dead one costs no more
    cabinet.since(POINTS)
    for turn in (1, 2):
        await device.poll(TICK + turn, ALL)
        found = cabinet.since(POINTS)
        volume = found["water.volume"]
        assert (volume[0] if isinstance(volume, tuple) else volume) == Decimal("1234.56")


async def test_history_is_another_question(cabinet: Cabinet) -> None:
    (point,) = points_of("cjt188/water", ["water.volume.settlement"])
    points = [replace(point, key=f"D12{n}:volume.settlement@{n + 1}", name=f"x.volume.{n}") for n in (0, 1)]
    device_side = meter()
    device_side.values.update({0xD120: bcd("00000100") + b"\x2c", 0xD121: bcd("00000200") + b"\x2c"})
    device = cabinet.device(await cabinet.pty(bus_of(device_side)), "cjt188", A, points)
    assert (await device.poll(TICK, ALL)).asked == 2
    assert cabinet.since(points) == {"x.volume.0": Decimal(1), "x.volume.1": Decimal(2)}


async def test_a_unit_that_does_not_fit_is_a_gap(cabinet: Cabinet) -> None:
    """The same meter, set to GJ: never a number under the wrong unit."""
    payload = (
        bcd("00001000") + b"\x11" + bcd("00123456") + b"\x11" + bcd("00001250") + b"\x17" + bcd("00012345") + b"\x35"
    )
    payload += bcd("00098765") + b"\x2c" + bcd("006512") + bcd("004037") + bcd("001234") + bytes(7) + bytes(2)
    heat = Cjt188Meter(meter_type=0x20, address=A, values={0x901F: payload})
    line = await cabinet.pty(bus_of(heat))
    for profile, energy in (("cjt188/heat", f"gap {Reason.MISMATCH}"), ("cjt188/heat-gj", Decimal("1234.56"))):
        points = points_of(profile)
        await cabinet.device(line, "cjt188", A, points).poll(TICK, ALL)
        found = cabinet.since(points)
        assert found["heat.energy"] == energy
        assert found["heat.power"] == Decimal("12.5")
        assert found["heat.temperature.supply"] == Decimal("65.12")
        assert found["device.time"] == f"gap {Reason.CLOCK}"  # a clock that was never set


@pytest.mark.parametrize("fault", ["stray=FEFE68", "stray=6810AA", "echo", "bytewise=0.0004", "crc*1", "cut=7*1"])
async def test_noise_and_echo_are_borne(cabinet: Cabinet, fault: str) -> None:  # field pains 20, 23
    noisy = meter()
    noisy.faults.set(parse_fault(fault))
    device = cabinet.device(await cabinet.pty(bus_of(noisy)), "cjt188", A, POINTS)
    await device.poll(TICK, ALL)
    found = cabinet.since(POINTS)
    assert {name: value[0] if isinstance(value, tuple) else value for name, value in found.items()} == WANTED


async def test_a_late_answer_is_known_by_its_serial_number(cabinet: Cabinet) -> None:  # field pains 10, 11
    slow = meter()
    device = cabinet.device(await cabinet.pty(bus_of(slow)), "cjt188", A, POINTS, timeout_s=0.08)
    await device.poll(TICK, ALL)
    slow.faults.set("stale*1")
    slow.values[0x901F] = bcd("00999999") + WATER[4:]
    result = await device.poll(TICK + 1, ALL)  # the answer before once more, then, asked again, the right one
    assert result.answered == 1
    found = cabinet.since(POINTS)["water.volume"]
    assert (found[0] if isinstance(found, tuple) else found) == Decimal("9999.99")


async def test_what_a_meter_refuses_is_a_gap(cabinet: Cabinet) -> None:
    empty = meter()
    empty.values.clear()
    device = cabinet.device(await cabinet.pty(bus_of(empty)), "cjt188", A, POINTS)
    result = await device.poll(TICK, ALL)
    assert result.answered == 1
    found = cabinet.since(POINTS)
    assert found["water.volume"] == f"gap {Reason.EXCEPTION}" and set(found) == set(WANTED)


async def test_every_frame_that_can_be_sent_only_reads(cabinet: Cabinet) -> None:
    bus = bus_of(meter())
    line = await cabinet.pty(bus)
    for profile in ("cjt188/water", "cjt188/heat", "cjt188/heat-gj"):
        device = cabinet.device(line, "cjt188", A, points_of(profile), timeout_s=0.05)
        await device.poll(TICK, ALL)
        if profile == "cjt188/water":
            await device.probe()
            assert (await device.read_points(["water.volume"]))["water.volume"].value == Decimal("1234.56")
    seen = {f.control for frame in sent_frames(bus) for f in cjt188.Parser().feed(frame)}
    assert {f"{code:02X}h" for code in seen} == set(PROTOCOL.frames)
    assert seen <= cjt188.ALLOWED_CONTROLS


async def test_what_cannot_be_is_refused(cabinet: Cabinet) -> None:
    line = await cabinet.pty(bus_of())
    with pytest.raises(ConfigError, match="is not the name of a field"):
        cabinet.device(line, "cjt188", A, [replace(POINTS[0], key="90:volume")])
    with pytest.raises(ConfigError, match="not a meter type"):
        cabinet.device(line, "cjt188", A, [replace(POINTS[0], type="50")])
    with pytest.raises(ConfigError, match="is not a CJ/T 188 address"):
        cabinet.device(line, "cjt188", "222233334444556", POINTS)
