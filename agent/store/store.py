"""The store: heads, packs, outboxes. Synchronous; lives in exactly one thread."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from agent.store.check import Inspection
from agent.store.codec import Codec
from agent.store.damage import Doubt, Tries, acquit, small, strikes, suspect
from agent.store.errors import StoreDamaged, StoreError
from agent.store.heads import HeadRecord, Recorded, head_of, record_file
from agent.store.intake import LEARN_AFTER, RELEARN_AFTER, SPARE_BYTES, Intake
from agent.store.intervals import DamagedPage
from agent.store.retention import Pruner, ballast_bytes, page_limit, vacuum
from agent.store.salvage import DAMAGED, Recollection, Salvage
from agent.store.sqlite import (
    PAGE_BYTES,
    Ballast,
    Quarantine,
    Salvaged,
    build_warnings,
    check_plain,
    file_bytes,
    free_bytes,
    mount_warnings,
    open_or_quarantine,
    salvaged,
    stale_wal,
)
from agent.store.streams import Behind, LossNote, Place, Resume, StreamHead, Usage, boot_hex, signed, unsigned

T = TypeVar("T")
MIN_SIZE_BYTES = 8 * 1024 * 1024


def newest_head(salvaged: Salvaged, kept: Recorded | None) -> StreamHead:
    """Of a stream that a damaged database and the record beside it know."""
    if kept is not None and kept.seq > salvaged.seq and kept.to_ms >= salvaged.to_ms:
        return head_of(kept)
    ring_id, ring_pos = unsigned(salvaged.ring_id), unsigned(salvaged.ring_pos)
    boot = boot_hex(salvaged.boot)
    return StreamHead(salvaged.stream, boot, salvaged.seq, salvaged.hash, salvaged.to_ms, None, ring_id, ring_pos)


def _behind(kept: Recorded, head: StreamHead | None, exact: bool) -> Behind:
    """What is gone of a stream, above ``head`` (None: all of it)."""
    seq, to_ms, pos = kept.left_seq, kept.left_ms, kept.left_pos
    first, first_ms = max(1, kept.owed_seq), kept.owed_ms
    if kept.lost_seq and (head is None or head.seq < kept.lost_seq) and kept.lost_seq < first:
        first, first_ms = kept.lost_seq, kept.lost_ms  # what said so is gone from here as well
    if head is not None:
        if head.seq >= seq:
            seq, to_ms, pos = head.seq, head.to_ms, head.ring_pos if head.ring_id == kept.ring_id else 0
        if head.seq >= first:
            first, first_ms = head.seq + 1, head.to_ms
    return Behind(kept.stream, head_of(kept), to_ms, pos, exact and seq >= kept.ring_seq, exact, first, first_ms)


class Store(Intake):
    """The database of one gateway. Open with ``Store.open``; every method belongs to the opening thread."""

    def __init__(
        self,
        conn: sqlite3.Connection,
        path: Path,
        max_size_bytes: int,
        keep_delivered_s: float,
        quarantine: Quarantine | None,
        record: HeadRecord,
    ) -> None:
        self._conn, self._path, self._max = conn, path, max_size_bytes
        self._keep_ms = int(keep_delivered_s * 1000)
        self.quarantine = quarantine
        self.saved_packs = 0  # that came over from a damaged database
        self.lost_packs = 0  # dropped by the cap or damaged, since the start
        self._ballast = Ballast(path.with_name(path.name + ".ballast"), ballast_bytes(max_size_bytes))
        self._page_limit = page_limit(max_size_bytes)
        self._codec = Codec()
        self._pruner = Pruner(conn, self._codec)
        self._doubt = Doubt(conn, path)
        self._record = record
        self.behind: dict[str, Behind] = {}  # streams whose newest packs are gone; see ``take_up``
        self._heads: dict[str, Place] = {}
        self._damaged: dict[int, DamagedPage] = {}
        self._boots: dict[str, int] = {}
        self._destinations: dict[str, int] = {}
        self._pending: dict[str, int] = {}
        self._next_id = 1
        self._since_learned = 0
        self._learn_after = LEARN_AFTER

    @classmethod
    def open(
        cls,
        path: Path | str,
        max_size_bytes: int = 8 << 30,
        keep_delivered_s: float = 30 * 86_400.0,
        destinations: Sequence[str] = (),
        now_ms: int = 0,
        rescue: bool = True,
    ) -> Store:
        """The database at ``path``, made if it is not there; a damaged one is set aside (``quarantine`` tells).

        Args:
            max_size_bytes: cap for database, WAL and ballast together.
            keep_delivered_s: how long packs stay after every destination confirmed them.
            destinations: who must confirm from now on. A name that is gone keeps its outbox in case it comes back.
            rescue: False for who only looks: a damaged one stays where it is.

        Raises:
            StoreBusy: another process has it open.
            StoreDamaged: it is to stay where it is.
            StoreNewer: a newer version wrote it.
            StoreError: it cannot be opened, or SQLite cannot keep the promises here.
        """
        path = Path(path)
        if max_size_bytes < MIN_SIZE_BYTES:
            raise StoreError(f"max_size must be at least 8 MiB, not {max_size_bytes} bytes", where=str(path))
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_plain(path)
            if free_bytes(path.parent) < 2 * SPARE_BYTES:
                # opening writes, and so does all that a start keeps before it reads: it lives on the reserve
                Ballast(path.with_name(path.name + ".ballast"), 0).drop()
            return cls._open(path, max_size_bytes, keep_delivered_s, destinations, now_ms, rescue)
        except OSError as error:
            raise StoreError(
                f"the state directory cannot be used ({error.strerror})",
                where=str(path.parent),
                hint="Create it, owned by the user that runs the agent",
            ) from error

    @classmethod
    def _open(
        cls,
        path: Path,
        max_size_bytes: int,
        keep_delivered_s: float,
        destinations: Sequence[str],
        now_ms: int,
        rescue: bool,
    ) -> Store:
        damage, torn, tries = "", False, Tries(path)
        record = HeadRecord(record_file(path))
        stale_wal(path, record, rescue)
        while True:
            conn, quarantine = open_or_quarantine(path, damage, rescue)
            store = cls(conn, path, max_size_bytes, keep_delivered_s, quarantine, record)
            try:
                store._load(destinations, now_ms, torn)
                if torn := store._compare():
                    raise StoreDamaged("its newest transactions are gone, and the rest does not agree", where=str(path))
                store._doubt.patient = True
                return store
            except StoreDamaged as error:
                conn.close()
                if quarantine is not None:
                    raise
                if not tries.another():
                    damage = error.what
            except BaseException:
                conn.close()
                raise

    def call(self, function: Callable[[Store], T]) -> T:
        """``function`` of this store; SQLite's errors come out as ours, whichever method let them through."""
        try:
            return function(self)
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def _load(self, destinations: Sequence[str], now_ms: int, torn: bool) -> None:
        with self._transaction():
            if self.quarantine:
                known = self._record.found if self._record.exact else {}
                for head in self.quarantine.heads:
                    self._move(newest_head(head, known.get(head.stream)))
                self._keep("last_id", self._record.last_id)
                rescue = Salvage(
                    Path(self.quarantine.path), self._conn, self._codec, self._boot, destinations,
                    Recollection(known, torn, self._record.last_id + 1, self._move),
                )  # fmt: skip
                rescue.run()
                self.saved_packs, self.lost_packs = rescue.packs, rescue.lost
            self._serve(destinations, now_ms)
            self._refresh()
            self._pruner.losses()  # every start asks for them: what is wrong there is to show here
            self._next_id = self._last_id() + 1
            newest: tuple[int, bytes] | None = None
            for newest in self._conn.execute("SELECT id, body FROM dictionaries ORDER BY id").fetchall():
                self._codec.learn(*newest)
            if newest:
                self._codec.use(*newest)
                self._learn_after = RELEARN_AFTER
        if self.quarantine:
            salvaged(self._path)
        self._guard()

    def _last_id(self) -> int:
        """The highest pack id that was ever given here, also where that pack is gone."""
        row = self._conn.execute(
            "SELECT max(coalesce((SELECT max(id) FROM packs), 0),"
            " coalesce((SELECT value FROM meta WHERE name = 'last_id'), 0))"
        ).fetchone()
        return int(row[0])

    # --- what is gone without SQLite saying so

    def _compare(self) -> bool:
        """Find the streams that are behind what was recorded. True: what is left does not agree with itself."""
        heads, last = self.heads(), self._last_id()
        row = self._conn.execute("SELECT from_ms + span_ms FROM packs ORDER BY id DESC LIMIT 1").fetchone()
        newest_ms = row[0] if row else 0
        agrees = True
        for name, kept in self._record.found.items():
            head = heads.get(name)
            if head is None:
                if self._record.exact:  # else the stream begins anew: how far it had come is not known
                    self.behind[name] = _behind(kept, None, self._record.exact)
            elif head.seq < kept.seq and head.to_ms <= kept.to_ms:
                self.behind[name] = _behind(kept, head, self._record.exact)
                agrees &= not kept.pack_id or kept.pack_id > last
            elif head.hash == kept.hash and kept.pack_id > last and newest_ms <= kept.to_ms:
                agrees = False  # the head is there, its pack is not
        if not self.behind and agrees:
            return False
        if agrees and self.quarantine is None and any(name in heads for name in self.behind):
            agrees = self._agrees()
        return not agrees and self.quarantine is None

    def _agrees(self) -> bool:
        """Do tables and indexes fit together, and does no pack lie beyond the head of its stream?"""
        strays = self._conn.execute(
            "SELECT EXISTS(SELECT 1 FROM streams s WHERE s.boot NOT IN (SELECT id FROM boots))"
            " OR EXISTS(SELECT 1 FROM streams s WHERE EXISTS"
            " (SELECT 1 FROM packs p INDEXED BY packs_seq WHERE p.stream = s.id AND p.seq > s.seq))"
        ).fetchone()[0]
        if strays:
            return False
        if not small(self._path):  # the first look at all of it, minutes from now, will tell
            suspect(self._path)
            return True
        return bool(self._conn.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok")

    def take_up(self, resumes: Mapping[str, Resume]) -> tuple[int, int]:
        """Go on after the packs that are gone, and note them as lost. Returns how many streams and packs.

        Args:
            resumes: where streams go on; by default after their last pack.
        """
        lost = 0
        with self._transaction():
            for name, behind in self.behind.items():
                head = behind.head
                resume = resumes.get(name) or Resume(head.to_ms, head.ring_pos)
                stream = self._move(replace(head, to_ms=resume.to_ms, ring_pos=resume.ring_pos))
                if behind.lost_first <= head.seq:
                    lost += head.seq - behind.lost_first + 1
                    from_ms = min(behind.lost_ms, resume.to_ms)
                    self._pruner.note(
                        stream, self._boot(head.boot), behind.lost_first, head.seq, from_ms, resume.to_ms, head.hash,
                        DAMAGED,
                    )  # fmt: skip
            self._keep("last_id", self._record.last_id)
            self._keep("checkpoints_lost", 1)
        streams, self.behind = len(self.behind), {}
        self._refresh()
        self._next_id = self._last_id() + 1
        self.lost_packs += lost
        return streams, lost

    def _move(self, head: StreamHead) -> int:
        """Put a stream's head there, whose packs are not here. Returns its number."""
        values = (
            self._boot(head.boot), head.seq, head.hash, head.to_ms, signed(head.ring_id), signed(head.ring_pos),
        )  # fmt: skip
        row = self._conn.execute(
            "INSERT INTO streams (name, boot, seq, hash, to_ms, ring_id, ring_pos) VALUES (?,?,?,?,?,?,?)"
            " ON CONFLICT (name) DO UPDATE SET boot = excluded.boot, seq = excluded.seq, hash = excluded.hash,"
            " to_ms = excluded.to_ms, ring_id = excluded.ring_id, ring_pos = excluded.ring_pos, birth = NULL,"
            " birth_pack = NULL RETURNING id",
            (head.stream, *values),
        ).fetchone()
        return int(row[0])

    def _follow(self) -> None:
        """From the first commit on, heads are recorded beside the database as well."""
        if self.behind:
            self.take_up({})
        newest = (
            "SELECT s.name, max(p.id) FROM streams s, packs p WHERE p.stream = s.id AND p.seq = s.seq GROUP BY s.id"
        )
        lost = (
            "SELECT s.name, l.first, l.from_ms, max(l.last) FROM losses l JOIN streams s ON s.id = l.stream"
            " WHERE l.reason = ? GROUP BY s.id"
        )
        damaged = {name: (first, from_ms) for name, first, from_ms, _ in self._all(lost, DAMAGED)}
        self._record.begin(self.heads().values(), dict(self._all(newest)), damaged)
        try:
            self._record.owe(self._owed())
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def _owed(self) -> dict[str, tuple[int, int]]:
        """By stream the first sequence that a destination waits for, and where it begins; where that is soon found."""
        firsts = [
            self._conn.execute("SELECT min(pack) FROM outbox WHERE destination = ?", (number,)).fetchone()[0]
            for number in self._destinations.values()
        ]
        first = min((number for number in firsts if number is not None), default=None)
        heads = self._record.heads()
        nothing = {
            name: (head.seq + 1, head.to_ms) for name, head in heads.items() if first is None or head.pack_id < first
        }
        if first is None:
            return nothing
        rows = self._conn.execute(
            "SELECT s.name, min(p.seq), p.from_ms FROM packs p JOIN streams s ON s.id = p.stream"
            " WHERE p.id BETWEEN ? AND ? GROUP BY s.id",
            (first, first + 4 * len(heads)),
        )
        return nothing | {name: (seq, from_ms) for name, seq, from_ms in rows}

    def leaving(self) -> None:
        """Whatever is committed by now may leave the house: called before it does. For any thread."""
        self._record.left()

    def _serve(self, destinations: Sequence[str], now_ms: int) -> None:
        for name in destinations:
            self._conn.execute(
                "INSERT INTO destinations (name, seen_ms) VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET seen_ms = excluded.seen_ms",
                (name, now_ms),
            )
        known = dict(self._conn.execute("SELECT name, id FROM destinations").fetchall())
        self._destinations = {name: known[name] for name in destinations}
        self._pruner.owed = tuple(self._destinations.values())
        self._pending = {
            name: self._conn.execute("SELECT count(*) FROM outbox WHERE destination = ?", (number,)).fetchone()[0]
            for name, number in self._destinations.items()
        }

    def _guard(self) -> None:
        # the last guard should the estimates below be wrong: SQLite refuses instead of growing past the cap
        self._conn.execute(f"PRAGMA max_page_count = {self._page_limit + (2 << 20) // PAGE_BYTES}")
        self._ballast.take(SPARE_BYTES)

    @property
    def destinations(self) -> Collection[str]:
        """Who must confirm."""
        return self._destinations.keys()

    def bound(
        self,
        max_size_bytes: int,
        keep_delivered_s: float,
        destinations: Sequence[str],
        now_ms: int,
        also: Callable[[], None] = lambda: None,
    ) -> None:
        """Other bounds and destinations from now on; what is too much for a smaller cap goes with the next ``prune``.

        Args:
            also: what is to be written in the same transaction.

        Raises:
            StoreFull, StoreBusy: nothing was changed.
        """
        before = self._destinations, self._pruner.owed, self._pending
        try:
            with self._transaction():
                also()
                self._serve(destinations, now_ms)
        except BaseException:
            self._destinations, self._pruner.owed, self._pending = before
            raise
        self._keep_ms = int(keep_delivered_s * 1000)
        if max_size_bytes != self._max:
            self._max, self._page_limit = max_size_bytes, page_limit(max_size_bytes)
            with contextlib.suppress(OSError, sqlite3.Error):  # the next ``prune`` sees to the reserve again
                self._ballast.drop()
                path = self._path.with_name(self._path.name + ".ballast")
                self._ballast = Ballast(path, ballast_bytes(max_size_bytes))
                self._guard()

    # --- keeping within bounds

    def prune(self, now_ms: int) -> list[LossNote]:
        """Drop what was delivered ``keep_delivered_s`` ago, keep the caps, give space back. To be called each minute.

        Also after StoreFull: then packs that everybody confirmed go early, to make room for new ones.

        Args:
            now_ms: only when the clock can be trusted; 0 drops nothing for its age.

        Returns:
            All losses that no pack states yet: they belong into the next pack of their stream.
        """
        tight = free_bytes(self._path.parent) < 2 * SPARE_BYTES
        if tight:  # even DELETE writes to the WAL, so room must come first
            self._ballast.drop()
        try:
            with self._transaction():
                if now_ms:
                    self._pruner.delivered(now_ms - self._keep_ms)
                lost = self._pruner.make_room(self._page_limit)
                if tight:
                    self._pruner.free_some((4 << 20) // PAGE_BYTES)
                gone = self._pruner.old_dictionaries()
                self._pruner.old_hashes()
            self._codec.forget(gone)
            if lost:
                self.lost_packs += lost
                self._count_pending()
            if tight:
                self.flush_wal()
            else:
                vacuum(self._conn, min(16 << 20, self._max // 8) // PAGE_BYTES)
            if self._record.begun:
                self._record.owe(self._owed())
        except sqlite3.Error as error:
            raise self._explain(error) from error
        finally:
            # with room inside the file, new packs need the reserve's space for the WAL; without, the next clean-up does
            self._ballast.take(0 if tight and not self._roomy() else SPARE_BYTES)
        return self._pruner.losses()

    def _roomy(self) -> bool:
        with contextlib.suppress(sqlite3.Error):
            return bool(self._conn.execute("PRAGMA freelist_count").fetchone()[0] * PAGE_BYTES >= SPARE_BYTES)
        return False

    def losses(self) -> list[LossNote]:
        """Losses that no pack states yet. Whoever starts must ask: they survive a kill."""
        return self._pruner.losses()

    def flush_wal(self) -> None:
        """Bring all of the WAL into the database file and cut it to nothing."""
        self._conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def release_memory(self) -> None:
        """Give back the pages that SQLite keeps: what is read next comes from the disk."""
        self._conn.execute("PRAGMA shrink_memory")

    # --- facts

    def inspect(self, holds: Callable[[bytes], bool]) -> Inspection:
        """Begin a look at all that is stored. ``holds``: has a pack, given its bytes, the signature it must have?"""
        self.release_memory()
        return Inspection(self._conn, self._explain, lambda number, body: self._drop_if_bad(number, body, holds))

    def inspected(self, at_ms: int = 0) -> int:
        """When the last look came to its end, UTC ms; 0: never, or one is due now. With ``at_ms``: it did so now."""
        if at_ms:
            acquit(self._path)
            with self._transaction():
                self._keep("inspected", at_ms)
        row = self._conn.execute("SELECT value FROM meta WHERE name = 'inspected'").fetchone()
        return int(row[0]) if row and not strikes(self._path) else 0

    def warnings(self) -> list[str]:
        """Why this place may not keep what is promised; usually nothing."""
        found = [*mount_warnings(self._path.parent), *build_warnings()]
        if not self._ballast.held_bytes:
            found.append(f"{self._path.parent}: no room for the reserve that keeps a full disk manageable")
        return found

    def usage(self) -> Usage:
        """What the store takes and how it is kept. Cheap enough for every status."""
        pages, free = (int(self._conn.execute(f"PRAGMA {p}").fetchone()[0]) for p in ("page_count", "freelist_count"))
        span = self._conn.execute("SELECT coalesce(max(id) - min(id) + 1, 0) FROM packs").fetchone()[0]
        return Usage(
            path=str(self._path),
            database_bytes=pages * PAGE_BYTES,
            wal_bytes=file_bytes(self._path.with_name(self._path.name + "-wal")),
            ballast_bytes=self._ballast.held_bytes,
            unused_bytes=free * PAGE_BYTES,
            max_bytes=self._max,
            free_disk_bytes=free_bytes(self._path.parent),
            packs=span,
            pending=dict(self._pending),
            settings=f"SQLite {sqlite3.sqlite_version}, WAL, synchronous FULL, page {PAGE_BYTES}",
        )

    def close(self) -> None:
        """Bring everything into the database file and let go of it."""
        with contextlib.suppress(sqlite3.Error):
            self.flush_wal()
        self._conn.close()
        self._record.close()
