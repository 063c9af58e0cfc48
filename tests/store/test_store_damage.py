"""A damaged database is set aside and reported; a killed writer loses nothing that was committed."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from agent.store import Store, StoreBusy, StoreDamaged, StoreFull, schema
from agent.store.errors import explain, is_damage
from agent.store.heads import record_file
from agent.store.sqlite import PAGE_BYTES
from tests.kits.packs import BOOT, Maker, bad_packs, stored

CAP = 64 << 20
HERE = Path(__file__).parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def filled(path: Path, packs: int = 300) -> Maker:
    make = Maker()
    store = Store.open(path, CAP, destinations=["platform"])
    store.packs.commit([make(birth=True)])
    for _ in range(packs // 5):
        store.packs.commit([make() for _ in range(5)])
    store.close()
    return make


def pages_of(path: Path, table: str) -> list[int]:
    conn = sqlite3.connect(path)
    try:
        return [n for (n,) in conn.execute("SELECT pageno FROM dbstat WHERE name = ? ORDER BY pageno", (table,))]
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no dbstat to find pages with (an interpreter whose SQLite was built with it)")
    finally:
        conn.close()


def scribble(path: Path, page: int) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(random.Random(page).randbytes(PAGE_BYTES))


def test_a_damaged_database_is_set_aside_and_its_heads_go_on(path: Path) -> None:
    """The agent starts and reports it; the chain continues after the known heads. # field pain 52, field pain 57"""
    make = filled(path)
    for page in pages_of(path, "packs")[1:]:
        scribble(path, page)
    store = Store.open(path, CAP, destinations=["platform"])
    found = store.quarantine
    assert found is not None and Path(found.path).exists() and ".damaged-" in found.path
    head = store.packs.heads()[make.stream]
    assert (head.boot, head.seq, head.hash, head.birth) == (BOOT, 301, make.made[-1].hash, None)
    assert head.ring_pos == make.made[-1].ring_pos, "the ring is not sealed a second time"
    assert store.packs.pending("platform") == []
    store.packs.commit([make(birth=True), make()])
    store.close()
    again = Store.open(path, CAP, destinations=["platform"])
    assert again.quarantine is None and [p.seq for p in stored(again, make.stream)] == [302, 303]
    again.close()


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "of an older version"])
@pytest.mark.parametrize("fault", ["no database", "cut short", "header", "schema", "bit in the schema"])
def test_the_agent_starts_with_any_file(path: Path, fault: str, recorded: bool) -> None:
    """Streams continue after the heads recorded beside it, else they begin anew. # field pain 52, field pain 56"""
    make = filled(path, 50)
    if not recorded:
        record_file(path).unlink()
        make = Maker()
    if fault == "no database":
        path.write_bytes(b"this was a database once\n" * 1000)
    elif fault == "cut short":
        os.truncate(path, 3 * PAGE_BYTES)
    elif fault == "header":
        with path.open("r+b") as file:
            file.write(bytes(100))
    elif fault == "bit in the schema":  # SQLite's message then contains a byte that is not UTF-8
        path.write_bytes(path.read_bytes().replace(b"CREATE TABLE boots", b"CREATE T\xc1BLE boots"))
    else:
        scribble(path, 1)
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is not None and "damaged" in store.quarantine.path
    assert store.packs.commit([make(birth=True)]) == [52 if recorded else 1]
    assert [(note.first, note.last) for note in store.packs.losses()] == ([(1, 51)] if recorded else [])
    store.close()
    assert len(list(path.parent.glob("*.damaged-*Z"))) == 1


def turn_a_bit(path: Path, table: str, column: str) -> None:
    """Flips a bit of the column's name in the text of the table."""
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("PRAGMA writable_schema = ON")
        (sql,) = conn.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
        at = re.search(rf"[(,\n]\s*[\[\"]?({column})\b", sql)
        assert at, (table, column)
        place = at.start(1)
        turned = sql[:place] + chr(ord(sql[place]) ^ 0x20 ^ 0x01) + sql[place + 1 :]
        conn.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (turned, table))


def test_a_bit_that_flips_in_the_text_of_a_table_is_damage(path: Path) -> None:
    """A column with another name is valid SQL, but each start failed at its first query. # field pain 52"""
    make = filled(path, 5)
    with closing(sqlite3.connect(path)) as conn:
        columns = conn.execute(
            "SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table'"
        ).fetchall()
    pristine = path.read_bytes()
    assert len(columns) > 80
    for n, (table, column) in enumerate(columns):
        path.write_bytes(pristine)
        turn_a_bit(path, table, column)
        with closing(sqlite3.connect(path)) as conn:
            try:
                assert schema.missing_columns(conn), (table, column)
            except sqlite3.DatabaseError as error:  # no SQL any more
                assert is_damage(error), (table, column)
        if n % 16:
            continue
        store = Store.open(path, CAP, destinations=["platform"])
        assert store.quarantine is not None, (table, column)
        store.packs.commit([make(birth=True)])
        store.close()
        for left in path.parent.glob("store.db.*"):
            left.unlink()


