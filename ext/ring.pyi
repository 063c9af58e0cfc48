"""The ring: fixed 16-byte slots in shared memory, one writer, many readers in other processes.

File layout (little endian, native): a 4096-byte header page, then ``slots`` (a power of two) slots.
A *position* (u64) counts all slots since the ring was made, so it only grows. Its slot is ``position & (slots - 1)``.
A *record* has a head of two slots (32 bytes) and a body:

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

The writer first stores ``reserve``, the position up to which it will write, then the slots, then ``head``. ``head`` is
the commit word, stored with release semantics. So readers see a record whole or not at all, even if the writer was
killed (kill -9). A reader copies a record, and then checks that ``reserve - position <= slots``. Otherwise the record
was overwritten while it was copied.
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
    next: int  # position of the record that follows
    kind: int
    table: int
    aux: int
    tick_ms: int
    time_ns: int
    mono_ns: int
    values: tuple[Value, ...]  # the values of an ANSWER record; () for other records
    points: tuple[int, ...] | None  # the points of a GAP record (None: all of its table); the one of a TEXT record
    text: bytes  # the text of a TEXT or EVENT record; b"" for other records
    mt: tuple[tuple[int, int], ...] = ()  # in an ANSWER record: (point, the device's own time of its value in UTC ms)

class Ring:
    """One mapped ring file.

    ``create`` returns the writer. ``open`` returns a reader or, if ``writable``, the next writer."""

    ring_id: int  # random u64 that the creator gives; ring_id and position together identify a record for ever
    boot: int  # u64 that identifies the boot in which the writer runs
    slots: int
    head: int  # the first position that is not committed yet
    tail: int  # position of the oldest record that is not overwritten
    overwritten: int  # number of records overwritten so far, whether they were sealed before or not
    table_hash: bytes  # 32 bytes; the writer may set it

    @staticmethod
    def create(path: str, size_bytes: int, ring_id: int, boot: int, table_hash: bytes, mode: int = 0o640) -> Ring:
        """Create an empty ring. The file gets its name only when it is complete.

        ``size_bytes`` is rounded down, so that the number of slots is a power of two. The whole file is allocated, so
        that a full file system gives an OSError here, not a SIGBUS later. Raises ValueError for sizes under 64 KiB.
        """
    @staticmethod
    def open(path: str, writable: bool = False, boot: int | None = None) -> Ring:
        """Map an existing ring.

        ``writable``: become its writer, with ``boot`` if it is given. Raises BlockingIOError while another process
        writes the ring, ValueError for an error in the file, which it names, and OSError if the file does not exist."""
    # The append functions raise ValueError for a record larger than a quarter of the ring.
    def append_gap(
        self, table: int, reason: int, tick_ms: int, time_ns: int, mono_ns: int, points: Buffer | None = None
    ) -> int:
        """Write a gap of ``points`` (const uint16_t[::1]; None: all of the table) at a tick. Returns its position."""
    def append_text(
        self, table: int, point: int, quality: int, tick_ms: int, time_ns: int, mono_ns: int, text: bytes
    ) -> int:
        """Write a text of a point. Returns its position. Raises ValueError if the text is not UTF-8."""
    def append_values(
        self,
        table: int,
        tick_ms: int,
        time_ns: int,
        mono_ns: int,
        values: Sequence[tuple[int, int, int, int] | tuple[int, int, int, int, int | None]],
    ) -> int:
        """Write the values of an answer for which there is no decode plan. This is slow. Returns the position.

        Each value is (point, mantissa, exponent, quality). It may have a fifth member: the device's own time for the
        value in UTC ms, or None. Raises OverflowError if a mantissa does not fit 64 bits, or a value a double."""
    def append_event(self, table: int, time_ns: int, mono_ns: int, text: bytes) -> int: ...
    def record(self, position: int) -> Record | None:
        """Return the record that starts at ``position``; None if it was overwritten, or is not committed yet.

        Raises ValueError if the record is damaged."""
    def scan(self, start: int, end: int) -> Iterator[Record]:
        """Yield the committed records from ``start`` (at least ``tail``) up to ``end`` (at most ``head``), in order.

        If the writer overwrites the next record meanwhile, the scan ends early, without an error. Raises ValueError at
        a damaged record."""
    def trim(self) -> None:
        """Release the pages that this process has touched. They stay in the file, and are mapped again when used.

        Otherwise the memory of the process would seem to grow by the whole ring, although the runtime directory already
        accounts for this memory."""
    def close(self) -> None:
        """Unmap the file. If ``seal`` runs in another thread, the file stays mapped until it has finished."""
