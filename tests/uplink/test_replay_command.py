"""`meterhouse replay` against a real broker, uplink and store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from delivery_kit import Desk, Mosquitto, To, fresh, until
from pack_kit import Maker

from agent.cli.main import outcome
from agent.uplink import Uplink

STREAM = "park7/gw01/inv1"


def test_the_platform_gets_what_it_asks_for(
    broker: Callable[..., Mosquitto],
    desk: Callable[..., Desk],
    uplink: Callable[..., Uplink],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = broker().port
    at, make = desk(), Maker()
    up = uplink(at, To(port, confirm="broker"))
    at.commit(fresh(make, birth=True), *(fresh(make) for _ in range(39)))
    until(lambda: up.state().connected and at.pending() == 0)
    url, out = f"mqtt://127.0.0.1:{port}", tmp_path / "again.jsonl"
    assert outcome(["replay", STREAM, "--broker", url, "--first", "11", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packs"] == 30
    assert out.read_bytes().splitlines() == [p.data for p in make.made[10:]]
    assert outcome(["replay", STREAM, "--broker", url, "--first", "99"]) == 6
    assert "nothing was sealed beyond 40" in capsys.readouterr().out
    assert outcome(["replay", "park7/gw02/inv1", "--broker", url, "--for", "300 ms"]) == 5
    assert "no answer" in capsys.readouterr().err
    assert outcome(["replay", "inv1", "--broker", url]) == 2
