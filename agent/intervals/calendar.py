"""Divides time into intervals, hours, days, months and years of local time, also on days of 23 or 25 hours.

An interval begins when the local clock shows a whole multiple of the interval's length since midnight, so tariffs and
billing days begin at the times of the wall clock. If the UTC offset changes by an amount that is not a multiple of the
length, one interval is shorter or longer than the others. Offsets always change by multiples of 15 minutes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Calendar:
    """The boundaries of intervals of one length in one time zone.

    Args:
        timezone: a name of the IANA database, such as "Asia/Shanghai".
        length_ms: must divide a day; otherwise raises ValueError.
    """

    def __init__(self, timezone: str, length_ms: int = 900_000) -> None:
        if length_ms <= 0 or DAY_MS % length_ms:
            raise ValueError(f"an interval of {length_ms} ms does not divide a day")
        self.timezone, self.length_ms = timezone, length_ms
        self._zone = ZoneInfo(timezone)
        self._days = lru_cache(maxsize=8)(self._cut_day)
        self._midnights = lru_cache(maxsize=800)(self._find_midnight)

    def offset_ms(self, at_ms: int) -> int:
        """Return the UTC offset at an instant: local time minus UTC, in ms."""
        found = (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(self._zone).utcoffset()
        assert found is not None
        return int(found / timedelta(milliseconds=1))

    def offsets_ms(self, from_ms: int, to_ms: int) -> tuple[int, int, int]:
        """Return the UTC offset before the last change in ``[from_ms, to_ms]``, the change, and the offset after it.

        If the offset does not change, the change is at ``from_ms``.
        """
        last, high = self.offset_ms(to_ms), to_ms
        while high > from_ms:
            low = max(from_ms, high - DAY_MS)
            if (before := self.offset_ms(low)) != last:
                return before, self._change(low, high), last
            high = low
        return last, from_ms, last

    def local(self, at_ms: int) -> datetime:
        """Convert an instant to local time with its UTC offset."""
        return (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(self._zone)

    def midnight(self, day: date) -> int:
        """Return the first instant of a local day in UTC ms.

        The day may have no midnight, or two, if the offset changes.
        """
        return self._midnights(day)

    def _find_midnight(self, day: date) -> int:
        guess = round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
        # every instant of the day is within 15 hours of this time; the first instant is where the date changes
        low, high = guess - 15 * 3_600_000, guess + 15 * 3_600_000
        while high - low > 1:
            middle = (low + high) // 2
            if self.local(middle).date() < day:
                low = middle
            else:
                high = middle
        return high

    def day(self, at_ms: int) -> date:
        """Return the local day that contains an instant."""
        return self.local(at_ms).date()

    def bounds_of_day(self, day: date) -> array[int]:
        """Return the boundaries of a local day in UTC ms, with both midnights.

        There are usually 97 for intervals of 15 minutes.
        """
        return self._days(day)

    def _cut_day(self, day: date) -> array[int]:
        start, end = self.midnight(day), self.midnight(day + timedelta(days=1))
        bounds = array("q", [start])
        at = start
        while at < end:
            offset = self.offset_ms(at)
            following = (at + offset) // self.length_ms * self.length_ms + self.length_ms - offset
            if following < end and (now := self.offset_ms(following)) != offset:
                following = self._past_change(at, following, now)
            at = min(following, end)
            bounds.append(at)
        return bounds

    def _past_change(self, at: int, following: int, now: int) -> int:
        """Return the first boundary after the UTC offset changed between ``at`` and ``following``."""
        return -(-(self._change(at, following) + now) // self.length_ms) * self.length_ms - now

    def _change(self, low: int, high: int) -> int:
        """Return the instant between ``low`` and ``high`` at which the UTC offset changes."""
        old = self.offset_ms(low)
        while high - low > 1:
            middle = (low + high) // 2
            if self.offset_ms(middle) == old:
                low = middle
            else:
                high = middle
        return high

    def bounds(self, from_ms: int, to_ms: int) -> array[int]:
        """Return the boundaries from the last one at or before ``from_ms`` to the first one at or after ``to_ms``."""
        found = array("q")
        day = self.day(from_ms)
        while not found or found[-1] < to_ms:
            more = self.bounds_of_day(day)
            found.extend(more[1:] if found else more)
            day += timedelta(days=1)
        first = bisect_right(found, from_ms) - 1
        last = bisect_left(found, max(to_ms, found[first]))
        return found[first : last + 1]

    def intervals(self, from_ms: int, to_ms: int) -> Iterator[tuple[int, int]]:
        """Yield the intervals that overlap ``[from_ms, to_ms)``, in order."""
        found = self.bounds(from_ms, to_ms)
        for n in range(len(found) - 1):
            if found[n] < to_ms:
                yield found[n], found[n + 1]

    def floor(self, at_ms: int) -> int:
        """Return the last boundary at or before an instant."""
        return self.bounds(at_ms, at_ms)[0]

    def stretch(self, period: str, at_ms: int) -> tuple[int, int]:
        """Return the period that contains an instant, as ``[start, end)`` in UTC ms.

        Args:
            period: interval, hour, day, month or year.

        Raises:
            ValueError: ``period`` is another word.
        """
        if period == "interval":
            start = self.floor(at_ms)
            return start, next(b for b in self.bounds(start, start + 1) if b > start)
        if period == "hour":
            hours = self if self.length_ms == HOUR_MS else _hours_of(self.timezone)
            return hours.stretch("interval", at_ms)
        day = self.day(at_ms)
        if period == "day":
            first, after = day, day + timedelta(days=1)
        elif period == "month":
            first = day.replace(day=1)
            after = (first + timedelta(days=32)).replace(day=1)
        elif period == "year":
            first, after = date(day.year, 1, 1), date(day.year + 1, 1, 1)
        else:
            raise ValueError(f"a period is interval, hour, day, month or year, not {period!r}")
        return self.midnight(first), self.midnight(after)

    def stretches(self, period: str, from_ms: int, to_ms: int) -> Iterator[tuple[int, int]]:
        """Yield the periods of one kind (see ``stretch``) that overlap ``[from_ms, to_ms)``, in order."""
        if period == "interval":
            yield from self.intervals(from_ms, to_ms)
            return
        at = from_ms
        while at < to_ms:
            start, end = self.stretch(period, at)
            yield start, end
            at = end


@lru_cache(maxsize=4)
def _hours_of(timezone: str) -> Calendar:
    """Return the calendar of hours. It is cached, because it keeps the boundaries of recent days."""
    return Calendar(timezone, HOUR_MS)
