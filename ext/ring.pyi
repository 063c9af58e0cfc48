"""The ring: fixed 16-byte slots in shared memory, one writer, many readers in other processes.

File layout (little endian, native): a 4096-byte header page, then ``slots`` (a power of two) slots.
A *position* is a slot count since the ring was made; it only grows (u64), its slot is ``position & (slots - 1)``.
A *record* is a head of two slots (32 bytes) and its body:

    head   u32 count   body slots (text, event: body bytes)
           u16 table   number of the point table the record was taken with (a stream in one shape)
           u8  kind    1 answer, 2 gap, 3 text, 4 event
           u8  aux     gap: reason code; answer, text: quality given to the whole answer; event: 0
           i64 tick_ms, i64 time_ns (UTC, when the answer arrived), i64 mono_ns
    value  i64 mantissa, u16 point, i16 exponent, u8 quality (>= 128: gap reason, no value), u8 flags
           (bit 0: mantissa is unsigned; bit 1: the next slot is the device's own time of this value; bit 2: this is such
           a time, UTC ms in the place of the mantissa), u16 zero            value = mantissa * 10**exponent
    gap    u16 point numbers, eight a slot (last padded with 0xFFFF); count 0 means all points of the table
    text   point number as u16, then UTF-8 bytes
    event  canonical JSON bytes

The writer first stores ``reserve`` (the position it will write up to), then the slots, then ``head`` (release):
``head`` is the commit word, so a record is seen whole or not at all, also by a reader that opens the file after kill -9.
A reader that copied a record checks afterwards that ``reserve - position <= slots``: else it was overwritten.
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
    values: tuple[Value, ...]  # ANSWER
    points: tuple[int, ...] | None  # GAP (None: all); TEXT: the one point
    text: bytes  # TEXT, EVENT
    mt: tuple[tuple[int, int], ...] = ()  # ANSWER: (point, the device's own time of its value in UTC ms)

class Ring:
    """One mapped ring file. ``create`` gives the writer; ``open`` a reader (or, writable, its continuation)."""

    ring_id: int  # random u64 given at creation; with a position it names a record for ever
    boot: int  # u64 of the boot that writes
    slots: int
    head: int  # first position not yet committed
    tail: int  # oldest position that is surely readable as the START of a record (kept by the writer in the header)
    overwritten: int  # records overwritten so far (they may have been sealed before: the sealer knows)
    table_hash: bytes  # 32 bytes; the writer may set it

    @staticmethod
    def create(path: str, size_bytes: int, ring_id: int, boot: int, table_hash: bytes, mode: int = 0o640) -> Ring:
        """A new file (tmp + rename), all zero, ``size_bytes`` rounded down to a power of two of slots.

        All of it is allocated: a full file system is an OSError here and no SIGBUS later.
        ValueError on sizes under 64 KiB.
        """
    @staticmethod
    def open(path: str, writable: bool = False, boot: int | None = None) -> Ring:
        """Map an existing ring. Raises ValueError naming what is wrong with the file, OSError if it is not there.

        ``writable`` continues it, as ``boot`` if given; BlockingIOError while another process writes it."""
    # No record is larger than a quarter of the ring: ValueError.
    def append_gap(
        self, table: int, reason: int, tick_ms: int, time_ns: int, mono_ns: int, points: Buffer | None = None
    ) -> int:
        """Write a gap at a tick for ``points`` (const uint16_t[::1]; None: all of the table). Returns its position."""
    def append_text(
        self, table: int, point: int, quality: int, tick_ms: int, time_ns: int, mono_ns: int, text: bytes
    ) -> int:
        """A text of a point. ValueError unless it is UTF-8."""
    def append_values(
        self,
        table: int,
        tick_ms: int,
        time_ns: int,
        mono_ns: int,
        values: Sequence[tuple[int, int, int, int] | tuple[int, int, int, int, int | None]],
    ) -> int:
        """Slow road, for answers that go through no decode plan: (point, mantissa, exponent, quality) each, and
        where the device says when it took the value, that time in UTC ms (None: it does not).
        OverflowError if a mantissa does not fit 64 bits or the value no double."""
    def append_event(self, table: int, time_ns: int, mono_ns: int, text: bytes) -> int: ...
    def record(self, position: int) -> Record | None:
        """The record that starts at ``position``; None if it was overwritten or is not committed.
        ValueError if it is damaged."""
    def scan(self, start: int, end: int) -> Iterator[Record]:
        """Committed records from ``start`` (clamped to ``tail``) up to ``end`` (clamped to ``head``), in order.
        Stops early, without error, when the writer overtakes it. A damaged record ends the scan with ValueError."""
    def trim(self) -> None:
        """Let go of the pages that this process has touched; they stay in the file, and come back when they are used.

        Keeps the process as small as what it works on: the ring is memory of the runtime directory, counted there."""
    def close(self) -> None:
        """Unmap; a ``seal`` that runs in another thread finishes first."""
