"""The books at the verifier's side: what came is whole, signed, in order, and nothing else than what was served."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from agent.verify import Report, Verdict, Verifier
from tests.kits.house import SITE, Heard, Meter


def report_of(heard: Sequence[Heard], kid: str) -> Report:
    """The independent verifier's word on all that came, in the order in which it came."""
    verifier = Verifier([kid])
    for message in heard:
        verifier.feed(message.payload, message.topic)
    return verifier.finish()


def settle(heard: Sequence[Heard], kid: str, meters: Mapping[str, Meter]) -> Report:
    """Assert that the books balance; returns the verifier's report.

    Every due tick is a reading or a stated gap, the chain is unbroken, no pack or reading exists twice with
    different bytes or in two packs, and each number that came was served once, by this device, before it came.
    """
    report = report_of(heard, kid)
    assert report.verdict is Verdict.VERIFIED, (report.reasons, report.faults[:5])
    assert not report.failed and not report.missing and not report.lost
    seen: dict[tuple[str, str, int], bytes] = {}
    for message in heard:
        if message.road in ("readings", "backfill"):
            pack = json.loads(message.payload)
            name = (pack["stream"], pack["boot"], pack["seq"])
            assert seen.setdefault(name, message.payload) == message.payload, f"{name} came with two different bodies"
    packs = [json.loads(data) for data in seen.values()]
    for device, meter in meters.items():
        numbers = [(r["v"], pack) for pack in packs if pack["stream"] == f"{SITE}/{device}" for r in counted(pack)]
        twice = [number for number, count in Counter(n for n, _ in numbers).items() if count > 1]
        assert not twice, f"{device}: readings in two packs: {twice[:5]}"
        for number, _ in numbers:
            assert number in meter.served, f"{device}: {number} was never served"
    return report


def counted(pack: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records of a pack that hold the number of a Meter's answer."""
    return [record for record in pack.get("e", ()) if record["n"] == "ac.energy.import"]


def times(pack: Mapping[str, Any]) -> list[float]:
    """The read times of those records, in UTC seconds."""
    base = pack["e"][0].get("bt", 0) if pack.get("e") else 0
    found, at = [], base
    for record in pack.get("e", ()):
        at = record.get("bt", base)
        base = at
        if record["n"] == "ac.energy.import":
            found.append(at + record.get("t", 0))
    return found


def gaps(packs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, float, float]]:
    """(reason, points, from, to) of all stated gaps; points ``*`` or their names with commas."""
    return [
        (g["reason"], g["points"] if g["points"] == "*" else ",".join(g["points"]), g["from"], g["to"])
        for pack in packs
        for g in pack.get("gaps", ())
    ]


def reasons(report: Report, device: str) -> dict[str, int]:
    """Missing readings of a device by their reason."""
    return report.streams[f"{SITE}/{device}"].gap_reasons


# what a busy machine costs by itself, honestly stated: a poll or an answer comes too late, a device's answers come too
# late for so long that it counts as dead, a start takes seconds
BUSY = frozenset({"overload", "timeout", "absent", "stopped"})


def busy_only(report: Report, device: str, also: Collection[str] = ()) -> bool:
    """Is nothing missing of a device but what a busy machine costs? How much that is says nothing of the agent: that it
    misses no tick where it has time is for tests with a time that is made up.

    Args:
        also: reasons that the scenario itself made.
    """
    return reasons(report, device).keys() <= BUSY | set(also)


def lost(report: Report, device: str, meter: Meter, numbers: Collection[int]) -> list[int]:
    """Answers that were served and neither came nor can be meant by a stated gap. Must be none.

    On a busy machine an answer may come too late for its visit: then its tick is a gap, one an answer.
    """
    missing = sorted(meter.served.keys() - set(numbers))
    return [] if len(missing) <= reasons(report, device).get("timeout", 0) else missing


def boots(packs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The boots in the order in which they came."""
    return list(dict.fromkeys(pack["boot"] for pack in packs))
