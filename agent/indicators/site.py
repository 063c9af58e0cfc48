"""Results beside the figures: the balance of the site and its nodes, and derived points, of an interval or a day.

The same from the agent's store and from intervals that a verifier made of packs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.indicators.compute import period_of
from agent.indicators.definitions import PeriodKind
from agent.intervals.balance import Balance, balance, wants
from agent.intervals.cut import Cut
from agent.intervals.derived import Derived
from agent.intervals.meters import Metered, Meters, added
from agent.intervals.query import Book
from agent.intervals.sums import sums

KINDS = ("balance", "derived")


class SiteResults:
    """For one gateway.

    Args:
        rows: ``derived`` of the birth of results.
        config: hash of the configuration.
    """

    def __init__(self, cut: Cut, base: str, rows: Sequence[Mapping[str, Any]], config: str) -> None:
        self._cut, self._config = cut, config
        self._derived = Derived(rows, base)

    def of(self, book: Book, kind: PeriodKind, start_ms: int, end_ms: int) -> list[Mapping[str, Any]]:
        """Result objects of a stretch that is over: at most one balance, then the derived points."""
        electric, terms = Meters(wants), Meters(self._derived.wants)
        sums(book, self._cut, start_ms, end_ms, "all", roles=(), meters=[electric, terms])
        said = {"period": period_of(self._cut, kind, start_ms, end_ms).as_dict(), "config": self._config}
        length_ms = end_ms - start_ms
        found = balance(electric.found(), length_ms, kind == "interval")
        made: list[Mapping[str, Any]] = [] if found is None else [found.as_dict() | said]
        return made + [one | said for one in self._derived.results(terms.found(), length_ms)]


class Balancer:
    """The balance of a period that grows day by day, and of finer stretches: intervals of a day, days of the rest."""

    def __init__(self, cut: Cut, is_day: bool) -> None:
        self._cut, self._is_day = cut, is_day
        self._meters: dict[object, Metered] = {}
        self._length_ms = 0
        self.finer: list[tuple[int, Balance]] = []

    def takers(self, start_ms: int, end_ms: int) -> list[Meters]:
        """What goes into ``sums`` of this day's single intervals."""
        count = len(list(self._cut.intervals(start_ms, end_ms))) if self._is_day else 1
        return [Meters(wants, count)]

    def add(self, takers: Sequence[Meters], start_ms: int, end_ms: int) -> None:
        """The day that they were filled with."""
        (meters,) = takers
        until_ms = min(end_ms, meters.until_ms)
        if until_ms <= start_ms:
            return
        self._length_ms += until_ms - start_ms
        stretches = list(self._cut.intervals(start_ms, until_ms)) if self._is_day else [(start_ms, until_ms)]
        for at, (start, end) in enumerate(stretches):
            found = meters.found(at)
            for one in found:
                before = self._meters.get(one.key)
                self._meters[one.key] = one if before is None else added(before, one)
            if (made := balance(found, end - start, self._is_day)) is not None:
                self.finer.append((start, made))

    def whole(self) -> Balance | None:
        """Of all that was added."""
        return balance(list(self._meters.values()), max(self._length_ms, 1), is_interval=False)
