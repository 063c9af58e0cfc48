"""`meterhouse bench`: what this box can do, stage by stage, measured on itself in a few seconds."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import struct
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

POINTS, TICKS = 100, 10  # one pack: ten ticks of a device with 100 floats


def time_of(function: Callable[[], object], seconds: float = 0.4) -> float:
    """The least time of a call, in seconds, over many calls: what the work costs when nothing disturbs it."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - begin)
    return best


def measure(folder: Path) -> dict[str, Any]:
    """Seconds per reading of each stage, and what follows for this box."""
    import zstandard
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from agent.pack import Packer, StreamTable
    from agent.store import Store
    from ext.decode import Plan
    from ext.ring import Ring

    plan = Plan(4 * POINTS)
    for n in range(POINTS):
        plan.add(n, 4 * n, "f32", "ABCD")
    answers = [struct.pack(f">{POINTS}f", *(20 + 0.37 * n + 0.11 * t for n in range(POINTS))) for t in range(TICKS)]
    ring = Ring.create(str(folder / "ring"), 1 << 22, 1, 2, bytes(32))
    document = {
        "config": None,
        "device": None,
        "points": [
            {"n": f"x.p{n}", "u": "W", "kind": "gauge", "pace": "fast", "period": 1, "phase": 0} for n in range(POINTS)
        ],
    }
    key = Ed25519PrivateKey.generate()
    packer = Packer("bench/gw/device", "0" * 16, None, lambda payload: key.sign(payload).hex()[:86], 0, 1 << 20)
    packer.use(StreamTable("bench/gw/device", document))
    clock = {"error_ms": None, "kernel_boot": None, "mono_ms": 0, "synced": None}
    tick = 0

    def decode() -> None:
        for answer in answers:
            plan.decode_into(ring, answer, 0, 0, 0, 0)

    def seal() -> None:
        nonlocal tick
        positions = array("Q")
        for answer in answers:
            tick += 1000
            positions.append(plan.decode_into(ring, answer, 0, tick, tick * 1_000_000, tick * 1_000_000))
        packer.seal(ring, positions, tick + 1000, clock)

    readings = POINTS * TICKS
    decode_s = time_of(decode) / readings
    seal_s = time_of(seal) / readings - decode_s
    positions = array("Q", (plan.decode_into(ring, a, 0, tick + 1000 * n, 0, 0) for n, a in enumerate(answers, 2)))
    (pack,) = packer.seal(ring, positions, tick + 1000 * (TICKS + 2), clock)
    ring.close()
    sign_s = time_of(lambda: key.sign(pack.data)) / readings
    hash_s = time_of(lambda: hashlib.sha256(pack.data).digest()) / readings
    zstd = zstandard.ZstdCompressor(level=3)
    compress_s = time_of(lambda: zstd.compress(pack.data)) / readings

    store = Store.open(folder / "store.db", 1 << 28)
    packs = [pack]

    def commit() -> None:
        store.packs.commit(packs)
        packs[:] = packer.seal(ring_again, array("Q"), packer.from_ms + 1000, clock)

    ring_again = Ring.create(str(folder / "ring2"), 1 << 16, 1, 2, bytes(32))
    commits = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < 1.0:
        commit()
        commits += 1
    commit_s = (time.perf_counter() - begin) / commits
    store.close()
    ring_again.close()
    total = decode_s + seal_s + compress_s
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "us_per_reading": {
            "decode into the ring": decode_s * 1e6,
            "seal (canonical JSON, hash, signature)": seal_s * 1e6,
            "of that, the signature": sign_s * 1e6,
            "of that, the hash": hash_s * 1e6,
            "compress": compress_s * 1e6,
        },
        "durable_commits_per_s": 1 / commit_s,
        "pack_bytes": len(pack.data),
        "readings_per_s_one_core": 1 / total,
    }


@click.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder on the disk that the store will use; default: the temporary folder.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def bench(folder: Path | None, as_json: bool) -> None:
    """Measure what this box can do: decode, seal, compress, commit.

    Takes about four seconds and removes what it wrote. Polling, which depends on the lines, comes on top.

    \b
    Example:
      meterhouse bench --dir /var/lib/meterhouse

    \b
    Exit codes: 0 measured, 2 the folder cannot be used.
    """
    if folder is not None and not os.access(folder, os.W_OK):
        raise click.UsageError(f"{folder}: no folder that can be written to")
    with tempfile.TemporaryDirectory(prefix="meterhouse-bench-", dir=folder) as made:
        result = measure(Path(made))
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(result["machine"])
    for stage, us in result["us_per_reading"].items():
        click.echo(f"  {stage:<42} {us:8.3f} us a reading")
    click.echo(
        f"  durable commits (fsync) on {folder or tempfile.gettempdir()}: {result['durable_commits_per_s']:,.0f}/s"
    )
    click.echo(
        f"  one core seals about {result['readings_per_s_one_core']:,.0f} readings/s in packs of {POINTS * TICKS:,}"
    )
