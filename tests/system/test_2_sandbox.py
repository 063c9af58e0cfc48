"""What the unit forbids, tried by a process in exactly its sandbox, and looked at from outside."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.system.gateway import M1, M2, RUN, STATE, Gateway, note

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
OTHERS = ("Type", "ExecStart", "ExecReload", "StandardOutput", "Restart", "WatchdogSec", "ConditionPathExists")


@pytest.fixture(scope="module")
def probed(gw: Gateway) -> dict[str, Any]:
    """probe.py under the installed unit's own settings: only what it runs is another."""
    unit = gw.machine.read("/usr/lib/systemd/system/meterhouse.service")
    kept = [line for line in unit.splitlines() if line.partition("=")[0] not in OTHERS]
    command = "ExecStart=/usr/bin/python3 /usr/local/lib/probe.py"
    at = kept.index("[Service]") + 1
    kept[at:at] = ["Type=oneshot", command, "StandardOutput=truncate:/root/probed"]
    gw.machine.write("/usr/local/lib/probe.py", Path(__file__).with_name("probe.py").read_text())
    gw.machine.write("/run/systemd/system/probe.service", "\n".join(kept) + "\n")
    gw.machine.sh("mknod /dev/ttyX0 c 7 99; chmod 666 /dev/ttyX0; systemctl daemon-reload; systemctl start probe")
    return dict(json.loads(gw.machine.read("/root/probed")))


def test_it_listens_on_its_control_socket_and_nowhere_else(gw: Gateway, probed: dict[str, Any]) -> None:
    """Promise 8, seen from outside: one listener, which is no network socket and which the group reaches."""
    mine = [line for line in gw.machine.sh("ss -Hanp").splitlines() if f"pid={gw.pid}," in line]
    (door,) = [line for line in mine if "LISTEN" in line]
    assert door.split()[0] == "u_str" and "/control " in door, door
    udp = [line for line in mine if line.startswith("udp")]
    assert not udp, udp
    assert gw.machine.sh(f"stat -c '%F %a %U %G' {RUN}/control") == "socket 660 meterhouse meterhouse\n"
    assert (probed["door"], probed["pair"], probed["connect"]) == ("done", "done", "done")


def test_who_may_ask(gw: Gateway) -> None:
    """Members of the package's groups, root, a stranger, and a user whose number the sandbox cannot map."""
    m = gw.machine
    gw.machine.wait(lambda: gw.alive(M1), 60)
    assert m.sh("getent group meterhouse-control").split(":")[3] == "\n", "made by the package, and empty"
    m.sh("useradd -m -G meterhouse anna; useradd -m -G meterhouse,meterhouse-control li; useradd -m mallory;"
         " useradd -m -u 70000 -G meterhouse,meterhouse-control far")  # fmt: skip
    # nobody has this address: no meter serves a number that the agent would miss
    nobody = ("read", "--profile", "eastron/sdm630", "--line", "modbus-tcp://127.0.0.1:5020", "--address", "99")
    heard = {"anna": "`sudo adduser anna meterhouse-control`", "far": "uids above 65535"}
    for user in ("anna", "li", "far", "root"):
        as_user = ("runuser", "-u", user, "--", "meterhouse")
        m.run(*as_user, "export", f"/tmp/of-{user}")
        assert m.sh(f"stat -c %U /tmp/of-{user}/keys.json") == f"{user}\n"
        said = m.run(*as_user, *nobody, ok=4)
        assert heard.get(user, "no answer within") in said.stderr, (user, said.stderr)
    said = m.run("runuser", "-u", "mallory", "--", "meterhouse", "export", "/tmp/of-mallory", ok=None)
    assert said.returncode != 0 and "Permission denied" in said.stderr, said.stderr
    journal = m.journal()
    assert "lease refused to anna (uid " in journal and "lent to read by li (uid " in journal
    assert "export for a user that the agent's sandbox cannot identify" in journal
    m.sh("for u in anna li mallory far; do userdel -r $u; done 2>/dev/null; rm -r /tmp/of-*")


def test_root_exports_from_a_stopped_gateway_and_leaves_nothing_of_its_own(gw: Gateway) -> None:
    """The database is opened by a child that is the agent's user; the directory is nobody else's."""
    m = gw.machine
    m.run("systemctl", "stop", "meterhouse")
    m.run("meterhouse", "export", "/tmp/cold")
    assert m.sh(f"stat -c '%a %U' {STATE}") == "700 meterhouse\n"
    assert not m.sh(f"find {STATE} ! -user meterhouse").split()
    assert not m.sh(f"find {STATE} -type f -perm /077").split()
    assert m.sh("stat -c %U /tmp/cold/keys.json") == "root\n"
    m.sh("rm -r /tmp/cold; systemctl start meterhouse")
    gw.settled(M1, M2)
    m.wait(lambda: "meterhouse_store_size_bytes" in m.read(f"{RUN}/metrics.prom"), 30, "as before")


