"""What a broker does not take: topics that nobody reads or that we may not write to, and packs it cannot stand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

MIN_S: Final = 1.0
MAX_S: Final = 60.0
STRIKES: Final = 3  # a pack that was alone in flight when the broker hung up, so often
SKIPS: Final = 2_000  # packs that the walk through the backlog may pass between two probes

Key = tuple[str, str]  # stream, road


class Holds:
    """Held topics and the one probe that is due from time to time, whichever of them it concerns."""

    def __init__(self, min_s: float = MIN_S) -> None:
        self._min_s = min_s
        self._lowest: dict[Key, int] = {}  # the first id that waits
        self._delay_s = min_s
        self._at_s = 0.0
        self._skips = SKIPS
        self.probing = False  # a probe is on its way

    def __bool__(self) -> bool:
        return bool(self._lowest)

    def __len__(self) -> int:
        return len(self._lowest)

    @property
    def lowest(self) -> int:
        """The lowest id that waits."""
        return min(self._lowest.values())

    def add(self, key: Key, number: int, now: float, was_probe: bool) -> None:
        """A pack for this topic was not taken."""
        first = not self._lowest
        self._lowest[key] = min(number, self._lowest.get(key, number))
        if was_probe or first:
            self._delay_s = self._min_s if first else min(self._delay_s * 2, MAX_S)
            self._at_s = now + self._delay_s
            self._skips = SKIPS

    def look(self, key: Key, number: int, now: float) -> bool | None:
        """May a pack go? None: the topic is not held. True: as the probe. False: it waits."""
        if key not in self._lowest:
            return None
        if self.due(now):
            self.probing = True
            return True
        self._lowest[key] = min(number, self._lowest[key])
        return False

    def due(self, now: float) -> bool:
        """Is it time for a probe?"""
        return bool(self._lowest) and not self.probing and now >= self._at_s

    def may_skip(self) -> bool:
        """May the walk through the backlog pass one more pack? Else it waits for the next probe."""
        self._skips -= 1
        return self._skips >= 0

    def release(self) -> int:
        """Somebody is there: nothing is held any more. Returns the lowest id that waited."""
        lowest = self.lowest if self._lowest else 1
        self._lowest.clear()
        self._delay_s, self.probing = self._min_s, False
        return lowest

    def try_again(self, now: float) -> None:
        """A new connection: probe soon."""
        self._delay_s, self._at_s, self.probing, self._skips = self._min_s, now, False, SKIPS

    def wait_s(self, now: float) -> float:
        """Until the next probe is due."""
        return max(0.05, self._at_s - now) if self._lowest and not self.probing else 3600.0


class Denied:
    """Retained topics that the broker did not take. When it takes one of them, all are worth a try."""

    def __init__(self) -> None:
        self._topics: set[str] = set()
        self._again = False

    def __bool__(self) -> bool:
        return bool(self._topics)

    def answered(self, topic: str, taken: bool) -> None:
        """The broker's word on a retained message."""
        if not taken:
            self._topics.add(topic)
        elif topic in self._topics:
            self._topics.discard(topic)
            self._again = True

    def hope(self) -> None:
        """Something else that was refused goes now."""
        self._again = True

    def retry(self) -> bool:
        """Is it time to publish all of them again? They are forgotten then."""
        again, self._again = self._again and bool(self._topics), False
        if again:
            self._topics.clear()
        return again

    def clear(self) -> None:
        """A new connection publishes everything anyway."""
        self._topics.clear()
        self._again = False


class Suspects:
    """Packs that were in flight when the broker hung up: one of them may be what it cannot stand."""

    def __init__(self) -> None:
        self._strikes: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._strikes)

    def hung_up(self, refs: Sequence[int], alone: bool) -> int:
        """These were in flight. Returns the one that was ``alone`` there too often, else 0."""
        for ref in refs:
            self._strikes[ref] = self._strikes.get(ref, 0) + alone
        return next((ref for ref in refs if self._strikes[ref] >= STRIKES), 0)

    def clear(self, ref: int) -> None:
        """It was answered, or set aside."""
        self._strikes.pop(ref, None)

    def keep(self, refs: Collection[int]) -> None:
        """What is neither in flight nor to be found was confirmed by an ack, or dropped by the cap."""
        self._strikes = {ref: strikes for ref, strikes in self._strikes.items() if ref in refs}
