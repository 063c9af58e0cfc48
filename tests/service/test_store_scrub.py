"""The daily look at the store in the running agent: it holds nobody up, and says what it finds. # field pain 58"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, closing
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.keys import rotate_key
from agent.service.db_thread import DatabaseThread
from agent.service.store_check import StoreScrubber
from agent.store import Store, StoreDamaged, check
from agent.store.errors import suspicion_file
from tests.kits.exports import BASE, T0, Gateway


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path)
    yield made
    made.ring.close()


@asynccontextmanager
async def rounds(gateway: Gateway, notes: list[Any]) -> Any:
    path = gateway.folder / "state" / "store.db"
    db_thread = DatabaseThread(lambda: Store.open(path, 64 << 20, destinations=["platform"]), dict)
    await db_thread.start()
    try:
        yield db_thread, StoreScrubber(db_thread, notes.append, first_s=0.01)
    finally:
        await db_thread.stop()


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
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
        await asyncio.sleep(0.1)  # ten times as long as it waits before its first look
        assert again.last_ms == at.last_ms and not again.under_way, "a restart does not begin anew"
        task.cancel()


async def test_the_first_check_of_a_new_store_is_a_day_after_it_was_made(tmp_path: Path) -> None:
    """It has nothing to check before. A restart on its first day does not begin a check either."""
    checks = list[float]()

    async def start(days: float) -> StoreScrubber:
        db_thread = DatabaseThread(lambda: Store.open(tmp_path / "store.db", 64 << 20), dict)
        await db_thread.start()
        at = StoreScrubber(db_thread, lambda event: None, 0.01, lambda: T0 + int(days * 86_400_000))

        async def scrub() -> None:
            checks.append(days)
            await asyncio.Event().wait()

        at.scrub = scrub  # type: ignore[method-assign]
        task = asyncio.create_task(at.run())
        await asyncio.sleep(0.1)  # ten times as long as it waits before its first look
        task.cancel()
        await db_thread.stop()
        return at

    for days in (0.0, 0.5, 1.1):
        assert (await start(days)).last_ms == T0
    assert checks == [1.1]


async def test_a_signature_that_no_longer_holds_is_dropped_stated_and_told(gateway: Gateway) -> None:
    gateway.seal(20)

    def turn_a_bit(store: Store) -> None:
        (number, body) = store.db.execute("SELECT id, body FROM packs WHERE seq = 7").fetchone()
        store.db.execute("UPDATE packs SET body = ? WHERE id = ?", (bytes([body[0], body[1] ^ 1]) + body[2:], number))

    notes: list[Any] = []
    async with rounds(gateway, notes) as (db_thread, at):
        await db_thread.call(turn_a_bit)
        task = asyncio.create_task(at.run())
        await until(lambda: notes)
        task.cancel()
        assert notes == [{"event": "store_check", "ok": False, "packs": 1}] and at.facts()["bad_packs"] == 1
        assert [(n.first, n.last, n.reason) for n in await db_thread.call(lambda store: store.packs.losses())] == [
            (7, 7, "damaged")
        ]


async def test_a_row_that_was_changed_while_the_agent_was_stopped_is_told_at_the_start(gateway: Gateway) -> None:
    gateway.seal(20)
    with closing(sqlite3.connect(gateway.folder / "state" / "store.db")) as card, card:
        card.execute("UPDATE packs SET stream = 99 WHERE id = 7")
    notes: list[Any] = []
    async with rounds(gateway, notes) as (db_thread, at):
        task = asyncio.create_task(at.run())
        await until(lambda: notes)
        task.cancel()
        assert notes == [{"event": "store_check", "ok": False, "rows": 1}]
        assert not await db_thread.call(lambda store: store.packs.losses()), "the pack is restored"


async def test_a_damaged_record_of_an_old_key_does_not_end_the_look(gateway: Gateway) -> None:
    """The look reads all records; an old one is not repaired at the start, so each run ended at its first look."""
    gateway.seal(20)
    new = rotate_key(gateway.folder / "state" / "signing.key", BASE, T0 // 1000)[1]
    gateway.keep(lambda store: store.keys.add(2, new.records))
    with closing(sqlite3.connect(gateway.folder / "state" / "store.db")) as card, card:  # that turns a bit
        broken = gateway.keys.replace(b'"counter"', b'#counter"')
        card.execute("UPDATE key_records SET body = ? WHERE counter = 1", (broken,))
    notes: list[Any] = []
    async with rounds(gateway, notes) as (db_thread, at):
        await at.scrub()
        assert at.last_ms and not at.facts()["bad_packs"], "the packs are checked with the records of the new key"
        assert await db_thread.call(lambda store: store.keys.chains()) == [new.records]


async def test_damage_is_told_and_ends_the_agent_whose_next_start_takes_over_what_it_can(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "WHOLE_BYTES", 0)
    gateway.seal(120)
    path = gateway.folder / "state" / "store.db"
    conn = sqlite3.connect(path)
    try:
        found = conn.execute("SELECT pageno FROM dbstat WHERE name = 'packs' AND pagetype = 'leaf'").fetchall()
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no dbstat to find pages with (an interpreter whose SQLite was built with it)")
    finally:
        conn.close()
    notes: list[Any] = []
    async with rounds(gateway, notes) as (db_thread, at):
        with path.open("r+b") as file:
            file.seek((found[len(found) // 2][0] - 1) * 4096)
            file.write(b"\xff" * 4096)
        with pytest.raises(StoreDamaged):
            await asyncio.wait_for(at.run(), 60)
        assert [(n["event"], n["ok"]) for n in notes] == [("store_check", False)]
    notes.clear()
    async with rounds(gateway, notes) as (db_thread, at):
        task = asyncio.create_task(at.run())
        await until(lambda: at.last_ms)
        task.cancel()
        (told,) = notes
        assert told["event"] == "store_damaged" and told["aside"].startswith("store.db.damaged-")
        assert told["saved"] > 200 and 0 < told["lost"] < 30
        assert (
            sum(n.last - n.first + 1 for n in await db_thread.call(lambda store: store.packs.losses())) == told["lost"]
        )


@pytest.mark.parametrize(("offset", "declared"), [(-4096, 2), (-4096, 0), (0, None)])
async def test_declarations_that_only_the_damaged_database_has_are_told(
    gateway: Gateway, offset: int, declared: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """They were lost without a word: the log, `status` and an event tell how many, as far as they can be counted."""
    gateway.seal(120)
    path = gateway.folder / "state" / "store.db"
    with closing(Store.open(path, 64 << 20, destinations=["platform"])) as store:
        for n in range(declared or 0):
            store.documents.declare(f"{n:016x}", 1, {"name": "declared.certificates"})
    with path.open("r+b") as file:  # the last page is of packs; without the first, nothing can be read
        file.seek(offset, 0 if offset >= 0 else 2)
        file.write(b"\xff" * 4096)
    suspicion_file(path).touch()
    notes: list[Any] = []
    async with rounds(gateway, notes) as (_, at):
        task = asyncio.create_task(at.run())
        await until(lambda: at.last_ms)
        task.cancel()
        (told,), shown = notes, at.facts()["set_aside"]
    devices = None if declared is None else 0
    assert (told["event"], told["declarations"], told["devices"]) == ("store_damaged", declared, devices)
    if declared == 0:
        assert shown is None and "declarations" not in caplog.text
    else:
        assert shown == {"at": shown["at"], "file": told["aside"], "declarations": declared, "devices": devices}
        first, second = ("an unknown number of" if count is None else count for count in (declared, devices))
        assert f"{first} declarations and the facts of {second} devices were not copied" in caplog.text


class Noting:
    """A writer for the look alone, which notes when it was served."""

    def __init__(self, db_thread: DatabaseThread, turns: list[str]) -> None:
        self._db_thread, self._turns = db_thread, turns

    async def call(self, function: Callable[[Store], Any]) -> Any:
        found = await self._db_thread.call(function)
        self._turns.append("look")
        return found


async def test_everybody_has_a_turn_between_two_slices_of_the_look(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole check of the file would hold sealing for as long as it takes to read it."""
    clock = count(0, 0.01)  # a slice is over at the second or third look at it
    monkeypatch.setattr(check, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(check, "WHOLE_BYTES", 0)
    gateway.seal(300)
    async with rounds(gateway, []) as (db_thread, _):
        turns: list[str] = []
        task = asyncio.create_task(StoreScrubber(cast(DatabaseThread, Noting(db_thread, turns)), turns.append).scrub())
        while not task.done():
            await db_thread.call(lambda store: store.packs.heads())
            turns.append("other")
        await task
        assert turns.count("look") > 20 and ("look", "look") not in pairwise(turns), turns
