"""How much may be on its way at once, and when nothing may: no more than the link carries and the broker takes."""

from __future__ import annotations

from typing import Final

MOST_BYTES, LEAST_BYTES, FIRST_BYTES = 4 << 20, 16 << 10, 256 << 10
BRISK_S: Final = 1.0  # from sending to PUBACK: more may be on its way
SLUGGISH_S: Final = 5.0  # less
PAUSE_MAX_S: Final = 60.0


class Room:
    """Bytes that may be in flight. On a modem they shrink, so that a fresh pack does not wait behind old ones."""

    def __init__(self) -> None:
        self.bytes = FIRST_BYTES
        self._shrunk_s = 0.0

    def measured(self, took_s: float, size: int, now: float) -> None:
        """A parcel of this size was acknowledged after so long."""
        if took_s < BRISK_S:
            self.bytes = min(MOST_BYTES, self.bytes + size)
        elif took_s > SLUGGISH_S and now - self._shrunk_s > SLUGGISH_S:
            self.bytes, self._shrunk_s = max(LEAST_BYTES, self.bytes // 2), now


class Pause:
    """Everything rests after a refusal that concerns everything, longer each time, until something is taken."""

    def __init__(self, first_s: float) -> None:
        self._first_s = self._next_s = first_s
        self.until_s = 0.0

    def begin(self, now: float) -> None:
        """The broker refused; once for all that were in flight."""
        if now >= self.until_s:
            self.until_s, self._next_s = now + self._next_s, min(self._next_s * 2, PAUSE_MAX_S)

    def taken(self) -> None:
        """The broker took something."""
        self._next_s = self._first_s

    def clear(self) -> None:
        """A new connection."""
        self.until_s, self._next_s = 0.0, self._first_s

    def __bool__(self) -> bool:
        """Is it still so, for all we know?"""
        return self._next_s > self._first_s


class Rate:
    """So many a second, and half a second's worth at once."""

    def __init__(self, a_second: float, now: float) -> None:
        self._a_second, self._left, self._at_s = a_second, 1.0, now

    def may(self, now: float) -> bool:
        """Is there room for one more?"""
        self._left = min(max(1.0, self._a_second / 2), self._left + (now - self._at_s) * self._a_second)
        self._at_s = now
        return self._left >= 1

    def spend(self) -> None:
        """One goes."""
        self._left -= 1

    @property
    def wait_s(self) -> float:
        """Until there is room for one."""
        return max(0.0, 1 - self._left) / self._a_second
