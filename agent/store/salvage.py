"""What a damaged database still tells goes into the new one, row by row: one bad page costs only what stood on it.

Taken over are the packs that somebody still waits for, and the tables of rings that are not sealed yet. Packs that
cannot be read are noted as losses of reason ``damaged``, so that each stream states them; the rest of the history
stays in the file that was set aside.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.store.codec import Codec, payload_hash
from agent.store.heads import Recorded, head_of
from agent.store.streams import StreamHead, boot_hex
from agent.zstd import read_frame

log = logging.getLogger("meterhouse.store")
MOST_PACKS = 100_000  # what is beyond stays in the old file, stated as lost
ONE_BY_ONE = 2_000  # keys that are tried after each other behind a bad page; then ever longer steps
DAMAGED = "damaged"
NEWEST = (("id", "packs"), ("id", "packs INDEXED BY packs_seq"), ("pack", "outbox"))  # where the last id may be found
MAX_DOCUMENT_BYTES = 32 * 1024 * 1024


@dataclass(slots=True)
class Hole:
    """Keys ``first`` to ``last``, if there were any, cannot be read."""

    first: int
    last: int


@dataclass(slots=True)
class Edge:
    """What a pack that can be read says of itself and of the one before."""

    prev: bytes | None  # hash and boot of the one before
    prev_boot: str
    from_ms: int
    to_ms: int


def edge_of(pack: Mapping[str, Any]) -> Edge:
    """Raises KeyError, TypeError or ValueError where it is no pack."""
    prev = urlsafe_b64decode(pack["prev"] + "=") if pack["prev"] else None
    boot = pack.get("prev_boot") or pack["boot"]
    return Edge(prev, boot, round(pack["from"] * 1000), round(pack["to"] * 1000))


@dataclass(frozen=True, slots=True)
class Recollection:
    """What is known of the old database from beside it.

    Args:
        heads: by stream; the file may know less, or nothing of it.
        torn: what destinations had confirmed cannot be believed.
        first_id: for the packs that come over.
        place: puts a head into the new database; returns the number of its stream.
    """

    heads: Mapping[str, Recorded]
    torn: bool
    first_id: int
    place: Callable[[StreamHead], int]


@dataclass(slots=True)
class Stream:
    """One stream of the old database whose head came over."""

    name: str
    old_id: int
    id: int
    seq: int  # of the head
    hash: bytes
    boot: str
    to_ms: int
    told: int = 0  # the head's sequence as the old database has it; 0 where it does not say
    saved: dict[int, Edge] = field(default_factory=dict)


def open_damaged(path: Path) -> sqlite3.Connection:
    """The file that was set aside, for reading only."""
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)


def rows(conn: sqlite3.Connection, sql: str, values: Sequence[object], last: int) -> Iterator[tuple[Any, ...] | Hole]:
    """Rows of ``sql`` by ascending key, the first column; its last ``?`` is the key above which it reads.

    Args:
        last: no key is above it; a hole ends there at the latest.
    """
    at, tried, hole = -1, 0, -1
    while at < last:
        try:
            with closing(conn.execute(sql, (*values, at))) as cursor:
                for row in cursor:
                    if not isinstance(row[0], int) or row[0] <= at:
                        raise sqlite3.DatabaseError("keys that do not ascend")
                    if hole >= 0 and row[0] > hole:
                        yield Hole(hole, row[0] - 1)
                    hole, tried, at = -1, 0, row[0]
                    yield row
            break
        except sqlite3.DatabaseError:
            if hole < 0:
                hole = at + 1
            tried += 1
            at += 1 if tried < ONE_BY_ONE else 1 << min(40, tried - ONE_BY_ONE)
    if 0 <= hole <= last:
        yield Hole(hole, last)


def number(conn: sqlite3.Connection, sql: str) -> int:
    """One number, 0 where it cannot be read."""
    with suppress(sqlite3.DatabaseError):
        return int(conn.execute(sql).fetchone()[0] or 0)
    return 0


class Salvage:
    """One run over a damaged database. The caller holds the transaction of the new one, whose heads are in it.

    Args:
        codec: of the new database.
        boot_id: boots.id of a boot in the new database.
        destinations: who must confirm from now on, should the old file not say who had to.
    """

    def __init__(
        self,
        aside: Path,
        conn: sqlite3.Connection,
        codec: Codec,
        boot_id: Callable[[str], int],
        destinations: Sequence[str],
        beside: Recollection,
    ) -> None:
        self._aside, self._conn, self._new, self._boot_id = aside, conn, codec, boot_id
        self._destinations, self._beside = destinations, beside
        self._codec = Codec()
        self._next = beside.first_id
        self.packs = 0
        self.lost = 0

    def run(self) -> None:
        """Take over what can be read. Never raises for what the old file is like."""
        try:
            with closing(open_damaged(self._aside)) as old:
                old.execute("PRAGMA query_only = ON")
                self._tables(old)
                self._packs(old)
        except sqlite3.DatabaseError as error:
            log.warning("%s cannot be read any further: %s", self._aside, error)

    # --- tables of rings

    def _tables(self, old: sqlite3.Connection) -> None:
        """What names the records of a ring that is not sealed yet; a document that is not what it was is left out."""
        with suppress(sqlite3.DatabaseError):
            for ring, key, stream, digest in old.execute("SELECT ring_id, number, stream, document FROM tables"):
                body = old.execute("SELECT body FROM documents WHERE hash = ?", (digest,)).fetchone()
                with suppress(ValueError, TypeError):
                    if hashlib.sha256(read_frame(body[0], MAX_DOCUMENT_BYTES)).digest() != digest:
                        continue
                    self._conn.execute("INSERT OR IGNORE INTO documents VALUES (?, ?)", (digest, body[0]))
                    self._conn.execute("INSERT OR IGNORE INTO tables VALUES (?, ?, ?, ?)", (ring, key, stream, digest))

    # --- packs

    def _packs(self, old: sqlite3.Connection) -> None:
        streams = self._streams(old)
        for row in rows(old, "SELECT id, body FROM dictionaries WHERE id > ? ORDER BY id", (), 1 << 31):
            if not isinstance(row, Hole):
                self._codec.learn(*row)
        owed, unknown = self._owed(old)
        bad: set[int] = set()
        for key in sorted(owed):
            if self.packs >= MOST_PACKS or not self._take(old, key, owed[key], streams):
                bad.add(key)
        for stream in streams.values():
            gone = self._gone(old, stream, bad, unknown, min(owed, default=0))
            if first := self._dropped(old, stream):
                gone[first] = 0
            if gone:
                self._state(old, stream, gone)
            if stream.saved:
                top = max(stream.saved)
                log.info("%s: packs up to %d came over from the damaged database", stream.name, top)

    def _streams(self, old: sqlite3.Connection) -> dict[int, Stream]:
        """Those whose heads came over, by their old number."""
        mine = {
            name: (key, seq, digest, boot_hex(boot), to_ms)
            for key, name, seq, digest, boot, to_ms in self._conn.execute(
                "SELECT s.id, s.name, s.seq, s.hash, b.boot, s.to_ms FROM streams s JOIN boots b ON b.id = s.boot"
            )
        }
        found = {}
        for row in rows(old, "SELECT id, name, seq FROM streams WHERE id > ? ORDER BY id", (), 1 << 31):
            if not isinstance(row, Hole) and row[1] in mine:
                found[row[0]] = Stream(row[1], row[0], *mine[row[1]], told=row[2])
        return found

    def _owed(self, old: sqlite3.Connection) -> tuple[dict[int, set[int]], bool]:
        """Ids of packs that destinations (of the new database) wait for; and is the list of them torn?

        Where it is, all that may have stood there counts as owed: the same bytes once more do no harm.
        """
        owed: dict[int, set[int]] = {}
        torn = lost_names = self._beside.torn
        last = max(number(old, f"SELECT max({key}) FROM {source}") for key, source in NEWEST)
        names: dict[int, str] = {}
        for row in rows(old, "SELECT id, name FROM destinations WHERE id > ? ORDER BY id", (), 1 << 31):
            if isinstance(row, Hole):
                torn = lost_names = True
            else:
                names[row[0]] = row[1]
        for key, name in names.items():
            mine = self._destination(name)
            sql = "SELECT pack FROM outbox WHERE destination = ? AND pack > ? ORDER BY pack"
            for row in rows(old, sql, (key,), last):
                if isinstance(row, Hole):
                    torn = True
                    ids = range(max(row.first, row.last - MOST_PACKS), row.last + 1)
                else:
                    ids = range(row[0], row[0] + 1)
                for pack in ids:
                    owed.setdefault(pack, set()).add(mine)
        if lost_names:  # each of ours may have been among them, and wait for anything
            ours = set(map(self._destination, self._destinations))
            for pack in range(max(1, last - MOST_PACKS), last + 1):
                owed[pack] = owed.get(pack, set()) | ours
        return owed, torn

    def _destination(self, name: str) -> int:
        """Its number in the new database."""
        self._conn.execute("INSERT OR IGNORE INTO destinations (name, seen_ms) VALUES (?, 0)", (name,))
        return int(self._conn.execute("SELECT id FROM destinations WHERE name = ?", (name,)).fetchone()[0])

    def _read(self, old: sqlite3.Connection, key: int) -> tuple[int, bytes] | None:
        """(stream, bytes) of a pack; None if they cannot be read."""
        try:
            row = old.execute("SELECT stream, birth, dictionary, body FROM packs WHERE id = ?", (key,)).fetchone()
            if row is None:
                return None
            stream, birth, dictionary, body = row
            named = old.execute("SELECT hash FROM births WHERE pack = ?", (birth,)).fetchone() if birth else None
            return stream, self._codec.unpack(dictionary, body, named[0] if named else None)
        except (sqlite3.DatabaseError, ValueError, TypeError):
            return None

    def _by_name(self, name: str, old_id: int, streams: dict[int, Stream]) -> Stream:
        """A stream whose row cannot be read, as its pack names it. Raises KeyError where nothing is known of it."""
        head = head_of(self._beside.heads[name])
        stream = Stream(name, old_id, self._beside.place(head), head.seq, head.hash, head.boot, head.to_ms)
        streams[old_id] = stream
        return stream

    def _take(self, old: sqlite3.Connection, key: int, owed: set[int], streams: dict[int, Stream]) -> bool:
        found = self._read(old, key)
        if found is None:
            return False
        data = found[1]
        try:
            pack = json.loads(data)
            stream = streams.get(found[0]) or self._by_name(pack["stream"], found[0], streams)
            kept = self._beside.heads.get(stream.name)
            if self._beside.torn and kept is not None and pack["seq"] < kept.owed_seq:
                return True  # nobody waits for it
            if pack["stream"] != stream.name or not 0 < pack["seq"] <= stream.seq or pack["seq"] in stream.saved:
                return False
            edge = edge_of(pack)
            digest, is_birth = payload_hash(data), "table" in pack
            boot = self._boot_id(pack["boot"])
        except (ValueError, KeyError, TypeError):
            return False
        dictionary, _, body = self._new.pack(data, digest)
        span = edge.to_ms - edge.from_ms
        row = (self._next, stream.id, boot, pack["seq"], edge.from_ms, span, int(is_birth), 0, dictionary, body)
        self._conn.execute("INSERT INTO packs VALUES (?,?,?,?,?,?,?,?,?,?)", row)
        if is_birth:
            self._conn.execute("INSERT INTO births VALUES (?, ?)", (self._next, digest))
        for destination in owed:
            self._conn.execute("INSERT INTO outbox VALUES (?, ?)", (destination, self._next))
        stream.saved[pack["seq"]] = edge
        self._next += 1
        self.packs += 1
        return True

    # --- what is gone

    def _gone(
        self, old: sqlite3.Connection, stream: Stream, bad: set[int], torn: bool, first_owed: int
    ) -> dict[int, int]:
        """Sequences that were owed, or may have been, and did not come over, with their old ids (0: not known)."""
        gone: dict[int, int] = {}
        if not bad and not torn:
            return gone
        sql = "SELECT seq, id FROM packs INDEXED BY packs_seq WHERE stream = ? AND id >= ? AND seq > ? ORDER BY seq"
        for row in rows(old, sql, (stream.old_id, first_owed), stream.seq):
            if isinstance(row, Hole):
                low = max(row.first, min(stream.saved, default=row.last), row.last - MOST_PACKS)
                gone |= dict.fromkeys((n for n in range(low, row.last + 1) if n not in stream.saved), 0)
            elif row[1] in bad and row[0] not in stream.saved:
                gone[row[0]] = row[1]
        return gone

    def _dropped(self, old: sqlite3.Connection, stream: Stream) -> int:
        """The first pack that the old file should have, as is known from beside it, and has not; 0 if none is known."""
        top = number(old, f"SELECT max(seq) FROM packs INDEXED BY packs_seq WHERE stream = {stream.old_id}")
        kept = self._beside.heads.get(stream.name)
        first = max(top, stream.told, *stream.saved, kept.owed_seq - 1 if kept else 0) + 1
        return first if first <= stream.seq else 0

    def _state(self, old: sqlite3.Connection, stream: Stream, gone: Mapping[int, int]) -> None:
        """Note what is gone, run by run. A run ends where the pack after it can be read: its ``prev`` is the hash."""
        at = 0
        for first in sorted(gone):
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
            self._conn.execute(
                "INSERT INTO losses (stream, boot, first, last, from_ms, to_ms, hash, reason) VALUES (?,?,?,?,?,?,?,?)",
                (stream.id, self._boot_id(boot), first, last, from_ms, to_ms, digest or bytes(32), DAMAGED),
            )
            self.lost += last - first + 1
            at = last

    def _neighbour(self, old: sqlite3.Connection, stream: Stream, seq: int) -> Edge | None:
        """A pack beside a run, delivered long ago as a rule; None if it cannot be read."""
        if seq in stream.saved:
            return stream.saved[seq]
        with suppress(sqlite3.DatabaseError, ValueError, KeyError, TypeError):
            for (key,) in old.execute(
                "SELECT id FROM packs INDEXED BY packs_seq WHERE stream = ? AND seq = ?", (stream.old_id, seq)
            ):
                if found := self._read(old, key):
                    return edge_of(json.loads(found[1]))
        return None
