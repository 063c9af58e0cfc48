"""IEC 62056-21 meters end to end: speeds, serial servers, echoes, broken readouts, identity, and what is never sent."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import iec62056_21.client
import iec62056_21.messages
import pytest

from drivers.iec62056.data_sets import decode_block
from drivers.iec62056.device import HELD_S, SLOW_S, Iec62056Device, says_address
from drivers.iec62056.frames import SELECT, SIGN_ON
from drivers.iec62056.simulate import PROGRAMMING, SELECTED, SIGNED_ON, Iec62056Meter
from drivers.line import Line
from drivers.model import ConfigError, DeviceException, FrameError, LineTimeout, Point, Quality, Reason
from drivers.registry import protocol_of
from drivers.sim.bus import Bus
from drivers.sim.device import SimAnswer, SimDevice
from drivers.sim.faults import parse_fault
from drivers.sim.framing import Framing, SimRequest
from drivers.sim.image import Image
from drivers.sim.meters import MixedBus
from drivers.sim.tcp import TcpLine
from tests.kits.meters import ALL, TICK, Cabinet, RealCabinet, bus_of, points_of, sent_frames

LINES = [
    "F.F(00000000)",
    "0.0.0(00012345)",
    "C.1.0(00812345)",
    "1.8.0(001234.560*kWh)",
    "1.8.0*01(001000.000)",
    "2.8.0(000000.000*kWh)",
    "1.6.0(12.345*kW)(2611071530)",
    "16.7.0(-01.500*kW)",
    "32.7.0(230.5*V)",
    "52.7.0(------)",
    "0.2.0(V2.0)",
]
NAMES = [
    "ac.energy.import", "ac.energy.export", "ac.power.active", "ac.demand.import.max", "ac.voltage.l1",
    "ac.voltage.l2", "device.status", "device.serial", "device.vendor", "device.model", "device.firmware",
]  # fmt: skip
POINTS = points_of("iec62056/electricity", NAMES)
WANTED = {
    "ac.energy.import": Decimal("1234.56"),
    "ac.energy.export": Decimal(0),
    "ac.power.active": Decimal("-1.5"),
    "ac.demand.import.max": Decimal("12.345"),
    "ac.voltage.l1": Decimal("230.5"),
    "ac.voltage.l2": f"gap {Reason.SENTINEL}",
    "device.status": Decimal(0),
    "device.serial": "00812345",
    "device.vendor": "ABC",
    "device.model": "METER-1",
    "device.firmware": "V2.0",
}
ENERGY = points_of("iec62056/electricity", ["ac.energy.import"])
BEGIN = "300 7E1"
SLOW = 4  # the bit of the pace


def meter(**more: object) -> Iec62056Meter:
    made = {
        "baud": 300,
        "address": "12345",
        "maker": "ABC",
        "model": "METER-1",
        "lines": list(LINES),
        "turnaround_s": 0.02,
    }
    return Iec62056Meter(**{**made, **more})  # type: ignore[arg-type]


async def on_serial(cabinet: Cabinet, *meters: Iec62056Meter, **more: object) -> Line:
    return await cabinet.pty(bus_of(*meters), baud=9600, **more)


def speeds(cabinet: Cabinet) -> list[int]:
    """To which the line was switched."""
    return [setting.baud for _, setting in cabinet.sims[-1].applied]


async def test_a_meter_is_read_at_the_speed_that_it_offers(cabinet: Cabinet) -> None:
    sim = meter()
    line = await on_serial(cabinet, sim)
    device = cabinet.device(line, "iec62056", "12345", POINTS, serial=BEGIN)
    for turn in range(2):
        result = await device.poll(TICK + turn, ALL)
        assert cabinet.since(POINTS) == WANTED
        assert (result.asked, result.answered, result.error) == (1, 1, None)
    assert sim.selected == "5" and speeds(cabinet) == [300, 9600, 300, 9600]
    assert sim.requests == {SIGNED_ON: 2, SELECTED: 2}
    assert sent_frames(cabinet.sims[0].bus) == [b"/?12345!\r\n", b"\x06050\r\n"] * 2


@pytest.mark.parametrize(
    ("serial", "chosen"), [("300 7E1", "0"), ("9600 8N1", "0"), ("9600 7E1", "5"), ("2400 7E1", "3")]
)
async def test_a_serial_server_keeps_its_speed(cabinet: Cabinet, serial: str, chosen: str) -> None:
    """The meter is asked to use that of the server; a setting of 8 bits cannot be it, and means 300 baud."""
    sim = meter(baud=None, speed=chosen)
    line = await cabinet.tcp(bus_of(sim), serial=serial)
    await cabinet.device(line, "iec62056", "*", POINTS).poll(TICK, ALL)
    assert cabinet.since(POINTS) == WANTED and sim.selected == chosen


async def test_a_meter_with_a_fixed_speed(cabinet: Cabinet) -> None:
    sim = meter(baud=9600)
    line = await on_serial(cabinet, sim)
    await cabinet.device(line, "iec62056", "12345", POINTS, serial="9600 7E1").poll(TICK, ALL)
    assert cabinet.since(POINTS) == WANTED and sim.selected == "5"
    assert [str(setting) for _, setting in cabinet.sims[0].applied] == ["9600 7E1"]


async def test_a_meter_that_offers_300_baud_is_read_there(cabinet: Cabinet) -> None:
    sim = meter(speed="0")
    line = await on_serial(cabinet, sim)
    await cabinet.device(line, "iec62056", "*", POINTS, serial=BEGIN).poll(TICK, ALL)
    assert cabinet.since(POINTS) == WANTED and speeds(cabinet) == [300]


async def test_mode_a_sends_its_data_unasked(cabinet: Cabinet) -> None:
    sim = meter(speed="J")
    line = await on_serial(cabinet, sim)
    await cabinet.device(line, "iec62056", "*", POINTS, serial=BEGIN).poll(TICK, ALL)
    assert cabinet.since(POINTS) == WANTED
    assert sent_frames(cabinet.sims[0].bus) == [b"/?!\r\n"]


class ModeB(Bus):
    """Says its identification at 300 baud, and the data by itself at 4800."""

    def __init__(self, sim: Iec62056Meter, disturbed: int = 0) -> None:
        super().__init__()
        self.sim = sim
        self.disturbed = disturbed  # so many readouts have a wrong check character

    def framing(self) -> Framing:
        return bus_of().framing()

    def listens_at(self, baud: int, line_baud: int) -> bool:
        return baud == 300

    def answer(self, request: SimRequest, framing: Framing) -> SimAnswer | None:
        whole = self.sim.hear(request.frame)
        assert whole is not None
        first = whole.index(b"\n") + 1
        if self.disturbed > 0:
            self.disturbed -= 1
            whole = whole[:-1] + bytes((whole[-1] ^ 1,))
        identification = SimAnswer(whole[:first], 0.02, baud=300)
        (client,) = self.wire.clients  # type: ignore[attr-defined]
        late = 0.5 + first * 11 / 300 + 0.3
        asyncio.get_running_loop().call_later(late, client._deliver, SimAnswer(whole[first:], 0.0, baud=4800), 0)
        return identification


async def test_mode_b_switches_by_itself(cabinet: Cabinet) -> None:
    bus = ModeB(meter(speed="D"))
    line = await cabinet.pty(bus, baud=9600)
    bus.wire = cabinet.sims[0]  # type: ignore[attr-defined]
    await cabinet.device(line, "iec62056", "*", POINTS, serial=BEGIN).poll(TICK, ALL)
    assert cabinet.since(POINTS) == WANTED and speeds(cabinet) == [300, 4800]


# --- what goes wrong on a line


@pytest.mark.parametrize("told", [True, False])
async def test_the_echo_of_an_optical_head(cabinet: Cabinet, told: bool) -> None:  # field pains 20, 22
    sim = meter()
    sim.faults.set("echo")
    line = await on_serial(cabinet, sim, echo=told)
    await cabinet.device(line, "iec62056", "*", POINTS, serial=BEGIN).poll(TICK, ALL)
    assert cabinet.since(POINTS) == WANTED


async def test_an_echo_and_nothing_else_is_silence(cabinet: Cabinet) -> None:
    sim = meter()
    sim.faults.set("silence")
    sim.faults.set("echo")
    device = cabinet.device(await on_serial(cabinet, sim), "iec62056", "*", ENERGY, serial=BEGIN)
    assert isinstance((await device.poll(TICK, ALL)).error, LineTimeout)
    assert cabinet.since(ENERGY) == {"ac.energy.import": f"gap {Reason.TIMEOUT}"}


async def test_a_silent_meter_costs_one_sign_on_a_visit(cabinet: Cabinet) -> None:
    line = await on_serial(cabinet, meter(address="999"))
    device = cabinet.device(line, "iec62056", "12345", POINTS, serial=BEGIN)
    result = await device.poll(TICK, ALL)
    assert isinstance(result.error, LineTimeout) and "1.7 s" in str(result.error)
    assert sent_frames(cabinet.sims[0].bus) == [b"/?12345!\r\n"]


@pytest.mark.parametrize("fault", ["crc*1+1", "cut=40*1+1", "cut=5*1", "stray=002F4142430D0A*1", "bytewise=0.3*1"])
async def test_a_broken_readout_is_asked_for_again(cabinet: Cabinet, fault: str) -> None:
    sim = meter()
    sim.faults.set(parse_fault(fault))
    device = cabinet.device(await on_serial(cabinet, sim), "iec62056", "*", POINTS, serial=BEGIN)
    await device.poll(TICK, ALL)
    assert cabinet.since(POINTS) == WANTED


async def test_what_stays_broken_is_a_gap_with_its_reason(cabinet: Cabinet) -> None:
    sim = meter()
    sim.faults.set("crc+1")
    device = cabinet.device(await on_serial(cabinet, sim), "iec62056", "*", ENERGY, serial=BEGIN)
    result = await device.poll(TICK, ALL)
    assert isinstance(result.error, FrameError)
    assert cabinet.since(ENERGY) == {"ac.energy.import": f"gap {Reason.CRC}"}


async def test_a_speed_that_fails_twice_is_left_for_an_hour(cabinet: Cabinet) -> None:
    """A head may not manage what its meter offers: wiki.volkszaehler.org reads an E350 at 300 baud."""
    sim = meter(data_baud=4800)  # it offers 9600
    device = cabinet.device(await on_serial(cabinet, sim), "iec62056", "*", ENERGY, serial=BEGIN)
    found = []
    for turn in range(4):
        await device.poll(TICK + turn, ALL)
        found += cabinet.since(ENERGY).values()
    assert found == [f"gap {Reason.CRC}"] * 2 + [Decimal("1234.56")] * 2
    assert sim.selected == "0"
    device.mono_s = lambda: cabinet.lines[0].clock()[1] / 1e9 + SLOW_S
    sim.data_baud = 0
    await device.poll(TICK + 9, ALL)
    assert cabinet.since(ENERGY) == {"ac.energy.import": Decimal("1234.56")} and sim.selected == "5"


async def test_a_mode_b_meter_is_read_at_its_own_speed_after_disturbed_readouts(cabinet: Cabinet) -> None:
    """This meter always sends at 4800 baud. Listening at 300 baud would lose every readout for an hour."""
    bus = ModeB(meter(speed="D"), disturbed=4)  # a broken readout is requested once more within the same visit
    line = await cabinet.pty(bus, baud=9600)
    bus.wire = cabinet.sims[0]  # type: ignore[attr-defined]
    device = cabinet.device(line, "iec62056", "*", ENERGY, serial=BEGIN)
    found = []
    for turn in range(4):
        await device.poll(TICK + turn, ALL)
        found += cabinet.since(ENERGY).values()
    assert found == [f"gap {Reason.CRC}"] * 2 + [Decimal("1234.56")] * 2
    assert set(speeds(cabinet)) == {300, 4800}


class Refusing(Iec62056Meter):
    said = b""

    def data(self) -> bytes:
        return self.said


@pytest.mark.parametrize(
    ("data", "error", "reason"),
    [(b"\x15", DeviceException, Reason.EXCEPTION), (b"\x01P0\x02(12)\x03\x60", None, Reason.MISMATCH)],
)
async def test_a_meter_that_refuses(cabinet: Cabinet, data: bytes, error: type | None, reason: Reason) -> None:
    """NAK, or the question for a password: it never gets one."""
    sim = Refusing(**{name: getattr(meter(), name) for name in ("baud", "address", "turnaround_s")})
    Refusing.said = data
    device = cabinet.device(await on_serial(cabinet, sim), "iec62056", "*", ENERGY, serial=BEGIN)
    result = await device.poll(TICK, ALL)
    assert error is None or isinstance(result.error, error)
    assert cabinet.since(ENERGY) == {"ac.energy.import": f"gap {reason}"}


async def test_a_refused_probe_is_an_answer(cabinet: Cabinet) -> None:
    """A probe asks whether the meter is alive. A meter that refuses its readout was shown as dead."""
    sim = Refusing(**{name: getattr(meter(), name) for name in ("baud", "address", "turnaround_s")})
    Refusing.said = b"\x15"
    device = cabinet.device(await on_serial(cabinet, sim), "iec62056", "*", ENERGY, serial=BEGIN)
    await device.probe()
    (reading,) = (await device.read_points(["ac.energy.import"])).values()
    assert (reading.value, reading.quality) == (None, Reason.EXCEPTION)
    result = await device.poll(TICK, ALL)
    assert result.answered and isinstance(result.error, DeviceException)
    sim.faults.set("silence")
    with pytest.raises(LineTimeout):
        await device.probe()


# --- neighbours


@pytest.mark.parametrize(
    ("says", "address", "proven"),
    [
        ("0.0.0(12345678)", "99999999", False), ("0.0.0(00012345)", "12345", True), ("0.0.0(12345)", "0012345", True),
        ("C.1.0(1ABC0012345678)", "12345678", True), ("C.1(12345678)", "87654321", False), ("C.1(12345678)", "1", None),
        ("0.0.0(12345678)", "1", False), ("0.0.1(PAF)", "4711", None), ("1.8.0(12345)", "99999999", None),
        ("0.0.0(5)\r\nC.1.0(12345678)", "12345678", True), ("0.0.0(12345678)", "*", None), ("0.0.0()", "12345", None),
    ],
)  # fmt: skip
def test_whether_a_readout_names_the_address(says: str, address: str, proven: bool | None) -> None:
    assert says_address(decode_block(f"{says}\r\n!\r\n".encode()), address) is proven


async def test_a_meter_of_another_number_is_a_mismatch(cabinet: Cabinet) -> None:
    sim = meter(lines=["0.0.0(12345678)", LINES[3]])
    device = cabinet.device(await on_serial(cabinet, sim), "iec62056", "12345", ENERGY, serial=BEGIN)
    result = await device.poll(TICK, ALL)
    assert "0.0.0 12345678, not 12345" in str(result.error)
    assert cabinet.since(ENERGY) == {"ac.energy.import": f"gap {Reason.MISMATCH}"}
    found = await device.read_points(["ac.energy.import"])
    assert found["ac.energy.import"].value is None and found["ac.energy.import"].quality == Reason.MISMATCH


@pytest.mark.parametrize("late_s", [1.9, 2.75, 3.5])
async def test_a_late_answer_is_not_the_next_meters(cabinet: Cabinet, late_s: float) -> None:
    late, silent = meter(lines=[LINES[3]], turnaround_s=late_s), meter(address="678")
    silent.faults.set("silence")
    line = await on_serial(cabinet, late, silent)
    for address in ("12345", "678"):
        device = cabinet.device(line, "iec62056", address, ENERGY, serial=BEGIN)
        assert isinstance((await device.poll(TICK, ALL)).error, LineTimeout)
        assert cabinet.since(ENERGY) == {"ac.energy.import": f"gap {Reason.TIMEOUT}"}


@pytest.mark.parametrize(
    ("lines", "quality"), [([LINES[3]], Quality.SUSPECT), (["0.0.0(678)", LINES[3]], Quality.GOOD)]
)
async def test_behind_a_late_answer_a_value_is_suspect_unless_its_meter_says_its_number(
    cabinet: Cabinet, lines: list[str], quality: Quality
) -> None:
    line = await on_serial(cabinet, meter(turnaround_s=2.75), meter(address="678", lines=lines))
    await cabinet.device(line, "iec62056", "12345", ENERGY, serial=BEGIN).poll(TICK, ALL)
    cabinet.since(ENERGY)
    await cabinet.device(line, "iec62056", "678", ENERGY, serial=BEGIN).poll(TICK, ALL)
    value: object = Decimal("1234.56")
    assert cabinet.since(ENERGY) == {"ac.energy.import": (value, quality) if quality else value}


async def test_a_readout_that_dribbles_ends(cabinet: Cabinet) -> None:
    sim = meter(baud=None, speed="0")
    sim.faults.set(parse_fault("bytewise=1.2"))
    line = await cabinet.tcp(bus_of(sim), serial=BEGIN)
    device = cabinet.device(line, "iec62056", "*", ENERGY)
    begin = line.clock()[1]
    result = await device.poll(TICK, ALL)
    assert isinstance(result.error, FrameError) and "did not end within 30 s" in str(result.error)
    assert line.stats.broken == 2 and (line.clock()[1] - begin) / 1e9 < 120, "of the made-up clock"
    assert cabinet.since(ENERGY) == {"ac.energy.import": f"gap {Reason.CRC}"}


async def test_neighbours_on_one_bus(cabinet: Cabinet) -> None:
    """Two meters by their addresses, and a Modbus device at its own speed."""
    image = Image()
    image.put_words(10, [4321])
    other = meter(address="678", lines=["1.8.0(000777.000*kWh)"])
    bus = MixedBus([meter(), other], [SimDevice(5, image)])
    bus.device_baud[5] = 9600
    line = await cabinet.pty(bus, baud=9600)
    power = (Point("ac.power.active", points_of("iec62056/electricity", ["ac.power.active"])[0].kind, "W", address=10),)
    for protocol, address, points, serial, value in (
        ("iec62056", "00012345", ENERGY, BEGIN, Decimal("1234.56")),
        ("modbus", "5", power, "9600 8N1", Decimal(4321)),
        ("iec62056", "678", ENERGY, BEGIN, Decimal(777)),
    ):
        await cabinet.device(line, protocol, address, points, serial=serial).poll(TICK, ALL)
        assert list(cabinet.since(points).values()) == [value]
    both = cabinet.device(line, "iec62056", "*", ENERGY, serial=BEGIN)
    await both.poll(TICK, ALL)
    assert cabinet.since(ENERGY) == {"ac.energy.import": f"gap {Reason.CRC}"}, "both answered at once"


async def test_on_a_pseudo_terminal_in_real_time(real_cabinet: RealCabinet) -> None:
    """The port is switched for real; what came at another speed would be garbled."""
    sim = meter(lines=LINES[2:4])
    line = await real_cabinet.pty(bus_of(sim), baud=300)
    device = real_cabinet.device(line, "iec62056", "12345", ENERGY, serial=BEGIN)
    await device.poll(TICK, ALL)
    assert real_cabinet.since(ENERGY) == {"ac.energy.import": Decimal("1234.56")}
    assert real_cabinet.sims[0].wrong_baud == 0 and sim.selected == "5"


async def test_our_simulator_is_read_by_another_client(real_cabinet: RealCabinet) -> None:
    """PyPI's iec62056-21 signs on, chooses the readout and finds the same data sets."""
    sim = meter(baud=None)
    server = TcpLine(bus_of(sim), framing="rtu")
    await server.start()
    try:

        def read() -> iec62056_21.messages.ReadoutDataMessage:
            client = iec62056_21.client.Iec6205621Client.with_tcp_transport(("127.0.0.1", server.port), "12345")
            client.connect()
            try:
                return client.standard_readout()
            finally:
                client.disconnect()

        block = (await asyncio.to_thread(read)).data_block
    finally:
        await server.stop()
    seen = [line.data_sets[0] for line in block.data_lines if line.data_sets]
    ours = decode_block(sim.data()[1:-2])
    assert [(one.address, one.value) for one in seen] == [(r.label, r.raw.decode()) for r in ours]
    assert sim.requests == {SIGNED_ON: 1, SELECTED: 1}


