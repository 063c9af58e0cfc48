"""What the store keeps beside packs: point tables, key records, checkpoints, events, configurations."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import zstandard

from agent.store.streams import StoredTable, signed
from agent.zstd import read_frame

KEEP_EVENTS = 20_000
KEEP_CHECKPOINTS, KEEP_DAYS = 750, 400  # the newest, and the first of each day: a month of hours, a year of days
MAX_DOCUMENT_BYTES = 32 * 1024 * 1024


class Records:
    """Half of a store; the other half gives the connection and the transaction."""

    _conn: sqlite3.Connection

    def _transaction(self) -> AbstractContextManager[None]:
        raise NotImplementedError

    def _keep(self, name: str, value: object) -> None:
        """A value under a name, within the caller's transaction."""
        self._conn.execute(
            "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
            (name, value),
        )

    def declare(self, number: str, at_ms: int, body: Mapping[str, Any]) -> None:
        """Keep what a person attests. Durable on return. ValueError: an entry of this id is there already."""
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        with self._transaction():
            added = self._conn.execute(
                "INSERT INTO declared (id, at_ms, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (number, at_ms, text)
            ).rowcount
        if not added:
            raise ValueError(f"{number} is declared already")

    def declarations(self) -> list[dict[str, Any]]:
        """All that was ever attested, in the order of entry."""
        return [json.loads(text) for (text,) in self._conn.execute("SELECT body FROM declared ORDER BY number")]

    def register_table(self, ring_id: int, number: int, stream: str, document: Mapping[str, Any]) -> None:
        """Keep what table ``number`` of a ring means. Durable on return: to be called before the first record."""
        self.register_tables(ring_id, [(number, stream, document)])

    def register_tables(self, ring_id: int, entries: Iterable[tuple[int, str, Mapping[str, Any] | bytes]]) -> None:
        """Several (number, stream, document) in one commit. A number keeps its first meaning: a second is refused.

        A document may come as its JSON text: a hundred tables as objects take more memory than all the rest.
        """
        compress = zstandard.ZstdCompressor(level=3).compress
        with self._transaction():
            for number, stream, document in entries:
                text = document
                if not isinstance(text, bytes):
                    text = json.dumps(text, ensure_ascii=False, separators=(",", ":")).encode()
                digest = hashlib.sha256(text).digest()
                self._conn.execute(
                    "INSERT INTO documents (hash, body) VALUES (?, ?) ON CONFLICT DO NOTHING", (digest, compress(text))
                )
                self._conn.execute(
                    "INSERT INTO tables (ring_id, number, stream, document) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (signed(ring_id), number, stream, digest),
                )
                kept = self._conn.execute(
                    "SELECT stream, document FROM tables WHERE ring_id = ? AND number = ?", (signed(ring_id), number)
                ).fetchone()
                if kept != (stream, digest):
                    raise ValueError(f"table {number} of ring {ring_id:016x} is already {kept[0]} in another shape")

    def tables(self, ring_id: int) -> dict[int, StoredTable]:
        """All tables of a ring by number."""
        rows = self._conn.execute(
            "SELECT t.number, t.stream, d.body FROM tables t JOIN documents d ON d.hash = t.document"
            " WHERE t.ring_id = ?",
            (signed(ring_id),),
        ).fetchall()
        found = {}
        for number, stream, body in rows:
            # what the disk has spoilt names nothing: the records of a table that is not known are set aside
            with contextlib.suppress(ValueError, RecursionError):
                document = json.loads(read_frame(body, MAX_DOCUMENT_BYTES))
                found[number] = StoredTable(stream, document)
        return found

    def forget_rings(self, keep: Collection[int]) -> None:
        """Drop the tables of all rings but these, once nothing of the others is left to seal."""
        marks = ",".join("?" * len(keep))
        with self._transaction():
            self._conn.execute(f"DELETE FROM tables WHERE ring_id NOT IN ({marks})", [signed(r) for r in keep])
            self._conn.execute("DELETE FROM documents WHERE hash NOT IN (SELECT document FROM tables)")

    def _keep_facts(self, stream: str, text: bytes) -> None:
        self._conn.execute(
            "INSERT INTO devices (stream, facts) VALUES (?, ?) ON CONFLICT DO UPDATE SET facts = excluded.facts",
            (stream, text),
        )

    def keep_facts(self, stream: str, text: bytes) -> None:
        """Keep what a device said it is, where no birth has to say so."""
        with self._transaction():
            self._keep_facts(stream, text)

    def keep_learned(self, stream: str, text: bytes | None) -> None:
        """Keep what a device taught its driver; None: nothing any more."""
        with self._transaction():
            self._conn.execute(
                "INSERT INTO devices (stream, learned) VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET learned = excluded.learned",
                (stream, text),
            )

    def devices(self) -> dict[str, tuple[bytes | None, bytes | None]]:
        """(facts, what the driver learned) of the devices behind all streams."""
        rows = self._conn.execute("SELECT stream, facts, learned FROM devices").fetchall()
        return {stream: (facts, learned) for stream, facts, learned in rows}

    def add_key_record(self, counter: int, body: bytes) -> None:
        """Keep a signed key record object, as published."""
        with self._transaction():
            self._conn.execute("INSERT OR IGNORE INTO key_records (counter, body) VALUES (?, ?)", (counter, body))

    def key_record(self) -> tuple[int, bytes] | None:
        """(counter, object) of the newest one."""
        row: tuple[int, bytes] | None = self._conn.execute(
            "SELECT counter, body FROM key_records ORDER BY counter DESC LIMIT 1"
        ).fetchone()
        return row

    def drop_key_record(self, counter: int) -> None:
        """Forget one that is not what was signed."""
        with self._transaction():
            self._conn.execute("DELETE FROM key_records WHERE counter = ?", (counter,))

    def key_chains(self) -> list[bytes]:
        """The newest object of each chain of keys, oldest first: a key that stands for a lost one begins another."""
        chains: dict[str, bytes] = {}
        for (body,) in self._conn.execute("SELECT body FROM key_records ORDER BY counter").fetchall():
            chains[json.loads(body)["records"][0]["kid"]] = body
        return list(chains.values())

    def add_checkpoint(self, page: int, counter: int, time_ms: int, body: bytes) -> None:
        """Keep a signed checkpoint page, as published."""
        with self._transaction():
            self._conn.execute(
                "INSERT OR REPLACE INTO checkpoints (page, counter, time_ms, body) VALUES (?, ?, ?, ?)",
                (page, counter, time_ms, body),
            )

    def chain_checkpoint(
        self, make: Callable[[list[tuple[int, int, bytes]]], Iterable[tuple[int, int, int, bytes]]]
    ) -> None:
        """Keep all pages of the next checkpoint in one transaction, and of old ones the first of each UTC day.

        Args:
            make: from the newest (page, counter, object) of each page to rows (page, counter, time_ms, object); page 0
                stands for pages that are lost, whose counter was at least that.
        """
        with self._transaction():
            before = self.newest_checkpoints()
            if self._conn.execute("DELETE FROM meta WHERE name = 'checkpoints_lost' RETURNING value").fetchone():
                before = [(0, counter, b"") for _, counter, _ in before]  # others followed them, and are gone
            for row in make(before):
                self._conn.execute("INSERT INTO checkpoints (page, counter, time_ms, body) VALUES (?, ?, ?, ?)", row)
            self._conn.execute(
                "WITH c AS (SELECT DISTINCT counter, time_ms / 86400000 AS day FROM checkpoints),"
                " kept AS (SELECT counter FROM (SELECT counter FROM c ORDER BY counter DESC LIMIT ?) UNION ALL"
                " SELECT counter FROM (SELECT min(counter) AS counter FROM c GROUP BY day ORDER BY day DESC LIMIT ?))"
                " DELETE FROM checkpoints WHERE counter NOT IN (SELECT counter FROM kept)",
                (KEEP_CHECKPOINTS, KEEP_DAYS),
            )

    def checkpoints(self, from_ms: int, to_ms: int) -> list[tuple[int, int, bytes]]:
        """(page, counter, object) of those made in ``[from_ms, to_ms)``, oldest first."""
        return self._conn.execute(
            "SELECT page, counter, body FROM checkpoints WHERE time_ms >= ? AND time_ms < ? ORDER BY time_ms, page",
            (from_ms, to_ms),
        ).fetchall()

    def checkpoint_keys(self, from_ms: int, to_ms: int) -> list[tuple[int, int]]:
        """(page, counter) of those made in ``[from_ms, to_ms)``, oldest first."""
        return self._conn.execute(
            "SELECT page, counter FROM checkpoints WHERE time_ms >= ? AND time_ms < ? ORDER BY time_ms, page, counter",
            (from_ms, to_ms),
        ).fetchall()

    def checkpoint(self, page: int, counter: int) -> bytes | None:
        """One of them, if it is still here."""
        row = self._conn.execute(
            "SELECT body FROM checkpoints WHERE page = ? AND counter = ?", (page, counter)
        ).fetchone()
        return row[0] if row else None

    def newest_checkpoints(self) -> list[tuple[int, int, bytes]]:
        """(page, counter, object) of the newest of each page."""
        return self._conn.execute(
            "SELECT page, max(counter), body FROM checkpoints GROUP BY page ORDER BY page"
        ).fetchall()

    def spend(self, destination: str, day: int, size: int) -> int:
        """Add to what was replayed to ``destination`` on a UTC day; returns that day's sum and forgets other days."""
        name = f"replayed {destination}"
        row = self._conn.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        kept, _, spent = str(row[0]).partition(" ") if row else ("", "", "0")
        total = size + (int(spent) if kept == str(day) else 0)
        if size:
            with self._transaction():
                self._keep(name, f"{day} {total}")
        return total

    def add_event(self, time_ms: int, kind: str, body: Mapping[str, Any], stream: str | None = None) -> None:
        """Note something for the technician's history. The signed road for events is the pack."""
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        with self._transaction():
            number = self._conn.execute(
                "INSERT INTO events (time_ms, stream, kind, body) VALUES (?, ?, ?, ?)", (time_ms, stream, kind, text)
            ).lastrowid
            self._conn.execute("DELETE FROM events WHERE id <= ?", ((number or 0) - KEEP_EVENTS,))

    def events(self, from_ms: int, to_ms: int, limit: int = 1000) -> list[tuple[int, str | None, str, dict[str, Any]]]:
        """(time, stream, kind, body) of the newest ``limit`` in ``[from_ms, to_ms)``, newest first."""
        rows = self._conn.execute(
            "SELECT time_ms, stream, kind, body FROM events WHERE time_ms >= ? AND time_ms < ?"
            " ORDER BY time_ms DESC, id DESC LIMIT ?",
            (from_ms, to_ms, limit),
        )
        return [(time_ms, stream, kind, json.loads(body)) for time_ms, stream, kind, body in rows]

    def add_config(self, digest: str, time_ms: int, text: bytes) -> None:
        """Keep a configuration that was in force from ``time_ms`` on, once."""
        with self._transaction():
            self._conn.execute(
                "INSERT INTO configs (hash, time_ms, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (digest, time_ms, zstandard.ZstdCompressor(level=9).compress(text)),
            )
