"""The store: opens the database, salvages a damaged one, and keeps it within its limits. Only one thread uses it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agent.mounts import mount_of
from agent.store.check import StoreCheck
from agent.store.codec import Codec
from agent.store.documents import Documents, KeyTable
from agent.store.errors import (
    VALUE_ERRORS,
    RetryPolicy,
    StoreDamaged,
    StoreError,
    WrongType,
    clear_suspicion,
    suspicion_count,
)
from agent.store.heads import HeadRecord, HeadTracker, head_of, record_file, set_stale_wal_aside
from agent.store.inspection import restore_copied_rows, restore_outboxes, restore_streams
from agent.store.intervals import IntervalTable
from agent.store.packs import PackTable
from agent.store.retention import SPARE_BYTES, Retention
from agent.store.salvage import LeftBehind, RecordedState, Salvage, read_heads
from agent.store.sqlite import (
    PAGE_BYTES,
    Database,
    DiskReserve,
    Quarantine,
    build_warnings,
    check_regular_files,
    file_bytes,
    finish_salvage,
    free_bytes,
    open_or_quarantine,
)
from agent.store.streams import LaggingStream, LossNote, Resume, StreamRegistry

T = TypeVar("T")
MIN_SIZE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """The size and the settings of the store, for status and for the log at the start."""

    path: str
    database_bytes: int
    wal_bytes: int
    ballast_bytes: int
    unused_bytes: int  # bytes inside the database that are free for new packs
    max_bytes: int
    free_disk_bytes: int
    packs: int  # newest id - oldest id + 1; this is fast, but too high if packs in between were deleted
    pending: dict[str, int]  # number of unconfirmed packs by destination
    settings: str  # such as "SQLite 3.40.1, WAL, synchronous FULL, page 4096"

    @property
    def disk_bytes(self) -> int:
        """The size of all files that count towards the cap."""
        return self.database_bytes + self.wal_bytes + self.ballast_bytes


class Store:
    """The database of one gateway. Open it with ``Store.open``. Only the thread that opened it may call its methods.

    ``packs``, ``documents``, ``intervals`` and ``keys`` are its parts. They share the connection ``db``.
    """

    def __init__(
        self,
        db: Database,
        max_size_bytes: int,
        keep_delivered_s: float,
        quarantine: Quarantine | None,
        record: HeadRecord,
    ) -> None:
        self.db, self.quarantine = db, quarantine
        self.saved_packs = 0  # number of packs salvaged from a damaged database
        self.left_behind = LeftBehind(0, 0)  # numbers of rows that only the damaged database has
        self._codec, self._streams = Codec(), StreamRegistry(db)
        self.retention = Retention(db, self._codec, max_size_bytes, keep_delivered_s)
        self._tracker = HeadTracker(db, self._streams, self.retention, record)
        self.documents, self.keys = Documents(db), KeyTable(db)
        self.intervals = IntervalTable(db, self._streams)
        self.packs = PackTable(db, self._codec, self._streams, self.retention, self._tracker, self.documents, self.keys)

    @classmethod
    def open(
        cls,
        path: Path | str,
        max_size_bytes: int = 8 << 30,
        keep_delivered_s: float = 30 * 86_400.0,
        destinations: Sequence[str] = (),
        now_ms: int = 0,
        rescue: bool = True,
        asked: Mapping[str, Sequence[str]] | None = None,
    ) -> Store:
        """Open the database at ``path``, or create it if it is missing.

        A damaged file is set aside: see ``quarantine``.

        Args:
            max_size_bytes: cap for database, WAL and disk reserve together.
            keep_delivered_s: age at which a pack is deleted if every destination confirmed it.
            destinations: names of the destinations that must confirm. The outbox of a removed destination is kept, in
                case it returns.
            rescue: False: a damaged database stays where it is. This is for tools that only read.
            asked: by destination, patterns of the streams that it gets. A destination without patterns gets all
                streams.

        Raises:
            StoreBusy: another process has the database open.
            StoreDamaged: the database is damaged and ``rescue`` is False.
            StoreNewer: a newer version wrote the database.
            StoreError: the database cannot be opened, or commits would not be durable on this file system.
        """
        path = Path(path)
        if max_size_bytes < MIN_SIZE_BYTES:
            raise StoreError(f"max_size must be at least 8 MiB, not {max_size_bytes} bytes", where=str(path))
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_regular_files(path)
            if free_bytes(path.parent) < 2 * SPARE_BYTES:
                # the start writes to the disk, even while it opens the database, so the reserve is freed first
                DiskReserve(path.with_name(path.name + ".ballast"), 0).drop()
            return cls._open(path, max_size_bytes, keep_delivered_s, destinations, now_ms, rescue, asked or {})
        except OSError as error:
            raise StoreError(
                f"the state directory cannot be used ({error.strerror})",
                where=str(path.parent),
                hint="Create this directory; its owner must be the user that runs the agent",
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
        asked: Mapping[str, Sequence[str]],
    ) -> Store:
        damage, torn, retries = "", False, RetryPolicy(path)
        record = HeadRecord(record_file(path))
        set_stale_wal_aside(path, record, rescue)
        while True:
            conn, quarantine = open_or_quarantine(path, damage, rescue)
            store = cls(Database(conn, path), max_size_bytes, keep_delivered_s, quarantine, record)
            try:
                store._load(destinations, now_ms, torn, asked)
                if torn := not store._tracker.compare(is_salvaged=quarantine is not None):
                    raise StoreDamaged(
                        "the newest transactions are missing and the rest is inconsistent", where=str(path)
                    )
                store.db.damage_verifier.in_use = True
                return store
            except (StoreDamaged, *VALUE_ERRORS) as error:
                conn.close()
                if quarantine is not None:
                    raise
                if not retries.should_retry():
                    damage = error.what if isinstance(error, StoreDamaged) else _what(error)
            except BaseException:
                conn.close()
                raise

    def _load(self, destinations: Sequence[str], now_ms: int, torn: bool, asked: Mapping[str, Sequence[str]]) -> None:
        with self.db.transaction():
            if self.quarantine:
                self._salvage(self.quarantine, destinations, torn)
            restore_copied_rows(self.db)
            self.packs.load_dictionaries()
            restore_streams(self.db, self._tracker.record.found, self.packs.read_head)
            restore_outboxes(self.db)
            self.packs.load(destinations, now_ms, asked)
            self.packs.inspect()
        if self.quarantine:
            finish_salvage(self.db.path)
        self.retention.apply_limits()

    def _salvage(self, quarantine: Quarantine, destinations: Sequence[str], torn: bool) -> None:
        record = self._tracker.record
        recorded = record.found if record.exact else {}
        for head in read_heads(Path(quarantine.path)):
            kept = recorded.get(head.stream)
            is_newer = kept is not None and kept.seq > head.seq and kept.to_ms >= head.to_ms
            self._streams.put_head(head_of(kept) if kept is not None and is_newer else head)
        self.db.set_meta("last_id", record.last_id)
        state = RecordedState(recorded, torn, record.last_id + 1)
        salvage = Salvage(Path(quarantine.path), self.db, self._codec, self._streams, destinations, state)
        salvage.run()
        self.saved_packs, self.left_behind = salvage.packs, salvage.left_behind
        self.retention.lost_packs = salvage.lost

    def call(self, function: Callable[[Store], T]) -> T:
        """Call ``function`` with the store. Any error of SQLite is raised as a StoreError."""
        with self.db.translated_errors():
            return function(self)

    # --- streams that are behind the recorded heads

    @property
    def behind(self) -> Mapping[str, LaggingStream]:
        """The streams whose newest packs are missing. ``resume_streams`` continues them after these packs."""
        return self._tracker.behind

    def resume_streams(self, resumes: Mapping[str, Resume]) -> tuple[int, int]:
        """Continue each stream in ``behind`` after its missing packs, and note these packs as lost.

        Returns (number of streams, number of lost packs).

        Args:
            resumes: by stream, where it continues; by default after its last committed pack.
        """
        done = self._tracker.resume(resumes)
        self.packs.refresh()
        return done

    def mark_sent(self) -> None:
        """Record that all committed packs may be published.

        Call this before they are published; any thread may call it.
        """
        self._tracker.record.mark_sent()

    # --- limits

    def change_limits(
        self,
        max_size_bytes: int,
        keep_delivered_s: float,
        destinations: Sequence[str],
        now_ms: int,
        also: Callable[[], None] = lambda: None,
        asked: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Change limits and destinations. If the cap becomes smaller, the next ``prune`` deletes the excess packs.

        Args:
            also: makes further writes in the same transaction.
            asked: as for ``open``.

        Raises:
            StoreFull, StoreBusy: nothing has changed.
        """
        with self.packs.restored_destinations(), self.db.transaction():
            also()
            self.packs.set_destinations(destinations, now_ms, asked or {})
        self.retention.change_limits(max_size_bytes, keep_delivered_s)

    def prune(self, now_ms: int) -> list[LossNote]:
        """Delete old delivered packs, enforce the caps, and return unused space to the disk. Call this every minute.

        Call it after StoreFull too. If the disk is nearly full, packs that every destination confirmed are deleted
        early, until the file has 4 MiB of unused pages for new packs.

        Args:
            now_ms: 0 if the clock cannot be trusted. In this case no pack is deleted because of its age.

        Returns:
            All losses that no pack states yet. The next pack of their stream must state them.
        """
        retention = self.retention
        tight = free_bytes(self.db.path.parent) < 2 * SPARE_BYTES
        if tight:  # even DELETE writes to the WAL, so the reserve is freed first
            retention.reserve.drop()
        try:
            with retention.restored_searches(), self.db.transaction():
                if now_ms:
                    retention.delete_delivered(now_ms - retention.keep_delivered_ms)
                lost = retention.make_room(retention.page_limit)
                if tight and (pages := (4 << 20) // PAGE_BYTES - self.db.free_pages) > 0:
                    retention.free_confirmed(pages)
                unused = retention.delete_old_dictionaries()
                retention.delete_old_hashes()
            self._codec.remove_dictionaries(unused)
            if lost:
                retention.lost_packs += lost
                self.packs.count_pending()
            if tight:
                self.db.flush_wal()
            else:
                retention.shrink()
            self._tracker.update_owed()
        except sqlite3.Error as error:
            raise self.db.explain(error) from error
        finally:
            # The disk is full. If the file has unused pages, new packs need only space in the WAL, so some disk space
            # stays free for the WAL. If the file has no unused pages, all free space is reserved for the next clean-up.
            retention.reserve.take(0 if tight and not retention.has_spare_pages() else SPARE_BYTES)
        return retention.losses()

    # --- check and status

    def start_check(self, is_sealed: Callable[[bytes], bool]) -> StoreCheck:
        """Begin a check of everything stored.

        ``is_sealed`` returns True if a pack, given as bytes, has a valid signature.
        """
        self.db.release_memory()
        return StoreCheck(self.db, lambda row: self.packs.drop_if_bad(row, is_sealed))

    def checked_ms(self) -> int:
        """Return the time in UTC ms when the last check ended; 0: there was no check yet, or a check is due now."""
        return 0 if suspicion_count(self.db.path) else int(self.db.meta("inspected") or 0)

    def mark_checked(self, at_ms: int) -> int:
        """Record that a check ended at ``at_ms`` and found the store sound. Returns ``at_ms``."""
        clear_suspicion(self.db.path)
        with self.db.transaction():
            self.db.set_meta("inspected", at_ms)
        return at_ms

    def warnings(self) -> list[str]:
        """Return the reasons why commits may not be durable here; usually none."""
        directory = self.db.path.parent
        found = [*mount_of(directory).weaknesses(), *build_warnings()]
        if not self.retention.reserve.held_bytes:
            found.append(f"{directory}: no room for the reserve file that the agent needs to recover from a full disk")
        return found

    @property
    def lost_packs(self) -> int:
        """The number of packs that were damaged, or evicted before they were confirmed, since the store was opened."""
        return self.retention.lost_packs

    def usage(self) -> Usage:
        """Return the size and settings of the store. This is cheap enough to be called for each status."""
        span = self.db.execute("SELECT coalesce(max(id) - min(id) + 1, 0) FROM packs").fetchone()[0]
        path = self.db.path
        return Usage(
            path=str(path),
            database_bytes=self.db.pages * PAGE_BYTES,
            wal_bytes=file_bytes(path.with_name(path.name + "-wal")),
            ballast_bytes=self.retention.reserve.held_bytes,
            unused_bytes=self.db.free_pages * PAGE_BYTES,
            max_bytes=self.retention.max_size_bytes,
            free_disk_bytes=free_bytes(path.parent),
            packs=span,
            pending=dict(self.packs.pending_counts),
            settings=f"SQLite {sqlite3.sqlite_version}, WAL, synchronous FULL, page {PAGE_BYTES}",
        )

    def close(self) -> None:
        """Copy the WAL into the database file and close it."""
        self.db.close()
        self._tracker.record.close()


def _what(error: Exception) -> str:
    """Describe the damage that made a value in the database unusable, without the words of Python."""
    return str(error) if isinstance(error, WrongType) else "a value in its tables has another type or size"
