"""The balance of a site and of the nodes of its tree, against what the meters were told to count."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.intervals.balance import EnergyBalance, accuracy_limit, balance, wants
from agent.intervals.calendar import Calendar
from agent.intervals.ledger import rows_of_packs
from agent.intervals.meters import MeterSums
from agent.intervals.sums import sums
from agent.intervals.tracked_points import Rule
from tests.kits.ledger import LENGTH, START, Packs, point, table
from tests.kits.memory_book import MemoryBook

BASE = "park7/gw01"
COUNTERS = {
    "total": "ac.energy.total",
    "import": "ac.energy.import",
    "export": "ac.energy.export",
    "generation": "ac.energy.generation",
}


class Park:
    """Meters, each a stream of its own, that count what they are told, in steps of 0.01 kWh."""

    def __init__(self) -> None:
        self.memory, self.calendar = MemoryBook(), Calendar("Asia/Shanghai")

    def meter(
        self,
        name: str,
        role: str,
        parent: str = "",
        accuracy: str = "",
        silent: Collection[int] = (),
        **kwh: Any,
    ) -> None:
        """``kwh``: energy an interval of each flow, over four intervals; a list has one amount for each of them.

        It does not answer in the minutes ``silent``.
        """
        device: dict[str, Any] = {"parent": {"ac": parent} if parent else {}}
        if accuracy:
            device["class"] = {"": accuracy}
        points = [point(COUNTERS[flow], source={"scale": "0.01"}) for flow in kwh]
        packs = Packs(table(*points, roles={"ac": role}, **device))
        levels = {flow: Decimal(1000) for flow in kwh}
        for minute in range(64):
            said = [(packs.to_ms, COUNTERS[flow], round(level, 2), "") for flow, level in levels.items()]
            packs.pack([] if minute in silent else said)
            for flow, amount in kwh.items():
                each = amount[min(minute // 15, 3)] if isinstance(amount, list) else amount
                levels[flow] += Decimal(str(each)) / 15
        import json

        data = [json.dumps(body).encode() for body in packs.bodies]
        for _, shape, rows in rows_of_packs(f"{BASE}/{name}", data, self.calendar, Rule()):
            self.memory.add(f"{BASE}/{name}", shape, rows)

    def balance(self, at: int = 0) -> EnergyBalance:
        meters = MeterSums(wants)
        start = START + at * LENGTH
        sums(self.memory, self.calendar, start, start + LENGTH, "all", roles=(), meters=[meters])
        found = balance(meters.found(), LENGTH, is_interval=True)
        assert found is not None
        return found


def test_what_goes_in_comes_out() -> None:
    park = Park()
    park.meter("grid", "grid", accuracy="0.5S", **{"import": 60, "export": 5})
    park.meter("roof", "generation.pv", accuracy="1", generation=45)
    park.meter("hall", "load", accuracy="1", **{"import": 99.99})
    found = park.balance(1)
    assert dict(found.inputs) == {"grid.import": 60, "generation.pv.generation": 45}
    assert dict(found.outputs) == {"grid.export": 5, "load.consumption": Decimal("99.99")}
    assert found.site is not None
    assert found.site.value == pytest.approx(Decimal("0.01"), abs=Decimal("0.01"))
    # 0.5 % of 60 and 5, 1 % of 45 and 99.99, and a count of each of four counters
    assert found.site.allowed == pytest.approx(
        Decimal("0.325") + Decimal("1.4499") + Decimal("0.04"), abs=Decimal("0.001")
    )
    assert found.site.verdict == "within" and not found.site.unknown
    assert {stream for stream, _, _ in found.trails} == {f"{BASE}/{name}" for name in ("grid", "roof", "hall")}


def test_what_the_meters_cannot_explain_is_flagged_and_an_unknown_class_is_said() -> None:
    park = Park()
    park.meter("grid", "grid", accuracy="0.5S", **{"import": 100})
    park.meter("hall", "load", accuracy="1", **{"import": 97})
    site = park.balance().site
    assert site is not None and site.verdict == "beyond" and site.value == 3
    other = Park()
    other.meter("grid", "grid", accuracy="0.5S", **{"import": 100})
    other.meter("hall", "load", **{"import": 97})
    site = other.balance().site
    assert site is not None and site.verdict == "unknown" and site.unknown == ("hall/ac",)
    assert site.as_dict() == {"residual": "3", "allowed": "0.52", "verdict": "unknown", "unknown": ["hall/ac"]}


def test_nothing_is_judged_where_something_is_missing() -> None:
    park = Park()
    park.meter("grid", "grid", accuracy="1", **{"import": 100})
    park.meter("hall", "load", accuracy="1", **{"import": 50})
    meters = MeterSums(wants)
    sums(park.memory, park.calendar, START, START + 6 * LENGTH, "all", roles=(), meters=[meters])
    found = balance(meters.found(), 6 * LENGTH, is_interval=False)
    assert found is not None and found.site is not None and found.site.verdict == "incomplete"


def test_of_a_day_a_meter_may_lack_a_hundredth() -> None:
    park = Park()
    park.meter("grid", "grid", accuracy="1", **{"import": 100})
    park.meter("hall", "load", accuracy="1", **{"import": 99})
    meters = MeterSums(wants)
    sums(park.memory, park.calendar, START, START + 4 * LENGTH, "all", roles=(), meters=[meters])
    known = meters.found()
    exact = balance(known, 4 * LENGTH, is_interval=False)
    longer = balance(known, 4 * LENGTH * 1005 // 1000, is_interval=False)
    assert exact is not None and exact.site is not None and exact.site.verdict == "within"
    assert longer is not None and longer.site is not None and longer.site.verdict == "within"
    assert longer.site.allowed - exact.site.allowed == pytest.approx(Decimal("0.005") * 796, rel=Decimal("0.001"))
    too_long = balance(known, 4 * LENGTH * 102 // 100, is_interval=False)
    assert too_long is not None and too_long.site is not None and too_long.site.verdict == "incomplete"


def test_what_was_spread_over_the_end_of_a_day_is_not_judged_and_within_it_is() -> None:
    park = Park()
    park.meter("grid", "grid", accuracy="1", silent=range(20, 40), **{"import": [10, 90, 10, 90]})
    park.meter("hall", "load", accuracy="1", **{"import": [10, 90, 10, 90]})

    def judged(first: int, last: int) -> tuple[str, Decimal]:
        meters = MeterSums(wants)
        sums(
            park.memory, park.calendar, START + first * LENGTH, START + last * LENGTH, "all", roles=(), meters=[meters]
        )
        found = balance(meters.found(), (last - first) * LENGTH, is_interval=False)
        assert found is not None and found.site is not None
        return found.site.verdict, found.site.value

    assert judged(0, 4) == ("within", 0), "the silence lies inside"
    assert judged(0, 2)[0] == judged(2, 4)[0] == "spread" and judged(0, 2)[1] != 0
    assert park.balance(1).site.verdict == "spread"  # type: ignore[union-attr]


def test_a_park_without_metered_loads_has_no_balance_to_judge() -> None:
    park = Park()
    park.meter("grid", "grid", **{"import": 100})
    park.meter("roof", "generation.pv", generation=10)
    meters = MeterSums(wants)
    sums(park.memory, park.calendar, START, START + LENGTH, "all", roles=(), meters=[meters])
    assert balance(meters.found(), LENGTH, is_interval=True) is None


def test_a_parent_is_held_against_its_children_and_a_check_meter_against_its_parent() -> None:
    park = Park()
    park.meter("main", "transformer", accuracy="0.5", **{"import": 30, "export": 0})
    park.meter("second", "check", parent="main", accuracy="1", **{"import": 29.8})
    park.meter("hall-1", "load", parent="main", accuracy="1", **{"import": 25})
    park.meter("hall-2", "load", parent="main", accuracy="1", **{"import": 15})
    park.meter("roof", "generation.pv", parent="main", accuracy="1", generation=10)
    park.meter("wind", "direct", parent="main", accuracy="1", **{"import": 2})
    children, check = park.balance(1).nodes
    assert (children.place, children.against, children.own, children.others) == ("main/ac", "children", 30, 28)
    assert children.residual.value == 2 and children.residual.verdict == "beyond"
    assert (check.against, check.own, check.others) == ("second/ac", 30, Decimal("29.8"))
    assert check.residual.verdict == "within"


def test_what_hangs_below_a_counted_meter_is_not_counted_again() -> None:
    park = Park()
    park.meter("grid", "grid", accuracy="1", **{"import": 40})
    park.meter("board", "load", accuracy="1", **{"import": 40})
    park.meter("line-1", "load", parent="board", accuracy="1", **{"import": 22})
    park.meter("line-2", "x.line", parent="board", accuracy="1", **{"import": 18})
    found = park.balance()
    assert dict(found.outputs) == {"load.consumption": 40}
    assert found.site is not None and found.site.verdict == "within" and found.site.value == 0
    (node,) = found.nodes
    assert (node.place, node.own, node.others) == ("board/ac", 40, 40)


def test_a_total_beside_both_directions_is_no_energy_of_its_own() -> None:
    """A meter of a role of its own tells import, export and total: the sum below a board was twice the energy."""
    park = Park()
    park.meter("board", "transformer", accuracy="1", **{"import": 30})
    park.meter("line-1", "x.line", parent="board", accuracy="1", **{"import": 20, "export": 1, "total": 21})
    park.meter("line-2", "x.line", parent="board", accuracy="1", total=11)
    (node,) = park.balance(1).nodes
    assert (node.own, node.others) == (30, 30)


def test_a_circle_in_the_tree_ends() -> None:
    park = Park()
    park.meter("a", "load", parent="b", **{"import": 4})
    park.meter("b", "load", parent="a", **{"import": 4})
    assert len(park.balance().nodes) == 2


@given(st.lists(st.integers(0, 4000), min_size=1, max_size=4), st.integers(-60, 60))
def test_no_class_is_broken_by_a_count_or_two(hundredths: list[int], lost: int) -> None:
    """Within what classes and counts allow a residual is never flagged, beyond it always."""
    park = Park()
    amounts = [Decimal(n) / 100 for n in hundredths]
    total = sum(amounts, Decimal(lost) / 100)
    if total < 0:
        return
    park.meter("grid", "grid", accuracy="0.2 %", **{"import": total})
    for n, amount in enumerate(amounts):
        park.meter(f"hall-{n}", "load", accuracy="0.2 %", **{"import": amount})
    site = park.balance(1).site
    assert site is not None
    off = Decimal(1 + len(amounts)) / 100  # a count of each
    sure = Decimal("0.002") * sum(amounts, total)
    if abs(Decimal(lost) / 100) + off <= sure + off:
        assert site.verdict == "within" or abs(site.value) > sure
    if abs(Decimal(lost) / 100) > sure + 2 * off:
        assert site.verdict == "beyond"


@pytest.mark.parametrize(
    ("text", "share"),
    [("0.5S", "0.005"), ("1", "0.01"), ("B", "0.01"), ("1.2 %", "0.012"), ("2.5%", "0.025"), ("C", "0.005")],
)
def test_classes(text: str, share: str) -> None:
    assert accuracy_limit(text) == Decimal(share)


@pytest.mark.parametrize("text", ["", "E", "S", "-1", "0", "NaN", "inf", "50", "1 kWh", "%"])
def test_what_is_no_class(text: str) -> None:
    assert accuracy_limit(text) is None
