"""Computes from the readings of a counter how fast it usually grows, to tell growth from a jump to another level."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from decimal import Decimal

FEW = 10  # a step is still usual up to 10 counts, or up to 10 times the usual step
HUGE = 1000  # a step of more than 1000 times the usual step is not growth
_ENOUGH = 3  # with fewer rates than this, the usual rate is not known


class GrowthRates:
    """The growth rates of one series, per second, or per step if the times are not known.

    Args:
        values: the readings in order; None where there was no reading.
        resolution: the value of one count.
        seconds: the times of the readings since any epoch, in ascending order; None if they are not known.
        is_none: gets (previous value, value, index of the value); returns True if the value is invalid.
    """

    def __init__(
        self,
        values: Sequence[Decimal | None],
        resolution: Decimal,
        seconds: Sequence[float] | None,
        is_none: Callable[[Decimal, Decimal, int], bool],
    ) -> None:
        from statistics import median  # imported here because few counters need it, and it takes 100 KB

        self._seconds = seconds
        self.of = self._growths(values, resolution, is_none)
        self._ranked = _without_outliers(sorted(self.of.values()))
        self._rate = median(self._ranked) if len(self._ranked) >= _ENOUGH else None
        self.rhythm = median([self.span(n - 1, n) for n in range(1, len(values))] or [Decimal(1)])

    def _growths(
        self, values: Sequence[Decimal | None], resolution: Decimal, is_none: Callable[[Decimal, Decimal, int], bool]
    ) -> dict[int, Decimal]:
        """Return the rates by the index of the later reading.

        This leaves out growth from zero, growth after a fall, and growth that was reversed later.
        """
        found: dict[int, Decimal] = {}
        there = [(n, v) for n, v in enumerate(values) if v is not None]
        # the size of the last fall (0 if a rise followed it), and the size of the last rise
        fallen = height = Decimal(0)
        risen = 0
        for (before, old), (index, new) in itertools.pairwise(there):
            rise = new - old
            if rise < -FEW * resolution:
                fallen = -rise
                if height / 2 < fallen < 2 * height:
                    found.pop(risen, None)
            elif rise > 0:
                at_once = self._seconds is not None and self._seconds[index] <= self._seconds[before]
                if not (at_once or 2 * rise > fallen > 0 or old * new <= 0 or is_none(old, new, index)):
                    found[index] = rise / self.span(before, index)
                risen, height, fallen = index, rise, Decimal(0)
        return found

    def span(self, before: int, index: int) -> Decimal:
        """Return the distance between two readings in seconds, or in steps if their times are not known."""
        if self._seconds is None:
            return Decimal(index - before)
        return max(Decimal(self._seconds[index] - self._seconds[before]), Decimal("0.001"))

    def others(self, index: int) -> tuple[int, Decimal, Decimal]:
        """Return (number, median, maximum) of all rates except the rate of the reading ``index``."""
        ranked = self._ranked
        # the rate of the reading is not in the list if it was removed as an outlier
        own = bisect_left(ranked, self.of[index]) if index in self.of else len(ranked)
        count = len(ranked) - (own < len(ranked))
        if not count:
            return 0, Decimal(0), Decimal(0)
        low, high, last = (ranked[place + (place >= own)] for place in ((count - 1) // 2, count // 2, count - 1))
        return count, (low + high) / 2, last

    def usual(self, before: int, index: int) -> Decimal | None:
        """Return the growth to expect between two readings at the median rate; None if too few rates are known."""
        return None if self._rate is None else self._rate * self.span(before, index)

    def expected(self, before: int, index: int) -> Decimal | None:
        """Return the same as ``usual``, but at the fastest rate if too few rates are known.

        None: no rate is known.
        """
        if self._rate is None and self._ranked:
            return self._ranked[-1] * self.span(before, index)
        return self.usual(before, index)


def _without_outliers(ranked: list[Decimal]) -> list[Decimal]:
    """Remove the highest rates if they come from jumps to another level."""
    while len(ranked) > 1 and ranked[-1] > FEW * ranked[-2] and ranked[-1] > HUGE * ranked[(len(ranked) - 1) // 2]:
        ranked.pop()
    return ranked
