"""The streams in the database: their heads, and the row ids of streams and boots.

The objects that the store returns are also defined here.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, NamedTuple

from agent.store.errors import WrongType
from agent.store.rows import stream_crc
from agent.store.sqlite import Database

if TYPE_CHECKING:
    from agent.pack import SealedPack

SIZE_CAP, DAMAGED = "size_cap", "damaged"  # reasons of a loss: the size cap of the database, or a damaged pack


@dataclass(frozen=True, slots=True)
class StreamHead:
    """The newest pack of a stream, and the ring position up to which its records are sealed."""

    stream: str
    boot: str
    seq: int
    hash: bytes
    to_ms: int
    birth: bytes | None  # hash of the birth in effect; None after a salvage, because the birth is not known then
    ring_id: int
    ring_pos: int


class CachedHead(NamedTuple):
    """The facts about a stream that a commit needs."""

    id: int  # streams.id
    seq: int
    birth_pack: int  # id of the birth in effect; 0: it is not known
    birth: bytes | None  # hash of the birth in effect; None: it is not known


@dataclass(frozen=True, slots=True)
class LaggingStream:
    """A stream whose newest packs were committed but are missing from the database."""

    stream: str
    # the last committed pack according to the head record, although it is missing here; the next pack follows it
    head: StreamHead
    # end of the last pack that may have been published; according to the head record, later packs were not published
    sent_ms: int
    sent_pos: int  # the later packs contain only records of the head's ring from this position on
    resealable: bool  # True: all later packs were sealed from the head's ring, so they can be sealed again
    # True: no pack after ``head`` was published. False, for example after a power cut: packs after ``head`` may exist.
    exact: bool
    # sequence of the first missing pack that a destination may wait for; ``head.seq + 1`` if there is none
    lost_first: int
    lost_ms: int  # start of the pack ``lost_first``


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a lagging stream continues: its next pack begins at ``to_ms`` and with the record at ``ring_pos``."""

    to_ms: int
    ring_pos: int


@dataclass(frozen=True, slots=True)
class StoredPack:
    """A pack as it was published."""

    id: int
    stream: str
    boot: str
    seq: int
    from_ms: int
    to_ms: int
    is_birth: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class LossNote:
    """Packs ``first`` to ``last`` of a boot were deleted, or found damaged, before every destination confirmed them.

    The next pack of the stream states this as a loss event. Pass ``id`` to ``PackTable.commit(stated=...)`` together
    with that pack.
    """

    id: int
    stream: str
    boot: str
    first: int
    last: int
    from_ms: int
    to_ms: int
    hash: bytes  # hash of pack ``last``
    reason: str = SIZE_CAP


_HEADS = (
    "SELECT s.name, b.boot, s.seq, CAST(s.hash AS BLOB), s.to_ms, CAST(s.birth AS BLOB), s.ring_id, s.ring_pos"
    " FROM streams s JOIN boots b ON b.id = s.boot"
)


def _stream_head(
    name: str, boot: int, seq: int, digest: bytes, to_ms: int, birth: bytes | None, ring_id: int, ring_pos: int
) -> StreamHead:
    # ``index`` raises TypeError if a flipped bit made the number a float
    return StreamHead(
        stored_name(name),
        boot_hex(boot),
        index(seq),
        digest,
        index(to_ms),
        birth,
        unsigned(ring_id),
        unsigned(ring_pos),
    )


