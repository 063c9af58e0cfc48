"""What a scan says of itself: its time, which devices it tried, and one device that answers at several units."""

from __future__ import annotations

import asyncio
import re
import signal
import struct
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli.toml_snippet import tables
from drivers.dlt645.simulate import Dlt645Meter
from drivers.modbus.search import UNLIKELY_UNITS
from drivers.profile import find_profile, load_profile
from drivers.scan import FoundDevice
from drivers.scan.fit import Fit
from drivers.sim.bus import Bus
from drivers.sim.device import SimAnswer, SimDevice
from drivers.sim.display import ParkClock
from drivers.sim.families import device_from_profile
from drivers.sim.framing import Framing, SimRequest
from drivers.sim.image import Image
from drivers.sim.meters import MixedBus
from tests.kits.scans import Park, plain, sampled

MINE = ("--listen", "0", "--bus-is-mine")
FAST = ("--timeout", "0.05", "--slow-timeout", "0.3")
SITE = '[site]\nid = "park7"\ngateway = "gw01"\ntimezone = "Asia/Shanghai"\n\n'


def seconds(text: str) -> float:
    """ "43 s", "2 min"."""
    number, unit = text.split()
    return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


def made(name: str, unit: int, seed: int, turnaround_s: float = 0.0, clock: ParkClock | None = None) -> SimDevice:
    """A device of a shipped family; ``seed`` decides its serial number."""
    profile = load_profile(find_profile(name))
    return device_from_profile(profile, unit=unit, clock=clock, seed=seed, turnaround_s=turnaround_s)[0]


def cabinet() -> list[SimDevice]:
    """Seven devices as they may hang on one line: a noisy one, a slow one, and one that no profile knows."""
    clock = ParkClock(1, 1.0)
    families = {1: "eastron/sdm630", 2: "acrel/adl400", 3: "huawei/sun2000", 16: "pylontech/force-h",
                40: "chint/dtsu666", 50: "eastron/sdm120"}  # fmt: skip
    found = [
        device_from_profile(
            load_profile(find_profile(name)),
            unit=unit,
            clock=clock,
            seed=unit,
            turnaround_s=0.7 if unit == 50 else 0.03,
        )[0]
        for unit, name in families.items()
    ]
    found[4].faults.set("crc/7")
    unknown = Image()
    for n, value in enumerate((232.1, 231.5, 230.9, 12.3, 12.1, 11.9, 2.8e3, 2.7e3, 2.6e3, 8.1e3, 49.98, 0.97)):
        unknown.put_words(0x100 + 2 * n, struct.unpack(">HH", struct.pack(">f", value))[::-1])
    return [*found, SimDevice(173, unknown, turnaround_s=0.03)]


def test_seven_devices_are_found_and_known_in_75_seconds_and_no_later_than_announced(mh, field: Park) -> None:
    """A scan announced 67 s and took 127 s. The same cabinet, with its byte times."""
    line = field.pty(Bus(cabinet()), baud=9600)
    begin = field.now_s
    said = mh("scan", "--line", line.url, "--quick", "--json")
    took_s = field.now_s - begin
    assert took_s <= 75
    first, each = re.match(
        r"takes at most about (\S+ \S+), plus up to (\S+ \S+) for each device found", said.err
    ).groups()
    (count, more) = re.search(r"found (\d); identifying them takes at most about (\S+ \S+) more", said.err).groups()
    assert count == "7" and took_s <= seconds(first) + seconds(more) <= seconds(first) + 7 * seconds(each) + 1
    best = {
        d["address"]: f"{d['profiles'][0]['profile']} {d['profiles'][0]['fit']}" for d in said.lines if d["profiles"]
    }
    assert best == {
        "1": "eastron/sdm630 likely",
        "2": "acrel/adl400 likely",
        "3": "huawei/sun2000 certain",
        "16": "pylontech/force-h certain",
        "40": "chint/dtsu666 likely",
        "50": "eastron/sdm120 likely",
    }
    assert all(d["tried"] for d in said.lines) and said.lines[-1]["address"] == "173"


def test_a_slow_device_gets_limits_and_the_line_a_load_that_check_foretells(mh, field: Park, tmp_path: Path) -> None:
    devices = [device for device in cabinet() if device.unit in (1, 50)]
    line = field.pty(Bus(devices), baud=9600)
    said = mh("scan", "--line", line.url, "--addresses", "1,50", "--protocol", "modbus", "--slow-timeout", "1", *MINE)
    pasted = said.out.partition("for agent.toml:\n")[2]
    quick, slow = tomllib.loads(pasted)["device"]
    assert "limits" not in quick
    turnaround, unit = slow["limits"]["turnaround"].split()
    assert unit == "ms" and 650 <= float(turnaround) <= 900 and slow["limits"]["timeout"] == "2 s"
    assert quick["every"] == slow["every"], "all of a line are read less often"
    (tmp_path / "agent.toml").write_text(SITE + pasted, encoding="utf-8")
    checked = mh("check", "-c", tmp_path / "agent.toml", "--json").lines[0]
    (share,) = checked["line_shares"].values()
    assert checked["ok"] and 0.1 < share <= 0.7


