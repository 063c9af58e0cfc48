"""The green-power trace: parts add up, a discharge earns nothing, units of 1,000 kWh carry their remainder."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from agent.indicators.trace import TraceSlot, issue, match, trace

kwh = st.decimals(0, 10_000, places=2)
D = Decimal


@given(kwh, kwh, kwh, kwh, kwh, kwh)
def test_the_parts_add_up(generation: D, direct: D, taken: D, given_back: D, charge: D, discharge: D) -> None:
    one = match(TraceSlot(0, 3_600_000, generation, direct, taken, given_back, charge, discharge))
    assert one.own + one.direct + one.storage + one.grid == one.consumption
    assert min(one.own, one.direct, one.storage, one.grid, one.exported, one.stored) >= 0
    assert one.own + one.exported + one.stored <= generation, "no kilowatt-hour counts twice"
    assert one.direct <= direct and one.storage <= discharge


def test_a_day_in_four_hours() -> None:
    """Night from the grid, noon with surplus into storage and grid, evening from storage, a direct line all along."""
    hour = 3_600_000
    slots = [
        TraceSlot(0, hour, direct=D(10), grid_import=D(90)),
        TraceSlot(hour, 2 * hour, generation=D(200), direct=D(10), grid_export=D(50), charge=D(60)),
        TraceSlot(2 * hour, 3 * hour, generation=D(20), direct=D(10), discharge=D(50), grid_import=D(20)),
        TraceSlot(3 * hour, 4 * hour, direct=D(10), grid_import=D(90), complete=False),
    ]
    found = trace(slots, certificates_kwh=D(1000))
    noon, evening = found.matches[1], found.matches[2]
    assert (noon.consumption, noon.own, noon.direct, noon.stored, noon.exported) == (100, 100, 0, 50, 50)
    parts = (evening.own, evening.direct, evening.storage, evening.grid)
    assert parts == (20, 10, 50, 20), "what comes out of the storage is no power of this hour"
    assert found.consumption == 400 and found.certified == found.grid == 200, "no more than was bought"
    assert found.at_the_time == D("0.375") and found.with_certificates == D("0.875") and found.incomplete == 1
    assert trace([]).at_the_time is None


def test_a_discharge_into_the_grid_earns_no_certificate() -> None:
    """Only what generation gave counts as exported, and what it loaded into the storage is counted once, as used."""
    night = match(TraceSlot(0, 3_600_000, discharge=D(5000), grid_export=D(4000)))
    assert (night.exported, night.own, night.direct, night.storage) == (0, 0, 0, 1000)
    noon = match(TraceSlot(0, 3_600_000, generation=D(9000), charge=D(5000), grid_export=D(3000)))
    assert (noon.exported, noon.own, noon.stored) == (3000, 1000, 5000)
    found = issue([("2025-06", noon.exported + night.exported, noon.own + noon.stored)])
    assert (found[0].traded, found[0].held) == (3, 6)


def test_units_of_a_year() -> None:
    months = [("2026-01", D("2500.5"), D("999.9")), ("2026-02", D("499.5"), D("0.1")), ("2026-03", D(0), D(1500))]
    found = issue(months)
    assert [(one.traded, one.traded_rest) for one in found] == [(2, D("500.5")), (1, D(0)), (0, D(0))]
    assert [(one.held, one.held_rest) for one in found] == [(0, D("999.9")), (1, D(0)), (1, D(500))]


@given(st.lists(st.tuples(st.just("m"), kwh, kwh), max_size=24))
def test_no_kilowatt_hour_is_lost_between_months(months: list[tuple[str, D, D]]) -> None:
    found = issue(months)
    if found:
        assert sum(one.traded for one in found) * 1000 + found[-1].traded_rest == sum(m[1] for m in months)
        assert sum(one.held for one in found) * 1000 + found[-1].held_rest == sum(m[2] for m in months)
