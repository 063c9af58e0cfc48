"""The metrics of a running agent, read by Prometheus's own parser."""

from __future__ import annotations

import stat
from errno import EISDIR
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from prometheus_client import parser

from agent.service.status import StatusFile, metrics_text
from drivers.files import write_atomic
from tests.kits.house import SECONDLY, House, one_meter, until

if TYPE_CHECKING:
    from agent.config import Config
    from agent.service.app import Service


def read(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels; the parser refuses what is not of the form."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


FACTS: dict[str, Any] = {
    "site": "park7", "gateway": "gw01", "version": "0.1", "boot": "b", "started": 1795500900.25,
    "config": {"loaded": 1795500900, "complaints": ["x"]},
    "store": {
        "trouble": None, "pending": {'plat"form': 3}, "size_bytes": 1, "limit_bytes": 2, "disk_free_bytes": 3,
        "lost_packs": 0,
    },
    "clock": {"synced": True, "error_ms": 1.5},
    "devices": {}, "lines": {}, "uplinks": {},
}  # fmt: skip


def test_the_conventions_are_kept() -> None:
    """A type and a help for each, counters end in _total, base units, one prefix; a quote in a name is no trouble."""
    found = read(metrics_text(FACTS))
    assert found["meterhouse_uplink_backlog_packs", (("destination", 'plat"form'),)] == 3
    assert found["meterhouse_clock_error_seconds", ()] == 0.0015 and found["meterhouse_config_complaints", ()] == 1
    families = list(parser.text_string_to_metric_families(metrics_text(FACTS)))
    for family in families:
        assert family.name.startswith("meterhouse_") and family.documentation and family.type in {"counter", "gauge"}
        assert not family.name.endswith(("_ms", "_kib", "_percent"))
        assert all(sample.name.endswith("_total") == (family.type == "counter") for sample in family.samples)


def test_what_is_not_known_is_left_out() -> None:
    """No zero stands for a missing value, here neither."""
    facts = FACTS | {"store": {"trouble": "disk full"}, "clock": {"synced": None, "error_ms": None}}
    found = read(metrics_text(facts))
    assert ("meterhouse_clock_synchronized", ()) not in found and ("meterhouse_store_size_bytes", ()) not in found
    assert found["meterhouse_store_trouble", ()] == 1


def test_the_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.prom"
    write_atomic(path, metrics_text(FACTS).encode(), 0o640)
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.prom"]


def test_the_second_status_brings_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the first one, which is written before the packs of a start; and always the next, however soon it comes."""
    monkeypatch.setattr("agent.service.status.status", lambda service: FACTS)
    monkeypatch.setattr("time.monotonic", lambda: 7.0)
    config = SimpleNamespace(runtime_dir=tmp_path, snapshot_path=tmp_path / "snapshot.json", site="p", gateway="g")
    ring = SimpleNamespace(path=tmp_path / "ring")
    service = SimpleNamespace(sealing=SimpleNamespace(streams={}), rings=SimpleNamespace(current=ring))
    file = StatusFile(cast("Config", config), "boot")
    for there in ({"snapshot.json"}, {"snapshot.json", "metrics.prom"}):
        assert file.write(cast("Service", service)) == []
        assert {path.name for path in tmp_path.iterdir()} == there
    file.remove()
    assert not any(tmp_path.iterdir())
    # metrics that cannot be written do not keep the status from being written, and the message names the right file
    (tmp_path / "metrics.prom").mkdir()
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    ((failed, error),) = file.write(cast("Service", service))
    assert failed.name == "metrics.prom" and error.errno == EISDIR and (tmp_path / "snapshot.json").exists()


def play_the_metrics(folder: Path, house: House) -> dict[str, Any]:
    _, listener, _, agent = one_meter(folder, house, every=SECONDLY)
    agent.start()
    file = agent.runtime / "metrics.prom"
    until(lambda: file.exists() and "device_complete_ratio" in file.read_text(), 20, lambda: agent.said)
    until(lambda: listener.packs("m1"), 20, lambda: agent.said)
    until(lambda: "size_bytes" in agent.snapshot()["store"], 20, lambda: agent.said)
    text, snapshot = file.read_text(), agent.snapshot()
    agent.stop()
    return {"text": text, "snapshot": snapshot, "left": file.exists()}


def test_the_metrics(played: dict[str, Any]) -> None:
    """The running agent writes them; a stopped one takes them along, so that nobody shows old numbers."""
    # field pain 70
    found = read(played["text"])
    assert found["meterhouse_device_up", (("device", "m1"), ("line", "roof"))] in (0, 1)
    assert found["meterhouse_device_complete_ratio", (("device", "m1"), ("line", "roof"))] <= 1
    assert found["meterhouse_device_swapped", (("device", "m1"), ("line", "roof"))] == 0
    assert found["meterhouse_key_trouble", ()] == 0
    assert ("meterhouse_uplink_connected", (("destination", "platform"),)) in found
    assert found["meterhouse_store_trouble", ()] == 0
    assert played["snapshot"]["store"]["limit_bytes"] == 8 << 30 and played["snapshot"]["store"]["lost_packs"] == 0
    assert not played["left"]
