"""Documents that are stored beside the packs: point tables, device facts, key records, checkpoints, declarations."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import zstandard

from agent.keys import is_sound
from agent.store.sqlite import Database
from agent.store.streams import signed
from agent.zstd import read_frame

# The store keeps the newest 750 checkpoints (about a month, because one is made each hour), and the first checkpoint of
# each of the newest 400 days.
KEEP_CHECKPOINTS, KEEP_DAYS = 750, 400
# counters begin at the time in milliseconds and grow by 1; a counter above this is damaged (JSON numbers end at 2**53)
MOST_COUNTER = 1 << 52
MAX_DOCUMENT_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoredTable:
    """A point table. The records of a ring refer to it by its number."""

    stream: str
    document: dict[str, object]


class Documents:
    """Point tables, device facts, checkpoints and declarations.

    Everything is durable when the method that stored it returns.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def declare(self, number: str, at_ms: int, body: Mapping[str, Any]) -> None:
        """Store a declaration: values that a person attests. ``number``: its id.

        Raises ValueError if the id exists already.
        """
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        with self._db.transaction():
            added = self._db.execute(
                "INSERT INTO declared (id, at_ms, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (number, at_ms, text)
            ).rowcount
        if not added:
            raise ValueError(f"the declaration {number} already exists")

    def declarations(self) -> list[dict[str, Any]]:
        """Return all declarations, in the order of entry."""
        return [json.loads(text) for (text,) in self._db.query("SELECT body FROM declared ORDER BY number")]

    def register_tables(self, ring_id: int, entries: Iterable[tuple[int, str, Mapping[str, Any] | bytes]]) -> None:
        """Store the point tables of a ring. Call this before the ring gets the first record of these tables.

        ``entries``: (number, stream, document). A document may also be JSON text, because a hundred tables as objects
        would take more memory than everything else.

        Raises:
            ValueError: a number already belongs to another table. Nothing was stored.
        """
        compress = zstandard.ZstdCompressor(level=3).compress
        with self._db.transaction():
            for number, stream, document in entries:
                text = document
                if not isinstance(text, bytes):
                    text = json.dumps(text, ensure_ascii=False, separators=(",", ":")).encode()
                digest = hashlib.sha256(text).digest()
                self._db.execute(
                    "INSERT INTO documents (hash, body) VALUES (?, ?) ON CONFLICT DO NOTHING", (digest, compress(text))
                )
                self._db.execute(
                    "INSERT INTO tables (ring_id, number, stream, document) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (signed(ring_id), number, stream, digest),
                )
                kept = self._db.execute(
                    "SELECT stream, document FROM tables WHERE ring_id = ? AND number = ?", (signed(ring_id), number)
                ).fetchone()
                if kept != (stream, digest):
                    raise ValueError(
                        f"table {number} of ring {ring_id:016x} already belongs to the stream {kept[0]}, with another "
                        "list of points"
                    )

    def tables(self, ring_id: int) -> dict[int, StoredTable]:
        """Return all tables of a ring by number."""
        rows = self._db.execute(
            "SELECT t.number, t.stream, CAST(d.body AS BLOB) FROM tables t JOIN documents d ON d.hash = t.document"
            " WHERE t.ring_id = ?",
            (signed(ring_id),),
        ).fetchall()
        found = {}
        for number, stream, body in rows:
            # A damaged document is left out. The records of its table are then set aside, because their table is
            # unknown.
            with contextlib.suppress(ValueError, RecursionError):
                document = json.loads(read_frame(body, MAX_DOCUMENT_BYTES))
                found[number] = StoredTable(stream, document)
        return found

    def forget_rings(self, keep: Collection[int]) -> None:
        """Delete the tables of all rings except ``keep``. Call this when all records of the other rings are sealed."""
        marks = ",".join("?" * len(keep))
        with self._db.transaction():
            self._db.execute(f"DELETE FROM tables WHERE ring_id NOT IN ({marks})", [signed(r) for r in keep])
            self._db.execute("DELETE FROM documents WHERE hash NOT IN (SELECT document FROM tables)")

    def delete_tables(self, rings: Collection[int]) -> None:
        """Delete the tables of the given rings, if there are any."""
        marks = ",".join("?" * len(rings))
        with self._db.transaction():
            self._db.execute(f"DELETE FROM tables WHERE ring_id IN ({marks})", [signed(ring) for ring in rings])
            self._db.execute("DELETE FROM documents WHERE hash NOT IN (SELECT document FROM tables)")

    def keep_facts(self, facts: Mapping[str, bytes]) -> None:
        """Store the facts that devices report about themselves, by stream, as JSON text. This needs no birth."""
        with self._db.transaction():
            self._db.executemany(
                "INSERT INTO devices (stream, facts) VALUES (?, ?) ON CONFLICT DO UPDATE SET facts = excluded.facts",
                list(facts.items()),
            )

    def keep_learned(self, stream: str, text: bytes | None) -> None:
        """Store what the driver learned about a device's register map, as JSON text. None: delete the stored text."""
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO devices (stream, learned) VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET learned = excluded.learned",
                (stream, text),
            )

    def devices(self) -> dict[str, tuple[bytes | None, bytes | None]]:
        """Return (facts, what the driver learned) by stream, both as JSON text. None: nothing is stored."""
        rows = self._db.execute("SELECT stream, facts, learned FROM devices").fetchall()
        return {stream: (facts, learned) for stream, facts, learned in rows}

    def chain_checkpoint(
        self,
        make: Callable[[list[tuple[int, int, bytes]]], Iterable[tuple[int, int, int, bytes]]],
        is_intact: Callable[[int, int, bytes], bool] = lambda page, counter, body: True,
    ) -> int:
        """Store all pages of the next checkpoint in one transaction.

        Also delete old checkpoints (see ``KEEP_CHECKPOINTS``).

        Args:
            make: gets the newest (page, counter, object) of each page, and returns the new rows (page, counter,
                time_ms, object). If newer checkpoints were lost, each page that it gets has the number 0 and no object.
                In this case only the counter is useful: no lost page has a lower counter.
            is_intact: returns False for a (page, counter, object) that the disk has changed. Such checkpoints are
                deleted, and count as lost.

        Returns the number of deleted damaged checkpoints.
        """
        with self._db.transaction():
            deleted = self._delete_damaged(is_intact)
            before = self.newest_checkpoints()
            known = self._db.execute("DELETE FROM meta WHERE name = 'checkpoints_lost' RETURNING value").fetchone()
            if known or deleted:  # newer checkpoint pages were lost
                counters = [counter for _, counter, _ in before] + deleted
                before = [(0, counter, b"") for counter in counters]
            for row in make(before):
                self._db.execute("INSERT INTO checkpoints (page, counter, time_ms, body) VALUES (?, ?, ?, ?)", row)
            self._db.execute(
                "WITH c AS (SELECT DISTINCT counter, time_ms / 86400000 AS day FROM checkpoints),"
                " kept AS (SELECT counter FROM (SELECT counter FROM c ORDER BY counter DESC LIMIT ?) UNION ALL"
                " SELECT counter FROM (SELECT min(counter) AS counter FROM c GROUP BY day ORDER BY day DESC LIMIT ?))"
                " DELETE FROM checkpoints WHERE counter NOT IN (SELECT counter FROM kept)",
                (KEEP_CHECKPOINTS, KEEP_DAYS),
            )
        return len(deleted)

    def _delete_damaged(self, is_intact: Callable[[int, int, bytes], bool]) -> list[int]:
        """Delete the newest checkpoints until all their pages are intact.

        Returns the counters of the deleted checkpoints; 0 for a counter that is damaged too.
        """
        deleted: list[int] = []
        while bad := {row[1] for row in self.newest_checkpoints() if not is_intact(*row)}:
            if not self._db.executemany(
                "DELETE FROM checkpoints WHERE counter = ?", [(found,) for found in bad]
            ).rowcount:
                break
            deleted += [found if isinstance(found, int) and 0 < found < MOST_COUNTER else 0 for found in bad]
        return deleted

    def checkpoint_keys(self, from_ms: int, to_ms: int) -> list[tuple[int, int]]:
        """Return (page, counter) of each checkpoint page made in ``[from_ms, to_ms)``, oldest first."""
        return self._db.execute(
            "SELECT page, counter FROM checkpoints WHERE time_ms >= ? AND time_ms < ? ORDER BY time_ms, page, counter",
            (from_ms, to_ms),
        ).fetchall()

    def checkpoint(self, page: int, counter: int) -> bytes | None:
        """Return a page of a checkpoint as a signed object; None if it is not stored."""
        row = self._db.execute(
            "SELECT CAST(body AS BLOB) FROM checkpoints WHERE page = ? AND counter = ?", (page, counter)
        ).fetchone()
        return row[0] if row else None

    def newest_checkpoints(self) -> list[tuple[int, int, bytes]]:
        """Return the newest (page, counter, object) of each page."""
        # without the cast, one bit that the disk has flipped could make the object a text
        return self._db.execute(
            "SELECT page, max(counter), CAST(body AS BLOB) FROM checkpoints GROUP BY page ORDER BY page"
        ).fetchall()


