"""A stream's way into intervals: from the ring as from packs, over restarts, epochs, outages and steps of the clock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.intervals.amounts import mean_of, tidy
from agent.intervals.calendar import Calendar
from agent.intervals.ledger import Ledger
from agent.intervals.rows import Flag
from agent.intervals.sums import sums
from agent.intervals.tracked_points import Rule
from ext.ring import Ring
from tests.kits.ledger import LENGTH, START, STREAM, Book, Packs, point, table

ENERGY = "ac.energy.import"


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    found = Ring.create(str(tmp_path / "ring"), 1 << 20, 1, 2, bytes(32))
    yield found
    found.close()


def growing(packs: Packs, minutes: int, value: Decimal, step: Decimal = Decimal("0.5")) -> Decimal:
    """A minute a pack, read 200 ms after the tick."""
    for _ in range(minutes):
        packs.pack([(packs.to_ms + 200, ENERGY, value, "")])
        value += step
    return value


def meter(**more: object) -> dict[str, object]:
    return table(point(ENERGY, source={"scale": "0.1"}), **more)  # type: ignore[arg-type]


def test_an_hour_of_a_meter() -> None:
    packs, book = Packs(meter()), Book()
    growing(packs, 61, Decimal(1000))
    book.read(packs.bodies)
    rows = book.rows()
    assert [row.start_ms for row in rows] == [START + n * LENGTH for n in range(3)]
    assert [row.amount for row in rows] == [Decimal("7.4983"), Decimal("7.5"), Decimal("7.5")]
    first, second, _ = rows
    assert first.flags == Flag.INCOMPLETE and first.covered_ms == LENGTH - 200  # there was nothing before 200 ms
    assert second.flags == Flag(0) and second.completeness == 1 and second.readings == 15
    assert (second.role, second.flow, second.unit, second.part) == ("grid", "import", "kWh", "ac")
    assert second.first is not None and second.last is not None
    assert (second.first.time_ms, second.first.value) == (START + LENGTH - 60_000 + 200, Decimal("1007.0"))
    assert (second.last.time_ms, second.last.value) == (START + 2 * LENGTH + 200, Decimal("1015.0"))
    assert (second.first_seq, second.last_seq) == (second.first.seq, second.last.seq) == (16, 32)


def test_intervals_follow_the_clock_of_the_wall() -> None:
    packs, book = Packs(meter()), Book()
    growing(packs, 200, Decimal(1000))
    book.read(packs.bodies)
    assert all(book.calendar.local(row.start_ms).minute % 15 == 0 for row in book.rows())


@st.composite
def lives(draw: st.DrawFn) -> list[tuple[str, int]]:
    kinds = ["read", "read", "read", "silent", "zero", "suspect", "restart", "epoch", "ahead", "back"]
    return [(draw(st.sampled_from(kinds)), draw(st.integers(1, 25))) for _ in range(draw(st.integers(1, 9)))]


def play(life: list[tuple[str, int]], ring: Ring | None = None) -> Packs:
    packs = Packs(meter(), ring)
    value, epoch = Decimal(1000), 1
    for kind, n in life:
        if kind in {"read", "suspect"}:
            for _ in range(n):
                packs.pack([(packs.to_ms + 17 * n, ENERGY, value, "suspect" if kind == "suspect" else "")])
                value += Decimal(n) / 10
        elif kind == "silent":
            packs.pack([], packs.to_ms + n * 300_000)
            value += n
        elif kind == "zero":
            packs.pack([(packs.to_ms + 5, ENERGY, 0, "")])
        elif kind == "restart":
            packs.restart(n * 60_000)
        elif kind == "epoch":
            epoch += 1
            value += 777
            packs.birth(meter(epoch=epoch))
        else:
            packs.step(n * 120_000 * (1 if kind == "ahead" else -1))
    growing(packs, 20, value)
    return packs


@given(lives())
def test_the_ring_and_the_packs_say_the_same(
    tmp_path_factory: pytest.TempPathFactory, life: list[tuple[str, int]]
) -> None:
    ring = Ring.create(str(tmp_path_factory.mktemp("ring") / "ring"), 1 << 18, 1, 2, bytes(32))
    try:
        packs = play(life, ring)
        from_packs, from_ring = Book(), Book()
        from_packs.read(packs.bodies)
        from_ring.read_ring(packs)
        assert from_ring.pages == from_packs.pages
    finally:
        ring.close()


@given(lives(), st.data())
def test_a_restart_at_any_pack_changes_nothing(life: list[tuple[str, int]], data: st.DataObject) -> None:
    """kill -9: the state of the last written rows, and the packs since."""
    packs = play(life)
    once, book = Book(), Book()
    once.read(packs.bodies)
    cut = data.draw(st.integers(1, len(packs.bodies) - 1))
    book.read(packs.bodies[:cut])
    if book.ledger.to_ms and book.ledger.tracked is not None:
        state, document = (
            book.ledger.state(),
            next(b["table"] for b in reversed(packs.bodies[:cut]) if "table" in b),
        )
        after = Book()
        after.pages = book.pages
        after.ledger.restore(state, document)
        after.read(packs.bodies[cut:])
        assert after.pages == once.pages


@given(lives())
def test_no_energy_is_made_and_none_is_counted_twice(life: list[tuple[str, int]]) -> None:
    """# field pains 32, 33, 34: all intervals together are what the counter grew, epochs and resets apart."""
    packs = play(life)
    book = Book()
    book.read(packs.bodies)
    grown, last, epoch = Decimal(0), None, None
    for body in packs.bodies:
        if "table" in body and body["table"]["epoch"] != epoch:
            epoch, last = body["table"]["epoch"], None
        for record in body.get("e", ()):
            value = Decimal(record["x"])
            if value == 0:
                continue
            if last is not None:
                grown += value - last
            last = value
    rows = book.rows()
    written = sum((row.amount for row in rows if row.amount is not None), Decimal(0))
    assert written <= grown + Decimal("0.001")
    if not any(kind in {"zero", "epoch", "back", "ahead"} for kind, _ in life):
        read = [Decimal(record["x"]) for body in packs.bodies for record in body.get("e", ())]
        last = rows[-1].last
        assert last is not None
        # the last boundary lies before its reading, by one step at most
        assert abs(written - (last.value - read[0])) <= max(b - a for a, b in pairwise(read))


