"""Exponential backoff."""

from __future__ import annotations

import random


class Backoff:
    """Delays between attempts. The first delay is ``first_s``; each further failure doubles it, up to ``most_s``.

    Args:
        jitter: the share of each delay that is random. Because of it, clients that failed at the same time do not all
        reconnect at the same time.
    """

    __slots__ = ("_first_s", "_jitter", "_most_s", "delay_s")

    def __init__(self, first_s: float, most_s: float, jitter: float = 0.0) -> None:
        self._first_s, self._most_s, self._jitter = first_s, most_s, jitter
        self.delay_s = first_s  # the next delay, before jitter

    def next_s(self, most_s: float | None = None) -> float:
        """Return the delay after this failure, in seconds.

        ``most_s`` limits only the returned delay. The next delay is computed as if there were no such limit.
        """
        delay = self.delay_s if most_s is None else min(self.delay_s, most_s)
        self.delay_s = min(self.delay_s * 2, self._most_s)
        return delay * random.uniform(1 - self._jitter, 1) if self._jitter else delay

    def reset(self) -> None:
        """Reset after a success: the next delay is ``first_s`` again."""
        self.delay_s = self._first_s

    @property
    def is_reset(self) -> bool:
        """Whether the next delay is ``first_s``. A failure after the last success makes it longer."""
        return self.delay_s == self._first_s
