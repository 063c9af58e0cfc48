"""Checks of what a listener has received, and the figures of a report in a scenario's row."""

from __future__ import annotations

from typing import Any

from agent.verify import Report
from tests.kits.books import balance, bodies
from tests.kits.house import Listener, whole

__all__ = ["balance", "bodies", "came", "ended", "figures"]


def came(ear: Listener, number: int, device: str = "m1") -> bool:
    """Return True if this answer of a Meter, or a later one, has arrived.

    (This answer itself may have been too late for its tick. Then the tick is a gap.)
    """
    return max(ear.numbers(device), default=0) >= number


def ended(ear: Listener, stops: int = 1) -> bool:
    """Return True if at least ``stops`` orderly stops were reported, and no pack before the newest is missing."""
    told = [event for event in ear.events("_gateway") if event["event"] == "stop"]
    return len(told) >= stops and whole(ear, "m1") and whole(ear, "_gateway")


def figures(report: Report, **more: object) -> dict[str, Any]:
    """The figures of a report that every row has."""
    reasons: dict[str, int] = {}
    for stream in report.streams.values():
        for reason, count in stream.gap_reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return {
        "verdict": report.verdict.value, "packs": report.packs, "readings": report.readings, "gaps": reasons,
        "lost_packs": report.lost, "redelivered": report.redelivered, **more,
    }  # fmt: skip
