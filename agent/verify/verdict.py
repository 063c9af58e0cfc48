"""Adds the sums, the verdict and the reasons for the verdict to the report on all streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from .report import Fault, Faults, Report, Verdict

LISTED: Final = 3  # this many reasons of one kind are listed; further ones are only counted
FAULTS: Final = 100


def add_up(total: Report, outside: Faults, first_bad: Fault | None) -> None:
    """Set the sums over the streams of ``total``.

    Args:
        outside: faults of objects that belong to no stream, or whose signature is invalid.
        first_bad: the first refused object; None if no object was refused.
    """
    every = total.streams.values()
    total.packs = sum(s.packs for s in every)
    total.verified = sum(s.verified for s in every)
    total.readings = sum(s.readings for s in every)
    total.gaps = sum(s.gaps for s in every)
    total.asleep = sum(s.asleep for s in every)
    total.redelivered = sum(s.redelivered for s in every)
    total.reordered = sum(s.reordered for s in every)
    total.missing = sum(s.missing_packs for s in every)
    total.lost = sum(s.lost_packs for s in every)
    total.failed = outside.count + sum(s.faults.count for s in every)
    for faults in (outside, *(s.faults for s in every)):
        total.faults += faults.listed
        for code, count in faults.by_code.items():
            total.failures[code] = total.failures.get(code, 0) + count
    total.faults = sorted(total.faults, key=lambda f: f is not first_bad)[:FAULTS]
    conflicts = (Fault("conflict", text, s.stream) for s in every for text in s.conflicts)
    total.first_bad = first_bad or (total.faults[0] if total.faults else next(conflicts, None))


def decide(total: Report, unread: Mapping[str, int], forgotten: int, proven: bool, broken: Sequence[str]) -> None:
    """Set the verdict of a report and its reasons. The sums of the report must be set already.

    Args:
        unread: reason -> number of objects or files that could not be read for this reason.
        forgotten: number of incomplete checkpoints that are counted but not listed.
        proven: True if each gateway that has packs has a pinned key.
        broken: texts about faults that belong to no stream.
    """
    broken, left = [*broken], []
    if total.failed:
        broken.append(f"objects (packs, keys, checkpoints) that were refused or are faulty: {total.failed}")
    for name, stream in total.streams.items():
        broken += [f"{name}: {text}" for text in stream.conflicts[:LISTED]]
        if not stream.asked:
            continue
        left += [f"{name}: {text}" for text in stream.restarts[:LISTED]]
        if stream.unchecked:
            left.append(
                f"{name}: the completeness of {stream.unchecked} packs is unknown, because the birth pack or the rest "
                "of a split pack is missing"
            )
    if total.missing:
        left.append(f"{total.missing} packs missing")
    left += _without_packs(total)
    left += map(str, total.torn_checkpoints[:LISTED])
    if more := max(0, len(total.torn_checkpoints) - LISTED) + forgotten:
        left.append(f"further checkpoints with missing pages: {more}")
    left += [f"objects or files that were not read: {count} ({why})" for why, count in unread.items()]
    if total.held:
        left.append(f"the key record of {total.held} packs is missing")
    if broken:
        total.verdict = Verdict.FAILED
    elif not total.packs and not total.held and not unread:
        total.verdict = Verdict.NOTHING
        left.append("there are no packs")
    elif left:
        total.verdict = Verdict.INCOMPLETE
    elif not proven:
        total.verdict = Verdict.UNPROVEN
        left.append("no thumbprint was pinned: anyone could have created these keys")
    total.reasons = broken + left


def _without_packs(total: Report) -> list[str]:
    """Return a reason for each stream that has no pack although it should have packs."""
    found = []
    for name in total.withheld[:LISTED]:
        seq = total.streams[name].head_seq
        found.append(f"{name}: no pack is present, but a checkpoint says that packs up to sequence {seq} exist")
    if more := max(0, len(total.withheld) - LISTED):
        found.append(f"further streams without packs: {more}")
    found += [
        f"{name}: this stream was agreed, but it appears in no pack or checkpoint" for name in total.unknown[:LISTED]
    ]
    if more := max(0, len(total.unknown) - LISTED):
        found.append(f"further agreed streams that appear in no pack or checkpoint: {more}")
    return found


def shared_pins(gateways: Sequence[str]) -> list[str]:
    """Return the reason why pins without a gateway name do not suffice for several gateways.

    With a pin without a name, the owner of one gateway could sign for the other gateways.
    """
    more = len(gateways) - LISTED
    names = ", ".join(gateways[:LISTED]) + (f" and {more} more" if more > 0 else "")
    what = f"a thumbprint was pinned without the name of its gateway, but there are {len(gateways)} gateways ({names})"
    return [f"{what}: pin each thumbprint as SITE/GATEWAY=THUMBPRINT"]
