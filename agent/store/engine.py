"""The store: heads, packs, outboxes. Synchronous; lives in exactly one thread."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from agent.store.body import Codec
from agent.store.database import (
    PAGE_BYTES,
    Ballast,
    Quarantine,
    build_warnings,
    file_bytes,
    free_bytes,
    mount_warnings,
    open_or_quarantine,
    salvaged,
)
from agent.store.doubt import Doubt, Tries, acquit, strikes
from agent.store.errors import StoreDamaged, StoreError
from agent.store.inspection import Inspection
from agent.store.intake import LEARN_AFTER, RELEARN_AFTER, SPARE_BYTES, Intake
from agent.store.prune import Pruner, ballast_bytes, page_limit, vacuum
from agent.store.salvage import Salvage
from agent.store.values import LossNote, Place, Usage, boot_hex

T = TypeVar("T")
MIN_SIZE_BYTES = 8 * 1024 * 1024


class Store(Intake):
    """The database of one gateway. Open with ``Store.open``; every method belongs to the opening thread."""

    def __init__(
        self,
        conn: sqlite3.Connection,
        path: Path,
        max_size_bytes: int,
        keep_delivered_s: float,
        quarantine: Quarantine | None,
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
        self._heads: dict[str, Place] = {}
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
    ) -> Store:
        """The database at ``path``, made if it is not there; a damaged one is set aside (``quarantine`` tells).

        Args:
            max_size_bytes: cap for database, WAL and ballast together.
            keep_delivered_s: how long packs stay after every destination confirmed them.
            destinations: who must confirm from now on. A name that is gone keeps its outbox in case it comes back.

        Raises:
            StoreBusy: another process has it open.
            StoreNewer: a newer version wrote it.
            StoreError: it cannot be opened, or SQLite cannot keep the promises here.
        """
        path = Path(path)
        if max_size_bytes < MIN_SIZE_BYTES:
            raise StoreError(f"max_size must be at least 8 MiB, not {max_size_bytes} bytes", where=str(path))
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if free_bytes(path.parent) < 2 * SPARE_BYTES:
                # opening writes, and so does all that a start keeps before it reads: it lives on the reserve
                Ballast(path.with_name(path.name + ".ballast"), 0).drop()
            return cls._open(path, max_size_bytes, keep_delivered_s, destinations, now_ms)
        except OSError as error:
            raise StoreError(
                f"the state directory cannot be used ({error.strerror})",
                where=str(path.parent),
                hint="Create it, owned by the user that runs the agent",
            ) from error

    @classmethod
    def _open(
        cls, path: Path, max_size_bytes: int, keep_delivered_s: float, destinations: Sequence[str], now_ms: int
    ) -> Store:
        damage, tries = "", Tries(path)
        while True:
            conn, quarantine = open_or_quarantine(path, damage)
            store = cls(conn, path, max_size_bytes, keep_delivered_s, quarantine)
            try:
                store._load(destinations, now_ms)
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

    def _load(self, destinations: Sequence[str], now_ms: int) -> None:
        with self._transaction():
            for head in self.quarantine.heads if self.quarantine else ():
                self._conn.execute(
                    "INSERT INTO streams (name, boot, seq, hash, to_ms, ring_id, ring_pos) VALUES (?,?,?,?,?,?,?)",
                    (head.stream, self._boot(boot_hex(head.boot)), head.seq, head.hash, head.to_ms, head.ring_id,
                     head.ring_pos),
                )  # fmt: skip
            if self.quarantine:
                rescue = Salvage(Path(self.quarantine.path), self._conn, self._codec, self._boot, destinations)
                rescue.run()
                self.saved_packs, self.lost_packs = rescue.packs, rescue.lost
            self._serve(destinations, now_ms)
            self._refresh()
            self._pruner.losses()  # every start asks for them: what is wrong there is to show here
            self._next_id = self._conn.execute("SELECT coalesce(max(id), 0) + 1 FROM packs").fetchone()[0]
            newest: tuple[int, bytes] | None = None
            for newest in self._conn.execute("SELECT id, body FROM dictionaries ORDER BY id").fetchall():
                self._codec.learn(*newest)
            if newest:
                self._codec.use(*newest)
                self._learn_after = RELEARN_AFTER
        if self.quarantine:
            salvaged(self._path)
        self._guard()

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

    def bound(self, max_size_bytes: int, keep_delivered_s: float, destinations: Sequence[str], now_ms: int) -> None:
        """Other bounds and destinations from now on; what is too much for a smaller cap goes with the next ``prune``.

        Raises:
            StoreFull, StoreBusy: nothing was changed.
        """
        before = self._destinations, self._pruner.owed, self._pending
        try:
            with self._transaction():
                self._serve(destinations, now_ms)
        except BaseException:
            self._destinations, self._pruner.owed, self._pending = before
            raise
        self._keep_ms = int(keep_delivered_s * 1000)
        if max_size_bytes != self._max:
            self._max, self._page_limit = max_size_bytes, page_limit(max_size_bytes)
            self._ballast.drop()
            self._ballast = Ballast(self._path.with_name(self._path.name + ".ballast"), ballast_bytes(max_size_bytes))
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
                self._checkpoint()
            else:
                vacuum(self._conn, min(16 << 20, self._max // 8) // PAGE_BYTES)
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

    def _checkpoint(self) -> None:
        self._conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # --- facts

    def inspect(self, holds: Callable[[bytes], bool]) -> Inspection:
        """Begin a look at all that is stored. ``holds``: has a pack, given its bytes, the signature it must have?"""
        return Inspection(self._conn, self._explain, lambda number, body: self._drop_if_bad(number, body, holds))

    def inspected(self, at_ms: int = 0) -> int:
        """When the last look came to its end, UTC ms; 0: never, or one is due now. With ``at_ms``: it did so now."""
        if at_ms:
            acquit(self._path)
            with self._transaction():
                self._conn.execute(
                    "INSERT INTO meta (name, value) VALUES ('inspected', ?)"
                    " ON CONFLICT DO UPDATE SET value = excluded.value",
                    (at_ms,),
                )
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
            self._checkpoint()
        self._conn.close()
