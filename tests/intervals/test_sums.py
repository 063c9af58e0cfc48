"""Sums by role say what the rows say; the store gives back what it was given, folded or not."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.intervals.calendar import Calendar
from agent.intervals.ledger import rows_of_packs
from agent.intervals.query import query
from agent.intervals.rows import FLAW, Flag
from agent.intervals.sums import sums
from agent.intervals.tracked_points import Rule
from agent.service.results.interval_builder import fold
from agent.service.results.rebuild import new_pages
from agent.store import Store
from tests.intervals.test_ledger import growing, lives, meter, play
from tests.kits.ledger import LENGTH, START, STREAM, Book, Packs, point, table
from tests.kits.memory_book import MemoryBook

DAY_MS = 86_400_000


@given(lives(), st.sampled_from(["interval", "hour", "day", "all"]))
def test_sums_are_those_of_the_rows(life: list[tuple[str, int]], by: str) -> None:
    book = Book()
    book.read(play(life).bodies)
    start, end = book.calendar.stretch("day", START)[0], book.calendar.stretch("day", START + DAY_MS)[1]
    found = sums(book, book.calendar, start, end, by)
    whole = sums(book, book.calendar, start, end, by, trail="whole")
    assert [s.amount for s in whole] == [s.amount for s in found]
    for one in sums(book, book.calendar, start, end, "all"):
        packs = [(source.point, source.first_seq, source.last_seq) for source in one.sources]
        for s in whole:
            assert not s.sources or packs == [(o.point, o.first_seq, o.last_seq) for o in s.sources]
    for s in found:
        rows = [row for row in query(book, s.start_ms, s.end_ms) if row.amount is not None and row.flow == s.flow]
        assert s.amount == sum((row.amount for row in rows if row.amount is not None), Decimal(0))
        assert all(row.role == s.role == "grid" and row.unit == s.unit for row in rows)
        flawed = [row for row in rows if row.flags & FLAW]
        assert s.estimated <= sum((row.amount for row in flawed if row.amount is not None), Decimal(0))
        assert bool(s.estimated) <= bool(s.flags & FLAW)
        for source in s.sources:
            assert source.first_seq == min(row.first_seq for row in rows if row.first_seq)
            assert source.last_seq == max(row.last_seq for row in rows)


def test_completeness_counts_every_meter_for_the_whole_stretch() -> None:
    one, two = Book(), Book()
    packs = Packs(meter())
    growing(packs, 70, Decimal(5))
    one.read(packs.bodies)
    silent = Packs(meter())
    for _ in range(5):
        silent.pack([], silent.to_ms + LENGTH)
    two.read(silent.bodies)
    memory = MemoryBook()
    for name, book in (("a", one), ("b", two)):
        for shape, rows in book.made:
            memory.add(name, shape, rows)
    found = sums(memory, one.calendar, START, START + 4 * LENGTH, "all")
    assert len(found) == 1
    assert found[0].completeness == Decimal("0.499972")  # one meter all but 200 ms, the other nothing
    assert found[0].flags & Flag.INCOMPLETE


def test_roles_are_found_by_their_front() -> None:
    document = table(
        point("ac.energy.generation", source={"scale": "0.1"}),
        point("ac.energy.generation.l1", source={"scale": "0.1"}),
        point("meter.ac.energy.import", source={"scale": "0.1"}),
        roles={"ac": "generation.pv", "meter.ac": "grid"},
    )
    packs, book = Packs(document), Book()
    for n in range(40):
        t, v = packs.to_ms, Decimal(n) / 10
        packs.pack([(t, p["n"], v, "") for p in document["points"]])
    book.read(packs.bodies)
    by_role = {(s.role, s.flow): s.amount for s in sums(book, book.calendar, START, START + 2 * LENGTH, "all")}
    assert by_role == {("generation.pv", "generation"): 3, ("grid", "import"): 3}  # the phase is not added again
    assert {s.role for s in sums(book, book.calendar, START, START + LENGTH, roles=["generation"])} == {"generation.pv"}


# --- the store


@pytest.fixture
def store(tmp_path: Path) -> Any:
    found = Store.open(tmp_path / "store.db")
    found.db.execute("INSERT INTO boots (boot) VALUES (1)")
    for name in (STREAM, "park7/gw01/m2"):
        found.db.execute(
            "INSERT INTO streams (name, boot, seq, hash, to_ms, ring_id, ring_pos, crc) VALUES (?,1,1,x'00',0,0,0,0)",
            (name,),
        )
    found.packs.refresh()
    yield found
    found.close()


def written(store: Store, life: list[tuple[str, int]]) -> Book:
    book = Book()
    for body in play(life).bodies:
        before = len(book.pages)
        book.read([body])
        if len(book.pages) > before:
            made = new_pages(STREAM, book.made, book.calendar)
            store.intervals.add(made, {STREAM: (body["seq"], book.ledger.state())})
            book.made.clear()
    return book


LIFE = [("read", 25), ("silent", 9), ("read", 20), ("zero", 1), ("read", 20), ("epoch", 1), ("read", 9), ("back", 3)]


def test_the_store_gives_back_what_it_was_given_and_folding_changes_nothing(store: Store) -> None:
    book = written(store, LIFE)
    rows = list(query(store.intervals, 0, 1 << 50))
    assert rows == list(query(book, 0, 1 << 50))
    assert any(row.revision for row in rows)
    changed = store.intervals.interval_changes(0)
    assert changed and not store.intervals.interval_changes(changed[-1][0])
    assert {start for _, start, _ in changed} >= {row.start_ms for row in rows if row.revision}
    pages = store.db.execute("SELECT count(*) FROM interval_pages").fetchone()[0]
    while store.intervals.merge_days(START + 30 * DAY_MS, book.calendar.day, fold):
        pass
    assert store.db.execute("SELECT count(*) FROM interval_pages").fetchone()[0] < pages / 2
    assert list(query(store.intervals, 0, 1 << 50)) == rows
    state = store.intervals.state(STREAM)
    assert state is not None and state[0] > 10


def test_intervals_leave_when_they_are_old(store: Store) -> None:
    book = written(store, LIFE)
    last = book.pages[-1].to_ms
    assert store.intervals.prune(last - LENGTH) > 0
    assert {row.end_ms for row in query(store.intervals, 0, 1 << 50)} <= {last, last - LENGTH}
    assert store.intervals.prune(last + 1) > 0
    assert list(query(store.intervals, 0, 1 << 50)) == []


def test_a_stream_without_packs_can_have_no_intervals(store: Store) -> None:
    book = Book()
    book.read(play(LIFE).bodies)
    shape, rows = book.made[0]
    with pytest.raises(ValueError, match="has no pack in this database"):
        store.intervals.add(new_pages("park7/gw01/nobody", [(shape, rows)], book.calendar), {})
    assert list(query(store.intervals, 0, 1 << 50)) == []


def test_packs_say_it_all_again() -> None:
    """What a verifier needs: the same rows from the published bytes."""
    import json

    packs, memory = play(LIFE), MemoryBook()
    data = [json.dumps(body).encode() for body in packs.bodies]
    for _, shape, rows in rows_of_packs(STREAM, data, Calendar("Asia/Shanghai"), Rule()):
        memory.add(STREAM, shape, rows)
    book = Book()
    book.read(packs.bodies)
    assert list(query(memory, 0, 1 << 50)) == list(query(book, 0, 1 << 50))
    assert memory.changed
