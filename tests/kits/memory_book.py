"""Rows of intervals in memory, in place of a store."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from agent.intervals.page_format import PageSchema, Row, StoredPage, encode


class MemoryBook:
    """A ``PageSource`` that is filled by hand."""

    def __init__(self) -> None:
        self._pages: dict[str, list[StoredPage]] = {}
        self.changed: set[tuple[int, int]] = set()  # start and end of corrected intervals

    def add(self, stream: str, shape: PageSchema, rows: Sequence[Row]) -> None:
        """Keep rows, as ``Ledger.rows`` gives them."""
        end_ms, body = max(row.end_ms for row in rows), encode(rows, len(shape.columns))
        mine = self._pages.setdefault(stream, [])
        mine.append(StoredPage(len(mine) + 1, stream, rows[0].start_ms, end_ms, shape.encode(), body))
        self.changed |= {(row.start_ms, row.end_ms) for row in rows if row.revision}

    def interval_pages(self, from_ms: int, to_ms: int, streams: Collection[str] = ()) -> Iterable[StoredPage]:
        """Pages that touch ``[from_ms, to_ms)``, by stream, each stream's in the order of writing."""
        for stream in sorted(set(streams) & self._pages.keys() if streams else self._pages):
            for page in self._pages[stream]:
                if page.from_ms < to_ms and page.to_ms > from_ms:
                    yield page
