"""Plans requests that read all points in the least time on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from drivers.model import NO_LIMITS, Limits, PlanSummary, Point, ProfileError
from drivers.plan.holes import KnownHoles
from drivers.plan.timing import Block, LineTiming
from drivers.serial_setting import DEFAULT_SERIAL

MAX_WORDS = 125  # most registers in one read
MAX_COILS = 2000  # most coils or inputs in one read
# the decode kernel takes at most 8 bytes; a point of more coils than this fits only if it begins at a byte
_MOST_UNALIGNED = 57
DEFAULT_TIMING = LineTiming.serial(DEFAULT_SERIAL)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A range [start, end) that must not be split between requests: a point, or points that belong together."""

    start: int
    end: int
    points: tuple[int, ...]


def plan_blocks(
    points: Sequence[Point],
    limits: Limits = NO_LIMITS,
    timing: LineTiming = DEFAULT_TIMING,
    wanted: Iterable[int] | None = None,
    holes: KnownHoles | None = None,
) -> tuple[Block, ...]:
    """The reads that cover the wanted points in the least time on the line.

    Args:
        points: all points of the device; addresses in registers, from 0 as on the wire.
        limits: ``max_words`` limits the registers of a read. A read may cover registers that belong to no point of the
        device only if ``limits.holes`` is set, and at most ``max_gap`` of them in a row. It may always cover registers
        of points that are not wanted.
        timing: the cost of a request and of a byte on this line.
        wanted: indexes of the points to read; None: all points.
        holes: learned facts about the device; points that the device lacks are left out.

    Returns:
        Blocks in order of function and address. Each wanted point, and each ``together`` group, lies in exactly one
        block. No block crosses a ``barrier``. A point or group that is longer than the learned limit is a block of its
        own.

    Raises:
        ProfileError: a single point, or a ``together`` group, is longer than a read may be (a learned limit is
        never the cause); or a point of many coils lies in a read at a place where it cannot be decoded.
    """
    numbers = range(len(points)) if wanted is None else sorted(set(wanted))
    gone = holes if holes and holes.has_absent else None
    asked = tuple(n for n in numbers if not gone.lacks(points[n])) if gone else tuple(numbers)
    points = tuple(points)
    learned = (frozenset(holes.cuts), holes.max_words) if holes else (frozenset[tuple[int, int]](), None)
    key = (id(points), limits, timing, asked, learned)
    if key not in _PLANNED:
        if len(_PLANNED) >= _PLANNED_AT_MOST:
            _PLANNED.clear()
        _PLANNED[key] = _plan(points, limits, timing, asked, *learned), points
    return _PLANNED[key][0]


# Devices with the same tuple of points share a plan. An entry keeps the points, because otherwise Python could use
# their id again for another tuple.
_PLANNED: dict[object, tuple[tuple[Block, ...], tuple[Point, ...]]] = {}
_PLANNED_AT_MOST = 256


def _plan(
    points: Sequence[Point],
    limits: Limits,
    timing: LineTiming,
    asked: tuple[int, ...],
    learned_cuts: frozenset[tuple[int, int]],
    learned_words: int | None,
) -> tuple[Block, ...]:
    blocks: list[Block] = []
    asked = tuple(n for n in asked if not points[n].is_object)
    for function in sorted({points[n].function for n in asked}):
        mine = [n for n in asked if points[n].function == function]
        pieces = _pieces(points, mine, function, _longest(function, limits, None))
        of_function = [p for p in points if p.function == function]
        cuts = {p.address for p in of_function if p.barrier or (function < 3 and p.count > _MOST_UNALIGNED)}
        cuts.update(address for f, address in learned_cuts if f == function)
        bridge = _Bridge(points, function, limits, sorted(cuts))
        blocks += _cheapest(function, pieces, _longest(function, limits, learned_words), timing, bridge)
    for block in blocks:
        if block.function < 3:
            _check_coils(block, points)
    return tuple(blocks)


def _check_coils(block: Block, points: Sequence[Point]) -> None:
    for point in (points[n] for n in block.points):
        if not point.is_decodable_from(block.address):
            raise ProfileError(
                f"{point.name} has {point.count} coils and begins at bit {(point.address - block.address) % 8} of a "
                "byte, so it takes 9 bytes of the answer, but a point can take at most 8",
                where=f"function {block.function} address {block.address}",
                hint='Leave the point out of its group, or give all points of the group the same "pace"',
            )


