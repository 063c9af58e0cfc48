"""Point tables as births contain them, and their grid of due ticks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from agent.pack.facts import Facts, counters_of
from drivers.model import FLOATS, KIND_CODES, PACES, Kind
from ext.canon import PointLayout, Table, dumps


def seconds(ms: int) -> int | float:
    """Convert UTC ms to seconds as in packs: an integer if possible, otherwise with up to three decimals."""
    return ms // 1000 if ms % 1000 == 0 else ms / 1000


def seconds_json(ms: int) -> bytes:
    """Return ``seconds(ms)`` as canonical JSON. Up to 15 digits, a double is written with the digits that it has."""
    if not 0 <= ms < 10**15:
        return dumps(seconds(ms))
    whole, rest = divmod(ms, 1000)
    return b"%d" % whole if not rest else (b"%d.%03d" % (whole, rest)).rstrip(b"0")


class BirthPoints:
    """The ``points`` of a birth, and data derived from them.

    Immutable, so that devices of the same kind share one object.
    """

    def __init__(self, points: Sequence[Mapping[str, Any]]) -> None:
        periods = [0] * len(PACES)
        self.phase_ms = 0
        for point in points:
            if point.get("period") is not None:
                periods[PACES.index(point["pace"])] = round(point["period"] * 1000)
                self.phase_ms = round(point.get("phase", 0) * 1000)
        self.periods_ms = tuple(periods)
        self.counters = counters_of(points)
        self.encoded = dumps(list(points))
        self.names = tuple((p["n"], p.get("u") or p.get("du") or "", p["kind"]) for p in points)
        self.floats = frozenset(p["n"] for p in points if (p.get("source") or {}).get("type") in FLOATS)
        # points that are read once a day, and after an absence
        self.daily = frozenset(p["n"] for p in points if p["pace"] == "once")
        rendered = [
            (
                p["n"],
                "u" if p.get("u") else "du" if p.get("du") else "",
                p.get("u") or p.get("du") or "",
                KIND_CODES[Kind(p["kind"])],
                PACES.index(p["pace"]),
            )
            for p in points
        ]
        self.layout = PointLayout(rendered, self.periods_ms, self.phase_ms)
        # (number, name, period in ms) of each point that has a row in the grid of a ``Slice``, in the order of the rows
        self.due = tuple(
            (number, p["n"], periods[PACES.index(p["pace"])])
            for number, p in enumerate(points)
            if Kind(p["kind"]) in (Kind.GAUGE, Kind.COUNTER)
        )
        self.due_by_period = Counter(period for _, _, period in self.due if period)
        self.shortest_ms = min(self.due_by_period, default=0)  # the shortest period in ms; 0: no point is ever due


class BirthTable:
    """A point table as a birth contains it.

    Args:
        document: the birth's ``table`` object.
        points: the parsed ``points`` of ``document``, if another table with the same points already has them.
    """

    def __init__(self, stream: str, document: Mapping[str, Any], points: BirthPoints | None = None) -> None:
        self.stream = stream
        self.points = points or BirthPoints(document["points"])
        front = {name: value for name, value in document.items() if name != "points"}
        if any(name > "points" for name in front):
            raise ValueError(f"the table has a member that sorts after points: {sorted(front)[-1]}")
        self._front = dumps(front)[:-1]
        device = document.get("device") or {}
        self.facts = Facts.of(device, document.get("epoch") or 0, self.points.counters)
        # True if the device was identified. Otherwise a birth with this table must not overwrite the facts in the
        # store.
        self.met = bool(self.facts.identity) and device.get("profile") is not None
        self.canon = Table(stream + "/", self.points.layout)

    @property
    def encoded(self) -> bytes:
        """The ``table`` object as canonical JSON."""
        return self._front + (b"," if len(self._front) > 1 else b"") + b'"points":' + self.points.encoded + b"}"

    def same_as(self, other: BirthTable | None) -> bool:
        """Return True if a birth with the other table would be identical."""
        return other is self or (
            other is not None and self._front == other._front and self.points.encoded == other.points.encoded
        )

    def next_tick(self, after_ms: int) -> int | None:
        """Return the first due tick of any point later than ``after_ms``, in UTC ms. None if no point is ever due."""
        phase = self.points.phase_ms
        return min(((after_ms - phase) // p * p + p + phase for p in self.points.due_by_period), default=None)

    def due_readings(self, from_ms: int, to_ms: int) -> int:
        """Return the number of readings due in ``[from_ms, to_ms)``."""
        phase = self.points.phase_ms
        due = self.points.due_by_period
        return sum(count * len(ticks(from_ms, to_ms, period, phase)) for period, count in due.items())


def ticks(from_ms: int, to_ms: int, period_ms: int, phase_ms: int) -> range:
    """Return the due ticks of one period in ``[from_ms, to_ms)``, in UTC ms."""
    first = -((phase_ms - from_ms) // period_ms) * period_ms + phase_ms
    return range(first, to_ms, period_ms)
