"""What a sound configuration becomes."""

from __future__ import annotations

import dataclasses
import os
import socket
from decimal import Decimal
from pathlib import Path

import pytest
import rfc8785

from agent.cli.options import configured_folder
from agent.config import RingConfig, Secret, device_spec, line_config, load_config, load_profiles, site_profiles
from agent.verify.strict import MAX_PACK_BYTES
from drivers.line.config import LineConfig
from drivers.model import ConfigError, ImpossibleZeros, Limits, ProfileError
from drivers.night import Night
from drivers.toml.lines import key_lines
from tests.kits.specs import device_specs

MINIMAL = """[site]
id = "p"
gateway = "g"
timezone = "UTC"
"""


def test_every_key_arrives(site, good) -> None:
    site.write(good)
    config = site.load()
    assert (config.site, config.gateway, config.timezone, config.base) == (
        "park7",
        "gw01",
        "Asia/Shanghai",
        "park7/gw01",
    )
    assert config.site_label == "一期园区"
    assert (config.store.max_size_bytes, config.store.keep_delivered_s) == (8 << 30, 30 * 86400)
    assert (config.pack.every_ms, config.pack.max_size_bytes) == (10_000, 65536)
    assert (config.ring, config.interval.length_ms) == (RingConfig(None, 256 << 20), 900_000)
    (uplink,) = config.uplinks
    assert (uplink.url, uplink.host, uplink.port, uplink.tls) == (
        "mqtts://broker.example:8883",
        "broker.example",
        8883,
        True,
    )
    assert (uplink.password, uplink.confirm, uplink.ca_file) == (
        Secret("platform-password"),
        "subscriber",
        Path("ca.pem"),
    )
    roof, server = config.line("roof"), config.line("server")
    assert (roof.url, roof.scheme) == ("modbus-tcp://192.0.2.10:502", "modbus-tcp")
    assert roof.limits == Limits(connect_delay_s=1.5, timeout_s=10.0)
    assert line_config(roof) == LineConfig("roof", roof.url, bus_baud=9600, limits=roof.limits)
    assert line_config(server).bus_baud == 2400, "what is said of the bus behind a serial server serves the plan"
    main, second = config.devices
    assert main.periods_ms == (2_000, 5_000, 60_000, 300_000, 86_400_000)
    assert second.periods_ms[:2] == (1_000, 10_000)
    assert (main.ratio_ct, main.ratio_pt, main.reversed, dict(main.params)) == (
        Decimal(80),
        Decimal("1.5"),
        frozenset({"ac"}),
        {"feeders": 3},
    )
    assert (dict(main.roles), dict(main.parent)) == ({"ac": "grid"}, {"ac": "transformer-1"})


def test_defaults_are_those_of_the_design(site) -> None:
    site.write(MINIMAL)
    config = site.load()
    assert (config.state_dir, config.runtime_dir) == (Path("/var/lib/meterhouse"), Path("/run/meterhouse"))
    assert config.profiles_dir == Path("/etc/meterhouse/profiles")
    assert config.key == Secret(file=Path("/var/lib/meterhouse/signing.key"))
    assert (config.store.max_size_bytes, config.pack.every_ms) == (8 << 30, 10_000)
    assert (config.ring.size_bytes, config.ring.max_bytes) == (None, 256 << 20)
    assert (config.uplinks, config.lines, config.devices) == ((), (), ())
    assert config.control.group == "meterhouse-control"


def test_folders_come_from_systemd_the_file_and_the_command_line_in_rising_order(site) -> None:
    environ = {"RUNTIME_DIRECTORY": "/run/a:/run/b", "STATE_DIRECTORY": "/var/a"}
    site.write(MINIMAL)
    config = load_config("agent.toml", environ=environ)
    assert (config.runtime_dir, config.state_dir) == (Path("/run/a"), Path("/var/a"))
    site.write(MINIMAL + '[paths]\nstate_dir = "state"\nruntime_dir = "/run/c"\n')
    config = load_config(site.folder / "agent.toml", environ=environ)
    assert (config.runtime_dir, config.state_dir) == (Path("/run/c"), site.folder / "state")
    config = load_config("agent.toml", {"pack.every": "2 s"}, state_dir=Path("here"), environ=environ)
    assert (config.state_dir, config.pack.every_ms) == (Path.cwd() / "here", 2_000)


