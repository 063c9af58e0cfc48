"""Meters that are configured and whose newest intervals are not written yet: of these nothing is known so far.

A silent device is sealed rarely, so its intervals are written late. Figures that are made meanwhile must know that it
is there: what nobody heard of is missing, and not absent.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.intervals.page import Column


@dataclass(frozen=True, slots=True)
class Unwritten:
    """A configured stream, from when on its intervals are not written, and the columns that they will have."""

    stream: str
    from_ms: int
    columns: tuple[Column, ...]