class KeyTable:
    """The signed key records, as published.

    They are read with a cast, because one bit that the disk has flipped could make them texts.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, counter: int, body: bytes) -> None:
        """Store a key record. It is durable when the method returns."""
        with self._db.transaction():
            self._db.execute("INSERT OR IGNORE INTO key_records (counter, body) VALUES (?, ?)", (counter, body))

    def newest(self) -> tuple[int, bytes] | None:
        """Return (counter, object) of the newest key record; None if there is none."""
        row: tuple[int, bytes] | None = self._db.execute(
            "SELECT counter, CAST(body AS BLOB) FROM key_records ORDER BY counter DESC LIMIT 1"
        ).fetchone()
        return row

    def delete(self, counter: int) -> None:
        """Delete a key record whose signature is invalid."""
        with self._db.transaction():
            self._db.execute("DELETE FROM key_records WHERE counter = ?", (counter,))

    def chains(self) -> list[bytes]:
        """Return one key record for each chain of keys: the newest. The oldest chain comes first.

        A key that replaces a lost key begins a new chain. Damaged records are left out.
        """
        chains: dict[str, bytes] = {}
        for (body,) in self._db.execute("SELECT CAST(body AS BLOB) FROM key_records ORDER BY counter").fetchall():
            if is_sound(body):
                chains[json.loads(body)["records"][0]["kid"]] = body
        return list(chains.values())

    def checker(self, typ: str, *, unknown: bool) -> Callable[[bytes], bool]:
        """Return a function that returns False for an object of type ``typ`` with an invalid or missing signature.

        ``unknown``: its result for the signature of a key that is in no key record, because this cannot be checked.
        """
        from agent.verify.jws import check_signature, public_key
        from agent.verify.signed import cut_signature, signature_of
        from agent.verify.strict import Refused

        keys = {}
        for chain in self.chains():
            for record in json.loads(chain)["records"]:
                key = public_key(record.get("alg"), record.get("jwk"))
                keys[key.kid] = key

        def holds(data: bytes) -> bool:
            sig = signature_of(data)
            payload = cut_signature(data, sig) if sig is not None else None
            if sig is None or payload is None:
                return False
            try:
                check_signature(sig, payload, typ, keys)
            except Refused as error:
                return unknown and error.code == "kid"
            return True

        return holds
