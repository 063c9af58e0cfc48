"""Committed packs are stored whole, identical and in order; a failed commit leaves nothing."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlite_utils import Database, Migrations

from agent.outbox import Ack
from agent.store import Store, StoreBusy, StoreError, StoreNewer, schema
from agent.store.codec import Codec, compressible, make_dictionary
from agent.store.sqlite import PAGE_BYTES, connect
from agent.verify.signed import payload_hash
from tests.kits.packs import BOOT, POINTS, Maker, Pack, stored

DESTINATIONS = ("platform", "regulator")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "store.db"


def open_store(path: Path, *destinations: str) -> Store:
    return Store.open(path, 64 << 20, destinations=destinations or DESTINATIONS)


# --- the file


def test_the_promises_are_asserted_at_open(path: Path) -> None:
    """Durable by default, and ``usage`` reports how. # field pain 48, field pain 54, field pain 59"""
    store = open_store(path)
    assert "WAL, synchronous FULL" in store.usage().settings and store.usage().path == str(path)
    assert path.stat().st_mode & 0o777 == 0o600
    store.close()
    with closing(connect(path)) as conn:  # as the store connects

        def ask(pragma: str) -> object:
            return conn.execute(f"PRAGMA {pragma}").fetchone()[0]

        assert [ask(p) for p in ("journal_mode", "synchronous", "auto_vacuum", "page_size")] == ["wal", 2, 2, 4096]


def test_an_ordinary_start_does_not_import_sqlite_utils(path: Path) -> None:
    code = f"import sys; from agent.store import Store; Store.open({str(path)!r}).close(); print(*sys.modules)"
    for start in ("first", "second"):
        got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True)
        assert "sqlite_utils" not in got.stdout.split(), start


def shape(conn: sqlite3.Connection) -> list[tuple[str, str]]:
    return conn.execute(
        "SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY name"
    ).fetchall()


def test_a_new_database_is_what_sqlite_utils_would_have_made() -> None:
    ours, theirs = (sqlite3.connect(":memory:", isolation_level=None) for _ in range(2))
    schema.create(ours)
    schema.upgrade(theirs)
    assert shape(ours) == shape(theirs)
    migrations = Migrations(schema.SET)
    for name, _ in schema.STEPS:
        migrations(name=name)(lambda db: None)
    assert migrations.pending(Database(ours)) == [], "it takes our database for migrated"
    assert ours.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION == len(schema.STEPS)


def test_an_older_database_is_brought_up_to_date_and_keeps_its_rows() -> None:
    conn = sqlite3.connect(":memory:", isolation_level=None)
    schema.create(conn)
    conn.execute("INSERT INTO meta VALUES ('kept', 1)")
    more = (*schema.STEPS, ("0099_more", "CREATE TABLE more (a); CREATE INDEX more_a ON more (a);"))
    schema.upgrade(conn, more)
    assert conn.execute("PRAGMA user_version").fetchone()[0] == len(more)
    assert conn.execute("SELECT value FROM meta WHERE name = 'kept'").fetchone() == (1,)
    assert {"more", "more_a"} <= {name for name, _ in shape(conn)}
    broken = (*more, ("0100_broken", "CREATE TABLE half (a); CREATE TABLE more (a);"))
    with pytest.raises(sqlite3.OperationalError):
        schema.upgrade(conn, broken)
    assert "half" not in {name for name, _ in shape(conn)}, "a step that fails leaves nothing"


def test_a_database_of_a_newer_version_is_left_alone(path: Path) -> None:
    open_store(path).close()
    conn = sqlite3.connect(path)
    conn.execute("PRAGMA user_version = 99003")
    conn.close()
    with pytest.raises(StoreNewer, match=r"schema 99\.3"):
        open_store(path)
    conn = sqlite3.connect(path)
    assert conn.execute("PRAGMA user_version").fetchone() == (99003,)
    conn.close()
    assert sorted(os.listdir(path.parent)) == [path.name, f"{path.name}.ballast"], "and it is not called damaged"


def test_a_second_agent_gets_an_error_at_once(path: Path) -> None:
    """One writer only; a lock is an error that can be retried, not a loop. # field pain 45"""
    store = open_store(path)
    code = (
        "import sqlite3; import agent.store.sqlite as d; d.BUSY_MS = 50\n"
        f"from agent.store import *\ntry: Store.open({str(path)!r})\nexcept StoreBusy as e: print(e.retry, e)"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True)
    assert got.stdout.startswith("True") and f"(process {os.getpid()})" in got.stdout
    store.close()
    open_store(path).close()
    assert StoreBusy.retry


