"""Draws a row of numbers as blocks of eight heights, in one line of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Final

BLOCKS: Final = "▁▂▃▄▅▆▇█"
UNKNOWN: Final = "·"


def sparkline(values: Sequence[float | None], width: int, low: float | None = None, high: float | None = None) -> str:
    """Return the last ``width`` values as blocks; "" if fewer than two of them are numbers.

    Args:
        values: None is an unknown value, which is drawn as a dot.
        low: the value of the lowest block. If it is None or too high, the smallest drawn value is used instead.
        high: the value of the highest block. If it is None or too low, the largest drawn value is used instead.
    """
    shown = [value if value is not None and isfinite(value) else None for value in values[-width:]]
    known = [value for value in shown if value is not None]
    if len(known) < 2:
        return ""
    bottom = min(known) if low is None else min(low, *known)
    span = (max(known) if high is None else max(high, *known)) - bottom
    if not span:
        return "".join(UNKNOWN if value is None else BLOCKS[0 if not bottom else 3] for value in shown)
    return "".join(UNKNOWN if value is None else BLOCKS[min(7, int((value - bottom) / span * 8))] for value in shown)
