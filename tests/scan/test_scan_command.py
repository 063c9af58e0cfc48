"""`meterhouse scan` and `identify` against simulated lines; `read --dump` and back."""

from __future__ import annotations

import json
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from agent.cli.lease import BorrowedLine
from drivers.dlt645.simulate import Dlt645Meter
from drivers.framing import crc16
from drivers.mbus.simulate import MbusMeter
from drivers.modbus.requests import read_request
from drivers.model import LineDown
from drivers.sim.bus import Bus
from drivers.sim.device import SimAnswer, SimDevice
from drivers.sim.framing import Framing, RtuFraming, SimRequest
from drivers.sim.image import Image, load_dump
from drivers.sim.meters import MixedBus
from tests.kits.scans import Park, plain, sampled
from tests.kits.simulated import writes

MINE = ("--listen", "0", "--bus-is-mine")
FAST = ("--timeout", "0.05", "--slow-timeout", "0.3")


def test_finds_meters_on_a_bus_and_their_profiles(mh, field: Park) -> None:
    bus = Bus([sampled("abb/b23", 3), sampled("chint/dtsu666", 5)])
    line = field.pty(bus)
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "modbus", "--addresses", "3-5",
              "--json", *MINE, *FAST)  # fmt: skip
    assert said.code == 0, said.err
    assert [(d["address"], d["profiles"][0]["profile"], d["profiles"][0]["fit"]) for d in said.lines] == [
        ("3", "abb/b23", "certain"),
        ("5", "chint/dtsu666", "likely"),
    ]
    assert said.lines[0]["identity"]["device.model"] == "B23"
    assert all(writes(device) == 0 and 43 not in device.requests for device in bus.devices.values())  # promise 1


@pytest.mark.parametrize("unit", [2, 8], ids=["while others are asked", "after the last was asked"])
def test_a_late_answer_is_attributed_by_its_address(mh, field: Park, unit: int) -> None:
    # field pains 15, 19: an answer that comes when another unit was asked is that of the one it names
    line = field.pty(Bus([plain(unit, turnaround_s=0.14)]))
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "modbus", "--addresses", "1-8",
              "--quick", "--no-identify", "--json", *MINE, *FAST)  # fmt: skip
    assert [(d["address"], d["seen"]) for d in said.lines] == [(str(unit), "late")]


def test_the_slow_pass_finds_what_has_input_registers_only_or_is_slow(mh, field: Park) -> None:
    silent = plain(4, function=4)
    line = field.pty(Bus([plain(2, turnaround_s=0.25), silent]))
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "modbus", "--addresses", "2,4",
              "--no-identify", "--json", *MINE, *FAST)  # fmt: skip
    assert sorted(d["address"] for d in said.lines) == ["2", "4"]


def test_another_master_is_heard_and_the_scan_refuses(mh, field: Park) -> None:
    # field pain 15: detect a second master and say so
    bus = Bus([plain(1)])
    line = field.pty(bus)
    frame = read_request(7, 3, 100, 2, "other").frame
    assert crc16(frame) == 0
    line.says, line.says_every_s = lambda: frame, 0.1
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "modbus", "--listen", "3")
    assert said.code == 4
    assert "another master" in said.err
    assert "unit 7" in said.err
    assert "--bus-is-mine" in said.err
    assert bus.strangers == 0
    assert not bus.devices[1].requests  # not a byte was sent


def test_listening_is_left_out_only_on_a_bus_that_is_ours(mh) -> None:
    said = mh("scan", "--line", "serial:/dev/null", "--listen", "0")
    assert said.code == 2
    assert "--bus-is-mine" in said.err


def test_ctrl_c_ends_a_scan_and_shows_what_was_found(mh, field: Park) -> None:
    handlers = []  # in effect when the signal came

    class Interrupting(Bus):
        """Ctrl-C at the third unit that is not there."""

        def answer(self, request: SimRequest, framing: Framing) -> SimAnswer | None:
            said = super().answer(request, framing)
            if self.strangers == 3:
                handlers.append(signal.getsignal(signal.SIGINT))
                signal.raise_signal(signal.SIGINT)  # to this very thread: made-up time waits for no other
            return said

    line = field.pty(Interrupting([plain(1)]))
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "modbus", "--json", *MINE)
    assert said.code == 130, handlers
    assert [d["address"] for d in said.lines] == ["1"]
    assert "interrupted" in said.err
    assert line.bus.strangers == 3


