"""`meterhouse adopt` and `scan --add`: a device becomes a file, whole and valid, or nothing changes."""

from __future__ import annotations

import io
import os
import re
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli.finding_words import reason_words
from agent.config import load_config
from drivers.sim.bus import Bus
from drivers.sim.faults import parse_fault
from tests.kits.scans import Park, plain, sampled

MINE = ("--listen", "0", "--bus-is-mine", "--timeout", "0.05", "--slow-timeout", "0.3")
MAIN = """# written by hand
[site]
id = "park7"
gateway = "gw01"
timezone = "Asia/Shanghai"

[paths]
state_dir = "state"
runtime_dir = "run"
profiles_dir = "profiles"
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration without devices, as MH_CONFIG."""
    path = tmp_path / "agent.toml"
    path.write_text(MAIN)
    monkeypatch.setenv("MH_CONFIG", str(path))
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.delenv("LC_ALL", raising=False)
    return path


def files(site: Path) -> dict[str, bytes]:
    return {str(path.relative_to(site.parent)): path.read_bytes() for path in site.parent.rglob("*") if path.is_file()}


def test_a_device_that_says_what_it_is(mh, field: Park, site: Path) -> None:
    line = field.pty(Bus([sampled("abb/b23", 3), sampled("chint/dtsu666", 5)]))
    said = mh("adopt", "main", "--line", line.url, "--address", "3", "--serial", line.serial, "--role", "grid",
              "--label", "总表 1#", "--yes", "--json")  # fmt: skip
    assert said.code == 0, said.err
    (facts,) = said.lines
    assert (facts["device"], facts["profile"], facts["address"]) == ("main", "abb/b23", "3")
    assert {"point": "device.model", "value": "B23", "unit": "", "quality": "good"} in facts["values"]
    config = load_config(site)
    (device,), (found,) = config.devices, config.lines
    assert (device.label, device.roles, device.line) == ("总表 1#", {"ac": "grid"}, found.name)
    assert (found.url, found.serial) == (line.url, line.serial)
    text = (site.parent / "conf.d" / "main.toml").read_text()
    assert text.startswith("# Added by `meterhouse adopt`") and "model B23" in text
    assert stat.S_IMODE((site.parent / "conf.d" / "main.toml").stat().st_mode) == 0o640
    assert "a role" not in said.err
    second = mh("adopt", "second", "--line", found.name, "--address", "5", "--yes")
    assert "check --plan" in second.err
    assert "devices without a role are not included in any figure: second" in second.err
    assert [device.line for device in load_config(site).devices] == [found.name, found.name]  # its line is known now
    assert site.read_text() == MAIN and mh("check").code == 0


def test_a_scan_adds_all_that_it_finds_and_then_nothing_more(mh, field: Park, site: Path) -> None:
    line = field.pty(Bus([sampled("abb/b23", 3), sampled("chint/dtsu666", 5), plain(7)]))
    scan = ("scan", "--line", line.url, "--serial", line.serial, "--protocol", "modbus", "--addresses", "3-7", *MINE)
    said = mh(*scan, "--add", "--yes")
    assert said.code == 0, said.err
    assert "modbus 7: no profile fits. `meterhouse adopt --profile ID`" in said.err
    config = load_config(site)
    assert [(device.name, device.address, device.profile) for device in config.devices] == [
        ("b23-3", "3", "abb/b23"),
        ("dtsu666-5", "5", "chint/dtsu666"),
    ]
    assert len(config.lines) == 1 and mh("check").code == 0
    before = files(site)
    again = mh(*scan, "--add", "--yes")
    assert "modbus 3 is already configured as b23-3" in again.err and files(site) == before


def test_two_devices_of_one_family_get_two_names(mh, field: Park, site: Path) -> None:
    first, second = field.tcp(Bus([sampled("abb/b23", 3)])), field.tcp(Bus([sampled("abb/b23", 3)]))
    said = mh("scan", "--line", first.url, "--line", second.url, "--addresses", "3", "--add", "--yes", *MINE)
    assert said.code == 0, said.err
    config = load_config(site)
    assert {device.name for device in config.devices} == {"b23-3", "b23-3-2"}
    assert {line.url for line in config.lines} == {first.url, second.url}


