"""Checks of the packs that arrived: they are complete, signed and in order, and have only what devices served."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from agent.verify import Report, Verdict, Verifier
from tests.kits.house import SITE, Heard, Meter

SLACK_S = 12.0  # longest time between an answer and its tick: a device's timeout and a little more


def report_of(heard: Sequence[Heard], kid: str) -> Report:
    """The report of the independent verifier on all messages, in the order of arrival."""
    verifier = Verifier([kid])
    for message in heard:
        verifier.feed(message.payload, message.topic)
    return verifier.finish()


def settle(heard: Sequence[Heard], kid: str, meters: Mapping[str, Meter], offsets: Sequence[float] = (0.0,)) -> Report:
    """Like ``balance``, but losses are not allowed, even if they are stated."""
    report = balance(heard, kid, meters, offsets)
    assert not report.lost
    return report


def balance(heard: Sequence[Heard], kid: str, meters: Mapping[str, Meter], offsets: Sequence[float] = (0.0,)) -> Report:
    """Assert that nothing is missing or wrong. Returns the independent verifier's report.

    The chain is unbroken and has no hole in time. No pack arrived with two bodies, and no reading is in two packs. Each
    number that arrived was served by its device. Each number that was served arrived, or its time lies in a stated gap
    or loss.

    Args:
        offsets: all differences between the agent's clock and ours during the test, in seconds.
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


def bodies(heard: Sequence[Heard]) -> list[dict[str, Any]]:
    """Each pack once, in the order of arrival. Asserts that all copies of a pack have the same bytes."""
    seen: dict[tuple[str, str, int], bytes] = {}
    for message in heard:
        if message.road in ("readings", "backfill"):
            pack = json.loads(message.payload)
            name = (pack["stream"], pack["boot"], pack["seq"])
            assert seen.setdefault(name, message.payload) == message.payload, f"{name} came with two different bodies"
    return [json.loads(data) for data in seen.values()]


def gaps_of(packs: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """The time ranges of stated gaps that cover the counter of a Meter."""
    return [
        (gap["from"], gap["to"])
        for pack in packs
        for gap in pack.get("gaps", ())
        if gap["points"] == "*" or "ac.energy.import" in gap["points"]
    ]


def losses_of(packs: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """The time ranges of stated losses."""
    return [(e["from"], e["to"]) for pack in packs for e in pack.get("events", ()) if e["event"] == "loss"]


def counted(pack: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records of a pack that hold the number of a Meter's answer."""
    return [record for record in pack.get("e", ()) if record["n"] == "ac.energy.import"]


def times(pack: Mapping[str, Any]) -> list[float]:
    """The read times of the records that ``counted`` returns, in UTC seconds."""
    base = pack["e"][0].get("bt", 0) if pack.get("e") else 0
    found, at = [], base
    for record in pack.get("e", ()):
        at = record.get("bt", base)
        base = at
        if record["n"] == "ac.energy.import":
            found.append(at + record.get("t", 0))
    return found


def gaps(packs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, float, float]]:
    """The (reason, points, from, to) of all stated gaps. ``points`` is ``*``, or names separated by commas."""
    return [
        (g["reason"], g["points"] if g["points"] == "*" else ",".join(g["points"]), g["from"], g["to"])
        for pack in packs
        for g in pack.get("gaps", ())
    ]


def reasons(report: Report, device: str) -> dict[str, int]:
    """The number of missing readings of a device, by reason."""
    return report.streams[f"{SITE}/{device}"].gap_reasons


# Gap reasons that a busy machine alone can cause: a poll or an answer is too late, a device is late for so long that it
# counts as dead, or a start takes seconds.
BUSY = frozenset({"overload", "timeout", "absent", "stopped"})


def busy_only(report: Report, device: str, also: Collection[str] = ()) -> bool:
    """Return True if all missing readings of a device can be due to a busy machine.

    Their number says nothing about the agent. Tests in made-up time check that it misses no tick when it has time.

    Args:
        also: reasons that the scenario itself causes.
    """
    return reasons(report, device).keys() <= BUSY | set(also)


def boots(packs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The boots in the order in which they came."""
    return list(dict.fromkeys(pack["boot"] for pack in packs))
