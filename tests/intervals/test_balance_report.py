"""The balance as people see it: terminal rows and the HTML page, in both languages."""

from __future__ import annotations

from typing import Any

import pytest

from agent.cli.report import balance as rows
from agent.cli.report.html import page as html
from agent.cli.report.meters import heads
from agent.cli.report.meters import rows as list_meters
from agent.indicators.compute import period_of
from agent.indicators.site import BalanceReport
from agent.intervals.sums import sums
from tests.intervals.test_balance import BASE, Park
from tests.kits.ledger import START

DERIVED = [{"n": "both-halls", "sum": ["hall-1/ac.energy.import", "hall-2/ac.energy.import"]},
           {"n": "gone", "sum": ["nobody/ac.energy.import"]}]  # fmt: skip


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    park = Park()
    park.meter("grid", "grid", accuracy="0.5S", **{"import": [100, 100, 100, 130]})
    park.meter("main", "transformer", parent="grid", accuracy="0.5", **{"import": 80})
    park.meter("hall-1", "load", parent="main", accuracy="1", **{"import": 60})
    park.meter("hall-2", "load", parent="main", **{"import": 20})
    park.meter("hall-3", "load", parent="grid", accuracy="1", **{"import": 20})
    start, end = park.calendar.stretch("day", START)
    balancer = BalanceReport(park.calendar, period_of(park.calendar, "day", START, end), BASE, DERIVED)
    takers = balancer.takers(start, end)
    sums(park.memory, park.calendar, start, end, meters=takers)
    balancer.add(takers, start, end)
    return balancer.page()


def test_the_whole_and_its_intervals(made: dict[str, Any]) -> None:
    balance = made["balance"]
    assert (balance["given"], balance["residual"], balance["verdict"]) == ("430", "30", "unknown")
    assert [one["verdict"] for one in balance["trend"]] == ["within", "within", "within", "unknown"]
    assert [one["v"] for one in balance["trend"]] == ["0", "0", "0", "30"]
    assert balance["counts"] == {"within": 3, "unknown": 1}
    assert {(node["n"], node["residual"], node["verdict"]) for node in balance["nodes"]} == {
        ("grid/ac", "30", "beyond"),
        ("main/ac", "0", "within"),
    }
    both, gone = made["derived"]
    assert (both["v"], both["u"], both["completeness"]) == ("320", "kWh", "1")
    assert gone["missing"] == ["nobody/ac.energy.import"]


def test_what_the_terminal_says(made: dict[str, Any]) -> None:
    balance = made["balance"]
    assert rows.site_row(balance, "en") == (
        "in 430 kWh, residual 30 kWh (6.98 %), allowed error 5.39 kWh: "
        "not judged, as the accuracy class of a meter is not known"
    )
    assert rows.counts_row(balance, "en") == "within 3, class not known 1"
    assert rows.counts_row(balance, "zh") == "允差内 3，等级未知 1"
    assert rows.unknown_row(balance, "en") == "Meters of unknown accuracy class: hall-2/ac"
    first, second = rows.node_rows(balance, "zh")
    assert first == ("grid/ac", "下级计量之和", "430 kWh", "400 kWh", "30 kWh", "4.58 kWh", "超出计量允差")
    assert second[0] == "main/ac" and second[-1] == "在计量允差内"
    assert list(rows.derived_rows(made["derived"], "en"))[1] == ("gone", "–", "missing: nobody/ac.energy.import")


def test_a_residual_that_no_loss_explains_is_told_in_words() -> None:
    """It said -2 428 % and nothing else."""
    odd = {"u": "kWh", "given": "43.2", "residual": "-1048.9", "allowed": "3", "verdict": "beyond"}
    assert rows.is_odd(odd) and "%" not in rows.site_row(odd, "en")
    assert not rows.is_odd(odd | {"residual": "-20"}) and "(-46.3 %)" in rows.site_row(odd | {"residual": "-20"}, "en")
    lacking = odd | {"verdict": "incomplete"}
    assert not rows.is_odd(lacking) and "%" not in rows.site_row(lacking, "en"), "of readings that are missing"
    assert rows.is_odd(odd | {"given": "0"})


