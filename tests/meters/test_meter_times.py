"""The device's own times: of demands, freezes and settlements (mt), and how far its clock is off."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.clocks import offset_s, time_ms
from drivers.dlt645.simulate import Dlt645Meter
from drivers.mbus.device import MbusDevice
from drivers.mbus.simulate import MbusMeter
from drivers.modbus.device import ModbusDevice
from drivers.model import Kind, Point, Reason
from drivers.profile import find_profile, load_profile, shipped_dir
from drivers.sim.bus import Bus
from drivers.sim.device import SimDevice
from drivers.sim.families import meter_from_profile
from drivers.sim.image import Image
from drivers.sim.meter_display import ZONE
from ext.canon import PointLayout, Table, seal
from ext.ring import ANSWER
from tests.kits.meters import ALL, TICK, Cabinet, bcd, bus_of, points_of

SHANGHAI = ZoneInfo(ZONE)


def utc_ms(*parts: int) -> int:
    return round(datetime(*parts, tzinfo=SHANGHAI).timestamp() * 1000)  # type: ignore[misc]


def own_times(cabinet: Cabinet, points: tuple[Point, ...]) -> dict[str, int]:
    return {
        points[number].name: ms
        for record in cabinet.ring.scan(0, cabinet.ring.head)
        if record.kind == ANSWER
        for number, ms in record.mt
    }


async def test_a_demand_goes_out_with_its_time(cabinet: Cabinet) -> None:
    """From the meter's bytes to the pack's ``mt``: 08:30 in Shanghai is half past midnight UTC."""
    points = points_of("dlt645/2007", ("ac.demand.import.max", "ac.frequency"))
    values = {"01010000": bcd("012345") + bcd("2611120830"), "02800002": bcd("4998")}
    line = await cabinet.pty(bus_of(Dlt645Meter(address="1".rjust(12, "0"), values=values)))
    device = cabinet.device(line, "dlt645", "1", points, zone=ZONE)
    result = await device.poll(TICK, ALL)
    assert own_times(cabinet, points) == {"ac.demand.import.max": utc_ms(2026, 11, 12, 8, 30)}
    rendered = [(p.name, "u", p.unit, 0, 1) for p in points]
    table = Table("a/b/c/", PointLayout(rendered, [0, 5000]))
    piece = seal(cabinet.ring, memoryview(_positions(result.positions)), table, TICK, TICK + 1)
    found = {record["n"]: record for record in json.loads(piece.e)}
    assert found["ac.demand.import.max"]["mt"] == 1794443400 and found["ac.demand.import.max"]["v"] == 1.2345
    assert "mt" not in found["ac.frequency"]


def _positions(positions: list[int]) -> object:
    from array import array

    return array("Q", positions)


@pytest.mark.parametrize("moves", [False, True])
async def test_what_was_frozen_comes_with_the_time_of_its_freeze(cabinet: Cabinet, moves: bool) -> None:
    point = Point("ac.energy.import", Kind.COUNTER, "kWh", "slow", key="05060101#0")
    meter = Dlt645Meter(
        address="1".rjust(12, "0"),
        values={"05060101": bcd("00123456") + bcd("00000001"), "05060001": bcd("2611250000")},
    )
    if moves:  # it freezes anew between the value and the second look at the time
        asked: list[str] = []

        def before() -> None:
            asked.append("")
            meter.values["05060001"] = bcd("2611260000" if len(asked) > 2 else "2611250000")

        meter.before = before
    device = cabinet.device(await cabinet.pty(bus_of(meter)), "dlt645", "1", [point], zone=ZONE)
    await device.poll(TICK, ALL)
    if moves:
        assert cabinet.since([point]) == {point.name: f"gap {Reason.MISMATCH}"}
    else:
        assert own_times(cabinet, (point,)) == {point.name: utc_ms(2026, 11, 25)}
        assert cabinet.since([point]) == {point.name: Decimal("1234.56")}


async def test_a_meter_without_the_time_of_its_freeze_still_gives_the_value(cabinet: Cabinet) -> None:
    point = Point("ac.energy.import", Kind.COUNTER, "kWh", "slow", key="05060101#0")
    meter = Dlt645Meter(address="1".rjust(12, "0"), values={"05060101": bcd("00123456")})
    device = cabinet.device(await cabinet.pty(bus_of(meter)), "dlt645", "1", [point], zone=ZONE)
    await device.poll(TICK, ALL)
    assert cabinet.since([point]) == {point.name: Decimal("1234.56")} and own_times(cabinet, (point,)) == {}


async def test_a_settlement_of_m_bus_has_the_date_that_is_stored_with_it(cabinet: Cabinet) -> None:
    points = points_of("mbus/heat", ("heat.energy", "heat.energy.settlement"))
    # energy now; energy at settlement 1; date of settlement 1 (type G: 2025-12-31)
    records = bytes.fromhex("0C0619019900" + "4C0612345600" + "426C" + "3F3C")
    telegram = b"\x72" + bytes.fromhex("4500946324400104F9000000") + records
    meter = MbusMeter(address=1, secondary=bytes.fromhex("4500946324400104"), telegrams=(telegram,))
    device = cabinet.device(await cabinet.pty(bus_of(meter)), "mbus", "1", points, zone=ZONE)
    await device.poll(TICK, ALL)
    assert isinstance(device, MbusDevice)
    assert own_times(cabinet, points) == {"heat.energy.settlement": utc_ms(2025, 12, 31)}
    assert cabinet.since(points) == {"heat.energy": Decimal(990119), "heat.energy.settlement": Decimal(563412)}


@pytest.mark.parametrize("profile_id", ["dlt645/2007", "dlt645/1997"])
async def test_the_clock_of_a_meter(cabinet: Cabinet, profile_id: str) -> None:
    profile = load_profile(find_profile(profile_id, [shipped_dir()]), [shipped_dir()])
    meter, display = meter_from_profile(profile, address="5", turnaround_s=0.0)
    points = tuple(p for p in profile.points if p.clock)
    assert [(p.name, p.unit, p.pace, p.kind) for p in points] == [("device.clock.offset", "s", "once", Kind.GAUGE)]
    device = cabinet.device(await cabinet.pty(bus_of(meter)), "dlt645", "5", points, zone=ZONE)
    for ahead in (0.0, 3600.0, -86_400.0):
        display.ahead_s, began = ahead, time.time()
        await device.poll(TICK, ALL)
        found = cabinet.since(points)["device.clock.offset"]
        reading = (await device.read_points(["device.clock.offset"]))["device.clock.offset"]
        assert isinstance(found, Decimal) and isinstance(reading.value, Decimal)
        slow = 1 + time.time() - began  # it shows whole seconds, and they may be as old as the whole exchange
        assert ahead - slow <= found <= ahead and ahead - slow <= reading.value <= ahead
    display.ahead_s = 0.0


@pytest.mark.parametrize("empty", ["04000101", "04000102"])
async def test_a_clock_answer_without_data_is_a_gap(cabinet: Cabinet, empty: str) -> None:
    """Some meters answer the date or the time of day with the identifier alone. An error here ended the agent, and
    again after each start.
    """
    points = points_of("dlt645/2007", ["device.clock.offset", "ac.energy.import"])
    values = {"04000101": bcd("26112900"), "04000102": bcd("081500"), "00010000": bcd("00123456"), empty: b""}
    meter = Dlt645Meter(address="000000000161", values=values)
    device = cabinet.device(await cabinet.pty(bus_of(meter)), "dlt645", "161", points)
    result = await device.poll(TICK, ALL)
    assert result.error is None
    assert cabinet.since(points) == {
        "device.clock.offset": f"gap {Reason.SENTINEL}",
        "ac.energy.import": Decimal("1234.56"),
    }


async def test_a_clock_in_registers(cabinet: Cabinet) -> None:
    """As six registers of local time, and as seconds since 1970 of either kind."""
    points = (
        Point("device.clock.offset", Kind.GAUGE, "s", "once", address=0, count=6, type="u16", clock="local",
              text="20{0:02d}-{1:02d}-{2:02d} {3:02d}:{4:02d}:{5:02d}"),
        Point("x.clock.utc", Kind.GAUGE, "s", "once", address=6, count=2, type="u32", order="ABCD", clock="utc"),
        Point("x.clock.local", Kind.GAUGE, "s", "once", address=8, count=2, type="u32", order="ABCD", clock="local"),
        Point("ac.frequency", Kind.GAUGE, "Hz", "once", address=10, type="u16", scale=Decimal("0.01")),
    )  # fmt: skip
    image = Image()
    line = await cabinet.tcp(Bus([SimDevice(1, image)]), "mbap")
    device = cabinet.device(line, "modbus", "1", points, zone=ZONE)
    assert isinstance(device, ModbusDevice)
    for ahead in (0, 7200, -5):
        began = time.time()
        now = datetime.now(SHANGHAI) + timedelta(seconds=ahead)
        seconds = int(now.timestamp())
        local = seconds + 8 * 3600
        image.put_words(0, [now.year % 100, now.month, now.day, now.hour, now.minute, now.second])
        image.put_words(6, [seconds >> 16, seconds & 0xFFFF, local >> 16, local & 0xFFFF, 4998])
        await device.poll(TICK, ALL)
        found = cabinet.since(points)
        assert found.pop("ac.frequency") == Decimal("49.98")
        read = {p.name: r.value for p in points if (r := (await device.read_points([p.name]))[p.name]) and p.clock}
        slow = 1 + time.time() - began
        for offset in [*found.values(), *read.values()]:
            assert isinstance(offset, Decimal) and ahead - slow <= offset <= ahead, (found, read)
    image.put_words(0, [99, 13, 45, 0, 0, 0, 0xFFFF, 0xFFFF])
    await device.poll(TICK, ALL)
    found = cabinet.since(points)
    assert [found[p.name] for p in points[:2]] == [f"gap {Reason.SENTINEL}"] * 2, "no time, and a blank one"


@pytest.mark.parametrize(
    ("text", "zone", "utc", "seconds"),
    [
        ("2026-11-24T14:15", ZONE, False, datetime(2026, 11, 24, 6, 15, tzinfo=UTC).timestamp()),
        ("2026-11-24 14:15:30", "", True, datetime(2026, 11, 24, 14, 15, 30, tzinfo=UTC).timestamp()),
        ("2026-11-24", ZONE, False, datetime(2026, 11, 23, 16, tzinfo=UTC).timestamp()),
        ("2026-10-25T02:30", "Europe/Berlin", False, datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()),
        ("--11-24T14:15", ZONE, False, None),
        ("2026-13-24T14:15", ZONE, False, None),
        ("2026-11-24T14:60", ZONE, False, None),
        ("", ZONE, False, None),
        ("yesterday", ZONE, False, None),
    ],
)
def test_times_of_meters(text: str, zone: str, utc: bool, seconds: float | None) -> None:
    assert time_ms(text, zone, utc) == (None if seconds is None else round(seconds * 1000))


@given(st.integers(0, 4_102_444_800), st.integers(-10_000_000, 10_000_000), st.integers(0, 999_999_999))
def test_an_offset_is_what_the_clocks_differ_by(at: int, ahead: int, ns: int) -> None:
    said = datetime.fromtimestamp(max(at + ahead, 0), SHANGHAI)
    off = offset_s(f"{said:%Y-%m-%dT%H:%M:%S}", "local", ZONE, at * 10**9 + ns)
    if not said.fold:  # the hour that a summer time repeats: the first is taken
        assert off == Decimal(round(said.timestamp()) * 1000 - (at * 1000 + ns // 1_000_000)).scaleb(-3)


@given(st.text(max_size=30) | st.integers(0, 2**64))
def test_whatever_a_device_says_its_clock_is_a_number_or_nothing(said: str | int) -> None:
    for clock in ("local", "utc"):
        off = offset_s(said, clock, ZONE, 1_795_500_000 * 10**9)
        assert off is None or off.is_finite()


def test_points_of_the_clock_are_said_to_be_one() -> None:
    point = points_of("cjt188/heat", ("device.clock.offset",))[0]
    assert point.is_text and not replace(point, clock="").is_text
