"""Counters per line, for ``status`` and the poller. States are metrics; edges go to the log."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

WINDOW_NS, MARKS = 600_000_000_000, 20


@dataclass(slots=True)
class AnswerCounts:
    """Answers of one device since the line object was made, asked again or not."""

    sound: int = 0  # refusals too
    broken: int = 0  # a wrong CRC, cut short, or no frame at all
    mismatches: int = 0  # sound frames that answer something else
    _marks: deque[tuple[int, int, int, int]] = field(default_factory=deque)  # of the last ten minutes, as for ``busy``

    def recent(self, now_ns: int) -> tuple[int, int, int]:
        """(sound, broken, mismatches) of the last ten minutes. To be called every few seconds."""
        marks = self._marks
        if not marks:
            marks.append((now_ns, 0, 0, 0))
        if now_ns - marks[-1][0] >= WINDOW_NS // MARKS:
            marks.append((now_ns, self.sound, self.broken, self.mismatches))
        while len(marks) > 1 and marks[1][0] <= now_ns - WINDOW_NS:
            marks.popleft()
        _, sound, broken, mismatches = marks[0]
        return self.sound - sound, self.broken - broken, self.mismatches - mismatches


@dataclass(slots=True)
class LineStats:
    """Counters since the line object was made."""

    since_ns: int = 0  # monotonic
    busy_ns: int = 0  # time in which a request was out
    sent: dict[int, int] = field(default_factory=dict)  # requests by function code
    answers: int = 0
    timeouts: int = 0
    broken: int = 0  # answers with a wrong CRC or no frame at all
    mismatches: int = 0
    exceptions: int = 0
    stale: int = 0  # answers that came after their request was given up
    foreign: int = 0  # unsolicited frames or bytes: another master, or noise
    opened: int = 0
    open_failures: int = 0
    lost: int = 0  # connections that broke
    devices: dict[str, AnswerCounts] = field(default_factory=dict)  # by ``Request.where``
    notes: dict[str, str] = field(default_factory=dict)  # facts about the port, such as the result of the RS-485 ioctl
    _marks: deque[tuple[int, int]] = field(default_factory=deque)  # (monotonic ns, busy_ns) of the last ten minutes

    def of_device(self, where: str) -> AnswerCounts:
        """The counts of the device that requests name so."""
        counts = self.devices.get(where)
        if counts is None:
            counts = self.devices[where] = AnswerCounts()
        return counts

    def busy_share(self, now_ns: int) -> float:
        """Share of the last ten minutes in which the line was in use; of the time since ``since_ns`` if that is less.

        To be called every few seconds: each call may keep a mark for later ones.
        """
        marks = self._marks
        if not marks:
            marks.append((self.since_ns, 0))
        if now_ns - marks[-1][0] >= WINDOW_NS // MARKS:
            marks.append((now_ns, self.busy_ns))
        while len(marks) > 1 and marks[1][0] <= now_ns - WINDOW_NS:
            marks.popleft()
        since_ns, busy_ns = marks[0]
        return (self.busy_ns - busy_ns) / max(now_ns - since_ns, 1)