def test_finds_a_dlt645_meter_by_address_discovery(mh, field: Park) -> None:
    meter = Dlt645Meter(address="000000000161", values={"00010000": bytes.fromhex("78563412")})
    line = field.pty(MixedBus([meter]))
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "dlt645", "--quick", "--json", *MINE)
    assert [(d["protocol"], d["address"]) for d in said.lines] == [("dlt645", "000000000161")]
    assert writes(meter) == 0
    assert meter.requests[0x13] == 1


def test_finds_mbus_meters_by_primary_address(mh, field: Park) -> None:
    telegram = bytes.fromhex("72785634122423010700000000" + "0C1378563412")
    meters = [MbusMeter(address=a, telegrams=(telegram,)) for a in (2, 3)]
    line = field.pty(MixedBus(meters))
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "mbus", "--addresses", "0-4",
              "--quick", "--json", *MINE)  # fmt: skip
    assert [(d["address"], d["identity"]["number"]) for d in said.lines] == [("2", "12345678"), ("3", "12345678")]
    assert "mbus/water" in [p["profile"] for p in said.lines[0]["profiles"]]
    assert all(writes(meter) == 0 for meter in meters)


def test_scans_units_behind_modbus_tcp(mh, field: Park) -> None:
    line = field.tcp(Bus([sampled("abb/b23", 17)], absent=11))
    said = mh("scan", "--line", line.url, "--json", *FAST)
    assert [(d["address"], d["profiles"][0]["profile"]) for d in said.lines] == [("17", "abb/b23")]


def test_hosts_that_do_not_listen_are_no_error_in_a_range(mh, field: Park) -> None:
    line = field.tcp(Bus([plain(1)]))
    port = line.url.rpartition(":")[2]
    said = mh("scan", "--line", f"modbus-tcp://127.0.0.1-2:{port}", "--addresses", "1", "--no-identify", "--quick",
              "--json")  # fmt: skip
    assert said.code == 0
    assert [d["line"] for d in said.lines] == [line.url]


def test_identify_says_what_a_device_is(mh, field: Park) -> None:
    line = field.tcp(Bus([sampled("abb/b23", 1, objects={0: b"ABB", 1: b"B23 112-100", 2: b"1.0"})]))
    said = mh("identify", "--line", line.url, "--address", "1", "--deep", "--json")
    assert said.code == 0
    assert said.lines[0]["identity"]["product"] == "B23 112-100"
    assert said.lines[0]["profiles"][0] == {
        "profile": "abb/b23", "variant": "", "fit": "certain", "agreeing": 5, "asked": 6,
    }  # fmt: skip


def test_identify_says_when_nobody_answers(mh, field: Park) -> None:
    line = field.tcp(Bus([], absent=11))
    said = mh("identify", "--line", line.url, "--address", "9")
    assert said.code == 4
    assert "does not answer" in said.err


@pytest.mark.parametrize("profile", ["abb/b23", "chint/dtsu666"])
def test_a_recorded_dump_is_understood_by_decode(mh, field: Park, tmp_path: Path, profile: str) -> None:
    line = field.tcp(Bus([sampled(profile, 1)]))
    dump = tmp_path / "dump.json"
    read = mh("read", "--profile", profile, "--line", line.url, "--address", "1", "--dump", dump, "--json")
    found = json.loads(dump.read_text())
    assert found["protocol"] == "modbus"
    assert found["address"] == 1
    decoded = json.loads(mh("decode", "profile", profile, dump, "--json").out)
    values = {r["name"]: r["value"] for r in decoded["readings"] if r["value"] is not None}
    wanted = {r["point"]: r["value"] for r in read.lines if r["value"] is not None}
    assert wanted
    assert values == wanted
    image, unit = load_dump(dump)  # as `simulate --dump` takes it
    again = field.tcp(Bus([SimDevice(unit, image)]))
    played = mh("read", "--profile", profile, "--line", again.url, "--address", "1", "--json")
    assert {r["point"]: r["value"] for r in played.lines if r["value"] is not None} == wanted


def test_a_dump_needs_registers(mh, tmp_path: Path) -> None:
    said = mh("read", "--profile", "mbus/heat", "--line", "tcp://127.0.0.1:1", "--address", "1", "--dump",
              tmp_path / "d.json")  # fmt: skip
    assert said.code == 2


