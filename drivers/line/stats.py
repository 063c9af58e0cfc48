"""Counters per line, for ``status`` and the poller. States are metrics; edges go to the log."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    notes: dict[str, str] = field(default_factory=dict)  # facts about the port, such as the result of the RS-485 ioctl

    def busy_share(self, now_ns: int) -> float:
        """Share of the time since ``since_ns`` in which the line was in use."""
        return self.busy_ns / max(now_ns - self.since_ns, 1)
