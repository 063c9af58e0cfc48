"""What the store takes and gives, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Sealed(Protocol):
    """A signed pack to be kept; ``agent.pack.SealedPack`` is one."""

    @property
    def stream(self) -> str: ...
    @property
    def boot(self) -> str: ...  # 16 hex digits
    @property
    def seq(self) -> int: ...
    @property
    def from_ms(self) -> int: ...
    @property
    def to_ms(self) -> int: ...
    @property
    def hash(self) -> bytes: ...  # SHA-256 of the payload
    @property
    def is_birth(self) -> bool: ...
    @property
    def data(self) -> bytes: ...  # as published
    @property
    def ring_id(self) -> int: ...
    @property
    def ring_pos(self) -> int: ...


@dataclass(frozen=True, slots=True)
class StreamHead:
    """Where a stream stands: what its next pack must follow, and up to where its ring is sealed."""

    stream: str
    boot: str
    seq: int
    hash: bytes
    to_ms: int
    birth: bytes | None  # hash of the birth in force; None after a salvage
    ring_id: int
    ring_pos: int


@dataclass(frozen=True, slots=True)
class Place:
    """What the store remembers of a stream between commits."""

    id: int  # streams.id
    seq: int
    birth_pack: int  # 0: none known
    birth: bytes | None  # its hash


@dataclass(frozen=True, slots=True)
class Behind:
    """A stream of which the database has less than was committed."""

    stream: str
    head: StreamHead  # as it was committed last: the next pack follows it
    left_ms: int  # of the packs that are gone, those that end after this never left the house ...
    left_pos: int  # ... and hold no record before this position of the head's ring ...
    resealable: bool  # ... if they were sealed from that ring
    exact: bool  # nothing was published beyond the head; else, after a power cut, there may have been more
    lost_first: int  # the first of them that somebody may wait for; above the head's sequence where there is none
    lost_ms: int  # where that one begins


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a stream that is behind goes on: its next pack begins at ``to_ms``."""

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
class StoredTable:
    """The point table that a ring's records of one number were written with."""

    stream: str
    document: dict[str, object]


@dataclass(frozen=True, slots=True)
class LossNote:
    """Packs ``first`` to ``last`` of a boot that the size cap dropped before every destination had them.

    Goes into the next pack of the stream as an event of kind loss; ``Store.commit(stated=...)`` takes its ``id`` then.
    """

    id: int
    stream: str
    boot: str
    first: int
    last: int
    from_ms: int
    to_ms: int
    hash: bytes  # of last
    reason: str = "size_cap"


@dataclass(frozen=True, slots=True)
class Usage:
    """What the store takes and how it is kept, for status and for the line that is logged at the start."""

    path: str
    database_bytes: int
    wal_bytes: int
    ballast_bytes: int
    unused_bytes: int  # inside the database, to be used again
    max_bytes: int
    free_disk_bytes: int
    packs: int  # ids in the database; after a prune in the middle slightly more than there are
    pending: dict[str, int]  # packs by destination
    settings: str  # "WAL, synchronous FULL, ..."

    @property
    def disk_bytes(self) -> int:
        """All that counts against the cap."""
        return self.database_bytes + self.wal_bytes + self.ballast_bytes


def boot_number(boot: str) -> int:
    """16 hex digits as the signed 64-bit integer that SQLite keeps."""
    number = int(boot, 16)
    if len(boot) != 16:
        raise ValueError(f"a boot has 16 hex digits, got {boot!r}")
    return number - (1 << 64) if number >> 63 else number


def boot_hex(number: int) -> str:
    """The reverse of ``boot_number``."""
    return f"{number & (1 << 64) - 1:016x}"


def signed(number: int) -> int:
    """A u64 as the signed integer of the same bits."""
    return number - (1 << 64) if number >> 63 else number


def unsigned(number: int) -> int:
    """The reverse of ``signed``."""
    return number & (1 << 64) - 1