@pytest.mark.parametrize(
    "change",
    ["boots SET boot = 1.5", "streams SET seq = 'x'", "streams SET to_ms = to_ms + 0.5", "streams SET name = x'01'",
     "streams SET name = CAST(x'ff' AS TEXT)"],
)  # fmt: skip
def test_a_value_whose_type_changed_is_restored(path: Path, change: str) -> None:
    """One bit of a row is the type of a value. Each start ended with an error of Python. # field pain 52"""
    make = filled(path, 5)
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute(f"UPDATE {change}")
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is None and len(store.db.findings) == 1
    store.packs.commit([make()])
    head = store.packs.heads()[make.stream]
    assert (head.boot, head.seq, head.hash) == (BOOT, 7, make.made[-1].hash), "the stream continues"
    assert [item.data for item in store.packs.pending("platform")] == [pack.data for pack in make.made]
    store.close()


@pytest.mark.parametrize(
    "column",
    [
        "packs.body",
        "births.hash",
        "streams.hash",
        "streams.birth",
        "dictionaries.body",
        "documents.body",
        "losses.hash",
    ],
)
def test_bytes_that_became_a_text_are_read_as_they_are(path: Path, column: str) -> None:
    """One bit of a row is the type of a value. Python cannot decode such a text, but SQLite calls the file sound.

    So each export and each delivery ended with "temporary disk error". # field pain 52
    """
    make = filled(path, 100)
    store = Store.open(path, CAP, destinations=["platform"])
    store.documents.register_tables(7, [(0, make.stream, {"points": ["é"]})])
    store.close()
    table, name = column.split(".")
    with closing(sqlite3.connect(path)) as conn, conn:
        if table == "losses":
            values = (1, 1, 1, 1, 1, 0, 1, bytes(range(200, 232)), "size_cap")
            conn.execute(f"INSERT INTO losses VALUES ({', '.join('?' * 9)}, NULL)", values)
        turned = conn.execute(f"UPDATE {table} SET {name} = CAST({name} AS TEXT)").rowcount
        assert turned > 0
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is None
    assert [pack.data for pack in stored(store, make.stream)] == [pack.data for pack in make.made]
    assert [item.data for item in store.packs.pending("platform", limit=999)] == [pack.data for pack in make.made]
    assert [item.data for item in store.packs.births()] == [make.made[0].data]
    assert store.packs.heads()[make.stream].hash == make.made[-1].hash
    assert store.documents.tables(7)[0].document == {"points": ["é"]}
    assert [note.hash for note in store.packs.losses()] == ([bytes(range(200, 232))] if table == "losses" else [])
    store.packs.commit([make()])
    store.close()


def test_an_empty_file_and_an_orphaned_wal_are_a_new_database(path: Path) -> None:
    path.touch()
    path.with_name(path.name + "-wal").write_bytes(b"left by a file that is gone" * 100)
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is None and store.packs.commit([Maker()(birth=True)]) == [1]
    store.close()


def test_a_bad_row_is_set_aside_and_does_not_stop_the_rest(path: Path) -> None:
    """Nor is it read again forever. # field pain 57"""
    make = filled(path, 10)
    conn = sqlite3.connect(path)
    conn.execute(
        "UPDATE packs SET body = CAST(substr(body, 1, 120) || x'00' || substr(body, 122) AS BLOB)"
        " WHERE seq IN (4, 5, 9)"
    )
    conn.commit()
    conn.close()
    store = Store.open(path, CAP, destinations=["platform"])
    assert [i.id for i in store.packs.pending("platform")] == [1, 2, 3, 6, 7, 8, 10, 11]
    assert [p.seq for p in stored(store, make.stream)] == [1, 2, 3, 6, 7, 8, 10, 11]
    notes = [(n.first, n.last, n.hash, n.reason) for n in store.packs.losses()]
    assert notes == [(4, 5, make.made[4].hash, "damaged"), (9, 9, make.made[8].hash, "damaged")]
    assert store.lost_packs == 3
    store.close()


def test_a_dropped_pack_is_no_longer_pending(path: Path) -> None:
    """``status`` counted it until the next start, although the destination had confirmed all others."""
    filled(path, 10)
    store = Store.open(path, CAP, destinations=["platform", "other"])
    store.db.execute("UPDATE packs SET body = x'01' WHERE id IN (5, 6, 9)")
    store.packs.commit((), {"platform": [6]})
    assert len(store.packs.pending("platform")) == 8
    assert bad_packs(store) == 1, "pack 6, for which nobody waits any more"
    assert store.usage().pending == {"platform": 8, "other": 0}
    store.close()


