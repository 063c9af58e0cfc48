"""`meterhouse read` against simulated devices, sound and sick."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from agent.cli.read_output import label
from agent.cli.target import local_timezone
from drivers.model import Kind, Point, Reading
from tests.kits.ports import free_port
from tests.kits.simulated import punch, writes


def test_prints_values_units_and_quality(mh, served, box) -> None:
    said = mh("read", "--profile", box, "--line", served.url, "--address", "1")
    assert (said.code, said.err) == (0, "")
    rows = {row.split()[0]: row.split()[1:] for row in said.out.splitlines() if row}
    assert rows["ac.power.active"] == ["1500.0", "W"]
    assert rows["ac.voltage.l1"] == ["230.1", "V"]
    assert rows["device.state"] == ["512", "(on", "grid,", "running)"]
    assert rows["device.firmware"] == ["2"]
    assert "ac.energy.export" not in rows


def test_reads_the_variant_that_the_firmware_asks_for(mh, served, box) -> None:
    served.image.put_words(20, [0x3320, 0x2020])
    said = mh("read", "--profile", box, "--line", served.url, "--address", "1", "--json", "--point", "ac.energy.*")
    assert said.code == 0
    assert [(line["point"], line["value"], line["unit"]) for line in said.lines] == [
        ("ac.energy.import", 42.42, "kWh"),
        ("ac.energy.export", 43.43, "kWh"),
    ]


def test_reads_a_device_of_the_configuration(mh, served, park) -> None:
    said = mh("read", "inv1", "-c", park(served.url), "--json", "--lang", "zh", "--raw", "--point", "ac.voltage.l1")
    assert said.code == 0
    assert said.lines == [
        {
            "device": "inv1",
            "point": "ac.voltage.l1",
            "value": 230.1,
            "unit": "V",
            "quality": "good",
            "meaning": said.lines[0]["meaning"],
            "raw": "08fd",
        }
    ]
    assert "电压" in said.lines[0]["meaning"]


def test_marks_what_is_out_of_range_and_shows_it(mh, served, box) -> None:
    served.image.put_words(2, [4000])
    said = mh("read", "--profile", box, "--line", served.url, "--address", "1", "--json", "--point", "ac.voltage.l1")
    assert (said.code, said.lines[0]["value"], said.lines[0]["quality"]) == (0, 400, "range")


def test_no_value_is_never_a_zero(mh, served, box) -> None:
    served.image.put_words(3, [0xFFFF])
    said = mh("read", "--profile", box, "--line", served.url, "--address", "1", "--json", "--point", "ac.frequency")
    assert (said.code, said.lines[0]["value"], said.lines[0]["quality"]) == (0, None, "sentinel")


def test_a_silent_device_is_exit_code_4_with_what_to_look_at(mh, served, box) -> None:
    served.fault("silence")
    said = mh("read", "--profile", box, "--line", served.url, "--address", "1")
    assert (said.code, said.out) == (4, "")
    assert said.err.startswith(f"error: {served.url}, unit 1: no answer within 0.2 s. The connection is established. ")
    assert said.err.count("\n") == 1


def test_a_missing_point_is_exit_code_4_and_the_rest_is_shown(mh, served, box) -> None:
    punch(served.image, 3)
    said = mh("read", "--profile", box, "--line", served.url, "--address", "1", "--json")
    values = {line["point"]: line for line in said.lines}
    assert said.code == 4
    assert (values["ac.frequency"]["value"], values["ac.frequency"]["quality"]) == (None, "exception")
    assert values["ac.power.active"]["value"] == 1500 and values["ac.voltage.l1"]["value"] == 230.1


def test_a_port_that_does_not_exist_is_said(mh, box) -> None:
    said = mh("read", "--profile", box, "--line", "serial:/dev/ttyUSB77", "--address", "1")
    assert said.code == 4
    assert said.err.startswith("error: serial:/dev/ttyUSB77: cannot open: No such file or directory. ")


def test_a_refused_connection_is_said_once(mh, box) -> None:
    said = mh("read", "--profile", box, "--line", f"modbus-tcp://127.0.0.1:{free_port()}", "--address", "1")
    assert said.code == 4
    assert said.err.count("Connection refused") == 1 and said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ([], 2, "error: read: these options are missing: --profile, --line, --address. Give the name of a"),
        (["--profile", "BOX", "--line", "tcp://h:1"], 2, "error: read: these options are missing: --address."),
        (
            ["inv1", "--address", "1"],
            2,
            "error: read: a device name cannot be combined with --profile, --line or --address. Give either a device",
        ),
        (["--profile", "BOX", "--line", "tcp://h", "--address", "1"], 2, 'error: --line: "tcp://h" has no port.'),
        (["--profile", "BOX", "--line", "tcp://h:1", "--address", "1 2"], 2, 'error: --address: "1 2" is not'),
        (["--profile", "nobody/x", "--line", "tcp://h:1", "--address", "1"], 3, 'no profile "nobody/x"'),
        (
            ["--profile", "x.toml", "--line", "tcp://h:1", "--address", "1"],
            2,
            'error: --profile: file "x.toml" does not exist',
        ),
        (["--profile", "BOX", "--line", "tcp://h:1", "--address", "x"], 3, '"x" is not a Modbus address'),
        (["--profile", "BOX", "--line", "tcp://h:1", "--address", "1", "--serial", "9600"], 2, "error: --serial: "),
        (["--profile", "BOX", "--line", "modbus-tcp://h", "--address", "1", "--serial", "9600 8N1"], 2, "no effect"),
        (
            ["--profile", "BOX", "--line", "tcp://h:1", "--address", "1", "--param", "racks"],
            2,
            '"racks" is not NAME=VALUE',
        ),
        (
            ["--profile", "BOX", "--line", "tcp://h:1", "--address", "1", "--param", "racks=2"],
            3,
            'unknown parameter "racks"',
        ),
    ],
)
def test_wrong_usage_is_a_sentence(mh, box, tmp_path, args, code, says) -> None:
    said = mh("read", *[str(box) if arg == "BOX" else arg for arg in args], "-c", tmp_path / "none.toml")
    assert (said.code, said.out) == (code, "")
    assert says in said.err


def test_an_unknown_name_brings_the_nearest(mh, park) -> None:
    said = mh("read", "inv2", "-c", park())
    assert said.code == 2
    assert said.err.endswith('agent.toml: unknown device "inv2". Did you mean "inv1"?\n')


def test_a_device_without_an_agent_needs_no_lease(mh, served, park, traces) -> None:
    traces.write(pid=2**22 + 1, lines={"roof": {"url": served.url}})
    assert mh("read", "inv1", "-c", park(served.url), "--json").code == 0


def test_nothing_is_ever_written_to_the_device(mh, served, box) -> None:
    mh("read", "--profile", box, "--line", served.url, "--address", "1")
    assert writes(served.device) == 0
    assert set(served.device.requests) <= {1, 2, 3, 4, 43}


def test_labels_of_states_and_bits() -> None:
    state = Point("device.state", Kind.STATE, labels={5: "idle"}, states={5: "standby"})
    alarm = Point("device.alarm", Kind.STATE, bit_labels={0: "hot", 3: "door"})
    assert label(state, Reading("device.state", 5)) == "idle, standby"
    assert label(alarm, Reading("device.alarm", 9)) == "hot, door"
    assert label(state, Reading("device.state", None)) == label(state, Reading("device.state", "x")) == ""


def test_json_is_one_object_a_line_and_plain_numbers(mh, served, box) -> None:
    said = mh("read", "--profile", box, "--line", served.url, "--address", "1", "--json")
    values = {json.loads(line)["point"]: json.loads(line)["value"] for line in said.out.splitlines()}
    assert values == {
        "device.firmware": "2",
        "device.state": 512,
        "ac.power.active": 1500,
        "ac.voltage.l1": 230.1,
        "ac.frequency": 50.01,
        "ac.energy.import": 42.42,
    }


def test_a_path_with_a_fault_in_the_profile_names_the_line(mh, box, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(box.read_text().replace('unit = "Hz"', 'unit = "Herz"'))
    said = mh("read", "--profile", bad, "--line", "tcp://h:1", "--address", "1")
    assert said.code == 3
    assert "bad.toml:" in said.err and "Herz" in said.err and "Hz" in said.err


def test_a_meters_clock_is_held_against_this_machines_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a configuration; else every meter in China was eight hours off."""
    monkeypatch.delenv("TZ", raising=False)
    link = tmp_path / "localtime"
    link.symlink_to("/usr/share/zoneinfo/Asia/Shanghai")
    assert local_timezone(link) == "Asia/Shanghai"
    assert local_timezone(tmp_path / "none") == "UTC"
    monkeypatch.setenv("TZ", ":Europe/Berlin")
    assert local_timezone(link) == "Europe/Berlin"
    monkeypatch.setenv("TZ", ":localtime")
    assert local_timezone(link) == "Asia/Shanghai", "a zone that has this name on every machine"


