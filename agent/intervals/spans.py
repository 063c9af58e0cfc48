"""In which of many stretches of time a meter was configured, as few numbers."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


class Spans:
    """Stretches by their numbers, as first and last of each run."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, int]] = []

    def add(self, first: int, last: int) -> None:
        """All from one to another."""
        if self._runs and self._runs[-1][0] <= first <= self._runs[-1][1] + 1:
            self._runs[-1] = self._runs[-1][0], max(last, self._runs[-1][1])
        else:
            self._runs.append((first, last))

    def add_places(self, places: array[int]) -> None:
        """The stretches of rows in their order, several of one stretch beside each other."""
        start = before = places[0]
        if places[-1] - start < len(places) and places[-1] >= start:
            self.add(start, places[-1])  # the usual case: there is none between them without a row
            return
        for place in places:
            if place > before + 1 or place < before:
                self.add(start, before)
                start = place
            before = place
        self.add(start, before)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The runs; those that were added out of order may overlap."""
        return iter(self._runs)


def due_in(spans: Mapping[T, Spans], count: int) -> list[frozenset[T]]:
    """Of each of ``count`` stretches who is in it; neighbours that are alike share one set."""
    enter: dict[int, list[T]] = {}
    leave: dict[int, list[T]] = {}
    for who, runs in spans.items():
        for first, last in runs:
            enter.setdefault(first, []).append(who)
            leave.setdefault(last + 1, []).append(who)
    inside: dict[T, int] = {}
    out: list[frozenset[T]] = []
    now: frozenset[T] = frozenset()
    for at in range(count):
        if at in enter or at in leave:
            for who in enter.get(at, ()):
                inside[who] = inside.get(who, 0) + 1
            for who in leave.get(at, ()):
                inside[who] -= 1
            now = frozenset(who for who, depth in inside.items() if depth)
        out.append(now)
    return out