def test_a_new_line_has_the_factory_setting_of_the_profile(mh, site: Path) -> None:
    adl400 = ("--profile", "acrel/adl400", "--address", "2", "--no-read", "--yes")
    assert mh("adopt", "a", "--line", "serial:/dev/ttyS9", *adl400).code == 0
    assert mh("adopt", "b", "--line", "serial:/dev/ttyS8", *adl400, "--serial", "19200 8N1").code == 0
    assert mh("adopt", "c", "--line", "modbus-tcp://192.0.2.1", *adl400).code == 0
    assert {line.name: line.serial for line in load_config(site).lines[1:]} == {
        "ttys8": "19200 8N1", "ttys9": "9600 8E1"}  # fmt: skip
    assert "serial" not in (site.parent / "conf.d" / "line-192-0-2-1.toml").read_text()


def test_one_meter_at_two_places_is_said_before_it_is_written(mh, field: Park, site: Path) -> None:
    """A meter with two ports, or that is reached through a gateway too: one serial number."""
    meters = [sampled("abb/b23", unit) for unit in (3, 8, 9)]
    for meter, number in zip(meters, (815, 815, 4711), strict=True):
        meter.image.put_words(0x8900, [1, number])
    first = field.pty(Bus(meters[:1]))
    second, third = field.tcp(Bus([meters[1]])), field.tcp(Bus([meters[2]]))
    assert mh("adopt", "main", "--line", first.url, "--address", "3", "--serial", first.serial, "--yes").code == 0
    args = ("--line", second.url, "--address", "8", "--yes")
    said = mh("adopt", "again", *args, "--lang", "zh")
    assert said.code == 0 and "报告相同的序列号" in said.err and "again (" in said.err and "main (" in said.err
    (site.parent / "conf.d" / "again.toml").unlink()
    said = mh("scan", *args[:2], "--addresses", "8", "--add", "--yes", *MINE)
    assert said.code == 0 and re.search(
        r"warning: device b23-8: b23-8 \(127-0-0-1\S* 8\), main \(\S+ 3\) report the same serial number \d+: one",
        said.err,
    ), said.err
    said = mh("adopt", "third", "--line", third.url, "--address", "9", "--yes")
    assert said.code == 0 and "same serial number" not in said.err, said.err


def test_a_profile_of_the_site_gets_periods_that_its_line_can_keep(mh, site: Path) -> None:
    """A meter that none of ours fits, with 60 values that each need a request of their own."""
    own = site.parent / "profiles" / "acme" / "x1.toml"
    own.parent.mkdir(parents=True)
    points = "".join(f'[[point]]\nname = "x.acme.n{n}"\naddress = {20 * n}\ntype = "u16"\n' for n in range(60))
    own.write_text(f"""schema = 1
vendor = "Acme"
models = ["X1"]
kind = "meter"
protocol = "modbus"
source = "made for a test"
evidence = "derived"
serial = "9600 8N1"
defaults = {{ function = 3, pace = "fast" }}
{points}""")
    args = ("--line", "serial:/dev/ttyS9", "--address", "2", "--profile", "acme/x1", "--no-read", "--yes")
    said = mh("adopt", "a", *args)
    assert said.code == 0, said.err
    assert 'every = { fast = "5 s" }  # a shorter period' in (site.parent / "conf.d" / "a.toml").read_text()
    assert load_config(site).devices[0].periods_ms[0] == 5000
    checked = mh("check", "--json").lines[0]
    assert checked["ok"] and 0.1 < checked["line_shares"]["ttys9"] <= 0.7