def test_a_wrong_override_is_told_as_the_command_lines(site) -> None:
    site.write(MINIMAL)
    says = site.complaints(overrides={"pack.every": "2 sec", "device.x": 1, "store.size": "1 GiB"})
    assert says == [
        "command line: device.x: cannot be set on the command line. "
        "Known: control, indicators, interval, key, pack, paths, ring, site, store, web",
        'command line: store.size: unknown key. Did you mean "max_size"?',
        'command line: pack.every: "sec" is not a unit of time. Write "2 s"; units are ms, s, min, h, d',
    ]


def test_conf_d_adds_tables_and_keys(site, good) -> None:
    more = {
        "20-more.toml": '[[device]]\nname = "third"\nline = "roof"\naddress = "3"\nprofile = "test/direct"\n',
        "10-first.toml": '[[line]]\nname = "extra"\nurl = "udp://192.0.2.12:8899"\n[paths]\nstate_dir = "s"\n',
        ".hidden.toml": "this is not read",
        "notes.txt": "nor this",
    }
    site.write(good, more)
    config = site.load()
    assert [line.name for line in config.lines] == ["cabinet-2", "roof", "server", "extra"]
    assert [device.name for device in config.devices] == ["main", "second", "third"]
    assert config.state_dir == Path("conf.d/s"), "a relative path counts from the file that names it"
    assert [path.name for path in config.files] == ["agent.toml", "10-first.toml", "20-more.toml"]


def test_a_byte_order_mark_and_windows_line_ends_are_no_fault(site, good) -> None:
    site.write(b"\xef\xbb\xbf" + good.replace("\n", "\r\n").encode())
    assert site.complaints() == []
    site.write(b"\xef\xbb\xbf" + good.replace('"8 GiB"', '"8 GB"').replace("\n", "\r\n").encode())
    assert site.complaints()[0].startswith("agent.toml:12: ")


def test_the_tree_is_frozen(site, good) -> None:
    site.write(good)
    config = site.load()
    for thing in (config, config.store, config.lines[0], config.devices[0], config.uplinks[0]):
        assert not hasattr(thing, "__dict__")
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):  # slots make it a TypeError
            thing.name = "x"  # type: ignore[misc,union-attr]


def test_a_ratio_that_the_device_applied_is_a_note(site) -> None:
    """A profile that changed to values after the transformers must not keep an agent with a ratio from its start."""
    text = (
        MINIMAL + '[[line]]\nname = "bus"\nurl = "tcp://192.0.2.11:4196"\n[[device]]\nname = "workshop"\nline = "bus"\n'
    )
    site.write(text + 'address = "3"\nprofile = "acrel/adl400"\nratio = { ct = 80 }\n')
    (note,) = [str(note) for note in site.load().notes if "ratio" in str(note)]
    assert "device.workshop.ratio: has no effect: profile acrel/adl400" in note


@pytest.mark.parametrize(
    ("url", "told"),
    [("tcp://192.0.2.10:502", True), ("udp://192.0.2.10:502", False), ("tcp://192.0.2.10:503", False)],
)
def test_one_tcp_port_with_two_schemes_is_told(site, good, url: str, told: bool) -> None:
    """One of the two lines is almost always written wrong, and nothing was said."""
    site.write(good.replace("tcp://192.0.2.11:4196", url))
    notes = [str(note) for note in site.load().notes if "with another URL scheme" in str(note)]
    assert (
        notes
        == [
            "agent.toml:50: line.server.url: opens the port 192.0.2.10:502, but line.roof (agent.toml:44) opens the "
            "same port with another URL scheme. A port of a TCP gateway or serial server usually has one framing: "
            "correct the url of one of the lines"
        ]
        * told
    )


