"""Asking the store for intervals: rows with all corrections applied, and sums by role.

``sums`` is the fast road: it adds whole columns and makes no object an interval, so that a month of 500 counters takes
well under two seconds. Both give the same amounts to the last digit.

Of several revisions of a point in an interval the last one counts; what different counters (epochs) and repeated clock
time (turns) say of one interval adds up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import groupby, pairwise
from typing import Protocol

from agent.intervals.cells import amounts_of, row_of
from agent.intervals.cut import Cut
from agent.intervals.page import Column, StoredPage
from agent.intervals.rows import FLAW, Flag, IntervalRow, RoleSum, Source
from agent.intervals.taken import Group, Taken, mark_at

Key = tuple[str, str, int, int]  # point, epoch, turn, start_ms


class Book(Protocol):
    """What the queries need of a store; ``agent.store.Store`` is one. Belongs to the store's thread."""

    def interval_pages(self, from_ms: int, to_ms: int, streams: Collection[str] = ()) -> Iterable[StoredPage]:
        """Pages that touch ``[from_ms, to_ms)``, by stream, each stream's in the order of writing."""

    def interval_changes(self, after: int) -> Sequence[tuple[int, int, int]]:
        """(number, start_ms, end_ms) of intervals corrected after they were first written, above ``after``."""


def changes(store: Book, after: int = 0) -> tuple[list[tuple[int, int]], int]:
    """Intervals that got a correction since ``after``, each once and in order, and the number to ask with next time."""
    rows = store.interval_changes(after)
    return sorted({(start, end) for _, start, end in rows}), max((number for number, _, _ in rows), default=after)


def query(
    store: Book,
    start_ms: int,
    end_ms: int,
    roles: Collection[str] | None = None,
    streams: Collection[str] = (),
) -> Iterator[IntervalRow]:
    """The rows of all intervals inside ``[start_ms, end_ms)``, by stream, point and time.

    Args:
        roles: only points of these; "generation" also means "generation.pv" and so on. None: all points, also those
            without a role.
        streams: full names ("park7/gw01/inv1"); empty: all.

    A point that the device has, in an interval that was closed without anything known of it, comes as a row with
    ``amount`` None and INCOMPLETE. What was never configured in an interval has no row.
    """
    for stream, pages in groupby(store.interval_pages(start_ms, end_ms, streams), key=lambda page: page.stream):
        taken = [Taken(page) for page in pages]
        latest = _latest(taken)
        for (point, start), group in sorted(_by_point(taken, latest, start_ms, end_ms).items()):
            column = group[-1][0].shape.columns[group[-1][2]]
            if wanted(column.role, roles):
                yield from row_of(stream, point, start, group)


def wanted(role: str, roles: Collection[str] | None) -> bool:
    """Is this role, or one that it belongs to, among ``roles``?"""
    if roles is None:
        return True
    while role:
        if role in roles:
            return True
        role = role.rpartition(".")[0]
    return False


def _latest(taken: Sequence[Taken]) -> dict[Key, tuple[Taken, int, int]]:
    """What counts, where a stream has corrections or pages that overlap; empty where everything counts."""
    spans = [(t.start[0], t.start[-1]) for t in taken if t.page.rows]
    if all(t.plain for t in taken) and all(b[0] > a[1] for a, b in pairwise(spans)):
        return {}
    out: dict[Key, tuple[int, Taken, int, int]] = {}
    for t in taken:
        for number, column in enumerate(t.shape.columns):
            known = t.get(number, "flags")
            for n in range(t.page.rows):
                key = (column.point, column.epoch, t.turn[n], t.start[n])
                # nothing known never takes the place of something
                if known[n] and (key not in out or out[key][0] <= t.revision[n]):
                    out[key] = (t.revision[n], t, n, number)
    return {key: (t, n, number) for key, (_, t, n, number) in out.items()}


def _by_point(
    taken: Sequence[Taken], latest: dict[Key, tuple[Taken, int, int]], start_ms: int, end_ms: int
) -> dict[tuple[str, int], Group]:
    found: dict[tuple[str, int], Group] = {}
    for t in taken:
        for n in range(t.page.rows):
            if not (start_ms <= t.start[n] and t.start[n] + t.length[n] <= end_ms):
                continue
            for number, column in enumerate(t.shape.columns):
                group = found.setdefault((column.point, t.start[n]), [])
                if not latest:
                    group.append((t, n, number))
                elif latest.get((column.point, column.epoch, t.turn[n], t.start[n])) == (t, n, number):
                    group[:] = [*(g for g in group if g[0].get(g[2], "flags")[g[1]]), (t, n, number)]
                elif not group and not t.get(number, "flags")[n]:
                    group.append((t, n, number))  # known to exist, nothing else
    return found


# --- sums


@dataclass(slots=True)
class _Sum:
    """What adds up to a RoleSum."""

    amount: Decimal = Decimal(0)
    flawed: Decimal = Decimal(0)
    covered_ms: int = 0
    flags: int = 0
    sources: dict[tuple[str, str], Source] = field(default_factory=dict)


Place = tuple[str, str, str]  # role, flow, unit


