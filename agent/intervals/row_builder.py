"""Turns the cells of finished intervals into rows. A cell holds the values of one point in one interval.

The row of an interval is written once. If its values change later, another row corrects it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent.intervals.calendar import Calendar
from agent.intervals.page_format import Cell, PageSchema, Row
from agent.intervals.rows import Flag

if TYPE_CHECKING:
    from ext.rates import Done

Key = tuple[int, int, int]  # start, end, turn
MAX_GRACE_MS = 900_000
AT_ONCE = 4096  # a call stops after this number of rows, because there may be very many after a long pause


class RowBuilder:
    """Collects the cells of intervals until their rows are written.

    An interval is written when the stream is sealed up to ``grace_ms`` after its end: by then, the first reading after
    the end has arrived or is known to be missing. If it is missing, the row contains only the known part. When the next
    reading arrives, a correction (revision 1, LATE) completes the interval.
    """

    def __init__(self, calendar: Calendar) -> None:
        self._calendar = calendar
        self.shape: PageSchema | None = None
        self.grace_ms = 20_000
        self.next_ms = 0  # start of the first interval that is not written yet
        self.turn = 0  # how often the clock of this stream was set back so far
        self.hold_ms = 0  # no row is written before the stream is sealed up to this time
        self._end_ms = 0  # end of the interval that starts at ``next_ms``
        self._cells: dict[Key, dict[int, Cell]] = {}
        self._done: list[tuple[PageSchema, list[Row]]] = []

    # --- position

    def start(self, boundary_ms: int) -> None:
        """Begin a stream. Its first interval starts at ``boundary_ms``."""
        self.next_ms, self._end_ms = boundary_ms, 0

    def wait_until(self, to_ms: int) -> None:
        """Write no row until the stream is sealed up to ``to_ms`` + grace.

        The first readings after a restart may still complete earlier intervals.
        """
        self.hold_ms = to_ms + self.grace_ms

    def begin_shape(self, shape: PageSchema, grace_ms: int) -> None:
        """Expect cells of this shape from now on."""
        self.shape, self.grace_ms = shape, min(grace_ms, MAX_GRACE_MS)

    def end_shape(self) -> None:
        """Write all cells of the previous shape."""
        rows = [self._row(key, cells) for key, cells in sorted(self._cells.items())]
        self._cells = {}
        if rows and self.shape is not None:
            self._done.append((self.shape, rows))

    def add(self, done: Done) -> None:
        """Add a complete cell from the kernel."""
        assert self.shape is not None
        number, start, end = done[0], done[1], done[2]
        self._cells.setdefault((start, end, self.turn), {})[number] = _cell(done, start < self.next_ms, self.shape)

    # --- rows

    def end_ms(self) -> int:
        """Return the end of the first interval that is not written yet."""
        if self._end_ms <= self.next_ms:
            self._end_ms = next(b for b in self._calendar.bounds(self.next_ms, self.next_ms + 1) if b > self.next_ms)
        return self._end_ms

    def ready(self, to_ms: int) -> bool:
        """Return True if the next interval can be written when the stream is sealed up to ``to_ms``."""
        return to_ms >= self.hold_ms and to_ms >= self.end_ms() + self.grace_ms

    def take_late(self) -> list[tuple[PageSchema, list[Row]]]:
        """Take the corrections of written intervals, and the rows of a previous shape."""
        if not self._cells and not self._done:  # the usual case
            return []
        late = {key: cells for key, cells in self._cells.items() if key[0] < self.next_ms}
        if late:
            self._cells = {key: cells for key, cells in self._cells.items() if key not in late}
            assert self.shape is not None
            self._done.append((self.shape, [self._row(key, cells) for key, cells in sorted(late.items())]))
        done, self._done = self._done, []
        return done

    def take(self, to_ms: int, open_cells: Sequence[Done]) -> list[tuple[PageSchema, list[Row]]]:
        """Take the corrections, then the rows of finished intervals in order.

        An interval without any cell has a row too.

        ``open_cells``: the cells of intervals that the kernel has not closed. They give the known part of an interval.
        """
        out = self.take_late()
        if self.shape is None:
            return out
        rows: list[Row] = []
        # sorted once, not for each interval, because there are tens of thousands of keys after a clock step
        keys: dict[int, list[Key]] = {}
        for key in sorted(self._cells) if self.ready(to_ms) else ():
            keys.setdefault(key[0], []).append(key)
        while self.ready(to_ms) and len(rows) < AT_ONCE:
            start, end = self.next_ms, self.end_ms()
            mine = {key: self._cells.pop(key) for key in keys.pop(start, ())}
            for done in open_cells:
                if done[1] == start:
                    mine.setdefault((start, end, self.turn), {}).setdefault(done[0], _cell(done, False, self.shape))
            if not mine:
                mine[start, end, self.turn] = {}
            rows += [self._row(key, cells) for key, cells in mine.items()]
            self.next_ms = end
        if rows:
            out.append((self.shape, rows))
        return out

    def state(self) -> list[object]:
        """Return the position, and the cells that are complete but not written yet, for ``restore``."""
        cells = [[*key, [[n, cell] for n, cell in row.items()]] for key, row in self._cells.items()]
        return [self.next_ms, self.turn, self.hold_ms, cells]

    def restore(self, state: list[Any], column_of: Mapping[int, int]) -> None:
        """Restore the result of ``state``. ``column_of``: column number in the state -> column number now."""
        self.next_ms, self.turn, self.hold_ms, cells = state
        self._end_ms = 0
        self._cells = {
            (start, end, turn): {column_of[n]: cell for n, cell in row if n in column_of}
            for start, end, turn, row in cells
        }

    def _row(self, key: Key, cells: dict[int, Cell]) -> Row:
        """Make a row, with its first and last pack. The pack numbers in its cells become distances to these two."""
        start, end, turn = key
        late = any((cell["flags"] - 1) & Flag.LATE for cell in cells.values())
        packs = [cell[name] for cell in cells.values() for name in ("first_back", "last_back") if cell.get(name)]
        first, last = min(packs, default=0), max(packs, default=0)
        for cell in cells.values():
            if cell.get("first_back"):
                cell["first_back"] = cell["first_back"] - first + 1
            if cell.get("last_back"):
                cell["last_back"] = last - cell["last_back"] + 1
        return Row(start, end, int(late), turn, first, last, cells)


def _cell(done: Done, late: bool, shape: PageSchema) -> Cell:
    """Convert a cell of the kernel to the form of a page. ``first_back`` and ``last_back`` are still pack numbers."""
    (
        number,
        start,
        end,
        flags,
        amount,
        covered,
        spread,
        readings,
        first,
        last,
        low,
        high,
        above,
        below,
        demand,
        fixed,
    ) = done
    is_counter = shape.columns[number].kind == "counter"
    cell: Cell = {
        "flags": (flags | (Flag.LATE if late else 0)) + 1,
        "amount": amount,
        "lack": end - start - covered,
        "spread": spread,
        "readings": readings,
        "low": low or 0,
        "high": high or 0,
        "above": (above + 1000) // 2000,
        "below": (below + 1000) // 2000,
        "demand": 0 if demand is None else max(0, _window(demand, is_counter)) + 1,
        "fixed": 0 if fixed is None else max(0, _window(fixed, is_counter)) + 1,
    }
    if first:
        cell |= {"first_back": first[0], "first_lag": start - first[1], "first_value": first[2]}
    if last:
        cell |= {"last_back": last[0], "last_lag": last[1] - end, "last_value": last[2]}
    return cell


def _window(growth: int, is_counter: bool) -> int:
    """Convert the growth in a demand window to the stored form.

    The form is thousandths of a count for a counter, or value * ms for a gauge.
    """
    return growth if is_counter else (growth + 1000) // 2000
