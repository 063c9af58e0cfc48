"""Balances and derived points, recomputed a day at a time where no correction affects the day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from agent.indicators.figure import Period
from agent.indicators.site import SiteResults
from agent.intervals.meters import Meters
from agent.intervals.sums import sums
from agent.recompute.as_of import IntervalsAsOf


class SiteBalances:
    """Balances and derived points as configured in one birth of the ``_indicators`` stream."""

    def __init__(self, book: IntervalsAsOf, base: str, birth: Mapping[str, Any]) -> None:
        rows: Sequence[Mapping[str, Any]] = birth.get("derived", ())
        self._book, self._results = book, SiteResults(book.cut, base, rows, str(birth.get("config")))
        self._day: tuple[date, tuple[Meters, Meters], dict[int, int]] | None = None
        self._last: tuple[object, list[Mapping[str, Any]]] | None = None

    def recompute(self, signed: Mapping[str, Any], period: Period) -> Mapping[str, Any] | None:
        """The recomputed result of the same name; None if there is none."""
        book = self._book
        key = period.kind, period.start_ms, dict(book.seen), book.configured
        if self._last is None or self._last[0] != key:
            self._last = key, self._made(period)
        names = signed["kind"], signed["id"]
        return next((one for one in self._last[1] if (one["kind"], one["id"]) == names), None)

    def _made(self, period: Period) -> list[Mapping[str, Any]]:
        book, day = self._book, self._book.cut.day(period.start_ms)
        if period.kind == "interval" and book.is_settled(day, period.end_ms):
            if self._day is None or self._day[0] != day:
                self._day = day, *self._whole(day)
            _, takers, numbers = self._day
            return self._results.made(takers, period, numbers[period.start_ms])
        takers = self._results.takers()
        late = book.unwritten(period.end_ms)
        sums(book, book.cut, period.start_ms, period.end_ms, "all", roles=(), meters=takers, unwritten=late)
        return self._results.made(takers, period)

    def _whole(self, day: date) -> tuple[tuple[Meters, Meters], dict[int, int]]:
        """All intervals of a day at once."""
        book = self._book
        start, end = book.cut.stretch("day", book.cut.midnight(day))
        numbers = {first: n for n, (first, _) in enumerate(book.cut.intervals(start, end))}
        takers = self._results.takers(len(numbers))
        with book.all_seen():
            sums(book, book.cut, start, end, roles=(), meters=takers)
        return takers, numbers
