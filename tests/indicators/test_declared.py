"""Declarations: amounts by time, states by date, replaced and never changed."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from agent.indicators.declared import Declaration, EnteredBy, amount, from_dict, in_force
from agent.indicators.figure import Period
from agent.indicators.units import parse_unit
from drivers.model import UsageError

DAY = 86_400_000
MONTH = Period("month", 0, 30 * DAY, "1970-01", 1970, 365 * DAY, 30 * DAY)
KWH = parse_unit("kWh")


def entry(number: int, value: str, days: tuple[int, int | None], **more: Any) -> Declaration:
    to_ms = None if days[1] is None else days[1] * DAY
    made = Declaration(f"{number:016x}", "declared.certificates", value, "MWh", days[0] * DAY, to_ms, "Li Wei", 5)
    return replace(made, **more)


def test_amounts_are_added_and_shared_by_time() -> None:
    found = amount([entry(1, "10", (0, 30)), entry(2, "6", (20, 50))], "declared.certificates", KWH, "amount", MONTH)
    assert found is not None
    assert found.value == 12_000 * KWH.factor and found.estimated == Fraction(2, 12)
    assert found.entries == (f"{1:016x}", f"{2:016x}") and found.basis == "declared"
    assert amount([entry(1, "10", (40, 50))], "declared.certificates", KWH, "amount", MONTH) is None


def test_a_state_holds_until_the_next() -> None:
    states = [entry(1, "10", (0, None)), entry(2, "20", (10, None)), entry(3, "99", (31, None))]
    found = amount(states, "declared.certificates", KWH, "state", MONTH)
    assert found is not None and found.value == 20_000 * KWH.factor and found.entries == (f"{2:016x}",)


def test_replaced_and_withdrawn() -> None:
    first, better = entry(1, "10", (0, 30)), entry(2, "11", (0, 30), replaces=f"{1:016x}")
    gone = entry(3, "", (0, 30), replaces=f"{2:016x}")
    assert in_force([first, better]) == [better]
    assert in_force([first, better, gone]) == [], "the first does not come back"


def test_the_form_in_a_pack_comes_back() -> None:
    one = entry(7, "12.50", (0, 30), document="GEC-2026-0001", replaces=f"{1:016x}", who="李伟")
    assert from_dict(one.as_dict()) == one
    assert from_dict(entry(8, "12", (0, None)).as_dict()).to_ms is None
    for by, plain in ((EnteredBy(1002, "anna"), {"login": "anna", "uid": 1002}), (EnteredBy(70_000), {"uid": 70_000})):
        one = entry(9, "12", (0, 30), by=by)
        assert one.as_dict()["by"] == plain and from_dict(one.as_dict()) == one
    assert "by" not in entry(7, "12", (0, 30)).as_dict(), "entered before that was kept"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"n": "certificates"}, "invalid name"),
        ({"v": "1e5"}, "not a plain decimal"),
        ({"v": "ten"}, "not a plain decimal"),
        ({"u": "barrels"}, "unknown unit"),
        ({"to": 0}, "ends before it begins"),
        ({"who": " "}, "is not named"),
        ({"who": "a\nb"}, "on one line"),
        ({"who": "a" * 201}, "at most 200"),
        ({"from": True}, "Unix time in seconds"),
        ({"id": "12"}, "16 hex digits"),
        ({"v": None}, "v must be a text"),
        ({"by": "anna"}, "by must be"),
        ({"by": {"login": "anna"}}, "by must be"),
        ({"by": {"uid": True}}, "by must be"),
        ({"by": {"uid": 1, "login": "a\nb"}}, "on one line"),
    ],
)
def test_a_wrong_entry(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        from_dict(entry(1, "10", (0, 30)).as_dict() | change)
