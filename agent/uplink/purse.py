"""What may still be replayed today: a budget of bytes a UTC day, written down in the store before it is spent."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from agent.outbox import Outbox

DAY_S: Final = 86_400
AT_ONCE: Final = 4 << 20  # written down together: a start of the agent costs at most so much of the day's budget
ANSWER_S: Final = 60.0  # a store that failed never answers


class Purse:
    """The budget of one destination. A restart does not fill it again.

    Args:
        wake: called from the store's thread when it answered.
    """

    def __init__(
        self,
        name: str,
        outbox: Outbox,
        budget_bytes: int,
        wake: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._name, self._outbox, self.budget_bytes, self._wake = name, outbox, budget_bytes, wake
        self._monotonic, self._wall = monotonic, wall
        self._mail: deque[tuple[int, int, int]] = deque()  # day, what the store has written down of it, our share
        self._day = -1
        self._written: int | None = None  # None: not known yet
        self._at_hand = 0  # written down and not spent
        self._asked_s: float | None = None

    def look(self) -> None:
        """Ask the store what of today is spent, if that is not known."""
        self._settle()
        if self._written is None:
            self._ask(0)

    @property
    def is_empty(self) -> bool:
        """Is it known that nothing may go today any more?"""
        self._settle()
        return self._at_hand <= 0 and self._written is not None and self._written >= self.budget_bytes

    def take(self, size: int) -> bool | None:
        """Spend ``size`` bytes. False: not today. None: not yet, the store is asked."""
        self._settle()
        if size <= self._at_hand:
            self._at_hand -= size
            return True
        if self._written is None:
            self._ask(0)
            return None
        more = min(max(AT_ONCE, size), self.budget_bytes - self._written)
        if self._at_hand + max(more, 0) < size:
            return False
        self._ask(more)
        return None

    def _settle(self) -> None:
        """Take what the store left, and notice a new day."""
        if (day := int(self._wall() // DAY_S)) != self._day:
            self._day, self._written, self._at_hand, self._asked_s = day, None, 0, None
        while self._mail:
            day, written, share = self._mail.popleft()
            if day == self._day:
                self._written, self._asked_s = written, None
                self._at_hand += share

    def _ask(self, size: int) -> None:
        now = self._monotonic()
        if self._asked_s is None or now - self._asked_s > ANSWER_S:
            self._asked_s = now
            day = self._day
            self._outbox.spend(self._name, day, size, lambda written: self._post(day, written, size))

    def _post(self, day: int, written: int, share: int) -> None:
        """From the store's thread."""
        self._mail.append((day, written, share))
        self._wake()