# --- identity


async def test_a_readout_of_a_probe_serves_identity_and_poll(cabinet: Cabinet) -> None:
    """At 300 baud a readout may take minutes: the first contact takes one, not three."""
    sim = meter()
    device = cabinet.device(await on_serial(cabinet, sim), "iec62056", "*", POINTS, serial=BEGIN)
    await device.probe()
    assert (await device.read_points(["device.serial"]))["device.serial"].value == "00812345"
    await device.poll(TICK, ALL)
    assert cabinet.since(POINTS) == WANTED and sim.requests[SELECTED] == 1
    await device.poll(TICK + 1, ALL)
    assert sim.requests[SELECTED] == 2, "each poll after that reads anew"
    await device.read_points(["device.serial"])
    await device.read_points(["device.serial"])
    assert sim.requests[SELECTED] == 4, "who reads twice to be sure gets two answers"


async def test_no_reading_is_older_than_its_tick(cabinet: Cabinet) -> None:
    sim = meter()
    device = cabinet.device(await on_serial(cabinet, sim), "iec62056", "*", POINTS, serial=BEGIN)
    await device.probe()
    await device.poll(cabinet.lines[0].clock()[0] // 1_000_000 + 1, ALL)
    assert sim.requests[SELECTED] == 2


async def test_an_old_readout_is_not_taken_for_a_new_one(cabinet: Cabinet) -> None:
    sim = meter()
    device = cabinet.device(await on_serial(cabinet, sim), "iec62056", "*", POINTS, serial=BEGIN)
    await device.probe()
    await asyncio.sleep(HELD_S + 1)
    await device.poll(TICK, ALL)
    assert sim.requests[SELECTED] == 2


async def test_another_meter_at_the_same_head_is_noticed(cabinet: Cabinet) -> None:
    """At the next poll, though its identity is due once a day: each readout has it."""
    sim = meter()
    device = cabinet.device(await on_serial(cabinet, sim), "iec62056", "*", POINTS, serial=BEGIN)
    await device.poll(TICK, ALL)
    assert device.doubts == 0
    sim.model, sim.lines = "METER-2", [line.replace("00812345", "00999999") for line in LINES]
    await device.poll(TICK + 1, SLOW)
    assert device.doubts == 2, "model and serial number"
    await device.poll(TICK + 2, SLOW)
    assert device.doubts == 2


# --- values


async def test_a_unit_that_does_not_fit_is_a_gap_and_one_that_is_missing_may_be_told(cabinet: Cabinet) -> None:
    sim = meter(lines=["1.8.0(001234.560)", "2.8.0(000001.000*kvarh)", "F.F(0010)", "C.5.0(0401A)"])
    (energy,), (status,) = ENERGY, points_of("iec62056/electricity", ["device.status"])
    points = (
        energy,
        replace(energy, name="x.told", type="kWh"),
        replace(energy, name="ac.energy.export", key="2.8.0"),
        replace(status, name="x.plain", type=""),
        replace(status, name="x.hex", key="C.5.0"),
        replace(status, name="x.not.plain", key="C.5.0", type=""),
    )
    await cabinet.device(await on_serial(cabinet, sim), "iec62056", "*", points, serial=BEGIN).poll(TICK, ALL)
    assert cabinet.since(points) == {
        "ac.energy.import": f"gap {Reason.MISMATCH}",
        "x.told": Decimal("1234.56"),
        "ac.energy.export": f"gap {Reason.MISMATCH}",
        "x.plain": Decimal(10),
        "x.hex": Decimal(0x401A),
        "x.not.plain": f"gap {Reason.MISMATCH}",
    }


async def test_history_brackets_times_and_what_is_not_there(cabinet: Cabinet) -> None:
    (energy,), (demand,) = ENERGY, points_of("iec62056/electricity", ["ac.demand.import.max"])
    (text,) = points_of("iec62056/electricity", ["device.serial"])
    points = (
        replace(energy, name="x.past", key="1.8.0*01"),
        replace(energy, name="x.older", key="1.8.0*02"),
        replace(text, name="x.when", key="1.6.0@time"),
        replace(text, name="x.stamp", key="1.6.0#1"),
        demand,
    )
    device = cabinet.device(await on_serial(cabinet, meter()), "iec62056", "*", points, serial=BEGIN)
    found = await device.read_points([point.name for point in points])
    assert {name: reading.value for name, reading in found.items()} == {
        "x.past": Decimal(1000),
        "x.older": None,
        "x.when": "2026-11-07T15:30",
        "x.stamp": None,
        "ac.demand.import.max": Decimal("12.345"),
    }
    assert found["x.older"].quality == Reason.ABSENT
    assert found["ac.demand.import.max"].time == "2026-11-07T15:30"


async def test_the_clock_of_a_meter(cabinet: Cabinet) -> None:
    ahead = datetime.now(UTC) + timedelta(seconds=100)
    (offset,) = points_of("iec62056/electricity", ["device.clock.offset"])
    sim = meter(lines=[f"0.9.1({ahead:%H:%M:%S})", f"0.9.2({ahead:%y-%m-%d})"])
    device = cabinet.device(await on_serial(cabinet, sim), "iec62056", "*", (offset,), serial=BEGIN, zone="UTC")
    value = (await device.read_points(["device.clock.offset"]))["device.clock.offset"].value
    assert isinstance(value, Decimal) and 60 < value < 102
    sim.lines = ["0.9.1(996666)", "0.9.2(999999)"]
    reading = (await device.read_points(["device.clock.offset"]))["device.clock.offset"]
    assert reading.value is None and reading.quality == Reason.SENTINEL


# --- promises and configuration


async def test_every_frame_that_can_be_sent_only_reads(cabinet: Cabinet) -> None:
    """Promise 1: sign-on and the choice of the readout, whatever the meter says about itself."""
    for speed in "0123456789ABCGHIJ~":
        sim = meter(speed=speed, baud=300)
        line = await on_serial(cabinet, sim)
        await cabinet.device(line, "iec62056", "*", ENERGY, serial=BEGIN).poll(TICK, ALL)
        assert set(line.stats.sent) <= {0x2F, 0x30}, "no number that means a write in another protocol"
        for frame in sent_frames(cabinet.sims[-1].bus):
            chosen = SELECT.fullmatch(frame)
            assert SIGN_ON.fullmatch(frame) or (chosen and chosen[2] == b"0"), frame
        assert not sim.requests[PROGRAMMING]
    assert set(protocol_of("iec62056").frames.values()) == {"sign on", "choose the readout"}


@pytest.mark.parametrize(
    ("key", "type", "what"),
    [
        ("", "", "not an OBIS code"),
        ("1", "", "not an OBIS code"),
        ("1.8.0#x", "", "not an OBIS code"),
        ("1.8.0", "kvar", "be converted"),
    ],
)
async def test_a_key_that_cannot_be(cabinet: Cabinet, key: str, type: str, what: str) -> None:
    line = await on_serial(cabinet, meter())
    with pytest.raises(ConfigError, match=what):
        cabinet.device(line, "iec62056", "*", (replace(ENERGY[0], key=key, type=type),))


async def test_an_address_or_line_that_cannot_be(cabinet: Cabinet) -> None:
    serial, gateway = await on_serial(cabinet, meter()), await cabinet.tcp(bus_of(), framing="mbap")
    for line, address, what in ((serial, "1!", "not an IEC 62056-21 address"), (gateway, "*", "cannot be used over")):
        with pytest.raises(ConfigError, match=what):
            cabinet.device(line, "iec62056", address, ENERGY)


async def test_the_cost_of_a_visit_is_told(cabinet: Cabinet) -> None:
    line = await on_serial(cabinet, meter())
    device: Iec62056Device = cabinet.device(line, "iec62056", "*", POINTS, serial=BEGIN)
    plan = device.plan_summary(ALL)
    assert plan.requests == 1 and plan.points == len(POINTS) and 1.0 < plan.line_time_s < 5.0
    assert device.plan_summary(0).requests == 0