def test_points_that_show_which_zeros_are_readings_are_read_whatever_points_a_device_selects(site) -> None:
    meter = (site.folder / "profiles/test/meter.toml").read_text()
    meter = meter.replace('"slow"', '"fast"')
    rule = '[[impossible]]\nzeros_together = ["ac.power.active", "ac.energy.import"]\n[[sample]]'
    (site.folder / "profiles/test/zeros.toml").write_text(meter.replace("[[sample]]", rule, 1))
    text = MINIMAL + '[paths]\nprofiles_dir = "profiles"\n[[line]]\nname = "bus"\nurl = "tcp://192.0.2.11:4196"\n'
    text += '[[device]]\nname = "m"\nline = "bus"\naddress = "3"\nprofile = "test/zeros"\npoints = ["ac.power.active"]'
    site.write(text)
    config = site.load()
    spec = device_spec(config, config.devices[0], load_profiles(config)["test/zeros"])
    assert {point.name for point in spec.points} == {"ac.power.active", "ac.energy.import"}
    assert spec.impossible == (ImpossibleZeros(("ac.power.active", "ac.energy.import")),)


@pytest.mark.parametrize(("points", "noted"), [("", True), ('points = ["*.active"]\n', False)])
def test_a_variant_with_a_value_that_no_read_can_hold_is_a_note(site, points: str, noted: bool) -> None:
    """The device may be of another variant, so an agent that works must not refuse to start."""
    meter = (site.folder / "profiles/test/meter.toml").read_text()
    more = '[[variant]]\nfirmware = ">=3"\n[[variant.point]]\nname = "ac.energy.export"\naddress = 4\n'
    more += 'type = "u64"\norder = "ABCDEFGH"\nunit = "kWh"\npace = "slow"\n[[sample]]'
    (site.folder / "profiles/test/wide.toml").write_text(meter.replace("[[sample]]", more, 1))
    text = MINIMAL + '[paths]\nprofiles_dir = "profiles"\n[[line]]\nname = "bus"\nurl = "tcp://192.0.2.11:4196"\n'
    text += '[[device]]\nname = "m"\nline = "bus"\naddress = "3"\nprofile = "test/wide"\nlimits = { max_words = 2 }\n'
    site.write(text + points)
    assert [str(note) for note in site.load().notes if "max_words" in str(note)] == noted * [
        "agent.toml:15: device.m.limits.max_words: 2 is less than the 4 registers of the point ac.energy.export of the "
        "variant >=3. Raise max_words, or exclude the point with points = [...]. Otherwise, a device that reports this "
        "variant is not read"
    ]


def test_notes_tell_what_works_and_still_deserves_a_look(site, good) -> None:
    text = good.replace("serial:/dev/serial/by-id/usb-FTDI_FT232R_A1-if00-port0", "serial:/dev/ttyUSB3")
    text = text.replace("tcp://192.0.2.11:4196", "modbus-tcp://192.0.2.10").replace('serial = "2400 8E1"\n', "")
    text = text.replace('"9600 8E1"', '"9600 8N1"').replace("test/direct", "test/meter").replace('"2"', '"2"')
    text += '[[device]]\nname = "third"\nline = "roof"\naddress = "1"\nprofile = "test/direct"\n'
    text += '[[uplink]]\nname = "plain"\nurl = "mqtt://192.0.2.1"\n'
    site.write(text)
    notes = [str(note) for note in site.load().notes]
    assert notes == [
        # field pain 17
        "agent.toml:39: line.cabinet-2.url: /dev/ttyUSB3 may refer to another adapter after a restart or replug. "
        "Take the stable name from /dev/serial/by-id/",
        "agent.toml:50: line.server.url: opens a second connection to the TCP gateway of line.roof (agent.toml:44). "
        "Put all devices of this TCP gateway on one [[line]]: many TCP gateways accept only one or two connections",
        "agent.toml:80: device.third.address: has the same address as device.main on the same line. "
        "Two [[device]] entries may have the same address only if they describe one physical device with two profiles",
        "agent.toml:70: device.second.line: 9600 8N1 is not the factory setting of test/meter (9600 8E1). "
        "The configured serial setting is right only if the serial setting in the device was changed",
        "agent.toml:73: device.second.every: no point has the pace normal, so the polling period of this pace has no "
        "effect",
        "agent.toml:84: uplink.plain.url: the connection to this destination is not encrypted. "
        "Write mqtts:// in the url to protect the password and the readings",
        "roles: devices without a role are not included in any figure: second, third. " + ROLE_HINT,
    ]


