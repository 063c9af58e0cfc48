"""Killed, hung, stopped: what was read is not lost, and systemd brings the agent back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.system.gateway import M1, M2, Gateway, note

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def wait_until_unsealed(gw: Gateway) -> None:
    """Into the second half of a pack interval: readings lie in the ring that no pack holds yet."""
    gw.machine.wait(lambda: 1.2 < time.time() % 2 < 1.7, 10)


def served_before_now(gw: Gateway, quiet_s: float = 0.3) -> dict[str, list[int]]:
    """The answers that reached the agent for certain."""
    end = time.time_ns() - int(quiet_s * 1e9)
    return {name: [n for n, at in meter.served.items() if at < end] for name, meter in gw.meters.items()}


def assert_nothing_lost(gw: Gateway, served: dict[str, list[int]]) -> None:
    """Each of these answers came, but for ones that were late for their tick, which is then a stated gap."""
    _, books = gw.export()
    for name, numbers in served.items():
        missing = [n for n in numbers if n not in books[name].came]
        assert len(missing) <= len(numbers) // 50, f"{name}: {missing} of {len(numbers)} did not come"
        assert not set(numbers[-3:]) & set(missing), f"{name}: the last ones before the end are lost: {missing}"


def test_a_crash_loses_no_reading(gw: Gateway) -> None:
    """kill -9: the books of what was served, of what was sealed, and the independent verifier agree."""
    gw.settled(M1, M2)
    since, before = gw.now(), gw.restarts
    wait_until_unsealed(gw)
    served = served_before_now(gw)
    gw.machine.run("systemctl", "kill", "-s", "KILL", "meterhouse")
    gw.machine.wait(lambda: gw.restarts > before, 30, "systemd starts it again")
    gw.settled(M1, M2)
    assert gw.recovered(since) > 0, gw.machine.journal("meterhouse", f"--since={since}")
    assert_nothing_lost(gw, served)
    assert len(gw.rings()) == 1, "the old ring is gone when all of it is sealed"


@pytest.mark.parametrize("way", ["stopped", "loop"])
def test_a_hung_agent_is_restarted_by_the_watchdog(gw: Gateway, way: str) -> None:
    """Once the whole process (SIGSTOP), once only the thread of its loop, in a call that never comes back."""
    # field pain 73
    gw.machine.write("/usr/local/lib/hang.py", Path(__file__).with_name("hang.py").read_text())
    exec_start = "ExecStart=\nExecStart=/usr/bin/python3 -I /usr/local/lib/hang.py run --create-key\n"
    gw.drop_in("watchdog", f"[Service]\nWatchdogSec=3s\nTimeoutAbortSec=2s\n{exec_start if way == 'loop' else ''}")
    try:
        gw.machine.run("systemctl", "restart", "meterhouse")
        gw.settled(M1, M2)
        before, fed = gw.restarts, gw.fed()
        gw.machine.wait(lambda: gw.fed() != fed, 10, "it is really fed")
        wait_until_unsealed(gw)
        since, served = gw.now(), served_before_now(gw)
        gw.machine.sh(f"kill -{'STOP' if way == 'stopped' else 'USR1'} {gw.pid}")
        gw.machine.wait(lambda: gw.restarts > before, 40, "the watchdog restarts it")
        assert "Watchdog timeout" in gw.machine.journal("meterhouse", "-p", "err", f"--since={since}")
        gw.settled(M1, M2)
        assert gw.recovered(since) > 0
        assert_nothing_lost(gw, served)
    finally:
        gw.drop_in("watchdog", "")


def test_the_start_limit_keeps_the_ring(gw: Gateway) -> None:
    """Who hammers is stopped; what was read stays, and the next start seals it."""
    gw.drop_in("limit", "[Unit]\nStartLimitBurst=2\nStartLimitIntervalSec=10min\n[Service]\nRestartSec=100ms\n")
    try:
        gw.machine.sh("systemctl reset-failed meterhouse; systemctl restart meterhouse")
        gw.settled(M1, M2)
        gw.machine.run("systemctl", "kill", "-s", "KILL", "meterhouse")
        gw.settled(M1, M2)
        wait_until_unsealed(gw)
        since, served = gw.now(), served_before_now(gw)
        gw.machine.run("systemctl", "kill", "-s", "KILL", "meterhouse")
        gw.machine.wait(lambda: gw.machine.show("meterhouse", "ActiveState")["ActiveState"] == "failed", 40)
        assert "Start request repeated too quickly" in gw.machine.journal("meterhouse", f"--since={since}")
        assert len(gw.rings()) == 1
        since = gw.now()
        gw.machine.sh("systemctl reset-failed meterhouse; systemctl start meterhouse")
        gw.settled(M1, M2)
        assert gw.recovered(since) > 0
        assert_nothing_lost(gw, served)
    finally:
        gw.drop_in("limit", "")
        gw.machine.sh("systemctl reset-failed meterhouse", ok=None)


def test_a_clean_stop_with_the_broker_away(gw: Gateway) -> None:
    """Within ten seconds, with the backlog on the disk; the next start delivers it."""
    gw.machine.run("systemctl", "restart", "meterhouse")
    gw.settled(M1, M2)
    began = time.monotonic()
    gw.machine.run("systemctl", "stop", "meterhouse")
    note(stop_s=round(time.monotonic() - began, 2))
    gw.machine.sh("systemctl start meterhouse")
    gw.settled(M1, M2)
    gw.machine.run("systemctl", "stop", "mosquitto")
    gw.machine.wait(lambda: gw.status()["store"].get("pending", {}).get("platform", 0) > 2, 60)
    began = time.monotonic()
    gw.machine.run("systemctl", "stop", "meterhouse")
    took = time.monotonic() - began
    note(stop_without_broker_s=round(took, 2))
    assert took < 10 and gw.machine.show("meterhouse", "Result")["Result"] == "success"
    assert gw.owed() > 2 and not gw.rings()
    gw.machine.sh("systemctl start mosquitto meterhouse")
    gw.settled(M1, M2)
    gw.machine.wait(lambda: gw.status()["uplinks"]["platform"]["waiting"] <= 2, 60, "the backlog is delivered")
