"""Detects a caching master that lost its device: loggers and PLCs keep answering for a dead device."""

from __future__ import annotations

from drivers.model import FreshnessRule, Quality, Reading


class Freshness:
    """Judges by the point of a rule whether a device behind a caching master is alive."""

    def __init__(self, rule: FreshnessRule) -> None:
        self.rule = rule
        self._last: object = None
        self._moved_s: float | None = None  # when the value last changed, in monotonic seconds; None: never
        self.stale_s: float | None = None  # since when nothing proves it alive, in monotonic seconds; None: it is alive

    def judge(self, reading: Reading | None, now_s: float) -> bool:
        """Process the point's value at ``now_s`` (monotonic). True: the readings of this visit are valid."""
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
        """Why the readings are not valid, for a technician."""
        value = None if reading is None else reading.value
        if value is None:
            return f"{self.rule.point} cannot be read, so nothing proves that the source is alive"
        if self.rule.equals is not None:
            return f"{self.rule.point} is {value}, {self.rule.equals} would prove that the source is alive"
        if self._moved_s is None:
            return f"{self.rule.point} has not yet changed from {value}"
        return f"{self.rule.point} has not changed from {value} for more than {self._within_s:g} s"