ROLE_HINT = (
    'Write for example roles = { ac = "grid" }; other roles are load, generation.pv and storage; to '
    'leave a device out on purpose, give it a custom role "x.NAME"'
)


@pytest.mark.parametrize(
    ("more", "wants", "lacking"),
    [
        ("", False, ("inv1", "meter")),  # nobody wants figures: `check` is silent, `report` is not
        ('roles = { ac = "grid" }\n', True, ("inv1",)),
        ('roles = { ac = "x.board" }\n', True, ("inv1",)),
        ('\n[indicators]\nplan = "plan.toml"\n', True, ("inv1", "meter")),
        ('roles = { ac = "grid" }\n[[derived]]\nname = "sun"\n'
         'sum = ["inv1/ac.energy.generation"]\n', True, ()),
    ],
)  # fmt: skip
def test_a_device_that_no_figure_counts_is_noted(site, more: str, wants: bool, lacking: tuple[str, ...]) -> None:
    (site.folder / "plan.toml").write_text('schema = 1\nsets = ["plain"]\n')
    device = '[[device]]\nname = "{}"\nline = "roof"\naddress = "{}"\nprofile = "{}"\n'
    text = MINIMAL + '[[line]]\nname = "roof"\nurl = "modbus-tcp://192.0.2.10"\n'
    text += device.format("inv1", 1, "goodwe/dt") + device.format("stick", 2, "huawei/smartlogger3000")
    site.write(text + device.format("meter", 3, "chint/dtsu666") + more)
    assert site.complaints() == []
    config = site.load()
    assert (config.wants_figures, config.roleless) == (wants, lacking)
    notes = [note.what for note in config.notes if note.where == "roles"]
    expected = [f"devices without a role are not included in any figure: {', '.join(lacking)}"]
    assert notes == (expected if wants and lacking else [])
    assert "roleless" not in config.effective(), "the hash of a configuration does not change"


@pytest.mark.parametrize(
    ("mode", "owner", "is_open"),
    [
        (0o600, 0, False),
        (0o640, 0, False),  # as packages install secrets
        (0o640, 61001, True),
        (0o644, 0, True),
        (0o660, 0, True),
        (0o604, 61001, True),
        (0o400, 61001, False),
    ],
)
def test_password_and_key_files_that_others_may_read_are_noted(
    site, good, tmp_path: Path, mode: int, owner: int, is_open: bool
) -> None:
    """They were taken without a word, where the signing key is refused."""
    if os.geteuid():
        pytest.skip("only root can make files of others (run as root)")
    files = {name: tmp_path / name for name in ("pw", "client.key", "client.crt")}
    for path in files.values():
        path.write_text("secret")
        path.chmod(mode)
        os.chown(path, owner, -1)
    uplink = (
        f'[[uplink]]\nname = "second"\nurl = "mqtts://b.example"\nusername = "u"\npassword_file = "{files["pw"]}"\n'
    )
    uplink += f'cert_file = "{files["client.crt"]}"\nkey_file = "{files["client.key"]}"\n'
    site.write(good + uplink)
    notes = [str(note) for note in site.load().notes if "others may read" in str(note)]
    assert len(notes) == (2 if is_open else 0)
    for note, key, remedy in zip(notes, ("password_file", "key_file"), ("another password", "a new key"), strict=False):
        assert f"uplink.second.{key}: others may read or change" in note and f"(mode {mode:04o})" in note
        assert "chmod 600" in note and remedy in note and "secret" not in note


