"""`meterhouse bench`: measures the speed of this machine for each stage.

The programs in ``bench/`` import ``least_time`` from here.
"""

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
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.common import pad, say
from agent.cli.options import FOLDER, json_option

if TYPE_CHECKING:
    from ext.decode import Plan

POINTS, TICKS = 100, 10  # a pack of the measurement has ten ticks of a device with 100 floats


def least_time(
    work: Callable[[], object],
    seconds: float = 0.4,
    repeat: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Call ``work`` repeatedly. Returns the time of the fastest call, in seconds of ``clock``.

    The fastest call was disturbed least by other programs, so its time is the best measure of the work itself.

    Args:
        seconds: how long the call is repeated; ignored if ``repeat`` is given.
        repeat: the number of calls; 0 means as many as fit into ``seconds``.
    """
    best, done, end = float("inf"), 0, time.perf_counter() + seconds
    while done < repeat if repeat else time.perf_counter() < end:
        begin = clock()
        work()
        best = min(best, clock() - begin)
        done += 1
    return best


def float_plan(points: int = POINTS) -> Plan:
    """Return a plan that decodes a block of ``points`` float32 values, big-endian."""
    from ext.decode import Plan

    plan = Plan(4 * points)
    for n in range(points):
        plan.add(n, 4 * n, "f32", "ABCD")
    return plan


def measure(folder: Path) -> dict[str, Any]:
    """Return the microseconds per reading for each stage, and the readings per second of one core."""
    import zstandard
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from agent.pack import BirthTable, Packer
    from agent.store import Store
    from ext.ring import Ring

    plan = float_plan()
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
    packer.use(BirthTable("bench/gw/device", document))
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
    decode_s = least_time(decode) / readings
    seal_s = least_time(seal) / readings - decode_s
    positions = array("Q", (plan.decode_into(ring, a, 0, tick + 1000 * n, 0, 0) for n, a in enumerate(answers, 2)))
    (pack,) = packer.seal(ring, positions, tick + 1000 * (TICKS + 2), clock)
    ring.close()
    sign_s = least_time(lambda: key.sign(pack.data)) / readings
    hash_s = least_time(lambda: hashlib.sha256(pack.data).digest()) / readings
    zstd = zstandard.ZstdCompressor(level=3)
    compress_s = least_time(lambda: zstd.compress(pack.data)) / readings

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


_ROWS: Final = {  # member of the JSON -> row of the table
    "decode into the ring": "decode into the ring buffer",
    "of that, the signature": "of which signing",
    "of that, the hash": "of which hashing",
}


@click.command()
@click.option(
    "--dir",
    "folder",
    type=FOLDER,
    help="Folder for the test files; choose one on the disk of the store. Default: the temporary folder.",
)
@click.option(
    "--stages",
    is_flag=True,
    help="Measure only decoding, sealing, compression and commits (four seconds), without running the agent.",
)
@json_option
def bench(folder: Path | None, stages: bool, as_json: bool) -> None:
    """Measure how many devices this machine can read, and how fast it can decode, seal, compress and commit.

    Takes less than a minute and removes its files. For half a minute the agent reads 20 simulated devices on loopback;
    the last line of the output says how many devices the machine can read. The time that requests take on real lines
    is not included: `meterhouse check --plan` calculates that.

    \b
    Examples:
      meterhouse bench --dir /var/lib/meterhouse
      meterhouse bench --stages

    \b
    Exit codes: 0 measured, 1 the agent did not start, 2 the folder cannot be used.
    """
    if folder is not None and not os.access(folder, os.W_OK):
        raise click.UsageError(f"{folder}: not a writable folder")
    with tempfile.TemporaryDirectory(prefix="meterhouse-bench-", dir=folder) as made:
        result = measure(Path(made))
        if not stages:
            from agent.cli.bench_agent import measure_capacity

            capacity = measure_capacity(Path(made))
            result |= {
                "core_per_device": capacity.core_per_device,
                "devices_by_processor": capacity.by_processor,
                "devices_by_memory": capacity.by_memory,
                "devices": capacity.devices,
            }
    if as_json:
        click.echo(json.dumps(result))
        return
    _show(result, folder or Path(tempfile.gettempdir()))
    if not stages:
        click.echo("\n" + say(str(capacity)))


def _show(result: dict[str, Any], folder: Path) -> None:
    """Print the result of ``measure``."""
    click.echo(say(result["machine"]))
    for stage, us in result["us_per_reading"].items():
        click.echo(f"  {pad(say(_ROWS.get(stage, stage)), 42)} {say(f'{us:8.3f} µs per reading')}")
    commits, sealed = result["durable_commits_per_s"], result["readings_per_s_one_core"]
    click.echo("  " + say(f"durable commits (fsync) on {folder}: {commits:,.0f}/s"))
    click.echo("  " + say(f"one core seals about {sealed:,.0f} readings/s in packs of {POINTS * TICKS:,}"))
