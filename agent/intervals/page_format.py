"""Pages store the rows of one stream in few bytes.

A new page holds the newest rows; later the pages of a day are merged.

A row is one revision of one interval, and a column is one point. For each row and column, a page holds the fields that
the kernel computed. The columns are described by a shape, which is stored once for many pages.

All numbers are whole. Each field of a column is stored as a run of numbers, whose width is that of its largest number.
A run of zeros is left out. Readings at the ends are stored as differences to the previous row, so that a day compresses
to a few bytes for each counter and interval. Decoding creates no object per value (``ext.columns``).
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

import zstandard

from agent.intervals.rows import EndReading
from agent.zstd import read_frame
from ext.columns import FAR, Runs, restore, restore_window

PLAIN, ZSTD = 2, 3  # first byte of a page; 0 and 1 were used before the first release
LEVEL = 9
MAX_BYTES = 8 << 20  # largest decompressed page; without this limit, a damaged page could state any size
ROW_FIELDS: Final = ("start", "length", "revision", "turn", "first_seq", "last_seq")
FIELDS: Final = (
    "flags",  # 0: nothing is known of the column in this row; otherwise flags + 1
    "amount",  # of counters, in thousandths of a count
    "lack",  # part of the interval that is not covered, in ms
    "spread",
    "readings",
    "first_lag",  # start of the interval - time of the first reading of the amount
    "first_value",
    "first_back",  # 1 + (sequence of the pack with the first reading) - (first_seq of the row); 0: no reading
    "last_lag",  # time of the last reading of the amount - end of the interval
    "last_value",
    "last_back",  # 1 + (last_seq of the row) - (sequence of the pack with the last reading); 0: no reading
    "low",
    "high",
    "above",  # of gauges: value * ms
    "below",
    "demand",  # growth in the window + 1; 0: there is no window
    "fixed",
)
FIELD: Final = {name: number for number, name in enumerate(FIELDS)}
_ROW_DIFF = tuple(name in {"start", "first_seq", "last_seq"} for name in ROW_FIELDS)
# these fields are stored as differences from row to row
_DIFF = tuple(name in {"last_value", "low", "high"} for name in FIELDS)
# these fields are stored as differences to a prediction, see ``_expected``
_ENDS: Final = ("amount", "first_value", "last_value")
_WINDOWS: Final = ("demand", "fixed")
PARTS: Final = 1000  # stored amounts are in thousandths of a count
_CODES = "bhiq"
_LIMITS = tuple(1 << (8 * array(code).itemsize - 1) for code in _CODES)


@dataclass(frozen=True, slots=True)
class Column:
    """One point in a page.

    A stored value n means n * 10**exponent ``unit``; amounts are stored in thousandths of this.
    """

    point: str
    kind: str  # counter or gauge
    unit: str  # as the device reports it
    exponent: int
    part: str = ""
    role: str = ""
    parent: str = ""
    flow: str = ""
    epoch: str = ""  # changes with the counter: readings of different epochs are never compared
    count: int = 1  # the stored value that one count of the device equals
    accuracy: str = ""  # the accuracy class as configured; "": none is configured


@dataclass(frozen=True, slots=True)
class PageSchema:
    """The columns of a page, and the length (``period_ms``) and step (``slip_ms``) of the window for demands."""

    columns: tuple[Column, ...]
    period_ms: int = 0
    slip_ms: int = 0

    def encode(self) -> bytes:
        """Return the schema as JSON, in the stored form."""
        rows = [[getattr(c, name) for name in Column.__slots__] for c in self.columns]
        document = {"columns": rows, "period": self.period_ms, "slip": self.slip_ms}
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    @staticmethod
    @lru_cache(maxsize=256)
    def decode(body: bytes) -> PageSchema:
        """The reverse of ``encode``.

        The same bytes usually give the same object, because a cache holds recent results.
        """
        document = json.loads(body)
        return PageSchema(tuple(Column(*row) for row in document["columns"]), document["period"], document["slip"])


Cell = dict[str, int]  # by the names of FIELDS; a field that is left out is 0


@dataclass(frozen=True, slots=True)
class Row:
    """One revision of one interval, before encoding or after decoding. ``cells``: by column number."""

    start_ms: int
    end_ms: int
    revision: int
    # how often the clock had been set back before; the amounts of an interval's rows with different turns are added up
    turn: int
    first_seq: int
    last_seq: int
    cells: dict[int, Cell]


def _run(values: Sequence[int], differences: bool) -> tuple[int, bytes]:
    """Encode numbers as (code, bytes). The code is 0 if all numbers are zero, otherwise 1 + log2 of the width in bytes.

    The bytes are in planes: first the lowest byte of each number, then the next byte of each, and so on.
    """
    if not any(values):
        return 0, b""
    if differences:
        values = [values[0], *(b - a for a, b in pairwise(values))]
    most = max(*values, -1 - min(values))
    width = next((n for n, limit in enumerate(_LIMITS) if most < limit), None)
    if width is None:
        raise ValueError(f"{most} does not fit 64 bits")
    raw, size = array(_CODES[width], values).tobytes(), 1 << width
    return 1 + width, raw if size == 1 else b"".join(raw[n::size] for n in range(size))


def encode(rows: Sequence[Row], columns: int, compress: bool = False) -> bytes:
    """Encode the body of a page. Raises ValueError if a number does not fit 64 bits."""
    heads = [(r.start_ms, r.end_ms - r.start_ms, r.revision, r.turn, r.first_seq, r.last_seq) for r in rows]
    runs = [_run([head[n] for head in heads], _ROW_DIFF[n]) for n in range(len(ROW_FIELDS))]
    empty: Cell = {}
    for number in range(columns):
        cells = [row.cells.get(number, empty) for row in rows]
        fields = [[cell.get(name, 0) for cell in cells] for name in FIELDS]
        for n, values in enumerate(_expected(fields)):
            runs.append(_run(values, _DIFF[n]))
    body = b"".join(
        (struct.pack("<HH", len(rows), columns), bytes(code for code, _ in runs), *(raw for _, raw in runs))
    )
    if compress:
        packed = zstandard.ZstdCompressor(level=LEVEL).compress(body)
        if len(packed) < len(body):
            return bytes((ZSTD,)) + packed
    return bytes((PLAIN,)) + body


def _expected(fields: list[list[int]]) -> list[list[int]]:
    """Replace values by their differences to a prediction, which compress well.

    ``ext.columns.restore`` does the reverse. There are three predictions:
    - the first reading of a row from the last reading of the previous row
    - the amount from the growth between the last readings of two rows
    - a demand from the amount

    Differences of amounts and demands are stored as 2 * d + 1, because 0 means that there is no amount or demand.
    """
    names = ("flags", "amount", "first_value", "last_value", "demand", "fixed")
    known, amount, first, last, demand, fixed = (fields[FIELD[name]] for name in names)
    is_counter, level = any(amount), None
    kept = 0
    for n, there in enumerate(known):
        if not there:
            last[n] = kept  # repeat the last value, so that the stored difference is 0
            continue
        for window in (demand, fixed):
            if window[n]:
                window[n] = 2 * (window[n] - amount[n]) + 1
        before = first[n] if level is None else level
        first[n] -= last[n] if level is None else level
        level = kept = last[n]
        if is_counter:
            # a difference of FAR or more is a jump, not growth: the prediction is then 0
            likely = PARTS * (level - before) if abs(level - before) < FAR else 0
            amount[n] = 2 * (amount[n] - likely) + 1
    return fields


class PageReader:
    """Decodes a body, one field of a column at a time. Raises ValueError if the body is damaged.

    Args:
        first: number of rows to read, from the first row on; None: all rows.
    """

    def __init__(self, body: bytes, first: int | None = None) -> None:
        try:
            raw = body[1:]
            if body[0] not in (PLAIN, ZSTD):
                raise ValueError(f"it begins with {body[0]}")
            if body[0] == ZSTD:
                raw = read_frame(raw, MAX_BYTES)
            rows, self.columns = struct.unpack_from("<HH", raw)
            self._runs = Runs(raw, 4, rows, len(ROW_FIELDS) + self.columns * len(FIELDS))
            self._whole: dict[int, dict[str, array[int]]] = {}
            self.rows = rows if first is None else min(first, rows)
            self._all = self.rows == rows
        except (IndexError, ValueError, struct.error) as error:
            raise ValueError(f"a page of intervals is damaged: {error}") from error

    def row(self, field: str) -> array[int]:
        """Return the values of a field that rows have once, not per column: one number per row."""
        number = ROW_FIELDS.index(field)
        return self._first(self._runs.get(number, _ROW_DIFF[number]))

    def column(self, number: int, field: str) -> array[int]:
        """Return the values of a field of one column: one number per row."""
        if field in _ENDS:
            return self._ends(number)[field]
        kept = self._first(self._field(number, field))
        if field in _WINDOWS:
            restore_window(kept, self._ends(number)["amount"])
        return kept

    def _ends(self, number: int) -> dict[str, array[int]]:
        if number not in self._whole:
            found = {name: self._field(number, name) for name in _ENDS}
            # all rows are needed, because each row builds on the previous rows
            restore(self._field(number, "flags"), *found.values())
            self._whole[number] = {name: self._first(run) for name, run in found.items()}
        return self._whole[number]

    def _first(self, run: array[int]) -> array[int]:
        return run if self._all else run[: self.rows]

    def _field(self, number: int, field: str) -> array[int]:
        n = FIELD[field]
        return self._runs.get(len(ROW_FIELDS) + number * len(FIELDS) + n, _DIFF[n])

    def take_apart(self) -> list[Row]:
        """Decode all rows."""
        heads = [self.row(name) for name in ROW_FIELDS]
        cells: list[dict[int, Cell]] = [{} for _ in range(self.rows)]
        for number in range(self.columns):
            known = self.column(number, "flags")
            fields: list[tuple[str, Sequence[int]]] = [(name, self.column(number, name)) for name in FIELDS]
            for n in range(self.rows):
                if known[n]:
                    cells[n][number] = {name: values[n] for name, values in fields if values[n]}
        return [
            Row(start, start + length, revision, turn, first, last, cells[n])
            for n, (start, length, revision, turn, first, last) in enumerate(zip(*heads, strict=True))
        ]


@dataclass(frozen=True, slots=True)
class StoredPage:
    """A page as the store returns it."""

    id: int
    stream: str
    from_ms: int
    to_ms: int
    shape: bytes
    body: bytes
    first: int | None = None  # the number of valid rows, from the first row on; None: all rows


def merged(pages: Iterable[bytes]) -> list[Row]:
    """Return the rows of several pages with one shape, in order of time. They become the page of a day."""
    rows = [row for body in pages for row in PageReader(body).take_apart()]
    return sorted(rows, key=lambda row: (row.start_ms, row.turn, row.revision))


# --- decoded pages

NO_ROWS = array("i")


class SelectedRows(NamedTuple):
    """Selected rows of a page. ``rows``: their numbers in order.

    ``places``: for each of them, the number of its stretch.
    """

    rows: array[int]
    places: array[int]

    def known(self, known: Sequence[int], count: int) -> array[int]:
        """Return the selected rows whose value is known. ``count`` must be their number.

        If all are known, this returns ``rows`` itself. ``known``: the field ``flags`` of the column.
        """
        return self.rows if count == len(self.rows) else array("i", [n for n in self.rows if known[n]])


class DecodedPage:
    """A page with its shape and the fields of its rows."""

    def __init__(self, stored: StoredPage) -> None:
        self.stream = stored.stream
        self.shape = PageSchema.decode(stored.shape)
        self.page = PageReader(stored.body, stored.first)
        self.start, self.length = self.page.row("start"), self.page.row("length")
        self.revision, self.turn = self.page.row("revision"), self.page.row("turn")
        self.first_seq, self.last_seq = self.page.row("first_seq"), self.page.row("last_seq")
        self._columns: dict[tuple[int, str], array[int]] = {}
        self._asked, self._packs = NO_ROWS, (0, 0)

    def get(self, column: int, name: str) -> array[int]:
        """Return a field of a column. Each field is decoded only once."""
        if (column, name) not in self._columns:
            self._columns[column, name] = self.page.column(column, name)
        return self._columns[column, name]

    def packs(self, rows: array[int]) -> tuple[int, int]:
        """Return the first and last pack of some rows. This is cached, because each column asks for the same rows."""
        if rows is not self._asked:
            self._asked = rows
            self._packs = min([self.first_seq[n] for n in rows]), max([self.last_seq[n] for n in rows])
        return self._packs

    @property
    def plain(self) -> bool:
        """True if the page has no corrections, and the clock was never set back before its rows.

        Then its rows are in order.
        """
        return not any(self.revision) and not any(self.turn)


def end_reading(t: DecodedPage, number: int, n: int, end: str) -> EndReading | None:
    """Return the reading at one end ("first" or "last") of a row; None if there is none."""
    back = t.get(number, f"{end}_back")[n]
    if not back:
        return None
    lag, value = t.get(number, f"{end}_lag")[n], t.get(number, f"{end}_value")[n]
    exponent = t.shape.columns[number].exponent
    if end == "first":
        return EndReading(t.first_seq[n] + back - 1, t.start[n] - lag, Decimal(value).scaleb(exponent))
    return EndReading(t.last_seq[n] - back + 1, t.start[n] + t.length[n] + lag, Decimal(value).scaleb(exponent))


def is_taken_back(t: DecodedPage, n: int, number: int) -> bool:
    """Return True if a cell only withdraws an earlier cell. Such a cell covers nothing and has no reading."""
    return not t.get(number, "last_back")[n] and t.get(number, "lack")[n] == t.length[n]


GroupCell = tuple[DecodedPage, int, int]  # page, row, column
# all cells whose amounts add up to the amount of one point in one interval
Group = list[GroupCell]
