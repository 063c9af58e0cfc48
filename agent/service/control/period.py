"""Fetches the intervals of a period for an answer, and determines how long the answer is valid.

Intervals are fetched in slices and added up in another thread, so that sealing never waits for sums.

A period is closed when it is over, all configured devices have written its intervals, and no interval of it is being
compared with packs or rebuilt. From then on, only corrections can change the answer. Each correction has a number. So a
client may keep the answer about a closed period until a later answer lists a day of this period as corrected, or has
another ``epoch``.
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

STREAMS_AT_ONCE: Final = 25  # number of streams that are read in one slice of the database thread, which takes a few ms
MOST_CHANGES: Final = 20_000  # if there are more corrections than this, all days count as corrected
MOST_DAYS: Final = 400  # if more days than this are corrected, all days count as corrected
# if an interval is still not written this long after its end, it counts as an interval without readings
SETTLED_MS: Final = 2 * 3_600_000


@dataclass(frozen=True, slots=True)
class Validity:
    """How long an answer is valid; see the docstring of the module.

    ``stamp`` changes whenever the answer may have changed. ``change`` is the number of the newest correction.
    ``changed`` lists the local days that were corrected after the correction number that the client sent. None: the
    client must request all days again.
    """

    closed: bool
    stamp: str
    epoch: str
    change: int
    changed: Sequence[date] | None

    def as_dict(self) -> dict[str, Any]:
        """Return the members for an answer."""
        changed = None if self.changed is None else [str(day) for day in self.changed]
        return {
            "closed": self.closed, "stamp": self.stamp, "epoch": self.epoch, "change": self.change, "changed": changed
        }  # fmt: skip


def validity(
    access: Access, calendar: Calendar, from_ms: int, to_ms: int, now_ms: int, after_change: int | None, store: Store
) -> Validity:
    """Return the validity of an answer about ``[from_ms, to_ms)``. This is called in the database thread."""
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


_unwritten: list[tuple[Config, UnwrittenStreams]] = []  # at most one entry, which is for the newest configuration


def unwritten_of(config: Config) -> UnwrittenStreams:
    """Return the ``UnwrittenStreams`` of a configuration.

    It is kept between requests, because it caches what it has read.
    """
    if not _unwritten or _unwritten[0][0] is not config:
        _unwritten[:] = [(config, UnwrittenStreams(config))]
    return _unwritten[0][1]


def _digest(*parts: object) -> str:
    return sha256(repr(parts).encode()).hexdigest()[:16]


def _corrected(calendar: Calendar, after: int | None, change: int, store: Store) -> Sequence[date] | None:
    """Return the days that corrections with numbers above ``after`` have changed.

    None: these days are not known, so each day may have changed. If ``after`` is None, the client has no answer yet,
    and the result is empty.
    """
    if after is None or after == change:
        return ()
    # there are too many corrections, or the number ``after`` comes from another database
    if not 0 < change - after <= MOST_CHANGES:
        return None
    found = store.intervals.interval_changes(after)
    if not found or found[0][0] != after + 1:
        return None  # some of these corrections are deleted already
    days = sorted({calendar.day(start) for _, start, _ in found})
    return days if len(days) <= MOST_DAYS else None


def known_until(now_ms: int, store: Store) -> int:
    """Return the end of the newest interval; ``now_ms`` if no interval ended in the last two hours.

    This is called in the database thread.
    """
    ends = (page.to_ms for page in store.intervals.interval_pages(now_ms - SETTLED_MS, now_ms))
    return max((end for end in ends if end <= now_ms), default=now_ms)


class FetchedPages:
    """Interval pages that are already in memory. Implements ``agent.intervals.query.PageSource``."""

    def __init__(self, pages: Sequence[StoredPage]) -> None:
        self._pages = pages

    def interval_pages(self, from_ms: int, to_ms: int, streams: Collection[str] = ()) -> Iterator[StoredPage]:
        """Return the pages that overlap the time, see ``PageSource``."""
        for page in self._pages:
            if page.from_ms < to_ms and page.to_ms > from_ms and (not streams or page.stream in streams):
                yield page


async def fetch_pages(access: Access, from_ms: int, to_ms: int, streams: Sequence[str]) -> FetchedPages:
    """Fetch the interval pages of these streams in ``[from_ms, to_ms)``, in slices."""

    def read(some: Sequence[str], store: Store) -> list[StoredPage]:
        return list(store.intervals.interval_pages(from_ms, to_ms, some))

    pages: list[StoredPage] = []
    ordered = sorted(streams)
    for at in range(0, len(ordered) if from_ms < to_ms else 0, STREAMS_AT_ONCE):
        pages += await access.call(partial(read, ordered[at : at + STREAMS_AT_ONCE]))
    return FetchedPages(pages)
