"""Intervals: CPU time to make them from readings, their size on disk, and the report of a month.

    python -m bench.intervals [--json] [--days 30]

A park has 500 counters: 25 meters with 20 circuits each. Each load has its own daily curve and is counted in steps of
0.01 kWh. All counters have roles, accuracy classes and a place in the metering tree. They are read every five minutes
for a month. The readings pass through ring, ledger and interval pages, and the store merges the pages of each day. The
size of a year is extrapolated from the month. Times are CPU time of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from array import array
from datetime import UTC, datetime
from math import pi, sin
from pathlib import Path
from typing import Any

from agent.intervals.calendar import Calendar
from agent.intervals.ledger import Ledger
from agent.intervals.page_format import encode
from agent.intervals.rows import PackSpan
from agent.intervals.tracked_points import Rule
from agent.keys import create_key
from agent.pack import BirthTable, Packer
from agent.service.results.interval_builder import FOLD_AFTER_MS, fold
from agent.service.results.rebuild import new_pages
from agent.store import Store
from drivers.model import Reason
from ext.ring import Ring

METERS, CIRCUITS = 25, 20
SPAN_MS = 900_000  # time that a pack spans
MIN_MS, DAY_MS = 60_000, 86_400_000
CUT = Calendar("Asia/Shanghai")
FIRST_MS = CUT.midnight(datetime(2026, 11, 1, tzinfo=UTC).date())
YEAR_DAYS = 365
BASE = "park7/gw01"
CLOCK = {"error_ms": 1.2, "kernel_boot": None, "mono_ms": 1, "synced": True}
CONFIG = """[site]
id = "park7"
gateway = "gw01"
timezone = "Asia/Shanghai"