def test_a_silent_device_is_completed_later_and_says_so() -> None:
    """Late data after an outage completes open intervals: appended, never edited."""
    packs, book = Packs(meter()), Book()
    value = growing(packs, 20, Decimal(1000))
    for _ in range(4):
        packs.pack([], packs.to_ms + LENGTH)
    written = len(packs.bodies)
    growing(packs, 20, value + 60)
    book.read(packs.bodies[:written])
    before = book.rows()
    assert before[1].covered_ms == 4 * 60_000 + 200 and before[2].amount is None and before[2].readings == 0
    assert before[2].flags == Flag.INCOMPLETE
    first_pages = list(book.pages)
    book.read(packs.bodies[written:])
    after = book.rows()
    assert book.pages[: len(first_pages)] == first_pages
    for row in after[1:5]:
        assert row.flags & Flag.LATE and row.flags & Flag.SPREAD and row.completeness == 1 and row.revision == 1
    assert after[2].spread_ms == LENGTH
    total = sum((row.amount or Decimal(0) for row in after[:6]), Decimal(0))
    assert total > 60 and abs(sum((r.amount or 0) for r in after[2:5]) / 3 - after[2].amount) < Decimal("0.001")


def test_a_downtime_of_the_agent_waits_for_the_first_readings() -> None:
    packs, book = Packs(meter()), Book()
    value = growing(packs, 20, Decimal(1000))
    packs.restart(3 * LENGTH)
    growing(packs, 20, value + 30)
    book.read(packs.bodies)
    rows = book.rows()
    assert all(row.revision == 0 and row.completeness == 1 for row in rows[1:])
    assert all(row.flags & Flag.SPREAD for row in rows[2:4])


