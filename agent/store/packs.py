"""Packs and outboxes. Writes all packs of a commit in one transaction, and returns the identical bytes later."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.keys import TYP_PACK
from agent.outbox import NOWHERE, Ack, MissingRange, OutboxItem, ReplayPage
from agent.store.codec import Codec, make_dictionary
from agent.store.documents import Documents, KeyTable
from agent.store.errors import StoreError, StoreFull
from agent.store.heads import HeadTracker
from agent.store.inspection import count_packs, uncounted_streams
from agent.store.retention import SPARE_BYTES, Retention
from agent.store.rows import PackRow, encode_row, pack_crc
from agent.store.schema import PACK_OF, PACKED, TALLY
from agent.store.sqlite import PAGE_BYTES, Database, free_bytes
from agent.store.streams import DAMAGED, LossNote, StoredPack, StreamHead, StreamRegistry, boot_hex, stored_name
from agent.verify.agreed import is_asked
from agent.verify.signed import payload_hash
from drivers.encoding import base64url, base64url_decode

if TYPE_CHECKING:
    from agent.pack import SealedPack

ROW_BYTES = 128  # estimated bytes that a pack needs besides its body, for row, index and outbox
TRAIN_AFTER = 64  # the first dictionary is made after this number of packs
RETRAIN_AFTER = 10_000
SAMPLES = 64  # number of samples for a dictionary; each is a pack of another stream
CHUNK = 32  # packs that one query reads
MAX_ASIDE = 100  # number of changed rows that are kept
MAX_TRIED = 10_000  # number of ids that are tried for a pack whose id was changed
CHECKED_PACKS = 20_000  # number of packs that a destination waits for, and that each start reads
_COLUMNS = len(PackRow._fields)
_ALL: Mapping[str, Sequence[str]] = {}


class _Row(NamedTuple):
    """A pack that is being committed."""

    id: int
    pack: SealedPack
    birth: int  # ``births.pack`` of the birth whose hash the body leaves out; 0: it leaves no hash out
    birth_hash: bytes | None  # that hash; None: it leaves no hash out
    dictionary: int
    body: bytes


class PackTable:
    """Packs, heads and outboxes. A damaged pack is dropped and noted as a loss, so it never blocks other packs."""

    def __init__(
        self,
        db: Database,
        codec: Codec,
        streams: StreamRegistry,
        retention: Retention,
        tracker: HeadTracker,
        documents: Documents,
        keys: KeyTable,
    ) -> None:
        self._db, self._codec, self._streams, self._retention = db, codec, streams, retention
        self._tracker, self._documents, self._keys = tracker, documents, keys
        self._directory = db.path.parent
        retention.mend = self._decode
        self._destinations: dict[str, int] = {}  # name -> destinations.id
        # by destination: patterns of the streams that it gets; empty: all streams
        self._asked: dict[str, tuple[str, ...]] = {}
        self.pending_counts: dict[str, int] = {}  # number of unconfirmed packs by destination
        self._next_id = 1
        self._untrained = 0  # number of packs that were stored since the last dictionary was made
        self._train_after = TRAIN_AFTER

    def load(self, destinations: Sequence[str], now_ms: int, asked: Mapping[str, Sequence[str]] = _ALL) -> None:
        """Load destinations and heads into memory. Runs in the caller's transaction."""
        self.set_destinations(destinations, now_ms, asked)
        self.refresh()
        # the result is not used; the call makes damage in this table show when the store is opened
        self._retention.losses()

    def read_head(self, row: PackRow) -> StreamHead | None:
        """Return the head that a pack makes, without the position in the ring; None if its row was changed."""
        if not row.is_sound():
            return None
        try:
            data = self._codec.unpack(row.dictionary, row.body, row.birth_hash)
            pack = json.loads(data)
            return StreamHead(pack["stream"], pack["boot"], pack["seq"], payload_hash(data), row.from_ms + row.span_ms,
                              None, 0, 0)  # fmt: skip
        except (ValueError, KeyError):
            return None

    def load_dictionaries(self) -> None:
        """Load the dictionaries into memory. Call this before packs are read."""
        newest: tuple[int, bytes] | None = None
        for newest in self._db.execute("SELECT id, CAST(body AS BLOB) FROM dictionaries ORDER BY id").fetchall():
            self._codec.add_dictionary(*newest)
        if newest:
            self._codec.activate(*newest)
            self._train_after = RETRAIN_AFTER

    def refresh(self) -> None:
        """Reload heads and the next id from the database."""
        self._streams.refresh()
        self._next_id = self._streams.last_pack_id() + 1

    # --- destinations

    @property
    def destinations(self) -> Collection[str]:
        """Names of the destinations that must confirm packs."""
        return self._destinations.keys()

    def set_destinations(
        self, destinations: Sequence[str], now_ms: int, asked: Mapping[str, Sequence[str]] = _ALL
    ) -> None:
        """Set which destinations must confirm. Runs in the caller's transaction.

        Args:
            asked: by destination, patterns of the streams that it gets. A destination without patterns gets all
                streams. Packs of other streams are removed from its outbox. If a stream is newly selected, its existing
                packs are not added.
        """
        if NOWHERE in destinations:
            self._keep_undelivered()
        for name in destinations:
            self._db.execute(
                "INSERT INTO destinations (name, seen_ms) VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET seen_ms = excluded.seen_ms",
                (name, now_ms),
            )
        rows = self._db.execute("SELECT name, id FROM destinations").fetchall()
        known = {stored_name(name): number for name, number in rows}
        self._destinations = {name: known[name] for name in destinations}
        self._asked = {name: tuple(asked.get(name, ())) for name in destinations}
        if destinations and NOWHERE in known.keys() - destinations:
            self._hand_over(known[NOWHERE])
        removed = set(self._retention.active) - set(self._destinations.values())
        self._retention.active = tuple(self._destinations.values())
        if removed:  # packs that only these destinations had not confirmed are now confirmed
            self._retention.on_confirmed(1)
        self._drop_unasked()
        self.count_pending()

    def _keep_undelivered(self) -> None:
        """Without a destination, keep what the destinations that were configured last have not confirmed."""
        self._db.execute("INSERT OR IGNORE INTO destinations (name, seen_ms) VALUES (?, -1)", (NOWHERE,))
        self._db.execute(
            "INSERT OR IGNORE INTO outbox (destination, pack)"
            " SELECT DISTINCT n.id, o.pack FROM outbox o, destinations n"
            " WHERE n.name = ? AND o.pack < ? AND o.destination IN"
            " (SELECT id FROM destinations WHERE seen_ms = (SELECT max(seen_ms) FROM destinations))",
            (NOWHERE, TALLY),
        )

    def _hand_over(self, nowhere: int) -> None:
        """Move the packs that waited for a destination to the outboxes of all destinations."""
        for number in self._destinations.values():
            self._db.execute(
                "INSERT OR IGNORE INTO outbox (destination, pack)"
                " SELECT ?, pack FROM outbox WHERE destination = ? AND pack < ?",
                (number, nowhere, TALLY),
            )
        self._db.execute("DELETE FROM outbox WHERE destination = ? AND pack < ?", (nowhere, TALLY))

    def _drop_unasked(self) -> None:
        """Remove packs from the outboxes of destinations that do not get their stream.

        Each start does this too, because another version or configuration may have run before.
        """
        streams = self._db.execute("SELECT id, name FROM streams").fetchall()
        for name, patterns in self._asked.items():
            unasked = [number for number, stream in streams if not _is_asked(stream, patterns)]
            if not unasked:
                continue
            destination = self._destinations[name]
            dropped = self._db.execute(
                "DELETE FROM outbox WHERE destination = ? AND pack IN (SELECT o.pack FROM outbox o"
                " JOIN packs p ON p.id = o.pack WHERE o.destination = ? AND p.stream IN"
                f" ({','.join(map(str, unasked))})) RETURNING pack",
                (destination, destination),
            ).fetchall()
            if dropped:
                self._retention.on_confirmed(min(pack for (pack,) in dropped))

    @contextlib.contextmanager
    def restored_destinations(self) -> Iterator[None]:
        """Return a context manager that restores the destinations in memory on an error."""
        before = self._destinations, self._asked, self._retention.active, self.pending_counts
        try:
            yield
        except BaseException:
            self._destinations, self._asked, self._retention.active, self.pending_counts = before
            raise

    def count_pending(self) -> None:
        """Set ``pending_counts`` from the database."""
        self.pending_counts = {
            name: self._db.execute(
                "SELECT packs FROM outbox WHERE destination = ? AND pack = ?", (number, TALLY)
            ).fetchone()[0]
            for name, number in self._destinations.items()
        }

    # --- writing

    def commit(
        self,
        packs: Sequence[SealedPack],
        confirmed: Mapping[str, Sequence[int]] | None = None,
        stated: Sequence[int] = (),
        facts: Mapping[str, bytes] | None = None,
    ) -> list[int]:
        """Store packs, heads, ring positions and outbox rows, and delete confirmed outbox rows, in one transaction.

        Args:
            packs: the packs of each stream in the order of ``seq``.
            confirmed: by destination, ids of the packs that it confirmed.
            stated: ids of LossNotes. The first pack of their stream in ``packs`` states them.
            facts: by stream, the device facts in the births among ``packs``.

        Returns:
            The ids of ``packs``, in order. The packs are on disk when this returns.

        Raises:
            StoreFull: the disk is full; nothing was done.
            StoreBusy: the disk failed temporarily; nothing was done.
            StoreDamaged: nothing was done, and all further commits fail until the store is opened again.
        """
        if self._streams.is_stale:
            with self._db.translated_errors():
                self.refresh()
        if packs:
            self.begin_record()
        ids = list(range(self._next_id, self._next_id + len(packs)))
        rows = self._encode(packs, ids)
        need = sum(len(row.body) + ROW_BYTES for row in rows)
        if packs:
            self._check_disk(need)
        counts = {name: 0 for name in self._destinations}
        with self._streams.restored(), self._retention.restored_searches(), self._db.transaction():
            for name, numbers in (confirmed or {}).items():
                counts[name] -= self._confirm(self._destinations[name], numbers)
            lost = self._retention.make_room(self._retention.page_limit - need // PAGE_BYTES - 16) if packs else 0
            if packs:
                for name, count in self._insert(rows).items():
                    counts[name] += count
                self._mark_stated(rows, stated)
            if facts:
                self._documents.keep_facts(facts)
        self._tracker.record.advance(packs, ids)
        self._retention.lost_packs += lost
        self._next_id += len(packs)
        for name, change in counts.items():
            self.pending_counts[name] += change
        if lost:
            self.count_pending()
        self._untrained += sum(not pack.is_birth for pack in packs)
        if self._untrained >= self._train_after:
            self._train_dictionary()
        return ids

    def begin_record(self) -> None:
        """Begin to record commits, if this was not done yet. Call this before a checkpoint is made."""
        if not self._tracker.record.begun:
            with self._db.translated_errors():
                self._tracker.begin()
                self.refresh()

    def _check_disk(self, need: int) -> None:
        free = free_bytes(self._directory)
        # a commit needs space in the WAL and in the database file; unused pages of the file count as space too
        if free >= SPARE_BYTES + 2 * need:
            return
        if free < SPARE_BYTES // 2 + need + max(0, need - self._db.free_pages * PAGE_BYTES):
            raise StoreFull(
                f"the disk is full ({free >> 10} KiB free)",
                where=str(self._directory),
                hint="Free some space on this disk; readings wait in the ring buffer meanwhile, and the agent "
                "resumes by itself",
            )

    def _confirm(self, destination: int, numbers: Sequence[int]) -> int:
        removed = self._db.executemany(
            "DELETE FROM outbox WHERE destination = ? AND pack = ?", [(destination, number) for number in numbers]
        ).rowcount
        if numbers:
            self._retention.on_confirmed(min(numbers))
        return max(removed, 0)

    def _encode(self, packs: Sequence[SealedPack], ids: Sequence[int]) -> list[_Row]:
        """Compress packs, and check that the sequences of each stream increase."""
        rows = []
        # stream -> (sequence, id of the birth, hash of the birth)
        latest: dict[str, tuple[int, int, bytes | None]] = {}
        for number, pack in zip(ids, packs, strict=True):
            if pack.stream not in latest:
                head = self._streams.cached.get(pack.stream)
                latest[pack.stream] = (head.seq, head.birth_pack, head.birth) if head else (0, 0, None)
            seq, birth_pack, birth = latest[pack.stream]
            if pack.seq <= seq:
                raise ValueError(f"the stream {pack.stream} already has pack {seq}, so pack {pack.seq} cannot follow")
            dictionary, left_out, body = self._codec.pack(pack.data, pack.hash, birth)
            left = (birth_pack, birth) if left_out else (0, None)
            rows.append(_Row(number, pack, *left, dictionary, body))
            latest[pack.stream] = (pack.seq, *((number, pack.hash) if pack.is_birth else (birth_pack, birth)))
        return rows

    def _insert(self, rows: Sequence[_Row]) -> dict[str, int]:
        """Insert packs. Returns the number of packs that each destination gets."""
        births = {row.pack.stream: (row.id, row.pack.hash) for row in rows if row.pack.is_birth}
        self._streams.advance({row.pack.stream: row.pack for row in rows}.values(), births)
        self._db.executemany(
            "INSERT INTO packs (id, stream, boot, seq, from_ms, span_ms, is_birth, birth, dictionary, crc, body)"
            " VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            map(self._columns, rows),
        )
        self._db.executemany(
            "INSERT INTO births (pack, hash) VALUES (?, ?)",
            [(row.id, row.pack.hash) for row in rows if row.pack.is_birth],
        )
        counts: dict[str, int] = {}
        for name, destination in self._destinations.items():
            patterns = self._asked[name]
            owed = [(destination, row.id) for row in rows if not patterns or _is_asked(row.pack.stream, patterns)]
            counts[name] = len(owed)
            self._db.executemany("INSERT INTO outbox (destination, pack) VALUES (?, ?)", owed)
        return counts

    def _columns(self, row: _Row) -> tuple[Any, ...]:
        pack = row.pack
        facts = (
            row.id, self._streams.cached[pack.stream].id, self._streams.boot_id(pack.boot), pack.seq, pack.from_ms,
            pack.to_ms - pack.from_ms, int(pack.is_birth), row.birth, row.dictionary,
        )  # fmt: skip
        return (*facts, pack_crc(facts, row.body, row.birth_hash), row.body)

    def _mark_stated(self, rows: Sequence[_Row], stated: Sequence[int]) -> None:
        first: dict[int, int] = {}
        for row in rows:
            first.setdefault(self._streams.cached[row.pack.stream].id, row.id)
        for loss in stated:
            found = self._db.execute("SELECT stream FROM losses WHERE id = ?", (loss,)).fetchone()
            if found is None:
                continue  # the loss was merged into a longer loss, which is not stated yet
            if found[0] not in first:
                raise ValueError(f"loss {loss} is stated, but no pack of its stream is committed")
            self._db.execute("UPDATE losses SET stated_in = ? WHERE id = ?", (first[found[0]], loss))

    def _train_dictionary(self) -> None:
        """Make a dictionary from recent packs if it saves enough space. An error here does not affect the commit."""
        self._untrained, self._train_after = 0, RETRAIN_AFTER
        with contextlib.suppress(StoreError, ValueError, KeyError, sqlite3.Error):
            rows = self._db.execute(
                f"{PACK_OF} WHERE p.id >= ? AND NOT p.is_birth ORDER BY p.id", (self._next_id - 512,)
            ).fetchall()
            newest = {row.stream: row for row in map(PackRow._make, rows)}
            samples = [self._codec.restore(row) for row in list(newest.values())[:SAMPLES]]
            raw = make_dictionary(samples)
            if not self._codec.is_better(raw, samples):
                return
            number = self._codec.newest_dictionary + 1
            with self._db.transaction():
                self._db.execute(
                    "INSERT INTO dictionaries (id, first_pack, body) VALUES (?, ?, ?)", (number, self._next_id, raw)
                )
            self._codec.add_dictionary(number, raw)
            self._codec.activate(number, raw)

    # --- damage

    def _decode(self, row: PackRow) -> bytes | None:
        """Return the bytes of a pack, or None if its row was changed and could not be restored."""
        try:
            return self._codec.restore(row)
        except ValueError:
            return self._mend(row)

    def _mend(self, row: PackRow, is_sealed: Callable[[bytes], bool] | None = None) -> bytes | None:
        """Restore a pack whose row was changed, and return its bytes. If that is impossible, drop it and return None.

        The signature proves that a restored pack is what was sealed. A dropped pack is set aside, and noted as a loss
        with the reason ``damaged`` if a destination waits for it.
        """
        with self._db.lenient_texts():
            stored = self._db.execute(f"{PACK_OF} WHERE p.id = ?", (row.id,)).fetchone()
        if stored is None:
            return None
        row = PackRow._make(stored)
        if is_sealed is None and row.is_sound():  # another row of its birth has restored the birth's hash
            with contextlib.suppress(ValueError):
                return self._codec.restore(row)
        is_sealed = is_sealed or self._keys.checker(TYP_PACK, unknown=False)
        with self._db.transaction():
            for data, found in self._readings_of(row):
                if is_sealed(data):
                    self._rewrite(row, found)
                    return data
        with self._kept_last_id():
            self._drop_damaged(row, next((found for _, found in self._readings_of(row)), row))
        return None

    def _readings_of(self, row: PackRow) -> Iterator[tuple[bytes, PackRow]]:
        """Yield what the body of a changed row may be: the bytes of a pack, and its row by what the pack says."""
        for dictionary in dict.fromkeys((row.dictionary, 0, *self._codec.dictionaries)):
            facts = self._facts_in(row, dictionary, bytes(32))
            if facts is None:
                continue
            births: dict[bytes | None, int] = {row.birth_hash: row.birth} if isinstance(row.birth, int) else {}
            if birth := self._db.execute(
                "SELECT id FROM packs WHERE stream = ? AND is_birth AND seq < ? AND id <> ? ORDER BY seq DESC LIMIT 1",
                (facts.stream, facts.seq, row.id),
            ).fetchone():
                births.setdefault(self._retention.stored_hash(birth[0]), birth[0])
            for digest, number in births.items():
                with contextlib.suppress(ValueError):
                    data = self._codec.unpack(dictionary, row.body, digest)
                    left_out = row.body[:1] == b"\x02"
                    yield data, facts._replace(birth=number if left_out else 0, birth_hash=digest if left_out else None)

    def _facts_in(self, row: PackRow, dictionary: int, birth: bytes) -> PackRow | None:
        """Return the row by what the pack in its body says; None if the body cannot be read, or is of another row."""
        try:
            pack = json.loads(self._codec.unpack(dictionary, row.body, birth))
            stream, boot = self._streams.cached[pack["stream"]].id, self._streams.boot_id(pack["boot"])
            start_ms, end_ms = (round(pack[name] * 1000) for name in ("from", "to"))
            found = row._replace(
                stream=stream, boot=boot, seq=pack["seq"], from_ms=start_ms, span_ms=end_ms - start_ms,
                is_birth=int("table" in pack), dictionary=dictionary,
            )  # fmt: skip
        except (ValueError, KeyError, TypeError):
            return None
        changed = [a != b for a, b in zip(found[1:5], row[1:5], strict=True)]  # stream, boot, seq, from_ms
        return found if sum(changed) <= 1 else None

    def _rewrite(self, row: PackRow, found: PackRow) -> None:
        """Store the row of a pack as it was before it was changed."""
        number = self._id_of(found)
        twins = self._db.execute(
            f"{PACK_OF} WHERE p.stream = ? AND p.seq = ? AND p.id <> ?", (found.stream, found.seq, row.id)
        ).fetchall()
        self._db.execute("DELETE FROM packs WHERE id = ?", (row.id,))
        if not any(PackRow._make(twin).is_sound() for twin in twins):
            facts = (number, *found[1:9])
            crc = pack_crc(facts, found.body, found.birth_hash)
            self._db.execute(
                "INSERT INTO packs (id, stream, boot, seq, from_ms, span_ms, is_birth, birth, dictionary, crc, body)"
                " VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (*facts, crc, found.body),
            )
            if found.is_birth:
                digest = payload_hash(self._codec.unpack(found.dictionary, found.body, found.birth_hash))
                self._db.execute("INSERT OR REPLACE INTO births (pack, hash) VALUES (?, ?)", (number, digest))
            elif found.birth_hash is not None:
                birth = (found.birth, found.birth_hash)
                if not self._db.execute("SELECT 1 FROM births WHERE (pack, hash) = (?, ?)", birth).fetchone():
                    self._db.execute("INSERT OR REPLACE INTO births (pack, hash) VALUES (?, ?)", birth)
        for stream in {row.stream, found.stream}:
            count_packs(self._db, stream)
        self._db.note_damage(f"the row of pack {found.seq} of {self._name(found.stream)} was changed; it is restored")

    def _id_of(self, found: PackRow) -> int:
        """Return the id of a pack whose other columns are known. In a stream, ids grow with the sequence."""
        if found.crc == pack_crc(found[:9], found.body, found.birth_hash):
            return found.id
        low, high = self._db.execute(
            "SELECT (SELECT id FROM packs WHERE stream = ?1 AND seq < ?2 AND id <> ?3 ORDER BY seq DESC LIMIT 1),"
            " (SELECT id FROM packs WHERE stream = ?1 AND seq > ?2 AND id <> ?3 ORDER BY seq LIMIT 1)",
            (found.stream, found.seq, found.id),
        ).fetchone()
        low = low or 0
        for number in range(low + 1, min(high or low + MAX_TRIED, low + MAX_TRIED)):
            if found.crc == pack_crc((number, *found[1:9]), found.body, found.birth_hash):
                return number
        return found.id

    def _name(self, stream: int) -> str:
        return next((name for name, head in self._streams.cached.items() if head.id == stream), "")

    def _drop_damaged(self, row: PackRow, found: PackRow) -> None:
        """Delete a pack. ``found``: its row, as far as it is known what it was."""
        self._set_aside(row)
        self._db.note_damage(f"pack {found.seq} of {self._name(found.stream)} was changed; it is deleted")
        owed = [
            name
            for name, destination in self._destinations.items()
            if self._db.execute(
                "SELECT 1 FROM outbox WHERE destination = ? AND pack = ?", (destination, row.id)
            ).fetchone()
        ]
        is_owed = (
            owed
            or self._db.execute(
                "SELECT 1 FROM outbox WHERE pack = ? AND destination IN (SELECT id FROM destinations)", (row.id,)
            ).fetchone()
        )
        if is_owed and all(isinstance(value, int) for value in found[:9]):
            self._db.execute("DELETE FROM packs WHERE id = ?", (row.id,))
            self._retention.lost_packs += self._retention.evict([row.id], DAMAGED, [found])
        else:
            self._db.execute("DELETE FROM packs WHERE id = ?", (row.id,))
        for stream in {row.stream, found.stream}:
            count_packs(self._db, stream)
        for name in owed:
            self.pending_counts[name] -= 1

    def _set_aside(self, row: PackRow) -> None:
        body = encode_row(row)
        self._db.execute("INSERT INTO set_aside (at, body) VALUES (datetime(), ?)", (body,))
        self._db.execute("DELETE FROM set_aside WHERE id <= (SELECT max(id) FROM set_aside) - ?", (MAX_ASIDE,))

    @contextlib.contextmanager
    def _kept_last_id(self) -> Iterator[None]:
        """Return a context manager for a transaction that may delete the newest pack.

        If it does, the id of this pack is stored. Otherwise the id would be assigned again, and the next start would
        believe that the newest transactions are missing.
        """
        with self._db.transaction():
            last = self._streams.last_pack_id()
            yield
            if self._streams.last_pack_id() < last:
                self._db.set_meta("last_id", last)

    def drop_if_bad(self, row: PackRow, is_sealed: Callable[[bytes], bool]) -> bool:
        """Restore or drop a pack if its row was changed, or if its signature is invalid. True: it was dropped."""
        with contextlib.suppress(ValueError):
            if is_sealed(self._codec.restore(row)):
                return False
        return self._mend(row, is_sealed) is None

    def inspect(self) -> None:
        """Find and mend the packs whose rows were changed, as far as this is quick. Runs in the caller's transaction.

        The tallies of the streams show changes of ``id``, ``stream`` and ``seq``, and rows that are missing. Of the
        packs that a destination waits for, the first ones are read.
        """
        before = len(self._db.findings)
        if bad := uncounted_streams(self._db):
            for stream in bad:
                self._mend_all("p.stream IS ?", stream)
            mended = len(self._db.findings) > before
            for stream, missing in uncounted_streams(self._db).items():
                count_packs(self._db, stream)
                if not mended and (name := self._name(stream)):
                    self._db.note_damage(f"the packs of {name} are counted again: {missing} of them are missing")
            with self._kept_last_id():
                self._note_missing(bad)
        for destination in self._destinations.values():
            self._mend_all(
                "p.id IN (SELECT pack FROM outbox WHERE destination = ? AND pack < ? ORDER BY pack LIMIT ?)",
                *(destination, TALLY, CHECKED_PACKS),
            )
        self._mend_all("p.id IN (SELECT birth_pack FROM streams UNION SELECT max(id) FROM packs)")
        self.refresh()
        self.count_pending()

    def _mend_all(self, where: str, *values: object) -> None:
        """Mend the changed ones among the packs that ``where`` selects."""
        with self._db.lenient_texts():
            rows = self._db.execute(f"{PACK_OF} WHERE {where}", values)
            bad = [row for row in map(PackRow._make, rows) if not row.is_sound()]
        for row in bad:
            self._mend(row)

    def _note_missing(self, streams: Iterable[object]) -> None:
        """Note the packs of these streams that destinations wait for, but that are not stored, as losses."""
        owed = self._db.execute(
            "SELECT DISTINCT pack FROM outbox WHERE pack < ? AND pack NOT IN (SELECT id FROM packs)", (TALLY,)
        ).fetchall()
        for (number,) in owed:
            for name, head in self._streams.cached.items():
                if head.id in streams and self._note_hole(name, head.id, number):
                    break
            self._db.note_damage(f"the row of the pack with the id {number} is missing")
            self._retention.delete_from_outbox([number])

    def _note_hole(self, name: str, stream: int, number: int) -> bool:
        """Note the packs between the neighbours of a missing id as a loss. Returns False if none is missing there."""
        before, after = (
            self._db.execute(
                f"{PACK_OF} WHERE p.stream = ? AND p.id {sign} ? ORDER BY p.seq {order} LIMIT 1", (stream, number)
            ).fetchone()
            for sign, order in (("<", "DESC"), (">", ""))
        )
        head = self._streams.head(name)
        first, from_ms = (before[3] + 1, before[4] + before[5]) if before else (1, 0)
        last = after[3] - 1 if after else head.seq
        if last < first:
            return False
        to_ms, digest = head.to_ms, head.hash
        boot = self._streams.boot_id(head.boot)
        if after:
            row = PackRow._make(after)
            pack = json.loads(self._codec.restore(row))
            boot, to_ms = self._streams.boot_id(pack.get("prev_boot") or pack["boot"]), row.from_ms
            digest = base64url_decode(pack["prev"]) if pack["prev"] else bytes(32)
        self._retention.note_loss(stream, boot, first, last, from_ms or to_ms, to_ms, digest, DAMAGED)
        self._retention.lost_packs += last - first + 1
        return True

    def losses(self) -> list[LossNote]:
        """Return the losses that no pack states yet.

        A start must read them, because a killed agent leaves them here.
        """
        return self._retention.losses()

    # --- reading

    def heads(self) -> dict[str, StreamHead]:
        """Return the heads of all streams in this database, by name."""
        return self._streams.heads()

    def head(self, stream: str) -> StreamHead:
        """Return the head of one stream. Raises KeyError if the stream is not in this database."""
        return self._streams.head(stream)

    def _read(self, max_bytes: int, sql: str, *values: object) -> tuple[list[tuple[Any, ...]], tuple[Any, ...]]:
        """Read packs. Returns the rows, and the last row that was read; () if no row was read. Drops damaged packs.

        Args:
            max_bytes: limit for all packs together; the first pack may be larger.
            sql: its last columns must be those of a ``PackRow``. In the returned rows, the id and the bytes of the pack
                replace them.
        """
        found: list[tuple[Any, ...]] = []
        bad: list[PackRow] = []
        last: tuple[Any, ...] = ()
        size = 0
        with self._db.translated_errors(), contextlib.closing(self._db.execute(sql, values)) as rows:
            for columns in rows:
                front, row = columns[:-_COLUMNS], PackRow._make(columns[-_COLUMNS:])
                try:
                    data = self._codec.restore(row)
                except ValueError:
                    bad.append(row)
                else:
                    size += len(data)
                    if found and size > max_bytes:
                        break
                    found.append((*front, row.id, data))
                last = (*front, row.id)
        if any([self._mend(row) is not None for row in bad]):
            return self._read(max_bytes, sql, *values)  # some of them are restored
        return found, last

    def pending(
        self, destination: str, after_id: int = 0, limit: int = 100, max_bytes: int = 1 << 20
    ) -> list[OutboxItem]:
        """Return packs with an id above ``after_id`` that ``destination`` has not confirmed, oldest first.

        The list is empty if there are no more packs.
        """
        found, last = self._read(
            max_bytes,
            f"SELECT s.name, p.is_birth, p.from_ms + p.span_ms, {PACKED} FROM outbox o"
            " JOIN packs p ON p.id = o.pack LEFT JOIN streams s ON s.id = p.stream"
            " LEFT JOIN births b ON b.pack = p.birth"
            " WHERE o.destination = ? AND o.pack > ? ORDER BY o.pack LIMIT ?",
            *(self._destinations[destination], after_id, limit),
        )
        if last and not found:  # all packs that were read are damaged
            return self.pending(destination, last[3], limit, max_bytes)
        return [
            OutboxItem(number, stream, data, bool(is_birth), to_ms) for stream, is_birth, to_ms, number, data in found
        ]

    def births(self, after: str = "", limit: int = 100, max_bytes: int = 1 << 20) -> list[OutboxItem]:
        """Return the birth in effect of each stream with a name above ``after``, in order of names.

        The list is empty if there are no more streams.
        """
        found, last = self._read(
            max_bytes,
            f"SELECT s.name, p.from_ms + p.span_ms, {PACKED} FROM streams s"
            " JOIN packs p ON p.id = s.birth_pack LEFT JOIN births b ON b.pack = p.birth"
            " WHERE s.name > ? ORDER BY s.name LIMIT ?",
            *(after, limit),
        )
        if last and not found:
            return self.births(last[0], limit, max_bytes)
        return [OutboxItem(number, stream, data, True, to_ms) for stream, to_ms, number, data in found]

    def after(self, stream: str, seq: int, last: int, limit: int = CHUNK, max_bytes: int = 1 << 30) -> list[StoredPack]:
        """Return packs with sequences above ``seq`` up to ``last``, of any boot, in order.

        The list is empty if there are no more packs.
        """
        found, read = self._read(
            max_bytes,
            f"SELECT t.boot, p.seq, p.from_ms, p.span_ms, p.is_birth, {PACKED}"
            " FROM packs p LEFT JOIN boots t ON t.id = p.boot LEFT JOIN births b ON b.pack = p.birth"
            " WHERE p.stream = ? AND p.seq > ? AND p.seq <= ? ORDER BY p.seq LIMIT ?",
            *(self._streams.cached[stream].id, seq, last, limit),
        )
        if read and not found:
            return self.after(stream, read[1], last, limit, max_bytes)
        return [
            StoredPack(number, stream, boot_hex(boot), at, from_ms, from_ms + span_ms, bool(is_birth), data)
            for boot, at, from_ms, span_ms, is_birth, number, data in found
        ]

    def newest(self, stream: str, limit: int) -> Iterator[bytes]:
        """Yield up to ``limit`` packs of a stream as published, newest first. Births are left out."""
        if stream not in self._streams.cached:
            return
        head = self._streams.cached[stream]
        seq = head.seq + 1
        while limit > 0:
            # each query reads one chunk, because an open cursor would keep the WAL from being reset
            rows = self._db.query(
                f"{PACK_OF} WHERE p.stream = ? AND p.seq < ? AND NOT p.is_birth ORDER BY p.seq DESC LIMIT ?",
                *(head.id, seq, min(CHUNK, limit)),
            )
            for row in map(PackRow._make, rows):
                if (data := self._decode(row)) is not None:
                    yield data
                seq = row.seq
            if not rows:
                return
            limit -= len(rows)

    def birth_before(self, stream: str, seq: int) -> bytes | None:
        """Return the birth in effect before pack ``seq``, as published; None if it is not stored."""
        rows = self._db.query(
            f"{PACK_OF} WHERE p.stream = ? AND p.is_birth AND p.seq < ? ORDER BY p.seq DESC LIMIT 1",
            *(self._streams.cached[stream].id, seq),
        )
        return self._decode(PackRow._make(rows[0])) if rows else None

    def birth_seq_before(self, stream: str, seq: int) -> int:
        """Return the sequence of the birth in effect before pack ``seq``; 0 if this birth is not stored.

        This is cheap, because it reads no pack.
        """
        rows = self._db.query(
            "SELECT seq FROM packs WHERE stream = ? AND is_birth AND seq < ? ORDER BY seq DESC LIMIT 1",
            *(self._streams.cached[stream].id, seq),
        )
        return rows[0][0] if rows else 0

    def spans(self, from_ms: int, to_ms: int) -> dict[str, tuple[int, int]]:
        """Return, by stream, (first, last) sequence of the packs that overlap ``[from_ms, to_ms)``.

        A birth at the beginning of a stream does not count if retention deleted the packs that followed it.
        """
        sql = (
            "SELECT s.name, s.id, min(p.seq), max(p.seq) FROM packs p JOIN streams s ON s.id = p.stream"
            " WHERE p.from_ms < ? AND (p.from_ms + p.span_ms > ? OR p.span_ms = 0 AND p.from_ms >= ?)"
            " GROUP BY s.id ORDER BY s.name"
        )
        rows = self._db.query(sql, to_ms, from_ms, from_ms)
        if self._mend_around([row[1:] for row in rows]):
            rows = self._db.query(sql, to_ms, from_ms, from_ms)
        return {name: (self._skip_births(stream, first, last), last) for name, stream, first, last in rows}

    def _mend_around(self, ranges: Sequence[tuple[int, int, int]]) -> bool:
        """Mend the packs at the ends of ranges and next to them, because a changed time hides a pack from a range.

        Returns True if a row was changed.
        """
        before = len(self._db.findings)
        for stream, first, last in ranges:
            for seq in {first - 1, first, last, last + 1}:
                for row in self._db.query(f"{PACK_OF} WHERE p.stream = ? AND p.seq = ?", stream, seq):
                    self._decode(PackRow._make(row))
        return len(self._db.findings) > before

    def _skip_births(self, stream: int, first: int, last: int) -> int:
        """Return ``first``.

        If this is a birth whose following packs were deleted, return the sequence of the next stored pack instead.
        """
        while first < last:  # nearly always, the loop ends in the first iteration
            rows = self._db.query(
                "SELECT is_birth, seq FROM packs WHERE stream = ? AND seq >= ? ORDER BY seq LIMIT 2", stream, first
            )
            if not rows[0][0] or rows[1][1] == first + 1:
                break
            first = rows[1][1]
        return first

    def first_pack(self, stream: str) -> tuple[int, int]:
        """Return (sequence, ``from`` in ms) of the first stored pack of a stream; (0, 0) if there is none.

        As in ``spans``, a birth does not count if the packs that followed it were deleted.
        """
        number = self._streams.cached[stream].id
        ((first, last),) = self._db.query("SELECT min(seq), max(seq) FROM packs WHERE stream = ?", number)
        if first is None:
            return 0, 0
        first = self._skip_births(number, first, last)
        ((from_ms,),) = self._db.query("SELECT from_ms FROM packs WHERE stream = ? AND seq = ?", number, first)
        return first, from_ms

    def seq_at(self, stream: str, at_ms: int) -> int:
        """Return the sequence of the last pack of a stream that begins at or before ``at_ms``.

        If no pack begins that early, return the sequence of the first pack. The search is a bisection. If the clock was
        set back, several packs may fit, and the result is any of them.
        """
        head, (low, from_ms) = self._streams.cached[stream], self.first_pack(stream)
        high = head.seq if from_ms <= at_ms else low
        while low < high:
            middle = (low + high + 1) // 2
            rows = self._db.query(
                "SELECT seq, from_ms FROM packs WHERE stream = ? AND seq BETWEEN ? AND ? ORDER BY seq LIMIT 1",
                *(head.id, middle, high),
            )
            if rows and rows[0][1] <= at_ms:
                low = rows[0][0]
            else:
                high = middle - 1
        return low

    # --- acks and replay

    def acknowledged(self, destination: str, ack: Ack) -> tuple[list[int], str | None]:
        """Return the ids in the outbox of ``destination`` that an ack confirms, and the reason if the ack is refused.

        The reason is None if the ack is valid.
        """
        boot = self._streams.find_boot(ack.boot)
        if ack.stream not in self._streams.cached or boot is None:
            return [], "no such stream or boot"
        stream = self._streams.cached[ack.stream].id
        last = self._db.query(f"{PACK_OF} WHERE p.stream = ? AND p.seq = ? AND p.boot = ?", *(stream, ack.last, boot))
        if not last:
            return [], "pack `last` is not in the store"
        data = self._decode(PackRow._make(last[0]))
        if data is None or payload_hash(data) != ack.hash:
            return [], "the hash does not match pack `last`"
        rows = self._db.query(
            "SELECT o.pack FROM packs p JOIN outbox o ON o.pack = p.id AND o.destination = ?"
            " WHERE p.stream = ? AND p.seq BETWEEN ? AND ? AND p.boot = ? ORDER BY o.pack",
            *(self._destinations[destination], stream, ack.first, ack.last, boot),
        )
        return [row[0] for row in rows], None

    def replay(
        self, stream: str, boot: str | None, first: int, last: int, limit: int = CHUNK, max_bytes: int = 1 << 20
    ) -> ReplayPage:
        """Return packs ``first`` to ``last`` of a boot, and the reasons why some of them are missing.

        If ``boot`` is None, packs of all boots are returned.
        """
        if stream not in self._streams.cached or (boot is not None and self._streams.find_boot(boot) is None):
            return ReplayPage(refused="no such stream or boot")
        newest = self._streams.cached[stream].seq
        if first > newest:
            return ReplayPage(refused=f"no pack was sealed after sequence number {newest}")
        last, at = min(last, newest), first
        items: list[OutboxItem] = []
        gone: list[MissingRange] = []
        size = 0
        for pack in self.after(stream, first - 1, last, limit):
            if items and size + len(pack.data) > max_bytes:
                return ReplayPage(items, gone, at)
            gone += self._gone(stream, at, pack.seq - 1)
            at = pack.seq + 1
            if boot in (None, pack.boot):
                size += len(pack.data)
                items.append(OutboxItem(pack.id, stream, pack.data, pack.is_birth, pack.to_ms))
        if at > last or not self.after(stream, at - 1, last, 1):
            gone += self._gone(stream, at, last)
            at = 0
        return ReplayPage(items, gone, at)

    def _gone(self, stream: str, first: int, last: int) -> list[MissingRange]:
        """Return the reasons why packs ``first`` to ``last`` are missing."""
        if first > last:
            return []
        rows = self._db.query(
            "SELECT l.first, l.last, l.from_ms, l.to_ms, CAST(l.hash AS BLOB), l.reason, b.boot FROM losses l"
            " JOIN boots b ON b.id = l.boot WHERE l.stream = ? AND l.first <= ? AND l.last >= ? ORDER BY l.first",
            *(self._streams.cached[stream].id, last, first),
        )
        found: list[MissingRange] = []
        for low, high, from_ms, to_ms, digest, reason, boot in rows:
            start, end = max(low, first), min(high, last)
            if start > first:
                found.append(MissingRange(first, start - 1, None))
            loss = {
                "boot": boot_hex(boot), "event": "loss", "first": low, "from": from_ms / 1000,
                "hash": base64url(digest), "last": high, "reason": reason,
                "to": to_ms / 1000,
            }  # fmt: skip
            found.append(MissingRange(start, end, loss))
            first = end + 1
        return found if first > last else [*found, MissingRange(first, last, None)]

    def count_replayed(self, destination: str, day: int, size: int) -> int:
        """Add ``size`` to the bytes that were replayed to ``destination`` on a UTC day. Returns the sum of this day."""
        name = f"replayed {destination}"
        kept, _, spent = str(self._db.meta(name) or "").partition(" ")
        total = size + (int(spent) if kept == str(day) else 0)
        if size:
            with self._db.transaction():
                self._db.set_meta(name, f"{day} {total}")
        return total


def _is_asked(stream: str, patterns: Sequence[str]) -> bool:
    return is_asked(stream.rpartition("/")[2], patterns)