def test_a_line_outlives_the_device_it_came_with(mh, field: Park, site: Path) -> None:
    """Three devices of one new line; the file of the first is taken away again."""
    line = field.pty(Bus([sampled("abb/b23", 3), sampled("chint/dtsu666", 5), plain(7)]))
    scan = ("scan", "--line", line.url, "--serial", line.serial, "--protocol", "modbus", "--addresses", "3-5", *MINE)
    assert mh(*scan, "--add", "--yes").code == 0
    (name,) = [one.name for one in load_config(site).lines]
    third = ("adopt", "box", "--line", line.url, "--address", "7", "--profile", "abb/b23", "--no-read", "--yes")
    said = mh(*third, "--json")
    assert said.code == 0 and said.lines[0]["files"] == [said.lines[0]["file"]], "its line is there"
    folder = site.parent / "conf.d"
    assert sorted(os.listdir(folder)) == ["b23-3.toml", "box.toml", "dtsu666-5.toml", f"line-{name}.toml"]
    (folder / "b23-3.toml").unlink()
    assert mh("check").code == 0
    assert [(one.name, one.line) for one in load_config(site).devices] == [("box", name), ("dtsu666-5", name)]
    for file in (*folder.glob("d*.toml"), *folder.glob("b*.toml")):
        file.unlink()
    assert mh("check").code == 0, "a line without devices is no mistake"
    assert mh(*scan, "--add", "--yes").code == 0, "and takes them again"
    assert len(load_config(site).lines) == 1


LINE = '[[line]]\nname = "ours"\nurl = "{url}"\n'


@pytest.mark.parametrize("file", ["agent.toml", "conf.d/hand.toml", "conf.d/line-ttya.toml"])
@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("serial:{port}", "serial:{port}"),
        ("serial:{port}", "serial:{link}"),  # as /dev/serial/by-id/ and /dev/ttyUSB0
        ("serial:{link}", "serial:{port}"),
        ("serial:{link}", "ours"),
        ("modbus-tcp://192.0.2.1", "modbus-tcp://192.0.2.1:502"),
        ("modbus-tcp://192.0.2.1:502", "modbus-tcp://192.0.2.1"),
        ("tcp://box.example:4196", "tcp://BOX.example:4196"),
    ],
)
def test_a_line_that_is_there_is_not_made_again(mh, site: Path, file: str, written: str, asked: str) -> None:
    """# field pain 17"""
    (site.parent / "conf.d").mkdir()
    port, link = site.parent / "ttya", site.parent / "usb-adapter"
    port.touch()
    link.symlink_to(port)
    place = site.parent / file
    text = (MAIN if file == "agent.toml" else "") + LINE.format(url=written.format(port=port, link=link))
    place.write_text(text)
    told = ("--address", "1", "--profile", "chint/dtsu666", "--no-read", "--yes")
    assert mh("adopt", "m", "--line", asked.format(port=port, link=link), *told).code == 0
    config = load_config(site)
    assert ([line.name for line in config.lines], config.devices[0].line) == (["ours"], "ours")
    assert place.read_text() == text


def test_files_of_lines_and_devices_do_not_meet(mh, site: Path) -> None:
    """A device may have the name that the file of a line would have; a hand-written file stays."""
    folder = site.parent / "conf.d"
    folder.mkdir()
    (folder / "line-ttys8.toml").write_text("# by hand\n")
    told = ("--address", "1", "--profile", "chint/dtsu666", "--no-read", "--yes")
    assert mh("adopt", "line-ttys9", "--line", "serial:/dev/ttyS9", *told).code == 0
    assert mh("adopt", "m", "--line", "serial:/dev/ttyS8", *told).code == 0
    assert (folder / "line-ttys8.toml").read_text() == "# by hand\n"
    assert {line.name for line in load_config(site).lines} == {"ttys8", "ttys9"}


TOLD = ("--line", "tcp://127.0.0.1:1", "--address", "1", "--profile", "chint/dtsu666", "--no-read", "--yes")


