"""The feed from PostgreSQL to ClickHouse: bytes per reading and CPU per pack, with ClickHouse's engine as a library.

    python -m bench.clickhouse [--gateways 50] [--rounds 31] [--codecs]

Packs have 100 readings. Each value has seven random digits, which compress worse than any real value of a meter.
``--codecs`` also writes the column of values with each codec. Needs `chdb-core`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.platform import START_MS, Feed
from receiver import fleet as made_fleet
from receiver.clickhouse import ClickHouse
from receiver.clickhouse_feed import ClickHouseFeed
from receiver.database import connect, create_tables
from receiver.fleet import POINTS, MadeStream, make_fleet
from receiver.keeper import Keeper
from receiver.private_postgres import PrivatePostgres
from receiver.store import Store
from receiver.trust import Enrolment, enrol
from receiver.worker import Worker
from tests.kits.clickhouse_front import Front

CODECS = (
    "NONE", "LZ4", "ZSTD(1)", "ZSTD(3)", "ZSTD(9)", "Gorilla, ZSTD(1)", "Delta, ZSTD(1)", "DoubleDelta, ZSTD(1)",
    "FPC, ZSTD(1)", "ALP", "ALP, ZSTD(1)",
)  # fmt: skip


def seven_digits(stream: MadeStream, seconds: int) -> list[dict[str, Any]]:
    """Records of the simulated points, in which each value has seven random digits."""
    records = []
    for second in range(seconds):
        for number, (name, _, unit, _) in enumerate(POINTS):
            record = {"n": name, "v": stream.rng.randrange(1_000_000, 10_000_000) / 10 ** (number % 4 + 1)}
            if unit:
                record["u"] = unit
            if number == 0:
                record["bt"] = (stream.at_ms + 1000 * second + 250) / 1000
            records.append(record)
    records[0]["bn"] = f"{stream.name}/"
    return records


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gateways", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--codecs", action="store_true")
    options = parser.parse_args()
    made_fleet.MadeStream._records = seven_digits  # type: ignore[method-assign]
    server = PrivatePostgres()
    with tempfile.TemporaryDirectory() as folder:
        front = Front(Path(folder) / "engine")
        server.start()
        front.start()
        try:
            measure(server.dsn, front, options.gateways, options.rounds)
            if options.codecs:
                for codec in CODECS:
                    one_codec(front, codec)
        finally:
            front.kill()
            server.stop()
    return 0


def measure(dsn: str, front: Front, gateways: int, rounds: int) -> None:
    """Feed a simulated fleet to ClickHouse. Prints the CPU time of the feed, and the size of tables and columns."""
    create_tables(dsn)
    fleet = make_fleet(gateways, 5, START_MS, faults=False)
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(one.name, [one.signer.kid]) for one in fleet])
    source = Feed()
    worker, keeper = Worker(source, [Store(dsn)]), Keeper(dsn)
    source.add([(f"meterhouse/v1/{one.name}/keys", one.keys()) for one in fleet])
    for number in range(rounds):
        source.add([message for one in fleet for message in one.round(number)])
    while source.left or worker.waiting:
        worker.step(0)
    while keeper.step():
        pass
    feed, packs = ClickHouseFeed(dsn, ClickHouse(front.url)), 0
    begin, wall = time.process_time(), time.monotonic()
    engine = front.cpu_s()
    while sent := feed.step():
        packs += sent
    assert feed.failures == 0
    cpu, wall, engine = time.process_time() - begin, time.monotonic() - wall, front.cpu_s() - engine
    target = ClickHouse(front.url)
    for table in ("readings", "pack_states"):
        target.execute(f"OPTIMIZE TABLE fleet.{table} FINAL")
    readings = int(target.execute("SELECT count() FROM fleet.readings"))
    size = "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'fleet'"
    total, of_packs = int(target.execute(size)), int(target.execute(f"{size} AND table = 'pack_states'"))
    costs = f"feed {cpu / packs * 1e6:.0f} us CPU a pack, engine {engine / packs * 1e6:.0f} us"
    print(f"{packs} packs, {readings} readings: {costs}, {packs / wall:.0f} packs/s")
    print(f"on disk {total / readings:.2f} bytes a reading, of it pack_states {of_packs / readings:.2f}")
    columns = (
        f"SELECT name, round(data_compressed_bytes / {readings}, 3) FROM system.columns WHERE database = 'fleet' AND "
        "table = 'readings' ORDER BY 2 DESC"
    )
    print(target.execute(columns))


def one_codec(front: Front, codec: str) -> None:
    """Write the column of values once more, with another codec but in the same order. Prints its size."""
    target = ClickHouse(front.url)
    target.execute("DROP TABLE IF EXISTS fleet.again")
    if "ALP" in codec:
        target.execute("SET enable_alp_codec = 1")
    target.execute(f"CREATE TABLE fleet.again (v Nullable(Float64) CODEC({codec})) ENGINE = MergeTree ORDER BY tuple()")
    target.execute("INSERT INTO fleet.again SELECT value FROM fleet.readings ORDER BY stream, point, at")
    target.execute("OPTIMIZE TABLE fleet.again FINAL")
    size = "SELECT round(sum(data_compressed_bytes) / sum(rows), 2) FROM system.parts WHERE active AND table = 'again'"
    print(f"{codec}: {target.execute(size).strip()} bytes a value")


if __name__ == "__main__":
    raise SystemExit(main())
