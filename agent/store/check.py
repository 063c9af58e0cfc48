"""A scheduled check of the whole store, in slices of about 20 ms between the other work of the database thread.

``PRAGMA quick_check`` blocks the thread until it has read the whole file, and nothing is sealed meanwhile. On a
separate connection it would keep the WAL from being reset. So this pragma is used only for a small file.

A file of any size is checked as follows: every row of every table is read, which visits every page of the tables, and
every pack is decoded and verified. This finds more damage than SQLite can, because SQLite does not notice a flipped bit
inside a value.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator

from agent.store.errors import damage_error
from agent.store.rows import PackRow
from agent.store.schema import PACK_OF
from agent.store.sqlite import PAGE_BYTES, Database

WHOLE_BYTES = 16 << 20  # for a file up to this size, SQLite's own check takes only a few milliseconds
SLICE_S = 0.02
CHUNK = 16  # rows read in one query


class StoreCheck:
    """One check of the whole store, created by ``Store.start_check``. Use it only in the database thread.

    Args:
        drop_if_bad: gets the row of a pack. It verifies the pack, and restores or deletes it if its row was changed.
            It returns True if it deleted the pack.
    """

    def __init__(self, db: Database, drop_if_bad: Callable[[PackRow], bool]) -> None:
        self._db, self._drop_if_bad = db, drop_if_bad
        self._walk = self._all()
        self.rows = 0
        self.packs = 0
        # number of packs that were deleted because their bytes had changed; those that a destination waits for become
        # losses
        self.bad_packs = 0

    def step(self, seconds: float = SLICE_S) -> bool:
        """Continue the check for about ``seconds``. Returns False when the check is complete.

        Raises:
            StoreDamaged: SQLite reports damage, or an index does not match its table.
        """
        end = time.perf_counter() + seconds
        with self._db.translated_errors():
            for _ in self._walk:
                if time.perf_counter() >= end:
                    return True
        return False

    def _all(self) -> Iterator[None]:
        if self._db.pages * PAGE_BYTES <= WHOLE_BYTES:
            (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise damage_error(found)
            yield
        for (name,) in self._db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            yield from self._packs() if name == "packs" else self._rows(name)
        for name, table, sql in self._db.execute(
            "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
        ).fetchall():
            if name != "packs_seq":  # ``_packs`` already checks the index packs_seq
                part = sql.partition(" WHERE ")[2]
                where = f"WHERE {part}" if part else ""
                self._db.execute(f'SELECT total(rowid) FROM "{table}" INDEXED BY "{name}" {where}').fetchone()
            yield

    def _rows(self, table: str) -> Iterator[None]:
        """Read every row of a table, in the order of its key."""
        facts = self._db.execute(f'PRAGMA table_info("{table}")').fetchall()
        key = [name for _, name, *_, place in sorted(facts, key=lambda fact: fact[5]) if place]
        try:
            self._db.execute(f'SELECT rowid FROM "{table}" LIMIT 0')
            key = ["rowid"]
        except sqlite3.OperationalError:  # WITHOUT ROWID
            pass
        names, marks = ", ".join(name if name == "rowid" else f'"{name}"' for name in key), ", ".join("?" * len(key))
        at: tuple[object, ...] = ()
        while True:
            after = f"WHERE ({names}) > ({marks})" if at else ""
            rows = self._db.execute(
                f'SELECT {names}, * FROM "{table}" {after} ORDER BY {names} LIMIT {CHUNK}', at
            ).fetchall()
            self.rows += len(rows)
            yield
            if len(rows) < CHUNK:
                return
            at = rows[-1][: len(key)]

    def _packs(self) -> Iterator[None]:
        at = 0
        while True:
            with self._db.lenient_texts():
                rows = self._db.execute(f"{PACK_OF} WHERE p.id > ? ORDER BY p.id LIMIT ?", (at, CHUNK)).fetchall()
            for row in map(PackRow._make, rows):
                at = row.id
                self.packs += 1
                found = self._db.execute(
                    "SELECT count(*) FROM packs INDEXED BY packs_seq WHERE stream IS ? AND seq IS ? AND id = ?",
                    (row.stream, row.seq, row.id),
                ).fetchone()[0]
                if not found:
                    raise damage_error(f"pack {row.id} is not in its index")
                self.bad_packs += self._drop_if_bad(row)
            self.rows += len(rows)
            yield
            if len(rows) < CHUNK:
                return
