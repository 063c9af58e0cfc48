"""What has come to a listener, and what a scenario's row holds of the books."""

from __future__ import annotations

from typing import Any

from agent.verify import Report
from tests.kits.books import balance, bodies
from tests.kits.house import Listener, whole

__all__ = ["balance", "bodies", "came", "ended", "figures"]


def came(ear: Listener, number: int, device: str = "m1") -> bool:
    """Has this answer of a Meter come, or a later one? (It itself may be late for its tick, which is then a gap.)"""
    return max(ear.numbers(device), default=0) >= number


def ended(ear: Listener, stops: int = 1) -> bool:
    """So many orderly ends have been told, and no sequence number before them is missing."""
    told = [event for event in ear.events("_gateway") if event["event"] == "stop"]
    return len(told) >= stops and whole(ear, "m1") and whole(ear, "_gateway")


def figures(report: Report, **more: object) -> dict[str, Any]:
    """What every row holds of the books."""
    reasons: dict[str, int] = {}
    for stream in report.streams.values():
        for reason, count in stream.gap_reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return {
        "verdict": report.verdict.value, "packs": report.packs, "readings": report.readings, "gaps": reasons,
        "lost_packs": report.lost, "redelivered": report.redelivered, **more,
    }  # fmt: skip