def test_a_quick_pass_at_9600_baud_takes_half_a_minute(mh, field: Park) -> None:
    units = (1, 17, 100, 200, 247)
    bus = Bus([plain(unit, turnaround_s=0.05) for unit in units])
    line = field.pty(bus, baud=9600)
    begin = field.now_s
    said = mh("scan", "--line", line.url, "--protocol", "modbus", "--serial", "9600 8N1", "--quick", "--no-identify",
              "--json", *MINE)  # fmt: skip
    assert 25 < field.now_s - begin <= 30
    assert [int(d["address"]) for d in said.lines] == list(units)


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("framing", ["rtu", "mbap"])
@pytest.mark.parametrize("how", [("--addresses", "7-9"), ("--quick",)])
def test_a_port_that_speaks_another_scheme_is_told_with_its_url(
    mh, field: Park, framing: str, lang: str, how: tuple[str, ...]
) -> None:
    """A serial server asked as Modbus TCP, and a Modbus TCP port asked as a serial server: not A and B are wrong."""
    bus = Bus([sampled("abb/b23", 7)])
    wire = field.tcp(bus, framing=framing)
    asked = field.also(wire, "modbus-tcp" if framing == "rtu" else "tcp")
    said = mh("scan", "--line", asked, *how, *FAST, "--lang", lang)
    assert said.code == 4 and said.out == "", said.out
    assert f"--line {wire.url}" in said.err, said.err
    assert ("A and B" in said.err, "A 和 B" in said.err) == (False, False)
    words = {"rtu": ("raw bytes, as a serial server does", "透传原始字节（串口服务器）"),
             "mbap": ("this port speaks Modbus TCP", "此端口使用 Modbus TCP")}  # fmt: skip
    assert words[framing][lang == "zh"] in said.err
    assert all(writes(device) == 0 for device in bus.devices.values())
    assert mh("scan", "--line", wire.url, *how, *FAST, *MINE).code == 0, "what it says is true"


@pytest.mark.parametrize("scheme", ["modbus-tcp", "tcp"])
def test_a_silent_port_is_not_said_to_be_a_swapped_bus_of_this_machine(mh, field: Park, scheme: str) -> None:
    wire = field.tcp(Bus([]), framing="rtu")
    field.also(wire, "modbus-tcp")
    said = mh("scan", "--line", f"{scheme}://{wire.url.partition('://')[2]}", "--addresses", "1-3", *FAST)
    assert said.code == 4
    assert "Check that the devices are powered, that their A and B" in said.err and "--line" not in said.err


class _Whatever(RtuFraming):
    """Takes any bytes as a request."""

    def feed(self, chunk: bytes) -> list[SimRequest]:
        return [SimRequest(0, b"", 0, chunk)]


class _Echoing(Bus):
    """A bus without devices. It sends all bytes back."""

    def framing(self) -> Framing:
        return _Whatever()

    def answer(self, request: SimRequest, framing: Framing) -> SimAnswer | None:
        return SimAnswer(echo=request.frame)


def test_an_echo_does_not_prove_that_a_port_has_frames(mh, field: Park) -> None:
    """A serial server whose adapter echoes was said to speak Modbus TCP and not to pass raw bytes."""
    wire = field.tcp(_Echoing([]), framing="rtu")
    field.also(wire, "modbus-tcp")
    said = mh("scan", "--line", wire.url, "--protocol", "modbus", "--addresses", "1-3", "--quick", *MINE, *FAST)
    assert said.code == 4 and "Modbus TCP" not in said.err, said.err


def test_another_master_heard_on_a_port_asked_in_frames_proves_the_serial_server(mh, field: Park) -> None:
    wire = field.tcp(Bus([]), framing="rtu")
    wire.says, wire.says_every_s = lambda: read_request(9, 3, 0, 1, "").frame, 0.5
    said = mh("scan", "--line", field.also(wire, "modbus-tcp"), "--addresses", "1-3", *FAST)
    assert said.code == 4 and f"Scan it as --line {wire.url}" in said.err, said.err


