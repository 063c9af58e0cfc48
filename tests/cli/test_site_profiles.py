"""A profile of the site is found wherever the configuration keeps it, by every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

DUMP = {"protocol": "modbus", "address": 1, "holding": {"2": 2301, "3": 5001}}


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "dump.json"
    path.write_text(json.dumps(DUMP))
    return path


def test_identify_and_scan_try_the_configured_folder(mh, served, park) -> None:
    config = park(served.url)
    for args in (("identify", "inv1"), ("identify", "--line", served.url, "--address", "1")):
        said = mh(*args, "-c", config, "--json")
        assert "test/box" in [fit["profile"] for fit in said.lines[0]["profiles"]], said.err
    said = mh("scan", "--line", served.url, "--addresses", "1", "--quick", "-c", config, "--json")
    assert "test/box" in [fit["profile"] for fit in said.lines[0]["profiles"]]
    elsewhere = mh("identify", "--line", served.url, "--address", "1", "-c", config.with_name("none.toml"), "--json")
    assert "test/box" not in elsewhere.out


def test_profiles_and_decode_know_it_too(mh, park, dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = park()
    assert "test/box" in mh("profiles", "list", "-c", config).out
    assert mh("profiles", "show", "test/box", "-c", config).code == 0
    monkeypatch.setenv("MH_CONFIG", str(config))
    decoded = mh("decode", "profile", "test/box", dump, "--json")
    assert {r["name"]: r["value"] for r in decoded.lines[0]["readings"]}["ac.voltage.l1"] == 230.1
    assert mh("read", "--profile", "test/box", "--line", "modbus-tcp://127.0.0.1:1", "--address", "1").code == 4
    config.write_text(config.read_text() + "\n[site]\n")  # twice: not valid, and `check` says so
    assert "test/box" in mh("profiles", "list").out, "the folder is named in it all the same"


def test_decode_takes_a_file_and_names_what_helps(mh, box: Path, dump: Path) -> None:
    assert mh("decode", "profile", box, dump, "--json").code == 0
    said = mh("decode", "profile", "test/bix", dump)
    assert said.code == 3 and "give the path of its file, or its folder with --profiles DIR" in said.err
    said = mh("decode", "profile", "nowhere/box.toml", dump)
    assert said.code == 2 and 'ID: file "nowhere/box.toml" does not exist' in said.err
    folder = box.parent.parent
    assert mh("decode", "profile", "test/box", dump, "--profiles", folder).code == 0


def test_identify_reads_all_points_and_says_what_is_odd(mh, served, box, tmp_path: Path) -> None:
    profile = tmp_path / "profiles/test/box.toml"
    profile.parent.mkdir(parents=True)
    text = box.read_text().replace("[[variant]]", '[[point]]\nname = "ac.current.l1"\naddress = 6\ntype = "u16"\n'
                                   'scale = 0.01\nunit = "A"\n\n[[variant]]', 1)  # fmt: skip
    profile.write_text(text.replace('"ac.power.active"', '"ac.power.active.l1"').replace("[[sample]]", "[[x]]")
                       .partition("[[x]]")[0])  # fmt: skip
    config = tmp_path / "agent.toml"
    config.write_text('[paths]\nprofiles_dir = "profiles"\n')
    served.image.put_words(6, [8])  # 0.08 A: 1500 W are 80 times what voltage and current give
    said = mh("identify", "--line", served.url, "--address", "1", "-c", config)
    assert said.code == 0 and "test/box" in said.out
    assert "hint: ac.power.active.l1 is 1500 W, but voltage x current gives 18.41 W: a factor of 81.5." in said.err


def test_identify_says_that_another_profile_is_configured(mh, served, park) -> None:
    """A profile that is not the device's reads zeros, and nothing said so."""
    config = park(served.url)
    assert "configured" not in mh("identify", "inv1", "-c", config).err
    config.write_text(config.read_text().replace('"test/box"', '"pylontech/force-h"'))
    said = mh("identify", "inv1", "-c", config)
    assert "note: configured profile: pylontech/force-h; the device fits test/box (" in said.err, said
    assert "配置的设备模板：pylontech/force-h；" in mh("identify", "inv1", "-c", config, "--lang", "zh").err
    assert mh("identify", "inv1", "-c", config, "--json").lines[0]["configured"] == "pylontech/force-h"
