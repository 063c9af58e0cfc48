"""DL/T 645 meters end to end: blocks, follow-on frames, refusals, absent values, ratios, faults of the line."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from drivers.dlt645 import PROTOCOL
from drivers.dlt645.device import block_of
from drivers.dlt645.simulate import Dlt645Meter, simulate
from drivers.model import ConfigError, ImpossibleZeros, Kind, LineTimeout, Point, Quality, Reason
from drivers.profile import load_profile
from drivers.scan.caching_line import CachingLine
from drivers.sim.faults import parse_fault
from drivers.sim.simulation import SimulationRequest
from tests.kits.codecs import dlt645
from tests.kits.meters import ALL, TICK, Cabinet, bcd, bus_of, points_of, replace, sent_frames

A = "000000000161"
POINTS = points_of(
    "dlt645/2007",
    (
        "ac.voltage.l1", "ac.voltage.l2", "ac.voltage.l3", "ac.power.active", "ac.power.active.l1", "ac.energy.import",
        "ac.frequency", "device.serial", "ac.demand.import.max", "x.demand.import.max.time",
    ),
)  # fmt: skip
VALUES = {
    "0201FF00": bcd("2305") + bcd("2310") + b"\xff\xff",
    "0203FF00": bcd("801500") + bcd("000500") + bcd("801000") + bcd("801000"),
    "00010000": bcd("00123456"),
    "02800002": bcd("4998"),
    "04000402": bcd("202600000161"),
    "01010000": bcd("012345") + bcd("2611120830"),
}
# values of the meter -> of the house; the third phase is FF: absent, never 0
WANTED = {
    "ac.voltage.l1": Decimal("230.5"),
    "ac.voltage.l2": Decimal(231),
    "ac.voltage.l3": f"gap {Reason.SENTINEL}",
    "ac.power.active": Decimal("-0.15"),
    "ac.power.active.l1": Decimal("0.05"),
    "ac.energy.import": Decimal("1234.56"),
    "ac.frequency": Decimal("49.98"),
    "device.serial": "202600000161",
    "ac.demand.import.max": Decimal("1.2345"),
    "x.demand.import.max.time": "2026-11-12T08:30",
}


BLOCK = """schema = 1
vendor = "Test"
models = ["Block"]
kind = "meter"
protocol = "dlt645"
source = "a test"
evidence = "derived"
point = [
  { name = "ac.energy.import", key = "0001FF00#0", unit = "kWh" },
  { name = "ac.energy.import.tariff.1", key = "0001FF00#1", unit = "kWh" },
  { name = "ac.voltage.l1", key = "02010100", unit = "V" },
]
"""


def meter(**more: object) -> Dlt645Meter:
    return Dlt645Meter(address=A, values=dict(VALUES), **more)  # type: ignore[arg-type]


async def test_a_meter_is_read_over_a_pty(cabinet: Cabinet) -> None:
    bus = bus_of(meter(wake=b"\xfe\xfe"))
    line = await cabinet.pty(bus)
    device = cabinet.device(line, "dlt645", "161", POINTS)
    result = await device.poll(TICK, ALL)
    assert cabinet.since(POINTS) == WANTED
    assert (result.asked, result.answered, result.error) == (6, 6, None)  # two blocks, four singles
    assert device.plan_summary(ALL).requests == 6


async def test_zeros_that_are_impossible_together_are_gaps_across_several_answers(cabinet: Cabinet) -> None:
    booting = meter()
    booting.values |= {"0201FF00": bytes(6), "02800002": bytes(2), "00010000": bytes(4)}
    rules = (ImpossibleZeros(("ac.voltage.*", "ac.frequency")),)
    device = cabinet.device(await cabinet.pty(bus_of(booting)), "dlt645", A, POINTS, impossible=rules)
    zeros = ("ac.voltage.l1", "ac.voltage.l2", "ac.voltage.l3", "ac.frequency", "ac.energy.import")
    await device.poll(TICK, ALL)
    assert cabinet.since(POINTS) == WANTED | dict.fromkeys(zeros, f"gap {Reason.SENTINEL}")
    shown = await device.read_points(zeros)
    assert all(reading.value is None for reading in shown.values())
    booting.values |= {"02800002": bcd("4998")}
    await device.poll(TICK + 1000, ALL)
    assert cabinet.since(POINTS) == WANTED | dict.fromkeys(zeros, 0) | {"ac.frequency": Decimal("49.98")}


async def test_the_same_meter_over_raw_tcp(cabinet: Cabinet) -> None:
    device = cabinet.device(await cabinet.tcp(bus_of(meter())), "dlt645", A, POINTS)
    await device.poll(TICK, ALL)
    assert cabinet.since(POINTS) == WANTED


async def test_modbus_tcp_is_no_way_to_a_meter(cabinet: Cabinet) -> None:
    line = await cabinet.tcp(bus_of(), "mbap")
    with pytest.raises(ConfigError, match="cannot be used over modbus-tcp"):
        cabinet.device(line, "dlt645", A, POINTS)


@pytest.mark.parametrize(
    "fault",
    [
        "stray=FEFEFEFE",
        "stray=68",
        "stray=6868FE00",
        "stray=68610100000000",
        "echo",
        "bytewise=0.0004",
        "crc*1",
        "cut=9*1",
        "stray=683412000000006891083333333333333333AA16",  # another meter's answer, its checksum wrong
    ],
)
async def test_noise_and_echo_are_borne(cabinet: Cabinet, fault: str) -> None:  # field pains 20, 23
    noisy = meter()
    noisy.faults.set(parse_fault(fault))
    device = cabinet.device(await cabinet.pty(bus_of(noisy)), "dlt645", A, POINTS)
    await device.poll(TICK, ALL)
    found = cabinet.since(POINTS)
    assert {name: value[0] if isinstance(value, tuple) else value for name, value in found.items()} == WANTED


async def test_a_meter_without_blocks_is_asked_singly(cabinet: Cabinet) -> None:
    single = meter()
    single.values = {
        "02010100": bcd("2305"), "02010200": bcd("2310"), "02010300": b"\xff\xff", "02030000": bcd("801500"),
        "02030100": bcd("000500"), **{k: v for k, v in VALUES.items() if "FF" not in k},
    }  # fmt: skip
    bus = bus_of(single)
    device = cabinet.device(await cabinet.pty(bus), "dlt645", A, POINTS)
    first = await device.poll(TICK, ALL)
    assert cabinet.since(POINTS) == WANTED  # in the same visit: no reading is lost by learning
    second = await device.poll(TICK + 1000, ALL)
    assert cabinet.since(POINTS) == WANTED
    assert (first.asked, second.asked) == (11, 9)
    assert not second.error


async def test_what_a_meter_has_not_is_a_gap_and_rests(cabinet: Cabinet) -> None:
    poor = meter()
    del poor.values["02800002"], poor.values["00010000"]
    device = cabinet.device(await cabinet.pty(bus_of(poor)), "dlt645", A, POINTS)
    for turn in range(3):
        result = await device.poll(TICK + turn, ALL)
        found = cabinet.since(POINTS)
        assert found["ac.energy.import"] == f"gap {Reason.EXCEPTION}"
        assert found["ac.frequency"] == f"gap {Reason.ABSENT}"  # optional
        assert set(found) == set(WANTED)
        assert result.asked == (6 if turn < 2 else 4)


async def test_follow_on_frames_are_joined(cabinet: Cabinet) -> None:
    long = meter(most=10)
    long.values["0001FF00"] = b"".join(bcd(f"{n:08}") for n in range(100, 800, 100))
    points = [
        Point(f"ac.energy.import.tariff.{n}", Kind.COUNTER, "kWh", key=f"0001{n:02X}00", digits=8) for n in range(1, 7)
    ]
    bus = bus_of(long)
    device = cabinet.device(await cabinet.pty(bus), "dlt645", A, points)
    await device.poll(TICK, ALL)
    assert cabinet.since(points) == {f"ac.energy.import.tariff.{n}": Decimal(n + 1) for n in range(1, 7)}
    controls = [f.control for frame in sent_frames(bus) for f in dlt645.Parser().feed(frame)]
    assert controls == [0x11, 0x12, 0x12]


async def test_a_scan_reads_each_follow_on_frame(cabinet: Cabinet) -> None:
    """In DL/T 645-1997, all requests for follow-on frames have the same bytes. A scan sends each request only once, and
    took the first follow-on frame for all later ones.
    """
    long = meter(most=8)
    long.values["901F"] = b"".join(bcd(f"{n:08}") for n in range(100, 600, 100))
    points = [Point(f"ac.energy.import.tariff.{n}", Kind.COUNTER, "kWh", key=f"901{n}", digits=8) for n in range(1, 5)]
    bus = bus_of(long)
    line = CachingLine(await cabinet.pty(bus)).as_line()
    for _ in range(2):  # two profiles of one device
        found = await cabinet.device(line, "dlt645", A, points).read_points([point.name for point in points])
        assert [reading.value for reading in found.values()] == [Decimal(n + 1) for n in range(1, 5)]
    controls = [f.control for frame in sent_frames(bus) for f in dlt645.Parser().feed(frame)]
    assert controls == [0x01, 0x02, 0x02], "each frame once"


async def test_ratios_and_a_reversed_transformer(cabinet: Cabinet) -> None:
    device = cabinet.device(
        await cabinet.pty(bus_of(meter())), "dlt645", A, POINTS,
        ratio_ct=Decimal(80), ratio_pt=Decimal(10), reversed=frozenset({""}),
    )  # fmt: skip
    await device.poll(TICK, ALL)
    found = cabinet.since(POINTS)
    assert found["ac.voltage.l1"] == Decimal(2305)
    assert found["ac.power.active"] == Decimal(120)  # -0.15 kW * 800, turned
    assert found["ac.energy.import"] == Decimal("987648")
    assert found["ac.frequency"] == Decimal("49.98")


async def test_a_silent_meter_costs_one_timeout_and_all_its_points(cabinet: Cabinet) -> None:
    dead = meter()
    dead.faults.set("silence")
    device = cabinet.device(await cabinet.pty(bus_of(dead)), "dlt645", A, POINTS, timeout_s=0.1)
    result = await device.poll(TICK, ALL)
    assert isinstance(result.error, LineTimeout)
    assert (result.asked, result.answered) == (1, 0)
    assert cabinet.since(POINTS) == dict.fromkeys(WANTED, f"gap {Reason.TIMEOUT}")
    with pytest.raises(LineTimeout):
        await device.probe()


async def test_an_echo_alone_is_silence(cabinet: Cabinet) -> None:  # field pain 20
    dead = meter()
    dead.faults.set("silence")
    dead.faults.set("echo")
    device = cabinet.device(await cabinet.pty(bus_of(dead)), "dlt645", A, POINTS, timeout_s=0.1)
    assert isinstance((await device.poll(TICK, ALL)).error, LineTimeout)


async def test_a_late_answer_is_not_the_next_ones(cabinet: Cabinet) -> None:  # field pains 10, 11
    slow = meter()
    device = cabinet.device(await cabinet.pty(bus_of(slow)), "dlt645", A, POINTS[5:7], timeout_s=0.08)
    slow.faults.set("late=0.15*1")
    await device.poll(TICK, ALL)
    assert cabinet.since(POINTS[5:7])["ac.energy.import"] == f"gap {Reason.TIMEOUT}"
    await device.poll(TICK + 1000, ALL)
    found = cabinet.since(POINTS[5:7])
    energy = found["ac.energy.import"]
    assert energy in (Decimal("1234.56"), (Decimal("1234.56"), Quality.SUSPECT))
    assert found["ac.frequency"] == Decimal("49.98")


async def test_two_meters_on_one_line_are_never_mixed_up(cabinet: Cabinet) -> None:
    other = Dlt645Meter(address="000000000162", values={"00010000": bcd("00000777")})
    line = await cabinet.pty(bus_of(meter(), other))
    points = POINTS[5:6]
    one, two = (cabinet.device(line, "dlt645", a, points) for a in ("161", "162"))
    await one.poll(TICK, ALL)
    assert cabinet.since(points) == {"ac.energy.import": Decimal("1234.56")}
    await two.poll(TICK, ALL)
    assert cabinet.since(points) == {"ac.energy.import": Decimal("7.77")}


async def test_1997(cabinet: Cabinet) -> None:
    points = points_of(
        "dlt645/1997",
        ("ac.energy.import", "ac.energy.import.tariff.1", "ac.voltage.l1", "ac.voltage.l2", "device.serial"),
    )
    old = Dlt645Meter(
        address=A,
        values={
            "901F": bcd("00123456") + bcd("00100000") + b"\xaa",
            "B61F": bcd("0230") + bcd("0231") + bcd("0229"),
            "C032": bcd("202600000161"),
        },
    )
    bus = bus_of(old)
    device = cabinet.device(await cabinet.pty(bus), "dlt645", A, points)
    await device.poll(TICK, ALL)
    assert cabinet.since(points) == {
        "ac.energy.import": Decimal("1234.56"),
        "ac.energy.import.tariff.1": Decimal(1000),
        "ac.voltage.l1": Decimal(230),
        "ac.voltage.l2": Decimal(231),
        "device.serial": "202600000161",
    }
    assert {f.control for frame in sent_frames(bus) for f in dlt645.Parser().feed(frame)} == {0x01}


async def test_read_points_gives_what_a_person_wants(cabinet: Cabinet) -> None:
    device = cabinet.device(await cabinet.pty(bus_of(meter())), "dlt645", A, POINTS)
    found = await device.read_points(
        ["device.serial", "ac.voltage.l3", "ac.voltage.l1", "ac.power.active", "ac.power.active.l1"]
    )
    assert list(found)[:2] == ["device.serial", "ac.voltage.l3"]
    assert found["device.serial"].value == "202600000161"
    assert (found["ac.voltage.l3"].value, found["ac.voltage.l3"].quality) == (None, Reason.SENTINEL)
    assert (found["ac.voltage.l1"].value, found["ac.voltage.l1"].unit) == (Decimal("230.5"), "V")
    assert found["ac.power.active"].raw.hex() == "001580"


async def test_every_frame_that_can_be_sent_only_reads(cabinet: Cabinet) -> None:
    """All points of both profiles, a meter that answers in pieces and one that refuses: promise 1."""
    seen: set[int] = set()
    for version, block in (("2007", "0001FF00"), ("1997", "901F")):
        points = points_of(f"dlt645/{version}")
        for values in ({block: bytes(24)}, {}):
            talker = Dlt645Meter(address=A, values=dict(values), most=10)
            bus = bus_of(talker)
            device = cabinet.device(await cabinet.pty(bus), "dlt645", A, points)
            await device.poll(TICK, ALL)
            await device.probe()
            await device.read_points([points[0].name])
            seen |= {f.control for frame in sent_frames(bus) for f in dlt645.Parser().feed(frame)}
    assert {f"{code:02X}h" for code in seen} == set(PROTOCOL.frames)
    assert seen <= dlt645.ALLOWED_CONTROLS


def test_a_profile_with_values_of_blocks_can_be_simulated(tmp_path: Path) -> None:
    """The documented key of one value of a block ended `simulate` with an error."""
    family = tmp_path / "test" / "block.toml"
    family.parent.mkdir()
    family.write_text(BLOCK)
    profile = load_profile(family, [tmp_path])
    simulated, _ = simulate(SimulationRequest(profile, "161"))
    assert set(simulated.values) == {"02010100", "0201FF00"}


def test_blocks() -> None:
    assert block_of("02010100") == ("0201FF00", 0)
    assert block_of("02030000") == ("0203FF00", 0)
    assert block_of("02030300") == ("0203FF00", 3)
    assert block_of("00010400") == ("0001FF00", 4)
    assert block_of("00010001") == ("0001FF01", 0)  # the settlement before
    assert block_of("02800002") is block_of("04000401") is block_of("0201FF00") is None
    assert block_of("9010") == ("901F", 0)
    assert block_of("B611") == ("B61F", 0)
    assert block_of("B630") == ("B63F", 0)
    assert block_of("C032") is block_of("B610") is None


async def test_a_key_that_means_nothing_is_refused(cabinet: Cabinet) -> None:
    line = await cabinet.pty(bus_of())
    with pytest.raises(ConfigError, match="is not a data identifier"):
        cabinet.device(line, "dlt645", A, [replace(POINTS[0], key="20Z1")])
    with pytest.raises(ConfigError, match="is not a DL/T 645 address"):
        cabinet.device(line, "dlt645", "12 34", POINTS)
