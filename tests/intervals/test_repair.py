"""What follows from corrected intervals: pages that end at midnight, events of signed days, figures that wait."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from agent.intervals.calendar import Calendar
from agent.intervals.tracked_points import Rule
from agent.service.results.interval_builder import IntervalBuilder
from agent.service.results.publisher import corrected_figures
from agent.service.results.rebuild import new_pages
from agent.store import NewPage, Store
from tests.intervals.test_cut_off import Gateway, age
from tests.kits.ledger import LENGTH, STREAM, Book, Packs, point, table
from tests.kits.made_parks import make
from tests.kits.metered_days import packs

DAY_MS = 86_400_000
CUT = Calendar("Asia/Shanghai")
NOON = CUT.midnight(date(2026, 11, 26)) + DAY_MS // 2


@pytest.fixture
def store(tmp_path: Path) -> Store:
    park = make(3)
    found = Store.open(tmp_path / "store.db")
    found.packs.commit(park.packs[:5])
    return found


def changed(*starts: int) -> list[NewPage]:
    return [NewPage(STREAM, start, start + LENGTH, b"{}", b"", ((start, start + LENGTH),)) for start in starts]


def test_a_correction_of_a_signed_day_is_an_event(store: Store) -> None:
    assert corrected_figures(store, CUT, NOON) == ([], 0), "what was corrected before anybody asked is not told"
    yesterday, before = NOON - DAY_MS, NOON - 2 * DAY_MS
    store.intervals.add(changed(yesterday, before, before + LENGTH, NOON - 7 * DAY_MS, NOON), {})
    events, last = corrected_figures(store, CUT, NOON + LENGTH)
    assert [(event["event"], event["from"], event["to"]) for event in events] == [
        ("figures_corrected", (NOON - 7 * DAY_MS) // 1000, (NOON - 7 * DAY_MS + LENGTH) // 1000),
        ("figures_corrected", before // 1000, (yesterday + LENGTH) // 1000),
    ], "a run of days is one event; the day that is not over was never signed"
    assert corrected_figures(store, CUT, NOON + LENGTH)[0] == events, "told again where the pack was not committed"
    store.intervals.announce_changes(last)
    assert corrected_figures(store, CUT, NOON + LENGTH) == ([], last)


def test_what_was_corrected_before_an_upgrade_is_not_told(store: Store) -> None:
    store.intervals.add(changed(NOON - DAY_MS), {})
    assert corrected_figures(store, CUT, NOON)[0] == []


def test_a_page_ends_at_midnight() -> None:
    """A query looks back a day for pages: after an outage of three days one page would hide what it holds."""
    packs, book = Packs(table(point("ac.energy.import", source={"scale": "0.1"}))), Book()
    for n in range(20):
        packs.pack([(packs.to_ms + 200, "ac.energy.import", 1000 + n, "")])
    packs.restart(3 * DAY_MS)
    for n in range(20):
        packs.pack([(packs.to_ms + 200, "ac.energy.import", 1300 + n, "")])
    book.read(packs.bodies)
    assert any(len(rows) > 250 for _, rows in book.made), "made in one go"
    pages = new_pages(STREAM, book.made, book.calendar)
    assert len(pages) >= 4
    for page in pages:
        assert book.calendar.day(page.from_ms) == book.calendar.day(page.to_ms - 1)


def test_intervals_that_are_written_after_their_results_count_as_changed() -> None:
    """Of a device that was silent for long: a month that was added up before is added up again."""
    packs, book = Packs(table(point("ac.energy.import", source={"scale": "0.1"}))), Book()
    for n in range(50):
        packs.pack([(packs.to_ms + 200, "ac.energy.import", 1000 + n, "")])
    book.read(packs.bodies)
    first = book.made[0][1][0]
    assert all(page.changed == () for page in new_pages(STREAM, book.made, book.calendar))
    late = new_pages(STREAM, book.made, book.calendar, published_ms=first.end_ms)
    assert [page.changed for page in late if page.changed] == [((first.start_ms, first.end_ms),)]


def test_results_wait_for_a_stream_that_has_not_begun(tmp_path: Path) -> None:
    """After a start they were sealed as soon as the first devices had written theirs."""
    gateway = Gateway(tmp_path, make(3))
    gateway.commit(gateway.park.packs)
    assert gateway.builder.closed_ms([STREAM]) > 0
    assert gateway.builder.closed_ms([STREAM, "park7/gw01/other"]) == 0
    again = IntervalBuilder(gateway.park.calendar, gateway.park.rule, 10**15, lambda stream, event: None)
    again.add_streams([STREAM])
    assert again.closed_ms([STREAM]) == 0, "its packs are not read yet"
    gateway.close()


def test_what_many_streams_come_to_in_one_turn_is_one_transaction(tmp_path: Path) -> None:
    """Each stream waited for the disk by itself: at the first start of 3,000 devices on a card, for minutes."""
    store, names = Store.open(tmp_path / "store.db"), [f"park7/gw01/m{n}" for n in range(12)]
    for name in names:
        store.packs.commit(packs(NOON, 60, stream=name))
    builder = IntervalBuilder(CUT, Rule(LENGTH), 10**15, lambda stream, event: None)
    builder.add_streams(names)
    stored, turns, add = [], 0, store.intervals.add

    def counted(pages: Iterable[NewPage], states: Mapping[str, Any], *more: Any) -> None:
        stored.append(len(states))
        add(pages, states, *more)

    store.intervals.add = counted  # type: ignore[method-assign]
    while builder.catch_up(store):
        turns += 1
    assert len(stored) <= turns + 1 and sum(stored) == len(names) and builder.closed_ms(names) > NOON
    for name in names:
        assert (state := store.intervals.state(name)) is not None and state[0] == store.packs.head(name).seq
    store.close()


def test_a_repair_goes_from_the_newest_day_back_and_on_after_a_kill(tmp_path: Path) -> None:
    park = make(6001, packs=300, hours=168)
    gateway = Gateway(tmp_path, park)
    gateway.commit(park.packs)
    age(gateway, random.Random(1))
    store = Store.open(gateway.path)
    seen: list[int] = []
    while True:  # each turn is another start, killed after a slice
        builder = IntervalBuilder(park.calendar, park.rule, 10**15, lambda stream, event: None)
        builder.repair.open(store)
        builder.add_streams([STREAM])
        while builder.catch_up(store):
            pass
        before_ms = store.intervals.repairs()[STREAM].before_ms
        seen.append(before_ms)
        if not before_ms:
            break
        facts = builder.repair.facts()
        assert facts["streams"] == 1 and facts["packs_from"] * 1000 <= facts["compared_from"] * 1000 == before_ms
        while store.intervals.repairs()[STREAM].before_ms == before_ms:
            builder.repair.step(store)
    assert len(seen) >= 5 and sorted(seen, reverse=True) == seen, "a day or more at a time"
    assert builder.repair.facts() == {}
    store.close()


def test_other_settings_make_the_intervals_again(tmp_path: Path) -> None:
    """Another length of intervals: every stretch of time counts once, cut the new way."""
    park = make(6001, packs=120, hours=60)
    gateway = Gateway(tmp_path / "one", park)
    gateway.commit(park.packs[:100])
    gateway.builder.save(gateway.store)
    gateway.close()
    other = make(6001, packs=120, hours=60)
    other.calendar, other.rule = (
        Calendar(park.calendar.timezone, 3_600_000),
        Rule(park.rule.max_gap_ms, 900_000, park.rule.slip_ms),
    )
    again, once = Gateway(tmp_path / "one", other), Gateway(tmp_path / "once", other)
    again.commit(park.packs[100:])
    once.commit(other.packs)
    assert again.rows() == once.rows()
    assert again.sums() == once.sums()
    again.close()
    once.close()
