"""Rate limits: a token bucket, and a log that writes at most one line a minute."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """A token bucket. It gains ``rate`` tokens a second and never holds more than ``burst`` tokens.

    Args:
        tokens: number of tokens at the start; None: ``burst``.
    """

    __slots__ = ("_at_s", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now_s: float, tokens: float | None = None) -> None:
        self._rate, self._burst, self._at_s = rate, burst, now_s
        self._tokens = burst if tokens is None else tokens

    def change(self, rate: float, burst: float, now_s: float) -> None:
        """Use another rate and burst from ``now_s`` on. The present tokens are kept, up to ``burst``."""
        self.available(now_s)
        self._rate, self._burst, self._tokens = rate, burst, min(self._tokens, burst)

    def available(self, now_s: float) -> bool:
        """Whether there is a token at ``now_s``."""
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        return self._tokens >= 1

    def take(self, now_s: float) -> bool:
        """Take a token. Returns False if there is none."""
        if not self.available(now_s):
            return False
        self._tokens -= 1
        return True

    @property
    def wait_s(self) -> float:
        """Seconds until there is a token, counted from the last call of ``available`` or ``take``."""
        return max(0.0, 1 - self._tokens) / self._rate


class RateLimitedLog:
    """Writes at most one line in ``every_s`` seconds. The next line contains the number of messages since the line
    before.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, every_s: float = 60.0) -> None:
        self._monotonic, self._every_s = monotonic, every_s
        self._logged_s = -every_s
        self._count = 0

    def log(self, write: Callable[..., None], text: str, *args: object) -> None:
        """Write the message with ``write`` (such as ``log.warning``). If the last line is too recent, only count the
        message.
        """
        self._count += 1
        now = self._monotonic()
        if now - self._logged_s >= self._every_s:
            more = f" ({self._count} since the last such line)" if self._count > 1 else ""
            write(f"{text}%s", *args, more)
            self._logged_s, self._count = now, 0
