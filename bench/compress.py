"""The setting ``compress = "zstd"``: bytes that it saves per pack, and the CPU time that it takes.

    python -m bench.compress

Packs of 50 points, signed with a real key, pass through the uplink's own compressor, on one core. The values are a sine
with four decimals, or have seven random digits, which no compressor can shorten.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from array import array
from pathlib import Path

from agent.keys import create_key, load_key
from agent.outbox import OutboxItem
from agent.pack import BirthTable, Packer
from agent.uplink.messages import PackCompressor
from agent.verify.strict import inflate
from ext.ring import Ring

STREAM, POINTS = "bench/gw/d0", 50
ROUNDS = 40
CLOCK = {"error_ms": 1.2, "kernel_boot": "0b6f3c0e-8a5e-4c1f-9d53-0c2f8f1a7e11", "mono_ms": 1, "synced": True}


def sealed(folder: Path, ticks: int, noise: bool) -> list[bytes]:
    """Make a birth, then packs with ``ticks`` readings of each point.

    The values are random digits if ``noise``, otherwise a sine.
    """
    points = [{"n": f"x.p{n}", "kind": "gauge", "pace": "fast", "period": 1, "phase": 0} for n in range(POINTS)]
    ring = Ring.create(str(folder / f"ring{ticks}{noise}"), 1 << 22, 1, 1, bytes(32))
    start_ms, rng = 1_795_500_900_000, random.Random(1)
    signer = load_key(folder / "signing.key").signer("mh-pack")
    packer = Packer(STREAM, "3f2a9c41d07be815", None, signer, start_ms, 1 << 20)
    packer.use(BirthTable(STREAM, {"config": None, "device": None, "points": points}))
    found: list[bytes] = []
    for pack in range(ROUNDS):
        positions = array("Q")
        for n in range(pack * ticks, (pack + 1) * ticks):
            tick, at = start_ms + n * 1000, (start_ms + n * 1000 + 31) * 1_000_000
            values = [
                (p, rng.randrange(10**7) if noise else int(1e6 * math.sin(n / 60 + p)) + 2_000_000, -4, 0)
                for p in range(POINTS)
            ]
            positions.append(ring.append_values(0, tick, at, at, values))
        end_ms = start_ms + (pack + 1) * ticks * 1000
        found += [one.data for one in packer.seal(ring, positions, end_ms, CLOCK)]
    ring.close()
    return found


def main() -> None:
    """Measure all sizes and kinds of packs, and print a table."""
    print("| packs | bytes | as zstd | share | us to compress | us to decompress |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        create_key(folder / "signing.key", 1_795_500_000)
        for noise in (False, True):
            for ticks in (1, 10, 60):
                packs = sealed(folder, ticks, noise)[1:]
                compressor = PackCompressor(wanted=True)
                compressor.enabled = True
                items = [OutboxItem(n, STREAM, data, False, 0) for n, data in enumerate(packs)]
                began = time.process_time()
                frames = [compressor.payload(item)[0] for item in items]
                packed = time.process_time()
                assert [inflate(frame) for frame in frames] == packs
                done = time.process_time()
                size, short = sum(map(len, packs)) / len(packs), sum(map(len, frames)) / len(packs)
                what = f"{POINTS * ticks} readings, {'seven random digits' if noise else 'a sine'}"
                costs = [f"{1e6 * took / len(packs):.0f}" for took in (packed - began, done - packed)]
                print(f"| {what} | {size:,.0f} | {short:,.0f} | {short / size:.0%} | {' | '.join(costs)} |")


if __name__ == "__main__":
    main()
