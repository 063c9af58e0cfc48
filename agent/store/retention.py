"""Retention: deletes old packs, enforces the size limits, and keeps the losses that streams must state."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence

from agent.store.codec import Codec, prev_of
from agent.store.rows import PackRow
from agent.store.schema import PACK_OF
from agent.store.sqlite import PAGE_BYTES, WAL_LIMIT_BYTES, Database, DiskReserve
from agent.store.streams import DAMAGED, SIZE_CAP, LossNote, boot_hex
from agent.verify.signed import payload_hash

SPARE_BYTES = 1024 * 1024  # bytes of disk space that a commit leaves free for other programs and log lines
STEP = 1024  # number of ids that one statement examines
EVICT = 64  # if the file must become smaller, this number of unconfirmed packs is deleted at once
VACUUM_PAGES = 512
# These packs are never deleted: births in effect; and the newest pack, because its id must never be assigned again.
_STAYS = "(SELECT birth_pack FROM streams WHERE birth_pack IS NOT NULL UNION SELECT max(id) FROM packs)"


def ballast_bytes(max_size_bytes: int) -> int:
    """Return the size of the disk reserve, which is enough for the WAL of a clean-up."""
    return min(8 << 20, max_size_bytes // 16)


def page_limit(max_size_bytes: int) -> int:
    """Return the largest number of pages that the database file may have.

    WAL and reserve then also fit under the cap.
    """
    return (max_size_bytes - WAL_LIMIT_BYTES - ballast_bytes(max_size_bytes)) // PAGE_BYTES


class Retention:
    """Keeps the database within its limits. The methods that delete packs run in the caller's transaction."""

    def __init__(self, db: Database, codec: Codec, max_size_bytes: int, keep_delivered_s: float) -> None:
        self._db, self._codec = db, codec
        self.max_size_bytes, self.keep_delivered_ms = max_size_bytes, int(keep_delivered_s * 1000)
        self.page_limit = page_limit(max_size_bytes)
        self.reserve = self._make_reserve()
        # The searches start after these ids. Up to the first, no old confirmed pack is left; up to the second, no
        # confirmed pack is left.
        self._old_up_to = self._confirmed_up_to = 0
        self.active: tuple[int, ...] = ()  # ``destinations.id`` of the destinations that must confirm packs
        self.mend: Callable[[PackRow], bytes | None]  # restores or drops a pack whose row was changed
        # number of packs that were damaged, or evicted before they were confirmed, since the store was opened
        self.lost_packs = 0

    def _make_reserve(self) -> DiskReserve:
        path = self._db.path
        return DiskReserve(path.with_name(path.name + ".ballast"), ballast_bytes(self.max_size_bytes))

    def apply_limits(self) -> None:
        """Set the hard limit of the file and reserve the disk space."""
        # if the estimates are wrong, this is the last safeguard: SQLite refuses to let the file grow beyond the cap
        self._db.execute(f"PRAGMA max_page_count = {self.page_limit + (2 << 20) // PAGE_BYTES}")
        self.reserve.take(SPARE_BYTES)

    def change_limits(self, max_size_bytes: int, keep_delivered_s: float) -> None:
        """Change the limits; the next clean-up deletes excess packs."""
        self.keep_delivered_ms = int(keep_delivered_s * 1000)
        if max_size_bytes != self.max_size_bytes:
            self.max_size_bytes, self.page_limit = max_size_bytes, page_limit(max_size_bytes)
            # if this fails, the next clean-up tries again to reserve the space
            with contextlib.suppress(OSError, sqlite3.Error):
                self.reserve.drop()
                self.reserve = self._make_reserve()
                self.apply_limits()

    def on_confirmed(self, pack: int) -> None:
        """Note that a pack is confirmed. The searches for confirmed packs start at this pack again."""
        self._old_up_to, self._confirmed_up_to = min(self._old_up_to, pack - 1), min(self._confirmed_up_to, pack - 1)

    @contextlib.contextmanager
    def restored_searches(self) -> Iterator[None]:
        """Return a context manager for a transaction that deletes packs.

        If the transaction is rolled back, the searches start where they started before: the deleted packs are back.
        """
        before = self._old_up_to, self._confirmed_up_to
        try:
            yield
        except BaseException:
            self._old_up_to, self._confirmed_up_to = map(min, before, (self._old_up_to, self._confirmed_up_to))
            raise

    def has_spare_pages(self) -> bool:
        """Return True if the file has enough unused pages for new packs."""
        with contextlib.suppress(sqlite3.Error):
            return self._db.free_pages * PAGE_BYTES >= SPARE_BYTES
        return False

    def used_pages(self) -> int:
        """Return the number of pages of the database that are in use."""
        return self._db.pages - self._db.free_pages

    def delete_delivered(self, cutoff_ms: int, steps: int = 256) -> int:
        """Delete packs that ended before ``cutoff_ms`` and that all destinations confirmed. Returns their number."""
        deleted = 0
        for _ in range(steps):
            start = self._db.execute("SELECT min(id) FROM packs WHERE id > ?", (self._old_up_to,)).fetchone()[0]
            if start is None:
                break
            end = start + STEP - 1
            deleted += self._delete_confirmed(start, end, cutoff_ms)
            young = self._db.execute(
                "SELECT min(id) FROM packs WHERE id BETWEEN ? AND ? AND from_ms + span_ms >= ?", (start, end, cutoff_ms)
            ).fetchone()[0]
            if young is not None:
                self._old_up_to = young - 1
                break
            self._old_up_to = end
        return deleted + self._delete_old_births(cutoff_ms)

    def make_room(self, limit_pages: int) -> int:
        """Delete packs until at most ``limit_pages`` are in use: confirmed packs first, then the oldest of all packs.

        Returns how many unconfirmed packs were lost. Each of them is noted in ``losses``.
        """
        lost = 0
        while self.used_pages() > limit_pages:
            if self._delete_confirmed_batch():
                continue
            ids = self._oldest_packs(EVICT)
            if not ids:
                break  # only packs that must never be deleted are left, see ``_STAYS``
            owed = self._owed(ids)
            if len(owed) < len(ids):  # the others are confirmed births whose packs are all deleted, so nothing is lost
                self._delete_unowed([number for number in ids if number not in owed])
                continue
            lost += self.evict(ids, SIZE_CAP)
        return lost

    def free_confirmed(self, pages: int) -> int:
        """Delete confirmed packs of any age until ``pages`` more pages are unused.

        Returns the number of deleted packs.
        """
        deleted, target = 0, self.used_pages() - pages
        while self.used_pages() > target and (batch := self._delete_confirmed_batch()):
            deleted += batch
        return deleted

    def _delete_confirmed_batch(self) -> int:
        """Delete the next confirmed packs, oldest first. Returns their number; 0 if no confirmed pack is left."""
        while True:
            start = self._db.execute("SELECT min(id) FROM packs WHERE id > ?", (self._confirmed_up_to,)).fetchone()[0]
            if start is None:
                return 0
            end = start + 4 * EVICT - 1
            if deleted := self._delete_confirmed(start, end, None):
                return deleted
            self._confirmed_up_to = end

    def _delete_confirmed(self, start: int, end: int, cutoff_ms: int | None) -> int:
        marks = ",".join("?" * len(self.active))
        age = "" if cutoff_ms is None else f" AND from_ms + span_ms < {int(cutoff_ms)}"
        where = (
            f"id BETWEEN ? AND ? AND NOT is_birth{age} AND id NOT IN {_STAYS} AND id NOT IN"
            f" (SELECT pack FROM outbox WHERE destination IN ({marks}) AND pack BETWEEN ? AND ?)"
        )
        values = (start, end, *self.active, start, end)
        ids = [row[0] for row in self._db.execute(f"SELECT id FROM packs WHERE {where}", values)]
        self._delete_unowed(ids)
        return len(ids)

    def _delete_old_births(self, cutoff_ms: int) -> int:
        """Delete old births whose packs are all deleted: the next stored pack is another birth.

        Returns their number.
        """
        marks = ",".join("?" * len(self.active))
        ids = [
            row[0]
            for row in self._db.execute(
                f"DELETE FROM packs WHERE is_birth AND from_ms + span_ms < ? AND id NOT IN {_STAYS}"
                f" AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.destination IN ({marks}) AND o.pack = packs.id)"
                " AND (SELECT n.is_birth FROM packs n WHERE n.stream = packs.stream AND n.seq > packs.seq"
                " ORDER BY n.seq LIMIT 1) RETURNING id",
                (cutoff_ms, *self.active),
            )
        ]
        self.delete_from_outbox(ids)
        return len(ids)

    def _oldest_packs(self, count: int) -> list[int]:
        rows = self._db.execute(
            f"SELECT id FROM packs p WHERE id NOT IN {_STAYS} AND (NOT is_birth OR (SELECT n.is_birth FROM packs n"
            " WHERE n.stream = p.stream AND n.seq > p.seq ORDER BY n.seq LIMIT 1)) ORDER BY id LIMIT ?",
            (count,),
        )
        return [row[0] for row in rows]

    def _owed(self, ids: Sequence[int]) -> set[int]:
        """Return those of the packs ``ids`` that a destination waits for."""
        marks, numbers = ",".join("?" * len(self.active)), ",".join("?" * len(ids))
        rows = self._db.execute(
            f"SELECT pack FROM outbox WHERE destination IN ({marks}) AND pack IN ({numbers})", (*self.active, *ids)
        )
        return {row[0] for row in rows}

    def _delete_unowed(self, ids: Sequence[int]) -> None:
        """Delete packs that all configured destinations confirmed."""
        # a loss that one of these packs states was delivered with the pack
        self._db.executemany("DELETE FROM losses WHERE stated_in = ?", [(number,) for number in ids])
        self._db.executemany("DELETE FROM packs WHERE id = ?", [(number,) for number in ids])
        self.delete_from_outbox(ids)

    def evict(self, ids: Sequence[int], reason: str, rows: Sequence[PackRow] = ()) -> int:
        """Delete packs that a destination still waits for, and note them as lost. Returns their number.

        ``rows``: what is known of them; by default their stored rows.
        """
        runs: dict[tuple[int, int], list[tuple[int, int, int, int]]] = {}
        for row in rows or self._sound_rows(ids):
            end_ms = row.from_ms + row.span_ms
            runs.setdefault((row.stream, row.boot), []).append((row.seq, row.id, row.from_ms, end_ms))
            # a later pack must again state the losses that this pack states
            self._db.execute("UPDATE losses SET stated_in = NULL WHERE stated_in = ?", (row.id,))
        for (stream, boot), packs in runs.items():
            packs.sort()
            start = 0
            for n in range(1, len(packs) + 1):
                if n == len(packs) or packs[n][0] != packs[n - 1][0] + 1:
                    run = packs[start:n]
                    digest = self._hash_of(stream, *run[-1][:2], is_damaged=reason == DAMAGED)
                    from_ms, to_ms = min(p[2] for p in run), max(p[3] for p in run)
                    self.note_loss(stream, boot, run[0][0], run[-1][0], from_ms, to_ms, digest, reason)
                    start = n
        self._db.executemany("DELETE FROM packs WHERE id = ?", [(number,) for number in ids])
        self.delete_from_outbox(ids)
        return len(ids)

    def _sound_rows(self, ids: Sequence[int]) -> Iterator[PackRow]:
        """Yield the rows of packs. A changed row is restored first, or dropped and noted as a loss."""
        for number in ids:
            row = PackRow._make(self._db.execute(f"{PACK_OF} WHERE p.id = ?", (number,)).fetchone())
            if row.is_sound():
                yield row
            elif self.mend(row) is not None:
                yield PackRow._make(self._db.execute(f"{PACK_OF} WHERE p.id = ?", (number,)).fetchone())

    def stored_hash(self, number: int) -> bytes | None:
        """Compute the hash of a stored pack from its bytes; None if the pack is missing or damaged."""
        found = self._db.execute(f"{PACK_OF} WHERE p.id = ?", (number,)).fetchone()
        row = PackRow._make(found) if found else None
        try:
            return payload_hash(self._codec.unpack(row.dictionary, row.body, row.birth_hash)) if row else None
        except ValueError:
            return None

    def _hash_of(self, stream: int, seq: int, number: int, is_damaged: bool) -> bytes:
        if not is_damaged and (digest := self.stored_hash(number)) is not None:
            return digest
        # the pack is damaged, but its hash is also stored: as ``prev`` in the next pack, or in the head
        successor, head, behind = self._db.execute(
            "SELECT (SELECT CAST(body AS BLOB) FROM packs WHERE stream = s.id AND seq = ?1 + 1),"
            " CAST(s.hash AS BLOB), s.seq - ?1 FROM streams s WHERE s.id = ?2",
            (seq, stream),
        ).fetchone()
        return bytes(head) if behind == 0 else prev_of(successor) or bytes(32)

    def note_loss(
        self, stream: int, boot: int, first: int, last: int, from_ms: int, to_ms: int, digest: bytes, reason: str
    ) -> None:
        """Add a loss.

        Adjacent losses are merged with it, even stated ones, so that a stream has a few losses, not thousands.
        """
        before = self._db.execute(
            "DELETE FROM losses WHERE stream = ? AND boot = ? AND last = ? AND reason = ?"
            " RETURNING first, from_ms, to_ms",
            (stream, boot, first - 1, reason),
        ).fetchone()
        if before:
            first, from_ms, to_ms = before[0], min(before[1], from_ms), max(before[2], to_ms)
        after = self._db.execute(
            "DELETE FROM losses WHERE stream = ? AND boot = ? AND first = ? AND reason = ?"
            " RETURNING last, from_ms, to_ms, hash",
            (stream, boot, last + 1, reason),
        ).fetchone()
        if after:
            last, from_ms, to_ms, digest = after[0], min(after[1], from_ms), max(after[2], to_ms), after[3]
        self._db.execute(
            "INSERT INTO losses (stream, boot, first, last, from_ms, to_ms, hash, reason) VALUES (?,?,?,?,?,?,?,?)",
            (stream, boot, first, last, from_ms, to_ms, digest, reason),
        )

    def delete_from_outbox(self, ids: Sequence[int]) -> None:
        """Delete packs from the outboxes of all destinations."""
        self._db.executemany(
            "DELETE FROM outbox WHERE destination = ? AND pack = ?",
            [(row[0], number) for row in self._db.execute("SELECT id FROM destinations").fetchall() for number in ids],
        )

    def delete_old_hashes(self) -> None:
        """Delete the hashes of deleted births that no stored pack needs."""
        # The oldest stored pack does not help here: it may be the birth in effect of a removed device, which stays. But
        # in each stream, the first pack that names a birth names the oldest one that is needed. An index finds this
        # pack, so packs are not scanned.
        self._db.execute(
            "DELETE FROM births WHERE pack < coalesce((SELECT min((SELECT p.birth FROM packs p WHERE p.stream = s.id"
            " AND p.birth > 0 ORDER BY p.seq LIMIT 1)) FROM streams s), (SELECT max(id) FROM packs))"
            " AND pack NOT IN (SELECT birth_pack FROM streams WHERE birth_pack IS NOT NULL)"
            " AND NOT EXISTS (SELECT 1 FROM packs p WHERE p.id = births.pack)"
        )

    def delete_old_dictionaries(self) -> list[int]:
        """Delete unused dictionaries. Returns their numbers."""
        # a dictionary is used only by packs from its ``first_pack`` up to that of the next dictionary
        return [
            row[0]
            for row in self._db.execute(
                "DELETE FROM dictionaries WHERE id IN (SELECT d.id FROM dictionaries d"
                " WHERE d.id < (SELECT max(id) FROM dictionaries)"
                " AND NOT EXISTS (SELECT 1 FROM packs p WHERE p.dictionary = d.id AND p.id >= d.first_pack AND p.id <"
                " (SELECT n.first_pack FROM dictionaries n WHERE n.id > d.id ORDER BY n.id LIMIT 1))) RETURNING id"
            )
        ]

    def losses(self) -> list[LossNote]:
        """Return the losses that no pack states yet, oldest first."""
        rows = self._db.execute(
            "SELECT l.id, s.name, b.boot, l.first, l.last, l.from_ms, l.to_ms, CAST(l.hash AS BLOB), l.reason"
            " FROM losses l"
            " JOIN streams s ON s.id = l.stream JOIN boots b ON b.id = l.boot WHERE l.stated_in IS NULL ORDER BY l.id"
        )
        return [LossNote(n, name, boot_hex(boot), *rest) for n, name, boot, *rest in rows]

    def shrink(self) -> None:
        """Return unused pages to the disk if they exceed both a quarter of the file and min(16 MiB, cap / 8).

        One call returns only a few pages. Fewer unused pages stay in the file: new packs will soon use them, and
        returning them wears the disk.
        """
        spare_pages = min(16 << 20, self.max_size_bytes // 8) // PAGE_BYTES
        if self._db.free_pages > max(spare_pages, self._db.pages // 4):
            self._db.vacuum(VACUUM_PAGES)
