"""Readings that wait for a finding in the running agent: what becomes of them, and of the counter after them."""

from __future__ import annotations

from decimal import Decimal

from agent.intervals.rows import Flag
from tests.kits.ledger import Book, Packs, point, table

ENERGY = "ac.energy.import"
ONES = (1 << 32) - 1


def lived(*values: int | None, bits: int = 32, digits: int = 0, scale: int = 1) -> Book:
    """One reading a minute; None: silence. Then another hour, so that everything is judged."""
    width = {"digits": digits} if digits else {"bits": bits}
    packs, book = Packs(table(point(ENERGY, source={"scale": str(scale)}, **width))), Book()
    last = next(v for v in reversed(values) if v is not None)
    for value in (*values, *(last + n for n in range(1, 61))):
        packs.pack([] if value is None else [(packs.to_ms, ENERGY, value * scale, "")])
    book.read(packs.bodies)
    return book


def kinds(book: Book) -> list[str]:
    return [counter_event.kind for counter_event in book.ledger.counter_events]


def amount(book: Book) -> Decimal:
    return sum((row.amount or Decimal(0) for row in book.rows()[:4]), Decimal(0))


GROWN = tuple(range(5000, 5020))


def test_another_meter_beyond_half_of_the_range_counts_on() -> None:
    """It was held for a glitch as long as it was there, and nothing was counted any more."""
    book = lived(*GROWN, *range(700_000, 700_020), digits=6)
    assert kinds(book) == ["swap"]
    assert amount(book) == 60 - 1, "all but the minute in which it was changed"


def test_garbage_of_that_size_does_not_count() -> None:
    for odd in ([ONES - 200], [ONES - 200] * 9, [3_000_000_000, 2_900_000_000]):
        book = lived(*GROWN, *odd, *range(5020 + len(odd), 5040))
        assert set(kinds(book)) == {"glitch"}
        assert amount(book) == 60, odd


def test_numbers_that_no_counter_reaches_are_no_readings() -> None:
    """A few in a row were taken for another meter, and the kernel that counts refused them with an error."""
    book = lived(*GROWN, *range(10**17, 10**17 + 12), *range(5032, 5040), bits=64)
    assert kinds(book) == ["glitch"] * len(kinds(book)) != []
    assert amount(book) == 60


def test_all_ones_of_a_counter_at_zero_are_no_other_meter() -> None:
    book = lived(*[0] * 10, ONES, ONES, *[0] * 10, *range(1, 10))
    assert kinds(book) == ["glitch"]
    assert amount(book) == 60 - 21


def test_a_night_of_all_ones_is_one_event_even_if_the_point_table_changes() -> None:
    """Another point of the device is new; the counter and its glitch are the same."""
    counter = point(ENERGY, bits=32)
    packs, book = Packs(table(counter)), Book()
    for value in (*GROWN, ONES, ONES):
        packs.pack([(packs.to_ms, ENERGY, value, "")])
    packs.birth(table(counter, point("ac.energy.export", bits=32)))
    for value in (ONES, ONES, *range(5024, 5100)):
        packs.pack([(packs.to_ms, ENERGY, value, "")])
    book.read(packs.bodies)
    assert kinds(book) == ["glitch"]
    assert amount(book) == 60


def test_two_that_are_none_follow_each_other() -> None:
    """field pain 33: zero, then all ones, while an inverter boots."""
    for odd in ((0, ONES), (ONES, 0), (-1, 0), (0, 0, ONES)):
        book = lived(*GROWN, *odd, *range(5020 + len(odd), 5040))
        assert set(kinds(book)) == {"glitch"}
        assert amount(book) == 60, odd


def test_a_device_that_counts_in_tens_is_judged_like_one_that_counts_in_units() -> None:
    """How far a counter must have moved before a finding is certain is a number of its counts."""
    values = (5000, 5001, 5002, *[1] * 7, 0, 1, 0, 1, 1, 5, 2, 7, 8)
    units, tens = lived(*values), lived(*values, scale=10)
    assert kinds(units) == kinds(tens) == ["reset", "glitch"]
    assert amount(tens) == 10 * amount(units)


def test_a_fall_from_a_reading_that_was_counted_is_no_growth() -> None:
    """One reading was too high, but plain; the growth after it was counted from the reading before it once more."""
    steady = [*range(50_000, 51_200, 100), *range(51_200, 52_600, 300)]
    book = lived(*steady, 54_400, *range(52_500, 54_000, 100))
    assert kinds(book) == ["back_step"]
    assert book.ledger.counter_events[0].before == 54_400 and book.ledger.counter_events[0].growth == 0
    assert amount(book) == 54_400 - 50_000 + (53_900 - 52_500) + 28
    assert any(row.flags & Flag.BACK_STEP for row in book.rows())


def test_a_waiting_reading_is_judged_after_the_clock_was_set_ahead() -> None:
    """Its new time was outside of the boundaries of the kernel, so the intervals of the stream stopped."""
    packs, book = Packs(table(point(ENERGY))), Book()
    for value in GROWN:
        packs.pack([(packs.to_ms, ENERGY, value, "")])
    packs.pack([], packs.to_ms + 25 * 3_600_000)
    packs.pack([(packs.to_ms, ENERGY, 3, "")])  # the meter was replaced during the silence
    packs.step(40 * 86_400_000)
    packs.pack([])
    packs.birth(table(point(ENERGY), epoch=2))  # the old counter ends, so its reading is judged at once
    for value in range(4, 40):
        packs.pack([(packs.to_ms, ENERGY, value, "")])
    book.read(packs.bodies)
    assert kinds(book) == ["reset"]
    assert book.rows()[-1].amount == 15
