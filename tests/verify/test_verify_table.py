"""Completeness by tick, against counting every tick one by one."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.verify.point_table import DAY_MS, Gap, PointTable, by_day, ms_of, ticks
from agent.verify.readings import PackRecords
from agent.verify.report import Fault, Faults
from agent.verify.strict import Refused

TIMES = st.integers(-3000, 3000)
PERIODS = st.sampled_from([1, 2, 3, 5, 7, 60, 250, 1000])


@given(TIMES, TIMES, PERIODS, st.integers(0, 999))
def test_ticks(low: int, high: int, period: int, phase: int) -> None:
    want = sum(1 for t in range(low, high) if (t - phase) % period == 0)
    assert ticks(low, high, period, phase) == want


def make(points: list[tuple[str, str, float | None, float]]) -> PointTable:
    return PointTable({"points": [{"n": n, "kind": k, "period": p, "phase": f} for n, k, p, f in points]})


@given(st.data())
def test_the_balance_is_that_of_counting(data: st.DataObject) -> None:
    """Deal every due tick to a record, a gap or nothing; the table must find exactly what is wrong."""
    periods = data.draw(st.lists(st.sampled_from([2, 3, 5]), min_size=1, max_size=3))
    names = [f"p{n}" for n in range(len(periods))]
    table = make([(n, "gauge", p, 0) for n, p in zip(names, periods, strict=True)] + [("s", "state", 2, 0)])
    low, length = data.draw(st.integers(0, 20)), data.draw(st.integers(1, 30))
    high = low + length
    counts: Counter[str] = Counter(s=data.draw(st.integers(0, 3)))
    gaps: list[Gap] = []
    sound = True
    for name, period in zip(names, periods, strict=True):
        for tick in (t for t in range(low, high) if t % period == 0):
            fate = data.draw(st.sampled_from(["read", "read", "read", "gap", "nothing", "both"]))
            sound &= fate in ("read", "gap")
            counts[name] += fate in ("read", "both")
            if fate in ("gap", "both"):
                gaps.append(Gap(tick * 1000, min(tick + period, high) * 1000, (name,), "crc"))
    balance = table.balance(counts, gaps, low * 1000, high * 1000)
    wrong = [
        name
        for name, period in zip(names, periods, strict=True)
        if counts[name] + sum(g.points == (name,) for g in gaps) != ticks(low, high, period, 0)
    ]
    assert len(balance.faults) == len(wrong)
    assert all(any(fault.startswith(name + ":") for fault in balance.faults) for name in wrong)
    if sound:
        assert not balance.faults
        assert balance.due == balance.got + sum(balance.gaps.values())


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10), st.sampled_from([None, ("a",), ("b",)])), max_size=5))
def test_a_tick_in_two_gaps_is_found_and_touching_in_time_is_not_enough(
    spans: list[tuple[int, int, tuple[str, ...] | None]],
) -> None:
    table = make([("a", "counter", 5, 1), ("b", "gauge", 3, 0)])
    gaps = [Gap(low * 1000, (low + length) * 1000, points, "crc") for low, length, points in spans]
    hits: Counter[tuple[str, int]] = Counter()
    for low, length, points in spans:
        for name, period, phase in (("a", 5, 1), ("b", 3, 0)):
            if points is None or name in points:
                hits.update((name, t) for t in range(low, low + length) if (t - phase) % period == 0)
    counts = {
        n: ticks(0, 40, p, f) - sum(c for (m, _), c in hits.items() if m == n) for n, p, f in (("a", 5, 1), ("b", 3, 0))
    }
    if min(counts.values()) < 0:
        return
    balance = table.balance(counts, gaps, 0, 40_000)
    assert bool(balance.faults) == any(count > 1 for count in hits.values())


@given(st.integers(0, 3 * DAY_MS), st.integers(1, 4 * DAY_MS))
def test_days_add_up(low: int, length: int) -> None:
    table = make([("a", "gauge", 60, 7), ("b", "counter", 900, 0)])
    gaps = [Gap(low, low + length // 2, None, "asleep"), Gap(low + length // 2, low + length, ("a",), "crc")]
    days = by_day(table, gaps, low, low + length)
    assert sum(due for _, due, _, _ in days) == table.due(low, low + length)
    assert sum(asleep for *_, asleep in days) == table.due(low, low + length // 2)
    assert [day for day, *_ in days] == list(range(low // DAY_MS, (low + length - 1) // DAY_MS + 1))


def test_a_stretch_of_nonsense_length_costs_no_day_each() -> None:
    assert len(by_day(make([("a", "gauge", 60, 0)]), [], 0, 10**15)) <= 4001


@pytest.mark.parametrize("value", [1795500900, 1795500900.25, 1795500900.001, 0, -5, 0.1, 1e9])
def test_seconds(value: float) -> None:
    assert ms_of(value, "t") == round(value * 1000)


@pytest.mark.parametrize("value", [None, "1", True, 0.1234, 1e300, 10**30, 1795500900.0001])
def test_no_seconds(value: object) -> None:
    with pytest.raises(Refused, match="three decimals"):
        ms_of(value, "t")


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (None, "without table.points"),
        ({"points": {}}, "without table.points"),
        ({"points": [1]}, "without name"),
        ({"points": [{"n": "a", "kind": "gauge"}] * 2}, "twice"),
        ({"points": [{"n": "a", "kind": "colour"}]}, "kind"),
        ({"points": [{"n": "a", "kind": "gauge", "period": 0}]}, "period"),
        ({"points": [{"n": "a", "kind": "gauge", "period": "5 s"}]}, "period"),
        ({"points": [{"n": "a", "kind": "gauge", "period": 5, "phase": None}]}, "phase"),
    ],
)
def test_tables_that_are_none(table: object, text: str) -> None:
    with pytest.raises(Refused, match=text):
        PointTable(table)


def test_a_unit_that_changes_within_a_pack_is_kept_until_the_birth_arrives() -> None:
    records = PackRecords(["a", "b", "a", "a", "b"], ["W", "V", "W", "kW", "V"])
    assert records.unit_changes() == [("a", "W"), ("b", "V"), ("a", "kW")]


def test_a_unit_that_changes_back_is_a_change_too() -> None:
    """Units that cannot be hashed, as a hostile pack may have them, are compared as well."""
    units: list[object] = ["W", "W", "kW", "W", [1], [1]]
    records = PackRecords(["a"] * 6, units)
    assert records.unit_changes() == [("a", "W"), ("a", "kW"), ("a", "W"), ("a", [1])]


def test_a_point_without_period_is_never_due() -> None:
    table = make([("once", "counter", None, 0), ("state", "state", 5, 0), ("text", "text", 5, 0)])
    assert table.due(0, DAY_MS) == 0
    assert not table.balance({"once": 1, "state": 3}, [], 0, DAY_MS).faults


def test_a_stream_without_points_takes_records_of_any_name() -> None:
    """_gateway and _indicators declare none."""
    assert not PointTable({"points": []}).balance({"energy.grid": 4}, [], 0, 1000).faults


def test_of_more_than_65536_points_none_is_looked_at() -> None:
    for count, what in ((65_536, "a point without name"), (65_537, "a birth without table.points")):
        with pytest.raises(Refused, match=what):
            PointTable({"points": [None] * count})


def test_of_many_faults_a_hundred_are_listed() -> None:
    faults = Faults()
    for n in range(150):
        faults.add(Fault("chain" if n % 2 else "kid", f"{n}"))
        assert (faults.count, len(faults.listed)) == (n + 1, min(n + 1, 100))
    assert faults.by_code == {"chain": 75, "kid": 75} and faults.listed[-1].reason == "99"
