"""Counters per line, for ``status`` and the poller."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

WINDOW_NS, MARKS = 600_000_000_000, 20


def _ago(marks: deque[tuple[int, ...]], now_ns: int, begin_ns: int, *counts: int) -> tuple[int, ...]:
    """Return the counters as they were ten minutes ago, as (monotonic ns, counts).

    If counting began later than that, at ``begin_ns``, all counters are 0. Each call may store the present counts as a
    mark for later calls.
    """
    if not marks:
        marks.append((begin_ns, *(0 for _ in counts)))
    if now_ns - marks[-1][0] >= WINDOW_NS // MARKS:
        marks.append((now_ns, *counts))
    while len(marks) > 1 and marks[1][0] <= now_ns - WINDOW_NS:
        marks.popleft()
    return marks[0]


@dataclass(slots=True)
class AnswerCounts:
    """The number of answers of one device since the line object was created. Answers to retries are included."""

    sound: int = 0  # valid answers, including refusals
    broken: int = 0  # answers with a wrong CRC, truncated answers, and bytes without any frame
    mismatches: int = 0  # valid frames that do not answer the request
    _marks: deque[tuple[int, ...]] = field(default_factory=deque)

    def recent(self, now_ns: int) -> tuple[int, int, int]:
        """The numbers (sound, broken, mismatches) of the last ten minutes. Call it every few seconds: each call may
        store a mark for later calls.
        """
        _, sound, broken, mismatches = _ago(self._marks, now_ns, now_ns, self.sound, self.broken, self.mismatches)
        return self.sound - sound, self.broken - broken, self.mismatches - mismatches


@dataclass(slots=True)
class LineStats:
    """Counters of a line since the line object was created."""

    since_ns: int = 0  # when the counting began, in monotonic ns
    busy_ns: int = 0  # total time in which a request was outstanding
    sent: dict[int, int] = field(default_factory=dict)  # function code -> number of requests
    answers: int = 0
    timeouts: int = 0
    broken: int = 0  # answers with a wrong CRC, and bytes without any frame
    mismatches: int = 0
    exceptions: int = 0
    stale: int = 0  # answers that came after their request had been given up
    foreign: int = 0  # unsolicited frames or bytes, from another master or from noise
    opened: int = 0
    open_failures: int = 0
    lost: int = 0  # number of connections that broke
    devices: dict[str, AnswerCounts] = field(default_factory=dict)  # the key is ``Request.where``
    notes: dict[str, str] = field(default_factory=dict)  # facts about the port, such as the result of the RS-485 ioctl
    _marks: deque[tuple[int, ...]] = field(default_factory=deque)

    def of_device(self, where: str) -> AnswerCounts:
        """The counters of the device with this ``Request.where``."""
        counts = self.devices.get(where)
        if counts is None:
            counts = self.devices[where] = AnswerCounts()
        return counts

    def busy_share(self, now_ns: int) -> float:
        """The share of time in which the line was in use, over the last ten minutes, or since ``since_ns`` if that is
        more recent.

        Call it every few seconds: each call may store a mark for later calls.
        """
        since_ns, busy_ns = _ago(self._marks, now_ns, self.since_ns, self.busy_ns)
        return (self.busy_ns - busy_ns) / max(now_ns - since_ns, 1)
