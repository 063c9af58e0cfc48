"""The address of a device: one rule, which the configuration, `check` and the drivers ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.main import outcome
from agent.config import parsers as v
from drivers.line import LineConfig, open_line, target
from drivers.model import ConfigError, DeviceSpec
from drivers.registry import PACKAGES, check_address, driver_class, protocol_of
from drivers.toml.parsers import InvalidValue

SITE = """[site]
id = "park7"
gateway = "gw01"
timezone = "Asia/Shanghai"

[paths]
profiles_dir = "profiles"
state_dir = "state"
runtime_dir = "run"

[[line]]
name = "bus"
url = "serial:/dev/ttyS0"

[[line]]
name = "roof"
url = "modbus-tcp://192.0.2.10"
"""
WRONG = (  # name, line, profile, address, what is said of it
    ("a", "bus", "eastron/sdm630", "248", '"248" is not a Modbus address. Allowed: 1 to 247'),
    ("b", "roof", "eastron/sdm630", "256", '"256" is not a Modbus address. Allowed: 0 to 255'),
    ("c", "bus", "sunspec/inverter", "0", '"0" is not a Modbus address. Allowed: 1 to 247'),
    ("d", "bus", "mbus/heat", "999", '"999" is not an M-Bus address. Write a primary address "0" to "250"'),
    ("e", "bus", "mbus/heat", "ABCDEF01", '"ABCDEF01" is not an M-Bus address.'),
    ("f", "bus", "cjt188/water", "BCDEF", '"BCDEF" is not a CJ/T 188 address.'),
    ("g", "bus", "dlt645/2007", "0000000001612", '"0000000001612" is not a DL/T 645 address.'),
    ("h", "bus", "dlt645/1997", "12-34", '"12-34" is not a DL/T 645 address.'),
    (
        "i",
        "roof",
        "dlt645/2007",
        "161",
        "DL/T 645 cannot be used over modbus-tcp. Use a serial port or a connection tcp://HOST:PORT",
    ),
)
TRIED = st.one_of(
    st.text("0123456789ABCDEFabcdef", min_size=1, max_size=17),
    st.integers(0, 300).map(str),
    st.text(min_size=1, max_size=14),
    st.sampled_from(["A" * 12, "A" * 14, "254", "250", "251", "FFFFFFFF", "12345678FFFF0407", "٣", "１"]),
)


def device(name: str, line: str, profile: str, address: str) -> str:
    return f'\n[[device]]\nname = "{name}"\nline = "{line}"\naddress = "{address}"\nprofile = "{profile}"\n'


def test_all_wrong_addresses_of_all_protocols_are_told_at_once_with_file_and_line(
    site: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was the first device's alone, and without a place."""
    text = SITE + "".join(device(name, line, profile, address) for name, line, profile, address, _ in WRONG)
    site.write(text)
    found = site.complaints()
    assert len(found) == len(WRONG)
    lines = text.splitlines()
    for complaint, (name, _, _, _, said) in zip(found, WRONG, strict=True):
        file, line, rest = complaint.split(":", 2)
        key = rest.split(":")[0].strip().rpartition(".")[2]
        assert file == "agent.toml" and lines[int(line) - 1].startswith(f"{key} = "), complaint
        assert rest.startswith(f" device.{name}.{key}: {said}"), complaint
    assert outcome(["check", "-c", "agent.toml"]) == 3
    said_by_check = capsys.readouterr().err
    assert all(complaint in said_by_check for complaint in found)


def test_one_address_in_two_spellings_is_noted(site: Any) -> None:
    """Such a meter was read and counted twice, without any note. The numbers of M-Bus meters have their zeros."""
    pairs = (
        ("dlt645/2007", "161", "000000000161"), ("cjt188/water", "1a", "0001A"), ("mbus/heat", "5", "005"),
        ("eastron/sdm630", "7", "07"), ("mbus/water", "01234567", "12345678"), ("mbus/gas", "9", "00000009"),
    )  # fmt: skip
    text = "".join(
        device(f"m{n}-{which}", "bus", profile, address)
        for n, (profile, *both) in enumerate(pairs)
        for which, address in enumerate(both)
    )
    site.write(
        SITE + text + device("again", "bus", "eastron/sdm630", "07") + device("far", "roof", "eastron/sdm630", "7")
    )
    notes = [str(note).split(": ")[1:] for note in site.load().notes if "same address" in str(note)]
    assert [(place, what.partition(" on the same line")[0]) for place, what in notes] == [
        ("device.again.address", "has the same address as device.m3-1"),
        *((f"device.m{n}-1.address", f"has the same address as device.m{n}-0") for n in range(4)),
    ]


