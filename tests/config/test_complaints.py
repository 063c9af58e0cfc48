"""Each way to get agent.toml wrong, and exactly what a technician is told."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from agent.config import Config
from agent.config import parsers as v
from agent.roles import ROLES
from drivers.profile import shipped_dir

CASES = tomllib.loads((Path(__file__).parent / "complaints.toml").read_text())["case"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: (case["new"] or "-" + case["old"])[:40].replace("\n", " "))
def test_says_what_is_wrong_where_and_what_is_right(site, changed, case) -> None:  # field pain 71
    site.write(changed(case["old"], case["new"]))
    assert [line.replace(str(shipped_dir()), "SHIPPED") for line in site.complaints()] == case["says"]


def test_all_complaints_come_at_once_in_the_order_of_the_file(site, good) -> None:
    text = good
    for old, new in [("8 GiB", "8 GB"), ('"9600 8E1"', '"9600"'), ('"grid"', '"gird"'), ('"15 min"', '"15 m"')]:
        text = text.replace(old, new, 1)
    site.write(text)
    found = site.complaints()
    assert [line.split(":")[1] for line in found] == ["12", "24", "40", "62"]


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ('"park8"', "agent.toml:4: id: "),
        ("[\n1,\n2]", "agent.toml:6: "),  # its last line names no key
        ('"""\nword = 7"""', "agent.toml:5: "),  # what looks like a key belongs to a text that may be a secret
    ],
)
def test_a_key_that_stands_twice_is_named(site, good, value: str, where: str) -> None:
    site.write(good.replace('id = "park7"', f'id = "park7"\nid = {value}', 1))
    assert site.complaints() == [f"{where}this table already has this key. Keep only one of the two"]


def test_a_name_in_two_files_names_both(site, good) -> None:
    more = {
        "10-a.toml": '[store]\nmax_size = "1 GiB"\n\n[[line]]\nname = "roof"\nurl = "tcp://192.0.2.9:1"\n',
        "20-b.toml": '[[device]]\nname = "main"\nline = "roof"\naddress = "9"\nprofile = "test/direct"\n',
    }
    site.write(good, more)
    assert site.complaints() == [
        "conf.d/10-a.toml:2: store.max_size: is already set in agent.toml:12. Keep only one of the two",
        'conf.d/10-a.toml:5: line.roof.name: "roof" is already used in agent.toml:43. '
        "Each name may be used only once in all configuration files",
        'conf.d/20-b.toml:2: device.main.name: "main" is already used in agent.toml:55. '
        "Each name may be used only once in all configuration files",
    ]


def test_a_key_in_two_files_is_told_once(site, good) -> None:
    """Also a key that must exist, or whose presence is asked for before it is read."""
    site.write(good.replace("[site]", "[site]\nlatitude = 31.2\nlongitude = 121.5", 1), {
        "x.toml": '[site]\nid = "park7"\ngateway = "gw01"\nlatitude = 31.2\n',
    })  # fmt: skip
    assert site.complaints() == [
        "conf.d/x.toml:2: site.id: is already set in agent.toml:5. Keep only one of the two",
        "conf.d/x.toml:3: site.gateway: is already set in agent.toml:6. Keep only one of the two",
        "conf.d/x.toml:4: site.latitude: is already set in agent.toml:3. Keep only one of the two",
    ]


def test_a_fault_in_a_profile_is_told_with_both_places(site, good) -> None:
    site.write(good)
    profile = site.folder / "profiles/test/meter.toml"
    profile.write_text(profile.read_text().replace('unit = "W"', 'unit = "kWh"'))
    (line,) = site.complaints()
    assert line.startswith("agent.toml:59: device.main.profile: profiles/test/meter.toml:")
    assert "kWh" in line and "W" in line


@pytest.mark.parametrize(
    ("blob", "says"),
    [
        (b"", "agent.toml: the table [site] is missing. Add [site] with the keys id, gateway and timezone"),
        (b"[site", "agent.toml:1: "),
        (b'[site]\nid = "\xb0\xa1"', "agent.toml:2: byte 14 is not UTF-8. Save the file as UTF-8"),
        ("[site]".encode("utf-16"), "agent.toml:1: byte 1 is not UTF-8"),
        (b"x = " + b"[" * 20_000, "agent.toml: brackets are nested too deep"),
        (b"x = " + b"9" * 5_000, "agent.toml:"),
        (b"#" * (5 << 20), "agent.toml: is larger than 4 MiB"),
        (b"site = 5", "agent.toml:1: site: 5 is not a table. Write the table once, with single brackets: [site]"),
        (b"device = 5", "device: is not a list of tables. Write [[device]], with double brackets"),
        (b"site = [[[[]]]]", "agent.toml:1: site: is a list of tables, but only one table is allowed"),
    ],
)
def test_what_is_no_configuration_at_all_gets_a_sentence_too(site, blob, says) -> None:
    site.write(blob)
    assert says in "\n".join(site.complaints())


def test_a_missing_file_and_a_folder_are_said(site) -> None:
    (line,) = site.complaints()
    hint = "Give the path of the configuration file with -c FILE; `meterhouse init` makes a new file"
    assert line == f"agent.toml: cannot be read: No such file or directory. {hint}"
    (site.folder / "agent.toml").mkdir()
    (line,) = site.complaints()
    assert line == f"agent.toml: cannot be read: Is a directory. {hint}"


def test_a_secret_is_never_repeated(site, good, changed) -> None:
    wrong = [
        ("mqtts://broker.example", "mqtts://u:s3cr3t@broker.example"),
        ('password_credential = "platform-password"', 'password = "s3cr3t"'),
        ('password_credential = "platform-password"', 'password_credential = "s3cr3t with spaces"'),
        ('password_credential = "platform-password"', 'password_credential = ["s3cr3t"]'),
        ('password_credential = "platform-password"', "password = 's3cr3t"),
        ('credential = "signing-key"', 'credential = "s3cr3t\\n"'),
        ('credential = "signing-key"', 'secret = "s3cr3t"'),
    ]
    for old, new in wrong:
        site.write(changed(old, new))
        found = site.complaints()
        assert found and "s3cr3t" not in "\n".join(found)
    site.write(good)
    config = site.load()
    assert isinstance(config, Config)
    assert "platform-password" not in str(config.effective()), "not even where it lies"


def test_control_characters_of_the_file_do_not_reach_the_terminal(site, changed) -> None:
    site.write(changed("[key]", '[key]\n"a\\u001b[2Jb" = 1\n[x]\n"\\u0007" = "\\u0000"'))
    assert not any(c < " " for line in site.complaints() for c in line)


def test_words_agree_with_the_drivers() -> None:
    assert all(v.POINT_PATTERN.match(role) for role in ROLES)
