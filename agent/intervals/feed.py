"""What goes into a ledger and what it tells of it, as plain values."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from decimal import Decimal

QUALITIES = {"suspect": 1, "range": 2, "frozen": 3, "clock": 4, "estimated": 5, "substituted": 6}
RANGE = 2


@dataclass(frozen=True, slots=True)
class Span:
    """What of a pack counts here."""

    seq: int
    boot: str
    from_ms: int
    to_ms: int
    part: tuple[int, int] | None = None  # of one tick that was too large for a pack: k of n


@dataclass(frozen=True, slots=True)
class Happening:
    """What was found at a counter's reading, for an event of its stream. Values exact, in the device's unit."""

    point: str
    kind: str  # rollover reset swap glitch back_step
    time_ms: int
    value: Decimal | None  # None: beyond all counters
    before_ms: int
    before: Decimal
    growth: Decimal
    count: int
    until_ms: int

    @property
    def key(self) -> tuple[str, str, int]:
        """The same happening again has the same key."""
        return self.point, self.kind, self.time_ms


@dataclass(slots=True)
class Batch:
    """Readings of a pack by slot, in order."""

    slots: array[int]
    times: array[int]
    values: array[int]
    qualities: bytes