FLOATS = """
schema = 1
vendor = "Test"
models = ["FLOATS"]
kind = "meter"
protocol = "modbus"
source = "made up for tests"
evidence = "derived"
defaults = { function = 3, type = "f32", order = "ABCD" }
point = [
  { name = "ac.voltage.l1", address = 100, unit = "V" },
  { name = "ac.power.active", address = 102, unit = "kW" },
  { name = "ac.energy.import", address = 104, unit = "kWh" },
  { name = "device.temperature", address = 106, unit = "Cel", type = "i16", scale = 0.1 },
]
"""


@pytest.fixture
def floats(tmp_path: Path) -> Path:
    path = tmp_path / "floats.toml"
    path.write_text(FLOATS)
    return path


def put_floats(served, address: int, *values: float, swapped: bool = False) -> None:
    words = struct.unpack(f">{2 * len(values)}H", struct.pack(f">{len(values)}f", *values))
    pairs = [words[n : n + 2] for n in range(0, len(words), 2)]
    served.image.put_words(address, [word for pair in pairs for word in (pair[::-1] if swapped else pair)])


def test_a_value_beyond_all_bounds_brings_the_order_that_was_meant(mh, served, floats, monkeypatch) -> None:
    put_floats(served, 100, 231.45, 0.91810566, 123456.789, swapped=True)
    served.image.put_words(106, [255])
    args = ("read", "--profile", floats, "--line", served.url, "--address", "1")
    said = mh(*args, "--json")
    assert {line["point"]: line["quality"] for line in said.lines}["ac.voltage.l1"] == "range"
    assert "hint: ac.voltage.l1 is " in said.err
    assert 'with order "CDAB" instead of "ABCD" this would be 231.45 V' in said.err
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert "提示：ac.voltage.l1 为" in mh(*args).err


