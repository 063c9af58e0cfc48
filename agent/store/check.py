"""A look at all that the store holds, on a schedule, in slices of some milliseconds between other work of its thread.

``PRAGMA quick_check`` would hold the thread, and so sealing, for as long as it takes to read the file, or keep the WAL
from being reset if a connection of its own ran it. So a file of more than a few megabytes is walked: every row of every
table is read whole, which meets every page of every table, and every pack is turned back into its bytes and checked.
That finds more than SQLite can: a bit that a worn card turned around inside a value is no damage to the database.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

from agent.store.errors import StoreError
from agent.store.sqlite import PAGE_BYTES

WHOLE_BYTES = 16 << 20  # up to here SQLite's own check takes some milliseconds
SLICE_S = 0.02
CHUNK = 16  # rows read at once


class Inspection:
    """One walk, made by ``Store.inspect``. Belongs to the store's thread.

    Args:
        explain: makes our error of one of SQLite's.
        look: (id, how the pack lies in its row) to: was it bad, and is it dropped?
    """

    def __init__(
        self,
        conn: sqlite3.Connection,
        explain: Callable[[sqlite3.Error], StoreError],
        look: Callable[[int, list[Any]], bool],
    ) -> None:
        self._conn, self._explain, self._look = conn, explain, look
        self._walk = self._all()
        self.rows = 0
        self.packs = 0
        self.bad_packs = 0  # not what was sealed: dropped, and stated where somebody still waits for them

    def step(self, seconds: float = SLICE_S) -> bool:
        """Go on for a while. False at the end.

        Raises:
            StoreDamaged: SQLite says so, or a page is not what it must be.
        """
        end = time.perf_counter() + seconds
        try:
            for _ in self._walk:
                if time.perf_counter() >= end:
                    return True
        except sqlite3.Error as error:
            raise self._explain(error) from error
        return False

    def _all(self) -> Iterator[None]:
        pages: int = self._conn.execute("PRAGMA page_count").fetchone()[0]
        if pages * PAGE_BYTES <= WHOLE_BYTES:
            (found,) = self._conn.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise _damage(found)
            yield
        for (name,) in self._conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            yield from self._packs() if name == "packs" else self._rows(name)
        for name, table, sql in self._conn.execute(
            "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
        ).fetchall():
            if name != "packs_seq":  # that one is met with every pack
                part = sql.partition(" WHERE ")[2]
                where = f"WHERE {part}" if part else ""
                self._conn.execute(f'SELECT total(rowid) FROM "{table}" INDEXED BY "{name}" {where}').fetchone()
            yield

    def _rows(self, table: str) -> Iterator[None]:
        """Every row of a table, by its key."""
        facts = self._conn.execute(f'PRAGMA table_info("{table}")').fetchall()
        key = [name for _, name, *_, place in sorted(facts, key=lambda fact: fact[5]) if place]
        try:
            self._conn.execute(f'SELECT rowid FROM "{table}" LIMIT 0')
            key = ["rowid"]
        except sqlite3.OperationalError:  # WITHOUT ROWID
            pass
        names, marks = ", ".join(name if name == "rowid" else f'"{name}"' for name in key), ", ".join("?" * len(key))
        at: tuple[object, ...] = ()
        while True:
            after = f"WHERE ({names}) > ({marks})" if at else ""
            rows = self._conn.execute(
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
            rows = self._conn.execute(
                "SELECT p.id, p.stream, p.seq, p.dictionary, p.body, b.hash FROM packs p"
                " LEFT JOIN births b ON b.pack = p.birth WHERE p.id > ? ORDER BY p.id LIMIT ?",
                (at, CHUNK),
            ).fetchall()
            for number, stream, seq, *body in rows:
                at = number
                self.packs += 1
                found = self._conn.execute(
                    "SELECT count(*) FROM packs INDEXED BY packs_seq WHERE stream = ? AND seq = ? AND id = ?",
                    (stream, seq, number),
                ).fetchone()[0]
                if not found:
                    raise _damage(f"pack {number} is not in its index")
                self.bad_packs += self._look(number, body)
            self.rows += len(rows)
            yield
            if len(rows) < CHUNK:
                return


def _damage(what: str) -> sqlite3.DatabaseError:
    """As SQLite would say it."""
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error