@pytest.mark.parametrize("address", ["0000000999", "000000000161", "0255", "9" * 64])
def test_a_modbus_address_has_at_most_three_digits(address: str) -> None:
    """Only the first nine digits were looked at, so `check` ended with an internal error. More digits are a plate's."""
    assert check_address("modbus", address, "modbus-tcp") is not None
    assert check_address("modbus", "007", "modbus-tcp") is None


@pytest.mark.parametrize("protocol", ["modbus", "sunspec"])
@pytest.mark.parametrize(
    ("address", "scheme", "hint"),
    [
        ("0007", "serial", 'Write at most three digits: "7"'),
        ("0255", "modbus-tcp", 'Write at most three digits: "255"'),
        ("0000", "modbus-tcp", 'Write at most three digits: "0"'),
        ("0255", "serial", "Allowed: 1 to 247"),
        ("0000", "serial", "Allowed: 1 to 247"),
        ("0000000999", "modbus-tcp", "Allowed: 0 to 255"),
        ("1e2", "modbus-tcp", "Allowed: 0 to 255"),
        ("", "modbus-tcp", "Allowed: 0 to 255"),
    ],
)
def test_a_modbus_address_with_too_many_zeros_is_told_how_to_write_it(
    protocol: str, address: str, scheme: str, hint: str
) -> None:
    """ "0255" was refused with the hint "Allowed: 0 to 255"."""
    wrong = check_address(protocol, address, scheme)
    assert wrong is not None and wrong.hint == hint


def test_a_driver_that_cannot_be_made_is_told_for_each_device_with_its_place(
    site: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """`check` ended at the first of them."""
    (site.folder / "profiles/test/odd.toml").write_text(ODD)
    site.write(SITE + device("x", "bus", "test/odd", "1") + device("y", "bus", "test/odd", "2"))
    assert site.complaints() == [], "the profile alone is sound"
    assert outcome(["check", "-c", "agent.toml"]) == 3
    said = capsys.readouterr().err
    for name, line in (("x", 19), ("y", 25)):
        assert f"agent.toml:{line}: device.{name}: test/odd: heat.energy: key " in said, said


ODD = """schema = 1
vendor = "Test"
models = ["Odd"]
kind = "heat"
protocol = "mbus"
source = "a test"
evidence = "derived"

[[point]]
name = "heat.energy"
key = "Energy!"
type = "record"
unit = "kWh"
pace = "slow"

[[sample]]
name = "none"
[sample.frames]
readout = ""
[sample.expect]
"heat.energy" = 1
"""


@given(
    st.sampled_from(sorted(PACKAGES)),
    TRIED,
    st.sampled_from(["serial:/dev/null", "modbus-tcp://192.0.2.1", "tcp://h:1"]),
)
def test_the_rule_and_the_driver_agree(protocol: str, address: str, url: str) -> None:
    """What the configuration lets through, the driver takes; what it refuses, the driver refuses in the same words."""
    line = open_line(LineConfig("l", url))
    wrong = check_address(protocol, address, line.target.scheme)
    spec = DeviceSpec("m", "p/g/m", address, protocol, "test/none", (), (1000, 1000, 1000, 1000, 0))
    if wrong is None:
        driver_class(protocol)(spec, line, cast(Any, None), 0)
        return
    with pytest.raises(ConfigError) as caught:
        driver_class(protocol)(spec, line, cast(Any, None), 0)
    assert (caught.value.what, caught.value.hint) == (wrong.what, wrong.hint)


def test_every_protocol_has_its_rule_and_samples_ask_the_only_device() -> None:
    for protocol in map(protocol_of, PACKAGES):
        assert protocol.check_address("?", "serial") is not None
        assert check_address(protocol.name, protocol.any_address, "serial") is None


def test_a_profile_that_is_nested_too_deep_is_a_complaint(site: Any, good: str) -> None:
    """It ended the running agent when it was read anew."""
    path: Path = site.folder / "profiles/test/meter.toml"
    for text in ("schema = " + "[" * 2000, "schema = " + "[" * 500 + "]" * 500, "schema = " + "9" * 5000):
        path.write_text(text)
        site.write(good)
        found = site.complaints()
        assert found and found[0].startswith("agent.toml:59: device.main.profile: profiles/test/meter.toml"), found


@pytest.mark.parametrize("path", ["/dev/ttyUSB0", "/home/a user/my park 园区/tty-meters", "/tmp/[x]:1/tty"])
def test_the_path_of_a_port_may_have_spaces_and_letters_of_any_script(path: str) -> None:
    url = v.line_url(f"serial:{path}")
    assert url == f"serial:{path}"
    assert target(LineConfig("bus", url)).host == path


@pytest.mark.parametrize(
    "url", ["serial:/dev/tty\x07", "serial:/dev/\u202etty", "serial:/dev/ttyS0?baud=9600", "tcp://a b:1"]
)
def test_what_is_no_path_of_a_port(url: str) -> None:
    with pytest.raises(InvalidValue):
        v.line_url(url)