@pytest.mark.parametrize(("ct", "is_"), [("80", "80"), ("400/5", "80"), ("600 / 5", "120"), ("37.5", "37.5")])
def test_a_ratio_is_written_as_it_is_known(mh, site: Path, ct: str, is_: str) -> None:
    limits = ("--limit", "timeout=2 s", "--limit", "retries=1", "--limit", "holes=false")
    said = mh("adopt", "m", *TOLD, "--ct", ct, "--pt", "100", *limits)
    assert said.code == 0, said.err
    (device,) = load_config(site).devices
    assert (str(device.ratio_ct), str(device.ratio_pt)) == (is_, "100")
    assert (device.limits.timeout_s, device.limits.retries, device.limits.holes) == (2.0, 1, False)


def test_a_ratio_without_an_end_is_rounded_and_the_nameplate_stays(mh, site: Path) -> None:
    """10000/110 is on the nameplate of many voltage transformers; it was refused as not a ratio."""
    said = mh("adopt", "m", *TOLD, "--ct", "400/5", "--pt", "10000/110")
    assert said.code == 0, said.err
    (device,) = load_config(site).devices
    assert (str(device.ratio_ct), str(device.ratio_pt)) == ("80", "90.909091")
    row = "ratio = { ct = 80, pt = 90.909091 }  # ct 400/5, pt 10000/110\n"
    assert row in (site.parent / "conf.d" / "m.toml").read_text()


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (("--ct", "400:5"), 2, "--ct: 400:5 is not a ratio. Write 80 or 400/5 for a 400/5 A transformer"),
        (("--role", "gird"), 2, '--role: "gird" is not a role. Did you mean "grid"?'),
        (
            ("--role", "gas"),
            2,
            '--role: the role "gas" does not fit, because chint/dtsu666 measures electricity',
        ),
        (("--role", "ac=water.fresh"), 2, "Roles that fit: generation.pv, generation.wind, generation.hydro,"),
        (("--role", "dc=load"), 3, "the profile chint/dtsu666 has no points with the prefix"),
        (("--limit", "timeout"), 2, "--limit: timeout is not NAME=VALUE"),
        (("--limit", "time_out=2 s"), 3, 'limits.time_out: unknown key. Did you mean "timeout"?'),
        (("--profile", "chint/dtsu66"), 3, 'Did you mean "chint/dtsu666"?'),
        (("--address", "300"), 2, '--address: "300" is not a Modbus address. Allowed: 1 to 247'),
        (("--line", "rof"), 2, '--line: the line "rof" is not in the configuration'),
        (("--serial", "9600,8,N,1"), 2, '--serial: "9600,8,N,1" is not a serial setting. Write "9600 8N1"'),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    mh, site: Path, more: tuple[str, ...], code: int, says: str
) -> None:
    before = files(site)
    said = mh("adopt", "m", *TOLD, *more)
    assert (said.code, files(site)) == (code, before) and says in said.err, said.err


def test_names_and_addresses_that_are_taken_name_their_place(mh, site: Path) -> None:
    assert mh("adopt", "m", *TOLD).code == 0
    before, first = files(site), site.parent / "conf.d" / "m.toml"
    said = mh("adopt", "other", *TOLD)
    assert (
        said.code == 2 and f"{first}:4: device.m: address 1 of line 127-0-0-1-1 already belongs to device m" in said.err
    )
    said = mh("adopt", "m", *TOLD, "--address", "2")
    assert said.code == 2 and "the name m is taken. Choose another name, such as m-2" in said.err
    said = mh("adopt", "status", *TOLD, "--address", "2")
    assert said.code == 2 and '"status" is reserved, because the gateway itself uses this topic' in said.err
    assert files(site) == before
    (site.parent / "conf.d" / "free.toml").write_text("# by hand\n")
    said = mh("adopt", "free", *TOLD, "--address", "2")
    assert said.code == 2 and "not overwritten" in said.err
    assert (site.parent / "conf.d" / "free.toml").read_text() == "# by hand\n"


def test_a_configuration_with_an_error_is_mended_first(mh, site: Path) -> None:
    site.write_text(MAIN.replace('"Asia/Shanghai"', '"GMT+8"'))
    said = mh("adopt", "m", *TOLD)
    assert said.code == 3 and 'Did you mean "Asia/Shanghai"?' in said.err
    site.unlink()
    said = mh("adopt", "m", *TOLD)
    assert said.code == 3 and "`meterhouse init` makes a new file" in said.err and not (site.parent / "conf.d").exists()


