"""The tables, as migrations that only add. sqlite-utils, which applies them, is imported only when needed.

With sqlite-utils a start takes 45 ms and 5 MB more (decision 0010). So a current database is opened without it. A new
database is created by executing the same steps directly and recording them in the same way.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from agent.store.rows import encode_copy

SET = "meterhouse"
# The members of ``rows.PackRow``, of a pack ``p`` with the birth ``b``. The cast reads the bytes as they are, even if
# one flipped bit on the disk has turned a blob into a text, which Python could not decode.
PACKED = (
    "p.id, p.stream, p.boot, p.seq, p.from_ms, p.span_ms, p.is_birth, p.birth, p.dictionary, p.crc,"
    " CAST(p.body AS BLOB), CAST(b.hash AS BLOB)"
)
PACK_OF = f"SELECT {PACKED} FROM packs p LEFT JOIN births b ON b.pack = p.birth"
TALLY = 1 << 62  # ``outbox.pack`` of the row that counts the other rows of its destination

# A u64 (ring ids, boots) is stored as the signed 64-bit integer with the same bits. Times are UTC milliseconds. For
# ``body`` of packs, see codec.py, which was called body.py when this step was released.
_FIRST = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE TABLE boots (id INTEGER PRIMARY KEY, boot INTEGER NOT NULL UNIQUE);

-- one row a stream: its head, and up to where its ring is sealed. The last three columns are the number of stored
-- packs, and the sums of their seq and id; ``crc`` is of the other columns (``rows.stream_crc``)
CREATE TABLE streams (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    boot INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL,
    to_ms INTEGER NOT NULL,
    birth BLOB,               -- hash of the birth in force
    birth_pack INTEGER,       -- and its id: never pruned
    ring_id INTEGER NOT NULL,
    ring_pos INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    packs INTEGER NOT NULL DEFAULT 0,
    seqs INTEGER NOT NULL DEFAULT 0,
    ids INTEGER NOT NULL DEFAULT 0
);

-- ids grow by one in the order of commits and are never used twice
CREATE TABLE packs (
    id INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    boot INTEGER NOT NULL,    -- boots.id
    seq INTEGER NOT NULL,
    from_ms INTEGER NOT NULL,
    span_ms INTEGER NOT NULL, -- to - from
    is_birth INTEGER NOT NULL,
    birth INTEGER NOT NULL,   -- births.pack, if the body leaves that hash out; else 0
    dictionary INTEGER NOT NULL, -- 0: none
    crc INTEGER NOT NULL,     -- of all other columns and the hash of the birth, see ``rows.pack_crc``
    body BLOB NOT NULL        -- see body.py
);
-- the hash of a birth pack, which all packs after it carry
CREATE TABLE births (pack INTEGER PRIMARY KEY, hash BLOB NOT NULL);
CREATE INDEX packs_seq ON packs (stream, seq);
CREATE INDEX packs_birth ON packs (stream, seq) WHERE is_birth;

-- for zstd; made from packs of this very database
CREATE TABLE dictionaries (id INTEGER PRIMARY KEY, first_pack INTEGER NOT NULL, body BLOB NOT NULL);

CREATE TABLE destinations (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, seen_ms INTEGER NOT NULL);
-- the row with the pack TALLY has the number of the other rows of its destination, and the sum of their ``pack``
CREATE TABLE outbox (
    destination INTEGER NOT NULL, pack INTEGER NOT NULL, packs INTEGER, ids INTEGER, PRIMARY KEY (destination, pack)
) WITHOUT ROWID;

-- copies of all rows of small tables, with a checksum (``rows.encode_copy``)
CREATE TABLE row_copies (tbl TEXT NOT NULL, key NOT NULL, body BLOB NOT NULL, PRIMARY KEY (tbl, key)) WITHOUT ROWID;
-- the newest packs that were deleted because their row was changed, as they were found
CREATE TABLE set_aside (id INTEGER PRIMARY KEY, at TEXT NOT NULL, body BLOB NOT NULL);

-- the point tables that ring records were written with
CREATE TABLE documents (hash BLOB PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE tables (
    ring_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    stream TEXT NOT NULL,
    document BLOB NOT NULL,
    PRIMARY KEY (ring_id, number)
) WITHOUT ROWID;

-- what the size cap dropped before it was confirmed; stated_in: the pack that says so, NULL if none does
CREATE TABLE losses (
    id INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    boot INTEGER NOT NULL,    -- boots.id
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    from_ms INTEGER NOT NULL,
    to_ms INTEGER NOT NULL,
    hash BLOB NOT NULL,       -- of last
    reason TEXT NOT NULL,
    stated_in INTEGER
);
CREATE INDEX losses_range ON losses (stream, boot, last);
CREATE INDEX losses_stated ON losses (stated_in);

-- events and configs are not used. They stay: an older version takes a database without them for damaged
CREATE TABLE events (
    id INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, stream TEXT, kind TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX events_time ON events (time_ms);
CREATE TABLE configs (hash TEXT PRIMARY KEY, time_ms INTEGER NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;

-- signed objects, as published
CREATE TABLE key_records (counter INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE checkpoints (
    page INTEGER NOT NULL, counter INTEGER NOT NULL, time_ms INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (page, counter)
) WITHOUT ROWID;
"""

