"""What is missing, by interval and reason: as the packs state it, over every start, upgrade and step of the clock."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest

from agent.intervals.calendar import Calendar
from agent.intervals.gap_sums import Gap, GapRow, GapSums
from agent.intervals.ledger import Ledger
from agent.intervals.state import pack_state, unpack_state
from agent.intervals.tracked_points import Rule
from agent.service.results import rebuild
from agent.store import NewGaps, Store
from tests.intervals.test_cut_off import END, OLD_STATE, Gateway
from tests.kits.ledger import LENGTH, START, STREAM, Book, Packs, point, table
from tests.kits.made_parks import HARMLESS, Pack, Park, make
from tests.kits.metered_days import MINUTE, packs

CUT = Calendar("Asia/Shanghai")


def by_hand(park: Park) -> dict[tuple[int, str], tuple[int, int]]:
    """(ms, whole_ms) by interval and reason, second by second."""
    missing: dict[tuple[int, str, str], int] = defaultdict(int)  # second, reason, how much: in how many ticks
    tick: set[tuple[int, str, str]] = set()
    to_s: int | None = None
    for pack in park.packs:
        body = json.loads(pack.data)
        for second in range(int(to_s or body["from"]), int(body["from"])):  # the clock jumped over it
            tick |= {(second, "clock", "some"), (second, "clock", "all")}
        to_s = body["to"]
        for gap in body.get("gaps", ()):
            for second in range(gap["from"], gap["to"]):
                tick.add((second, gap["reason"], "some"))
                if gap["points"] == "*":
                    tick.add((second, gap["reason"], "all"))
        k, n = body.get("part", (1, 1))
        if k == n:
            for one in tick:
                missing[one] += 1
            tick = set()
    out: dict[tuple[int, str], tuple[int, int]] = {}
    for (second, reason, what), times in missing.items():
        key = park.calendar.floor(second * 1000), reason
        some, whole = out.get(key, (0, 0))
        out[key] = (some + 1000 * times, whole) if what == "some" else (some, whole + 1000 * times)
    return out


@pytest.mark.parametrize("seed", range(40, 52))
def test_the_rows_are_what_the_packs_state(tmp_path: Path, seed: int) -> None:
    park = make(seed, 60)
    gateway = Gateway(tmp_path, park)
    for pack in park.packs:
        gateway.commit([pack])
    known, written_ms = by_hand(park), gateway.builder.closed_ms([STREAM])
    found = {(row.start_ms, row.reason): (row.ms, row.whole_ms) for row in gateway.gaps()}
    assert found == {key: sums for key, sums in known.items() if key[0] < written_ms}
    assert found, "something was missing"
    assert gateway.store.intervals.gaps.starts() == {STREAM: 0}
    gateway.close()


def older(gateway: Gateway) -> None:
    """The state as a version without gaps wrote it."""
    kept = gateway.store.intervals.state(STREAM)
    assert kept is not None
    document, slots = unpack_state(kept[1])
    del document["gaps"]
    gateway.store.intervals.add([], {STREAM: (kept[0], pack_state(document, slots))})


def test_a_failed_transaction_adds_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that could not be stored wait; if their stream is read again from its state meanwhile, they come once."""
    from agent.store import StoreFull

    park = make(31, 60, HARMLESS, 60)
    once, cut = Gateway(tmp_path / "once", park), Gateway(tmp_path / "cut", park)
    once.commit(park.packs)
    cut.commit(park.packs[:20])

    def full(*what: object) -> None:
        raise StoreFull("no space left", where="store.db")

    with monkeypatch.context() as patch:
        patch.setattr(cut.store.intervals, "add", full)
        cut.commit(park.packs[20:40])
        cut.builder._states.clear()  # as when the ring was overwritten before it was read
    cut.commit(park.packs[40:])
    assert cut.gaps() == once.gaps() and cut.rows() == once.rows()
    once.close()
    cut.close()


def test_parts_of_a_tick_count_once() -> None:
    sums = GapSums()
    sums.add([Gap(START, START + 5000, "timeout", False)], (1, 2))
    assert sums.take(START + LENGTH, CUT) == [], "the other part may state the same"
    sums.add([Gap(START + 2000, START + 9000, "timeout", False)], (2, 2))
    assert sums.take(START + LENGTH, CUT) == [GapRow(START, "timeout", 9000, 0)]


def test_a_long_silence_is_one_stretch() -> None:
    sums, end = GapSums(), START + 10 * 365 * 96 * LENGTH
    sums.add([Gap(START, end, "stopped", True)])
    assert len(json.dumps(sums.state())) < 100
    assert sums.take(START + 2 * LENGTH, CUT) == [
        GapRow(START, "stopped", LENGTH, LENGTH),
        GapRow(START + LENGTH, "stopped", LENGTH, LENGTH),
    ]
    again = GapSums()
    again.restore(json.loads(json.dumps(sums.state())))
    assert again.take(START + 3 * LENGTH, CUT) == [GapRow(START + 2 * LENGTH, "stopped", LENGTH, LENGTH)]


