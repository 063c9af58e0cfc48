"""What the agent says of itself to local tools: one JSON file, replaced atomically."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import agent
import ext.clock
from agent.config import Config
from agent.pack import seconds
from agent.poll import Grid
from agent.service.learned import lessons_of
from agent.service.metrics import write_metrics
from agent.service.roster import Device
from agent.service.seal_jobs import TableVersion
from agent.service.signing_key import ActiveKey
from agent.service.store_check import StoreScrubber
from agent.service.systemd import Watchdog
from drivers.line import Line

if TYPE_CHECKING:
    from agent.service.results.publisher import ResultPublisher
    from agent.service.sealing import SealScheduler
    from agent.uplink import Uplink

METRICS_EVERY_S = 10.0


class Running(Protocol):
    """What there is to say something of: the service."""

    config: Config
    started_ms: int
    loaded_ms: int
    complaints: list[str]
    grid: Grid
    uplinks: list[Uplink]
    sealing: SealScheduler
    pen: ActiveKey
    pulse: Watchdog
    rounds: StoreScrubber
    intervals: ResultPublisher

    @property
    def units(self) -> Sequence[Device]: ...
    @property
    def lines(self) -> Mapping[str, Line]: ...


class StatusFile:
    """Writes ``snapshot.json`` in the runtime directory; mode 0640, like the ring."""

    def __init__(self, config: Config, boot: str, ring_name: str) -> None:
        self._path = config.snapshot_path
        self._metrics_path, self._metrics_due = config.runtime_dir / "metrics.prom", 0.0
        self._named: tuple[int, ...] = ()  # table numbers in ``_tables``
        self._tables = "{}"
        self._fixed = {
            "site": config.site,
            "gateway": config.gateway,
            "boot": boot,
            "pid": os.getpid(),
            "ring": ring_name,
            "version": agent.__version__,
        }

    def write(self, service: Running) -> None:
        """Replace the file. The runtime directory is in memory: this does not wear a card."""
        shapes = [(stream.name, s) for stream in service.sealing.streams.values() for s in stream.shapes]
        if (numbers := tuple(shape.number for _, shape in shapes)) != self._named:
            self._named, self._tables = numbers, _tables(shapes)
        content = {**self._fixed, "time": seconds(time.time_ns() // 1_000_000), **status(service)}
        if time.monotonic() >= self._metrics_due:
            self._metrics_due = time.monotonic() + METRICS_EVERY_S
            write_metrics(self._metrics_path, content)
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        new = self._path.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "w", encoding="utf-8") as stream:
            stream.write(f'{text[:-1]},"tables":{self._tables}}}')
        new.replace(self._path)

    def remove(self) -> None:
        """The agent is gone: a tool should say so instead of showing old values."""
        self._path.unlink(missing_ok=True)
        self._metrics_path.unlink(missing_ok=True)


def status(service: Running) -> dict[str, Any]:
    """Devices, lines, uplinks, store and clock at this moment."""
    clock = ext.clock.state()
    return {
        "started": seconds(service.started_ms),
        "key": {"alg": service.pen.signer.alg, "thumbprint": service.pen.signer.kid},
        "config": {
            "hash": service.config.hash(),
            "loaded": seconds(service.loaded_ms),
            "complaints": service.complaints,
        },
        "devices": {unit.config.name: _device_facts(unit, service.grid.now_ms()) for unit in service.units},
        "lines": {name: _line_facts(line) for name, line in service.lines.items()},
        "uplinks": {uplink.name: asdict(uplink.state()) for uplink in service.uplinks},
        "store": _store_facts(service),
        "intervals": service.intervals.facts(),
        "clock": {"synced": clock.synced, "error_ms": None if clock.error_us is None else clock.error_us / 1000},
    }


def _store_facts(service: Running) -> dict[str, Any]:
    """Sizes and backlog are those of the last beat, a few seconds ago."""
    facts: dict[str, Any] = {"trouble": service.sealing.trouble, "path": str(service.config.store_path)}
    if (usage := service.pulse.usage) is not None:
        facts |= {
            "size_bytes": usage.disk_bytes,
            "limit_bytes": usage.max_bytes,
            "disk_free_bytes": usage.free_disk_bytes,
            "packs": usage.packs,
            "pending": usage.pending,
            "lost_packs": service.pulse.lost_packs,
        }
    return facts | service.rounds.facts()


def summary(service: Running) -> str:
    """One line for ``systemctl status``."""
    lives = [unit.poll.life.value for unit in service.units]
    parts = [f"{lives.count('alive')} of {len(lives)} devices answer"]
    if asleep := sum(unit.poll.sleeps(service.grid.now_ms()) for unit in service.units):
        parts[0] += f", {asleep} sleep"
    for uplink in service.uplinks:
        state = uplink.state()
        parts.append(f"{uplink.name} {'connected' if state.connected else 'not reached'}, {state.waiting} packs wait")
    if service.sealing.trouble:
        parts.append(f"store in trouble: {service.sealing.trouble}")
    if service.complaints:
        parts.append("the configuration on disk was rejected, the previous one stays in effect")
    return "; ".join(parts)[:400]


def _tables(shapes: Sequence[tuple[str, TableVersion]]) -> str:
    """The tables that name what the ring holds, as JSON; made anew only when there is a new one."""
    points: dict[int, str] = {}  # devices of one kind share their points
    rows = []
    for stream, shape in shapes:
        table = shape.table.points
        if id(table) not in points:
            named = [{"n": n, "u": unit, "kind": kind} for n, unit, kind in table.names]
            points[id(table)] = json.dumps(named, ensure_ascii=False, separators=(",", ":"))
        rows.append(f'"{shape.number}":{{"stream":{json.dumps(stream)},"points":{points[id(table)]}}}')
    return "{" + ",".join(rows) + "}"


def _device_facts(unit: Device, now_ms: int) -> dict[str, Any]:
    poll, stream = unit.poll, unit.stream
    return {
        "line": unit.config.line,
        "profile": unit.profile.id,
        "variant": poll.driver.spec.variant or None,
        "life": "asleep" if poll.sleeps(now_ms) else poll.life.value,
        "last_answer": seconds(poll.last_answer_ms) if poll.last_answer_ms else None,
        "error": poll.last_error or None,
        "overloads": poll.overloads,
        "identity": unit.identity,
        "epoch": stream.shape.table.facts.epoch,
        "learned": lessons_of(poll.driver) or None,
        "readings": stream.readings,
        "gap_readings": stream.gap_readings,
        "packs": stream.packs,
        "sealed_to": seconds(stream.sealed_ms),
    }


def _line_facts(line: Line) -> dict[str, Any]:
    stats = line.stats
    return {
        "url": line.config.url,
        "open": line.is_open,
        "lent": line.lent or None,
        "busy_share": round(stats.busy_share(time.monotonic_ns()), 4),
        "sent": {str(function): count for function, count in sorted(stats.sent.items())},
        "answers": stats.answers,
        "timeouts": stats.timeouts,
        "broken": stats.broken,
        "mismatches": stats.mismatches,
        "exceptions": stats.exceptions,
        "stale": stats.stale,
        "foreign": stats.foreign,
        "opened": stats.opened,
        "open_failures": stats.open_failures,
        "lost": stats.lost,
        "notes": stats.notes,
    }