def test_a_new_epoch_is_never_spanned() -> None:
    packs, book = Packs(meter()), Book()
    growing(packs, 20, Decimal(1000))
    packs.birth(meter(epoch=2))
    growing(packs, 20, Decimal(9000))
    book.read(packs.bodies)
    row = book.rows()[1]
    assert row.amount == Decimal("2.0017") + Decimal("4.9983")
    assert row.flags & Flag.EPOCH and row.flags & Flag.INCOMPLETE
    assert row.covered_ms == LENGTH - 60_000  # from the last reading of the one to the first of the other


def test_each_part_of_an_interval_is_counted_in_its_own_scale() -> None:
    """All cells were converted with the last scale of the interval, so an export was wrong by a power of ten."""
    packs, book = Packs(meter()), Book()
    growing(packs, 20, Decimal(1000))
    packs.birth(table(point(ENERGY, unit="Wh", source={"scale": "10"}), epoch=2))
    growing(packs, 31, Decimal(9000), Decimal(200))
    book.read(packs.bodies)
    row = book.rows()[1]
    assert row.amount == Decimal("2.0017") + Decimal("1.999333")  # 0.2 kWh a minute
    (total,) = sums(book, book.calendar, row.start_ms, row.end_ms)
    assert (total.amount, total.unit) == (row.amount, row.unit)


def test_a_demand_is_in_the_scale_of_its_own_window() -> None:
    """The highest growth was compared in counts, and converted with the last scale of the interval."""
    packs, book = Packs(meter()), Book(rule=Rule(period_ms=300_000))
    growing(packs, 23, Decimal(1000))
    packs.birth(table(point(ENERGY, source={"scale": "0.001"}), epoch=2))
    growing(packs, 31, Decimal(9000), Decimal("0.25"))
    book.read(packs.bodies)
    assert [row.demand for row in book.rows()[:3]] == [30, 30, 15]


def test_a_power_whose_unit_changes_has_one_lowest_highest_and_mean_value() -> None:
    name = "ac.power.active"
    packs, book = Packs(table(point(name, "gauge", "W", source={"scale": "1", "type": "i32"}))), Book()
    for n in range(40):
        if n == 20:
            packs.birth(table(point(name, "gauge", "kW", source={"scale": "0.1", "type": "i32"}), epoch=2))
        packs.pack([(packs.to_ms, name, 60_000 if n < 20 else 30, "")])
    book.read(packs.bodies)
    row = book.rows(name)[1]
    assert (row.low, row.high, row.gauge_unit, row.unit) == (30, 60, "kW", "kWh")
    assert row.mean == Decimal("38.571429")  # 4 minutes of 60 kW and 10 of 30 kW
    assert row.amount == 9


def test_a_changed_role_goes_on_counting() -> None:
    packs, book = Packs(meter()), Book()
    value = growing(packs, 20, Decimal(1000))
    packs.birth(meter(roles={"ac": "load"}))
    growing(packs, 30, value)
    book.read(packs.bodies)
    rows = book.rows()
    assert [row.role for row in rows[:3]] == ["grid", "load", "load"]
    assert rows[1].amount == Decimal("7.5") and rows[1].flags == Flag(0)


def test_a_meter_that_is_silent_at_night_and_says_zero_at_dawn() -> None:
    """# field pain 34: the counter reads 0 at wake-up; nothing of it is production."""
    packs, book = Packs(meter()), Book()
    value = growing(packs, 20, Decimal(12345))
    for _ in range(3):
        packs.pack([(packs.to_ms + 200, ENERGY, 0, "")])
    growing(packs, 40, value)
    book.read(packs.bodies)
    rows = book.rows()
    assert sum((row.amount or 0) for row in rows[:3]) < Decimal("22.5")
    assert rows[1].flags & Flag.GLITCH and rows[1].completeness == 1
    assert [(h.kind, h.count) for h in book.ledger.counter_events] == [("glitch", 3)]


def test_a_counter_that_stands_after_its_first_step_was_read_all_the_time() -> None:
    """A first rise waits for what is usual; readings that stand meanwhile are readings, and no gap."""
    packs, book = Packs(meter()), Book()
    growing(packs, 2, Decimal(1000), Decimal(30))
    growing(packs, 70, Decimal(1060), Decimal(0))
    growing(packs, 40, Decimal(1060), Decimal(25))
    book.read(packs.bodies)
    rows = book.rows()
    assert not any(row.flags & Flag.SPREAD for row in rows)
    assert rows[0].amount == 60 and rows[1].readings == 15