[paths]
profiles_dir = "profiles"
state_dir = "state"
runtime_dir = "run"
"""


def table(meter: int, period_s: int, circuits: int = CIRCUITS) -> dict[str, Any]:
    """The point table of a birth. Circuit 1 measures the whole board, and all other circuits are below it in the
    metering tree.
    """
    parts = [f"circuit.{n}" for n in range(1, circuits + 1)]
    role = "grid" if meter == 0 else "transformer"
    roles = {part: role if n == 0 else "load" for n, part in enumerate(parts)}
    return {
        "config": None,
        "device": {
            "class": {"": "1"},
            "parent": {part: f"board-{meter}/circuit.1" for part in parts[1:]} | {parts[0]: "board-0/circuit.1"},
            "ratio": {"ct": "1", "pt": "1"},
            "roles": roles,
        },
        "epoch": 1,
        "points": [
            {
                "n": f"{part}.ac.energy.import", "kind": "counter", "pace": "slow", "period": period_s, "phase": 0,
                "u": "kWh", "bits": 32, "source": {"type": "u32", "address": 0, "count": 2, "scale": "0.01"},
            }
            for part in parts
        ],
    }  # fmt: skip


def kernel() -> dict[str, Any]:
    """Make intervals and pages from a million readings: 100 counters, read each minute. The fastest of three runs
    counts.
    """
    counters, ticks = 100, 10_000
    with tempfile.TemporaryDirectory(prefix="mh-bench-") as made:
        ring = Ring.create(str(Path(made) / "ring"), 1 << 25, 1, 2, bytes(32))
        rng, levels = random.Random(7), [10**6 * (n + 1) for n in range(counters)]
        positions = array("Q")
        for k in range(ticks):
            tick = FIRST_MS + k * MIN_MS
            levels = [level + rng.randrange(40) for level in levels]
            values = [(n, level, -2, 0) for n, level in enumerate(levels)]
            positions.append(ring.append_values(1, tick, (tick + 137) * 1_000_000, 0, values))
        best, written, intervals = 1e9, 1e9, 0
        for _ in range(3):
            ledger, intervals = Ledger(f"{BASE}/m1", CUT, Rule()), 0
            ledger.use(table(1, 60, counters))
            began, pages = time.process_time(), 0.0
            for at in range(0, ticks, 60):  # each call gets the readings of an hour, as after an outage
                end = min(at + 60, ticks)
                span = PackSpan(at + 1, "0000000000000001", FIRST_MS + at * MIN_MS, FIRST_MS + end * MIN_MS)
                ledger.take_ring(ring, positions[at:end], [span])
                for shape, rows in ledger.rows():
                    before = time.process_time()
                    encode(rows, len(shape.columns))
                    pages += time.process_time() - before
                    intervals += sum(len(row.cells) for row in rows)
            spent = time.process_time() - began
            best, written = min(best, spent - pages), min(written, spent)
        ring.close()
    return {"kernel_s_per_million": round(best, 3), "with_pages_s": round(written, 3), "kernel_intervals": intervals}


class _Meter:
    """One meter and its simulated loads."""

    def __init__(self, number: int, packer: Packer, period_s: int) -> None:
        rng = random.Random(number)
        self.document, self.packer = table(number, period_s), packer
        self.ledger = Ledger(f"{BASE}/board-{number}", CUT, Rule())
        self.ledger.use(self.document)
        self.loads = [(rng.uniform(1, 60), rng.uniform(0, 2 * pi), rng.uniform(0.05, 0.5)) for _ in range(CIRCUITS - 1)]
        self.levels = [rng.uniform(1e3, 1e6) for _ in range(CIRCUITS)]
        self.rng = rng

    def step(self, day: float, hours: float) -> float:
        """Advance all counters by ``hours``. Returns the energy of the whole board in kWh."""
        whole = 0.0
        for n, (power, phase, noise) in enumerate(self.loads, 1):
            used = power * (1 + sin(2 * pi * day + phase)) * self.rng.uniform(1 - noise, 1 + noise) * hours
            self.levels[n] += used
            whole += used
        self.levels[0] += whole
        return whole


def month(folder: Path, days: int) -> dict[str, Any]:
    """Write a month of intervals to a store. The pages of each day are merged, as in the agent."""
    period_s = 300
    (folder / "state").mkdir()
    (folder / "profiles").mkdir()
    (folder / "agent.toml").write_text(CONFIG)
    signer = create_key(folder / "state" / "signing.key", 0)
    store = Store.open(folder / "state" / "store.db")
    ring = Ring.create(str(folder / "ring"), 1 << 22, 1, 2, bytes(32))
    meters = []
    for number in range(METERS):
        packer = Packer(f"{BASE}/board-{number}", "3f2a9c41d07be815", None, signer.signer("mh-pack"), FIRST_MS, 1 << 16)
        packer.use(BirthTable(packer.stream, table(number, period_s)))
        meters.append(_Meter(number, packer, period_s))
        store.packs.commit(packer.seal(ring, array("Q"), FIRST_MS, CLOCK, [{"event": "start", "t": 0}], Reason.STOPPED))
    seq = 1
    for quarter in range(days * 96 + 16):
        start = FIRST_MS + quarter * SPAN_MS
        taken = [array("Q") for _ in meters]
        for k in range(SPAN_MS // 1000 // period_s):
            tick = start + k * period_s * 1000
            for meter, positions in zip(meters, taken, strict=True):
                values = [(n, int(level * 100), -2, 0) for n, level in enumerate(meter.levels)]
                at = tick + 40 + 3 * meter.rng.randrange(40)
                positions.append(ring.append_values(1, tick, at * 1_000_000, 0, values))
                used = meter.step((tick - FIRST_MS) / DAY_MS, period_s / 3600)
                if meter is not meters[0]:
                    # the counter of the meter at the grid connection includes all other meters
                    meters[0].levels[0] += used
        seq += 1
        pages = []
        for meter, positions in zip(meters, taken, strict=True):
            meter.ledger.take_ring(ring, positions, [PackSpan(seq, "0000000000000001", start, start + SPAN_MS)])
            pages += new_pages(meter.ledger.stream, meter.ledger.rows(), CUT)
        store.intervals.add(pages, {})
        while store.intervals.merge_days(CUT.stretch("day", start - FOLD_AFTER_MS)[0], CUT.day, fold):
            pass
    count = "SELECT sum(length(body)), count(*) FROM interval_pages"
    size, pages_count = store.db.execute(count).fetchone()
    store.close()
    ring.close()
    whole = (folder / "state" / "store.db").stat().st_size
    return {
        "days": days,
        "pages": pages_count,
        "page_bytes": size,
        "database_bytes": whole,
        "bytes_an_interval": round(size / (METERS * CIRCUITS * 96 * days), 2),
        "year_mb": round(whole / days * YEAR_DAYS / 1e6, 1),
    }


def report(folder: Path) -> dict[str, Any]:
    """Run `meterhouse report` for the month. Measures CPU time and peak memory of the whole process."""
    command = [sys.executable, "-m", "agent.cli.main", "report", "2026-11", "--json", "-c", str(folder / "agent.toml")]
    best, said = 1e9, ""
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "LANG": "C"})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(done.stderr)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        said = done.stdout
    page = json.loads(said)
    balance = page["balance"]
    return {
        "report_s": round(best, 2),
        "report_peak_mb": round(after.ru_maxrss / 1024, 1),
        "balance": {name: balance[name] for name in ("residual", "allowed", "verdict")}
        | {"nodes": len(balance["nodes"])},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--days", type=int, default=30)
    args = parser.parse_args()
    result = kernel()
    with tempfile.TemporaryDirectory(prefix="mh-bench-") as made:
        result |= month(Path(made), args.days)
        result |= report(Path(made))
    if args.json:
        print(json.dumps(result))
        return
    print("| figure | asked | reached |\n|---|---|---|")
    print(f"| a million readings to intervals, CPU s | 1 | {result['kernel_s_per_million']} |")
    print(f"| the same with {result['kernel_intervals']} intervals written as pages | | {result['with_pages_s']} |")
    print(
        f"| a year of 500 counters, MB | 250 | {result['year_mb']} ({result['bytes_an_interval']} bytes an interval) |"
    )
    print(f"| a month's report, CPU s of the whole command | 2 | {result['report_s']} |")
    print(f"| its peak memory, MB | | {result['report_peak_mb']} |")
    print(f"| its balance | | {json.dumps(result['balance'])} |")


if __name__ == "__main__":
    main()