@pytest.mark.parametrize(
    ("mode", "owner", "group", "says"),
    [
        (0o640, 0, 61000, "any user in the agent's read-only group may read"),
        (0o640, 0, 61007, ""),  # a group of its own
        (0o600, 61001, 61000, ""),
        (0o600, 61002, 61002, "belongs to user 61002, who is neither root nor the agent's user"),
        (0o600, 0, 61000, ""),
    ],
)
def test_secrets_that_those_who_may_look_could_read_are_noted(
    site, good, tmp_path: Path, mode: int, owner: int, group: int, says: str
) -> None:
    """The state directory tells who the agent is."""
    if os.geteuid():
        pytest.skip("only root can make files of others (run as root)")
    state, files = tmp_path / "state", [tmp_path / name for name in ("pw", "client.key", "client.crt", "signing.key")]
    state.mkdir()
    os.chown(state, 61001, 61000)
    for path in files:
        path.write_text("secret")
        path.chmod(mode)
        os.chown(path, owner, group)
    uplink = f'[[uplink]]\nname = "second"\nurl = "mqtts://b.example"\nusername = "u"\npassword_file = "{files[0]}"\n'
    uplink += f'cert_file = "{files[2]}"\nkey_file = "{files[1]}"\n'
    site.write(good.replace('credential = "signing-key"', f'file = "{files[3]}"') + uplink)
    notes = [str(note) for note in site.load(state_dir=state).notes]
    found = [note for note in notes if says and says in note]
    assert len(found) == (3 if says else 0), notes
    assert says or not [note for note in notes if any(str(path) in note for path in files)], notes


@pytest.mark.parametrize(("written", "bytes_", "noted"), [("8 MiB", 8 << 20, False), ("16 MiB", 8 << 20, True)])
def test_no_pack_is_larger_than_receivers_accept(site, good, written: str, bytes_: int, noted: bool) -> None:
    site.write(good.replace('max_size = "64 KiB"', f'max_size = "{written}"'))
    config = site.load()
    assert config.pack.max_size_bytes == bytes_ <= MAX_PACK_BYTES
    assert [str(note) for note in config.notes if "max_size" in str(note)] == noted * [
        "agent.toml:18: pack.max_size: receivers accept packs of at most 8 MiB, so the agent splits packs at 8 MiB. "
        'Write max_size = "8 MiB" or less'
    ]


def test_the_hash_is_of_what_shapes_readings(site, good) -> None:
    site.write(good)
    first = site.load()
    assert first.hash() == site.load().hash() and len(first.hash()) == 43
    assert site.load(state_dir=Path("/elsewhere")).hash() == first.hash()
    site.write(good.replace('credential = "signing-key"', 'file = "x.key"').replace("platform-password", "other"))
    assert site.load().hash() == first.hash(), "a moved secret is the same secret"
    site.write("# a comment\n" + good.replace('"10 s"\nmax', '"10000 ms"\nmax'))
    assert site.load().hash() == first.hash(), "other words for the same thing"
    site.write(good.replace("meterhouse-control", "wheel"))
    assert site.load().control.group == "wheel" and site.load().hash() == first.hash(), "who may ask shapes no reading"
    for old, new in [("ct = 80", "ct = 81"), ('"gw01"', '"gw02"'), ('"ac.*"', '"ac.power.*"'), ("fast = ", "cells = ")]:
        site.write(good.replace(old, new, 1))
        assert site.load().hash() != first.hash()


def test_the_hash_is_taken_over_canonical_json(site, good) -> None:
    import base64
    import hashlib

    site.write(good)
    config = site.load()
    digest = hashlib.sha256(rfc8785.dumps(config.effective())).digest()
    assert config.hash() == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def test_a_default_period_gives_way_to_the_profile(site, changed) -> None:
    site.write(changed('every = { fast = "2 s", slow = "60 s" }\n', ""))
    assert site.load().devices[0].periods_ms == (2_000, 5_000, 60_000, 300_000, 86_400_000)


