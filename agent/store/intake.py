"""The way into the store: one transaction for everything that a tick sealed."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.store.codec import make_dictionary
from agent.store.errors import StoreError, StoreFull
from agent.store.heads import HeadRecord
from agent.store.packs import Shelves
from agent.store.sqlite import PAGE_BYTES, free_bytes
from agent.store.streams import Place, Sealed, boot_hex, boot_number, signed

SPARE_BYTES = 1024 * 1024  # disk that a commit never touches: other programs, a log line
ROW_BYTES = 128  # what a pack takes beside its body: row, index, outbox
LEARN_AFTER = 64  # packs before the first dictionary is made of them
RELEARN_AFTER = 10_000
SAMPLES = 64  # streams that a dictionary is made of


@dataclass(frozen=True, slots=True)
class _Row:
    """A pack on its way in."""

    id: int
    pack: Sealed
    birth: int  # births.pack, if the body leaves that hash out
    dictionary: int
    body: bytes


class Intake(Shelves):
    """The writing half of a store."""

    _path: Path
    _page_limit: int
    _pending: dict[str, int]
    _next_id: int
    _since_learned: int
    _learn_after: int
    _within = False  # a transaction
    _record: HeadRecord

    def _follow(self) -> None:
        raise NotImplementedError

    def _refresh(self) -> None:
        """Names and numbers as the database has them."""
        rows = self._conn.execute("SELECT name, id, seq, birth_pack, birth FROM streams").fetchall()
        self._heads = {name: Place(number, seq, pack or 0, birth) for name, number, seq, pack, birth in rows}
        self._boots = {boot_hex(boot): number for number, boot in self._conn.execute("SELECT id, boot FROM boots")}

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; SQLite's errors come out as ours. Within another one it is part of that one."""
        if self._within:
            yield
            return
        self._within = True
        try:
            self._conn.execute("BEGIN IMMEDIATE")
            yield
            self._conn.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                if self._conn.in_transaction:
                    self._conn.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise self._explain(error) from error
            raise
        finally:
            self._within = False

    def _boot(self, boot: str) -> int:
        if boot not in self._boots:
            number = boot_number(boot)
            self._conn.execute("INSERT INTO boots (boot) VALUES (?) ON CONFLICT DO NOTHING", (number,))
            self._boots[boot] = self._conn.execute("SELECT id FROM boots WHERE boot = ?", (number,)).fetchone()[0]
        return self._boots[boot]

    # --- the way in

    def commit(
        self,
        packs: Sequence[Sealed],
        confirmed: Mapping[str, Sequence[int]] | None = None,
        stated: Sequence[int] = (),
        facts: Mapping[str, bytes] | None = None,
    ) -> list[int]:
        """Keep packs, heads, ring positions and outbox rows, and take confirmed packs out, in one transaction.

        Args:
            packs: each stream's in the order of ``seq``.
            confirmed: ids by destination.
            stated: ids of the LossNotes that stand in the first of ``packs`` of their stream.
            facts: by stream, what the births among ``packs`` say of the device: known at the next start, or neither is.

        Returns:
            The ids of ``packs``, in order. When this returns, they are on the disk.

        Raises:
            StoreFull: no room; nothing was done.
            StoreBusy: the disk failed for the moment; nothing was done.
            StoreDamaged: nothing was done, and nothing will be until the store is opened anew.
        """
        if packs and not self._record.begun:
            self._follow()
        ids = list(range(self._next_id, self._next_id + len(packs)))
        rows = self._rows(packs, ids)
        need = sum(len(row.body) + ROW_BYTES for row in rows)
        if packs:
            self._check_disk(need)
        counts = {name: 0 for name in self._destinations}
        try:
            with self._transaction():
                for name, numbers in (confirmed or {}).items():
                    counts[name] -= self._confirm(self._destinations[name], numbers)
                lost = self._pruner.make_room(self._page_limit - need // PAGE_BYTES - 16) if packs else 0
                if packs:
                    self._insert(rows)
                    self._state(packs, ids, stated)
                for stream, text in (facts or {}).items():
                    self._keep_facts(stream, text)
        except BaseException:
            self._refresh_quietly()
            raise
        self._record.advance(packs, ids)
        self.lost_packs += lost
        self._next_id += len(packs)
        for name, change in counts.items():
            self._pending[name] += change + len(packs)
        if lost:
            self._count_pending()
        self._since_learned += sum(not pack.is_birth for pack in packs)
        if self._since_learned >= self._learn_after:
            self._learn()
        return ids

    def _check_disk(self, need: int) -> None:
        free = free_bytes(self._path.parent)
        # once for the WAL, once for the database, where pages that are free inside the file count
        if free >= SPARE_BYTES + 2 * need:
            return
        inside = self._conn.execute("PRAGMA freelist_count").fetchone()[0] * PAGE_BYTES
        if free < SPARE_BYTES // 2 + need + max(0, need - inside):
            raise StoreFull(
                f"the disk is full ({free >> 10} KiB free)",
                where=str(self._path.parent),
                hint="Free space there; readings wait in the ring meanwhile, and the agent goes on by itself",
            )

    def _confirm(self, destination: int, numbers: Sequence[int]) -> int:
        removed = self._conn.executemany(
            "DELETE FROM outbox WHERE destination = ? AND pack = ?", [(destination, number) for number in numbers]
        ).rowcount
        if numbers:
            self._pruner.walk.reopened(min(numbers))
        return max(removed, 0)

    def _rows(self, packs: Sequence[Sealed], ids: Sequence[int]) -> list[_Row]:
        """Compress, and check that every pack follows the one before."""
        rows = []
        latest: dict[str, tuple[int, int, bytes | None]] = {}  # stream -> seq, birth's id, birth's hash
        for number, pack in zip(ids, packs, strict=True):
            if pack.stream not in latest:
                place = self._heads.get(pack.stream)
                latest[pack.stream] = (place.seq, place.birth_pack, place.birth) if place else (0, 0, None)
            seq, birth_pack, birth = latest[pack.stream]
            if pack.seq <= seq:
                raise ValueError(f"{pack.stream} already has pack {seq}: {pack.seq} cannot follow")
            dictionary, left_out, body = self._codec.pack(pack.data, pack.hash, birth)
            rows.append(_Row(number, pack, birth_pack if left_out else 0, dictionary, body))
            latest[pack.stream] = (pack.seq, *((number, pack.hash) if pack.is_birth else (birth_pack, birth)))
        return rows

    def _insert(self, rows: Sequence[_Row]) -> None:
        for name, last in {row.pack.stream: row for row in rows}.items():
            births = [row for row in rows if row.pack.is_birth and row.pack.stream == name]
            self._heads[name] = self._move_head(last.pack, births[-1] if births else None)
        self._conn.executemany(
            "INSERT INTO packs (id, stream, boot, seq, from_ms, span_ms, is_birth, birth, dictionary, body)"
            " VALUES (?,?,?,?,?,?,?,?,?,?)",
            [
                (
                    row.id, self._heads[row.pack.stream].id, self._boot(row.pack.boot), row.pack.seq, row.pack.from_ms,
                    row.pack.to_ms - row.pack.from_ms, int(row.pack.is_birth), row.birth, row.dictionary, row.body,
                )
                for row in rows
            ],
        )  # fmt: skip
        self._conn.executemany(
            "INSERT INTO births (pack, hash) VALUES (?, ?)",
            [(row.id, row.pack.hash) for row in rows if row.pack.is_birth],
        )
        for destination in self._destinations.values():
            self._conn.executemany(
                "INSERT INTO outbox (destination, pack) VALUES (?, ?)", [(destination, row.id) for row in rows]
            )

    def _move_head(self, pack: Sealed, birth: _Row | None) -> Place:
        place = self._heads.get(pack.stream)
        birth_pack, digest = (place.birth_pack, place.birth) if place else (0, None)
        if birth:
            birth_pack, digest = birth.id, birth.pack.hash
        values = (
            self._boot(pack.boot), pack.seq, pack.hash, pack.to_ms, digest, birth_pack or None, signed(pack.ring_id),
            signed(pack.ring_pos),
        )  # fmt: skip
        if place:
            self._conn.execute(
                "UPDATE streams SET boot = ?, seq = ?, hash = ?, to_ms = ?, birth = ?, birth_pack = ?, ring_id = ?,"
                " ring_pos = ? WHERE id = ?",
                (*values, place.id),
            )
            return Place(place.id, pack.seq, birth_pack, digest)
        number = self._conn.execute(
            "INSERT INTO streams (boot, seq, hash, to_ms, birth, birth_pack, ring_id, ring_pos, name)"
            " VALUES (?,?,?,?,?,?,?,?,?)",
            (*values, pack.stream),
        ).lastrowid
        return Place(number or 0, pack.seq, birth_pack, digest)

    def _state(self, packs: Sequence[Sealed], ids: Sequence[int], stated: Sequence[int]) -> None:
        first: dict[int, int] = {}
        for number, pack in zip(ids, packs, strict=True):
            first.setdefault(self._heads[pack.stream].id, number)
        for loss in stated:
            row = self._conn.execute("SELECT stream FROM losses WHERE id = ?", (loss,)).fetchone()
            if row is None:
                continue  # it grew into a wider one meanwhile, which is still to be stated
            if row[0] not in first:
                raise ValueError(f"loss {loss} is stated, but no pack of its stream is committed")
            self._conn.execute("UPDATE losses SET stated_in = ? WHERE id = ?", (first[row[0]], loss))

    def _refresh_quietly(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._refresh()

    def _count_pending(self) -> None:
        for name, number in self._destinations.items():
            count = self._conn.execute("SELECT count(*) FROM outbox WHERE destination = ?", (number,)).fetchone()
            self._pending[name] = count[0]

    def _learn(self) -> None:
        """Make a dictionary of recent packs if that is worth it. The packs are committed, whatever fails here."""
        self._since_learned, self._learn_after = 0, RELEARN_AFTER
        with contextlib.suppress(StoreError, ValueError, KeyError, sqlite3.Error):
            rows = self._conn.execute(
                "SELECT p.stream, p.dictionary, p.body, b.hash FROM packs p LEFT JOIN births b ON b.pack = p.birth"
                " WHERE p.id >= ? AND NOT p.is_birth ORDER BY p.id",
                (self._next_id - 512,),
            ).fetchall()
            newest = {stream: rest for stream, *rest in rows}
            samples = [self._codec.unpack(*row) for row in list(newest.values())[:SAMPLES]]
            raw = make_dictionary(samples)
            if not self._codec.worth(raw, samples):
                return
            number = self._codec.newest + 1
            with self._transaction():
                self._conn.execute(
                    "INSERT INTO dictionaries (id, first_pack, body) VALUES (?, ?, ?)", (number, self._next_id, raw)
                )
            self._codec.learn(number, raw)
            self._codec.use(number, raw)
