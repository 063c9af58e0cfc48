"""`meterhouse demo`: the whole park, from the meters to a verifier on the other side of a broker."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agent.cli.main import outcome
from drivers.sim.park import DEMO

pytest.importorskip("iotcore")
COMMAND = [sys.executable, "-m", "agent.cli.main", "demo"]
ROOT = Path(__file__).resolve().parents[2]
KEYS = ["devices", "readings", "packs", "verified", "failed", "gaps", "redelivered", "seconds"]


def played(*args: str, seconds: float = 60) -> dict[str, float]:
    done = subprocess.run(
        [*COMMAND, "--json", *args], cwd=ROOT, text=True, capture_output=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_the_first_packs_are_verified_at_once() -> None:
    found = played("--for", "3s")
    assert list(found) == KEYS
    assert found["devices"] == len(DEMO)
    assert found["verified"] == found["packs"] >= len(DEMO) - 5, "a pack of each device that is read each second"
    assert found["failed"] == found["redelivered"] == 0


@pytest.mark.slow
def test_all_five_protocols_are_read_without_a_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At 2400 baud a visit takes a second, and still nothing is missing; each device's stream has readings."""
    found = played("--for", "25s", "--dir", str(tmp_path / "demo"))
    assert found["gaps"] == 0
    assert found["verified"] == found["packs"] > 80
    config, csv = tmp_path / "demo" / "agent.toml", tmp_path / "readings.csv"
    assert outcome(["export", "--csv", str(csv), "-c", str(config)]) == 0
    rows = [line.split(",") for line in csv.read_text("utf-8").splitlines()[1:]]
    readings = Counter(row[1].rpartition("/")[2] for row in rows)
    assert {slot.name for slot in DEMO} <= set(readings)
    assert {row[5] if len(row) > 5 else "" for row in rows} <= {"", "good"}


def test_the_screen_shows_every_device_and_the_verdict(tmp_path: Path) -> None:
    """Also in a low terminal, where three values a device would push the verifier's line out of sight."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "110", "LINES": "24", "TERM": "xterm"}
    child = subprocess.Popen([*COMMAND, "--for", "2500ms"], cwd=ROOT, stdin=slave, stdout=slave, stderr=slave,
                             env=environment)  # fmt: skip
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    assert child.wait(20) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode("utf-8", "replace"))
    screen = text[text.rindex("a simulated park, read live") :]
    for slot in DEMO:
        assert f" {slot.name} " in screen, slot.name
    assert "verifier, through the broker" in screen
    assert "not asked yet" in text or "heat.power" in screen
