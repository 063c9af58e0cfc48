"""M-Bus meters end to end: primary and secondary addresses, FCB, several telegrams, echo, noise."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from drivers.mbus import PROTOCOL
from drivers.mbus.simulate import MbusMeter
from drivers.model import ConfigError, DeviceException, LineTimeout, Reason
from drivers.scan.caching_line import CachingLine
from drivers.sim.faults import parse_fault
from tests.kits.codecs import mbus
from tests.kits.meters import ALL, TICK, Cabinet, bcd, bus_of, points_of, replace, sent_frames

KAM = bytes.fromhex("2D2C")
POINTS = points_of("mbus/heat", ["heat.energy", "heat.volume", "heat.power", "heat.energy.settlement", "device.serial"])


def head(serial: str = "12345678", medium: int = 4, version: int = 11) -> bytes:
    return b"\x72" + bcd(serial) + KAM + bytes((version, medium, 5, 0, 0, 0))


ENERGY = bytes.fromhex("0C06") + bcd("00123456")  # kWh
VOLUME = bytes.fromhex("0C14") + bcd("00098765")
POWER = bytes.fromhex("0B2D") + bcd("000125")
SETTLED = bytes.fromhex("4C06") + bcd("00100000")
WANTED = {
    "heat.energy": Decimal(123456),
    "heat.volume": Decimal("987.65"),
    "heat.power": Decimal("12.5"),
    "heat.energy.settlement": Decimal(100000),
    "device.serial": "12345678",
}


def meter(address: int = 5, serial: str = "12345678", *telegrams: bytes, **more: object) -> MbusMeter:
    telegrams = telegrams or (head(serial) + ENERGY + VOLUME + POWER + SETTLED,)
    secondary = bcd(serial) + KAM + bytes((11, 4))
    return MbusMeter(address=address, secondary=secondary, telegrams=telegrams, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("raw_tcp", [False, True])
@pytest.mark.parametrize("address", ["5", "12345678", "1234FFFF", "123456782D2C0B04", "254"])
async def test_a_heat_meter_is_read(cabinet: Cabinet, address: str, raw_tcp: bool) -> None:
    bus = bus_of(meter())
    line = await (cabinet.tcp(bus) if raw_tcp else cabinet.pty(bus))
    device = cabinet.device(line, "mbus", address, POINTS)
    for turn in range(3):
        result = await device.poll(TICK + turn, ALL)
        assert cabinet.since(POINTS) == WANTED
        assert result.error is None and result.answered == 1
    assert device.plan_summary(ALL).requests in (1, 2)


async def test_the_frame_count_bit_toggles_and_repeats(cabinet: Cabinet) -> None:  # field pain 22
    talker = meter()
    bus = bus_of(talker)
    device = cabinet.device(await cabinet.pty(bus), "mbus", "5", POINTS)
    await device.poll(TICK, ALL)
    await device.poll(TICK + 1, ALL)
    talker.faults.set("crc*1")  # a broken answer is asked for again with the same bit: the same telegram comes
    await device.poll(TICK + 2, ALL)
    asked = [f.control for frame in sent_frames(bus) for f in mbus.Parser().feed(frame)]
    assert asked == [0x40, 0x7B, 0x5B, 0x7B, 0x7B]


@pytest.mark.parametrize("address", ["5", "12345678"])
async def test_several_telegrams_come_from_the_first_on(cabinet: Cabinet, address: str) -> None:  # field pain 22
    pieces = (head() + ENERGY + b"\x1f", head() + VOLUME + b"\x1f", head() + POWER + SETTLED)
    bus = bus_of(meter(5, "12345678", *pieces))
    device = cabinet.device(await cabinet.pty(bus), "mbus", address, POINTS)
    for turn in range(3):
        await device.poll(TICK + turn, ALL)
        assert cabinet.since(POINTS) == WANTED, "never the oldest, never a part"


async def test_a_scan_reads_each_of_several_telegrams(cabinet: Cabinet) -> None:
    """The frame count bit has two values, so the requests for the first and the third telegram have the same bytes. A
    scan sends each request only once, and took the first telegram for the third.
    """
    pieces = (head() + ENERGY + b"\x1f", head() + VOLUME + b"\x1f", head() + POWER + SETTLED)
    bus = bus_of(meter(5, "12345678", *pieces))
    line = CachingLine(await cabinet.pty(bus)).as_line()
    for _ in range(2):  # two profiles of one device
        found = await cabinet.device(line, "mbus", "5", POINTS).read_points([point.name for point in POINTS])
        assert {name: reading.value for name, reading in found.items()} == WANTED
    assert len(sent_frames(bus)) == 4, "SND_NKE and each telegram once"


async def test_a_meter_that_ignores_the_bit_ends_the_readout(cabinet: Cabinet) -> None:
    deaf = meter(5, "12345678", head() + ENERGY + b"\x1f")
    device = cabinet.device(await cabinet.pty(bus_of(deaf)), "mbus", "5", POINTS)
    result = await device.poll(TICK, ALL)
    found = cabinet.since(POINTS)
    assert result.asked == 3
    assert (found["heat.energy"], found["heat.volume"]) == (Decimal(123456), f"gap {Reason.ABSENT}")


class Counting(MbusMeter):
    """Ignores the frame count bit, and counts its access number up in each answer."""

    def hear(self, frame: bytes) -> bytes | None:
        self.telegrams = tuple(t[:9] + bytes((t[9] + 1 & 0xFF,)) + t[10:] for t in self.telegrams)
        return super().hear(frame)


async def test_a_meter_that_ignores_the_bit_but_counts_its_answers_ends_the_readout(cabinet: Cabinet) -> None:
    """The access number and the checksum of each repetition differ, so it was taken for a further telegram: 32 answers
    at each visit.
    """
    deaf = Counting(address=5, telegrams=(head() + ENERGY + b"\x1f",))
    device = cabinet.device(await cabinet.pty(bus_of(deaf)), "mbus", "5", POINTS)
    result = await device.poll(TICK, ALL)
    assert result.asked == 3
    assert cabinet.since(POINTS)["heat.energy"] == Decimal(123456)


class Repeating(MbusMeter):
    """Repeats the bytes of its last telegram while the frame count bit stays the same, whatever it measures by then."""

    last = b""

    def hear(self, frame: bytes) -> bytes | None:
        bit = self.last_fcb
        answer = super().hear(frame)
        if answer and len(answer) > 1:
            self.last = self.last if bit == self.last_fcb else answer
            return self.last
        return answer


@pytest.mark.parametrize("raw_tcp", [False, True])
@pytest.mark.parametrize("other_first", [False, True])
async def test_a_value_is_new_after_a_tool_has_used_the_line(
    cabinet: Cabinet, raw_tcp: bool, other_first: bool
) -> None:
    """Between two polls, a tool resets the link and reads with the frame count bit 1, which the agent uses next. The
    meter would repeat the telegram that the tool got, and the agent would give the old value a new time.
    """
    talker = Repeating(address=5, telegrams=meter().telegrams)
    bus = bus_of(talker, meter(6))
    line = await (cabinet.tcp(bus) if raw_tcp else cabinet.pty(bus))
    device, other = (cabinet.device(line, "mbus", address, POINTS) for address in ("5", "6"))
    for turn in range(2):
        await device.poll(TICK + turn, ALL)
    lease = await line.lend("read by anna")
    assert talker.hear(mbus.build_snd_nke(5)) == b"\xe5"
    assert talker.hear(mbus.build_req_ud2(5, fcb=True))
    lease.end()
    talker.telegrams = (head() + bytes.fromhex("0C06") + bcd("00123499"),)
    if other_first:  # so that the line is open again
        await other.poll(TICK + 2, ALL)
    cabinet.since(POINTS)
    await device.poll(TICK + 3, ALL)
    assert cabinet.since(POINTS)["heat.energy"] == Decimal(123499)


async def test_two_meters_by_secondary_address(cabinet: Cabinet) -> None:
    other = meter(0, "87654321", head("87654321") + bytes.fromhex("0C06") + bcd("00000777"))
    line = await cabinet.pty(bus_of(meter(0), other))  # as delivered, both at primary address 0
    points = POINTS[:1]
    one, two = (cabinet.device(line, "mbus", serial, points) for serial in ("12345678", "87654321"))
    for turn in range(2):
        await one.poll(TICK + turn, ALL)
        assert cabinet.since(points) == {"heat.energy": Decimal(123456)}
        await two.poll(TICK + turn, ALL)
        assert cabinet.since(points) == {"heat.energy": Decimal(777)}


@pytest.mark.parametrize(
    "fault", ["echo", "stray=E5", "stray=68", "stray=10E5", "stray=FF00", "bytewise=0.0002", "crc*1", "cut=20/2"]
)
async def test_echo_and_noise_are_borne(cabinet: Cabinet, fault: str) -> None:  # field pain 22
    noisy = meter()
    device = cabinet.device(await cabinet.pty(bus_of(noisy)), "mbus", "5", POINTS)
    await device.poll(TICK, ALL)  # SND_NKE is behind us
    cabinet.since(POINTS)
    noisy.faults.set(parse_fault(fault))
    await device.poll(TICK + 1, ALL)
    found = cabinet.since(POINTS)
    assert {name: value[0] if isinstance(value, tuple) else value for name, value in found.items()} == WANTED


async def test_a_silent_meter_and_its_return(cabinet: Cabinet) -> None:
    sleepy = meter()
    bus = bus_of(sleepy)
    device = cabinet.device(await cabinet.pty(bus), "mbus", "5", POINTS, timeout_s=0.05)
    sleepy.faults.set("silence*2")
    for turn in range(2):
        result = await device.poll(TICK + turn, ALL)
        assert isinstance(result.error, LineTimeout) and result.asked == 1
        assert cabinet.since(POINTS) == dict.fromkeys(WANTED, f"gap {Reason.TIMEOUT}")
    await device.poll(TICK + 2, ALL)
    found = cabinet.since(POINTS)
    assert found["device.serial"] == "12345678"


async def test_an_error_telegram_and_an_encrypted_one_are_gaps(cabinet: Cabinet) -> None:
    for telegram in (
        b"\x70\x08",
        b"\x72" + bcd("12345678") + KAM + bytes((11, 4, 5, 0, 0x10, 0x05)) + bytes(range(16)),
    ):
        device = cabinet.device(await cabinet.pty(bus_of(meter(5, "12345678", telegram))), "mbus", "5", POINTS)
        result = await device.poll(TICK, ALL)
        assert isinstance(result.error, DeviceException) and result.answered == 1
        assert cabinet.since(POINTS)["heat.energy"] == f"gap {Reason.EXCEPTION}"


async def test_a_busy_meter_is_asked_at_each_tick(cabinet: Cabinet) -> None:
    """ "Too busy" is over in a moment. Two such answers cost an hour of the whole meter."""
    busy = meter(5, "12345678", b"\x70\x08")
    device = cabinet.device(await cabinet.pty(bus_of(busy)), "mbus", "5", POINTS)
    for turn in range(3):
        await device.poll(TICK + turn, ALL)
        assert cabinet.since(POINTS)["heat.energy"] == f"gap {Reason.EXCEPTION}"
    busy.telegrams = meter().telegrams
    await device.poll(TICK + 3, ALL)
    assert cabinet.since(POINTS) == WANTED


async def test_a_meter_that_refuses_its_only_answer_rests_longer_and_longer(cabinet: Cabinet) -> None:
    """A rest of an hour after two refusals left no reading of a meter that had failed for a moment."""
    refusing = meter(5, "12345678", b"\x70\x00")
    device = cabinet.device(await cabinet.pty(bus_of(refusing)), "mbus", "5", POINTS)
    asked = []
    for minute in range(8):
        asked.append((await device.poll(TICK + minute, ALL)).asked > 0)
        await asyncio.sleep(60.1 if minute else 0)
    assert asked == [True, True, True, False, True, False, False, False]


async def test_the_record_whose_unit_fits_is_taken(cabinet: Cabinet) -> None:
    joules = bytes.fromhex("0C0E") + bcd("00444442")  # MJ, before the record in kWh
    double = meter(5, "12345678", head() + joules + ENERGY)
    line = await cabinet.pty(bus_of(double))
    for profile, value in (("mbus/heat", Decimal(123456)), ("mbus/heat-gj", Decimal("444.442"))):
        points = points_of(profile, ["heat.energy"])
        await cabinet.device(line, "mbus", "5", points).poll(TICK, ALL)
        assert cabinet.since(points) == {"heat.energy": value}


@pytest.mark.parametrize(
    ("record", "value"),
    [("0226D204", Decimal(1234)), ("02270200", Decimal(48)), ("02253C00", f"gap {Reason.MISMATCH}")],
)
@pytest.mark.parametrize("profile_id", ["mbus/heat", "mbus/heat-gj"])
async def test_the_operating_time_is_read_in_hours(
    cabinet: Cabinet, profile_id: str, record: str, value: object
) -> None:
    """Hours were converted to seconds, from which no exact factor leads back, so no meter's operating time was read."""
    points = points_of(profile_id, ["device.runtime"])
    working = meter(5, "12345678", head() + bytes.fromhex(record))
    await cabinet.device(await cabinet.pty(bus_of(working)), "mbus", "5", points).poll(TICK, ALL)
    assert cabinet.since(points) == {"device.runtime": value}