def test_two_ports_of_one_host_are_two_lines() -> None:
    found = [
        FoundDevice("modbus", "1", "", "answer", url, fits=[Fit("eastron/sdm630", "", "likely", 3, 3)], tried=True)
        for url in (
            "tcp://192.0.2.7:4001",
            "tcp://192.0.2.7:4002",
            "modbus-tcp://192.0.2.7",
            "modbus-tcp://192.0.2.7:1502",
        )
    ]
    apart = [tomllib.loads("\n".join(tables([one], {})))["line"][0]["name"] for one in found]
    assert apart == ["192-0-2-7-4001", "192-0-2-7-4002", "192-0-2-7", "192-0-2-7-1502"]


def test_a_device_that_was_not_tried_is_not_said_to_fit_nothing(mh, field: Park) -> None:
    """Ctrl-C while profiles are tried on the first of two."""

    class Interrupting(Bus):
        def answer(self, request: SimRequest, framing: Framing) -> SimAnswer | None:
            if sum(device.requests[4] for device in self.devices.values()) == 3:
                signal.raise_signal(signal.SIGINT)
            return super().answer(request, framing)

    line = field.pty(Interrupting([sampled("eastron/sdm630", 1), sampled("eastron/sdm630", 2)]))
    how = ("scan", "--line", line.url, "--serial", line.serial, "--addresses", "1,2", "--protocol", "modbus", "--quick")
    said = mh(*how, *MINE, *FAST)
    assert said.code == 130
    assert said.out.count("not tried yet") == 2 and "none" not in said.out


@pytest.mark.parametrize("units", [2, 16, 247])
def test_an_inverter_that_answers_any_unit_is_listed_once(mh, field: Park, units: int) -> None:
    devices = [sampled("abb/b23", unit) for unit in range(1, 248)]
    line = field.tcp(Bus(devices))
    said = mh("scan", "--line", line.url, "--addresses", f"1-{units}", "--quick", "--json")
    assert [d["address"] for d in said.lines] == ["1"]
    assert "every unit number" in said.err


def test_a_gateway_that_answers_a_few_units_for_one_device_is_seen_by_its_serial_number(mh, field: Park) -> None:
    devices = [made("huawei/sun2000", unit, seed=7 if unit < 3 else 8) for unit in (1, 2, 3)]
    line = field.tcp(Bus(devices, absent=11))
    said = mh("scan", "--line", line.url, "--addresses", "1-8", "--quick", "--json")
    assert [d["address"] for d in said.lines] == ["1", "3"]
    assert said.lines[0]["notes"] == ["the same serial number at 2: one device, listed once"]


def energy(device: SimDevice, kwh: Callable[[], float]) -> SimDevice:
    """The same meter, but it has counted only this energy when it is read."""
    device.image.put_words(0x101E, [0] * 20)

    def before(function: int, address: int, count: int) -> None:
        raw = struct.pack(">f", kwh())
        device.image.put_words(0x101E, [int.from_bytes(raw[:2], "big"), int.from_bytes(raw[2:], "big")])

    device.before = before
    return device


def moving() -> float:
    return float(int(asyncio.get_running_loop().time() / 2) % 1000)


@pytest.mark.parametrize("is_bus", [True, False], ids=["on a bus", "over TCP"])
def test_a_meter_without_a_serial_number_that_answers_at_two_addresses_is_listed_once(
    mh, field: Park, is_bus: bool
) -> None:
    meter = energy(sampled("chint/dtsu666", 1), lambda: 12_000.0 + moving())
    bus = Bus([meter, replace(meter, unit=2), energy(sampled("chint/dtsu666", 3), lambda: 12_001.0 + moving())])
    line = field.pty(bus) if is_bus else field.tcp(bus)
    serial = ("--serial", "115200 8N1") if is_bus else ()
    said = mh("scan", "--line", line.url, *serial, "--protocol", "modbus", "--addresses", "1-4", "--json", *MINE, *FAST)
    assert [d["address"] for d in said.lines] == ["1", "3"], said.err
    (note,) = said.lines[0]["notes"]
    assert note.startswith("probably the same meter, at addresses 1 and 2: ")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: 12_345.0, lambda: 12_345.0),
        (lambda: 0.0, lambda: 0.0),
        (lambda: 100.0 + moving() % 8, lambda: 100.0 + moving() % 8),
        (lambda: 12_000.0 + moving(), lambda: 12_000.0 + moving() // 2 * 2),
    ],
    ids=["equal, but at rest", "new", "counted little", "nearly equal"],
)
def test_two_equal_meters_without_serial_numbers_are_both_listed(
    mh, field: Park, first: Callable[[], float], second: Callable[[], float]
) -> None:
    line = field.pty(Bus([energy(sampled("chint/dtsu666", 1), first), energy(sampled("chint/dtsu666", 2), second)]))
    how = ("scan", "--line", line.url, "--serial", line.serial, "--protocol", "modbus", "--addresses", "1-2", "--json")
    said = mh(*how, *MINE, *FAST)
    assert [(d["address"], d["notes"]) for d in said.lines] == [("1", []), ("2", [])], said.err


