"""A page in use: the fields of its columns, decoded once each."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from agent.intervals.page import Page, Shape, StoredPage
from agent.intervals.rows import Mark

NO_ROWS = array("i")


class Chosen(NamedTuple):
    """Rows of a page that count, in order, and the stretch of each; as the kernel takes them."""

    rows: array[int]
    places: array[int]

    def known(self, known: Sequence[int], count: int) -> array[int]:
        """The rows of which something is known, as the kernel counted them: most often all, the same object then."""
        return self.rows if count == len(self.rows) else array("i", [n for n in self.rows if known[n]])


class Taken:
    """A page with its shape and the fields of its rows."""

    def __init__(self, stored: StoredPage) -> None:
        self.stream = stored.stream
        self.shape = Shape.decode(stored.shape)
        self.page = Page(stored.body, stored.first)
        self.start, self.length = self.page.row("start"), self.page.row("length")
        self.revision, self.turn = self.page.row("revision"), self.page.row("turn")
        self.first_seq, self.last_seq = self.page.row("first_seq"), self.page.row("last_seq")
        self._columns: dict[tuple[int, str], array[int]] = {}
        self._asked, self._packs = NO_ROWS, (0, 0)

    def get(self, column: int, name: str) -> array[int]:
        """A field of a column, decoded once."""
        if (column, name) not in self._columns:
            self._columns[column, name] = self.page.column(column, name)
        return self._columns[column, name]

    def packs(self, rows: array[int]) -> tuple[int, int]:
        """The first and last pack of some rows. Column after column asks for the same ones: found once."""
        if rows is not self._asked:
            self._asked = rows
            self._packs = min([self.first_seq[n] for n in rows]), max([self.last_seq[n] for n in rows])
        return self._packs

    @property
    def plain(self) -> bool:
        """No corrections and no repeated time in it, and rows in order."""
        return not any(self.revision) and not any(self.turn)


def mark_at(t: Taken, number: int, n: int, end: str) -> Mark | None:
    """The reading at one end ("first" or "last") of a row; None where there is none."""
    back = t.get(number, f"{end}_back")[n]
    if not back:
        return None
    lag, value = t.get(number, f"{end}_lag")[n], t.get(number, f"{end}_value")[n]
    exponent = t.shape.columns[number].exponent
    if end == "first":
        return Mark(t.first_seq[n] + back - 1, t.start[n] - lag, Decimal(value).scaleb(exponent))
    return Mark(t.last_seq[n] - back + 1, t.start[n] + t.length[n] + lag, Decimal(value).scaleb(exponent))


def is_taken_back(t: Taken, n: int, number: int) -> bool:
    """Says a cell only that what was written of its interval stands elsewhere? It covers nothing and has no reading."""
    return not t.get(number, "last_back")[n] and t.get(number, "lack")[n] == t.length[n]


Group = list[tuple[Taken, int, int]]  # page, row, column: what adds up to one interval of one point
