"""A damaged database ends the service, whoever stumbled over the damage: the next start sets the file aside."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from agent.outbox import OutboxItem
from agent.service.db_thread import DatabaseThread
from agent.service.store_check import StoreScrubber
from agent.store import Store, StoreDamaged
from agent.store.errors import suspicion_file
from agent.store.sqlite import PAGE_BYTES
from ext.ring import Ring
from tests.kits.packs import Maker

CAP = 64 << 20
RING = 5


def damaged(path: Path, table: str, middle: bool = False) -> None:
    """Overwrite the pages of a table; ``middle``: only some that no start looks at."""
    conn = sqlite3.connect(path)
    try:
        pages = [n for (n,) in conn.execute("SELECT pageno FROM dbstat WHERE name = ? ORDER BY pageno", (table,))]
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no dbstat to find pages with (an interpreter whose SQLite was built with it)")
    finally:
        conn.close()
    with path.open("r+b") as file:
        half = len(pages) // 2
        for page in pages[half - 3 : half + 3] if middle else pages:
            file.seek((page - 1) * PAGE_BYTES)
            file.write(random.Random(page).randbytes(PAGE_BYTES))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store.db"
    make = Maker()
    store = Store.open(path, CAP, destinations=["platform"])
    store.documents.register_tables(RING, [(0, make.stream, {"points": []})])
    store.packs.commit([make(birth=True)])
    for _ in range(300):
        store.packs.commit([make()])
    store.close()
    return path


@pytest.fixture
async def db_thread(path: Path) -> AsyncIterator[DatabaseThread]:
    made = DatabaseThread(lambda: Store.open(path, CAP, destinations=["platform"]), dict)
    yield made
    await made.stop()


async def test_damage_that_an_uplink_meets_ends_the_service(
    path: Path, db_thread: DatabaseThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asked again for ever, and the backlog behind the bad page was never delivered. # field pain 57"""
    monkeypatch.setattr("agent.store.packs.CHECKED_PACKS", 0)  # as for packs behind the first 20,000
    damaged(path, "packs", middle=True)
    await db_thread.start()
    assert not list(path.parent.glob("*.damaged-*")), "the start does not see it"
    found: list[OutboxItem] = []
    for after in range(0, 300, 10):
        db_thread.fetch("platform", after, 10, 1 << 20, found.extend)
    await db_thread.call(lambda store: None)
    assert found and suspicion_file(path).exists()
    with pytest.raises(StoreDamaged, match="Restart the agent"):
        await db_thread.seal(cast(Ring, None), [])


async def test_damage_in_any_table_is_ours_to_explain(path: Path, db_thread: DatabaseThread) -> None:
    """The agent never came up again: ``tables`` let SQLite's own error through. # field pain 52"""
    damaged(path, "tables")
    await db_thread.start()
    with pytest.raises(StoreDamaged, match="damaged"):
        await db_thread.call(lambda store: store.documents.tables(RING))
    assert suspicion_file(path).exists()
    with pytest.raises(StoreDamaged):
        await db_thread.seal(cast(Ring, None), [])


@pytest.mark.parametrize("table", ["dictionaries", "boots", "losses_stated", "destinations"])
def test_damage_that_loading_meets_sets_the_file_aside_at_once(path: Path, table: str) -> None:
    damaged(path, table)
    store: Any = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is not None
    make = Maker()
    make.seq = next((head.seq for head in store.packs.heads().values()), 0)
    assert store.packs.commit([make(birth=True)])
    store.close()


def test_a_table_whose_text_is_spoilt_names_nothing(path: Path) -> None:
    """It ended each start with an error of zstd; now what it names in a ring is set aside. # field pain 52"""
    conn = sqlite3.connect(path)
    conn.execute("UPDATE documents SET body = zeroblob(length(body))")
    conn.commit()
    conn.close()
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.documents.tables(RING) == {}
    store.close()


@pytest.fixture
def aside(path: Path) -> Path:
    """The damaged database that an earlier start set aside."""
    damaged(path, "streams")
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is not None
    store.close()
    made = Path(store.quarantine.path)
    made.with_name(f"{made.name}-wal").touch()
    return made


async def test_the_status_names_a_database_that_an_earlier_start_set_aside(
    aside: Path, db_thread: DatabaseThread
) -> None:
    await db_thread.start()
    scrubber = StoreScrubber(db_thread, lambda event: None)

    task = asyncio.create_task(scrubber.run())
    while scrubber.facts()["damaged"] is None and not task.done():  # noqa: ASYNC110
        await asyncio.sleep(0)
    task.cancel()

    found = scrubber.facts()
    assert found["damaged"]["file"] == str(aside) and found["set_aside"] is None
    assert f"{datetime.fromtimestamp(found['damaged']['at'], UTC):%Y%m%dT%H%M%SZ}" in aside.name
    aside.rename(aside.with_name("elsewhere"))  # noqa: ASYNC240
    assert scrubber.facts()["damaged"] is None