class StreamRegistry:
    """The rows of ``streams`` and ``boots``. The members that a commit needs are cached."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.cached: dict[str, CachedHead] = {}  # by name
        self._boots: dict[str, int] = {}
        # True: the cache may contain changes of a failed transaction, so a commit must call ``refresh`` first
        self.is_stale = False

    def refresh(self) -> None:
        """Reload the cache from the database."""
        rows = self._db.execute("SELECT name, id, seq, birth_pack, CAST(birth AS BLOB) FROM streams").fetchall()
        boots = self._db.execute("SELECT id, boot FROM boots").fetchall()
        self.cached = {
            stored_name(name): CachedHead(number, seq, pack or 0, birth) for name, number, seq, pack, birth in rows
        }
        self._boots = {boot_hex(boot): number for number, boot in boots}
        self.is_stale = False

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Return a context manager that reloads the cache on an error. Put the transaction inside it.

        If the reload fails too, the cache is stale.
        """
        try:
            yield
        except BaseException:
            self.is_stale = True
            with contextlib.suppress(sqlite3.Error):
                self.refresh()
            raise

    def heads(self) -> dict[str, StreamHead]:
        """Return the heads of all streams in this database, by name."""
        return {row[0]: _stream_head(*row) for row in self._db.query(f"{_HEADS} ORDER BY s.name")}

    def head(self, name: str) -> StreamHead:
        """Return the head of one stream. Raises KeyError if the stream is not in this database."""
        for row in self._db.query(f"{_HEADS} WHERE s.name = ?", name):
            return _stream_head(*row)
        raise KeyError(name)

    def last_pack_id(self) -> int:
        """Return the highest pack id that was ever assigned, even if the pack with this id is missing."""
        row = self._db.execute(
            "SELECT max(coalesce((SELECT max(id) FROM packs), 0),"
            " coalesce((SELECT value FROM meta WHERE name = 'last_id'), 0))"
        ).fetchone()
        return int(row[0])

    def find_boot(self, boot: str) -> int | None:
        """Return the row id (``boots.id``) of a boot; None if the boot is unknown."""
        return self._boots.get(boot)

    def boot_id(self, boot: str) -> int:
        """Return the row id (``boots.id``) of a boot. Adds the boot if it is new."""
        if boot not in self._boots:
            number = boot_number(boot)
            self._db.execute("INSERT INTO boots (boot) VALUES (?) ON CONFLICT DO NOTHING", (number,))
            self._boots[boot] = self._db.execute("SELECT id FROM boots WHERE boot = ?", (number,)).fetchone()[0]
        return self._boots[boot]

    def put_head(self, head: StreamHead) -> int:
        """Set the head of a stream whose newest packs are not in this database. Returns its row id (``streams.id``)."""
        found = self._db.execute("SELECT id FROM streams WHERE name = ?", (head.stream,)).fetchone()
        number = found[0] if found else self._new_id()
        values = (
            number, head.stream, self.boot_id(head.boot), head.seq, head.hash, head.to_ms, None, None,
            signed(head.ring_id), signed(head.ring_pos),
        )  # fmt: skip
        self._put(values)
        return number

    def _new_id(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM streams").fetchone()[0])

    def _put(self, *rows: tuple[object, ...]) -> None:
        self._db.executemany(
            "INSERT INTO streams (id, name, boot, seq, hash, to_ms, birth, birth_pack, ring_id, ring_pos, crc)"
            " VALUES (?,?,?,?,?,?,?,?,?,?,?)"
            " ON CONFLICT (id) DO UPDATE SET boot = excluded.boot, seq = excluded.seq, hash = excluded.hash,"
            " to_ms = excluded.to_ms, birth = excluded.birth, birth_pack = excluded.birth_pack,"
            " ring_id = excluded.ring_id, ring_pos = excluded.ring_pos, crc = excluded.crc",
            [(*row, stream_crc(row)) for row in rows],
        )

    def advance(self, newest: Iterable[SealedPack], births: Mapping[str, tuple[int, bytes]]) -> None:
        """Make each pack the head of its stream. ``births``: by stream, (id, hash) of the newest committed birth."""
        rows, last = [], max((head.id for head in self.cached.values()), default=0)
        for pack in newest:
            head = self.cached.get(pack.stream)
            birth_pack, digest = births.get(pack.stream) or ((head.birth_pack, head.birth) if head else (0, None))
            last += head is None
            number = head.id if head else last
            rows.append((
                number, pack.stream, self.boot_id(pack.boot), pack.seq, pack.hash, pack.to_ms, digest,
                birth_pack or None, signed(pack.ring_id), signed(pack.ring_pos),
            ))  # fmt: skip
            self.cached[pack.stream] = CachedHead(number, pack.seq, birth_pack, digest)
        self._put(*rows)


def boot_number(boot: str) -> int:
    """Convert a boot, 16 hex digits, to the signed 64-bit integer that SQLite stores."""
    if len(boot) != 16:
        raise ValueError(f"a boot has 16 hex digits, got {boot!r}")
    return signed(int(boot, 16))


def boot_hex(number: int) -> str:
    """The reverse of ``boot_number``."""
    return f"{unsigned(number):016x}"


def stored_name(name: object) -> str:
    """Return a name from the database. Raises WrongType if a flipped bit has changed its type."""
    if not isinstance(name, str):
        raise WrongType(f"a name is stored as {type(name).__name__}, not as a text")
    return name


def signed(number: int) -> int:
    """Convert a u64 to the signed integer with the same bits."""
    return number - (1 << 64) if number >> 63 else number


def unsigned(number: int) -> int:
    """The reverse of ``signed``."""
    return number & (1 << 64) - 1
