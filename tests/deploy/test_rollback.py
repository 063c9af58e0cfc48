"""Rollback for real: code of an older commit opens the database that today's code left, and goes on with it."""

from __future__ import annotations

import os
import pickle
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.store import Store, schema
from tests.kits.older import KERNEL_NAMES
from tests.kits.packs import START_MS, Maker, Pack, bad_packs, stored

KIT = Path(__file__).resolve().parents[2]  # for the packs that are pickled
STREAM = "park7/gw01/inv1"

# what the older agent's store does with a database: told in stdin, answers on stdout, both pickled
PLAY = """
import pickle, sys
import agent.store as rooms
from agent.store import Store, StoreNewer, schema
path, now_ms, packs = pickle.load(sys.stdin.buffer)
said = {"from": rooms.__file__, "knows": schema.VERSION}
try:
    store = Store.open(path, max_size_bytes=64 << 20, destinations=["platform"], now_ms=now_ms)
    said["heads"] = {name: (head.boot, head.seq, head.hash) for name, head in store.heads().items()}
    said["owed"] = [item.data for item in store.pending("platform")]
    ids = store.commit(packs)
    store.commit([], {"platform": ids[:1]})
    store.prune(now_ms)
    said["check"] = store.check()
    store.close()
except StoreNewer as error:
    said["refused"] = f"{error} [{error.exit_code}]"
sys.stdout.buffer.write(pickle.dumps(said))
"""


@pytest.fixture(scope="module")
def older(from_older: Callable[..., Path]) -> Path:
    return from_older("agent", "drivers/model.py", "drivers/__init__.py")


def play(older: Path, path: Path, packs: list[Pack]) -> dict[str, Any]:
    env = {**os.environ, "PYTHONPATH": f"{older}{os.pathsep}{KIT}"}
    done = subprocess.run(
        [sys.executable, "-c", KERNEL_NAMES + PLAY], check=False, capture_output=True, timeout=200,
        input=pickle.dumps((path, START_MS, packs)), env=env, cwd=older,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    said = pickle.loads(done.stdout)
    assert Path(said["from"]).is_relative_to(older), "it was really the older code"
    return dict(said)


def open_store(path: Path) -> Store:
    return Store.open(path, max_size_bytes=64 << 20, destinations=["platform"], now_ms=START_MS)


def test_an_older_commit_goes_on_with_our_database_and_we_with_its(older: Path, tmp_path: Path) -> None:
    """Up, back, up again: one chain, the same bytes owed, and what is newer lies there untouched meanwhile."""
    path, maker = tmp_path / "store.db", Maker(STREAM)
    born = play(older, path, [maker(birth=True), *(maker() for _ in range(3))])
    assert born["knows"] < schema.VERSION and born["heads"] == {}

    store = open_store(path)  # the upgrade
    assert store.packs.heads()[STREAM].seq == 4
    store.packs.commit([maker() for _ in range(3)])
    store.documents.declare("d1", START_MS, {"number": "d1"})  # into the table that only the newer one knows
    store.documents.chain_checkpoint(lambda before: [(0, 1, START_MS, b"{}")])
    owed = [item.data for item in store.packs.pending("platform")]
    assert owed == [pack.data for pack in maker.made[1:]]
    store.close()

    back = play(older, path, [maker(), maker()])  # the rollback
    assert back["heads"] == {STREAM: (maker.boot, 7, maker.made[6].hash)}
    assert back["owed"] == owed and back["check"] == []

    store = open_store(path)  # and the upgrade once more
    assert store.packs.heads()[STREAM].seq == 9 and bad_packs(store) == 0
    assert len(store.documents.declarations()) == 1, "the older one did not touch it"
    kept = [pack.data for pack in stored(store, STREAM)]
    assert kept == [pack.data for pack in maker.made], "byte for byte"
    store.packs.commit([maker()])
    store.close()


def test_an_older_commit_refuses_the_next_major(older: Path, tmp_path: Path) -> None:
    """It says so, says what to do, and touches nothing."""
    path, maker = tmp_path / "store.db", Maker(STREAM)
    store = open_store(path)
    store.packs.commit([maker(birth=True)])
    store.close()
    conn = sqlite3.connect(path)
    conn.execute(f"PRAGMA user_version = {(schema.MAJOR + 1) * schema.MAJOR_STEP + 1}")
    conn.close()
    before = path.read_bytes()
    refused = play(older, path, [maker()])["refused"]
    assert re.search(r"newer major version .* Install that version again.*\[3\]", refused), refused
    assert path.read_bytes() == before
