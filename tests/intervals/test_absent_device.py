"""A device that was never there has its intervals, and why they are empty, from its second pack on."""

from __future__ import annotations

from array import array

from agent.intervals.gap_sums import GapRow
from tests.kits.ledger import START, Book, Packs, point, table

MINUTE = 60_000


def silent(packs: Packs, minutes: int, reason: str) -> None:
    start_ms, end_ms = packs.to_ms, packs.to_ms + minutes * MINUTE
    gap = {"from": start_ms / 1000, "to": end_ms / 1000, "points": "*", "reason": reason}
    packs._add(end_ms, [], array("Q"), gaps=[gap])


def test_gaps_of_a_device_that_never_answered_are_written_with_its_second_pack() -> None:
    """A silent stream is sealed each quarter of an hour: three packs would be three of them."""
    packs, book = Packs(table(point("ac.energy.import"))), Book()
    silent(packs, 1, "timeout")
    silent(packs, 18, "absent")
    book.read(packs.bodies)
    assert book.ledger.gap_rows() == [
        GapRow(START, "absent", 14 * MINUTE, 14 * MINUTE), GapRow(START, "timeout", MINUTE, MINUTE)
    ]  # fmt: skip


def test_readings_that_may_still_come_are_waited_for() -> None:
    packs, book = Packs(table(point("ac.energy.import"))), Book()
    for reason in ("timeout", "stopped", "ring"):
        silent(packs, 15, reason)
    book.read(packs.bodies)
    assert book.ledger.gap_rows() == []
