"""Compares stored intervals with the same intervals recomputed from packs.

Where they differ, the rows from the packs are appended with a higher revision, and what only the stored ones know is
taken back by a row that covers nothing. Stored rows are never edited.
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
    """A counter or gauge of a stream: another epoch is another counter."""

    point: str
    epoch: str


@dataclass(slots=True)
class _Known:
    """The counted part of a counter in an interval, or that it was configured then. ``cell`` as the row has it."""

    cell: Cell
    row: Row
    shape: PageSchema
    number: int  # its column

    @property
    def rank(self) -> tuple[bool, int]:
        """For ``max``: a known cell wins over an unknown one, then the higher revision."""
        return bool(self.cell), self.row.revision

    @property
    def lack(self) -> int:
        """Time of the interval that is not covered, in ms."""
        return self.cell.get("lack", 0) if self.cell else self.row.end_ms - self.row.start_ms

    def facts(self) -> tuple[object, ...]:
        """The compared values; whether they were known at once or later does not matter."""
        if not self.cell:
            return self.row.end_ms, self.shape.columns[self.number]
        flags = (self.cell["flags"] - 1) & ~Flag.LATE
        rest = sorted((name, value) for name, value in self.cell.items() if name != "flags" and value)
        column = self.shape.columns[self.number], self.shape.period_ms, self.shape.slip_ms
        return flags, self.row.end_ms, self.row.first_seq, self.row.last_seq, rest, column


_Interval = dict[int, dict[CounterKey, _Known]]  # by turn


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
    """Rows to append so that intervals that begin in ``[from_ms, to_ms)`` are what ``made`` says, by shape.

    Args:
        pages: of one stream, as written, in the order of writing.
        made: the same stream's rows from its packs, in the order of making. An interval without a row in it, which
            lies in none of its own, stays unchanged: the packs do not cover it. But where nothing
            was known of it either, and all packs were read, nothing was due there.
        is_whole: ``made`` is from all packs that the stream ever had. Else a counter may be undecided in it that was
            not when it was written: the written row stays, unless as much is known or it has moved.
        open_ms: intervals from here on may still be corrected by the ledger that made these rows.
        decided_ms: what the ledger made before this is final.
        is_coming: whether a written interval, by start and end, lies in one that will be written later, cut otherwise.
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
        by_number = is_whole or start >= open_ms  # as those that come later will be counted
        pairs = [(turn, turn, turn) for turn in sorted(old | new)] if by_number else _in_order(old, new)
        for shape, row in _corrected(old, new, pairs, packs):
            out.setdefault(shape, []).append(row)
    return list(out.items())


def _by_start(made: Iterable[tuple[PageSchema, Sequence[Row]]], from_ms: int, to_ms: int) -> dict[int, _Interval]:
    """By start of the interval, turn of the clock and counter what counts: the highest revision, the last of equals."""
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
    """Of each counter, the start of the first interval in which something is known of it, and where that ends.

    It ends at the last such interval, or at ``decided_ms``. All of ``made`` counts: packs are read from a day before
    the intervals that are compared, so that a counter is known at the first of those.
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
    """Take the written cell where the packs read know less of a counter, in an interval that both have.

    Not between the first and the last interval in which they tell of it: there they tell all.
    """
    ends = {known.row.end_ms for counters in new.values() for known in counters.values()}
    for was, made in zip(sorted(old), sorted(new), strict=False):
        there, true = old[was], new[made]
        for key, known in there.items():
            elsewhere = any(key in counters for turn, counters in new.items() if turn != made)
            less = true[key].lack > known.lack if key in true else not elsewhere
            first, last = bounds.get(key, (start, start))
            if known.cell and less and not first < start < last and known.row.end_ms in ends:  # cut as now
                true[key] = known


def _in_order(old: _Interval, new: _Interval) -> list[tuple[int | None, int | None, int]]:
    """(turn as written, turn as made, turn to write) that say the same, where turns were counted from another start."""
    free = max(old, default=-1) + 1
    return [
        (was, made, was if was is not None else free + n)
        for n, (was, made) in enumerate(zip_longest(sorted(old), sorted(new)))
    ]


def _corrected(
    old: _Interval, new: _Interval, turns: Iterable[tuple[int | None, int | None, int]], packs: tuple[int, int]
) -> Iterator[tuple[PageSchema, Row]]:
    """The corrections of one interval."""
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
    """Rows that state for counters: not covered here, written elsewhere. Flag INCOMPLETE: though it is due here.

    Args:
        true: counters that were configured then, as the packs say.
    """
    for key, was in gone.items():
        row, (first, last) = was.row, packs if packs[1] else (was.row.first_seq, was.row.last_seq)
        known = true.get(key, was)  # its role may be another than was written
        flags = Flag.LATE | Flag.INCOMPLETE if key in true else Flag.LATE
        cell: Cell = {"flags": int(flags) + 1, "lack": row.end_ms - row.start_ms}
        yield known.shape, Row(row.start_ms, row.end_ms, revision, turn, first, last, {known.number: cell})
