"""Records how long no device of a line has answered, and how many readings are missing because of that."""

from __future__ import annotations

from collections import deque

from drivers.model import LineDown, LineError, LineTimeout, Reason

# A device is dead only after this many consecutive failures. With fewer, an overloaded line may be the only reason why
# its last answer is old.
DEAD_AFTER_FAILURES = 2
NOT_ASKED_STEP_MS = 30_000  # one count in ``NotAsked`` covers this time
NOT_ASKED_STEPS = 64  # 64 steps are 32 minutes, which is longer than the period that `status` shows


class NotAsked:
    """Counts the readings that are missing because the agent did not query a device that had been silent before."""

    def __init__(self) -> None:
        # (first tick of the step in ms, missing readings)
        self._steps: deque[tuple[int, int]] = deque(maxlen=NOT_ASKED_STEPS)

    def add(self, tick_ms: int, count: int) -> None:
        """Add ``count`` missing readings at a tick."""
        if self._steps and 0 <= tick_ms - self._steps[-1][0] < NOT_ASKED_STEP_MS:
            first_ms, before = self._steps.pop()
            self._steps.append((first_ms, before + count))
        else:
            self._steps.append((tick_ms, count))

    def count(self, from_ms: int, to_ms: int) -> int:
        """Return the number of missing readings from one time to another, with a resolution of half a minute."""
        return sum(count for at_ms, count in self._steps if from_ms - NOT_ASKED_STEP_MS < at_ms < to_ms)


class LineSilence:
    """The failed visits on a line since the last answer of any of its devices, and the time that they took."""

    def __init__(self) -> None:
        self.visits = 0  # consecutive visits without an answer
        # time when the first of these visits began, and time when the last of them ended
        self._from_ms = self._to_ms = 0
        self._reason = Reason.TIMEOUT

    def waited(self, from_ms: int, to_ms: int, error: LineError) -> None:
        """Record a failed visit. ``error`` explains why readings that became due during the visit are missing."""
        if isinstance(error, LineTimeout | LineDown):
            if not self.visits:
                self._from_ms = from_ms
            self.visits += 1
            self._to_ms, self._reason = to_ms, error.reason

    def lasts_ms(self, now_ms: int) -> int:
        """Return how long, in ms, no device has answered.

        0: the last visit was answered, or only one visit has failed.
        """
        return now_ms - self._from_ms if self.visits >= DEAD_AFTER_FAILURES else 0

    def reason_for(self, tick_ms: int, next_ms: int) -> Reason:
        """Return the reason why a tick was not polled before the next tick.

        This is the reason of the failed visits if the line was busy with them at this time. Otherwise the line or the
        agent was overloaded, and the reason is ``overload``.
        """
        return self._reason if self._from_ms <= next_ms and tick_ms < self._to_ms else Reason.OVERLOAD