@pytest.mark.parametrize("owed", [True, False], ids=["owed", "delivered"])
def test_the_newest_pack_may_be_the_damaged_one(path: Path, owed: bool) -> None:
    """It was dropped, and the next start missed the pack that is recorded beside it: it set the whole file aside."""
    make = filled(path, 10)
    store = Store.open(path, CAP, destinations=["platform"])
    if not owed:
        store.packs.commit((), {"platform": range(1, 12)})
    store.db.execute("UPDATE packs SET body = x'01' WHERE id = 11")
    assert bad_packs(store) == 1
    store.close()
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is None and not store.behind
    assert [(n.first, n.last, n.reason) for n in store.packs.losses()] == ([(11, 11, "damaged")] if owed else [])
    assert store.packs.commit([make()]) == [12], "no id is assigned twice"
    store.close()


def test_a_page_of_damaged_births_is_not_the_last_one(path: Path) -> None:
    """An empty page means that there are no more: the births of all later streams were not published."""
    makers = [Maker(f"park7/gw01/d{n}") for n in range(3)]
    store = Store.open(path, CAP, destinations=["platform"])
    store.packs.commit([make(birth=True) for make in makers])
    store.close()
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("UPDATE packs SET body = x'01' WHERE id <= 2")
        conn.commit()
    store = Store.open(path, CAP, destinations=["platform"])
    assert [item.data for item in store.packs.births(limit=1)] == [makers[2].made[0].data]
    assert [(note.stream, note.reason) for note in store.packs.losses()] == [(m.stream, "damaged") for m in makers[:2]]
    store.close()


def test_damage_under_a_running_agent_is_an_error_with_a_hint(path: Path) -> None:
    make = filled(path, 300)
    pages = pages_of(path, "packs_seq")
    store = Store.open(path, CAP, destinations=["platform"])
    for page in pages:
        scribble(path, page)
    store.db.release_memory()
    with pytest.raises(StoreDamaged, match=r"damaged.*Restart the agent"):
        for _ in range(20):
            store.packs.commit([make()])
            store.db.release_memory()
    with pytest.raises(StoreDamaged):
        bad_packs(store)
    with pytest.raises(StoreDamaged):
        for _ in range(20):
            store.packs.commit([make()])
    store.close()
    again = Store.open(path, CAP, destinations=["platform"])
    assert again.quarantine is not None, "the restart that was asked for helps"
    assert again.packs.heads()[make.stream].seq >= 301
    again.close()
    assert not path.with_name(path.name + ".suspect").exists()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, StoreFull),
        (sqlite3.SQLITE_BUSY, StoreBusy),
        (sqlite3.SQLITE_IOERR_FSYNC, StoreBusy),
        (sqlite3.SQLITE_IOERR_WRITE, StoreBusy),
        (sqlite3.SQLITE_CORRUPT, StoreDamaged),
        (sqlite3.SQLITE_NOTADB, StoreDamaged),
    ],
)
def test_each_error_of_sqlite_has_its_own(code: int, kind: type[Exception]) -> None:
    error = sqlite3.OperationalError("x")
    error.sqlite_errorcode = code
    found = explain(error, "/var/lib/meterhouse/store.db")
    assert type(found) is kind and str(found).startswith("/var/lib/meterhouse/store.db: ")


WRITER = """
import sys
sys.path[:0] = [{root!r}, {here!r}]
from tests.kits.packs import Maker
from agent.store import Store
store = Store.open({path!r}, 64 << 20, destinations=["platform"])
makers = [Maker(f"park7/gw01/d{{n}}", boot=sys.argv[1]) for n in range(3)]
heads = store.packs.heads()
for make in makers:
    if make.stream in heads:
        make.seq = heads[make.stream].seq
confirmed = []
first = True
while True:
    packs = [make(birth=first) for make in makers] + [make() for make in makers]
    first = False
    confirmed = store.packs.commit(packs, {{"platform": confirmed[::2]}})
    print(packs[-1].seq, confirmed[-1], flush=True)
"""