def test_a_clock_that_was_set_back_adds_up() -> None:
    packs, book = Packs(table(point("ac.energy.import", source={"scale": "0.1"}))), Book()
    gap = {"from": START // 1000, "to": START // 1000 + 60, "points": "*", "reason": "crc"}
    for n in range(40):
        packs.pack([(packs.to_ms + 200, "ac.energy.import", 1000 + n, "")])
    packs.bodies[1]["gaps"] = [gap]
    packs.step(START - packs.to_ms)
    for n in range(40):
        packs.pack([(packs.to_ms + 200, "ac.energy.import", 1100 + n, "")])
    packs.bodies[41]["gaps"] = [gap]
    rows = []
    for body in packs.bodies:
        book.read([body])
        rows += book.ledger.gap_rows()
    assert rows == [GapRow(START, "crc", 60_000, 60_000)] * 2
    assert isinstance(book.ledger, Ledger)


def test_time_that_a_clock_jumped_over_is_missing_because_of_the_clock() -> None:
    packs, book = Packs(table(point("ac.energy.import", source={"scale": "0.1"}))), Book()
    for n in range(10):
        packs.pack([(packs.to_ms + 200, "ac.energy.import", 1000 + n, "")])
    before_ms = packs.to_ms
    packs.step(20 * 60_000)
    for n in range(20):
        packs.pack([(packs.to_ms + 200, "ac.energy.import", 1010 + n, "")])

    book.read(packs.bodies)
    rows = book.ledger.gap_rows()

    assert {row.reason for row in rows} == {"clock"}
    assert sum(row.ms for row in rows) == sum(row.whole_ms for row in rows) == 20 * 60_000
    assert rows[0].start_ms == CUT.floor(before_ms)


def test_a_clock_that_was_never_set_before_makes_no_missing_time_of_decades() -> None:
    packs, book = Packs(table(point("ac.energy.import", source={"scale": "0.1"}))), Book()
    packs.pack([(packs.to_ms + 200, "ac.energy.import", 1000, "")])
    packs.step(40 * 365 * 96 * LENGTH)
    for n in range(20):
        packs.pack([(packs.to_ms + 200, "ac.energy.import", 1010 + n, "")])

    book.read(packs.bodies)

    assert book.ledger.gap_rows() == []


def test_rows_go_with_the_pages_of_their_time(tmp_path: Path) -> None:
    park = make(31, 60, HARMLESS, 60)
    gateway = Gateway(tmp_path, park)
    gateway.commit(park.packs)
    _, last = gateway.store.intervals.span()
    assert gateway.gaps()
    gateway.store.intervals.prune(last + 1)
    assert not [row for row in gateway.gaps() if row.start_ms < last - 25 * 3_600_000]
    gateway.store.intervals.gaps.prune(last + 26 * 3_600_000)
    assert gateway.gaps() == []
    gateway.close()


def test_reading_is_bounded_and_in_order(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store.db")
    store.packs.commit([Pack(STREAM, "a" * 16, 1, 0, 1000, True, b"{}")])
    rows = [GapRow(n * LENGTH, reason, n, 0) for n in range(1500) for reason in ("crc", "timeout")]
    store.intervals.add([], {}, gaps=[NewGaps(STREAM, rows)])
    assert [row for _, row in store.intervals.gaps.rows(0, END)] == rows
    some = [row for _, row in store.intervals.gaps.rows(10 * LENGTH, 20 * LENGTH, [STREAM])]
    assert some == [row for row in rows if 10 * LENGTH <= row.start_ms < 20 * LENGTH]
    assert list(store.intervals.gaps.rows(0, END, ["park7/gw01/other"])) == []
    store.close()
    with closing(sqlite3.connect(tmp_path / "store.db")) as conn:
        (size,) = conn.execute("SELECT sum(length(reason) + 25) FROM interval_gaps").fetchone()
        assert size / 3000 < 40, "bytes a row, about"


@pytest.mark.parametrize("how", ["old state", "damaged page", "damaged state"])
def test_a_clock_that_was_set_back_over_midnight(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an hour of the first day comes again after it was over: whatever is rebuilt has both times of it."""
    monkeypatch.setattr(rebuild, "PACKS", 1)
    calendar = Calendar("Asia/Shanghai")
    begin = calendar.midnight(date(2026, 11, 24))
    first = packs(begin, 24 * 60 + 10, [(1425, 1430, "crc", "*")])
    again = packs(begin + 1420 * MINUTE, 40 * 60, [(5, 10, "crc", "*"), (30, 40, "timeout", "*")], seq=len(first))
    park = Park(calendar, Rule(), [*first, *again], {}, {})
    gateway = Gateway(tmp_path, park)
    for pack in park.packs:
        gateway.commit([pack])
    gateway.builder.save(gateway.store)
    wanted, rows = gateway.gaps(), gateway.rows()
    assert wanted[0] == GapRow(begin + 1425 * MINUTE, "crc", 600_000, 600_000), "five minutes, twice"
    if how == "old state":
        gateway.store.intervals.add([], {STREAM: (gateway.store.packs.heads()[STREAM].seq, OLD_STATE)})
    elif how == "damaged state":
        gateway.store.intervals.add([], {STREAM: (gateway.store.packs.heads()[STREAM].seq, b"MHL3 not one")})
    else:
        gateway.store.db.execute("UPDATE interval_gaps SET ms = 1 WHERE start_ms = ?", (wanted[0].start_ms,))
        assert gateway.gaps() != wanted
    gateway.builder.rebuild_damaged(gateway.store)
    gateway.close()
    gateway = Gateway(tmp_path, park)
    assert gateway.gaps() == wanted
    assert gateway.rows() == rows
    gateway.close()
