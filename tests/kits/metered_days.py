"""A stopped gateway with one meter that was read for some days, and with gaps that have a reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.cli.stopped_agent import StoppedAccess
from agent.config import load_config
from agent.intervals.calendar import Calendar
from agent.intervals.tracked_points import Rule
from agent.service.control.peer import Caller
from agent.service.control.protocol import Request
from agent.service.control.server import handler
from agent.service.results.interval_builder import IntervalBuilder
from agent.store import Store
from tests.kits.ledger import STREAM, point
from tests.kits.ledger import table as made_table
from tests.kits.made_parks import Pack

MINUTE = 60_000
CONFIG = """[site]
id = "park7"
gateway = "gw01"
timezone = "{timezone}"

[paths]
profiles_dir = "profiles"
state_dir = "state"
runtime_dir = "run"

[[line]]
name = "roof"
url = "tcp://127.0.0.1:1"

[[device]]
name = "m1"
line = "roof"
address = "1"
profile = "test/tally"
label = "Roof <east>"
"""
DOCUMENT = made_table(
    point("ac.energy.import", source={"scale": "0.01"}),
    point("ac.energy.import.l1", source={"scale": "0.01"}),
    point("ac.power.active", "gauge", "kW", source={"scale": "0.1"}),
)


def packs(
    from_ms: int,
    minutes: int,
    gaps: Sequence[tuple[int, int, str, str]] = (),
    seq: int = 0,
    stream: str = STREAM,
    table: Mapping[str, Any] = DOCUMENT,
) -> list[Pack]:
    """Make packs of five minutes. The meter counts 1 kWh per minute, and 6 kWh per 100 minutes on its first phase.

    Args:
        gaps: (first minute, minute after the last, reason, points). If points is ``*``, nothing is read then.
        seq: sequence of the previous pack.
        table: a point table with three points: a counter, one of its phases, a power.
    """
    out: list[Pack] = []
    counter, phase, power = (one["n"] for one in table["points"])

    def add(start: int, end: int, **more: Any) -> None:
        number = seq + len(out) + 1
        body = {"boot": "a" * 16, "from": start / 1000, "seq": number, "to": end / 1000, **more}
        body |= {"prev": None, "sig": "x..y", "stream": stream, "v": 1}
        data = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        out.append(Pack(stream, "a" * 16, number, start, end, "table" in more, data))

    add(from_ms, from_ms, table=table)
    for first in range(0, minutes, 5):
        e: list[dict[str, Any]] = []
        for minute in range(first, first + 5):
            if any(a <= minute < b and names == "*" for a, b, _, names in gaps):
                continue
            at = (from_ms + minute * MINUTE) / 1000
            e.append({"bt": at, "n": counter, "v": 1000 + minute})
            e.append({"bt": at, "n": phase, "v": round(10 + 0.06 * minute, 2)})
            e.append({"bt": at, "n": power, "v": 60})
        stated = [
            {
                "from": (from_ms + max(a, first) * MINUTE) / 1000,
                "to": (from_ms + min(b, first + 5) * MINUTE) / 1000,
                "points": names if names == "*" else [names],
                "reason": reason,
            }
            for a, b, reason, names in gaps
            if a < first + 5 and first < b
        ]
        more = {"gaps": stated} if stated else {}
        add(from_ms + first * MINUTE, from_ms + (first + 5) * MINUTE, e=e, **more)
    return out


class MeteredDays:
    """The gateway with its store open. ``ask`` answers as an agent does."""

    def __init__(self, folder: Path, timezone: str = "Asia/Shanghai") -> None:
        folder.mkdir(exist_ok=True)
        shutil.copytree(Path(__file__).parent / "profiles", folder / "profiles", dirs_exist_ok=True)
        (folder / "agent.toml").write_text(CONFIG.format(timezone=timezone))
        (folder / "state").mkdir(exist_ok=True)
        self.config = load_config(folder / "agent.toml")
        self.calendar = Calendar(timezone)
        self.store = Store.open(self.config.store_path)
        self.builder = IntervalBuilder(self.calendar, Rule(), 10**15, lambda stream, event: None)

    def commit(self, made: list[Pack]) -> None:
        """Commit sealed packs, and write their intervals."""
        self.store.packs.commit(made)
        self.builder.add_streams([STREAM])
        while self.builder.catch_up(self.store):
            pass

    async def ask(self, request: Request) -> tuple[dict[str, Any], Any]:
        """Answer a request. Returns (the end of the answer, its document or None)."""
        parts: list[bytes] = []

        class Collected:
            async def part(self, data: bytes) -> None:
                parts.append(data)

            def progress(self, done: int, total: int) -> None:
                assert done <= total

            def rest(self) -> None:
                raise AssertionError("only a lease is silent")

        access = StoppedAccess(self.config, Caller(0, "root"), self.store)
        done = dict(await handler(request)(access, request, Collected()))
        return done, json.loads(b"".join(parts)) if parts else None

    def close(self) -> None:
        self.store.close()
