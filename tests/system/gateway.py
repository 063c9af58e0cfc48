"""What the tests of this folder do with a machine: the site around the agent, and questions to it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.kits.faults.tally import Tally
from tests.system.lab import CACHE, ROOT, Machine
from tests.system.site_kit import Ledger, Site

STATE, RUN = "/var/lib/meterhouse", "/run/meterhouse"
AGENT_TOML = "/etc/meterhouse/agent.toml"
ANSWERS = "--site park7 --gateway gw01 --timezone Asia/Shanghai --yes"
M1, M2 = "m1", "m2"
CONFIG = """[site]
id = "park7"
gateway = "gw01"
timezone = "Asia/Shanghai"

{key}
[pack]
every = "2 s"

[[uplink]]
name = "platform"
{uplink}

[[line]]
name = "roof"
url = "modbus-tcp://127.0.0.1:5020"

[[line]]
name = "cabinet"
url = "serial:/dev/ttyGW0"
serial = "38400 8N1"

[[device]]
name = "m1"
line = "roof"
address = "1"
profile = "test/tally"
every = {{ fast = "500 ms", normal = "2 s", slow = "10 s" }}

[[device]]
name = "m2"
line = "cabinet"
address = "2"
profile = "test/tally"
every = {{ fast = "500 ms", normal = "2 s", slow = "10 s" }}
"""
PLAIN = 'url = "mqtt://127.0.0.1:1883"'
BROKER = """per_listener_settings true
listener 1883 127.0.0.1
allow_anonymous true
"""


def note(**figures: float | str) -> None:
    """Figures for docs/deploy.md, kept beside the root."""
    path = CACHE / "figures.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **figures}, indent=1) + "\n")


def readme_install() -> str:
    """The commands of the README's install section, as they stand there."""
    section = (ROOT / "README.md").read_text().partition("## Install on a gateway")[2].partition("\n## ")[0]
    found = re.search(r"```sh\n(.*?)```", section, re.S)
    assert found, "the README has an install section with commands"
    return found[1]


