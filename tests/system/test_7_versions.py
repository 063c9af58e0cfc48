"""Upgrade, downgrade, the books of a whole life, and the end."""

from __future__ import annotations

from pathlib import Path

import pytest

import agent
from tests.system.gateway import M1, M2, STATE, Gateway
from tests.system.lab import repack

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def test_upgrade_and_downgrade_keep_data_and_changed_files(gw: Gateway, tmp_path: Path) -> None:
    """A newer version adds to the database; the older one opens it again. What the operator changed stays as it is."""
    later = 'STEPS = (*STEPS, ("9999_later", "ALTER TABLE packs ADD COLUMN later INTEGER;"))\nVERSION = MAJOR'
    edits = [("usr/lib/meterhouse/agent/store/schema.py", "VERSION = MAJOR", later)]
    newer = repack(gw.deb, "9.9.0", tmp_path, edits)
    gw.machine.take(newer, "/root/newer.deb")
    gw.machine.sh("echo 'METERHOUSE_ARGS=--verbose' > /etc/default/meterhouse")
    kept = "sha256sum /etc/default/meterhouse /etc/meterhouse/agent.toml /etc/meterhouse/profiles/test/tally.toml"
    before = gw.machine.sh(kept)
    boots = []
    for command, version in (
        ("apt-get install -y /root/newer.deb", "9.9.0"),
        ("apt-get install -y --allow-downgrades /root/meterhouse_*.deb", agent.__version__),
    ):
        gw.machine.sh(command, seconds=240)
        status = gw.settled(M1, M2, seconds=90)
        assert status["version"] == version
        boots.append(status["boot"])
        assert gw.machine.sh(kept) == before
        assert "--verbose" in gw.machine.sh(f"tr '\\0' ' ' < /proc/{gw.pid}/cmdline")
    assert boots[0] != boots[1], "each was really started"
    gw.machine.run("systemctl", "stop", "meterhouse")
    assert "'later'" in gw.sql("SELECT name FROM pragma_table_info('packs')"), "and its additions were left alone"


def test_a_newer_major_version_of_the_database_is_refused_once(gw: Gateway) -> None:
    """No loop of restarts: exit code 3, what it means, and the way forward."""
    version = int(gw.sql("PRAGMA user_version").strip("[](),\n"))
    gw.sql(f"PRAGMA user_version = {version + 50000}")
    since = gw.now()
    gw.machine.run("systemctl", "start", "meterhouse", ok=1)
    shown = gw.machine.show("meterhouse", "ExecMainStatus", "SubState", "NRestarts")
    assert shown == {"ExecMainStatus": "3", "SubState": "failed", "NRestarts": "0"}
    assert "Install the newer version again" in gw.machine.journal("meterhouse", f"--since={since}")
    gw.sql(f"PRAGMA user_version = {version}")


def test_the_books_of_this_life_balance(gw: Gateway) -> None:
    """Through crash, hang, reloads, upgrade and downgrade: one chain a stream, nothing missing that is not stated."""
    report, books = gw.export()
    reasons = {r for stream in report["streams"].values() for r in stream.get("gap_reasons", {})}
    assert reasons <= {"stopped", "overload", "absent", "timeout", "lent"}, reasons
    assert all(len(ledger.came) > 100 for ledger in books.values())


def test_purge_keeps_what_the_operator_chose_to_keep(gw: Gateway) -> None:
    m = gw.machine
    m.sh(f"touch {STATE}/KEEP; apt-get purge -y meterhouse", seconds=120)
    assert {"KEEP", "signing.key", "store.db"} <= set(m.sh(f"ls {STATE}").split())
    left = m.sh("find / -xdev -iname '*meterhouse*' -not -path '/proc/*' -not -path '/root/*' -not -path '/var/log/*'")
    assert {path for path in left.split() if not path.startswith(STATE)} == set()


def test_purge_leaves_nothing(gw: Gateway) -> None:
    m = gw.machine
    m.sh(f"rm {STATE}/KEEP; apt-get install -y /root/meterhouse_*.deb", seconds=240)
    secrets = "/etc/credstore/meterhouse-web.certificate /etc/credstore/meterhouse-web.key"  # as web --setup makes them
    m.sh(f"mkdir -p /etc/credstore; touch {secrets} /etc/credstore/meterhouse-web.password /etc/credstore/other")
    m.sh("useradd stays; usermod -aG meterhouse,meterhouse-control stays; apt-get purge -y meterhouse", seconds=120)
    left = m.sh(
        "find / -xdev -iname '*meterhouse*' -not -path '/root/*' -not -path '/var/log/*';"
        " find /run -iname '*meterhouse*'"
    )
    assert not left.split(), left
    m.sh("rm /etc/credstore/other")
    assert "meterhouse" not in m.sh("systemctl list-unit-files --no-legend; getent passwd; getent group")