def test_device_specs_join_configuration_and_profile(site, good) -> None:
    site.write(good)
    config = site.load()
    main, second = device_specs(config)
    assert (main.stream, main.protocol, main.profile) == ("park7/gw01/main", "modbus", "test/meter")
    assert [p.name for p in main.points] == ["ac.power.active", "ac.energy.export"], (
        "a reversed CT counts the other way"
    )
    assert main.limits.max_words == 20 and main.limits.timeout_s == 10.0, "device beats line beats profile"
    assert (main.limits.connect_delay_s, main.limits.min_every_s) == (1.5, 2.0)
    assert second.limits.max_words == 60 and second.serial == ""
    profiles = load_profiles(config)
    assert set(profiles) == {"test/meter", "test/direct"}
    again = device_spec(config, config.devices[1], profiles["test/direct"], firmware="3.1", identity={})
    assert again == second


def test_profiles_come_through_the_argument(site, good) -> None:
    site.write(good)
    asked: list[str] = []
    real = site_profiles(Path("profiles"))

    def source(profile_id: str):  # type: ignore[no-untyped-def]
        asked.append(profile_id)
        if profile_id == "test/direct":
            raise ProfileError("is being rewritten", where="here")
        return real(profile_id)

    assert site.complaints(profiles=source) == ["agent.toml:73: device.second.profile: here: is being rewritten"]
    assert asked == ["test/meter", "test/direct"]


def test_secrets_are_read_from_their_place_only(tmp_path: Path) -> None:
    (tmp_path / "pw").write_bytes(b"hush")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert Secret("pw").read(environ) == b"hush"
    assert Secret(file=tmp_path / "pw").read({}) == b"hush"
    with pytest.raises(ConfigError, match="systemd did not provide this credential"):
        Secret("pw").read({})
    with pytest.raises(ConfigError, match="LoadCredential=other:"):
        Secret("other").read(environ)
    with pytest.raises(ConfigError, match="No such file"):
        Secret(file=tmp_path / "gone").read({})
    assert str(Secret("pw")) == "credential pw" and "hush" not in repr(Secret("pw"))


def test_the_example_of_the_page_is_a_sound_configuration(site) -> None:
    page = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
    example = page.partition("```toml\n")[2].partition("```")[0]
    site.write(example)
    assert site.complaints() == []
    assert len(site.load().devices) == 2


