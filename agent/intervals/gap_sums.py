"""Sums the missing time by interval and reason, from the gaps that the packs of a stream state.

Each reason has two sums. The first is the time in which at least one point was missing. The second is the part of this
time in which all points of the device were missing (``*`` in a pack). A gap of a point reaches from its first missing
tick to the next good one, but at most to the end of its pack. Reasons are counted independently, so the times of two
reasons in one interval may overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from agent.intervals.calendar import Calendar

ALL_POINTS = "*"


class Gap(NamedTuple):
    """A gap as a pack states it. ``is_whole``: all points of the device are missing."""

    from_ms: int
    to_ms: int
    reason: str
    is_whole: bool


class GapRow(NamedTuple):
    """The missing time in the interval that begins at ``start_ms``, for one reason.

    ``ms``: the time in which any point is missing. ``whole_ms``: the part of it in which all points are missing.
    """

    start_ms: int
    reason: str
    ms: int
    whole_ms: int


def gaps_of_pack(gaps: Iterable[Mapping[str, Any]]) -> tuple[Gap, ...]:
    """Parse the member ``gaps`` of a pack. The times in it may be numbers or texts."""
    return tuple(
        Gap(round(float(g["from"]) * 1000), round(float(g["to"]) * 1000), g["reason"], g["points"] == ALL_POINTS)
        for g in gaps
    )


def added(rows: Iterable[GapRow]) -> list[GapRow]:
    """Add up rows. Returns one row for each interval and reason, in order."""
    found: dict[tuple[int, str], tuple[int, int]] = {}
    for start, reason, ms, whole_ms in rows:
        before = found.get((start, reason), (0, 0))
        found[start, reason] = before[0] + ms, before[1] + whole_ms
    return [GapRow(*key, *sums) for key, sums in sorted(found.items())]


class GapSums:
    """The gaps of a stream that are not in a row yet.

    Adjacent gaps are joined: a silence that spans many packs is one gap.
    """

    def __init__(self) -> None:
        # two dicts: the gaps of any points, and the gaps of all points; each has [from, to] by reason, in the order of
        # packs
        self._stretches: tuple[dict[str, list[list[int]]], dict[str, list[list[int]]]] = {}, {}
        # while a tick in several parts is incomplete: the gaps of its parts so far
        self._tick: list[Gap] = []

    def add(self, gaps: Sequence[Gap], part: tuple[int, int] | None = None) -> None:
        """Add the gaps of the next pack. ``part``: (k, n) if the pack is part k of n of a tick."""
        if part is not None:
            self._tick += gaps
            if part[0] < part[1]:
                return
            gaps, self._tick = self._tick, []
        for kept, mine in zip(self._stretches, (gaps, [gap for gap in gaps if gap.is_whole]), strict=True):
            for reason, some in groupby(sorted(mine, key=attrgetter("reason", "from_ms")), key=attrgetter("reason")):
                before = kept.setdefault(reason, [])
                for start, end in _joined(some):
                    if before and before[-1][1] == start:
                        before[-1][1] = end
                    else:
                        before.append([start, end])

    def take(self, until_ms: int, calendar: Calendar) -> list[GapRow]:
        """Take the rows of intervals before ``until_ms``, which is a boundary.

        Gaps of these intervals that arrive later give further rows; the durations must then be added up.
        """
        if not self._stretches[0]:  # the usual case
            return []
        rows = []
        for is_whole, kept in enumerate(self._stretches):
            for reason, stretches in list(kept.items()):
                for start, end in stretches:
                    for low, high in calendar.intervals(start, min(end, until_ms)) if start < until_ms else ():
                        ms = min(high, end) - max(low, start)
                        rows.append(GapRow(low, reason, 0, ms) if is_whole else GapRow(low, reason, ms, 0))
                if left := [[max(start, until_ms), end] for start, end in stretches if end > until_ms]:
                    kept[reason] = left
                else:
                    del kept[reason]
        return added(rows)

    def state(self) -> list[Any]:
        """Return the gaps that are not in a row yet, for ``restore``."""
        return [*self._stretches, [list(gap) for gap in self._tick]]

    def restore(self, state: Sequence[Any]) -> None:
        """Restore the result of ``state``."""
        some, whole, tick = state
        self._stretches = some, whole
        self._tick = [Gap(*gap) for gap in tick]


def _joined(gaps: Iterable[Gap]) -> list[list[int]]:
    """Return the union of the gaps of one reason, in order. ``gaps`` must be sorted by start."""
    out: list[list[int]] = []
    for gap in gaps:
        if out and gap.from_ms <= out[-1][1]:
            out[-1][1] = max(out[-1][1], gap.to_ms)
        else:
            out.append([gap.from_ms, gap.to_ms])
    return out
