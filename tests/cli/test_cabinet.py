"""The technician's walk: an unknown cabinet of software that is not ours, from the first scan to a signed handover.

Everything is a command of the field guide. ``pytest tests/cli/test_cabinet.py -s`` prints what each step took.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kits.broker import Broker, Listener, free_port, until
from tests.kits.cabinet import KX96_COUNT, Cabinet

pytestmark = pytest.mark.slow
TOLD_S = 600.0  # no command takes so long in health
LIST = """name,address,type,order,unit,factor,pace
ac.voltage.l1,0x0100,float,CDAB,V,1,fast
ac.voltage.l2,0x0102,float,CDAB,V,1,normal
ac.voltage.l3,0x0104,float,CDAB,V,1,normal
ac.frequency,0x0106,float,CDAB,Hz,1,normal
ac.energy.import,0x0200,uint32,CDAB,kWh,0.01,slow
"""
ADD = ("--quick", "--add", "--yes")
PROFILES = {  # unit on bus A -> its family, by its nameplate
    "1": "eastron/sdm630", "2": "acrel/adl400", "3": "huawei/sun2000", "16": "pylontech/force-h",
    "40": "chint/dtsu666", "50": "eastron/sdm120",
}  # fmt: skip


class Walk:
    """Runs commands as a technician does, with a stopwatch."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "gw" / "agent.toml"
        self.times: list[tuple[str, float]] = []

    def __call__(self, *args: str | Path, code: int = 0, step: str = "") -> subprocess.CompletedProcess[str]:
        began = time.monotonic()
        done = subprocess.run(
            self.command(*args), check=False, capture_output=True, text=True, timeout=TOLD_S, env=self.environment()
        )
        self.times.append((step or str(args[0]), time.monotonic() - began))
        assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr
        return done

    def command(self, *args: str | Path) -> list[str]:
        return [sys.executable, "-m", "agent.cli.main", *map(str, args)]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "MH_CONFIG": str(self.config), "LC_ALL": "C.UTF-8", "COLUMNS": "100"}


@pytest.fixture
def cabinet(tmp_path: Path) -> Iterator[Cabinet]:
    made = Cabinet(tmp_path, free_port(), free_port())
    yield made
    made.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if not shutil.which("mosquitto"):
        pytest.skip("no mosquitto here: apt-get install mosquitto")
    made = Broker(tmp_path)
    made.start()
    yield made
    made.stop()


def devices(walk: Walk) -> dict[str, dict[str, Any]]:
    """The devices of the configuration by line and address."""
    facts = json.loads(walk("check", "--json", step="check").stdout)
    return {f"{one['line']} {one['address']}": one for one in facts["config"]["devices"]}


def test_from_an_unknown_cabinet_to_a_signed_handover(tmp_path: Path, cabinet: Cabinet, broker: Broker) -> None:
    """# field pain 70: what is silent is named"""
    walk, listener = Walk(tmp_path), Listener(broker)
    made = walk(
        "init", tmp_path / "gw", "--site", "park9", "--gateway", "gw01", "--timezone", "Asia/Shanghai",
        "--broker", broker.url, "--yes",
    )  # fmt: skip
    (trust,) = [line.split()[-1] for line in made.stdout.splitlines() if line.startswith("trust as")]
    find_devices(walk, cabinet)
    add_unknown_meters(walk, cabinet)
    check_before_the_start(walk)
    began = time.monotonic()
    with (tmp_path / "agent.log").open("wb") as log:
        agent = subprocess.Popen(walk.command("run"), env=walk.environment(), stderr=log)
    try:
        streams = {f"park9/gw01/{one['name']}" for one in devices(walk).values()}
        until(lambda: streams <= delivered(listener), 300, lambda: streams - delivered(listener))
        walk.times.append(("run, until all devices have delivered", time.monotonic() - began))
        verified = walk("verify", "--broker", broker.url, "--trust", trust, "--for", "10s", step="verify --for 10s")
        assert " faulty objects: 0" in verified.stdout
        walk.times.append(("in all, to verified readings", sum(seconds for _, seconds in walk.times)))
        html = tmp_path / "handover.html"  # it waits for counters that are due each minute
        signed = walk("handover", "--who", "A. Technician", "--yes", "--html", html)
        assert "kx96-173" in html.read_text() and str(KX96_COUNT * 80 / 100) in signed.stdout
        assert trust.partition("=")[2] in html.read_text()
        assert not silent(walk)
        cabinet.bus_a.muted.add(2)  # a device is pulled
        until(lambda: "device adl400-2" in silent(walk), 300, "status names the device that was pulled")
    finally:
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(120) == 0
        listener.close()
        print("\n" + "\n".join(f"{what:<45}{seconds:8.1f} s" for what, seconds in walk.times))


