"""What an operator sees of a running agent, and how it takes another configuration."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.kits.authority import Authority
from tests.system.gateway import BROKER, M1, M2, RUN, Gateway

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
SHED = """
[[line]]
name = "shed"
url = "modbus-tcp://127.0.0.1:5021"

[[device]]
name = "m3"
line = "shed"
address = "1"
profile = "eastron/sdm630"
every = { fast = "1 s", normal = "2 s" }
points = ["ac.power.active", "ac.energy.import", "ac.voltage.*"]
"""


def test_monitoring_by_one_command_and_one_file(gw: Gateway) -> None:
    """`status --json` says ok and why not; the metrics are read by Prometheus's own parser. No socket for either."""
    # field pain 70
    from prometheus_client import parser

    assert gw.faults() == {}
    facts = json.loads(gw.machine.run("meterhouse", "status", "--json", ok=None).stdout)
    assert facts["ok"] is (facts["faults"] == []) and facts["age"] < 15
    assert all(device["age"] < 15 for device in facts["devices"].values())
    assert {"size_bytes", "limit_bytes", "disk_free_bytes", "pending"} <= facts["store"].keys()
    text = gw.machine.read(f"{RUN}/metrics.prom")  # there since the status that showed the first packs
    found = {s.name for family in parser.text_string_to_metric_families(text) for s in family.samples}
    assert {"meterhouse_device_up", "meterhouse_uplink_connected", "meterhouse_store_size_bytes"} <= found
    assert {"meterhouse_clock_synchronized", "meterhouse_device_last_answer_timestamp_seconds"} <= found


def test_the_journal_has_fields_to_ask_by(gw: Gateway) -> None:
    """Priorities are real, so `-p warning` is the story and nothing else; the identifier is one for all units."""
    fields = "PRIORITY,SYSLOG_IDENTIFIER,MESSAGE"
    said = gw.machine.run("journalctl", "-u", "meterhouse", "-o", "json", f"--output-fields={fields}").stdout
    rows = [json.loads(line) for line in said.splitlines()]
    ours = [row for row in rows if row["SYSLOG_IDENTIFIER"] == "meterhouse"]
    by_priority: dict[str, list[str]] = {}
    for row in ours:
        by_priority.setdefault(row["PRIORITY"], []).append(row["MESSAGE"])
    assert set(by_priority) <= {"2", "3", "4", "6"}, by_priority
    assert any("serving 2 devices on 2 lines" in text for text in by_priority["6"])
    assert any("line roof: cannot open" in text for text in by_priority["4"])
    assert any("platform: " in text for text in by_priority["4"])
    assert not re.search(r"<\d>|Traceback", said)


def test_an_edge_is_logged_once(gw: Gateway) -> None:
    """A silent device and a pulled cable are a warning each, however long they last; what comes back says so."""
    since = gw.now()
    gw.site.m1.fault("silence")
    gw.machine.wait(lambda: gw.status()["devices"][M1]["life"] == "dead", 60)
    gw.machine.wait(lambda: "m1 is not responding" in gw.machine.journal("meterhouse", f"--since={since}"), 60)
    gw.site.m1.well()
    # the first probe may have been under way: 10 s of silence, then nine times as long for the others on the line
    gw.machine.wait(lambda: gw.alive(M1), 240)
    gw.site.pull_the_roof()
    try:
        failures = gw.status()["lines"]["roof"]["open_failures"]
        gw.machine.wait(lambda: gw.status()["lines"]["roof"]["open_failures"] >= failures + 2, 60)
        gw.machine.wait(lambda: "1 of 2 devices answer" in gw.said_status(), 30)
        gw.machine.wait(lambda: any("m1" in text and code == 4 for text, code in gw.faults().items()), 30)
    finally:
        gw.play_the_roof()
    gw.machine.wait(lambda: gw.alive(M1), 90)
    gw.machine.wait(lambda: "line roof: reopened" in gw.machine.journal("meterhouse", f"--since={since}"), 20)
    story = gw.machine.journal("meterhouse", "-p", "warning", f"--since={since}").splitlines()
    assert 2 <= len(story) <= 4 and all("roof" in line or "m1" in line for line in story), story
    everything = gw.machine.journal("meterhouse", f"--since={since}").splitlines()
    assert len(everything) <= 8, everything


# --- reload


def test_reload_of_a_good_configuration(gw: Gateway) -> None:
    """A line and a device come and go; the process, its ring and the other devices' readings stay."""
    gw.machine.sh(
        "systemd-run -q --unit=shed meterhouse simulate --profile eastron/sdm630 --listen 127.0.0.1:5021"
    )  # the package plays devices itself
    pid, boot, rings, first = gw.pid, gw.status()["boot"], gw.rings(), gw.site.m2.count
    gw.configure(gw.config(SHED))
    gw.machine.run("systemctl", "reload", "meterhouse")
    gw.settled(M1, M2, "m3")
    assert gw.status()["devices"].keys() == {M1, M2, "m3"}
    gw.configure(gw.config())
    gw.machine.run("systemctl", "reload", "meterhouse")
    gw.machine.wait(lambda: gw.status()["devices"].keys() == {M1, M2}, 20)
    assert (gw.pid, gw.status()["boot"], gw.rings()) == (pid, boot, rings)
    gw.machine.wait(lambda: gw.site.m2.count - first > 12, 60)
    last = gw.site.m2.count
    _, books = gw.export()
    ledger = books[M2]
    lost = [n for n in range(first + 1, last - 6) if n not in ledger.came]
    assert not lost, f"a reload costs no reading: {lost}"