def test_the_language_of_a_scan_follows_the_terminal(mh, field: Park, monkeypatch: pytest.MonkeyPatch) -> None:
    line = field.pty(Bus([sampled("abb/b23", 3), plain(4)]))
    how = ("scan", "--line", line.url, "--serial", line.serial, "--addresses", "3,4", "--protocol", "modbus", "--quick")
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    said = mh(*how, *MINE, *FAST)
    for words in ("最多约", "发现 2 台", "设备模板", "abb/b23 (确定)", "无匹配模板", "可粘贴到 agent.toml"):
        assert words in said.out + said.err
    assert "likely" not in said.out and tomllib.loads(said.out.partition("agent.toml：\n")[2])["device"]
    english = mh(*how, "--lang", "en", *MINE, *FAST)
    assert "at most about" in english.err and not re.search("[一-鿿]", english.out + english.err)
    json_lines = mh(*how, "--json", *MINE, *FAST)
    assert not re.search("[一-鿿]", json_lines.out), "JSON stays as it is"
    dead = mh("identify", "--line", line.url, "--serial", line.serial, "--address", "9")
    assert dead.code == 4 and "无应答" in dead.err


# --- identify


@pytest.mark.parametrize(
    ("protocol", "address"), [("modbus", "9"), ("dlt645", "000000000009"), ("cjt188", "00000000000009"), ("mbus", "9")]
)
def test_a_dead_address_is_known_as_dead_in_five_seconds(mh, field: Park, protocol: str, address: str) -> None:
    line = field.pty(MixedBus([]), baud=2400)
    begin = field.now_s
    said = mh("identify", "--line", line.url, "--serial", "2400 8E1", "--address", address, "--protocol", protocol)
    assert said.code == 4 and "does not answer" in said.err and "--line" not in said.err
    assert field.now_s - begin < 4.3  # and a moment for the command itself


@pytest.mark.parametrize("speaks", [(0x11, 0x12, 0x13), (0x11,)])
def test_a_meter_that_lacks_what_a_profile_asks_is_alive_and_likely(mh, field: Park, speaks: tuple[int, ...]) -> None:
    """Energy and voltages are sound; its model and firmware come in other lengths, and 1997 is refused."""
    values = {
        "00010000": bytes.fromhex("67452301"), "00020000": bytes(4), "02010100": bytes.fromhex("1423"),
        "02010200": bytes.fromhex("0923"), "02010300": bytes.fromhex("2023"), "04000402": bytes(6),
        "0400040B": b"ABC", "04800001": b"X" * 40,
    }  # fmt: skip
    meter = Dlt645Meter(address="000021345678", values=values, speaks=speaks)
    line = field.pty(MixedBus([meter]))
    said = mh("identify", "--line", line.url, "--serial", line.serial, "--address", "000021345678",
              "--protocol", "dlt645", "--json")  # fmt: skip
    assert said.code == 0, said.err
    assert (said.lines[0]["profiles"][0]["profile"], said.lines[0]["profiles"][0]["fit"]) == ("dlt645/2007", "likely")


def test_a_device_that_only_refuses_is_no_dead_one(mh, field: Park) -> None:
    meter = Dlt645Meter(address="000021345678", values={})
    line = field.pty(MixedBus([meter]))
    said = mh("identify", "--line", line.url, "--serial", line.serial, "--address", "000021345678",
              "--protocol", "dlt645")  # fmt: skip
    assert (said.code, "does not answer" in said.err, "none fits" in said.out) == (4, False, True)


def test_one_whose_frames_are_all_broken_is_no_dead_one(mh, field: Park) -> None:
    device = plain(5)
    device.faults.set("crc")
    line = field.pty(Bus([device]))
    said = mh("identify", "--line", line.url, "--serial", line.serial, "--address", "5")
    assert said.code == 4 and "no frame is valid" in said.err


