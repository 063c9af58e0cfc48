"""Disk use over months of simulated time: packs are stored, confirmed, kept for thirty days and deleted.

    python -m bench.months [--days 120] [--json]

Two devices with 10 points are read every 5 s, in packs of a minute with real signatures. As in the running agent, there
is a commit every minute and a prune every ten minutes. From day 60 to day 66 the platform confirms nothing. Sizes are
taken at the end of each day. The duration of each prune is measured, because a prune deletes packs, checkpoints the WAL
and frees pages in the thread that also seals.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from array import array
from itertools import pairwise
from pathlib import Path
from typing import Any

from agent.keys import create_key
from agent.pack import BirthTable, Packer
from agent.store import Store
from ext.ring import Ring

DEVICES, POINTS, TICK_MS, PACK_MS, DAY_MS = 2, 10, 5_000, 60_000, 86_400_000
KEEP_DAYS, OUTAGE = 30, range(60, 67)
T0 = 1_795_500_000_000
CLOCK = {"error_ms": 1.2, "kernel_boot": "0b6f3c0e-8a5e-4c1f-9d53-0c2f8f1a7e11", "mono_ms": 1, "synced": True}
TABLE = {
    "config": None,
    "device": None,
    "points": [{"n": f"x.p{n}", "kind": "gauge", "pace": "fast", "period": 5, "phase": 0} for n in range(POINTS)],
}


def written() -> int:
    """Bytes that this process has written to the file system."""
    return int(Path("/proc/self/io").read_text().split("write_bytes: ")[1].split()[0])


def measure(days: int) -> dict[str, Any]:
    """Simulate ``days`` days. Returns sizes in MiB by day, and durations of the prunes."""
    with tempfile.TemporaryDirectory(prefix="mh-bench-") as made:
        folder = Path(made)
        key = create_key(folder / "key", T0 // 1000)
        ring = Ring.create("/dev/shm/mh-bench-months", 1 << 20, 1, 1, bytes(32))
        packers = []
        for n in range(DEVICES):
            stream = f"park7/gw01/m{n}"
            packers.append(Packer(stream, "3f2a9c41d07be815", None, key.signer("mh-pack"), T0, 1 << 16))
            packers[-1].use(BirthTable(stream, TABLE))
        store = Store.open(folder / "store.db", 8 << 30, KEEP_DAYS * 86_400, destinations=["platform"])
        waiting: list[int] = []
        sizes: list[float] = []
        prunes: list[float] = []
        readings, before = 0, written()
        for minute in range(days * 1440):
            start = T0 + minute * PACK_MS
            packs = []
            for n, packer in enumerate(packers):
                positions = array("Q")
                for tick in range(start, start + PACK_MS, TICK_MS):
                    values = [(p, int(1e5 * math.sin(tick / 9e6 + p + n)) + 200_000, -3, 0) for p in range(POINTS)]
                    at = (tick + 31) * 1_000_000
                    positions.append(ring.append_values(0, tick, at, at, values))
                packs += packer.seal(ring, positions, start + PACK_MS, CLOCK)
                readings += POINTS * PACK_MS // TICK_MS
            away = minute // 1440 in OUTAGE
            ids = store.packs.commit(packs, {} if away else {"platform": waiting[:200]})
            waiting = [*(waiting if away else waiting[200:]), *ids]
            if minute % 10 == 9:
                began = time.perf_counter()
                store.prune(start)
                prunes.append(time.perf_counter() - began)
            if minute % 1440 == 1439:
                usage = store.usage()
                sizes.append((usage.database_bytes + usage.wal_bytes) / 2**20)
        took = written() - before
        store.close()
        ring.close()
        Path("/dev/shm/mh-bench-months").unlink()
    late = sizes[KEEP_DAYS + 5 : OUTAGE.start] + sizes[OUTAGE.stop + KEEP_DAYS + 10 :]
    return {
        "days": days,
        "packs": days * 1440 * DEVICES,
        "mib_by_day": [round(size, 2) for size in sizes],
        "flat_least_mib": round(min(late), 2),
        "flat_most_mib": round(max(late), 2),
        "prune_median_ms": round(statistics.median(prunes) * 1e3, 2),
        "prune_p99_ms": round(sorted(prunes)[len(prunes) * 99 // 100] * 1e3, 2),
        "prune_longest_ms": round(max(prunes) * 1e3, 1),
        "bytes_written_per_reading": round(took / readings, 1),
        "most_growth_in_a_day_mib": round(max(b - a for a, b in pairwise(sizes[KEEP_DAYS + 5 :])), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=120)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    row = measure(given.days)
    if given.json:
        print(json.dumps(row))
        return 0
    sizes = row.pop("mib_by_day")
    print("| day | " + " | ".join(str(day) for day in range(10, given.days + 1, 10)) + " |")
    print("|---" * (given.days // 10 + 1) + "|")
    print("| MiB, with WAL | " + " | ".join(f"{sizes[day - 1]:.1f}" for day in range(10, given.days + 1, 10)) + " |")
    print()
    print("\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