@pytest.mark.process
@pytest.mark.parametrize("rounds", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_kill_dash_nine_loses_nothing_that_was_committed(path: Path, rounds: int) -> None:
    """All packs for which commit returned are stored once, and the next start continues after them. # field pain 51"""
    code = WRITER.format(root=str(HERE.parent.parent), here=str(HERE), path=str(path))
    dice = random.Random(rounds)
    promised = (0, 0)
    for number in range(rounds):
        boot = f"{number + 1:016x}"
        with subprocess.Popen([sys.executable, "-c", code, boot], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for _ in range(dice.randint(1, 40)):
                line = process.stdout.readline()
                assert line, "the writer failed"
            process.send_signal(signal.SIGKILL)
            lines = [line, *(rest for rest in process.stdout.read().splitlines() if len(rest.split()) == 2)]
        promised = (int(lines[-1].split()[0]), int(lines[-1].split()[1]))
        store = Store.open(path, CAP, destinations=["platform"])
        assert store.quarantine is None
        heads = store.packs.heads()
        assert len({head.seq for head in heads.values()}) == 1, "a tick is committed as one"
        assert heads["park7/gw01/d0"].seq >= promised[0]
        newest = 0
        for name, head in heads.items():
            packs = store.packs.after(name, 0, head.seq, head.seq)
            assert [pack.seq for pack in packs] == list(range(1, head.seq + 1)), "no hole, nothing twice"
            assert head.boot == boot and head.birth is not None
            newest = max(newest, packs[-1].id)
        assert newest >= promised[1]
        store.close()
    store = Store.open(path, CAP, destinations=["platform"])
    assert bad_packs(store) == 0
    store.close()


def test_a_name_whose_type_changed_is_damage_even_beside_an_intact_index(path: Path) -> None:
    """One bit in the row, and the index still has the text: sealing stopped, and no later start came up.

    # field pain 52
    """
    make = filled(path, 20)
    raw = path.read_bytes()
    name = make.stream.encode()
    text, blob = bytes((2 * len(name) + 13,)), bytes((2 * len(name) + 12,))
    (at,) = (found.start() for found in re.finditer(rb"\x00" + re.escape(text) + rb"[\x01-\x09]{2}\x4c", raw))
    path.write_bytes(raw[: at + 1] + blob + raw[at + 2 :])
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("SELECT typeof(name), seq FROM streams").fetchall() == [("blob", 21)]
        assert conn.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",)
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is not None and "missing from index" in store.quarantine.reason
    assert [item.data for item in store.packs.pending("platform", limit=99)] == [pack.data for pack in make.made]
    store.packs.commit([make()])
    assert store.packs.heads()[make.stream].hash == make.made[-1].hash
    store.close()


@pytest.mark.parametrize(("cut", "least"), [(PAGE_BYTES, 280), (3 * PAGE_BYTES, 200), (20 * PAGE_BYTES + 100, 5)])
def test_a_file_without_its_end_loses_only_what_was_there(path: Path, cut: int, least: int) -> None:
    """SQLite refuses the whole file, so nothing was salvaged although most rows could be read. # field pain 52"""
    make = filled(path, 300)
    os.truncate(path, path.stat().st_size - cut)
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is not None
    sent = {item.data for item in store.packs.pending("platform", limit=999)}
    lost = [seq for note in store.packs.losses() for seq in range(note.first, note.last + 1)]
    kept = [pack.seq for pack in make.made if pack.data in sent]
    assert sorted(kept + lost) == list(range(1, 302)) and len(sent) == len(kept) >= least
    store.packs.commit([make(birth=True)])
    store.close()


@pytest.mark.parametrize(
    "change",
    ["births SET hash = zeroblob(32)", "births SET hash = x''", "births SET hash = 5", "births SET pack = pack + 1024",
     "streams SET birth = zeroblob(32)", "streams SET birth = NULL"],
)  # fmt: skip
def test_a_changed_hash_of_a_birth_is_restored(path: Path, change: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is stored once for all packs of a birth, so each of them went out with another hash, and none was verified.

    # field pain 52
    """
    make = filled(path, 20)
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute(f"UPDATE {change}")
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is None and "restored" in caplog.text
    store.packs.commit([make()])
    assert [item.data for item in store.packs.pending("platform", limit=99)] == [pack.data for pack in make.made]
    store.close()


def test_a_changed_hash_of_an_earlier_birth_is_restored_by_the_daily_check(path: Path) -> None:
    """The check deleted the packs, which were intact. # field pain 52"""
    make = filled(path, 20)
    store = Store.open(path, CAP, destinations=["platform"])
    store.packs.commit([make(birth=True), make()])
    store.db.execute("UPDATE births SET hash = zeroblob(32) WHERE pack = 1")
    check = store.start_check({pack.data for pack in make.made}.__contains__)
    while check.step():
        pass
    assert not check.bad_packs and check.packs == len(make.made)
    assert [pack.data for pack in stored(store, make.stream)] == [pack.data for pack in make.made]
    store.close()


def test_a_changed_hash_of_a_head_is_restored(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The next pack would not follow the one before, and every verifier would call the chain forked. # field pain 52"""
    make = filled(path, 20)
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("UPDATE streams SET hash = zeroblob(32)")
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is None and "the row of the stream park7/gw01/inv1" in caplog.text
    assert store.packs.heads()[make.stream].hash == make.made[-1].hash
    store.close()
    caplog.clear()
    Store.open(path, CAP, destinations=["platform"]).close()
    assert not caplog.records
