"""The daily look at the store in the running agent: it holds nobody up, and says what it finds. # field pain 58"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.service.rounds import Rounds
from agent.service.writer import Writer
from agent.store import Store, StoreDamaged, inspection
from tests.kits.exports import Gateway


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path)
    yield made
    made.ring.close()


@asynccontextmanager
async def rounds(gateway: Gateway, notes: list[Any]) -> Any:
    path = gateway.folder / "state" / "store.db"
    writer = Writer(lambda: Store.open(path, 64 << 20, destinations=["platform"]), dict)
    await writer.start()
    try:
        yield writer, Rounds(writer, notes.append, first_s=0.01)
    finally:
        await writer.stop()


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - files and threads have no event
            await asyncio.sleep(0.01)


async def test_packs_that_were_really_signed_are_sound_and_the_next_look_is_tomorrow(gateway: Gateway) -> None:
    gateway.seal(30)
    notes: list[Any] = []
    async with rounds(gateway, notes) as (_, at):
        task = asyncio.create_task(at.run())
        await until(lambda: at.last_ms)
        facts = at.facts()
        assert facts["inspected"] == pytest.approx(time.time(), abs=60) and not facts["bad_packs"]
        assert not notes and not task.done()
        task.cancel()
    async with rounds(gateway, notes) as (_, again):
        task = asyncio.create_task(again.run())
        await until(lambda: again.last_ms)
        await asyncio.sleep(0.1)
        assert again.last_ms == at.last_ms and not again.under_way, "a restart does not begin anew"
        task.cancel()


async def test_a_signature_that_no_longer_holds_is_dropped_stated_and_told(gateway: Gateway) -> None:
    gateway.seal(20)

    def turn(store: Store) -> None:
        (number, body) = store._conn.execute("SELECT id, body FROM packs WHERE seq = 7").fetchone()
        changed = bytes([body[0], body[1] ^ 1]) + body[2:]
        store._conn.execute("UPDATE packs SET body = ? WHERE id = ?", (changed, number))

    gateway.keep(turn)
    notes: list[Any] = []
    async with rounds(gateway, notes) as (writer, at):
        task = asyncio.create_task(at.run())
        await until(lambda: notes)
        task.cancel()
        assert notes == [{"event": "store_check", "ok": False, "packs": 1}] and at.facts()["bad_packs"] == 1
        assert [(n.first, n.last, n.reason) for n in await writer.call(Store.losses)] == [(7, 7, "damaged")]


async def test_damage_is_told_and_ends_the_agent_whose_next_start_takes_over_what_it_can(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "WHOLE_BYTES", 0)
    gateway.seal(120)
    path = gateway.folder / "state" / "store.db"
    conn = sqlite3.connect(path)
    try:
        found = conn.execute("SELECT pageno FROM dbstat WHERE name = 'packs' AND pagetype = 'leaf'").fetchall()
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no dbstat to find pages with")
    finally:
        conn.close()
    notes: list[Any] = []
    async with rounds(gateway, notes) as (writer, at):
        with path.open("r+b") as file:
            file.seek((found[len(found) // 2][0] - 1) * 4096)
            file.write(b"\xff" * 4096)
        with pytest.raises(StoreDamaged):
            await asyncio.wait_for(at.run(), 20)
        assert [(n["event"], n["ok"]) for n in notes] == [("store_check", False)]
    notes.clear()
    async with rounds(gateway, notes) as (writer, at):
        task = asyncio.create_task(at.run())
        await until(lambda: at.last_ms)
        task.cancel()
        (told,) = notes
        assert told["event"] == "store_damaged" and told["aside"].startswith("store.db.damaged-")
        assert told["saved"] > 200 and 0 < told["lost"] < 30
        assert sum(n.last - n.first + 1 for n in await writer.call(Store.losses)) == told["lost"]


async def test_nobody_waits_long_while_it_looks(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole check of the file would hold sealing for as long as it takes to read it."""
    monkeypatch.setattr(inspection, "WHOLE_BYTES", 0)
    gateway.seal(300)
    async with rounds(gateway, []) as (writer, at):
        task = asyncio.create_task(at.look())
        waits = []
        while not task.done():
            began = time.monotonic()
            await writer.call(Store.heads)
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0.005)
        await task
        waits.sort()
        assert len(waits) > 20 and waits[len(waits) // 2] < 0.02, waits[-5:]
