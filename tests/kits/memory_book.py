"""Interval rows in memory in place of a store."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from agent.intervals import Cut, Rule
from agent.intervals.page import Row, Shape, StoredPage, encode
from agent.intervals.replay import emitted


class Memory:
    """A ``Book`` that a test fills."""

    def __init__(self) -> None:
        self._pages: dict[str, list[StoredPage]] = {}
        self._changes: list[tuple[int, int, int]] = []

    def add(self, stream: str, shape: Shape, rows: Sequence[Row]) -> None:
        """Keep rows, as ``Ledger.rows`` gives them."""
        end_ms, body = max(row.end_ms for row in rows), encode(rows, len(shape.columns))
        mine = self._pages.setdefault(stream, [])
        mine.append(StoredPage(len(mine) + 1, stream, rows[0].start_ms, end_ms, shape.encode(), body))
        for row in rows:
            if row.revision:
                self._changes.append((len(self._changes) + 1, row.start_ms, row.end_ms))

    def interval_pages(self, from_ms: int, to_ms: int, streams: Collection[str] = ()) -> Iterable[StoredPage]:
        """Pages that touch ``[from_ms, to_ms)``, by stream, each stream's in the order of writing."""
        for stream in sorted(set(streams) & self._pages.keys() if streams else self._pages):
            for page in self._pages[stream]:
                if page.from_ms < to_ms and page.to_ms > from_ms:
                    yield page

    def interval_changes(self, after: int) -> Sequence[tuple[int, int, int]]:
        """(number, start_ms, end_ms) of corrected intervals above ``after``."""
        return self._changes[after:]


def recompute(stream: str, packs: Iterable[bytes], cut: Cut, rule: Rule) -> Iterator[tuple[Shape, list[Row]]]:
    """The rows of one stream, from its packs in order, a birth first; ``Memory`` takes them for queries."""
    for _, shape, rows in emitted(stream, packs, cut, rule):
        yield shape, rows
