"""A package becomes a running, publishing, verified gateway; the numbers of these files are the order of its life."""

from __future__ import annotations

import json
import re

import pytest

from tests.system.gateway import M1, M2, STATE, Gateway, note

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def test_ready_before_any_device_or_broker_is_there(gw: Gateway) -> None:
    """READY=1 in seconds while the broker and a device are not there at all; STATUS= says how it stands."""
    # field pain 65, field pain 66
    assert "The configuration is good." in gw.said
    shown = gw.machine.show("meterhouse", "ActiveState", "SubState", "Type", "NRestarts")
    assert shown == {"ActiveState": "active", "SubState": "running", "Type": "notify-reload", "NRestarts": "0"}
    gw.machine.wait(lambda: "1 of 2 devices answer; platform not connected" in gw.said_status(), 30)
    assert gw.ready_s() < 20
    size = gw.machine.sh("dpkg-query -L meterhouse | xargs -d '\\n' stat -c '%F %b %B' | "
                         "awk '/^regular/ {s += $3 * $4} END {print s}'")  # fmt: skip
    note(deb_mb=round(gw.deb.stat().st_size / 1e6, 1), install_s=round(gw.install_s, 1), ready_s=round(gw.ready_s(), 2))
    note(installed_mb=round(int(size) / 1e6, 1))


def test_init_makes_the_key_and_says_whose_it_is(gw: Gateway) -> None:
    """The platform pins the thumbprint that `init` shows; the service's user alone reads the key."""
    assert gw.machine.sh(f"stat -c '%a %U' {STATE}/signing.key") == "600 meterhouse\n"
    (gw.kid,) = re.findall(r"thumbprint +(\S{43})", gw.said)
    assert gw.kid in gw.machine.sh("meterhouse keys show")
    assert "created the signing key" not in gw.machine.journal("meterhouse", "-p", "warning")


def test_a_serial_line_as_the_service_user(gw: Gateway) -> None:
    """Read through the pseudo-terminal before there is anybody to send to; nobody else's trouble is in the way."""
    gw.machine.wait(lambda: gw.alive(M2) and gw.status()["devices"][M2]["readings"] > 0, 30)
    assert gw.machine.sh(f"ps -o user:20= -p {gw.pid}").strip() == "meterhouse"
    assert not gw.alive(M1) and gw.status()["uplinks"]["platform"]["connected"] is False


def test_what_comes_later_is_read_delivered_and_verified(gw: Gateway) -> None:
    gw.play_the_roof()
    gw.begin_platform()
    gw.settled(M1, M2, packs=5)  # the birth with what the meter says of itself comes a moment after the first one
    command = ("meterhouse", "verify", "--broker", "mqtt://127.0.0.1", "--trust", gw.kid, "--for", "5s", "--json")
    said = gw.machine.run(*command, ok=None)
    assert said.returncode == 0, said.stdout + said.stderr
    assert json.loads(said.stdout)["verdict"] == "verified"
    assert gw.faults(silenced=M1) == {}
