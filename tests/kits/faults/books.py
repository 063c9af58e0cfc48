"""The books after a scenario: nothing missing that is not stated, nothing twice, nothing that was never read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agent.verify import Report, Verdict
from tests.kits.books import counted, report_of
from tests.kits.house import SITE, Heard, Listener, Meter, whole

SLACK_S = 2.0  # an answer was served within so much of the tick that it belongs to


def balance(heard: Sequence[Heard], kid: str, meters: Mapping[str, Meter], offsets: Sequence[float] = (0.0,)) -> Report:
    """Assert that what came is whole; returns the independent verifier's report.

    The chain is unbroken and without a hole in time; no pack came with two bodies and no reading in two packs; each
    number that came was served, by this device; each number served came, or its time lies in a stated gap or loss.

    Args:
        offsets: by how much the agent's clock was beside ours at times, in seconds.
    """
    report = report_of(heard, kid)
    assert report.verdict is Verdict.VERIFIED, (report.reasons, report.faults[:5])
    assert not report.failed and not report.missing, (report.reasons, report.faults[:5])
    packs = bodies(heard)
    for device, meter in meters.items():
        own = [pack for pack in packs if pack["stream"] == f"{SITE}/{device}"]
        came: dict[int, Mapping[str, Any]] = {}
        for pack in own:
            for record in counted(pack):
                number = record["v"]
                assert number in meter.served, f"{device}: {number} was never served"
                assert number not in came, f"{device}: {number} is in two packs: {came[number]} and {pack}"
                came[number] = pack
        stated = [*gaps_of(own), *losses_of(own)]
        for number in meter.served.keys() - came.keys():
            at = meter.served[number] / 1e9
            assert any(low - SLACK_S <= at + beside < high + SLACK_S for low, high in stated for beside in offsets), (
                f"{device}: {number}, served at {at:.3f}, did not come and is not stated; {stated[-5:]}"
            )
    return report


def came(ear: Listener, number: int, device: str = "m1") -> bool:
    """Has this answer of a Meter come, or a later one? (It itself may be late for its tick, which is then a gap.)"""
    return max(ear.numbers(device), default=0) >= number


def ended(ear: Listener, stops: int = 1) -> bool:
    """So many orderly ends have been told, and no sequence number before them is missing."""
    told = [event for event in ear.events("_gateway") if event["event"] == "stop"]
    return len(told) >= stops and whole(ear, "m1") and whole(ear, "_gateway")


def bodies(heard: Sequence[Heard]) -> list[dict[str, Any]]:
    """The packs, each once, in the order in which they came. The same name must always have the same bytes."""
    seen: dict[tuple[str, str, int], bytes] = {}
    for message in heard:
        if message.road in ("readings", "backfill"):
            pack = json.loads(message.payload)
            name = (pack["stream"], pack["boot"], pack["seq"])
            assert seen.setdefault(name, message.payload) == message.payload, f"{name} came with two different bodies"
    return [json.loads(data) for data in seen.values()]


def gaps_of(packs: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Stretches of stated gaps that cover the counter of a Meter."""
    return [
        (gap["from"], gap["to"])
        for pack in packs
        for gap in pack.get("gaps", ())
        if gap["points"] == "*" or "ac.energy.import" in gap["points"]
    ]


def losses_of(packs: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Stretches of stated losses."""
    return [(e["from"], e["to"]) for pack in packs for e in pack.get("events", ()) if e["event"] == "loss"]


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
