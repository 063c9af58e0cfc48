"""Computes trends from the snapshots of the last minute: errors and load of lines, and when an outbox will be empty."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

WINDOW_S: Final = 60.0
SHORTEST_S: Final = 8.0  # if two snapshots are closer together, their difference is not reliable
ERRORS: Final = ("timeouts", "broken", "mismatches", "exceptions", "stale", "foreign", "open_failures", "lost")
FEW: Final = 0.05  # a smaller change of an outbox, in packs per second, is the normal variation of live packs


class _Sample(NamedTuple):
    at: float
    lines: Mapping[str, Mapping[str, int]]
    busy: Mapping[str, float | None]
    waiting: Mapping[str, int]


class Trends:
    """Keeps the snapshots of the last minute, and computes trends from them."""

    def __init__(self) -> None:
        self._boot: object = None
        self._samples: deque[_Sample] = deque()

    def add(self, snapshot: Mapping[str, Any]) -> None:
        """Add the next snapshot. Older snapshots are dropped after a minute, or at once if the agent was restarted."""
        at = float(snapshot.get("time", 0))
        if snapshot.get("boot") != self._boot or (self._samples and at < self._samples[-1].at):
            self._boot = snapshot.get("boot")
            self._samples.clear()
        if self._samples and at == self._samples[-1].at:
            return
        lines = snapshot.get("lines", {})
        counts = {name: {kind: line.get(kind) or 0 for kind in ERRORS} for name, line in lines.items()}
        busy = {name: line.get("busy_share") for name, line in lines.items()}
        waiting = {name: uplink.get("waiting") or 0 for name, uplink in snapshot.get("uplinks", {}).items()}
        self._samples.append(_Sample(at, counts, busy, waiting))
        while self._samples[-1].at - self._samples[0].at > WINDOW_S:
            self._samples.popleft()

    def errors(self, line: str) -> int:
        """Return the number of errors of all kinds on a line in the last minute."""
        if not self._samples:
            return 0
        first, last = (self._samples[at].lines.get(line, {}) for at in (0, -1))
        return sum(max(0, last.get(kind, 0) - first.get(kind, 0)) for kind in ERRORS) if first else 0

    def busy(self, line: str) -> list[float | None]:
        """Return the load of a line, which is the busy share of its time, for each snapshot; None if not known."""
        return [sample.busy.get(line) for sample in self._samples]

    def waiting(self, destination: str) -> list[float | None]:
        """Return the number of packs in the outbox for each snapshot; None if the destination did not exist."""
        return [sample.waiting.get(destination) for sample in self._samples]

    def drain_s(self, destination: str) -> float | None:
        """Return the seconds until the outbox is empty at the rate of the last minute; infinite if the outbox grows.

        None if the outbox is empty, or if its change is too small or was observed for too short a time.
        """
        known = [s for s in self._samples if destination in s.waiting]
        if len(known) < 2 or known[-1].at - known[0].at < SHORTEST_S:
            return None
        first, last = known[0], known[-1]
        left = last.waiting[destination]
        pace = (first.waiting[destination] - left) / (last.at - first.at)
        if abs(pace) < FEW or not left:
            return None
        return left / pace if pace > 0 else float("inf")
