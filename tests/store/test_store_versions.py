"""Upgrade and rollback: within a major version each opens the other's database; another major is refused."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

from agent.store import Store, StoreNewer, schema
from tests.kits.packs import START_MS, Maker

# what a later version of the same major may do, and what it may not
ADDS = re.compile(
    r"CREATE (UNIQUE )?(TABLE|INDEX|VIEW)\b|ALTER TABLE \w+ ADD COLUMN (?!.*NOT NULL(?!.*DEFAULT))", re.S | re.I
)
LATER = ("CREATE TABLE later (a)", "CREATE INDEX later_packs ON packs (later)")


def newer_minor(path: Path) -> int:
    """Change a database as a newer version of this major would; returns its version."""
    conn = sqlite3.connect(path, isolation_level=None)
    tables = [name for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    ours = [name for name in tables if not name.startswith(("sqlite_", "_"))]
    added = [f"ALTER TABLE {name} ADD COLUMN later INTEGER" for name in ours]
    for statement in (*added, *LATER):
        assert ADDS.match(statement)
        conn.execute(statement)
    version = schema.VERSION + 3
    conn.execute(f"PRAGMA user_version = {version}")
    conn.close()
    return version


def open_store(path: Path) -> Store:
    return Store.open(path, max_size_bytes=64 << 20, destinations=["platform"], now_ms=START_MS)


def version_of(path: Path) -> int:
    conn = sqlite3.connect(path)
    found = int(conn.execute("PRAGMA user_version").fetchone()[0])
    conn.close()
    return found


def test_every_step_only_adds() -> None:
    """A step that removes or changes something needs a new MAJOR."""
    for name, sql in schema.STEPS:
        for statement in schema.split(sql):
            bare = re.sub(r"^(--.*\n|\s)+", "", statement)
            assert ADDS.match(bare), f"{name}: {bare[:80]}"


@pytest.mark.parametrize("known", range(1, len(schema.STEPS)))
def test_a_database_of_each_older_version_is_taken_over_with_its_rows(tmp_path: Path, known: int) -> None:
    path = tmp_path / "store.db"
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
    conn.execute("PRAGMA page_size = 4096")
    schema.create(conn, schema.STEPS[:known])
    conn.execute("INSERT INTO meta VALUES ('kept', 'yes')")
    conn.execute(f"PRAGMA user_version = {known}")
    conn.close()
    store = open_store(path)
    store.packs.commit([Maker("park7/gw01/m1")(birth=True)])
    store.close()
    conn = sqlite3.connect(path)
    assert conn.execute("SELECT value FROM meta WHERE name = 'kept'").fetchone() == ("yes",)
    conn.close()
    assert version_of(path) == schema.VERSION


def test_rollback_opens_the_same_file_and_loses_nothing(tmp_path: Path) -> None:
    """Old, new, old, new: one stream continues through all, and the newer version's additions stay."""
    path = tmp_path / "store.db"
    maker = Maker("park7/gw01/m1")
    store = open_store(path)
    store.packs.commit([maker(birth=True)])
    store.close()
    version = newer_minor(path)
    store = open_store(path)
    assert store.packs.heads()["park7/gw01/m1"].seq == 1
    ids = store.packs.commit([maker() for _ in range(3)])
    store.packs.commit([], {"platform": ids[:1]})
    assert len(store.packs.pending("platform")) == 3
    store.prune(START_MS)
    store.documents.register_tables(7, [(0, "park7/gw01/m1", b'{"points":[]}')])
    store.keys.add(1, b"{}")
    store.close()
    assert version_of(path) == version, "the newer version must not migrate twice"
    conn = sqlite3.connect(path)
    assert conn.execute("SELECT count(*), count(later) FROM packs").fetchone() == (4, 0)
    conn.close()


def test_a_newer_major_is_refused_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    open_store(path).close()
    conn = sqlite3.connect(path)
    conn.execute(f"PRAGMA user_version = {(schema.MAJOR + 1) * schema.MAJOR_STEP + 1}")
    conn.close()
    before = path.read_bytes()
    with pytest.raises(StoreNewer) as refused:
        open_store(path)
    said = str(refused.value)
    assert refused.value.exit_code == 3 and "newer major version" in said and "Install the newer version again" in said
    assert "Never restore an older copy" in said
    assert path.read_bytes() == before, "and nothing was touched"


def test_no_statement_of_a_step_is_passed_over() -> None:
    """Also a last one without a semicolon: the version would count it as done."""
    assert schema.split("CREATE TABLE a (b);\nALTER TABLE a ADD COLUMN c\n") == [
        "CREATE TABLE a (b);", "ALTER TABLE a ADD COLUMN c",
    ]  # fmt: skip
    assert schema.split("CREATE TABLE a (b);\n") == ["CREATE TABLE a (b);"]