async def test_selectors(cabinet: Cabinet) -> None:
    records = bytes.fromhex("8C1006") + bcd("00000011") + bytes.fromhex("9C2006") + bcd("00000022")
    records += bytes.fromhex("1B2D") + bcd("000999") + bytes.fromhex("8C4006") + bcd("00000033")
    rich = meter(5, "12345678", head() + ENERGY + records)
    (energy,) = points_of("mbus/heat", ["heat.energy"])
    keys: dict[str, tuple[str, str, Any]] = {
        "x.a": ("energy.tariff.1@0/1", "kWh", 11),
        "x.f": ("energy@0/1", "kWh", 11),  # as written in the description of keys
        "x.g": ("energy@0/2/0/max", "kWh", 22),
        "x.h": ("energy.tariff.1@0/2/0/max", "kWh", None),
        "x.b": ("energy.tariff.2@0/2/0/max", "kWh", 22),
        "x.c": ("power@0/0/0/max", "kW", "99.9"),
        "x.d": ("energy@0/0/1", "kWh", 33),
        "x.e": ("energy#2", "kWh", None),
    }
    points = [replace(energy, name=name, key=key, unit=unit) for name, (key, unit, _) in keys.items()]
    await cabinet.device(await cabinet.pty(bus_of(rich)), "mbus", "5", points).poll(TICK, ALL)
    assert cabinet.since(points) == {
        name: f"gap {Reason.ABSENT}" if value is None else Decimal(value) for name, (_, _, value) in keys.items()
    }