class Gateway:
    """An installed agent and its surroundings."""

    def __init__(self, machine: Machine, deb: Path, site: Site) -> None:
        self.machine, self.deb, self.site = machine, deb, site
        self.kid = ""
        self.install_s = 0.0
        self.exports = 0
        self.machine.run("systemctl", "stop", "mosquitto")
        self.machine.write("/etc/mosquitto/conf.d/lab.conf", BROKER)
        self._install()

    def _install(self) -> None:
        """What the README says; sudo is there already, the answers of `init` are options, and nothing is to be found.

        In place of what a scan would add the configuration becomes that of these tests.
        """
        profile = (ROOT / "tests/kits/profiles/test/tally.toml").read_text()
        self.machine.write("/etc/meterhouse/profiles/test/tally.toml", profile)
        self.machine.write("/root/wanted.toml", self.config())
        self.machine.write("/usr/local/bin/sudo", '#!/bin/sh\nexec "$@"\n', "755")
        began = time.monotonic()
        commands = readme_install().replace("meterhouse init", f"meterhouse init {ANSWERS}")
        commands, scans = re.subn(r"sudo meterhouse scan .*", f"cat /root/wanted.toml > {AGENT_TOML}", commands)
        assert ANSWERS in commands and scans == 1
        self.said = self.machine.sh(f"cd /root; set -ex\n{commands}\n", seconds=240)
        self.install_s = time.monotonic() - began

    @staticmethod
    def config(more: str = "", key: str = "", uplink: str = PLAIN) -> str:
        return CONFIG.format(key=f"[key]\n{key}\n" if key else "", uplink=uplink) + more

    def configure(self, text: str) -> None:
        self.machine.run("bash", "-c", "cat > /etc/meterhouse/agent.toml", text=text)

    def begin_platform(self) -> None:
        """The broker, and somebody who subscribes: before that nothing counts as delivered."""
        self.machine.run("systemctl", "start", "mosquitto")
        self.machine.run(
            "systemd-run", "-q", "--unit=platform", "-pRestart=always", "-pRestartSec=200ms", "-pStartLimitBurst=0",
            "-pStandardOutput=null", "mosquitto_sub", "-V", "5", "-q", "1", "-t", "meterhouse/v1/#",
        )  # fmt: skip

    def play_the_roof(self) -> None:
        self.site.play_the_roof(self.machine.leader)

    # --- questions

    @property
    def meters(self) -> dict[str, Tally]:
        return {M1: self.site.m1, M2: self.site.m2}

    @property
    def pid(self) -> int:
        return int(self.machine.show("meterhouse", "MainPID")["MainPID"])

    @property
    def restarts(self) -> int:
        return int(self.machine.show("meterhouse", "NRestarts")["NRestarts"])

    def status(self) -> dict[str, Any]:
        """The snapshot of the agent that runs now; {} while nobody runs."""
        said = self.machine.run("cat", f"{RUN}/snapshot.json", ok=None).stdout
        facts = dict(json.loads(said)) if said.startswith("{") else {}
        return facts if facts.get("pid") == self.pid else {}

    def faults(self, silenced: str = "") -> dict[str, int]:
        """Faults that `meterhouse status` finds, with their exit codes.

        Without the clock, which is the host's, and without the disk, which is an overlay here. ``silenced``: a device
        that the test has kept silent. For ten minutes `status` rightly says which share of its readings is missing.
        """
        facts = json.loads(self.machine.run("meterhouse", "status", "--json", ok=None).stdout)
        found = [one for one in facts["findings"] if one["exit_code"]]
        aside = ("clock", f"device {silenced}")
        found = [one for one in found if one["where"] not in aside and one["code"] != "store-warning"]
        return {one["text"]: one["exit_code"] for one in found}

    def said_status(self) -> str:
        """STATUS= as `systemctl status` shows it."""
        return self.machine.show("meterhouse", "StatusText")["StatusText"]

    def alive(self, *names: str) -> bool:
        devices = self.status().get("devices", {})
        return all(devices.get(name, {}).get("life") == "alive" for name in names)

    def settled(self, *names: str, packs: int = 1, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until devices answer and some packs were sealed and confirmed in this run; the status then."""
        found: dict[str, Any] = {}

        def well() -> bool:
            nonlocal found
            found = self.status()
            devices, uplinks = found.get("devices", {}), found.get("uplinks", {})
            return (
                all(devices.get(n, {}).get("life") == "alive" and devices[n]["packs"] >= packs for n in names)
                and uplinks["platform"]["confirmed"] > 0
                if found
                else False
            )

        self.machine.wait(well, seconds, f"{names} are read and delivered: {self.machine.journal()[-2000:]}")
        return found

    def export(self) -> tuple[dict[str, Any], dict[str, Ledger]]:
        """The verifier's report on all that was ever sealed, and the books of m1 and m2."""
        self.exports += 1
        inside, outside = f"/tmp/life{self.exports}", self.machine.folder / f"life{self.exports}"
        self.machine.run("meterhouse", "export", inside, seconds=120)
        said = self.machine.run("meterhouse", "verify", inside, "--trust", self.kid, "--json", ok=None, seconds=120)
        assert said.returncode == 0, said.stdout[-3000:] + said.stderr
        outside.mkdir()
        packed = subprocess.run(self.machine.command("tar", "-cC", inside, "."), check=True, capture_output=True)
        subprocess.run(["tar", "-xC", str(outside)], check=True, input=packed.stdout)
        return json.loads(said.stdout), self.site.balance(outside)

    def now(self) -> str:
        """For ``journalctl --since``."""
        return self.machine.sh("date '+%Y-%m-%d %H:%M:%S.%6N'").strip()

    def recovered(self, since: str) -> int:
        """Readings that the newest start sealed from the ring of the run before."""
        text = self.machine.journal("meterhouse", f"--since={since}")
        found = re.findall(r"sealed (\d+) readings that the previous run left in the ring", text)
        return int(found[-1]) if found else 0

    def rings(self) -> list[str]:
        return self.machine.sh(f"ls {RUN} | grep '^ring' || true").split()

    def drop_in(self, name: str, text: str) -> None:
        """Settings on top of the unit's, for a while; "" takes them away."""
        path = f"/etc/systemd/system/meterhouse.service.d/{name}.conf"
        if text:
            self.machine.write(path, text)
        else:
            self.machine.run("rm", "-f", path)
        self.machine.run("systemctl", "daemon-reload")

    def owed(self) -> int:
        """Packs in the outbox, by the database itself (the agent is stopped)."""
        return int(self.sql("SELECT count(*) FROM outbox").strip("[](),\n"))

    def sql(self, statement: str) -> str:
        """A statement on the database of a stopped agent; its rows as Python writes them."""
        script = (
            f"import sqlite3; c = sqlite3.connect('{STATE}/store.db'); r = c.execute({statement!r}).fetchall();"
            " c.commit(); print(r)"
        )
        return self.machine.run("python3", "-c", script).stdout

    def fed(self) -> str:
        """When the watchdog was fed last."""
        return self.machine.show("meterhouse", "WatchdogTimestampMonotonic")["WatchdogTimestampMonotonic"]

    def ready_s(self) -> float:
        """From the start of the process to READY=1."""
        shown = self.machine.show("meterhouse", "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
        begin, ready = (int(shown[n]) for n in ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic"))
        return (ready - begin) / 1e6