def test_meters_with_what_is_missing_of_them(made: dict[str, Any]) -> None:
    meters = {one["n"]: one for one in made["meters"]}
    assert meters["grid/ac"]["flows"] == [{"n": "import", "v": "430", "u": "kWh"}]
    start, end = 1_795_449_600, 1_795_536_000
    missing = [{"from": start, "to": START // 1000}, {"from": START // 1000 + 3600, "to": end}]
    assert meters["grid/ac"]["missing"] == missing, "known in the four intervals of an hour"
    assert meters["grid/ac"]["known"] == "0.0416666666667"
    period = {"kind": "day", "from": 0, "to": 86_400, "until": 86_400}
    gaps = [{"from": 3600 * n, "to": 3600 * n + 900} for n in range(5)] + [{"from": 82_800, "to": 86_400}]
    page = {
        "period": period, "timezone": "UTC",
        "meters": [
            {"n": "m1", "role": "load", "flows": [], "known": "0.9", "missing": gaps[-1:]},
            {"n": "m2", "role": "x.a", "flows": [], "known": "0.9", "missing": gaps},
            {"n": "m3", "role": "", "flows": [], "known": "0", "missing": [{"from": 0, "to": 86_400}]},
        ],
        "devices": [],
    }  # fmt: skip
    shown = [row[4] for row in list_meters(page, "en")]
    assert shown == [
        "23:00–24:00",
        "00:00–00:15, 01:00–01:15, 02:00–02:15, 03:00–03:15, and 2 more",
        "the whole period",
    ]


def test_why_readings_of_a_meter_are_missing() -> None:
    day = {"period": {"kind": "day", "from": 0, "to": 86_400, "until": 86_400}, "timezone": "UTC"}
    gap = [{"from": 3600, "to": 7200}]
    page = day | {
        "meters": [
            {"n": "m1/ac", "role": "load", "flows": [], "known": "0.9", "missing": gap},
            {"n": "m2/ac", "role": "load", "flows": [], "known": "0.9", "missing": gap},
            {"n": "m3/ac", "role": "load", "flows": [], "known": "1", "missing": []},
        ],
        "devices": [
            {"device": "m1", "label": "1号表", "gaps_from": 0,
             "missing": {"exception": [86_400_000, 0], "timeout": [5_400_000, 5_400_000]}},
            {"device": "m2", "label": "", "gaps_from": 43_200, "missing": {}},
            {"device": "m3", "label": "", "gaps_from": 0, "missing": {}},
            {"device": "boiler", "label": "", "gaps_from": 0, "missing": {"crc\x1b[31m": [1500, 1500]}},
        ],
    }  # fmt: skip
    assert heads("en")[-1] == "why readings are missing" and len(heads("zh")) == 6
    first, second, third, other = list_meters(page, "en")
    assert first[0] == "m1/ac (1号表)"
    assert first[4:] == ("01:00–02:00", "the device refuses 24 h (some points); no answer in time 1.5 h")
    assert second[-1] == "before 12:00: reason not recorded" and third[-1] == ""
    assert other[:2] == ("boiler", "in no figure") and "\x1b" not in other[-1] and other[-1].endswith(" 1.5 s")
    assert next(list_meters(page, "zh"))[-1] == "设备拒绝 24 小时（部分测点）；应答超时 1.5 小时"


@pytest.mark.parametrize(("language", "title"), [("en", "Balance of electricity"), ("zh", "电量平衡")])
def test_the_page(made: dict[str, Any], language: str, title: str) -> None:
    front = {"site": "park7", "gateway": "gw01", "label": "", "timezone": "Asia/Shanghai", "sets": [], "figures": []}
    trace = {"consumption": "0"}
    end = START / 1000
    period = {"label": "2026-11-24", "kind": "day", "from": end - 3600, "to": end + 82_800, "until": end}
    text = html({**front, "excluded": [], "trace": trace, "period": period, "devices": [], **made}, language)
    assert title in text and "hall-2/ac" in text and "both-halls" in text
    assert text.count("<rect") == 4, "a bar for each interval"
    assert "None" not in text