def sums(
    store: Book,
    cut: Cut,
    start_ms: int,
    end_ms: int,
    by: str = "interval",
    roles: Collection[str] | None = None,
    streams: Collection[str] = (),
) -> list[RoleSum]:
    """Amounts by role, flow and stretch, in the order of stretch, role, flow.

    Args:
        by: interval, hour, day, month, year; "all" is one stretch ``[start_ms, end_ms)``.
        roles: as in ``query``; only points with a role and a flow are summed.

    A stretch ends, for its completeness, where the newest closed interval of all streams ends.
    """
    stretches = [(start_ms, end_ms)] if by == "all" else list(cut.stretches(by, start_ms, end_ms))
    edges = [start for start, _ in stretches]
    found: dict[tuple[int, Place], _Sum] = defaultdict(_Sum)
    points: dict[Place, set[tuple[str, str]]] = defaultdict(set)
    newest = start_ms
    for _, pages in groupby(store.interval_pages(start_ms, end_ms, streams), key=lambda page: page.stream):
        taken = [Taken(page) for page in pages]
        latest = _latest(taken)
        for t in taken:
            rows = _rows_inside(t, start_ms, end_ms)
            if not rows:
                continue
            newest = max(newest, *(t.start[n] + t.length[n] for n in (rows[0], rows[-1])))
            for number, column in enumerate(t.shape.columns):
                if not column.flow or not wanted(column.role, roles):
                    continue
                mine = rows
                if latest:
                    keys = ((n, (column.point, column.epoch, t.turn[n], t.start[n])) for n in rows)
                    mine = [n for n, key in keys if latest.get(key) == (t, n, number)]
                _add_column(t, number, column, mine, edges, found, points)
    return _finish(found, points, stretches, newest)


def _rows_inside(t: Taken, start_ms: int, end_ms: int) -> Sequence[int]:
    return [n for n in range(t.page.rows) if start_ms <= t.start[n] and t.start[n] + t.length[n] <= end_ms]


def _add_column(
    t: Taken,
    number: int,
    column: Column,
    rows: Sequence[int],
    edges: Sequence[int],
    found: dict[tuple[int, Place], _Sum],
    points: dict[Place, set[tuple[str, str]]],
) -> None:
    """Add one column of a page, stretch by stretch."""
    known, lack = t.get(number, "flags"), t.get(number, "lack")
    buckets: dict[int, list[int]] = {}
    for n in rows:
        buckets.setdefault(bisect_left(edges, t.start[n] + 1) - 1, []).append(n)
    for flow, name, unit, convert in amounts_of(column):
        place = (column.role, flow, unit)
        points[place].add((t.stream, column.point))
        amounts = t.get(number, name)
        for bucket, mine in buckets.items():
            good = [n for n in mine if known[n]]
            if not good:
                continue
            into = found[bucket, place]
            flags = 0
            for flag in {known[n] for n in good}:
                flags |= flag - 1
            into.flags |= flags | (Flag.POWER if column.kind == "gauge" else 0)
            total = convert(sum([amounts[n] for n in good]))
            into.amount += total
            if column.kind == "gauge":
                into.flawed += total
            elif flags & FLAW:
                into.flawed += convert(sum([amounts[n] for n in good if (known[n] - 1) & FLAW]))
            into.covered_ms += sum([t.length[n] - lack[n] for n in good])
            _trail(into, t, number, column, good)


def _trail(into: _Sum, t: Taken, number: int, column: Column, rows: Sequence[int]) -> None:
    """Where it came from, widened."""
    first, last = mark_at(t, number, rows[0], "first"), mark_at(t, number, rows[-1], "last")
    low, high = min(t.first_seq[n] for n in rows), max(t.last_seq[n] for n in rows)
    was = into.sources.get((t.stream, column.point))
    if was is not None:
        low, high = min(low, was.first_seq), max(high, was.last_seq)
        if was.first and (not first or was.first.time_ms <= first.time_ms):
            first = was.first
        if was.last and (not last or was.last.time_ms >= last.time_ms):
            last = was.last
    into.sources[t.stream, column.point] = Source(t.stream, column.point, low, high, first, last)


def _finish(
    found: dict[tuple[int, Place], _Sum],
    points: dict[Place, set[tuple[str, str]]],
    stretches: Sequence[tuple[int, int]],
    newest: int,
) -> list[RoleSum]:
    out = []
    for number, (start, end) in enumerate(stretches):
        known_ms = min(end, newest) - start
        for place in sorted(points):
            role, flow, unit = place
            s = found.get((number, place))
            if s is None:
                if known_ms > 0:
                    flag = Flag.INCOMPLETE
                    out.append(RoleSum(role, flow, start, end, Decimal(0), unit, Decimal(0), Decimal(0), flag, ()))
                continue
            due_ms = max(known_ms, 1) * len(points[place])
            share = Decimal(min(s.covered_ms, due_ms) * 1_000_000 // due_ms) / 1_000_000
            flags = Flag(s.flags) | (Flag.INCOMPLETE if s.covered_ms < due_ms else Flag(0))
            sources = tuple(s.sources[key] for key in sorted(s.sources))
            out.append(RoleSum(role, flow, start, end, s.amount, unit, share, s.flawed, flags, sources))
    return out