def find_devices(walk: Walk, cabinet: Cabinet) -> None:
    """Scan all four lines; everything that is known is added."""
    found = walk("scan", "--line", cabinet.url_a, *ADD, step="scan of bus A, with 6 added")
    assert "modbus 173: no profile fits" in found.stderr
    walk("scan", "--line", cabinet.url_b, *ADD, step="scan of bus B")
    walk("scan", "--line", cabinet.url_server, "--addresses", "1-10", *ADD, step="scan of the serial server")
    any_unit = walk("scan", "--line", cabinet.url_tcp, "--addresses", "1-3", *ADD, step="scan of Modbus TCP")
    assert any_unit.stdout.count("[[device]]") == 1, "it answers to all three, and is one"
    by_nameplate(walk)
    known = devices(walk)
    on_a = {key.split()[1]: one["profile"] for key, one in known.items() if key.startswith("ttya ")}
    assert on_a == PROFILES
    assert float(known["ttya 50"]["limits"]["turnaround_s"]) > 0.5  # it takes 700 ms, and the plan knows it
    assert {one["profile"] for one in known.values()} >= {"dlt645/2007", "eastron/sdm72v2"}


def by_nameplate(walk: Walk) -> None:
    """Families of one maker share a map: a file that says so names the true one beside the one that was taken."""
    for one in devices(walk).values():
        file, true = walk.config.parent / "conf.d" / f"{one['name']}.toml", PROFILES.get(one["address"])
        if one["line"] == "ttya" and one["profile"] != true:
            text = file.read_text()
            (row,) = [row for row in text.splitlines() if row.startswith("profile = ")]
            assert "nameplate" in row and f" {true}" in row.replace(",", ""), row
            file.write_text(text.replace(row, f'profile = "{true}"'))


def add_unknown_meters(walk: Walk, cabinet: Cabinet) -> None:
    """See the registers of a meter that no profile knows, write its profile from a list, add two of them."""
    asked = ("--registers", "3:0x100+8", "--registers", "3:0x200+2")
    seen = walk("read", "--line", cabinet.url_a, "--address", "173", *asked, step="read --registers")
    assert "231.8*" in seen.stdout and 'order = "CDAB"' in seen.stdout and str(KX96_COUNT) in seen.stdout
    points, profile = walk.folder / "list.csv", walk.folder / "gw" / "profiles" / "kx" / "kx96.toml"
    points.write_text(LIST)
    profile.parent.mkdir(parents=True, exist_ok=True)
    walk("profiles", "new", profile, "--from", points, "--function", "3", step="profiles new")
    profile.write_text(profile.read_text().replace("[defaults]", '[defaults]\nratio = "apply"'))
    walk("profiles", "check", profile, step="profiles check")
    named = ("--profile", "kx/kx96", "--yes")
    walk("adopt", "kx96-173", "--line", "ttya", "--address", "173", "--ct", "400/5", "--role", "grid", *named)
    walk("adopt", "kx96-5", "--line", cabinet.url_server, "--address", "5", "--ct", "400/5", *named, step="adopt 2")


def check_before_the_start(walk: Walk) -> None:
    """The plan, and everything tried once."""
    walk("check", "--plan", step="check --plan")
    online = walk("check", "--online", step="check --online")
    assert "has a subscriber" in online.stdout and "Everything answers." in online.stdout


def delivered(listener: Listener) -> set[str]:
    """The streams of which readings have come."""
    packs = [json.loads(one.payload) for one in list(listener.heard) if one.road in ("readings", "backfill")]
    return {pack["stream"] for pack in packs if pack.get("e")}


def silent(walk: Walk) -> str:
    """What status finds wrong with devices; its exit code may be that of this machine's clock."""
    done = subprocess.run(
        walk.command("status", "--json"), check=False, capture_output=True, env=walk.environment(), timeout=TOLD_S
    )
    found = json.loads(done.stdout)["findings"]
    assert done.returncode in {one["exit_code"] for one in found} | {0}
    return "\n".join(one["text"] for one in found if one["exit_code"] == 4)
