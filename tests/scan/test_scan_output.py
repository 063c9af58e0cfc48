"""What a scan says: tables that can be pasted, progress in a terminal; and the lines and settings it may be told of."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from agent.cli.toml_snippet import stable, tables
from agent.config import load_config, load_profiles
from drivers.dlt645.simulate import Dlt645Meter
from drivers.scan import COMMON_SETTINGS, FoundDevice, Scan, ScanOptions
from drivers.scan.fit import Fit
from drivers.sim.bus import Bus
from drivers.sim.meters import MixedBus
from drivers.sim.rtu import SerialLine
from tests.kits.scans import Park, plain, sampled

MINE = ("--listen", "0", "--bus-is-mine")
FAST = ("--timeout", "0.05", "--slow-timeout", "0.1")
ROOT = Path(__file__).resolve().parents[2]
SITE = '[site]\nid = "park7"\ngateway = "gw01"\ntimezone = "Asia/Shanghai"\n\n'


def test_what_is_found_can_be_pasted_into_agent_toml(mh, field: Park, tmp_path: Path) -> None:
    """The text after "for agent.toml:" is a sound configuration as it stands."""
    bus = MixedBus([], [sampled("abb/b23", 3), sampled("chint/dtsu666", 5)])
    bus.device_baud.update({3: 115200, 5: 115200})
    line = field.pty(bus)
    said = mh("scan", "--line", line.url, "--serial", line.serial, "--protocol", "modbus", "--addresses", "3-5",
              "--quick", *MINE, *FAST)  # fmt: skip
    assert said.code == 0
    pasted = said.out.partition("for agent.toml:\n")[2]
    (tmp_path / "agent.toml").write_text(SITE + pasted, encoding="utf-8")
    found = tomllib.loads(SITE + pasted)
    assert [(d["name"], d["address"], d["profile"]) for d in found["device"]] == [
        ("b23-3", "3", "abb/b23"),
        ("dtsu666-5", "5", "chint/dtsu666"),
    ]
    assert found["line"] == [{"name": "wire1", "url": line.url, "serial": line.serial}]
    checked = mh("check", "-c", tmp_path / "agent.toml")
    assert checked.code == 0, checked.err


def test_a_line_that_is_configured_keeps_its_name(mh, field: Park, tmp_path: Path) -> None:
    line = field.pty(Bus([sampled("abb/b23", 3)]))
    config = tmp_path / "agent.toml"
    config.write_text(SITE + f'[[line]]\nname = "cabinet-2"\nurl = "{line.url}"\nserial = "{line.serial}"\n')
    said = mh("scan", "-c", config, "--line", line.url, "--serial", line.serial, "--protocol", "modbus",
              "--addresses", "3", "--quick", "--json", *MINE, *FAST)  # fmt: skip
    assert said.lines[0]["toml"].startswith('[[device]]\nname = "b23-3"\nline = "cabinet-2"\naddress = "3"\n')


def test_a_configured_line_is_named_in_every_command(mh, field: Park, tmp_path: Path) -> None:
    """Its setting comes with the name: no device here hears 9600 8N1."""
    line = field.pty(Bus([sampled("abb/b23", 3)]))
    config = tmp_path / "agent.toml"
    config.write_text(SITE + f'[[line]]\nname = "cabinet-2"\nurl = "{line.url}"\nserial = "{line.serial}"\n')
    here = ("-c", config, "--line", "cabinet-2")
    said = mh("read", *here, "--address", "3", "--profile", "abb/b23", "--point", "device.model", "--json")
    assert (said.code, said.lines[0]["value"]) == (0, "B23"), said.err
    said = mh("read", *here, "--address", "3", "--registers", "3:0x8960+2")
    assert said.code == 0 and "0x8960" in said.out, said.err
    assert "abb/b23 (certain)" in mh("identify", *here, "--address", "3").out
    said = mh("scan", *here, "--protocol", "modbus", "--addresses", "3", "--quick", "--json", *MINE, *FAST)
    assert said.lines[0]["toml"].startswith('[[device]]\nname = "b23-3"\nline = "cabinet-2"\naddress = "3"\n')
    said = mh("read", *here, "--address", "3", "--registers", "3:0x8960+2", "--serial", "9600 8N1")
    assert said.code == 4, "--serial wins"


def test_each_device_has_a_name_of_its_own_and_says_what_differs() -> None:
    def found(protocol: str, address: str, serial: str, *profiles: str) -> FoundDevice:
        fits = [Fit(name, "", "likely", 3, 3) for name in profiles]
        return FoundDevice(protocol, address, serial, "answer", "serial:/dev/ttyUSB0", fits=fits, tried=True)

    texts = tables(
        [
            found("modbus", "1", "9600 8N1", "eastron/sdm630", "eastron/sdm72v2"),
            found("modbus", "1", "19200 8N1", "eastron/sdm630"),
            found("modbus", "4", "9600 8N1", "soltaro/rack"),
            found("dlt645", "000000000161", "2400 8E1", "dlt645/2007"),
            found("mbus", "12345678", "2400 8E1"),
        ],
        {},
    )
    parsed = tomllib.loads("\n".join(texts))
    assert [d["name"] for d in parsed["device"]] == ["sdm630-1", "sdm630-1-2", "rack-4", "dlt645-161"]
    assert parsed["line"][0]["serial"] == "9600 8N1"
    assert [d.get("serial") for d in parsed["device"]] == [None, "19200 8N1", None, "2400 8E1"]
    assert "# params = { cells = 216, sensors = 108 }" in texts[3], "what the installer may say"
    assert "or eastron/sdm72v2" in texts[1]
    assert texts[-1].startswith("# [[device]]") and "none of the known profiles fits" in texts[-1]


def test_on_a_full_line_each_device_is_read_less_often_at_the_paces_that_it_has(tmp_path: Path) -> None:
    """A slow bus of four protocols; what was proposed for one pace was written for devices that do not have it."""
    at = ("serial:/dev/ttyS9", "9600 8N1")
    found = [
        FoundDevice("modbus", "9", at[1], "answer", at[0],
                    fits=[Fit("eastron/sdm630", "", "likely", 9, 9)], answer_s=0.15),
        FoundDevice("dlt645", "000000000161", "2400 8E1", "answer", at[0],
                    fits=[Fit("dlt645/2007", "", "likely", 9, 9)], answer_s=0.3),
        FoundDevice("cjt188", "22223333444455", "2400 8E1", "answer", at[0],
                    fits=[Fit("cjt188/heat", "", "likely", 9, 9)], answer_s=0.3),
        FoundDevice("modbus", "7", at[1], "answer", at[0]),
    ]  # fmt: skip
    text = "\n".join(tables(found, {}))
    devices = {one["address"]: one.get("every", {}) for one in tomllib.loads(text)["device"]}
    assert devices["9"] == {"fast": "10 s", "normal": "10 s"} and "7" not in devices
    assert devices["000000000161"] == {"normal": "10 s"}, "it has no fast pace"
    assert not devices["22223333444455"], "it is not read more often than that"
    config = tmp_path / "agent.toml"
    config.write_text('[site]\nid = "s"\ngateway = "g"\ntimezone = "UTC"\n' + text)
    load_profiles(loaded := load_config(config))
    assert not [note for note in loaded.notes if "pace" in note.what], loaded.notes


def test_a_port_is_named_by_its_adapter(tmp_path: Path) -> None:  # field pain 17
    port, by_id = tmp_path / "ttyUSB0", tmp_path / "by-id"
    port.touch()
    by_id.mkdir()
    (by_id / "usb-FTDI_A1-if00-port0").symlink_to(port)
    assert stable(f"serial:{port}", by_id) == f"serial:{by_id}/usb-FTDI_A1-if00-port0"
    assert stable(f"serial:{tmp_path}/ttyS9", by_id) == f"serial:{tmp_path}/ttyS9"
    assert stable(f"serial:{port}", tmp_path / "none") == f"serial:{port}"
    assert stable("tcp://192.0.2.1:4196", by_id) == "tcp://192.0.2.1:4196"


@pytest.mark.process
def test_a_terminal_sees_how_far_it_is(tmp_path: Path) -> None:
    """The bar, what is asked at the moment, and the time that is left; the table comes on stdout all the same.

    A process of its own, and a real port: unit 5 takes its time, so that there is something to see.
    """
    line = SerialLine(Bus([plain(1), plain(5, turnaround_s=1.5), plain(9)]), tmp_path / "tty", baud=115200)
    line.open()
    try:
        shown, table = scanned_in_a_terminal(line, "--addresses", "1,5,9", "--timeout", "9")
    finally:
        line.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode("utf-8", "replace"))
    assert re.match(r"takes at most about \d+(\.\d)? s\s", text)
    assert "modbus unit 5 at 115200 8N1" in text
    shares = [int(n) for n in re.findall(r"(\d+)%", text)]
    assert shares == sorted(shares) and shares[-1] > 50
    assert re.search(r"0:00:\d\d", text), "the time that is left"
    assert [row.split()[:2] for row in table.splitlines()[1:]] == [["modbus", "1"], ["modbus", "5"], ["modbus", "9"]]


def scanned_in_a_terminal(line: SerialLine, *more: str) -> tuple[bytes, str]:
    """What a terminal shows, and what goes to stdout."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "agent.cli.main", "scan", "--line", line.url, "--serial", line.serial,
               "--protocol", "modbus", "--no-identify", "--quick", *MINE, *more]  # fmt: skip
    environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    child = subprocess.Popen(command, cwd=ROOT, stdin=slave, stdout=subprocess.PIPE, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    assert child.stdout is not None
    table = child.stdout.read().decode()
    child.stdout.close()
    assert child.wait() == 0
    return shown, table


def test_a_raw_serial_server_is_scanned_as_a_line_of_bytes(mh, field: Park) -> None:
    """tcp://: Modbus RTU and DL/T 645 behind one converter, whose setting is its own."""
    meter = Dlt645Meter(address="000000000161", values={"00010000": bytes.fromhex("78563412")})
    line = field.tcp(MixedBus([meter], [sampled("abb/b23", 3)]), "rtu")
    assert line.url.startswith("tcp://")
    said = mh("scan", "--line", line.url, "--protocol", "modbus", "--protocol", "dlt645", "--addresses", "1-4",
              "--quick", "--json", *MINE, *FAST)  # fmt: skip
    assert said.code == 0, said.err
    assert [(d["protocol"], d["address"], d["serial"]) for d in said.lines] == [
        ("modbus", "3", None),
        ("dlt645", "000000000161", None),
    ]
    refused = mh("scan", "--line", line.url, "--all-settings", *MINE)
    assert refused.code == 2 and "no effect over TCP" in refused.err


def test_all_settings_finds_a_device_of_an_unusual_speed(mh, field: Park) -> None:
    line = field.pty(Bus([plain(1)]), baud=38400)
    said = mh("scan", "--line", line.url, "--protocol", "modbus", "--all-settings", "--addresses", "1",
              "--no-identify", "--quick", "--json", *MINE, *FAST)  # fmt: skip
    assert [(d["address"], d["serial"]) for d in said.lines] == [("1", "38400 8N1")]
    options = ScanOptions(line.url, settings=COMMON_SETTINGS, listen_s=0, bus_is_mine=True, slow=False)
    assert 10 * 60 < Scan(options).estimate_s() < 13 * 60, "all units at all settings: the estimate says so before"


@pytest.mark.parametrize("serial", ["9600 8X1", "9601 8N1"])
def test_a_setting_that_cannot_be_is_refused(mh, serial: str) -> None:
    said = mh("scan", "--line", "serial:/dev/null", "--serial", serial, *MINE)
    assert said.code in (2, 3)
    assert serial in said.err