def test_floats_are_shown_without_the_noise_of_their_bits_and_json_keeps_all(mh, served, floats) -> None:
    put_floats(served, 100, 229.50418, 0.91810566, 22752.254)
    served.image.put_words(106, [255])
    args = ("read", "--profile", floats, "--line", served.url, "--address", "1")
    said = mh(*args)
    assert (said.code, said.err) == (0, "")
    rows = {row.split()[0]: row.split()[1:] for row in said.out.splitlines() if row}
    assert rows["ac.voltage.l1"] == ["229.5", "V"] and rows["ac.power.active"] == ["0.91811", "kW"]
    assert rows["ac.energy.import"] == ["22752.254", "kWh"], "a counter's step matters"
    assert rows["device.temperature"] == ["25.5", "°C"]
    values = {line["point"]: line["value"] for line in mh(*args, "--json").lines}
    assert values["ac.voltage.l1"] == 229.50418 and values["ac.power.active"] == 0.91810566
    assert {line["unit"] for line in mh(*args, "--json").lines} == {"V", "kW", "kWh", "Cel"}


def test_two_readings_show_the_change_and_hold_the_counter_against_power(mh, served, floats, monkeypatch) -> None:
    served.image.put_words(106, [255])
    put_floats(served, 100, 230.0, 3600.0, 1000.0)
    asked = served.image.read

    def counted(function: int, address: int, count: int) -> bytes | int:
        found = asked(function, address, count)
        energy = struct.unpack(">f", struct.pack(">2H", *served.image.words(104, 2)))[0]
        put_floats(served, 104, energy + 500)
        return found

    monkeypatch.setattr(served.image, "read", counted)
    args = ("read", "--profile", floats, "--line", served.url, "--address", "1", "--repeat=2", "--pause=150ms")
    said = mh(*args)
    row = next(row.split() for row in said.out.splitlines() if row.startswith("ac.energy.import"))
    assert float(row[2]) >= 500 and row[2].startswith("+")
    assert "hint: ac.energy.import grew by" in said.err and "A scale, unit or ratio" in said.err
    changes = {line["point"]: line["change"] for line in mh(*args, "--json").lines}
    assert changes["ac.voltage.l1"] == 0 and changes["ac.energy.import"] >= 500


def test_errors_follow_the_language_of_the_option(mh, served, park, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert "错误：" in mh("read", "inv9", "--lang", "zh", "-c", park(served.url)).err
    assert "没有选项" in mh("read", "inv1", "--lang", "zh", "--foo").err, "also before the options are all known"
    assert "error: " in mh("read", "inv9", "-c", park(served.url)).err
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert "error: " in mh("read", "inv9", "--lang", "en", "-c", park(served.url)).err
