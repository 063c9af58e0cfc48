"""Compares stored intervals with the same intervals recomputed from packs.

Where they differ, the rows from the packs are appended with a higher revision. If only the stored rows have values of a
counter, a row that covers nothing withdraws these values. Stored rows are never edited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import NamedTuple

from agent.intervals.page_format import Cell, PageReader, PageSchema, Row, StoredPage
from agent.intervals.rows import Flag

FOREVER = 1 << 60
NOTHING: Cell = {}
Made = Sequence[tuple[PageSchema, Sequence[Row]]]


class CounterKey(NamedTuple):
    """Identifies a counter or gauge of a stream. The same point in a new epoch is a new counter."""

    point: str
    epoch: str


@dataclass(slots=True)
class _Known:
    """The cell of a counter in a row. If it is empty, the counter was configured, but nothing is known of it."""

    cell: Cell
    row: Row
    shape: PageSchema
    number: int  # number of the counter's column in the shape

    @property
    def rank(self) -> tuple[bool, int]:
        """The key for ``max``: a known cell wins over an unknown cell; of two known cells, the higher revision wins."""
        return bool(self.cell), self.row.revision

    @property
    def lack(self) -> int:
        """The time of the interval that is not covered, in ms."""
        return self.cell.get("lack", 0) if self.cell else self.row.end_ms - self.row.start_ms

    def facts(self) -> tuple[object, ...]:
        """Return the values to compare.

        They leave out the flag LATE, because the time at which a value became known does not matter here.
        """
        if not self.cell:
            return self.row.end_ms, self.shape.columns[self.number]
        flags = (self.cell["flags"] - 1) & ~Flag.LATE
        rest = sorted((name, value) for name, value in self.cell.items() if name != "flags" and value)
        column = self.shape.columns[self.number], self.shape.period_ms, self.shape.slip_ms
        return flags, self.row.end_ms, self.row.first_seq, self.row.last_seq, rest, column


_Interval = dict[int, dict[CounterKey, _Known]]  # by turn (see ``Row.turn``), then by counter


def corrections(
    pages: Iterable[StoredPage],
    made: Made,
    from_ms: int,
    to_ms: int,
    *,
    is_whole: bool,
    open_ms: int = FOREVER,
    decided_ms: int = 0,
    is_coming: Callable[[int, int], bool] = lambda start, end: False,
) -> list[tuple[PageSchema, list[Row]]]:
    """Return the rows to append so that the intervals that begin in ``[from_ms, to_ms)`` agree with ``made``.

    The rows are grouped by shape.

    Args:
        pages: the stored pages of one stream, in the order of writing.
        made: the rows of the same stream from its packs, in the order in which the ledger made them. A stored interval
            stays unchanged if no interval of ``made`` contains it, because the packs do not cover it. Exception: if all
            packs were read and the stored interval has no values, no reading was due there, and the interval is
            withdrawn.
        is_whole: True if ``made`` is from all packs that the stream ever had. Otherwise ``made`` may know less of a
            counter than the stored row. In this case the stored row stays (see ``_keep_what_is_known``).
        open_ms: the ledger that made these rows may still correct the intervals that begin at this time or later.
        decided_ms: the rows of ``made`` for intervals before this time are final.
        is_coming: takes the start and end of a stored interval. It returns True if an interval with other boundaries,
            which will be written later, contains this interval.
    """
    stored = ((PageSchema.decode(page.shape), PageReader(page.body, page.first).take_apart()) for page in pages)
    written, true = _by_start(stored, from_ms, to_ms), _by_start(made, from_ms, to_ms)
    bounds = {} if is_whole else _bounds(made, decided_ms)
    out: dict[PageSchema, list[Row]] = {}
    last_end, packs = 0, (0, 0)
    for start in sorted(written.keys() | true.keys()):
        old, new = written.get(start, {}), true.get(start, {})
        if new:
            rows = [one.row for counters in new.values() for one in counters.values()]
            last_end = max((row.end_ms for row in rows), default=0)
            packs = min((r.first_seq for r in rows), default=0), max((r.last_seq for r in rows), default=0)
        elif start >= last_end:
            here = [known for counters in old.values() for known in counters.values()]
            never_was = is_whole and start < open_ms and not any(known.cell for known in here)
            if not never_was and not any(is_coming(start, known.row.end_ms) for known in here):
                continue
        if not is_whole:
            _keep_what_is_known(start, old, new, bounds)
        # If True, turns with the same number are compared: ``made`` counts them from the first pack on, or the ledger
        # will give its later rows the same numbers.
        by_number = is_whole or start >= open_ms
        pairs = [(turn, turn, turn) for turn in sorted(old | new)] if by_number else _in_order(old, new)
        for shape, row in _corrected(old, new, pairs, packs):
            out.setdefault(shape, []).append(row)
    return list(out.items())


def _by_start(made: Iterable[tuple[PageSchema, Sequence[Row]]], from_ms: int, to_ms: int) -> dict[int, _Interval]:
    """Return the valid cell by start of the interval, turn and counter.

    The valid cell is the one with the highest revision; of equal revisions, the last one.
    """
    found: dict[int, _Interval] = {}
    for shape, row in ((shape, row) for shape, rows in made for row in rows):
        if not from_ms <= row.start_ms < to_ms:
            continue
        counters = found.setdefault(row.start_ms, {}).setdefault(row.turn, {})
        for number, column in enumerate(shape.columns):
            cell = row.cells.get(number, NOTHING)
            known = _Known(cell if cell.get("flags") else NOTHING, row, shape, number)
            key = CounterKey(column.point, column.epoch)
            if key not in counters or counters[key].rank <= known.rank:
                counters[key] = known
    return found


def _bounds(made: Made, decided_ms: int) -> dict[CounterKey, tuple[int, int]]:
    """Return two times for each counter. Between them, ``made`` is complete.

    The first is the start of the first interval in which the counter is known. The second is the later of
    ``decided_ms`` and the start of the last interval in which the counter is known.

    All of ``made`` counts, not only the compared intervals. As packs are read from a day earlier, a counter is already
    known in the first compared interval.
    """
    found: dict[CounterKey, tuple[int, int]] = {}
    for shape, rows in made:
        for row in rows:
            for number, cell in row.cells.items():
                if cell.get("flags"):
                    key = CounterKey(shape.columns[number].point, shape.columns[number].epoch)
                    first, last = found.get(key, (row.start_ms, decided_ms))
                    found[key] = min(first, row.start_ms), max(last, row.start_ms)
    return found


def _keep_what_is_known(
    start: int, old: _Interval, new: _Interval, bounds: Mapping[CounterKey, tuple[int, int]]
) -> None:
    """Replace cells in ``new`` by the stored cells in ``old`` that know more of the same counter in the same interval.

    Between the two bounds of a counter, ``new`` is complete, and nothing is replaced.
    """
    ends = {known.row.end_ms for counters in new.values() for known in counters.values()}
    for was, made in zip(sorted(old), sorted(new), strict=False):
        there, true = old[was], new[made]
        for key, known in there.items():
            elsewhere = any(key in counters for turn, counters in new.items() if turn != made)
            less = true[key].lack > known.lack if key in true else not elsewhere
            first, last = bounds.get(key, (start, start))
            # the end must be in ``ends``, because the interval must have the same boundaries on both sides
            if known.cell and less and not first < start < last and known.row.end_ms in ends:
                true[key] = known


def _in_order(old: _Interval, new: _Interval) -> list[tuple[int | None, int | None, int]]:
    """Pair the turns of both sides by their order.

    Their numbers may differ, because each side may have begun to count at another time.

    Returns (stored turn, made turn, turn to write). A turn is None if only the other side has it.
    """
    free = max(old, default=-1) + 1
    return [
        (was, made, was if was is not None else free + n)
        for n, (was, made) in enumerate(zip_longest(sorted(old), sorted(new)))
    ]


def _corrected(
    old: _Interval, new: _Interval, turns: Iterable[tuple[int | None, int | None, int]], packs: tuple[int, int]
) -> Iterator[tuple[PageSchema, Row]]:
    """Yield the rows that correct one interval."""
    for was, made, turn in turns:
        there = old.get(was, {}) if was is not None else {}
        true = new.get(made, {}) if made is not None else {}
        gone = {k: known for k, known in there.items() if k not in true or (known.cell and not true[k].cell)}
        same = not gone and all(key in there and there[key].facts() == known.facts() for key, known in true.items())
        if same:
            continue
        revision = 1 + max((known.row.revision for known in there.values()), default=0)
        if gone:
            yield from _taken_back(gone, true, turn, revision, packs)
            revision += 1
        rows: dict[int, tuple[PageSchema, Row]] = {}
        for known in true.values():
            _, row = rows.setdefault(id(known.row), (known.shape, replace(known.row, turn=turn, cells={})))
            if known.cell:
                flags = ((known.cell["flags"] - 1) | Flag.LATE) + 1
                row.cells[known.number] = known.cell | {"flags": flags}
        for n, (shape, row) in enumerate(sorted(rows.values(), key=lambda pair: pair[1].revision)):
            yield shape, replace(row, revision=revision + n)


def _taken_back(
    gone: Mapping[CounterKey, _Known],
    true: Mapping[CounterKey, _Known],
    turn: int,
    revision: int,
    packs: tuple[int, int],
) -> Iterator[tuple[PageSchema, Row]]:
    """Yield rows that withdraw cells. Each row states that nothing is known of a counter in this interval.

    If the packs say that the counter was configured, the row has the flag INCOMPLETE, so its amount counts as missing.

    Args:
        gone: the stored cells to withdraw.
        true: the counters that were configured in this interval, according to the packs.
    """
    for key, was in gone.items():
        row, (first, last) = was.row, packs if packs[1] else (was.row.first_seq, was.row.last_seq)
        # take the column from the packs, because its role may differ from the role in the stored column
        known = true.get(key, was)
        flags = Flag.LATE | Flag.INCOMPLETE if key in true else Flag.LATE
        cell: Cell = {"flags": int(flags) + 1, "lack": row.end_ms - row.start_ms}
        yield known.shape, Row(row.start_ms, row.end_ms, revision, turn, first, last, {known.number: cell})
