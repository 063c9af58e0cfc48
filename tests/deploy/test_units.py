"""The units as files: systemd understands them, they allow what the agent needs and nothing that it does not."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.web.setup import CREDENTIAL_NAMES, CREDENTIALS

ROOT = Path(__file__).resolve().parent.parent.parent
UNITS = ROOT / "systemd"
NEEDS_SYSTEMD = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here (apt: systemd)")
COMMAND = f'"{sys.executable}"'  # a program that exists, in the place of ours; its path may have a space
# exposure by systemd's own count, 0 to 10
LIMITS = {"meterhouse.service": 1.8, "meterhouse-certificates.service": 1.0, "meterhouse-web.service": 1.2}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], check=False, capture_output=True, text=True, timeout=200)


def systemd_version() -> int:
    return int(re.search(r"systemd (\d+)", run("systemctl", "--version").stdout).group(1))  # type: ignore[union-attr]


def settings(unit: str) -> dict[str, list[str]]:
    """The lines of [Service] by name, in order."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / unit).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@NEEDS_SYSTEMD
@pytest.mark.parametrize("unit", [p.name for p in sorted(UNITS.glob("*.service")) + sorted(UNITS.glob("*.timer"))])
def test_systemd_understands_every_line(unit: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, with the command in its place."""
    if systemd_version() < 257:
        pytest.skip("the units are written for systemd 257; older ones pass over what they do not know (Debian 13)")
    for path in UNITS.glob("meterhouse*"):
        text = path.read_text().replace("/usr/bin/meterhouse", COMMAND)
        (tmp_path / path.name).write_text(text)
    said = run("systemd-analyze", "verify", "--man=no", tmp_path / unit)
    about_us = [line for line in said.stderr.splitlines() if "meterhouse" in line]
    assert said.returncode == 0 and not about_us, said.stderr


@NEEDS_SYSTEMD
@pytest.mark.parametrize(
    "unit", ["meterhouse-work@.service", "meterhouse-keep.service", "meterhouse-fleet-page.service"]
)
def test_the_platforms_units(unit: str, tmp_path: Path) -> None:
    """Templates of docs/platform.md: systemd understands them, and they may do no more than the agent's page."""
    if systemd_version() < 252:
        pytest.skip("older than Debian 12")
    text = (UNITS / "platform" / unit).read_text().replace("/opt/meterhouse/bin/meterhouse", COMMAND)
    path = tmp_path / unit.replace("@.", "@w1.")
    path.write_text(text)
    said = run("systemd-analyze", "verify", "--man=no", path)
    assert said.returncode == 0 and not [line for line in said.stderr.splitlines() if "meterhouse" in line], said.stderr
    security = run("systemd-analyze", "security", "--offline=true", "--threshold=20", path)
    assert security.returncode == 0, security.stdout[-300:] + security.stderr


@NEEDS_SYSTEMD
@pytest.mark.parametrize(("unit", "most"), LIMITS.items())
def test_exposure(unit: str, most: float) -> None:
    """Measured by systemd itself; what it counts against the agent is what serial ports and a broker need."""
    if systemd_version() < 257:
        pytest.skip("PrivateUsers=identity came with systemd 257 (Debian 13)")
    said = run("systemd-analyze", "security", "--offline=true", f"--threshold={most * 10:.0f}", UNITS / unit)
    assert said.returncode == 0, said.stdout[-300:] + said.stderr


def test_the_agent_may_ask_the_kernel_for_its_clock() -> None:
    """Without adjtimex each pack says "not synchronised"; ProtectClock= would take it away."""
    unit = settings("meterhouse.service")
    assert unit["SystemCallFilter"][-1].split() == ["adjtimex", "clock_adjtime"], "later lines win"
    assert "ProtectClock" not in unit and unit["CapabilityBoundingSet"] == [""]
    assert "ProcSubset" not in unit, "the kernel's boot id is under /proc/sys"


def test_it_can_have_its_control_socket_and_connect() -> None:
    """No socket unit, which would start a stopped agent. SocketBindDeny= would forbid what paho does to connect."""
    unit = settings("meterhouse.service")
    assert unit["SystemCallFilter"][1].startswith("~") and unit["SystemCallErrorNumber"] == ["EPERM"]
    assert not {"listen", "accept4"} & set(unit["SystemCallFilter"][1].lstrip("~").split())
    assert "AF_UNIX" in unit["RestrictAddressFamilies"][0].split()
    assert "SocketBindDeny" not in unit and not list(UNITS.glob("*.socket"))


def test_nobody_else_gets_at_the_state_and_nobody_writes_where_the_agent_looks() -> None:
    """The group that may change is made, and is empty; the folders that a group could write are gone."""
    unit = settings("meterhouse.service")
    assert unit["StateDirectoryMode"] == ["0700"] and unit["RuntimeDirectoryMode"] == ["0750"]
    lines = [line.split() for line in (UNITS / "meterhouse.tmpfiles").read_text().splitlines() if line[:1] not in "#"]
    assert [line[1:3] for line in lines if line[1].startswith("/run")] == [["/run/meterhouse", "0750"]]
    users = [line.split() for line in (UNITS / "meterhouse.sysusers").read_text().splitlines() if line[:1] not in "#"]
    assert ["g", "meterhouse-control", "-"] in users
    assert [line for line in users if line[0] == "m"] == [["m", "meterhouse", "dialout"]]


@pytest.mark.parametrize("script", ["debian/postrm", "install.sh"])
def test_a_purge_removes_both_groups_with_their_members(script: str) -> None:
    """userdel leaves the group of its user where others are in it."""
    text = (UNITS / script).read_text()
    user = text.index("userdel meterhouse")
    assert user < text.index("groupdel meterhouse ") and user < text.index("groupdel meterhouse-control ")


@pytest.mark.parametrize("script", ["debian/postrm", "install.sh"])
def test_a_purge_removes_the_secrets_of_the_page_and_no_others(script: str) -> None:
    named = re.findall(r"/etc/credstore\S*", (UNITS / script).read_text())
    assert named == [str(CREDENTIALS / name) for name in CREDENTIAL_NAMES]


@pytest.mark.parametrize("script", ["debian/postinst", "install.sh"])
def test_an_upgrade_removes_the_folders_of_earlier_versions(script: str) -> None:
    """After the restart: the agent that still runs looks into them."""
    text = (UNITS / script).read_text()
    restart = max(text.find("#DEBHELPER#"), text.find("systemctl try-restart meterhouse.service"))
    assert 0 < restart < text.index("rm -rf /run/meterhouse/requests /run/meterhouse/leases")


def test_the_ring_outlives_a_restart_and_a_bad_file_ends_it() -> None:
    unit = settings("meterhouse.service")
    assert unit["RuntimeDirectoryPreserve"] == ["yes"] and unit["RestartPreventExitStatus"] == ["2 3"]
    assert unit["Type"] == ["notify-reload"] and unit["LimitCORE"] == ["0"]


def test_a_steady_crash_loop_never_reaches_the_start_limit() -> None:
    """It ends at one start in 30 s, for ever; the limit is for scripts that hammer."""
    unit = settings("meterhouse.service")
    steps, burst = int(unit["RestartSteps"][0]), int(unit["StartLimitBurst"][0])
    assert unit["RestartSec"] == ["1s"] and unit["RestartMaxDelaySec"] == ["30s"]
    assert unit["StartLimitIntervalSec"] == ["5min"]
    delays = [30 ** (n / steps) for n in range(steps)] + [30.0] * 20
    starts, at = 1, 0.0
    for delay in delays:
        at += delay
        if at > 300:
            break
        starts += 1
    assert starts < burst, starts


def test_nobody_is_waited_for() -> None:
    """Ready in seconds, whatever network, buses and brokers do."""
    # field pain 65, field pain 66
    unit = settings("meterhouse.service")
    waits = " ".join(unit.get("After", []) + unit.get("Wants", []) + unit.get("Requires", []))
    assert not re.search(r"network|time-sync|dev-|mosquitto", waits)


@pytest.mark.skipif(not shutil.which("udevadm"), reason="no udevadm here (apt: udev)")
def test_udev_understands_the_rules(tmp_path: Path) -> None:
    rules = tmp_path / "61-meterhouse.rules"
    rules.write_text((UNITS / "meterhouse.udev").read_text())
    said = run("udevadm", "verify", "--no-summary", rules)
    if "Unknown" in said.stderr or "verify" in said.stderr.splitlines()[:1]:
        pytest.skip("this udevadm cannot verify (Debian 13)")
    assert said.returncode == 0, said.stdout + said.stderr


def test_the_example_is_a_good_configuration(tmp_path: Path) -> None:
    """Once with everything in a comment, once with everything out of it."""
    from agent.config import load_config

    text = (UNITS / "agent.toml").read_text()
    path = tmp_path / "agent.toml"
    path.write_text(text)
    config = load_config(path, environ={})
    assert not config.devices and str(config.key.file) == "/var/lib/meterhouse/signing.key"
    path.write_text(re.sub(r"^#(?=\[|\w+ = )", "", text, flags=re.M))
    config = load_config(path, environ={})
    assert len(config.devices) == len(config.lines) == len(config.uplinks) == 1


def test_the_timer_asks_daily_also_after_a_night_without_power() -> None:
    # field pain 72
    timer = configparser.ConfigParser()
    timer.read(UNITS / "meterhouse-certificates.timer")
    assert timer["Timer"]["OnCalendar"] == "daily" and timer["Timer"]["Persistent"] == "yes"