# Facts about the device of a stream, as JSON texts. They stay when retention deletes the births of the stream.
_DEVICES = """
CREATE TABLE devices (stream TEXT PRIMARY KEY, facts BLOB, learned BLOB) WITHOUT ROWID;
"""

# The energy by interval, in pages of ``agent.intervals.page_format``. Rows are only added, and the pages of a day are
# merged into one page with the same content. A state is needed to continue after pack ``seq``. Only states are
# replaced.
_INTERVALS = """
CREATE TABLE interval_shapes (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, body BLOB NOT NULL);
CREATE TABLE interval_pages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stream INTEGER NOT NULL,  -- streams.id
    from_ms INTEGER NOT NULL,
    to_ms INTEGER NOT NULL,
    shape INTEGER NOT NULL,
    folded INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX interval_pages_time ON interval_pages (stream, from_ms);
CREATE INDEX interval_pages_open ON interval_pages (from_ms, stream) WHERE NOT folded;
CREATE TABLE interval_states (stream INTEGER PRIMARY KEY, seq INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE interval_changes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL
);
"""

# Declarations that people attest, as JSON objects. Rows are only added.
_DECLARED = """
CREATE TABLE declared (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at_ms INTEGER NOT NULL, body TEXT NOT NULL);
"""

# The progress of repairs, which compare the intervals of a stream with its packs. The intervals from ``before_ms`` on
# match the packs; 0: all match. ``seq``: the sequence of the stored state that caused the repair, because another
# version or other settings had made it.
_REPAIRS = """
CREATE TABLE interval_repairs (stream INTEGER PRIMARY KEY, seq INTEGER NOT NULL, before_ms INTEGER NOT NULL);
"""

# ``crc`` is the CRC-32 of the page's body. It is NULL in pages that an older version wrote.
_CHECKED_PAGES = "ALTER TABLE interval_pages ADD COLUMN crc INTEGER;"

# Gaps by interval and reason (``agent.intervals.gap_sums``). ``crc`` is the CRC-32 of the other columns as text. In
# ``interval_gap_starts``, the gaps of a stream are known only for intervals that begin at ``from_ms`` or later.
_GAPS = """
CREATE TABLE interval_gaps (
    stream INTEGER NOT NULL,  -- streams.id
    start_ms INTEGER NOT NULL,
    reason TEXT NOT NULL,
    ms INTEGER NOT NULL,
    whole_ms INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    PRIMARY KEY (stream, start_ms, reason)
) WITHOUT ROWID;
CREATE TABLE interval_gap_starts (stream INTEGER PRIMARY KEY, from_ms INTEGER NOT NULL);
"""

# The tables whose rows are copied to ``row_copies``: nothing else could restore them. The first column is the key.
COPIED = {
    "meta": ("name", "value"),
    "boots": ("id", "boot"),
    "births": ("pack", "hash"),
    "dictionaries": ("id", "first_pack", "body"),
    "destinations": ("id", "name", "seen_ms"),
    "losses": ("id", "stream", "boot", "first", "last", "from_ms", "to_ms", "hash", "reason", "stated_in"),
}
# The triggers belong to the connection of the agent, so whoever else changes the file is noticed.
_TALLIES = """
CREATE TEMP TRIGGER outbox_added AFTER INSERT ON main.outbox WHEN NEW.packs IS NULL BEGIN
    UPDATE outbox SET packs = packs + 1, ids = ids + NEW.pack WHERE destination = NEW.destination AND pack = {tally};
END;
CREATE TEMP TRIGGER outbox_removed AFTER DELETE ON main.outbox BEGIN
    UPDATE outbox SET packs = packs - 1, ids = ids - OLD.pack WHERE destination = OLD.destination AND pack = {tally};
END;
CREATE TEMP TRIGGER destinations_added AFTER INSERT ON main.destinations BEGIN
    INSERT OR IGNORE INTO outbox (destination, pack, packs, ids) VALUES (NEW.id, {tally}, 0, 0);
END;
CREATE TEMP TRIGGER packs_added AFTER INSERT ON main.packs BEGIN
    UPDATE streams SET packs = packs + 1, seqs = seqs + NEW.seq, ids = ids + NEW.id WHERE id = NEW.stream;
END;
CREATE TEMP TRIGGER packs_removed AFTER DELETE ON main.packs BEGIN
    UPDATE streams SET packs = packs - 1, seqs = seqs - OLD.seq, ids = ids - OLD.id WHERE id = OLD.stream;
END;
"""
_COPY = """
CREATE TEMP TRIGGER {table}_{event} AFTER {event} ON main.{table} BEGIN
    DELETE FROM row_copies WHERE tbl = '{table}' AND key = NEW.{key};
    INSERT INTO row_copies (tbl, key, body) VALUES ('{table}', NEW.{key}, row_copy('{table}', {values}));
END;
"""
_UNCOPY = """
CREATE TEMP TRIGGER {table}_DELETE AFTER DELETE ON main.{table} BEGIN
    DELETE FROM row_copies WHERE tbl = '{table}' AND key = OLD.{key};
END;
"""