@pytest.mark.parametrize(
    ("function", "address", "count"), [(3, 0x300, 60), (4, 1000, 4), (4, 0x100, 12), (3, 40000, 4), (3, 0, 1)]
)
@pytest.mark.parametrize("command", ["identify", "scan", "adopt"])
def test_an_unknown_device_is_shown_a_block_that_it_answers(
    mh, field: Park, tmp_path: Path, command: str, function: int, address: int, count: int
) -> None:
    """`identify` said 3:0+40 of every device, and `read --registers` refused it."""
    image = Image()
    image.put_words(address, [7] * count, function=function)
    line = field.pty(Bus([device := SimDevice(7, image)]), baud=9600)
    config = tmp_path / "agent.toml"
    config.write_text('[site]\nid = "s"\ngateway = "g"\ntimezone = "UTC"\n[paths]\nruntime_dir = "run"\n')
    args = {"scan": ("--addresses", "7", "--protocol", "modbus", *MINE, *FAST)}.get(command, ("--address", "7"))
    said = mh(command, "--line", line.url, *args, "-c", config, *(["--yes"] if command == "adopt" else []))
    found = re.search(r"`meterhouse (read .*? --registers (\d):(\d+)\+(\d+))`", said.err)
    assert found, said.err
    start, length = int(found[3]), int(found[4])
    assert int(found[2]) == function and address <= start < address + count and length >= min(count, 10)
    assert mh(*shlex.split(found[1])).code == 0
    assert writes(device) == 0


def test_an_unknown_device_without_a_usual_block_is_said_so(mh, field: Park) -> None:
    image = Image()
    image.put_words(0xFE00, [4000], function=3)
    line = field.pty(Bus([device := SimDevice(7, image)]), baud=9600)
    said = mh("identify", "--line", line.url, "--address", "7")
    assert said.code == 4 and "answered none of the usual register blocks" in said.err
    assert f"`meterhouse read --line {line.url} --address 7 --registers 3:START+10`" in said.err
    tried = device.requests.total()
    image.put_words(1000, [0] * 40)
    image.put_words(0x3000, [7] * 40)
    said = mh("identify", "--line", line.url, "--address", "7", "--lang", "zh")
    assert "查看寄存器" in said.err and "--registers 3:12288+40`" in said.err, "zeros say less"
    assert device.requests.total() - tried <= tried + 4


@pytest.mark.parametrize("lent", [True, False])
def test_a_scan_that_outlasts_the_lent_time_prints_what_it_found_and_ends_as_incomplete(
    mh, field: Park, monkeypatch: pytest.MonkeyPatch, lent: bool
) -> None:
    """A scan of a free line is not limited."""
    monkeypatch.setattr(BorrowedLine, "limit_s", 900.0 if lent else None)
    line = field.pty(Bus([plain(1)]))
    begin_s = field.now_s
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "modbus", "--addresses", "1-40",
              "--json", *MINE, "--slow-timeout", "30")  # fmt: skip
    (device,) = said.lines
    assert ("the scan is incomplete" in said.err, said.code, device["tried"]) == (lent, 4 if lent else 0, not lent)
    assert (field.now_s - begin_s < 900) == lent


def test_a_line_without_its_port_is_the_agents_line_all_the_same(mh, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan asked beside the agent, which has the default port in its url, instead of borrowing the line."""
    asked: list[str] = []

    def borrowed(folder: Path, url: str, *more: Any) -> Any:
        asked.append(url)
        raise LineDown("enough", where=url)

    monkeypatch.setattr("agent.cli.lease.borrow_line", borrowed)
    mh("scan", "--line", "modbus-tcp://127.0.0.1", "--line", "modbus-tcp://127.0.0.2-3", "--quick")
    assert asked == [f"modbus-tcp://127.0.0.{n}:502" for n in (1, 2, 3)]


def test_identify_takes_a_url_and_a_setting_as_read_does(mh, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asked beside the agent, took a wrong url for a wrong configuration, and ignored a setting without effect."""
    asked: list[str] = []

    def borrowed(folder: Path, url: str, *more: Any) -> Any:
        asked.append(url)
        raise LineDown("enough", where=url)

    monkeypatch.setattr("agent.cli.lease.borrow_line", borrowed)
    mh("identify", "--line", "modbus-tcp://127.0.0.1", "--address", "1")
    assert asked == ["modbus-tcp://127.0.0.1:502"]
    wrong = mh("identify", "--line", "modbus-tcp:/127.0.0.1", "--address", "1")
    assert wrong.code == 2 and "error: --line: " in wrong.err
    useless = mh("identify", "--line", "modbus-tcp://127.0.0.1", "--address", "1", "--serial", "9600 8N1")
    assert useless.code == 2 and "error: --serial: has no effect on modbus-tcp" in useless.err
    assert mh("identify", "--line", "tcp://127.0.0.1:1", "--address", "1", "--serial", "garbage").code == 2
    assert len(asked) == 1