def test_reload_of_a_bad_configuration(gw: Gateway) -> None:
    """`systemctl reload` fails, the agent goes on with what it has, journal and `status` name file, line and key."""
    # field pain 71
    pid = gw.pid
    since = gw.now()
    gw.configure(gw.config().replace('line = "roof"', 'line = "rof"'))
    assert gw.machine.run("systemctl", "reload", "meterhouse", ok=None).returncode != 0
    gw.machine.wait(lambda: gw.status()["config"]["complaints"], 20)
    assert gw.pid == pid and gw.alive(M1, M2)
    said = gw.machine.run("meterhouse", "status", "--json", ok=None)
    facts = json.loads(said.stdout)
    assert said.returncode in (1, 3) and not facts["ok"], "1: the clock of the host"
    assert any(code == 3 and 'Did you mean "roof"?' in text for text, code in gw.faults().items())
    assert 'Did you mean "roof"?' in gw.machine.journal("meterhouse", "-p", "err", f"--since={since}")
    gw.machine.wait(lambda: "the previous one stays in effect" in gw.said_status(), 20)
    gw.configure(gw.config())
    gw.machine.run("systemctl", "reload", "meterhouse")
    gw.machine.wait(lambda: gw.status()["config"]["complaints"] == [], 20)
    assert gw.faults(silenced=M1) == {}


# --- certificates


def test_a_certificate_that_ends_is_warned_about_and_renewed_without_a_restart(gw: Gateway, tmp_path: Path) -> None:
    """The timer's service and the agent warn; a new file is used from the next connection on."""
    # field pain 72
    m, authority, pid = gw.machine, Authority(tmp_path, "platform authority"), gw.pid
    certificate, key = authority.issue("127.0.0.1", 400)
    for name, file in {"ca.pem": authority.file, "broker.pem": certificate, "broker.key": key}.items():
        m.write(f"/etc/mosquitto/certs/{name}", file.read_text())
    tls = "\n".join(
        ("listener 8883 127.0.0.1", "cafile /etc/mosquitto/certs/ca.pem", "certfile /etc/mosquitto/certs/broker.pem",
         "keyfile /etc/mosquitto/certs/broker.key", "require_certificate true", "use_identity_as_username true",
         "log_dest stdout")
    )  # fmt: skip
    m.write("/etc/mosquitto/conf.d/lab.conf", f"{BROKER}{tls}\n")
    m.run("systemctl", "restart", "mosquitto")

    def give(name: str, days: float) -> None:
        certificate, key = authority.issue(name, days)
        m.write("/etc/meterhouse/gw.key", key.read_text(), "640")
        m.write("/etc/meterhouse/gw.pem", certificate.read_text())
        m.sh("chgrp meterhouse /etc/meterhouse/gw.key")

    give("gw01-old", 20)
    m.write("/etc/meterhouse/platform-ca.pem", authority.file.read_text())
    folder, since = "/etc/meterhouse", gw.now()
    files = f'ca_file = "{folder}/platform-ca.pem"\ncert_file = "{folder}/gw.pem"\nkey_file = "{folder}/gw.key"'
    gw.configure(gw.config(uplink=f'url = "mqtts://127.0.0.1:8883"\n{files}'))
    m.run("systemctl", "reload", "meterhouse")
    broker_log = ("journalctl", "-u", "mosquitto", "-o", "cat")
    m.wait(lambda: "u'gw01-old'" in m.run(*broker_log).stdout, 30, gw.machine.journal()[-1500:])
    warned = f"client certificate {folder}/gw.pem expires in 20 days; renew it, no restart is needed"
    m.wait(lambda: warned in m.journal("meterhouse", "-p", "warning", f"--since={since}"), 20)

    timer = m.show("meterhouse-certificates.timer", "ActiveState", "Persistent")
    assert timer["ActiveState"] == "active"
    m.run("systemctl", "start", "meterhouse-certificates.service", ok=None)
    story = m.journal("meterhouse*", "-p", "warning", f"--since={since}")
    assert f"destination platform: the client certificate {folder}/gw.pem expires in 20 days" in story, story

    give("gw01-new", 400)
    m.run("systemctl", "restart", "mosquitto")  # as a renewal of the broker's own certificate would
    m.wait(lambda: "u'gw01-new'" in m.run(*broker_log).stdout, 60, gw.machine.journal()[-1500:])
    since = gw.now()
    m.run("systemctl", "start", "meterhouse-certificates.service")
    assert "gw.pem" not in m.journal("meterhouse*", "-p", "warning", f"--since={since}")
    assert gw.pid == pid and gw.alive(M1, M2)
    gw.configure(gw.config())
    m.run("systemctl", "reload", "meterhouse")
    m.wait(lambda: gw.status()["uplinks"]["platform"]["connected"], 20)