Steps = tuple[tuple[str, str], ...]  # name, SQL
# Steps may be appended, but a released step must never be edited.
STEPS: Steps = (
    ("0001_first", _FIRST),
    ("0002_devices", _DEVICES),
    ("0003_intervals", _INTERVALS),
    ("0004_declared", _DECLARED),
    ("0005_interval_repairs", _REPAIRS),
    ("0006_checked_interval_pages", _CHECKED_PAGES),
    ("0007_interval_gaps", _GAPS),
)
# Within a major number, steps only add tables and columns, so that an older version can open the database of a newer
# one. A step that an older version could not handle must raise MAJOR. The older version then refuses to open the
# database. PRAGMA user_version holds MAJOR * MAJOR_STEP + the number of steps.
MAJOR = 0
MAJOR_STEP = 1000
VERSION = MAJOR * MAJOR_STEP + len(STEPS)  # user_version of a current database

# sqlite-utils 4 records steps in this table, so it also recognises the steps of a database that was created without it.
_RECORDS = """
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
"""


def create(conn: sqlite3.Connection, steps: Steps = STEPS) -> None:
    """Create all tables in an empty database."""
    conn.execute("BEGIN IMMEDIATE")
    _run(conn, _RECORDS)
    for name, sql in steps:
        _run(conn, sql)
        conn.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (?, ?, ?)",
            (SET, name, str(datetime.now(UTC))),
        )
    conn.execute(f"PRAGMA user_version = {MAJOR * MAJOR_STEP + len(steps)}")
    conn.execute("COMMIT")


def add_triggers(conn: sqlite3.Connection) -> None:
    """Keep the tallies and the copies of rows up to date, for all statements of this connection."""
    conn.create_function("row_copy", -1, lambda table, *values: encode_copy(table, values), deterministic=True)
    _run(conn, _TALLIES.format(tally=TALLY))
    for table, (key, *more) in COPIED.items():
        values = ", ".join(f"NEW.{name}" for name in (key, *more))
        for event in ("INSERT", "UPDATE"):
            _run(conn, _COPY.format(table=table, event=event, key=key, values=values))
        _run(conn, _UNCOPY.format(table=table, key=key))


def missing_columns(conn: sqlite3.Connection) -> str:
    """Return the columns that a current database lacks, as ``table.column``; "" if it lacks none.

    A flipped bit in the definition of a table can rename a column, which SQLite does not notice.
    """
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        create(fresh)
        missing = _columns(fresh) - _columns(conn)
    return ", ".join(sorted(f"{table}.{column}" for table, column in missing)[:5])


def _columns(conn: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(
        conn.execute("SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table'")
    )


def upgrade(conn: sqlite3.Connection, steps: Steps = STEPS) -> None:
    """Migrate a database of an older version."""
    from sqlite_utils import Database, Migrations

    migrations = Migrations(SET)
    for name, sql in steps:
        migrations(name=name)(_step(sql))
    migrations.apply(Database(conn))
    conn.execute(f"PRAGMA user_version = {MAJOR * MAJOR_STEP + len(steps)}")


def _step(sql: str) -> Callable[[Any], None]:
    return lambda db: _run(db.conn, sql)


def _run(conn: sqlite3.Connection, sql: str) -> None:
    """Execute a script statement by statement, because ``executescript`` would commit first."""
    for statement in split(sql):
        conn.execute(statement)


def split(sql: str) -> list[str]:
    """Split a script into its statements."""
    found, start = [], 0
    for at, char in enumerate(sql):
        if char == ";" and sqlite3.complete_statement(sql[start : at + 1]):
            found.append(sql[start : at + 1].strip())
            start = at + 1
    return [*found, rest] if (rest := sql[start:].strip()) else found