def test_a_folder_that_cannot_be_made_is_said(mh, site: Path) -> None:
    (site.parent / "conf.d").write_text("not a folder")
    said = mh("adopt", "m", *TOLD)
    assert said.code == 2 and "conf.d: is not a folder" in said.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere (run the tests as another user)")
def test_a_folder_of_others_is_said_before_anything_is_asked(mh, site: Path) -> None:
    (site.parent / "conf.d").mkdir(0o500)
    said = mh("adopt", "m", *TOLD)
    assert said.code == 2 and "this user cannot write here. Use sudo, or another folder" in said.err


@pytest.mark.process
@pytest.mark.parametrize(("room", "file"), [(40, "line-127-0-0-1-1"), (320, "m")])
def test_a_full_disk_leaves_nothing_behind(mh, site: Path, room: int, file: str) -> None:
    """A limit on the size of files refuses the write as a full disk does."""
    (site.parent / "conf.d").mkdir()
    command = (sys.executable, "-m", "agent.cli.main", "adopt", "m", *TOLD, "--label", "柜" * 60)
    env = {**os.environ, "MH_CONFIG": str(site), "PYTHONDONTWRITEBYTECODE": "1"}  # what it caches would be cut off
    said = subprocess.run(
        command, env=env, capture_output=True, text=True, check=False, timeout=200,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )  # fmt: skip
    assert said.returncode == 2 and f"conf.d/{file}.toml: cannot be written: File too large" in said.stderr, said.stderr
    assert os.listdir(site.parent / "conf.d") == []
    assert mh("adopt", "m", *TOLD).code == 0


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("crc", "answers, but no frame is valid (CRC or length). Possible causes: two devices with the same address"),
        ("cut", "answers, but no frame is valid (CRC or length)"),
        ("crc+2", "only some answers are valid, others are broken (CRC or length); no profile fits"),
    ],
)
def test_a_device_whose_answers_are_broken_is_not_said_to_be_unknown(mh, field: Park, site: Path, fault, says) -> None:
    device = plain(3) if "+" in fault else sampled("abb/b23", 3)
    device.faults.set(fault)
    line = field.pty(Bus([device]))
    said = mh("adopt", "m", "--line", line.url, "--address", "3", "--serial", line.serial, "--yes")
    assert said.code == 4 and says in said.err and "no known profile" not in said.err, said.err


def test_a_silent_device_is_added_only_unread(mh, field: Park, site: Path) -> None:
    line = field.pty(Bus([plain(9)]))
    args = ("adopt", "m", "--line", line.url, "--serial", line.serial, "--address", "3", "--yes")
    assert mh(*args).code == 4
    said = mh(*args, "--profile", "chint/dtsu666")
    assert said.code == 4 and not (site.parent / "conf.d").exists()
    checks = f"Check that the device is powered and set to {line.serial}, and that the wires A and B are not swapped"
    assert f"Check the address 3. {checks}. --no-read adds the device without reading it" in said.err
    chinese = mh(*args, "--profile", "chint/dtsu666", "--lang", "zh").err
    assert "请检查地址 3。" in chinese and "A 和 B 是否接反。加 --no-read 可不读取直接加入" in chinese, chinese
    assert mh(*args, "--profile", "chint/dtsu666", "--no-read").code == 0


def test_a_device_without_a_sound_value_is_added_only_unread(mh, field: Park, site: Path) -> None:
    """All of its answers were exceptions, and the script that added it went on as if it had worked."""
    refusing = sampled("chint/dtsu666", 5)
    refusing.faults.set(parse_fault("exception=02"))
    line = field.pty(Bus([refusing]))
    args = ("adopt", "m", "--line", line.url, "--serial", line.serial, "--address", "5", "--profile", "chint/dtsu666")
    said = mh(*args, "--yes")
    assert said.code == 4 and not (site.parent / "conf.d").exists()
    assert "points of the device has a good value. Is it the right profile and address?" in said.err, said.err
    assert "--no-read adds the device without reading it" in said.err
    chinese = mh(*args, "--yes", "--lang", "zh").err
    assert "均无可信数值" in chinese and reason_words("exception")[1] in chinese and "exception" not in chinese, chinese
    assert mh(*args, "--yes", "--no-read").code == 0


