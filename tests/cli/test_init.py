"""`meterhouse init`: what it asks, what it makes, and what it leaves alone."""

from __future__ import annotations

import os
import pty
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agent.config import load_config

PATIENCE_S = 60
ROOT = Path(__file__).resolve().parents[2]
FLAGS = ("--site", "park7", "--gateway", "gw01", "--timezone", "Asia/Shanghai")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_flags_make_a_gateway_that_check_calls_good(mh, tmp_path: Path, lang: str) -> None:
    folder, password = tmp_path / "new" / "bench", tmp_path / "pw"
    password.write_text("s3cr3t\n")
    password.chmod(0o600)
    more = ("--broker", "mqtts://broker.example", "--username", "park7/gw01", "--password-file", password)
    said = mh("init", folder, *FLAGS, *more, "--label", '一期 "A"', "--yes", "--json", "--lang", lang)
    assert said.code == 0, said.err
    (facts,) = said.lines
    assert facts["trust"] == f"park7/gw01={facts['thumbprint']}"
    assert mh("check", "-c", folder / "agent.toml").code == 0
    shown = mh("keys", "show", "--json", "-c", folder / "agent.toml").lines[0]
    assert mh("keys", "show", "--qr", "-c", folder / "agent.toml").out.count("█") > 100
    assert shown["thumbprint"] == facts["thumbprint"] and shown["file"] == facts["key"]
    config = load_config(folder / "agent.toml")
    assert (config.base, config.site_label, config.state_dir) == ("park7/gw01", '一期 "A"', folder / "state")
    (uplink,) = config.uplinks
    assert (uplink.url, uplink.username) == ("mqtts://broker.example:8883", "park7/gw01")
    assert uplink.password is not None and uplink.password.file == password
    text = (folder / "agent.toml").read_text()
    assert "s3cr3t" not in text and text.count("#") > 10
    found = [mode(path) for path in (Path(facts["key"]), folder / "agent.toml", folder / "conf.d", folder / "state")]
    assert found == [0o600, 0o640, 0o750, 0o700]


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("31.2304167,121.4737012", ("31.230417", "121.473701")),  # as a map shows it
        ("-31.23, 121.5", ("-31.23", "121.5")),
        ("-90.000000，180", ("-90.000000", "180")),
    ],
)
def test_a_location_from_a_map_is_rounded_to_six_decimals(
    mh, tmp_path: Path, typed: str, written: tuple[str, str]
) -> None:
    """Seven decimals were refused as not a location."""
    said = mh("init", tmp_path, *FLAGS, "--location", typed, "--yes")
    assert said.code == 0, said.err
    text = (tmp_path / "agent.toml").read_text()
    assert f"latitude = {written[0]}\nlongitude = {written[1]}\n" in text


def test_nothing_is_overwritten_and_a_key_that_is_there_stays(mh, tmp_path: Path) -> None:
    first = mh("init", tmp_path, *FLAGS, "--yes", "--json").lines[0]
    text = (tmp_path / "agent.toml").read_bytes()
    again = mh("init", tmp_path, *FLAGS, "--yes")
    assert again.code == 2 and "already exists and is not overwritten" in again.err
    assert (tmp_path / "agent.toml").read_bytes() == text
    (tmp_path / "agent.toml").unlink()
    assert mh("init", tmp_path, *FLAGS, "--yes", "--json").lines[0]["thumbprint"] == first["thumbprint"]


