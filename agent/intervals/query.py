"""Queries the store for intervals, and returns rows with all corrections applied.

If no single interval is needed, ``agent.intervals.sums`` gives the same amounts faster.

If there are several revisions of a point in an interval, the last one counts. The amounts of one interval from
different counters (epochs) and from repeated clock time (turns) are added up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Protocol

from agent.intervals.amounts import row_of
from agent.intervals.page_format import DecodedPage, Group, StoredPage
from agent.intervals.rows import IntervalRow

Key = tuple[str, str, int, int]  # point, epoch, turn, start_ms


class PageSource(Protocol):
    """The methods of a store that queries use; ``Store.intervals`` has them. Use it only in the store's thread."""

    def interval_pages(self, from_ms: int, to_ms: int, streams: Collection[str] = ()) -> Iterable[StoredPage]:
        """Return the pages that overlap ``[from_ms, to_ms)``, by stream.

        The pages of one stream are in the order of writing.
        """


def query(
    store: PageSource,
    start_ms: int,
    end_ms: int,
    roles: Collection[str] | None = None,
    streams: Collection[str] = (),
    points: Collection[str] | None = None,
) -> Iterator[IntervalRow]:
    """Yield the rows of all intervals inside ``[start_ms, end_ms)``, by stream, point and time.

    Args:
        roles: only points with these roles; "generation" also means "generation.pv" and so on. None: all points,
            including those without a role.
        streams: only these streams, by full name ("park7/gw01/inv1"); empty: all.
        points: only these points; None: all.

    If nothing is known of a point in a closed interval, its row has ``amount`` None and the flag INCOMPLETE. A point
    that was not configured in an interval has no row.
    """
    for stream, pages in groupby(store.interval_pages(start_ms, end_ms, streams), key=lambda page: page.stream):
        taken = [DecodedPage(page) for page in pages]
        latest = latest_of(taken)
        for (point, start), group in sorted(_by_point(taken, latest, start_ms, end_ms, points).items()):
            column = group[-1][0].shape.columns[group[-1][2]]
            if wanted(column.role, roles):
                yield from row_of(stream, point, start, group)


def wanted(role: str, roles: Collection[str] | None) -> bool:
    """Return True if ``role``, or a role above it, is among ``roles``."""
    if roles is None:
        return True
    while role:
        if role in roles:
            return True
        role = role.rpartition(".")[0]
    return False


def latest_of(taken: Sequence[DecodedPage]) -> dict[Key, tuple[DecodedPage, int, int]]:
    """Return the valid (page, row, column) by key.

    Returns {} if all rows are valid, because there are neither corrections nor overlapping pages.
    """
    spans = [(t.start[0], t.start[-1]) for t in taken if t.page.rows]
    if all(t.plain for t in taken) and all(b[0] > a[1] for a, b in pairwise(spans)):
        return {}
    out: dict[Key, tuple[tuple[bool, int], DecodedPage, int, int]] = {}
    for t in taken:
        for number, column in enumerate(t.shape.columns):
            known = t.get(number, "flags")
            for n in range(t.page.rows):
                key = (column.point, column.epoch, t.turn[n], t.start[n])
                # a row with values is kept, even if a later row without values has a higher revision
                rank = known[n] > 0, t.revision[n]
                if key not in out or out[key][0] <= rank:
                    out[key] = (rank, t, n, number)
    return {key: (t, n, number) for key, (_, t, n, number) in out.items()}


def _by_point(
    taken: Sequence[DecodedPage],
    latest: dict[Key, tuple[DecodedPage, int, int]],
    start_ms: int,
    end_ms: int,
    points: Collection[str] | None,
) -> dict[tuple[str, int], Group]:
    found: dict[tuple[str, int], Group] = {}
    for t in taken:
        for n in range(t.page.rows):
            if not (start_ms <= t.start[n] and t.start[n] + t.length[n] <= end_ms):
                continue
            for number, column in enumerate(t.shape.columns):
                if points is not None and column.point not in points:
                    continue
                group = found.setdefault((column.point, t.start[n]), [])
                if not latest:
                    group.append((t, n, number))
                elif latest.get((column.point, column.epoch, t.turn[n], t.start[n])) == (t, n, number):
                    known = [g for g in group if g[0].get(g[2], "flags")[g[1]]]
                    if t.get(number, "flags")[n] or not known:
                        group[:] = [*known, (t, n, number)]
    return found