def test_places_that_cannot_hold_a_store_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=f"{tmp_path}/file.*state directory cannot be used"):
        Store.open(tmp_path / "file" / "store.db")
    with pytest.raises(StoreError, match="at least 8 MiB"):
        Store.open(tmp_path / "store.db", max_size_bytes=1 << 20)


# --- the body of a pack


@given(st.binary(max_size=300), st.binary(min_size=32, max_size=32), st.booleans())
def test_any_bytes_come_back_identical(data: bytes, digest: bytes, known: bool) -> None:
    codec = Codec()
    number, left_out, body = codec.pack(data, digest, digest if known else None)
    assert codec.unpack(number, body, digest if left_out else None) == data


TRICKS = st.lists(
    st.sampled_from(
        [
            b'{"birth":"',
            b'"prev":"',
            b',"sig":"',
            b"..",
            b'"',
            b"A" * 43,
            b"B" * 86,
            b"-_" * 21 + b"8",
            b"=" * 43,
            b"{}",
            b"}",
        ]
    ),
    max_size=12,
).map(b"".join)


@given(TRICKS, st.binary(min_size=32, max_size=32))
def test_bytes_that_look_like_packs_come_back_identical(data: bytes, digest: bytes) -> None:
    codec = Codec()
    for birth in (None, digest, b"\0" * 32):
        number, left_out, body = codec.pack(data, digest, birth)
        assert codec.unpack(number, body, birth if left_out else None) == data


@given(st.data())
def test_packs_come_back_identical_with_any_dictionary(data: st.DataObject) -> None:
    make = Maker(points=POINTS[: data.draw(st.integers(1, 50))], ticks=data.draw(st.integers(1, 4)))
    packs = [make(birth=True), *(make() for _ in range(4))]
    codec = Codec()
    if data.draw(st.booleans()):
        raw = make_dictionary([pack.data for pack in packs[1:]])
        codec.add_dictionary(1, raw)
        codec.activate(1, raw)
    for pack in packs:
        number, left_out, body = codec.pack(pack.data, pack.hash, packs[0].hash)
        assert left_out == (not pack.is_birth)
        assert codec.unpack(number, body, packs[0].hash if left_out else None) == pack.data
        assert payload_hash(pack.data) == pack.hash
    assert packs[1].data.count(b'"prev":"A') >= 0 and len(compressible(packs[1].data)) < len(packs[1].data) - 150


@given(st.binary(max_size=200), st.integers(0, 3))
def test_damaged_bodies_are_refused(body: bytes, number: int) -> None:
    make = Maker()
    good = Codec().pack(make().data, make.made[0].hash)[2]
    for bad in (body, good[:50] + body, good[:-3]):
        if bad != good:
            with pytest.raises(ValueError, match="body"):
                Codec().unpack(number, bad, None)


# --- packs, heads, outboxes


def test_heads_packs_and_outboxes_move_together(path: Path) -> None:
    store, make = open_store(path), Maker()
    first = store.packs.commit([make(birth=True), make()])
    second = store.packs.commit([make()], {"platform": first})
    assert [*first, *second] == [1, 2, 3]
    head = store.packs.heads()["park7/gw01/inv1"]
    last = make.made[-1]
    assert (head.boot, head.seq, head.hash, head.to_ms) == (BOOT, 3, last.hash, last.to_ms)
    assert (head.birth, head.ring_id, head.ring_pos) == (make.made[0].hash, 1 << 63 | 5, 300)
    assert [item.id for item in store.packs.pending("platform")] == [3]
    assert [item.data for item in store.packs.pending("regulator")] == [p.data for p in make.made]
    assert store.usage().pending == {"platform": 1, "regulator": 3}
    store.close()
    again = open_store(path)
    assert again.packs.heads() == {"park7/gw01/inv1": head} and again.packs.head("park7/gw01/inv1") == head
    with pytest.raises(KeyError):
        again.packs.head("park7/gw01/inv2")
    assert [p.data for p in stored(again, make.stream, 2)] == [p.data for p in make.made[1:]]
    assert again.usage().pending == {"platform": 1, "regulator": 3}
    again.close()


