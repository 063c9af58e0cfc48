"""Bytes on disk per reading, in database and WAL together.

    python -m bench.atrest [--json]

One hour of one device: 50 points of an SDM630 (voltages, currents, powers, energies) that change all the time, read
each second, in packs of 10 seconds with real signatures.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from array import array
from pathlib import Path
from typing import Any

from agent.keys import create_key
from agent.pack import BirthTable, Packer
from agent.store import Store
from drivers.profile import find_profile, load_profile, vocabulary
from ext.ring import Ring

POINTS, TICKS, PACKS = 50, 10, 360
T0 = 1_795_500_000_000
CLOCK = {"error_ms": 1.2, "kernel_boot": "0b6f3c0e-8a5e-4c1f-9d53-0c2f8f1a7e11", "mono_ms": 1, "synced": True}


def document() -> dict[str, Any]:
    """A point table: the first 50 numeric points of a real profile. The pace of all of them is fast."""
    points = [p for p in load_profile(find_profile("eastron/sdm630")).points if p.kind in ("gauge", "counter")]
    units = vocabulary().senml
    return {
        "config": None,
        "device": None,
        "points": [
            {"n": p.name, "u" if p.unit in units else "du": p.unit, "kind": p.kind.value, "pace": "fast", "period": 1}
            for p in points[:POINTS]
        ],
    }


def measure() -> dict[str, Any]:
    """Seal and store an hour of packs. The size is measured twice: with the store open (WAL included), and after it was
    closed.
    """
    rng = random.Random(7)
    with tempfile.TemporaryDirectory(prefix="mh-bench-") as made:
        folder = Path(made)
        signer = create_key(folder / "key", 0)
        ring = Ring.create(str(folder / "ring"), 1 << 22, 1, 1, bytes(32))
        packer = Packer("park7/gw01/meter-1", "3f2a9c41d07be815", None, signer.signer("mh-pack"), T0, 1 << 16)
        packer.use(BirthTable("park7/gw01/meter-1", document()))
        store = Store.open(folder / "store.db", 1 << 30, destinations=["platform"])
        levels = [rng.uniform(1, 4000) for _ in range(POINTS)]
        readings = raw = 0
        for n in range(PACKS):
            positions = array("Q")
            for k in range(TICKS):
                tick = T0 + (n * TICKS + k) * 1000
                values = []
                for p in range(POINTS):
                    levels[p] += rng.gauss(0, levels[p] * 0.002 + 0.01)
                    # seven digits, because the shortest decimal that identifies a float32 has about seven
                    digits = f"{abs(levels[p]):.7g}"
                    mantissa, _, fraction = digits.partition(".")
                    values.append((p, int(mantissa + fraction), -len(fraction), 0))
                at = tick + 37 + rng.randrange(9)
                positions.append(ring.append_values(0, tick, at * 1_000_000, at * 1_000_000, values))
            packs = packer.seal(ring, positions, T0 + (n + 1) * TICKS * 1000, {**CLOCK, "mono_ms": n * 10_000})
            ids = store.packs.commit(packs)
            store.packs.commit((), {"platform": ids})
            readings += sum(p.records for p in packs)
            raw += sum(len(p.data) for p in packs)
        open_bytes = sum((folder / f).stat().st_size for f in ("store.db", "store.db-wal"))
        store.close()
        closed_bytes = (folder / "store.db").stat().st_size
        ring.close()
    return {
        "readings": readings,
        "raw_bytes_a_reading": round(raw / readings, 1),
        "at_rest_bytes_a_reading": round(closed_bytes / readings, 2),
        "with_wal_bytes_a_reading": round(open_bytes / readings, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    result = measure()
    print(json.dumps(result) if parser.parse_args().json else "\n".join(f"{k:<28} {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