def test_it_writes_nowhere_else(gw: Gateway, probed: dict[str, Any]) -> None:
    """All files of its user lie in its two directories, and it could write nowhere else."""
    owned = gw.machine.sh("find / -xdev -user meterhouse 2>/dev/null; find /run /tmp /dev -user meterhouse").split()
    strays = [p for p in owned if not p.startswith((STATE, RUN, "/run/credentials"))]
    assert not strays, strays
    assert probed["writes"] == [STATE, RUN]
    mounts = gw.machine.sh(f"cat /proc/{gw.pid}/mounts")
    assert re.search(r"^\S+ / \S+ ro,", mounts, re.M)


def test_the_clock_kernel_is_not_blinded(gw: Gateway, probed: dict[str, Any]) -> None:
    """It sees what root sees outside; with ProtectClock= it would not. It cannot set the clock."""
    ask = "import sys; sys.path.insert(0, '/usr/lib/meterhouse'); import ext.clock as c; print(c.state().synced)"
    assert probed["clock"] == gw.machine.run("python3", "-c", ask).stdout.strip() != "None"
    assert gw.status()["clock"]["synced"] is not None and probed["set the clock"] == "EPERM"


def test_the_rest_of_the_sandbox(gw: Gateway, probed: dict[str, Any]) -> None:
    """A serial port of its group, no other device; no capability, no namespace, no other process to be seen."""
    assert (probed["serial"], probed["other device"]) == ("done", "EPERM") and probed["user"]
    assert probed["packet"] == probed["netlink"] == "EAFNOSUPPORT"
    assert probed["user namespace"] == "EPERM" and probed["write and execute"] in {"EPERM", "EACCES"}
    assert probed["processes"] < 5 and probed["core"] == 0
    caps = gw.machine.sh(f"grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/{gw.pid}/status").split()
    assert caps == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2"]
    rss = int(gw.machine.sh(f"awk '/VmRSS/ {{print $2}}' /proc/{gw.pid}/status")) / 1024
    note(rss_mb=round(rss, 1), threads=int(gw.machine.sh(f"ls /proc/{gw.pid}/task | wc -l")))
    cgroup = gw.machine.show("meterhouse", "MemoryMax", "TasksMax", "OOMScoreAdjust")
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0.7 < int(cgroup.pop("MemoryMax")) / machine < 0.8
    assert cgroup == {"TasksMax": "96", "OOMScoreAdjust": "-500"}


def test_udev_gives_stable_names(gw: Gateway) -> None:
    """udev itself reads the rules; a terminal of this machine stands in for an adapter, a rule gives it a number."""
    m = gw.machine
    m.run("udevadm", "verify", "--no-summary", "/usr/lib/udev/rules.d/61-meterhouse.rules")
    rules = m.read("/usr/lib/udev/rules.d/61-meterhouse.rules")
    assert 'SUBSYSTEM=="usb-serial", DRIVER=="ftdi_sio", ATTR{latency_timer}="1"' in rules
    m.write("/run/udev/rules.d/61-meterhouse.rules", rules.replace("ttyUSB*|ttyACM*", "tty5"))
    named = 'KERNEL=="tty5", ENV{ID_SERIAL_SHORT}="A10K7Q2", ENV{ID_PATH_TAG}="pci-0000_00_14_0-usb-0_2_1_0"'
    for more, wanted in ((', ENV{ID_USB_INTERFACE_NUM}="01"', "usb-A10K7Q2-if01"), ("", "usb-A10K7Q2")):
        m.write("/run/udev/rules.d/60-adapter.rules", f"{named}{more}\n")
        said = m.run("udevadm", "test", "--action=add", "/sys/class/tty/tty5", ok=None)
        text = said.stdout + said.stderr
        links = {link for link in re.findall(r"meterhouse/\S+", text) if not link.endswith(".rules")}
        assert {link.strip("'\",;") for link in links} >= {
            f"meterhouse/{wanted}", "meterhouse/port-pci-0000_00_14_0-usb-0_2_1_0",
        }, text  # fmt: skip
    m.sh("rm /run/udev/rules.d/*.rules")
