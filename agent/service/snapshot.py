"""What the agent says of itself to local tools: one JSON file, replaced atomically."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import agent
from agent.config import Config
from agent.pack import seconds
from agent.service.pen import Pen
from agent.service.roster import Unit
from agent.service.streams import Shape
from drivers.line import Line

if TYPE_CHECKING:
    from agent.service.sealing import Sealing
    from agent.uplink import Uplink


class Running(Protocol):
    """What there is to say something of: the service."""

    config: Config
    started_ms: int
    loaded_ms: int
    complaints: list[str]
    uplinks: list[Uplink]
    sealing: Sealing
    pen: Pen

    @property
    def units(self) -> Sequence[Unit]: ...
    @property
    def lines(self) -> Mapping[str, Line]: ...


class Snapshot:
    """Writes ``snapshot.json`` in the runtime directory; mode 0640, like the ring."""

    def __init__(self, config: Config, boot: str, ring_name: str) -> None:
        self._path = config.snapshot_path
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
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        new = self._path.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "w", encoding="utf-8") as stream:
            stream.write(f'{text[:-1]},"tables":{self._tables}}}')
        new.replace(self._path)

    def remove(self) -> None:
        """The agent is gone: a tool should say so instead of showing old values."""
        self._path.unlink(missing_ok=True)


def status(service: Running) -> dict[str, Any]:
    """Devices, lines, uplinks and store at this moment."""
    return {
        "started": seconds(service.started_ms),
        "key": {"alg": service.pen.signer.alg, "thumbprint": service.pen.signer.kid},
        "config": {
            "hash": service.config.hash(),
            "loaded": seconds(service.loaded_ms),
            "complaints": service.complaints,
        },
        "devices": {unit.config.name: _device_facts(unit) for unit in service.units},
        "lines": {name: _line_facts(line) for name, line in service.lines.items()},
        "uplinks": {uplink.name: asdict(uplink.state()) for uplink in service.uplinks},
        "store": {"trouble": service.sealing.trouble, "path": str(service.config.store_path)},
    }


def _tables(shapes: Sequence[tuple[str, Shape]]) -> str:
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


def _device_facts(unit: Unit) -> dict[str, Any]:
    poll, stream = unit.poll, unit.stream
    return {
        "line": unit.config.line,
        "profile": unit.profile.id,
        "variant": poll.driver.spec.variant or None,
        "life": poll.life.value,
        "last_answer": seconds(poll.last_answer_ms) if poll.last_answer_ms else None,
        "error": poll.last_error or None,
        "overloads": poll.overloads,
        "identity": unit.identity,
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
