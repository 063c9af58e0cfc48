"""The silence of a whole line: since when no device on it answers, and which readings are missing because of it."""

from __future__ import annotations

from collections import deque

from drivers.model import LineDown, LineError, LineTimeout, Reason

DEAD_AFTER_FAILURES = 2  # in a row: on an overloaded line the last answer may be old although nothing failed
NOT_ASKED_STEP_MS = 30_000
NOT_ASKED_STEPS = 64  # at least as long as `status` looks back


class NotAsked:
    """How many readings of a device are missing because it was not asked, as it, or its line, did not answer."""

    def __init__(self) -> None:
        self._steps: deque[tuple[int, int]] = deque(maxlen=NOT_ASKED_STEPS)  # first tick in ms, count

    def add(self, tick_ms: int, count: int) -> None:
        """Add ``count`` missing readings at a tick."""
        if self._steps and 0 <= tick_ms - self._steps[-1][0] < NOT_ASKED_STEP_MS:
            first_ms, before = self._steps.pop()
            self._steps.append((first_ms, before + count))
        else:
            self._steps.append((tick_ms, count))

    def count(self, from_ms: int, to_ms: int) -> int:
        """Between two times, to half a minute."""
        return sum(count for at_ms, count in self._steps if from_ms - NOT_ASKED_STEP_MS < at_ms < to_ms)


class LineSilence:
    """How the visits on a line have failed since any device on it last answered, and the time that they took."""

    def __init__(self) -> None:
        self.visits = 0  # without an answer, in a row
        self._from_ms = self._to_ms = 0  # of the newest ones
        self._reason = Reason.TIMEOUT

    def waited(self, from_ms: int, to_ms: int, error: LineError) -> None:
        """A visit failed, or ended in a failure; readings that were due meanwhile are missing because of it."""
        if isinstance(error, LineTimeout | LineDown):
            if not self.visits:
                self._from_ms = from_ms
            self.visits += 1
            self._to_ms, self._reason = to_ms, error.reason

    def lasts_ms(self, now_ms: int) -> int:
        """How long no device has answered; 0: one has, or only one visit failed."""
        return now_ms - self._from_ms if self.visits >= DEAD_AFTER_FAILURES else 0

    def reason_for(self, tick_ms: int, next_ms: int) -> Reason:
        """Why a tick was not asked before the next one: the line waited for an answer, was busy, or we stood still."""
        return self._reason if self._from_ms <= next_ms and tick_ms < self._to_ms else Reason.OVERLOAD