def test_the_code_and_what_comes_next_are_shown(mh, tmp_path: Path) -> None:
    said = mh("init", "-c", tmp_path / "gw.toml", *FLAGS, "--yes")
    assert said.out.count("█") > 100 and f"--add -c {shlex.quote(str(tmp_path / 'gw.toml'))}" in said.err
    assert "\x1b" not in said.out  # no colours into a pipe


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("--site", "park7"), 2, "--gateway, --timezone must be given, because stdin is not a terminal"),
        (FLAGS, 2, "init: confirmation needed, but stdin is not a terminal. Use --yes"),
        ((*FLAGS[:-1], "GMT+8", "--yes"), 2, '--timezone: "GMT+8" is not a time zone. Did you mean "Asia/Shanghai"?'),
        ((*FLAGS, "--yes", "--location", "90.0000001,121"), 2, '--location: "90.0000001,121" is not a location'),
        ((*FLAGS, "--yes", "--broker", "http://x"), 2, "--broker: unknown scheme"),
        ((*FLAGS, "--yes", "--username", "u"), 2, "--username: has no effect without --broker"),
        ((*FLAGS, "--yes", "--broker", "mqtt://b", "--ca-file", __file__), 2, "--ca-file: has no effect without"),
        (
            (*FLAGS, "--yes", "--broker", "mqtts://b", "--ca-file", "/no/ca"),
            2,
            '--ca-file: file "/no/ca" does not exist',
        ),
        (
            (*FLAGS, "--yes", "-c", "x.toml"),
            2,
            "init: a folder and -c cannot be given together. Give either the folder or -c",
        ),
    ],
)
def test_wrong_usage_leaves_nothing(
    mh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], code: int, says: str
) -> None:
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115
    said = mh("init", tmp_path / "new", *args)
    assert (said.code, list(tmp_path.iterdir())) == (code, []) and says in said.err, said.err


def test_a_zone_whose_sign_is_reversed_is_taken_with_a_warning(mh, tmp_path: Path) -> None:
    said = mh("init", tmp_path, *FLAGS[:-1], "Etc/GMT+8", "--yes")
    assert said.code == 0 and 'site.timezone: "Etc/GMT+8" means UTC-8' in said.err
    assert '"Etc/GMT+8" means UTC-8' in mh("check", "-c", tmp_path / "agent.toml").err
    config = (tmp_path / "agent.toml").read_text()
    for zone, warns in (("Etc/GMT-8", True), ("Etc/GMT", False), ("Asia/Shanghai", False), ("Etc/GMT+0", False)):
        (tmp_path / "agent.toml").write_text(config.replace("Etc/GMT+8", zone))
        assert ("means UTC" in mh("check", "-c", tmp_path / "agent.toml").err) == warns


@pytest.mark.process
def test_a_person_is_asked_until_the_answer_is_right(tmp_path: Path) -> None:
    """In a terminal: a wrong answer is explained and asked again, a password is typed unseen, the last word is yes."""
    answers = ["park 7", "park7", "gw01", "CST", "Asia/Shanghai", "一期", "131,31", "31.2, 121.5", "mqtt://127.0.0.1",
               "park7/gw01", "s3cr3t", "y"]  # fmt: skip
    master, slave = pty.openpty()
    command = [sys.executable, "-c", "from agent.cli.main import main; main()", "init", str(tmp_path / "new")]
    child = subprocess.Popen(
        command, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "LANG": "zh_CN.UTF-8"}
    )
    os.close(slave)
    shown, asked = b"", 0
    try:
        while True:
            try:
                more = os.read(master, 65536)
            except OSError:  # the child has closed the terminal
                break
            if not more:
                break
            shown += more
            if shown.endswith(b": ") and asked < len(answers):  # so each question ends
                os.write(master, answers[asked].encode() + b"\n")
                asked += 1
        assert child.wait(PATIENCE_S) == 0, shown.decode()
    finally:
        child.kill()
        child.wait()
        os.close(master)
    text = shown.decode()
    assert asked == len(answers) and '是否想写 "Asia/Shanghai"？' in text and "s3cr3t" not in text, text
    secret = tmp_path / "new" / "platform-password"
    assert secret.read_text() == "s3cr3t\n" and mode(secret) == 0o600
    config = load_config(tmp_path / "new" / "agent.toml")
    assert config.uplinks[0].password is not None and config.uplinks[0].password.file == secret
    assert config.site_label == "一期" and config.place is not None
    assert "站点" in text and not [note for note in config.notes if "is not encrypted" not in note.what]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other groups")
def test_what_root_makes_belongs_to_the_group_of_the_folder(mh, tmp_path: Path) -> None:
    os.chown(tmp_path, 0, 61000)
    mh("init", tmp_path, *FLAGS, "--yes")
    found = [
        (path.stat().st_uid, path.stat().st_gid, mode(path)) for path in (tmp_path / "agent.toml", tmp_path / "conf.d")
    ]
    assert found == [(0, 61000, 0o640), (0, 61000, 0o750)]