def test_qualities_reach_the_interval() -> None:
    packs, book = Packs(meter()), Book()
    value = growing(packs, 20, Decimal(1000))
    packs.pack([(packs.to_ms + 200, ENERGY, value, "suspect")])
    packs.pack([(packs.to_ms + 200, ENERGY, value, "estimated")])
    growing(packs, 30, value)
    book.read(packs.bodies)
    rows = book.rows()
    assert rows[0].flags == Flag.INCOMPLETE
    assert rows[1].flags == Flag.SUSPECT | Flag.ESTIMATED
    assert rows[2].flags == Flag(0)


def test_power_is_integrated_only_where_no_counter_is() -> None:
    document = table(point("ac.power.active", "gauge", "kW", source={"scale": "0.001", "type": "i32"}))
    packs, book = Packs(document), Book()
    for n in range(35):
        packs.pack([(packs.to_ms, "ac.power.active", Decimal(60 if n < 20 else -30), "")])
    book.read(packs.bodies)
    rows = book.rows("ac.power.active")
    assert rows[0].amount == 15 and rows[0].flow == "import" and rows[0].flags == Flag.POWER
    assert (rows[0].low, rows[0].high, rows[0].mean, rows[0].gauge_unit) == (60, 60, 60, "kW")
    imported, exported = rows[1], rows[2]
    assert (imported.flow, exported.flow) == ("import", "export")
    assert imported.start_ms == exported.start_ms == START + LENGTH
    assert abs((imported.amount or 0) - Decimal("4.333")) < Decimal("0.01")
    with_counter = table(point(ENERGY), point("ac.power.active", "gauge", "kW"))
    packs, book = Packs(with_counter), Book()
    for _ in range(35):
        packs.pack([(packs.to_ms, ENERGY, 5, ""), (packs.to_ms, "ac.power.active", 60, "")])
    book.read(packs.bodies)
    assert all(row.amount is None and row.mean == 60 for row in book.rows("ac.power.active"))


def test_a_small_negative_mean_is_zero() -> None:
    """A mean of -0.0000004 kW was rounded to -0, which the page and the CSV file showed."""
    for value, text in (("-0.0000004", "0"), ("-0", "0"), ("-0.0000006", "-0.000001"), ("0", "0"), ("-1200", "-1200")):
        assert str(tidy(Decimal(value).quantize(Decimal("1e-6")))) == text
    assert str(mean_of(Decimal("-0.000000004"), 3_600_000)) == "0"


def test_a_gap_of_power_is_not_filled() -> None:
    document = table(point("ac.power.active", "gauge", "kW", source={"scale": "0.001", "type": "i32"}))
    packs, book = Packs(document), Book()
    for n in range(40):
        packs.pack([] if 16 <= n < 26 else [(packs.to_ms, "ac.power.active", 60, "")])
    book.read(packs.bodies)
    row = book.rows("ac.power.active")[1]
    assert row.flags == Flag.POWER | Flag.INCOMPLETE
    assert row.covered_ms == LENGTH - 11 * 60_000 and row.amount == 4


def test_demand_slides_and_stands() -> None:
    """# issue: fixed and sliding demand have two names and are never mixed."""
    packs, book = Packs(meter()), Book(rule=Rule())
    value = Decimal(1000)
    for n in range(70):
        packs.pack([(packs.to_ms, ENERGY, value, "")])
        value += Decimal(10) if 22 <= n < 37 else Decimal(1)
    book.read(packs.bodies)
    rows = book.rows()
    peak = max(rows, key=lambda row: row.demand or 0)
    assert peak.demand == 600  # ten kWh a minute, for the fifteen minutes from 22 to 37
    assert max(row.demand_fixed or 0 for row in rows) < 600
    assert all((row.demand_fixed or 0) <= (row.demand or 0) for row in rows)
    assert rows[1].demand_fixed == (rows[1].amount or 0) * 4