def test_a_folder_conf_d_that_cannot_be_read_is_not_passed_over(site, good, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write(good)
    (site.folder / "conf.d").mkdir()
    (site.folder / "conf.d/10-gone.toml").symlink_to("nowhere")
    assert site.complaints() == ["conf.d/10-gone.toml: cannot be read: No such file or directory"]
    (site.folder / "conf.d/20-folder.toml").mkdir()
    assert len(site.complaints()) == 2


def test_a_pipe_or_device_in_conf_d_is_refused_and_not_waited_for(site, good) -> None:
    site.write(good)
    (site.folder / "conf.d").mkdir()
    os.mkfifo(site.folder / "conf.d/1.toml")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("conf.d/2.toml")
    (site.folder / "conf.d/3.toml").symlink_to("/dev/zero")
    what = "is a pipe, socket or device, not a file. Use a text file instead"
    assert site.complaints() == [f"conf.d/{n}.toml: {what}" for n in (1, 2, 3)]
    configured_folder(site.folder / "agent.toml", "profiles_dir")  # which commands read before is no trap either


PV = """[[line]]
name = "roof"
url = "modbus-tcp://192.0.2.10"
[[device]]
name = "inv1"
line = "roof"
address = "1"
profile = "goodwe/dt"
"""


@pytest.mark.parametrize("role", ["generation.pv", "generation", ""])
def test_who_sleeps_in_the_dark(tmp_path: Path, role: str) -> None:
    """The profile says that it sleeps, its role that it lives of the sun, and the site where the sun stands."""
    roles = f'roles = {{ "ac" = "{role}" }}\n' if role else ""
    path = tmp_path / "agent.toml"
    found = {}
    for place in ("", "latitude = 31.23\nlongitude = 121.47\n"):
        path.write_text(MINIMAL + place + PV + roles)
        config = load_config(path)
        (spec,) = device_specs(config)
        found[place] = spec.night, [note.what for note in config.notes if note.where == "site"]
    without, with_place = found.values()
    if role == "generation.pv":
        assert without == (
            None,
            ["the site location is unknown, so a missing answer at night counts as a timeout for these devices: inv1"],
        )
        assert with_place == (Night(Decimal("31.23"), Decimal("121.47")), [])
    else:
        assert without == with_place == (None, [])


@pytest.mark.parametrize(
    ("line", "device", "wanted"),
    [
        ('url = "modbus-tcp://192.0.2.1"', "", (10.0, 2)),
        ('url = "serial:/dev/serial/by-id/a"', "", (2.0, 0)),
        ('url = "tcp://192.0.2.1:4196"', "", (2.0, 0)),
        ('url = "tcp://192.0.2.1:4196"', 'limits = { timeout = "6 s", retries = 1 }', (6.0, 1)),
        ('url = "serial:/dev/serial/by-id/a"\nlimits = { timeout = "4 s" }', "", (4.0, 0)),
    ],
)
def test_a_profiles_time_out_follows_the_line_and_yours_counts_everywhere(
    tmp_path: Path, line: str, device: str, wanted: tuple[float, int]
) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(
        MINIMAL + f'[[line]]\nname = "a"\n{line}\n'
        f'[[device]]\nname = "inv"\nline = "a"\naddress = "1"\nprofile = "huawei/sun2000"\n{device}\n'
    )
    (spec,) = device_specs(load_config(path))
    assert (spec.limits.timeout_s, spec.limits.retries) == wanted


def test_streams_of_a_destination(site, good) -> None:
    """What matches nothing and what goes nowhere is named."""
    site.write(good)
    before = site.load()
    (uplink,) = before.uplinks
    assert uplink.streams == () and uplink.wants("park7/gw01/anything")
    site.write(
        good.replace('confirm = "subscriber"', 'streams = ["main", "meter-*", "secnd", "_*"]\ncompress = "zstd"')
    )
    config = site.load()
    (uplink,) = config.uplinks
    wanted = [name for name in ("main", "secnd", "second", "_gateway", "_indicators") if uplink.wants(f"x/y/{name}")]
    assert wanted == ["main", "secnd", "_gateway", "_indicators"] and uplink.compress == "zstd"
    assert config.hash() != before.hash()
    notes = [str(note) for note in config.notes if "stream" in str(note)]
    assert [note.partition("uplink")[2] for note in notes] == [
        '.platform.streams: "meter-*" matches no stream of this gateway. Streams: _gateway, _indicators, main, second',
        '.platform.streams: "secnd" matches no stream of this gateway. Did you mean "second"?',
        ": these streams are not sent to any destination: second. "
        "The agent deletes the packs of these streams after the time set by keep_delivered in [store]. To send "
        'these streams, add them to the key "streams" of an [[uplink]]',
    ], notes


def test_lines_of_the_file_are_looked_for_only_when_a_message_names_one(site, monkeypatch) -> None:
    """To find the lines takes as long as to parse the file; a start of 3,000 devices needs none of them."""
    looked: list[str] = []
    monkeypatch.setattr("drivers.toml.table.key_lines", lambda text: looked.append(text) or key_lines(text))
    line = '[[line]]\nname = "roof"\nurl = "modbus-tcp://192.0.2.10"\n'
    site.write(f'{MINIMAL}{line}[[device]]\nname = "m1"\nline = "roof"\naddress = "1"\nprofile = "eastron/sdm630"\n')
    config = site.load()
    assert not looked
    assert config.at("line.roof") == "agent.toml:5: line.roof"
    assert config.at("device.m1") == "agent.toml:8: device.m1"
    assert config.at("device.m2") == "device.m2"
    assert len(looked) == 1