async def test_every_frame_that_can_be_sent_only_reads(cabinet: Cabinet) -> None:
    seen: set[tuple[str, int | None]] = set()
    for address in ("5", "12345678", "254"):
        pieces = (head() + ENERGY + b"\x1f", head() + VOLUME)
        bus = bus_of(meter(5, "12345678", *pieces))
        device = cabinet.device(await cabinet.pty(bus), "mbus", address, points_of("mbus/heat"))
        await device.poll(TICK, ALL)
        await device.probe()
        await device.read_points(["heat.energy"])
        for frame in sent_frames(bus):
            (found,) = mbus.Parser().feed(frame)
            assert found.control in mbus.ALLOWED_CONTROLS
            seen.add((mbus.function_name(found.control), found.ci))
    names = {"SND_UD select" if name == "SND_UD" and ci == 0x52 else name for name, ci in seen}
    assert names == set(PROTOCOL.frames)


async def test_what_cannot_be_is_refused(cabinet: Cabinet) -> None:
    line = await cabinet.pty(bus_of())
    for address in ("251", "253", "1234567", "12345678XX", "1234567A"):
        with pytest.raises(ConfigError, match="is not an M-Bus address"):
            cabinet.device(line, "mbus", address, POINTS)
    for key in ("energy@", "energy@0/0/0/then", "header.colour"):
        with pytest.raises(ConfigError, match="does not select a record"):
            cabinet.device(line, "mbus", "5", [replace(POINTS[0], key=key)])
