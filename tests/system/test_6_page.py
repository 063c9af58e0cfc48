"""The page's unit: installed and off, then on loopback, then with TLS and a password from systemd's credentials."""

from __future__ import annotations

import re

import pytest

from tests.system.gateway import M2, Gateway, note
from tests.web.test_package import needed

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
UNIT = "meterhouse-web"
ASK = """
import ssl, sys, urllib.request
tls = sys.argv[1].startswith("https")
context = ssl.create_default_context(cafile="/etc/credstore/meterhouse-web.certificate") if tls else None
answer = urllib.request.urlopen(sys.argv[1], context=context, timeout=60)
print(answer.status, answer.url)
print(answer.read().decode())
"""


def asked(gw: Gateway, url: str) -> str:
    return gw.machine.run("python3", "-c", ASK, url).stdout


def test_it_is_installed_whole_and_off(gw: Gateway) -> None:
    shown = gw.machine.show(UNIT, "ActiveState", "UnitFileState", "LoadState")
    assert shown == {"ActiveState": "inactive", "UnitFileState": "disabled", "LoadState": "loaded"}
    files = gw.machine.sh("dpkg-query -L meterhouse").splitlines()
    installed = {line.partition("/agent/web/")[2] for line in files if "/agent/web/" in line}
    assert installed >= needed()
    assert "Leon Sorokin" in gw.machine.read("/usr/share/doc/meterhouse/copyright")


def test_on_loopback_it_shows_what_the_agent_knows(gw: Gateway) -> None:
    gw.machine.wait(lambda: gw.alive(M2), 60)
    gw.machine.sh(f"systemctl start {UNIT}")
    gw.machine.wait(lambda: gw.machine.run("python3", "-c", ASK, "http://127.0.0.1:8080/", ok=None).returncode == 0, 60)
    assert M2 in asked(gw, "http://127.0.0.1:8080/")
    assert M2 in asked(gw, "http://127.0.0.1:8080/day"), "over the control socket"
    facts = gw.machine.show(UNIT, "MainPID", "User", "ActiveState")
    pid = facts["MainPID"]
    user = gw.machine.sh(f"ps -o user:30= -p {pid}").strip()
    assert user not in ("root", "meterhouse"), user
    mine = [line for line in gw.machine.sh("ss -Hltnp").splitlines() if f"pid={pid}," in line]
    assert [re.search(r"127\.0\.0\.1:8080", line) is not None for line in mine] == [True], mine
    rss_kb = int(gw.machine.sh(f"awk '/^VmRSS/ {{print $2}}' /proc/{pid}/status"))
    note(page_rss_mb=round(rss_kb / 1000, 1))
    for path in ("/var/lib/meterhouse", "/etc/credstore"):
        said = gw.machine.run("nsenter", "-t", pid, "-m", "ls", "-A", path, ok=None)
        assert said.stdout == "", f"{path} is empty for it, for root as well"


def test_setup_gives_it_tls_and_a_password(gw: Gateway) -> None:
    gw.machine.write("/tmp/first", "a long enough password\n")
    said = gw.machine.run(
        "meterhouse", "web", "--setup", "--listen", "127.0.0.1:8443", "--password-file", "/tmp/first", "--yes"
    ).stdout
    assert "SHA-256" in said
    assert gw.machine.sh("stat -c '%a %U' /etc/credstore/meterhouse-web.*").split() == ["600", "root"] * 3
    assert "The configuration is good." in gw.machine.run("meterhouse", "check", ok=None).stdout
    gw.machine.sh(f"systemctl restart {UNIT}")
    url = "https://localhost:8443/"
    gw.machine.wait(lambda: gw.machine.run("python3", "-c", ASK, url, ok=None).returncode == 0, 60)
    said = asked(gw, url)
    assert said.startswith("200 https://localhost:8443/login") and M2 not in said
    gw.machine.sh(f"rm /etc/meterhouse/conf.d/web.toml /etc/credstore/meterhouse-web.*; systemctl stop {UNIT}")
    assert gw.machine.show(UNIT, "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
