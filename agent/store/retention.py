"""What may leave the store, and what has to be said about it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from agent.store.codec import Codec, payload_hash, prev_of
from agent.store.sqlite import PAGE_BYTES, WAL_LIMIT_BYTES
from agent.store.streams import LossNote, boot_hex

STEP = 1024  # ids looked at in one statement
EVICT = 64  # packs dropped at once under the cap
VACUUM_PAGES = 512
# births in force and the newest id stay: an id must never be given twice
_STAYS = "(SELECT birth_pack FROM streams WHERE birth_pack IS NOT NULL UNION SELECT max(id) FROM packs)"


def ballast_bytes(max_size_bytes: int) -> int:
    """How much disk to hold in reserve: enough for the WAL of a clean-up."""
    return min(8 << 20, max_size_bytes // 16)


def page_limit(max_size_bytes: int) -> int:
    """Pages that the database file may have so that WAL and ballast fit under the cap as well."""
    return (max_size_bytes - WAL_LIMIT_BYTES - ballast_bytes(max_size_bytes)) // PAGE_BYTES


@dataclass(slots=True)
class Walk:
    """How far looking for confirmed packs came: below ``age`` and ``cap`` there is nothing more to find."""

    age: int = 0
    cap: int = 0

    def reopened(self, pack: int) -> None:
        """A pack was confirmed: what is below it is worth another look."""
        self.age = min(self.age, pack - 1)
        self.cap = min(self.cap, pack - 1)


class Pruner:
    """Deletes inside a transaction that the caller holds."""

    def __init__(self, conn: sqlite3.Connection, codec: Codec) -> None:
        self._conn, self._codec = conn, codec
        self.walk = Walk()
        self.owed: tuple[int, ...] = ()  # destinations that count

    def live_pages(self) -> int:
        """Pages of the database that hold something."""
        pages: int = self._conn.execute("PRAGMA page_count").fetchone()[0]
        free: int = self._conn.execute("PRAGMA freelist_count").fetchone()[0]
        return pages - free

    def delivered(self, cutoff_ms: int, steps: int = 256) -> int:
        """Delete what everybody confirmed and ended before ``cutoff_ms``. Returns how many packs."""
        deleted = 0
        for _ in range(steps):
            start = self._conn.execute("SELECT min(id) FROM packs WHERE id > ?", (self.walk.age,)).fetchone()[0]
            if start is None:
                break
            end = start + STEP - 1
            deleted += self._delete_confirmed(start, end, cutoff_ms)
            young = self._conn.execute(
                "SELECT min(id) FROM packs WHERE id BETWEEN ? AND ? AND from_ms + span_ms >= ?", (start, end, cutoff_ms)
            ).fetchone()[0]
            if young is not None:
                self.walk.age = young - 1
                break
            self.walk.age = end
        return deleted + self._old_births(cutoff_ms)

    def make_room(self, limit_pages: int) -> int:
        """Delete until at most ``limit_pages`` hold something: confirmed packs first, then the oldest of all.

        Returns how many unconfirmed packs were lost; each is noted in ``losses``.
        """
        lost = 0
        while self.live_pages() > limit_pages:
            if self._confirmed_batch():
                continue
            ids = self._oldest(EVICT)
            if not ids:
                break  # only births in force are left
            lost += self.lose(ids, "size_cap")
        return lost

    def free_some(self, pages: int) -> int:
        """Delete confirmed packs of any age until ``pages`` more are unused or none is left. Returns how many."""
        deleted, target = 0, self.live_pages() - pages
        while self.live_pages() > target and (batch := self._confirmed_batch()):
            deleted += batch
        return deleted

    def _confirmed_batch(self) -> int:
        """Delete the next confirmed packs, oldest first; 0 when there are none."""
        while True:
            start = self._conn.execute("SELECT min(id) FROM packs WHERE id > ?", (self.walk.cap,)).fetchone()[0]
            if start is None:
                return 0
            end = start + 4 * EVICT - 1
            if deleted := self._delete_confirmed(start, end, None):
                return deleted
            self.walk.cap = end

    def _delete_confirmed(self, start: int, end: int, cutoff_ms: int | None) -> int:
        marks = ",".join("?" * len(self.owed))
        age = "" if cutoff_ms is None else f" AND from_ms + span_ms < {int(cutoff_ms)}"
        where = (
            f"id BETWEEN ? AND ? AND NOT is_birth{age} AND id NOT IN {_STAYS} AND id NOT IN"
            f" (SELECT pack FROM outbox WHERE destination IN ({marks}) AND pack BETWEEN ? AND ?)"
        )
        values = (start, end, *self.owed, start, end)
        # what such a pack said about losses was heard; the other destinations are no longer configured
        self._conn.execute(f"DELETE FROM losses WHERE stated_in IN (SELECT id FROM packs WHERE {where})", values)
        ids = [row[0] for row in self._conn.execute(f"DELETE FROM packs WHERE {where} RETURNING id", values)]
        self._forget_outbox(ids)
        return len(ids)

    def _old_births(self, cutoff_ms: int) -> int:
        """Births without a pack of theirs left: the next pack of the stream is a birth again."""
        marks = ",".join("?" * len(self.owed))
        ids = [
            row[0]
            for row in self._conn.execute(
                f"DELETE FROM packs WHERE is_birth AND from_ms + span_ms < ? AND id NOT IN {_STAYS}"
                f" AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.destination IN ({marks}) AND o.pack = packs.id)"
                " AND (SELECT n.is_birth FROM packs n WHERE n.stream = packs.stream AND n.seq > packs.seq"
                " ORDER BY n.seq LIMIT 1) RETURNING id",
                (cutoff_ms, *self.owed),
            )
        ]
        self._forget_outbox(ids)
        return len(ids)

    def _oldest(self, count: int) -> list[int]:
        rows = self._conn.execute(
            f"SELECT id FROM packs p WHERE id NOT IN {_STAYS} AND (NOT is_birth OR (SELECT n.is_birth FROM packs n"
            " WHERE n.stream = p.stream AND n.seq > p.seq ORDER BY n.seq LIMIT 1)) ORDER BY id LIMIT ?",
            (count,),
        )
        return [row[0] for row in rows]

    def lose(self, ids: Sequence[int], reason: str) -> int:
        """Delete packs that somebody still waits for, and note it."""
        runs: dict[tuple[int, int], list[tuple[int, int, int, int]]] = {}
        for number in ids:
            stream, boot, seq, from_ms, span_ms = self._conn.execute(
                "SELECT stream, boot, seq, from_ms, span_ms FROM packs WHERE id = ?", (number,)
            ).fetchone()
            runs.setdefault((stream, boot), []).append((seq, number, from_ms, from_ms + span_ms))
            # what it said about earlier losses has to be said again
            self._conn.execute("UPDATE losses SET stated_in = NULL WHERE stated_in = ?", (number,))
        for (stream, boot), packs in runs.items():
            packs.sort()
            start = 0
            for n in range(1, len(packs) + 1):
                if n == len(packs) or packs[n][0] != packs[n - 1][0] + 1:
                    run = packs[start:n]
                    digest = self._hash(run[-1][1], sound=reason != "damaged")
                    self.note(
                        stream,
                        boot,
                        run[0][0],
                        run[-1][0],
                        min(p[2] for p in run),
                        max(p[3] for p in run),
                        digest,
                        reason,
                    )
                    start = n
        self._conn.executemany("DELETE FROM packs WHERE id = ?", [(number,) for number in ids])
        self._forget_outbox(ids)
        return len(ids)

    def _hash(self, number: int, sound: bool) -> bytes:
        packed = self._conn.execute(
            "SELECT p.dictionary, p.body, b.hash FROM packs p LEFT JOIN births b ON b.pack = p.birth WHERE p.id = ?",
            (number,),
        ).fetchone()
        try:
            if sound:
                return payload_hash(self._codec.unpack(*packed))
            raise ValueError("whatever can be read of it")
        except ValueError:  # damaged: but its successor, or the head, tells its hash
            row = self._conn.execute(
                "SELECT n.body, s.hash, s.seq - p.seq FROM packs p JOIN streams s ON s.id = p.stream"
                " LEFT JOIN packs n ON n.stream = p.stream AND n.seq = p.seq + 1 WHERE p.id = ?",
                (number,),
            ).fetchone()
            successor, head, behind = row
            if behind == 0:
                return bytes(head)
            return prev_of(successor) or bytes(32)

    def note(
        self, stream: int, boot: int, first: int, last: int, from_ms: int, to_ms: int, digest: bytes, reason: str
    ) -> None:
        """Add a loss, joined with its neighbours, stated or not: so there are few a stream, not thousands."""
        before = self._conn.execute(
            "DELETE FROM losses WHERE stream = ? AND boot = ? AND last = ? AND reason = ?"
            " RETURNING first, from_ms, to_ms",
            (stream, boot, first - 1, reason),
        ).fetchone()
        if before:
            first, from_ms, to_ms = before[0], min(before[1], from_ms), max(before[2], to_ms)
        after = self._conn.execute(
            "DELETE FROM losses WHERE stream = ? AND boot = ? AND first = ? AND reason = ?"
            " RETURNING last, from_ms, to_ms, hash",
            (stream, boot, last + 1, reason),
        ).fetchone()
        if after:
            last, from_ms, to_ms, digest = after[0], min(after[1], from_ms), max(after[2], to_ms), after[3]
        self._conn.execute(
            "INSERT INTO losses (stream, boot, first, last, from_ms, to_ms, hash, reason) VALUES (?,?,?,?,?,?,?,?)",
            (stream, boot, first, last, from_ms, to_ms, digest, reason),
        )

    def _forget_outbox(self, ids: Sequence[int]) -> None:
        self._conn.executemany(
            "DELETE FROM outbox WHERE destination = ? AND pack = ?",
            [
                (row[0], number)
                for row in self._conn.execute("SELECT id FROM destinations").fetchall()
                for number in ids
            ],
        )

    def old_hashes(self) -> None:
        """Forget the hashes of births that are gone with all their packs."""
        self._conn.execute(
            "DELETE FROM births WHERE pack < (SELECT min(id) FROM packs) AND pack NOT IN"
            " (SELECT birth_pack FROM streams WHERE birth_pack IS NOT NULL)"
            " AND NOT EXISTS (SELECT 1 FROM packs p WHERE p.birth = births.pack)"
        )

    def old_dictionaries(self) -> list[int]:
        """Delete dictionaries that no pack left was made with; returns their numbers."""
        return [
            row[0]
            for row in self._conn.execute(
                "DELETE FROM dictionaries WHERE id IN (SELECT d.id FROM dictionaries d JOIN dictionaries n"
                " ON n.id = d.id + 1 WHERE n.first_pack <= (SELECT min(id) FROM packs)) RETURNING id"
            )
        ]

    def losses(self) -> list[LossNote]:
        """What no pack states yet, oldest first."""
        rows = self._conn.execute(
            "SELECT l.id, s.name, b.boot, l.first, l.last, l.from_ms, l.to_ms, l.hash, l.reason FROM losses l"
            " JOIN streams s ON s.id = l.stream JOIN boots b ON b.id = l.boot WHERE l.stated_in IS NULL ORDER BY l.id"
        )
        return [LossNote(n, name, boot_hex(boot), *rest) for n, name, boot, *rest in rows]


def vacuum(conn: sqlite3.Connection, spare_pages: int) -> int:
    """Give unused pages back to the disk, as far as more than a quarter of the file and ``spare_pages`` are unused.

    A little at a time: pages that will be needed again anyway are not worth the wear. Returns how many were given back.
    """
    pages = conn.execute("PRAGMA page_count").fetchone()[0]
    free = conn.execute("PRAGMA freelist_count").fetchone()[0]
    if free <= max(spare_pages, pages // 4):
        return 0
    # it works a page a step and has no columns; of such statements execute() makes one step only
    conn.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
    after: int = conn.execute("PRAGMA page_count").fetchone()[0]
    return int(pages) - after
