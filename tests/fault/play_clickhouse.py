"""Scenarios: the way from PostgreSQL to ClickHouse, with kill -9 on both sides and answers that are lost."""

from __future__ import annotations

import importlib
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.kits.faults.rows import Row, scenario
from tests.kits.house import House


@scenario(rounds=1, about_s=20, long=40, chunk=20, section="platform")
def clickhouse_kills(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """Kill -9 of keeper and engine after an insert whose answer never came: in the end each reading is there once."""
    _need("psycopg", "chdb")
    kit = importlib.import_module("tests.kits.clickhouse_front")
    faults = importlib.import_module("tests.kits.fleet_faults")
    stored = importlib.import_module("tests.platform.test_queries").stored
    database = importlib.import_module("receiver.database")
    private = importlib.import_module("receiver.private_postgres")
    rng = random.Random(seed)
    try:
        server = private.PrivatePostgres()
        server.start()
    except private.NoPostgres as error:
        pytest.skip(str(error))
    front = kit.Front(folder / "engine")
    front.start()
    keepers: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "agent.cli.main", "platform", "keep", "--db", server.dsn]
        keepers.append(subprocess.Popen([*command, "--clickhouse", front.url], cwd=kit.ROOT, stdin=subprocess.DEVNULL))
        return keepers[-1]

    def readings() -> int:
        return int(kit.asked(front, "SELECT count() FROM fleet.readings")[0][0])

    kills: Counter[str] = Counter()
    try:
        database.create_tables(server.dsn)
        kit.ClickHouse(front.url).make_tables()
        for number in range(rounds):
            before = readings()
            front.post("/hold")
            keeper = start()
            stored(server.dsn, faults.make(rng.choice(sorted(faults.KINDS)), number))
            _until(lambda before=before: readings() > before)
            end = rng.choice((("keeper",), ("engine",), ("keeper", "engine")))
            if "engine" in end:
                front.kill()
                front.start()
            keeper.send_signal(signal.SIGKILL if "keeper" in end else signal.SIGTERM)
            kills.update(end)
            keeper.wait(60)
        keeper = start()
        with database.connect(server.dsn) as connection:
            _until(lambda: connection.execute("SELECT packs FROM clickhouse_waiting").fetchall() == [(0,)])
            packs = connection.execute("SELECT count(*) FROM packs").fetchall()[0][0]
        keeper.terminate()
        expected, seen = kit.in_postgres(server.dsn), kit.in_clickhouse(front)
        assert seen == expected, f"{len(seen)} readings there, {len(expected)} here"
    finally:
        for keeper in keepers:
            keeper.kill()
            keeper.wait()
        front.kill()
        server.stop()
    return {"packs": packs, "readings": len(expected), "keeper_kills": kills["keeper"], "engine_kills": kills["engine"]}


def _need(*modules: str) -> None:
    for module in modules:
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed (chdb is the package chdb-core)")


def _until(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not done():
        assert time.monotonic() < until
        time.sleep(0.1)