@pytest.mark.parametrize("fault", ["loss without its pack", "sequence that goes back", "unknown destination"])
def test_a_commit_that_fails_leaves_nothing(path: Path, fault: str) -> None:
    store, make, other = open_store(path), Maker(), Maker("park7/gw01/inv2")
    store.packs.commit([make(birth=True), make(), other(birth=True)])
    store.close()
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("INSERT INTO losses VALUES (9, 2, 1, 1, 1, 0, 0, x'00', 'size_cap', NULL)")
    store = open_store(path)
    before = (store.packs.heads(), store.packs.pending("platform"), store.usage().pending)
    late = Pack(make.stream, BOOT, 2, 0, 0, bytes(32), False, b"{}")
    with pytest.raises((ValueError, KeyError)):
        if fault == "loss without its pack":
            store.packs.commit([make()], {"platform": [1]}, stated=[9])
        elif fault == "sequence that goes back":
            store.packs.commit([late], {"platform": [1]})
        else:
            store.packs.commit([make()], {"nobody": [1]})
    assert before == (store.packs.heads(), store.packs.pending("platform"), store.usage().pending)
    make.seq = 2
    assert store.packs.commit([make()]) == [4], "and the next one goes on as if nothing had been"
    store.close()


@pytest.mark.parametrize("reload", ["SELECT name, id, seq", "SELECT id, boot FROM boots"], ids=["heads", "boots"])
def test_a_disk_that_fails_at_the_reload_too_does_not_block_the_stream(
    path: Path, monkeypatch: pytest.MonkeyPatch, reload: str
) -> None:
    """The heads in memory stayed ahead of the database, so every later commit was refused until a restart."""
    store, make = open_store(path), Maker()
    store.packs.commit([make(birth=True), make()])
    new = Maker("park7/gw01/inv2", boot="cc" * 8)  # a stream and a boot that the database does not know
    packs = [make(), new(birth=True), new()]
    before = store.packs.heads()

    def fails_at(name: str, part: str) -> None:
        function = getattr(store.db, name)

        def failing(sql: str, *values: object) -> object:
            if part in sql:
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error
            return function(sql, *values)

        patch.setattr(store.db, name, failing)

    with monkeypatch.context() as patch:
        fails_at("executemany", "INTO outbox")
        fails_at("execute", reload)
        for _ in range(2):
            with pytest.raises(StoreBusy):
                store.packs.commit(packs)
    assert store.packs.heads() == before
    assert store.packs.commit(packs) == [3, 4, 5]
    heads = store.packs.heads()
    assert (heads[make.stream].seq, heads[new.stream].seq, heads[new.stream].boot) == (3, 2, "cc" * 8)
    store.close()
    again = open_store(path)
    assert [pack.data for pack in stored(again, new.stream)] == [pack.data for pack in new.made]
    again.close()


def test_all_packs_of_a_tick_are_one_commit(path: Path) -> None:
    """One sync for any number of packs, confirmations included. # field pain 53"""
    store, makers = open_store(path), [Maker(f"park7/gw01/d{n}") for n in range(50)]
    ids = store.packs.commit([make(birth=True) for make in makers])
    store.db.flush_wal()
    store.packs.commit([make() for make in makers], {"platform": ids, "regulator": ids})
    assert transactions(path.with_name(path.name + "-wal")) == 1
    store.close()


def transactions(wal: Path) -> int:
    """Commits in a WAL: frames with the size of the database after them (sqlite.org/fileformat2.html, 4.1)."""
    data = wal.read_bytes()
    frames = range(32, len(data), 24 + PAGE_BYTES)
    return sum(data[at + 8 : at + 16] == data[16:24] and any(data[at + 4 : at + 8]) for at in frames)


def test_an_outbox_is_read_in_pages_of_count_and_bytes(path: Path) -> None:
    store, make = open_store(path, "platform"), Maker(pad=1000)
    ids = store.packs.commit([make() for _ in range(10)])
    assert [i.id for i in store.packs.pending("platform", 0, 3)] == ids[:3]
    assert [i.id for i in store.packs.pending("platform", ids[2], 100)] == ids[3:]
    size = len(make.made[0].data)
    assert len(store.packs.pending("platform", 0, 100, int(size * 3.5))) == 3
    assert len(store.packs.pending("platform", 0, 100, 1)) == 1, "one at least, or a large pack would never leave"
    assert store.packs.pending("platform", ids[-1]) == []
    store.close()


def test_a_destination_that_comes_back_finds_its_outbox(path: Path) -> None:
    store, make = open_store(path), Maker()
    ids = store.packs.commit([make()])
    store.close()
    store = open_store(path, "platform")
    store.packs.commit([make()], {"platform": ids})
    store.close()
    store = open_store(path)
    assert [i.id for i in store.packs.pending("regulator")] == [1], "what was sealed meanwhile was never owed to it"
    assert [i.id for i in store.packs.pending("platform")] == [2]
    store.close()


