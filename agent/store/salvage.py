"""Salvage: copies readable rows of a damaged database into the new one. A bad page costs only its own rows.

It copies the packs that a destination still waits for, and the tables of rings that are not sealed yet. Packs that
cannot be read are noted as losses with the reason ``damaged``, so that each stream states them. The rest of the history
stays in the file that was set aside. So do declarations and facts about devices, because nothing in their rows proves
that a bad page did not change them. They are counted, so that they are not lost without a message.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.store.codec import Codec
from agent.store.errors import VALUE_ERRORS
from agent.store.heads import RecordedHead, head_of
from agent.store.rows import PackRow, pack_crc
from agent.store.schema import PACK_OF, TALLY
from agent.store.sqlite import Database
from agent.store.streams import DAMAGED, StreamHead, StreamRegistry, boot_hex, unsigned
from agent.verify.signed import payload_hash
from agent.zstd import read_frame
from drivers.encoding import base64url_decode

log = logging.getLogger("meterhouse.store")
MAX_PACKS = 100_000  # at most this many packs are copied; further packs stay in the old file and are stated as lost
# after a bad page, this number of keys is tried one by one; after that, the distances between tried keys grow
ONE_BY_ONE = 2_000
# (column, table): the last pack id is the highest value of all these together, because each may be unreadable
NEWEST = (("id", "packs"), ("id", "packs INDEXED BY packs_seq"), ("pack", f"outbox WHERE pack < {TALLY}"))
MAX_DOCUMENT_BYTES = 32 * 1024 * 1024
MOST_CUT_OFF = 64 << 20  # if more bytes are missing at the end of the file, the size in its header is not believed
UNREADABLE = (sqlite3.DatabaseError, *VALUE_ERRORS)  # errors of a read from a damaged file


@dataclass(slots=True)
class Hole:
    """A range of keys, ``first`` to ``last``, in which no row can be read.

    It is not known which of the rows existed.
    """

    first: int
    last: int


@dataclass(slots=True)
class PackEdges:
    """The time range of a readable pack, and what it says about its predecessor."""

    prev: bytes | None  # hash of the predecessor; None: the stream began with this pack
    prev_boot: str
    from_ms: int
    to_ms: int


def edges_of(pack: Mapping[str, Any]) -> PackEdges:
    """Return the edges of a pack. Raises KeyError, TypeError or ValueError if the object is not a pack."""
    prev = base64url_decode(pack["prev"]) if pack["prev"] else None
    boot = pack.get("prev_boot") or pack["boot"]
    return PackEdges(prev, boot, round(pack["from"] * 1000), round(pack["to"] * 1000))


@dataclass(frozen=True, slots=True)
class RecordedState:
    """The content of the head record beside the old database.

    Args:
        heads: by stream. The damaged file may contain fewer packs of a stream, or none.
        torn: True if the confirmations of destinations in the old file are not reliable.
        first_id: the first id for copied packs.
    """

    heads: Mapping[str, RecordedHead]
    torn: bool
    first_id: int


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """The numbers of rows that are not copied. None: they cannot be counted."""

    declarations: int | None = None
    devices: int | None = None  # devices whose facts are stored


@dataclass(slots=True)
class SalvagedStream:
    """A stream of the old database whose head was copied into the new one."""

    name: str
    old_id: int
    id: int
    seq: int  # of the head
    hash: bytes
    boot: str
    to_ms: int
    old_seq: int = 0  # sequence of the head in the old database; 0: it cannot be read
    saved: dict[int, PackEdges] = field(default_factory=dict)


def open_damaged(path: Path) -> sqlite3.Connection:
    """Open the file that was set aside, read-only. If its end is missing, zeros take its place.

    SQLite refuses a file that is shorter than its header states. With zeros, only the rows of the missing pages are
    lost.
    """
    _extend(path)
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)


def _extend(path: Path) -> None:
    with suppress(OSError), path.open("r+b") as file:
        header = file.read(32)
        size, page = path.stat().st_size, int.from_bytes(header[16:18], "big")
        stated = int.from_bytes(header[28:32], "big") * (65_536 if page == 1 else page)
        if len(header) == 32 and size < stated <= size + MOST_CUT_OFF:
            file.truncate(stated)


def read_rows(
    conn: sqlite3.Connection, sql: str, values: Sequence[object], last: int
) -> Iterator[tuple[Any, ...] | Hole]:
    """Yield the rows of ``sql``, and a Hole for each range of keys that cannot be read.

    Args:
        sql: returns rows in ascending order of the first column, an integer key. Its last ``?`` is the key after which
            it starts to read.
        last: the highest possible key; a hole ends there at the latest.
    """
    at, tried, hole = -1, 0, -1
    while at < last:
        try:
            with closing(conn.execute(sql, (*values, at))) as cursor:
                for row in cursor:
                    if not isinstance(row[0], int) or row[0] <= at:
                        raise sqlite3.DatabaseError("keys not in ascending order")
                    if hole >= 0 and row[0] > hole:
                        yield Hole(hole, row[0] - 1)
                    hole, tried, at = -1, 0, row[0]
                    yield row
            break
        except UNREADABLE:
            if hole < 0:
                hole = at + 1
            tried += 1
            at += 1 if tried < ONE_BY_ONE else 1 << min(40, tried - ONE_BY_ONE)
    if 0 <= hole <= last:
        yield Hole(hole, last)


def read_number(conn: sqlite3.Connection, sql: str) -> int:
    """Return the number that ``sql`` selects; 0 if it cannot be read."""
    with suppress(*UNREADABLE):
        return int(conn.execute(sql).fetchone()[0] or 0)
    return 0


def count_rows(conn: sqlite3.Connection, table: str) -> int | None:
    """Return the number of rows of a table; None if it cannot be read."""
    with suppress(*UNREADABLE):
        return int(conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    return None


class Salvage:
    """One salvage of a damaged database. The caller opens the transaction in the new one, which already has the heads.

    Args:
        db, codec, streams: these belong to the new database.
        destinations: names of the configured destinations. They are used if the list in the old file cannot be read.
    """

    def __init__(
        self,
        aside: Path,
        db: Database,
        codec: Codec,
        streams: StreamRegistry,
        destinations: Sequence[str],
        recorded: RecordedState,
    ) -> None:
        self._aside, self._db, self._new, self._new_streams = aside, db, codec, streams
        self._destinations, self._recorded = destinations, recorded
        self._codec = Codec()
        self._next = recorded.first_id
        self._torn = recorded.torn
        self.packs = 0
        self.lost = 0
        self.left_behind = LeftBehind()

    def run(self) -> None:
        """Copy everything that can be read. Damage in the old file does not raise an error."""
        try:
            with closing(open_damaged(self._aside)) as old:
                old.execute("PRAGMA query_only = ON")
                self.left_behind = LeftBehind(count_rows(old, "declared"), count_rows(old, "devices"))
                self._tables(old)
                self._packs(old)
        except UNREADABLE as error:
            log.warning("salvage of %s stopped: %s", self._aside, error)

    # --- tables of rings

    def _tables(self, old: sqlite3.Connection) -> None:
        """Copy the point tables that unsealed records in rings need.

        Skips documents whose bytes changed.
        """
        with suppress(*UNREADABLE):
            for ring, key, stream, digest in old.execute("SELECT ring_id, number, stream, document FROM tables"):
                body = old.execute("SELECT CAST(body AS BLOB) FROM documents WHERE hash = ?", (digest,)).fetchone()
                with suppress(ValueError, TypeError):
                    if hashlib.sha256(read_frame(body[0], MAX_DOCUMENT_BYTES)).digest() != digest:
                        continue
                    self._db.execute("INSERT OR IGNORE INTO documents VALUES (?, ?)", (digest, body[0]))
                    self._db.execute("INSERT OR IGNORE INTO tables VALUES (?, ?, ?, ?)", (ring, key, stream, digest))

    # --- packs

    def _packs(self, old: sqlite3.Connection) -> None:
        streams = self._streams(old)
        for row in read_rows(
            old, "SELECT id, CAST(body AS BLOB) FROM dictionaries WHERE id > ? ORDER BY id", (), 1 << 31
        ):
            if not isinstance(row, Hole) and isinstance(row[1], bytes):
                self._codec.add_dictionary(*row)
        # without the newest packs, the outbox may be older than the other tables
        newest = [kept.pack_id for kept in self._recorded.heads.values() if kept.pack_id]
        self._torn = self._recorded.torn or any(self._read(old, number) is None for number in newest)
        owed, unknown = self._owed(old)
        bad: set[int] = set()
        for key in sorted(owed):
            if self.packs >= MAX_PACKS or not self._copy(old, key, owed[key], streams):
                bad.add(key)
        for stream in streams.values():
            missing = self._missing(old, stream, bad, unknown, min(owed, default=0))
            if first := self._dropped(old, stream):
                missing[first] = 0
            if missing:
                self._note_losses(old, stream, missing)
            if stream.saved:
                top = max(stream.saved)
                log.info("%s: packs up to %d salvaged from the damaged database", stream.name, top)

    def _streams(self, old: sqlite3.Connection) -> dict[int, SalvagedStream]:
        """Return the streams whose heads were copied, by their id in the old database."""
        mine = {
            name: (key, seq, digest, boot_hex(boot), to_ms)
            for key, name, seq, digest, boot, to_ms in self._db.execute(
                "SELECT s.id, s.name, s.seq, s.hash, b.boot, s.to_ms FROM streams s JOIN boots b ON b.id = s.boot"
            )
        }
        found = {}
        for row in read_rows(old, "SELECT id, name, seq FROM streams WHERE id > ? ORDER BY id", (), 1 << 31):
            if not isinstance(row, Hole) and row[1] in mine:
                old_seq = row[2] if isinstance(row[2], int) else 0
                found[row[0]] = SalvagedStream(row[1], row[0], *mine[row[1]], old_seq=old_seq)
        return found

    def _owed(self, old: sqlite3.Connection) -> tuple[dict[int, set[int]], bool]:
        """Return the packs that destinations wait for, and True if the old outbox is not completely readable.

        The packs are a dict: id in the old database -> ids of destinations in the new one. Where the outbox is not
        readable, all packs that may have been in it count as owed. If a destination gets the same bytes again, this
        does no harm.
        """
        owed: dict[int, set[int]] = {}
        torn = lost_names = self._torn
        stored = (read_number(old, f"SELECT max({key}) FROM {source}") for key, source in NEWEST)
        last = max(self._recorded.first_id - 1 if torn else 0, *stored)
        names: dict[int, str] = {}
        for row in read_rows(old, "SELECT id, name FROM destinations WHERE id > ? ORDER BY id", (), 1 << 31):
            if isinstance(row, Hole) or not isinstance(row[1], str):
                torn = lost_names = True
            else:
                names[row[0]] = row[1]
        for key, name in names.items():
            mine = self._destination(name)
            sql = f"SELECT pack FROM outbox WHERE destination = ? AND pack < {TALLY} AND pack > ? ORDER BY pack"
            for row in read_rows(old, sql, (key,), last):
                if isinstance(row, Hole):
                    torn = True
                    ids = range(max(row.first, row.last - MAX_PACKS), row.last + 1)
                else:
                    ids = range(row[0], row[0] + 1)
                for pack in ids:
                    owed.setdefault(pack, set()).add(mine)
        if lost_names:  # any configured destination may be among the names that were lost, and may wait for any pack
            ours = set(map(self._destination, self._destinations))
            for pack in range(max(1, last - MAX_PACKS), last + 1):
                owed[pack] = owed.get(pack, set()) | ours
        return owed, torn

    def _destination(self, name: str) -> int:
        """Return the id of a destination in the new database. Adds the destination if it is new."""
        self._db.execute("INSERT OR IGNORE INTO destinations (name, seen_ms) VALUES (?, 0)", (name,))
        return int(self._db.execute("SELECT id FROM destinations WHERE name = ?", (name,)).fetchone()[0])

    def _read(self, old: sqlite3.Connection, key: int) -> tuple[int, bytes] | None:
        """Return (id of the stream in the old database, bytes) of pack ``key``; None if the pack cannot be read."""
        try:
            found = old.execute(f"{PACK_OF} WHERE p.id = ?", (key,)).fetchone()
            return (found[1], self._codec.restore(PackRow._make(found))) if found else None
        except (*UNREADABLE, ValueError):
            return None

    def _by_name(self, name: str, old_id: int, streams: dict[int, SalvagedStream]) -> SalvagedStream:
        """Add a stream by its recorded head, because its row in the old database is not readable.

        Raises KeyError if no head is recorded.
        """
        head = head_of(self._recorded.heads[name])
        stream = SalvagedStream(
            name, old_id, self._new_streams.put_head(head), head.seq, head.hash, head.boot, head.to_ms
        )
        streams[old_id] = stream
        return stream

    def _copy(self, old: sqlite3.Connection, key: int, owed: set[int], streams: dict[int, SalvagedStream]) -> bool:
        found = self._read(old, key)
        if found is None:
            return False
        data = found[1]
        try:
            pack = json.loads(data)
            stream = streams.get(found[0]) or self._by_name(pack["stream"], found[0], streams)
            kept = self._recorded.heads.get(stream.name)
            if self._torn and kept is not None and pack["seq"] < kept.owed_seq:
                return True  # no destination waits for this pack, so it is neither copied nor lost
            if pack["stream"] != stream.name or not 0 < pack["seq"] <= stream.seq or pack["seq"] in stream.saved:
                return False
            edges = edges_of(pack)
            digest, is_birth = payload_hash(data), "table" in pack
            boot = self._new_streams.boot_id(pack["boot"])
        except (ValueError, KeyError, TypeError):
            return False
        dictionary, _, body = self._new.pack(data, digest)
        span = edges.to_ms - edges.from_ms
        row = (self._next, stream.id, boot, pack["seq"], edges.from_ms, span, int(is_birth), 0, dictionary)
        marks = ", ".join("?" * (len(row) + 2))
        self._db.execute(f"INSERT INTO packs VALUES ({marks})", (*row, pack_crc(row, body, None), body))
        if is_birth:
            self._db.execute("INSERT INTO births VALUES (?, ?)", (self._next, digest))
        for destination in owed:
            self._db.execute("INSERT INTO outbox (destination, pack) VALUES (?, ?)", (destination, self._next))
        stream.saved[pack["seq"]] = edges
        self._next += 1
        self.packs += 1
        return True

    # --- missing packs

    def _missing(
        self, old: sqlite3.Connection, stream: SalvagedStream, bad: set[int], torn: bool, first_owed: int
    ) -> dict[int, int]:
        """Return the packs that were not copied although a destination waited, or may have waited, for them.

        The result is sequence -> id in the old database (0: not known).
        """
        missing: dict[int, int] = {}
        if not bad and not torn:
            return missing
        sql = "SELECT seq, id FROM packs INDEXED BY packs_seq WHERE stream = ? AND id >= ? AND seq > ? ORDER BY seq"
        for row in read_rows(old, sql, (stream.old_id, first_owed), stream.seq):
            if isinstance(row, Hole):
                low = max(row.first, min(stream.saved, default=row.last), row.last - MAX_PACKS)
                missing |= dict.fromkeys((n for n in range(low, row.last + 1) if n not in stream.saved), 0)
            elif row[1] in bad and row[0] not in stream.saved:
                missing[row[0]] = row[1]
        return missing

    def _dropped(self, old: sqlite3.Connection, stream: SalvagedStream) -> int:
        """Return the sequence of the first pack that was committed but is not in the old file; 0: there is none."""
        top = read_number(old, f"SELECT max(seq) FROM packs INDEXED BY packs_seq WHERE stream = {stream.old_id}")
        kept = self._recorded.heads.get(stream.name)
        first = max(top, stream.old_seq, *stream.saved, kept.owed_seq - 1 if kept else 0) + 1
        return first if first <= stream.seq else 0

    def _note_losses(self, old: sqlite3.Connection, stream: SalvagedStream, missing: Mapping[int, int]) -> None:
        """Note each run of missing packs as a loss.

        The hash of a loss is ``prev`` of the next readable pack. If there is no such pack, it is the hash of the head.
        """
        at = 0
        for first in sorted(missing):
            if first <= at:
                continue
            last = first
            after = self._neighbour(old, stream, last + 1)
            while last < stream.seq and after is None:
                last += 1
                after = self._neighbour(old, stream, last + 1)
            before = self._neighbour(old, stream, first - 1)
            boot, to_ms = (after.prev_boot, after.from_ms) if after else (stream.boot, stream.to_ms)
            digest = after.prev if after else stream.hash
            from_ms = min(before.to_ms if before else to_ms, to_ms)
            self._db.execute(
                "INSERT INTO losses (stream, boot, first, last, from_ms, to_ms, hash, reason) VALUES (?,?,?,?,?,?,?,?)",
                (stream.id, self._new_streams.boot_id(boot), first, last, from_ms, to_ms, digest or bytes(32), DAMAGED),
            )
            self.lost += last - first + 1
            at = last

    def _neighbour(self, old: sqlite3.Connection, stream: SalvagedStream, seq: int) -> PackEdges | None:
        """Return the edges of a pack next to a run of missing packs; None if the pack cannot be read."""
        if seq in stream.saved:
            return stream.saved[seq]
        with suppress(*UNREADABLE, ValueError, KeyError):
            for (key,) in old.execute(
                "SELECT id FROM packs INDEXED BY packs_seq WHERE stream = ? AND seq = ?", (stream.old_id, seq)
            ):
                if found := self._read(old, key):
                    return edges_of(json.loads(found[1]))
        return None


def read_heads(aside: Path) -> Iterator[StreamHead]:
    """Yield the heads that can be read. Reads row by row, so that a bad page does not cost the heads before it."""
    columns = "s.name, b.boot, s.seq, CAST(s.hash AS BLOB), s.to_ms, s.ring_id, s.ring_pos"
    with suppress(sqlite3.Error, UnicodeDecodeError), closing(open_damaged(aside)) as old:
        rows = old.execute(f"SELECT {columns} FROM streams s JOIN boots b ON b.id = s.boot")
        while (row := rows.fetchone()) is not None:
            name, boot, seq, digest, to_ms, ring_id, ring_pos = row
            if not all(isinstance(value, int) for value in (boot, seq, to_ms, ring_id, ring_pos)):
                continue
            if isinstance(name, str) and isinstance(digest, bytes) and len(digest) == 32 and seq > 0:
                ring = unsigned(ring_id), unsigned(ring_pos)
                yield StreamHead(name, boot_hex(boot), seq, digest, to_ms, None, *ring)
