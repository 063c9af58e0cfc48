"""The ring: fixed 16-byte slots in shared memory, one writer, many readers in other processes.

File layout (little endian, native): a 4096-byte header page, then ``slots`` (a power of two) slots.
A *position* (u64) counts all slots since the ring was made, so it only grows; its slot is ``position & (slots - 1)``.
A *record* is a head of two slots (32 bytes) and its body:

    head   u32 count   body slots (text, event: body bytes)
           u16 table   number of the point table that applies to the record (a table version of a stream)
           u8  kind    1 answer, 2 gap, 3 text, 4 event
           u8  aux     gap: reason code; answer, text: quality given to the whole answer; event: 0
           i64 tick_ms, i64 time_ns (UTC, when the answer arrived), i64 mono_ns
    value  i64 mantissa, u16 point, i16 exponent, u8 quality (>= 128: gap reason, no value), u8 flags
           (bit 0: mantissa is unsigned; bit 1: the next slot is the device's own time of this value; bit 2: this is
           that time, in UTC ms in place of the mantissa), u16 zero. The value is mantissa * 10**exponent
    gap    u16 point numbers, eight per slot (last padded with 0xFFFF); count 0 means all points of the table
    text   point number as u16, then UTF-8 bytes
    event  canonical JSON bytes

The writer first stores ``reserve`` (the position it will write up to), then the slots, then ``head`` (release):
``head`` is the commit word. So readers see a record whole or not at all, even if the writer was killed (kill -9).
A reader copies a record, then checks that ``reserve - position <= slots``: otherwise the record was overwritten.
"""
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple
from typing_extensions import Buffer

ANSWER: Final = 1
GAP: Final = 2
TEXT: Final = 3
EVENT: Final = 4

class Value(NamedTuple):
    point: int
    mantissa: int
    exponent: int
    quality: int  # >= 128: a gap reason; then mantissa and exponent are 0

class Record(NamedTuple):
    position: int
    next: int  # position of the record after it
    kind: int
    table: int
    aux: int
    tick_ms: int
    time_ns: int
    mono_ns: int
    values: tuple[Value, ...]  # of an ANSWER record, else empty
    points: tuple[int, ...] | None  # of a GAP record (None: all points of the table); of a TEXT record its only point
    text: bytes  # of a TEXT or EVENT record, else b""
    mt: tuple[tuple[int, int], ...] = ()  # ANSWER: (point, the device's own time of its value in UTC ms)

class Ring:
    """One mapped ring file. ``create`` returns the writer; ``open`` a reader or, if ``writable``, the next writer."""

    ring_id: int  # random u64 given at creation; a ring_id and a position together identify a record for ever
    boot: int  # u64 that identifies the boot in which the writer runs
    slots: int
    head: int  # first position not yet committed
    tail: int  # position of the oldest record that is not overwritten
    overwritten: int  # number of records overwritten so far, whether they were sealed before or not
    table_hash: bytes  # 32 bytes; the writer may set it

    @staticmethod
    def create(path: str, size_bytes: int, ring_id: int, boot: int, table_hash: bytes, mode: int = 0o640) -> Ring:
        """Create an empty ring, and give the file its name when it is complete.

        ``size_bytes`` is rounded down, so that the number of slots is a power of two.

        All of it is allocated, so that a full file system gives an OSError here, not a SIGBUS later.
        Raises ValueError for sizes under 64 KiB.
        """
    @staticmethod
    def open(path: str, writable: bool = False, boot: int | None = None) -> Ring:
        """Map an existing ring. Raises ValueError that names the error in the file, OSError if it does not exist.

        ``writable``: become its writer, with ``boot`` if given. BlockingIOError while another process writes it."""
    # The append functions raise ValueError for a record larger than a quarter of the ring.
    def append_gap(
        self, table: int, reason: int, tick_ms: int, time_ns: int, mono_ns: int, points: Buffer | None = None
    ) -> int:
        """Write a gap at a tick for ``points`` (const uint16_t[::1]; None: all of the table). Returns its position."""
    def append_text(
        self, table: int, point: int, quality: int, tick_ms: int, time_ns: int, mono_ns: int, text: bytes
    ) -> int:
        """Write a text of a point; returns its position. Raises ValueError unless it is UTF-8."""
    def append_values(
        self,
        table: int,
        tick_ms: int,
        time_ns: int,
        mono_ns: int,
        values: Sequence[tuple[int, int, int, int] | tuple[int, int, int, int, int | None]],
    ) -> int:
        """Write the values of an answer that no decode plan decodes; slow. Each value is (point, mantissa, exponent,
        quality), with the device's own time for the value in UTC ms, if it sends one (else None).
        Raises OverflowError if a mantissa does not fit 64 bits, or a value does not fit a double."""
    def append_event(self, table: int, time_ns: int, mono_ns: int, text: bytes) -> int: ...
    def record(self, position: int) -> Record | None:
        """The record that starts at ``position``; None if it was overwritten or is not committed.
        ValueError if it is damaged."""
    def scan(self, start: int, end: int) -> Iterator[Record]:
        """Committed records from ``start`` (clamped to ``tail``) up to ``end`` (clamped to ``head``), in order.
        Stops early, without error, when the writer overtakes it. A damaged record ends the scan with ValueError."""
    def trim(self) -> None:
        """Release the pages that this process has touched; they stay in the file, and are mapped again when used.

        Otherwise the memory of the process would seem to grow by the whole ring, which the runtime directory already
        accounts for."""
    def close(self) -> None:
        """Unmap the file; a ``seal`` that runs in another thread finishes first."""