class Parrot(Dlt645Meter):
    """Answers to the common address in its name, as PyPI's dlt645 3.2.0; what is not for it gets an error."""

    def hear(self, frame: bytes) -> bytes | None:
        said = super().hear(frame)
        wanted = frame[frame.index(0x68) + 1 :][:6]
        if said is None or set(wanted) != {0xAA}:
            return said
        at = said.index(0x68)
        body = said[at : at + 1] + wanted + said[at + 7 : -2]
        return said[:at] + body + bytes((sum(body) & 0xFF, 0x16))


def test_the_common_address_is_no_device(mh, field: Park) -> None:
    values = {"00010000": bytes.fromhex("67452301")}
    line = field.pty(MixedBus([Parrot(address="000021345678", values=values)]))
    how = ("scan", "--line", line.url, "--serial", line.serial, "--protocol", "dlt645", "--no-identify")
    said = mh(*how, "--quick", "--json", *MINE, *FAST)
    assert [d["address"] for d in said.lines] == ["000021345678"], "read address (13h) tells it"
    line = field.pty(MixedBus([Parrot(address="000021345678", values=values, speaks=(0x11,))]))
    said = mh("scan", "--line", line.url, *how[3:], "--quick", "--json", *MINE, *FAST)
    assert said.lines == [] and "does not report its address" in said.err


class Noted(Bus):
    """Notes the units that it was asked for."""

    def __init__(self, devices: list[SimDevice]) -> None:
        super().__init__(devices)
        self.asked: list[int] = []

    def answer(self, request: SimRequest, framing: Framing) -> SimAnswer | None:
        self.asked.append(request.unit)
        return super().answer(request, framing)


def test_whether_a_server_answers_is_asked_once_a_patience(mh, field: Park) -> None:
    """A unit that is hardly there and silent is silent whatever the exception of the devices that are."""
    refusing = [plain(unit) for unit in (3, 5, 7)]
    for device, code in zip(refusing, (1, 2, 4), strict=True):
        device.faults.set(f"exception={code:02X}*1")
    bus = Noted(refusing)
    line = field.pty(bus)
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "modbus", "--addresses", "1-20",
              "--no-identify", "--json", *MINE, *FAST)  # fmt: skip
    assert [d["address"] for d in said.lines] == ["3", "5", "7"]
    assert 1 <= bus.asked.count(UNLIKELY_UNITS[0]) <= 2, "quickly, and with patience"


class LateAbsent(Bus):
    """A serial server that waits for a unit that is not there before it says so."""

    def answer(self, request: SimRequest, framing: Framing) -> SimAnswer | None:
        said = super().answer(request, framing)
        return said if said is None or request.unit in self.devices else replace(said, delay_s=0.2)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("over", ["pty", "rtu", "mbap"])
@pytest.mark.parametrize("code", [0x0A, 0x0B, 0x02, 0x04, 0xE0])
def test_units_that_only_a_server_answers_for_are_not_listed(mh, field: Park, code: int, over: str, late: bool) -> None:
    """A real device that refuses register 0 with the server's own code is found by what else it answers."""
    devices = [sampled("abb/b23", 3), plain(7), plain(9, function=4), sampled("huawei/sun2000", 12)]
    bus = (LateAbsent if late else Bus)(devices, absent=code)
    line = field.pty(bus) if over == "pty" else field.tcp(bus, framing=over)
    serial = ("--serial", line.serial) if over == "pty" else ()
    how = (
        "scan",
        "--line",
        line.url,
        *serial,
        "--addresses",
        "1-40",
        "--protocol",
        "modbus",
        "--no-identify",
        "--json",
    )
    said = mh(*how, *MINE, *FAST)
    assert sorted(int(d["address"]) for d in said.lines) == [3, 7, 9, 12], said.err
    assert said.err.count(f"exception {code:02X}h is also the answer of unit numbers that do not exist") == 1
    quick = mh(*how, "--quick", *MINE, *FAST)
    assert {int(d["address"]) for d in quick.lines} <= {3, 7, 9, 12}, quick.err


def test_a_few_units_are_judged_as_well(mh, field: Park) -> None:
    line = field.tcp(Bus([], absent=4), framing="rtu")
    said = mh("scan", "--line", line.url, "--protocol", "modbus", "--addresses", "5", "--no-identify", *MINE, *FAST)
    assert said.code == 4 and "that do not exist" in said.err


def test_devices_of_one_kind_that_refuse_alike_are_all_there(mh, field: Park) -> None:
    """Nobody answers for units that are not there: a refusal is a device's own."""
    line = field.pty(Bus([made("huawei/sun2000", unit, seed=unit) for unit in range(1, 21)]))
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "modbus", "--no-identify", "--json",
              "--quick", *MINE, *FAST)  # fmt: skip
    assert len(said.lines) == 20 and "that do not exist" not in said.err
