"""Basis of an answer about a period: the intervals in it, and how long the answer is valid.

Intervals are fetched in slices and added up in another thread: sealing never waits for sums.

A period is closed when it is over, all configured devices have written its intervals, and none of them is being
compared with packs or rebuilt. After that only a correction can change it, and each correction has a number. So a
client keeps a closed answer until a later answer lists its day as corrected or has another ``epoch``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from hashlib import sha256
from typing import Any, Final

from agent.config import Config
from agent.intervals.calendar import Calendar
from agent.intervals.page_format import StoredPage
from agent.service.control.protocol import Access
from agent.service.results.site import UnwrittenStreams
from agent.store import Store

STREAMS_AT_ONCE: Final = 25  # in one slice of the database thread: a few milliseconds
MOST_CHANGES: Final = 20_000  # corrections that are examined; if there are more, all days count as corrected
MOST_DAYS: Final = 400
SETTLED_MS: Final = 2 * 3_600_000  # an interval not written by then had no readings


@dataclass(frozen=True, slots=True)
class Validity:
    """How long an answer is valid; see the module's docstring.

    ``stamp`` changes with anything that an answer could depend on; ``change``: the newest correction. ``changed``: the
    local days corrected after the number that the client sent; None: it must request all days again.
    """

    closed: bool
    stamp: str
    epoch: str
    change: int
    changed: Sequence[date] | None

    def as_dict(self) -> dict[str, Any]:
        """As members of an answer."""
        changed = None if self.changed is None else [str(day) for day in self.changed]
        return {
            "closed": self.closed, "stamp": self.stamp, "epoch": self.epoch, "change": self.change, "changed": changed
        }  # fmt: skip


def validity(
    access: Access, calendar: Calendar, from_ms: int, to_ms: int, now_ms: int, after_change: int | None, store: Store
) -> Validity:
    """The validity of an answer about ``[from_ms, to_ms)``. In the database thread."""
    config, service = access.config, access.service
    page, change = store.intervals.marks()
    repairs = store.intervals.repairs()
    declared = len(store.documents.declarations())
    epoch = _digest(config.hash(), "" if service is None else service.boot, declared)
    closed = (
        to_ms <= now_ms
        and not any(repair.before_ms > from_ms for repair in repairs.values())
        and not store.intervals.damaged_pages
        and not unwritten_of(config).before(store, to_ms)
    )
    left = sorted((repair.stream, repair.before_ms) for repair in repairs.values() if repair.before_ms)
    stamp = _digest(epoch, page, change, left, closed, store.intervals.writes, calendar.day(now_ms))
    return Validity(closed, stamp, epoch, change, _corrected(calendar, after_change, change, store))


_unwritten: list[tuple[Config, UnwrittenStreams]] = []  # of the newest configuration


def unwritten_of(config: Config) -> UnwrittenStreams:
    """Kept between requests: it has read the births of streams whose intervals are late."""
    if not _unwritten or _unwritten[0][0] is not config:
        _unwritten[:] = [(config, UnwrittenStreams(config))]
    return _unwritten[0][1]


def _digest(*parts: object) -> str:
    return sha256(repr(parts).encode()).hexdigest()[:16]


def _corrected(calendar: Calendar, after: int | None, change: int, store: Store) -> Sequence[date] | None:
    """The days of corrections numbered above ``after``, None if they are unknown; ``after`` None: a first request."""
    if after is None or after == change:
        return ()
    if not 0 < change - after <= MOST_CHANGES:  # a difference outside this range also means another database
        return None
    found = store.intervals.interval_changes(after)
    if not found or found[0][0] != after + 1:
        return None  # some of these corrections are no longer kept
    days = sorted({calendar.day(start) for _, start, _ in found})
    return days if len(days) <= MOST_DAYS else None


def known_until(now_ms: int, store: Store) -> int:
    """The end of the newest interval if it is recent, else ``now_ms``. In the database thread."""
    ends = (page.to_ms for page in store.intervals.interval_pages(now_ms - SETTLED_MS, now_ms))
    return max((end for end in ends if end <= now_ms), default=now_ms)


class FetchedPages:
    """An ``agent.intervals.query.PageSource`` of the pages that touch a stretch of time."""

    def __init__(self, pages: Sequence[StoredPage]) -> None:
        self._pages = pages

    def interval_pages(self, from_ms: int, to_ms: int, streams: Collection[str] = ()) -> Iterator[StoredPage]:
        """See ``PageSource``."""
        for page in self._pages:
            if page.from_ms < to_ms and page.to_ms > from_ms and (not streams or page.stream in streams):
                yield page


async def fetch_pages(access: Access, from_ms: int, to_ms: int, streams: Sequence[str]) -> FetchedPages:
    """Fetch the pages of these streams."""

    def read(some: Sequence[str], store: Store) -> list[StoredPage]:
        return list(store.intervals.interval_pages(from_ms, to_ms, some))

    pages: list[StoredPage] = []
    ordered = sorted(streams)
    for at in range(0, len(ordered) if from_ms < to_ms else 0, STREAMS_AT_ONCE):
        pages += await access.call(partial(read, ordered[at : at + STREAMS_AT_ONCE]))
    return FetchedPages(pages)
