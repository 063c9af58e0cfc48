"""Derived points: sums of counters, and heat from flow and temperatures, as results and never as readings."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from agent.indicators.compute import period_of
from agent.indicators.site import SiteResults
from agent.intervals.calendar import Calendar
from agent.intervals.heat import heat_flow
from agent.intervals.ledger import rows_of_packs
from agent.intervals.query import query
from agent.intervals.rows import Flag
from agent.intervals.sums import sums
from agent.intervals.tracked_points import Rule
from tests.kits.ledger import LENGTH, START, Packs, point, table
from tests.kits.memory_book import MemoryBook

BASE = "park7/gw01"
CUT = Calendar("Asia/Shanghai")
HEAT = {"device": "plc", "flow": "x.loop.flow", "supply": "x.loop.hot", "return": "x.loop.cold"}


def add(memory: MemoryBook, name: str, packs: Packs) -> None:
    data = [json.dumps(body).encode() for body in packs.bodies]
    for _, shape, rows in rows_of_packs(f"{BASE}/{name}", data, CUT, Rule()):
        memory.add(f"{BASE}/{name}", shape, rows)


def counting(memory: MemoryBook, name: str, each: str, unit: str = "kWh", minutes: int = 40) -> None:
    packs = Packs(table(point("ac.energy.import", unit=unit, source={"scale": "0.1"}), roles={}))
    level = Decimal(500)
    for _ in range(minutes):
        packs.pack([(packs.to_ms, "ac.energy.import", level, "")])
        level += Decimal(each)
    add(memory, name, packs)


def results(memory: MemoryBook, *rows: dict[str, Any], at: int = 1) -> list[Any]:
    start = START + at * LENGTH
    return list(SiteResults(CUT, BASE, rows, "hash").of(memory, period_of(CUT, "interval", start, start + LENGTH)))


def test_a_sum_of_counters_that_need_no_role() -> None:
    memory = MemoryBook()
    counting(memory, "m1", "2")
    counting(memory, "m2", "0.5")
    row = {"n": "hall-2", "sum": ["m1/ac.energy.import", "-m2/ac.energy.import"]}
    (found,) = results(memory, row)
    assert (found["kind"], found["id"], found["v"], found["u"]) == ("derived", "hall-2", "22.5", "kWh")
    assert (found["completeness"], found["estimated"], found["config"]) == ("1", "0", "hash")
    assert found["period"]["kind"] == "interval" and found["period"]["from"] == (START + LENGTH) // 1000
    assert found["from"] == [
        {"stream": f"{BASE}/m1", "point": "ac.energy.import", "first": 17, "last": 32},
        {"stream": f"{BASE}/m2", "point": "ac.energy.import", "first": 17, "last": 32},
    ]


def test_a_term_that_is_not_known_leaves_no_value_and_is_named() -> None:
    memory = MemoryBook()
    counting(memory, "m1", "2")
    (found,) = results(memory, {"n": "both", "sum": ["m1/ac.energy.import", "m2/ac.energy.import"]})
    assert "v" not in found and found["missing"] == ["m2/ac.energy.import"]
    assert "from" not in found


def test_units_that_do_not_add_up_are_no_sum() -> None:
    memory = MemoryBook()
    counting(memory, "m1", "2")
    counting(memory, "m2", "2", unit="m3")
    (found,) = results(memory, {"n": "odd", "sum": ["m1/ac.energy.import", "m2/ac.energy.import"]})
    assert "v" not in found and found["missing"] == ["kWh", "m3"]


def plc(role: str = "", roles: dict[str, str] | None = None) -> tuple[Packs, dict[str, Any]]:
    points = [
        point("x.loop.flow", "gauge", "m3/h", source={"scale": "0.01"}),
        point("x.loop.hot", "gauge", "Cel", source={"scale": "0.1"}),
        point("x.loop.cold", "gauge", "Cel", source={"scale": "0.1"}),
    ]
    row = {"n": "loop", "heat": HEAT} | ({"role": role} if role else {})
    return Packs(table(*points, roles=roles or {}, derived=[row])), row


def test_heat_from_flow_and_temperatures() -> None:
    """A quarter of an hour at 12 m3/h from 70 to 50 degrees: by hand, with the coefficient at 60 degrees."""
    packs, row = plc()
    for _ in range(40):
        t = packs.to_ms
        three = [("x.loop.hot", Decimal(70)), ("x.loop.cold", Decimal(50)), ("x.loop.flow", Decimal(12))]
        packs.pack([(t + n, name, value, "") for n, (name, value) in enumerate(three)])
    memory = MemoryBook()
    add(memory, "plc", packs)
    (found,) = results(memory, row)
    assert heat_flow(Decimal(12), "m3/h", Decimal(70), Decimal(50)) == Decimal(12) * 4115 * 20 / 3600
    assert (found["u"], found["v"], found["completeness"]) == ("GJ", "0.2469", "1")  # 3 m3 * 4115 kJ/(m3 K) * 20 K
    assert found["estimated"] == "1", "integrated from power, as no counter says it"
    assert sums(memory, CUT, START, START + 2 * LENGTH, "all") == [], "without a role no figure counts it"
    assert not any(row.point.startswith("heat.derived") and row.role for row in query(memory, 0, 1 << 50))


@pytest.mark.parametrize(
    ("qualities", "flag"),
    [
        (("suspect", "", ""), Flag.SUSPECT), (("", "estimated", ""), Flag.ESTIMATED), (("", "", ""), Flag(0)),
        (("estimated", "suspect", ""), Flag.SUSPECT), (("", "suspect", "estimated"), Flag.SUSPECT),
    ],
)  # fmt: skip
def test_a_heat_has_the_worst_quality_of_its_inputs_and_its_figures_are_the_same(
    qualities: tuple[str, str, str], flag: Flag
) -> None:
    """It had the quality of its flow only. A computed heat counts as estimated in any case, so that figures that were
    signed before are still recomputed alike.
    """
    made = []
    for used in (("", "", ""), qualities):
        packs, row = plc("heat.recovered")
        for _ in range(40):
            values = zip(("x.loop.hot", "x.loop.cold", "x.loop.flow"), (70, 50, 12), used, strict=True)
            packs.pack([(packs.to_ms, *one) for one in values])
        memory = MemoryBook()
        add(memory, "plc", packs)
        flags = {one.flags for one in query(memory, START, START + 2 * LENGTH) if one.point == "heat.derived.loop"}
        made.append((flags, results(memory, row), sums(memory, CUT, START, START + 2 * LENGTH, "all")))
    (plain, *signed), (judged, *same) = made
    assert judged == {one | flag for one in plain}
    assert same[0] == signed[0]
    assert [(one.amount, one.completeness, one.estimated) for one in same[1]] == [
        (one.amount, one.completeness, one.estimated) for one in signed[1]
    ]


def test_a_heat_with_a_role_counts_in_figures() -> None:
    packs, _ = plc("heat.recovered")
    for _ in range(40):
        t = packs.to_ms
        packs.pack([(t, "x.loop.hot", 70, ""), (t, "x.loop.cold", 50, ""), (t, "x.loop.flow", 12, "")])
    memory = MemoryBook()
    add(memory, "plc", packs)
    (found,) = sums(memory, CUT, START + LENGTH, START + 2 * LENGTH, "all")
    assert (found.role, found.flow, found.unit, found.amount) == ("heat.recovered", "heat", "GJ", Decimal("0.2469"))


def test_a_sensor_that_is_silent_is_a_heat_that_is_missing() -> None:
    packs, row = plc()
    for n in range(40):
        t = packs.to_ms
        packs.pack([(t, "x.loop.flow", 12, "")] + ([(t, "x.loop.hot", 70, "")] if n < 5 else []))
    memory = MemoryBook()
    add(memory, "plc", packs)
    (found,) = results(memory, row)
    assert "v" not in found and found["missing"] == ["plc/heat.derived.loop"]
