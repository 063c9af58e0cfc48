"""Detects that a caching master (a logger or PLC) has lost its device. Such a master keeps answering for a dead
device.
"""

from __future__ import annotations

from drivers.model import FreshnessRule, Quality, Reading


class Freshness:
    """Judges whether a device behind a caching master is alive, from the point that a rule names."""

    def __init__(self, rule: FreshnessRule) -> None:
        self.rule = rule
        self._last: object = None
        self._moved_s: float | None = None  # when the value last changed, in monotonic seconds; None: never
        # when the proof that the device is alive was lost, in monotonic seconds; None: the device is alive
        self.stale_s: float | None = None

    def judge(self, reading: Reading | None, now_s: float) -> bool:
        """Process the new value of the rule's point at ``now_s`` (monotonic). Returns True if this visit's readings are
        valid.
        """
        value = reading.value if reading is not None and reading.quality in (Quality.GOOD, Quality.SUSPECT) else None
        if self.rule.equals is not None:
            fresh = value is not None and value == self.rule.equals
        else:
            if value is not None and value != self._last:
                if self._last is not None:
                    self._moved_s = now_s
                self._last = value
            fresh = value is not None and self._moved_s is not None and now_s - self._moved_s <= self._within_s
        if fresh:
            self.stale_s = None
        elif self.stale_s is None:
            self.stale_s = now_s
        return fresh

    @property
    def _within_s(self) -> float:
        return self.rule.changes_within_s or 0.0

    def why(self, reading: Reading | None) -> str:
        """Explain to a technician why the readings are not valid."""
        value = None if reading is None else reading.value
        if value is None:
            return f"{self.rule.point} cannot be read, so nothing proves that the source is alive"
        if self.rule.equals is not None:
            return f"{self.rule.point} is {value}, {self.rule.equals} would prove that the source is alive"
        if self._moved_s is None:
            return f"{self.rule.point} has not yet changed from {value}"
        return f"{self.rule.point} has not changed from {value} for more than {self._within_s:g} s"