def test_the_newest_birth_of_each_stream(path: Path) -> None:
    store = open_store(path)
    makers = [Maker(f"park7/gw01/d{n}") for n in range(5)]
    for make in makers:
        store.packs.commit([make(birth=True), make(), make(birth=True), make()])
    wanted = [make.made[2].data for make in makers]
    assert [b.data for b in store.packs.births()] == wanted
    assert all(b.is_birth for b in store.packs.births())
    walked, after = [], ""
    while page := store.packs.births(after, 2):
        walked += [b.data for b in page]
        after = page[-1].stream
    assert walked == wanted
    store.close()


def test_an_ack_covers_only_what_is_ours(path: Path) -> None:
    store, make = open_store(path), Maker()
    ids = store.packs.commit([make(birth=True), *(make() for _ in range(5))])
    third = make.made[2]
    good = Ack(make.stream, BOOT, 1, 3, third.hash)
    assert store.packs.acknowledged("platform", good) == (ids[:3], None)
    for wrong in (
        Ack(make.stream, BOOT, 1, 3, make.made[3].hash),
        Ack(make.stream, BOOT, 1, 9, third.hash),
        Ack(make.stream, "0" * 16, 1, 3, third.hash),
        Ack("park7/gw01/inv2", BOOT, 1, 3, third.hash),
    ):
        found, why = store.packs.acknowledged("platform", wrong)
        assert found == [] and why
    store.packs.commit((), {"platform": ids[:2]})
    assert store.packs.acknowledged("platform", good) == (ids[2:3], None)
    assert store.packs.acknowledged("regulator", good) == (ids[:3], None)
    store.close()


def test_small_packs_train_a_dictionary_and_stay_readable(path: Path) -> None:
    store, makers = open_store(path), [Maker(f"park7/gw01/d{n}", POINTS) for n in range(4)]
    for make in makers:
        store.packs.commit([make(birth=True)])
    for _ in range(40):
        store.packs.commit([make() for make in makers])
    store.close()
    with closing(sqlite3.connect(path)) as conn:
        count = conn.execute("SELECT count(*), max(dictionary) FROM packs WHERE dictionary > 0").fetchone()
    assert count[0] > 50 and count[1] == 1
    store = open_store(path)
    for make in makers:
        assert [p.data for p in stored(store, make.stream)] == [p.data for p in make.made]
    store.close()


def test_point_tables_of_a_ring(path: Path) -> None:
    store = open_store(path)
    ring, table = (1 << 64) - 3, {"points": [{"n": "ac.power.active", "label": "1#车间"}]}
    store.documents.register_tables(ring, [(7, "park7/gw01/inv1", table)])
    store.documents.register_tables(ring, [(7, "park7/gw01/inv1", table), (8, "park7/gw01/inv2", table)])
    with pytest.raises(ValueError, match="already belongs to the stream park7/gw01/inv1"):
        store.documents.register_tables(ring, [(7, "park7/gw01/inv1", {"points": []})])
    store.documents.register_tables(5, [(0, "park7/gw01/_gateway", {"points": []})])
    store.close()
    store = open_store(path)
    assert {n: (t.stream, t.document) for n, t in store.documents.tables(ring).items()} == {
        7: ("park7/gw01/inv1", table),
        8: ("park7/gw01/inv2", table),
    }
    store.documents.forget_rings([5])
    assert store.documents.tables(ring) == {} and list(store.documents.tables(5)) == [0]
    store.close()
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("SELECT count(*) FROM documents").fetchone() == (1,)


def test_key_records_and_checkpoints(path: Path) -> None:
    store = open_store(path)
    assert store.keys.newest() is None
    store.keys.add(1, b"one")
    store.keys.add(2, b"two")
    assert store.keys.newest() == (2, b"two")
    store.documents.chain_checkpoint(lambda before: [(0, 1, 1000, b"a"), (1, 1, 1000, b"b")])
    store.documents.chain_checkpoint(lambda before: [(0, 2, 2000, b"c")])
    assert store.documents.checkpoint_keys(0, 1500) == [(0, 1), (1, 1)]
    assert store.documents.checkpoint(1, 1) == b"b" and store.documents.checkpoint(1, 2) is None
    assert store.documents.newest_checkpoints() == [(0, 2, b"c"), (1, 1, b"b")]
    store.close()