@pytest.mark.parametrize("framing", ["rtu", "mbap"])
def test_a_silent_port_may_speak_another_scheme(mh, field: Park, site: Path, framing: str) -> None:
    asked = field.also(field.tcp(Bus([plain(9)]), framing=framing), "modbus-tcp" if framing == "rtu" else "tcp")
    said = mh("adopt", "m", "--line", asked, "--address", "9", "--yes")
    words = {"rtu": "needs tcp:// instead of modbus-tcp://", "mbap": "needs modbus-tcp:// instead of tcp://"}
    assert said.code == 4 and words[framing] in said.err, said.err


@pytest.mark.parametrize("command", [("adopt", *TOLD[:-1]), ("scan", "--line", "serial:/dev/null", "--add")])
def test_nobody_to_ask_is_said_before_a_line_is_opened(mh, site: Path, command: tuple[str, ...]) -> None:
    said = mh(*command)
    assert said.code == 2 and "confirmation needed, but stdin is not a terminal. Use --yes" in said.err


class Terminal(io.StringIO):
    """Typed lines."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_person_is_asked_and_sees_file_and_values_first(
    mh, field: Park, site: Path, monkeypatch: pytest.MonkeyPatch, lang: str
) -> None:
    """A wrong name is asked again, the nameplate decides the profile, no means nothing, yes writes."""
    line = field.pty(Bus([sampled("chint/dtsu666", 5)]))
    answers = ["main 1", "main", "chint/dtsu666-4", "chint/dtsu666", "door 2", "grid", "400/5"]
    for last, code in (("n", 130), ("y", 0)):
        monkeypatch.setattr("sys.stdin", Terminal("\n".join([*answers, last]) + "\n"))
        said = mh("adopt", "--line", line.url, "--serial", line.serial, "--address", "5", "--lang", lang)
        assert said.code == code, said.err
        wrong = '"main 1" 不是有效的名称' if lang == "zh" else '"main 1" is not a name'
        assert wrong in said.err and "chint/dtsu666-4000" in said.err
        assert "ratio = { ct = 80 }" in said.err and "ac.voltage.l1" in said.err
        assert ("测点" in said.err) == (lang == "zh")
        assert (site.parent / "conf.d").exists() == (code == 0)
    (device,) = load_config(site).devices
    assert (device.name, device.profile, device.label, device.roles) == (
        "main", "chint/dtsu666", "door 2", {"ac": "grid"},
    )  # fmt: skip


def test_what_does_not_fit_is_hinted_before_anything_is_written(mh, field: Park, site: Path) -> None:
    """A CT the wrong way round shows against the role."""
    device = sampled("chint/dtsu666", 5)
    line = field.pty(Bus([device]))
    said = mh("adopt", "m", "--line", line.url, "--serial", line.serial, "--address", "5", "--profile",
              "chint/dtsu666", "--role", "load", "--yes")  # fmt: skip
    assert said.code == 0 and "hint: ac.power.active" in said.err and "load" in said.err, said.err


@pytest.mark.parametrize("yes", ["y", "YES", "j", "是"])
def test_a_yes_to_the_offered_name_takes_it(
    mh, field: Park, site: Path, monkeypatch: pytest.MonkeyPatch, yes: str
) -> None:
    """A device called "y" was written."""
    line = field.pty(Bus([sampled("chint/dtsu666", 5)]))
    monkeypatch.setattr("sys.stdin", Terminal("\n".join([yes, "chint/dtsu666", "", "", "", "y"]) + "\n"))
    said = mh("adopt", "--line", line.url, "--serial", line.serial, "--address", "5")
    assert said.code == 0, said.err
    (device,) = load_config(site).devices
    assert device.name.endswith("-5") and device.name.startswith("dtsu666")
