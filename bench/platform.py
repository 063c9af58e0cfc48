"""The platform without a broker: CPU per pack in worker, PostgreSQL and keeper, and bytes per reading in the database.

    python -m bench.platform [--gateways 100] [--rounds 31] [--streams 1000 10000] [--json]

A worker in this process gets packs of a simulated fleet and commits them to a private PostgreSQL. Each pack has 100
readings of random digits. The keeper runs whenever about 1,000 new packs are stored, as it would if it ran beside the
worker. ``--streams`` repeats the measurement with these numbers of streams.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from receiver.database import connect, create_tables
from receiver.fleet import make_fleet
from receiver.keeper import Keeper
from receiver.private_postgres import PrivatePostgres
from receiver.sources import Message
from receiver.store import Store
from receiver.trust import Enrolment, enrol
from receiver.worker import Worker

START_MS = 1_795_500_900_000
CHECKED_AT_ONCE = 1000  # if 2,000 packs arrive per second, this many are waiting after a keeper's pause of 0.5 s


class Feed:
    """A source that delivers the messages that were added to it."""

    def __init__(self) -> None:
        self._left: list[Message] = []

    def add(self, sent: Sequence[tuple[str, bytes]]) -> None:
        self._left += [Message(topic, raw, None) for topic, raw in sent]

    def take(self, most: int, wait_s: float) -> list[Message]:
        taken, self._left = self._left[:most], self._left[most:]
        return taken

    @property
    def left(self) -> int:
        return len(self._left)

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Do nothing, because there is no broker."""

    def problem(self) -> str:
        return ""

    def close(self) -> None:
        """Do nothing, because there is no connection."""


def postgres_s(folder: Path) -> float:
    """CPU seconds of the PostgreSQL server in ``folder``. Child processes are included, even those that have ended."""
    server = (folder / "data" / "postmaster.pid").read_text().split("\n", 1)[0]
    total = 0
    for process in Path("/proc").iterdir():
        try:
            fields = (process / "stat").read_text().rpartition(") ")[2].split()
        except (OSError, ValueError):
            continue
        if process.name == server or fields[1] == server:
            total += sum(map(int, fields[11:15] if process.name == server else fields[11:13]))
    return total / os.sysconf("SC_CLK_TCK")


def measure(gateways: int, devices: int, rounds: int) -> dict[str, Any]:
    """Measure once, with ``gateways`` x ``devices`` streams of ``rounds`` packs."""
    server = PrivatePostgres()
    server.start()
    try:
        create_tables(server.dsn)
        fleet = make_fleet(gateways, devices, START_MS, faults=False)
        with connect(server.dsn) as connection:
            enrol(connection, [Enrolment(one.name, [one.signer.kid]) for one in fleet])
        worker_s = keeper_s = store_s = check_s = 0.0
        feed = Feed()
        worker = Worker(feed, [Store(server.dsn)])
        keeper = Keeper(server.dsn)
        packs = unchecked = 0
        for number in range(rounds):
            sent = [message for one in fleet for message in one.round(number)]
            keys = [(f"meterhouse/v1/{one.name}/keys", one.keys()) for one in fleet] if number == 0 else []
            feed.add(keys + sent)
            before, begin = postgres_s(server.folder), time.process_time()
            while feed.left or worker.waiting:
                worker.step(0)
            worker_s += time.process_time() - begin
            stored = postgres_s(server.folder)
            store_s += stored - before
            packs += len(sent)
            unchecked += len(sent)
            if unchecked >= CHECKED_AT_ONCE or number == rounds - 1:
                begin = time.process_time()
                while keeper.step():
                    pass
                keeper_s += time.process_time() - begin
                check_s += postgres_s(server.folder) - stored
                unchecked = 0
        keeper.close()
        with connect(server.dsn) as connection:
            room, readings = connection.execute(
                "SELECT (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('packs')), sum(readings) "
                "FROM days"
            ).fetchall()[0]
        return {
            "streams": gateways * devices,
            "packs": packs,
            "worker_us": round(worker_s / packs * 1e6),
            "postgres_store_us": round(store_s / packs * 1e6),
            "keeper_us": round(keeper_s / packs * 1e6, 1),
            "postgres_keeper_us": round(check_s / packs * 1e6, 1),
            "bytes_a_reading": round(float(room) / float(readings), 1),
        }
    finally:
        server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gateways", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--streams", type=int, nargs="*", default=[])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    made = [measure(options.gateways, 2, options.rounds)]
    made += [measure(max(10, streams // 10), 10, 4) for streams in options.streams]
    if options.json:
        print(json.dumps(made))
        return 0
    print(
        "| streams | packs | worker, us a pack | PostgreSQL, storing | keeper | PostgreSQL, checking "
        "| bytes a reading |"
    )
    print("|---|---|---|---|---|---|---|")
    for one in made:
        print("|", " | ".join(str(value) for value in one.values()), "|")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
