"""Pages of intervals, fetched in slices, to be added up in another thread: sealing never waits for sums."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Final

from agent.intervals.page_format import StoredPage
from agent.service.control.protocol import Access
from agent.store import Store

STREAMS_AT_ONCE: Final = 25  # in one slice of the database thread: some milliseconds


class FetchedPages:
    """An ``agent.intervals.query.PageSource`` of the pages that touch a stretch of time."""

    def __init__(self, pages: Sequence[StoredPage]) -> None:
        self._pages = pages

    def interval_pages(self, from_ms: int, to_ms: int, streams: Collection[str] = ()) -> Iterator[StoredPage]:
        """See there."""
        for page in self._pages:
            if page.from_ms < to_ms and page.to_ms > from_ms and (not streams or page.stream in streams):
                yield page


async def fetch_pages(access: Access, from_ms: int, to_ms: int, streams: Sequence[str]) -> FetchedPages:
    """Those of these streams."""

    def read(some: Sequence[str], store: Store) -> list[StoredPage]:
        return list(store.intervals.interval_pages(from_ms, to_ms, some))

    pages: list[StoredPage] = []
    ordered = sorted(streams)
    for at in range(0, len(ordered) if from_ms < to_ms else 0, STREAMS_AT_ONCE):
        pages += await access.call(partial(read, ordered[at : at + STREAMS_AT_ONCE]))
    return FetchedPages(pages)