def plan_summary(blocks: Iterable[Block], timing: LineTiming) -> PlanSummary:
    """The cost of one visit: requests, registers (16 coils count as one register), points, and time on the line."""
    blocks = tuple(blocks)
    return PlanSummary(
        requests=len(blocks),
        registers=sum((b.payload + 1) // 2 for b in blocks),
        points=sum(len(b.points) for b in blocks),
        line_time_s=sum(timing.cost_ns(b.payload) for b in blocks) / 1e9,
    )


def _longest(function: int, limits: Limits, learned: int | None) -> int:
    words = min(limits.max_words or MAX_WORDS, learned or MAX_WORDS, MAX_WORDS)
    return words if function >= 3 else min(words * 16, MAX_COILS)


def _pieces(points: Sequence[Point], numbers: list[int], function: int, longest: int) -> list[_Piece]:
    """The pieces that must not be split, in order of address. A piece that lies inside another piece is merged with
    it.
    """
    groups: dict[str, list[int]] = {}
    for n in numbers:
        groups.setdefault(points[n].together or f"#{n}", []).append(n)
    pieces: list[_Piece] = []
    for name, members in groups.items():
        start, end = min(points[n].span[0] for n in members), max(points[n].span[1] for n in members)
        if end - start > longest:
            what = points[members[0]].name if name.startswith("#") else f"the group {name!r}"
            unit = "registers" if function >= 3 else "coils"
            raise ProfileError(
                f"{what} needs {end - start} {unit}, but one read returns at most {longest}",
                where=f"function {function} address {start}",
                hint="Raise max_words, or exclude the point",
            )
        pieces.append(_Piece(start, end, tuple(members)))
    pieces.sort(key=lambda p: (p.start, -p.end))
    kept: list[_Piece] = []
    for piece in pieces:
        if kept and piece.end <= kept[-1].end:  # this piece lies inside the previous piece, so they are read together
            kept[-1] = _Piece(kept[-1].start, kept[-1].end, kept[-1].points + piece.points)
        else:
            kept.append(piece)
    return kept


class _Bridge:
    """Decides which gaps between two pieces a read may cover."""

    def __init__(self, points: Sequence[Point], function: int, limits: Limits, cuts: list[int]) -> None:
        self._cuts = cuts
        allowed = bool(limits.holes)
        self._most = 0 if not allowed else MAX_COILS if limits.max_gap is None else limits.max_gap
        known: list[tuple[int, int]] = []
        spans = ((p.address, p.address + p.count) for p in points if p.function == function and not p.optional)
        for start, end in sorted(spans):
            if known and start <= known[-1][1]:
                known[-1] = (known[-1][0], max(end, known[-1][1]))
            else:
                known.append((start, end))
        self._known = known

    def open(self, end: int, start: int) -> bool:
        """Whether a read may continue at ``start``. ``end`` is the first register that it has not covered yet."""
        at, unknown = end, 0
        for low, high in self._known if start > end else ():
            if high <= at:
                continue
            if low >= start:
                break
            unknown = max(unknown, low - at)
            at = max(at, high)
        return max(unknown, start - at) <= self._most

    def cut(self, start: int, end: int) -> bool:
        """Whether a barrier or a learned cut lies inside [start, end)."""
        return bool(self._cuts) and any(start < c < end for c in self._cuts)


def _cheapest(function: int, pieces: list[_Piece], longest: int, timing: LineTiming, bridge: _Bridge) -> list[Block]:
    """Find the blocks with the least total time. ``best[i]`` is the least time to read the first ``i`` pieces.

    A piece that is longer than ``longest`` is a block of its own: the limit was learned from other reads, so the device
    may still answer this one. If it does not, the points of this piece are learned to be missing.

    From piece to piece, both the starts and the ends increase, and a longer request never takes less time. So there is
    a best plan in which each request reads neighbouring pieces. Only these requests are tried.
    """
    goes_on = [bridge.open(a.end, b.start) for a, b in pairwise(pieces)]  # whether pieces i and i+1 may share a request
    costs: dict[int, int] = {}  # number of registers -> cost of a request
    best: list[tuple[int, int]] = [(0, 0)]  # (time in ns, number of requests)
    start_of: list[int] = [0]
    for i in range(1, len(pieces) + 1):
        end = pieces[i - 1].end
        chosen: tuple[int, int, int] | None = None
        for j in range(i - 1, -1, -1):  # the last request reads pieces j to i-1
            if j < i - 1 and (end - pieces[j].start > longest or not goes_on[j]):
                break
            if j < i - 1 and bridge.cut(pieces[j].start, end):
                # a cut forbids only a request of several pieces: inside a single piece it is ignored, because it would
                # tear a value
                break
            count = end - pieces[j].start
            if count not in costs:
                costs[count] = timing.cost_ns(_payload(function, count))
            option = (best[j][0] + costs[count], best[j][1] + 1, j)
            if chosen is None or option[:2] < chosen[:2]:
                chosen = option
        assert chosen is not None  # there is always a solution, because each piece alone may be a request
        best.append(chosen[:2])
        start_of.append(chosen[2])
    blocks: list[Block] = []
    i = len(pieces)
    while i:
        j = start_of[i]
        run = pieces[j:i]
        members = sorted(n for piece in run for n in piece.points)
        blocks.append(Block(function, run[0].start, run[-1].end - run[0].start, tuple(members)))
        i = j
    return blocks[::-1]


def _payload(function: int, count: int) -> int:
    return count * 2 if function >= 3 else (count + 7) // 8
