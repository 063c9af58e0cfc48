"""What a reload says has changed: by name and key, in the words of agent.toml, and in two languages."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest

from agent.cli.main import outcome
from agent.config import load_config
from agent.config.changes import config_changes
from tests.kits.house import House, Meter, until

BASE = """[site]
id = "park7"
gateway = "gw01"
timezone = "Asia/Shanghai"

[[uplink]]
name = "platform"
url = "mqtt://127.0.0.1:1883"

[[line]]
name = "roof"
url = "modbus-tcp://127.0.0.1:1"

[[device]]
name = "grid"
line = "roof"
address = "1"
profile = "chint/dtsu666"
roles = { "ac" = "grid" }
"""


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        ({}, []),
        ({"# nothing": ""}, []),
        ({'address = "1"': 'address = "2"\nratio = { ct = 80, pt = 10 }'}, ["device grid changed: address, ratio"]),
        ({'"grid" }': '"grid" }\nevery = { fast = "2 s", slow = "2 min" }\nlimits = { timeout = "2 s" }'},
         ["device grid changed: every.fast, every.slow, limits.timeout"]),
        ({'"grid" }': '"load" }\nlabel = "x"\nclass = "0.5S"\nreversed = true\nphase = "1 s"'},
         ["device grid changed: label, phase, roles, reversed, class"]),
        ({"127.0.0.1:1\"": "127.0.0.2:1\"\nlimits = { retries = 1 }"}, ["line roof changed: url, limits.retries"]),
        ({"mqtt://127.0.0.1:1883": "mqtts://b:8884", "[[line]]": 'keepalive = "20 s"\n[[line]]'},
         ["uplink platform changed: url, keepalive"]),
        ({"[[line]]": '[[uplink]]\nname = "b"\nurl = "mqtt://b"\n[[line]]', 'name = "platform"': 'name = "c"'},
         ["uplink c added", "uplink b added", "uplink platform removed"]),
        ({"[[uplink]]": '[pack]\nevery = "5 s"\n[store]\nmax_size = "1 GiB"\n[key]\nfile = "k"\n[[uplink]]',
          '"Asia/Shanghai"': '"Asia/Shanghai"\nlabel = "y"\nlatitude = 1\nlongitude = 2'},
         ["store changed: max_size", "pack changed: every", "site changed: label, latitude, longitude", "key changed"]),
    ],
)  # fmt: skip
def test_each_change_is_named(tmp_path: Path, edits: dict[str, str], says: list[str]) -> None:
    (tmp_path / "a.toml").write_text(BASE)
    text = BASE
    for old, new in edits.items():
        text = text.replace(old, new, 1)
    (tmp_path / "b.toml").write_text(text)
    old, new = (load_config(tmp_path / name, environ={}) for name in ("a.toml", "b.toml"))
    assert [str(change) for change in config_changes(old, new)] == says


def test_a_change_is_named_by_its_key_and_not_by_a_field_of_ours(tmp_path: Path) -> None:
    """A comment above [web] was told as `places`, a new `listen` as `url`, and a heat's `return` as `back`."""
    heat = BASE.replace("chint/dtsu666", "cjt188/heat").replace('roles = { "ac" = "grid" }\n', "")
    text = (
        heat.replace('"modbus-tcp:', '"tcp:').replace('"1"', '"12345678901234"')
        + """
[[derived]]
name = "hall"
sum = ["grid/heat.energy"]

[[derived]]
name = "loop"
heat = { device = "grid", flow = "heat.flow", supply = "heat.temperature.supply", return = "heat.temperature.return" }

[web]
listen = "127.0.0.1:8080"
password_credential = "meterhouse-web.password"
"""
    )
    configs = []
    for edits in (
        (),
        (("[site]", "# a comment\n[site]"),),
        (("8080", "8081"), ('sum = ["', 'sum = ["-'), ('"heat.temperature.return" }', '"heat.temperature.supply" }')),
    ):
        edited = text
        for edit in edits:
            assert edit[0] in edited
            edited = edited.replace(*edit)
        (tmp_path / "a.toml").write_text(edited)
        configs.append(load_config(tmp_path / "a.toml", environ={}))
    first, comment, other = configs
    assert config_changes(first, comment) == ()
    assert [str(change) for change in config_changes(first, other)] == [
        "derived hall changed: sum", "derived loop changed: heat", "web changed: listen",
    ]  # fmt: skip


def test_a_device_with_nothing_new_in_the_files_has_another_profile(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(BASE)
    config = load_config(tmp_path / "a.toml", environ={})
    assert [str(one) for one in config_changes(config, config, ["grid"])] == [
        "device grid changed: the file of its profile"
    ]


def test_a_device_whose_derived_heat_changes_has_the_same_profile(tmp_path: Path) -> None:
    """Its birth changes with the heat, but nobody touched the file of its profile."""
    meter = BASE.replace("chint/dtsu666", "cjt188/heat").replace('roles = { "ac" = "grid" }\n', "")
    heat = (
        '\n[[derived]]\nname = "loop"\nheat = { device = "grid", flow = "heat.flow", '
        'supply = "heat.temperature.supply", return = "heat.temperature.return" }\n'
    )
    configs = []
    for text in (meter, meter + heat):
        (tmp_path / "a.toml").write_text(text.replace('"modbus-tcp:', '"tcp:').replace('"1"', '"12345678901234"'))
        configs.append(load_config(tmp_path / "a.toml", environ={}))
    assert [str(one) for one in config_changes(*configs, ["grid"])] == ["derived loop added"]


def mh(*args: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = outcome([str(arg) for arg in args])
    return code, out.getvalue(), err.getvalue()


@pytest.mark.process
def test_the_command_and_the_log_tell_the_same(tmp_path: Path) -> None:
    """A real agent: nothing, a pace and a new device, a profile's file, a mistake."""
    with House(tmp_path) as house:
        roof = house.field.tcp(Meter(1), Meter(2))
        agent = house.agent(None, {"roof": roof}, {"m1": ("roof", 1)})
        agent.start()
        until(lambda: agent.life("m1") == "alive", what=lambda: agent.said)
        reload = ("reload", "-c", agent.config, "--lang")
        code, out, _ = mh(*reload, "en")
        assert code == 0 and out.splitlines()[1:] == ["  nothing changed"]

        agent.devices = {"m1": ("roof", 1), "m2": ("roof", 2)}
        agent.configure()
        agent.config.write_text(agent.config.read_text().replace('fast = "500 ms"', 'fast = "2 s"', 1))
        code, out, _ = mh(*reload, "zh")
        assert code == 0 and out.splitlines()[1:] == ["  设备 m1 已修改：every.fast", "  设备 m2 已添加"]
        until(lambda: "reload: device m2 added" in agent.said, what=lambda: agent.said)
        assert "reload: device m1 changed: every.fast" in agent.said

        profile = agent.folder / "profiles" / "test" / "tally.toml"
        profile.write_text(profile.read_text().replace('unit = "V"', 'unit = "V"\nrange = [0, 300]', 1))
        code, out, _ = mh(*reload, "en", "--json")
        found = json.loads(out)
        assert code == 0 and found["changes"][0] == {
            "kind": "device", "name": "m1", "change": "changed", "keys": ["the file of its profile"],
        }  # fmt: skip

        agent.config.write_text(agent.config.read_text().replace("Asia/Shanghai", "Asia/Tokyo"))
        code, out, err = mh(*reload, "en")
        assert (
            (code, out) == (3, "")
            and "site.timezone: this setting can only change at a restart" in err
            and "rejected: " in err
        )
        agent.stop()