@pytest.mark.parametrize(("month", "day"), [(3, 29), (10, 25)])
def test_fixed_windows_follow_the_local_time_from_the_change_on(month: int, day: int) -> None:
    """The offset of the stored boundaries was used for up to a day, and a restart refreshed it at another time."""
    calendar, hour = Calendar("Europe/Berlin"), 3_600_000
    packs = Packs(meter(), every_ms=300_000)
    packs.to_ms = round(datetime(2026, month, day - 1, 18, tzinfo=UTC).timestamp()) * 1000
    start = packs.to_ms
    growing(packs, 200, Decimal(1000))
    once, again = (Book(calendar, Rule(period_ms=2 * hour, slip_ms=300_000)) for _ in range(2))
    once.read(packs.bodies)
    ends = [row.end_ms for row in once.rows() if row.demand_fixed is not None]
    assert ends == [
        row.end_ms
        for row in once.rows()
        if row.start_ms >= start + 2 * hour and (row.end_ms + calendar.offset_ms(row.end_ms)) % (2 * hour) == 0
    ]
    for body in packs.bodies:
        again.read([body])
        state, again.ledger = again.ledger.state(), Ledger(STREAM, calendar, again.rule)
        again.ledger.restore(state, packs.document)
    assert again.pages == once.pages


def test_heat_from_flow_and_temperatures_where_no_counter_is() -> None:
    points = [
        point("heat.flow", "gauge", "m3/h", source={"scale": "0.001"}),
        point("heat.temperature.supply", "gauge", "Cel", source={"scale": "0.1"}),
        point("heat.temperature.return", "gauge", "Cel", source={"scale": "0.1"}),
    ]
    packs, book = Packs(table(*points, roles={"heat": "heat.recovered"})), Book()
    for _ in range(35):
        t = packs.to_ms
        readings = [(t, "heat.temperature.supply", 70), (t, "heat.temperature.return", 50), (t, "heat.flow", 2)]
        packs.pack([(*reading, "") for reading in readings])
    book.read(packs.bodies)
    row = book.rows("heat.power.derived")[1]
    assert (row.role, row.flow, row.unit) == ("heat.recovered", "heat", "GJ")
    assert row.flags == Flag.POWER
    assert row.amount == Decimal("0.04115")  # 2 m3/h * 0.25 h * 4115 kJ/(m3 K) at 60 degrees * 20 K
    assert row.mean == Decimal("45.722222")


def test_the_quality_of_a_temperature_is_kept_over_a_restart() -> None:
    """The flow of the next pack uses the temperature that was read before the state was stored."""
    points = [
        point("heat.flow", "gauge", "m3/h", source={"scale": "0.001"}),
        point("heat.temperature.supply", "gauge", "Cel", source={"scale": "0.1"}),
        point("heat.temperature.return", "gauge", "Cel", source={"scale": "0.1"}),
    ]
    document = table(*points, roles={"heat": "heat.recovered"})
    packs = Packs(document)
    for n in range(40):
        t, quality = packs.to_ms, "suspect" if n % 20 == 8 else ""
        packs.pack([(t, "heat.temperature.supply", 70, quality), (t, "heat.temperature.return", 50, "")])
        packs.pack([(packs.to_ms, "heat.flow", 2, "")])
    once = Book()
    once.read(packs.bodies)
    assert {row.flags & Flag.SUSPECT for row in once.rows("heat.power.derived")} == {Flag(0), Flag.SUSPECT}
    for cut in range(12, 32):
        before, after = Book(), Book()
        before.read(packs.bodies[:cut])
        after.pages = before.pages
        after.ledger.restore(before.ledger.state(), document)
        after.read(packs.bodies[cut:])
        assert after.pages == once.pages, cut


def test_every_interval_is_written_once_and_in_order() -> None:
    packs, book = Packs(meter()), Book()
    value = growing(packs, 100, Decimal(5))
    packs.restart(8 * LENGTH)
    growing(packs, 60, value)
    book.read(packs.bodies)
    rows = book.rows()
    assert all(b.start_ms == a.end_ms for a, b in pairwise(rows))
