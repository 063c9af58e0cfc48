"""Describes the missing readings in a slice of the ring with as few gaps as possible."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from agent.pack.table import BirthTable, seconds, ticks
from drivers.model import Reason
from ext.canon import Slice


def gaps_of(
    piece: Slice, table: BirthTable, from_ms: int, unknown: Reason, points: tuple[int, int] | None = None
) -> list[dict[str, Any]]:
    """Describe the missing readings of a slice with as few gaps as possible. Returns them in the form that packs use.

    If all points of the device are missing for the same reason, the gap has the points ``*``.

    Args:
        unknown: the reason for ticks without any record.
        points: (first, end) if the slice contains only the points with numbers in ``[first, end)``. Its gaps then name
            their points and never have ``*``. None: the slice contains all points.
    """
    to_ms, grid = piece.reached_ms, piece.grid
    rows: list[tuple[str, range, bytes]] = []
    at = 0
    for number, name, period in table.points.due:
        if points is not None and not points[0] <= number < points[1]:
            continue
        if not period:
            continue
        due = ticks(from_ms, to_ms, period, table.points.phase_ms)
        rows.append((name, due, grid[at : at + len(due)]))
        at += len(due)
    whole: list[tuple[int, int, int]] = []  # (from, to, reason) of the stretches in which no point has a reading
    if points is None:
        whole = _whole_stretches(rows, to_ms, unknown)
    found: dict[tuple[int, int, int], list[str]] = {}
    starts = [w[0] for w in whole]
    for name, due, row in rows:
        period = due.step
        run: tuple[int, int] | None = None  # (first tick, reason) of the gap that is not complete yet
        for tick, cell in zip(due, row, strict=True):
            reason = 0 if cell == 1 else cell or unknown
            if reason and starts and (at := bisect_right(starts, tick)) and tick < whole[at - 1][1]:
                reason = 0
            if run and run[1] != reason:
                found.setdefault((run[0], min(tick, to_ms), run[1]), []).append(name)
                run = None
            if reason and not run:
                run = (tick, reason)
        if run:
            found.setdefault((run[0], min(due[-1] + period, to_ms), run[1]), []).append(name)
    result: list[tuple[int, int, Any, int]] = [(f, t, "*", r) for f, t, r in whole]
    result += [(f, t, names, r) for (f, t, r), names in found.items()]
    result.sort(key=lambda gap: (gap[0], gap[1], gap[2] != "*", gap[2]))
    return [
        {"from": seconds(f), "points": names, "reason": Reason(r).name.lower(), "to": seconds(t)}
        for f, t, names, r in result
    ]


def _whole_stretches(
    rows: Sequence[tuple[str, range, bytes]], to_ms: int, unknown: Reason
) -> list[tuple[int, int, int]]:
    """Return the stretches in which every due reading of every point is missing for the same reason.

    Each is (from, to, reason).
    """
    # tick -> reason; 0: at least one point has a reading, or the reasons of the points differ
    at_tick: dict[int, int] = {}
    for _, due, row in rows:
        for tick, cell in zip(due, row, strict=True):
            reason = 0 if cell == 1 else cell or int(unknown)
            if at_tick.setdefault(tick, reason) != reason:
                at_tick[tick] = 0
    whole: list[tuple[int, int, int]] = []
    run: tuple[int, int] | None = None
    for tick in sorted(at_tick):
        reason = at_tick[tick]
        if run and run[1] != reason:
            whole.append((run[0], tick, run[1]))
            run = None
        if reason and not run:
            run = (tick, reason)
    if run:
        whole.append((run[0], to_ms, run[1]))
    return whole
