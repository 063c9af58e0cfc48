"""The page of a period: its figures agree with a sum by hand, and it reads in both languages."""

from __future__ import annotations

import json
import os
import re
import time
import tomllib
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from rich.cells import cell_len

from agent.cli.report import charts, labels
from agent.cli.report.answer import check_page
from agent.cli.report.command import (
    FIGURE_HEADS,
    TRACE_HEADS,
    _figure_row,
    _hours,
    _show,
    _trace_row,
    csv_heads,
    first_whole_interval_s,
    parse_period,
    spark,
)
from agent.cli.report.html import page as html
from agent.cli.report.labels import WORDS, cited, lacking, number, own_text, percent, value_of, verdict_of
from agent.indicators.compute import PeriodTotals, demands, merge, period_of
from agent.indicators.declared import Declaration
from agent.indicators.plan import IndicatorPlan, load_plan
from agent.indicators.report import Reporter
from agent.intervals.calendar import Calendar
from agent.intervals.rows import Flag, RoleSum, Source
from agent.web.figures_view import figures
from drivers.model import UsageError
from tests.kits.lived import mh
from tests.kits.metered_days import MeteredDays, packs

CUT = Calendar("Asia/Shanghai", 900_000)
NOON = 1_795_492_800_000  # 2026-11-24 12:00 in Shanghai
D = Decimal


def plan() -> IndicatorPlan:
    text = 'schema = 1\nsets = ["national-2025", "plain"]\n[exclude]\n'
    text += '"national-2025/residual_energy" = "no production <yet>"'
    return load_plan(text, "plan.toml")


def day() -> Iterator[RoleSum]:
    """Every interval of 24 November: 10 kWh from the grid; at 9 to 15 o'clock 30 kWh of sun, 5 sold, 8 stored."""
    for start, end in CUT.intervals(CUT.midnight(CUT.day(NOON)), CUT.midnight(CUT.day(NOON)) + 86_400_000):
        hour = CUT.local(start).hour
        amounts = {("grid", "import", "kWh"): D(10), ("heat.recovered", "heat", "GJ"): D("0.5")}
        if 9 <= hour < 15:
            amounts |= {("generation.pv", "generation", "kWh"): D(30), ("grid", "export", "kWh"): D(5)}
            amounts |= {("storage", "charge", "kWh"): D(8)}
        for (role, flow, unit), amount in amounts.items():
            trail = (Source(f"park7/gw01/{role}", "x", 1, 2, None, None),)
            share, flags = (D("0.5"), Flag.INCOMPLETE) if hour == 3 else (D(1), Flag(0))
            yield RoleSum(role, flow, start, end, amount, unit, share, D(0), flags, trail)


def made() -> dict[str, Any]:
    period = period_of(CUT, "day", NOON, NOON + 86_400_000)
    month = period_of(CUT, "month", NOON, NOON)
    cert = Declaration(
        "0" * 15 + "1", "declared.certificates", "3000", "kWh", month.start_ms, month.end_ms, "李伟 <x>", 5
    )
    reporter = Reporter(plan(), CUT, period, [cert])
    reporter.add(list(day()))
    page = reporter.page() | {"devices": []}
    return page | {
        "site": "park7", "gateway": "gw01", "label": "<Park> 7", "timezone": "Asia/Shanghai", "config": "x"
    }  # fmt: skip


def test_the_day_by_hand() -> None:
    page = made()
    figures = {one["id"]: one for one in page["figures"]}
    assert page["period"] == {
        "kind": "day", "label": "2026-11-24", "from": 1_795_449_600, "to": 1_795_536_000, "until": 1_795_536_000
    }  # fmt: skip
    # 96 * 10 bought, 24 * 30 made, 24 * 5 sold
    assert figures["plain/consumption"]["v"] == "1560"
    assert figures["plain/self_consumption"]["v"] == number_text(100 * (720 - 120) / 720)
    assert figures["plain/peak_demand"]["v"] == "40", "10 kWh in a quarter of an hour"
    core = figures["national-2025/co2_per_energy"]
    # certificates of a month of 30 days, shared by time: 100 kWh of this day
    assert core["numerator"] == {"u": "tCO2", "v": number_text((960 - 100) * 0.8325 / 1000)}
    assert core["verdict"] == "no threshold" and not core["official"]
    assert [one["n"] for one in core["drags"]] == ["co2_electricity"]
    clean = figures["national-2025/clean_share"]
    assert clean["drags"][0]["n"] == "grid_uncovered", "what is no clean energy weighs on the share"
    assert clean["worst"]["label"] in {f"{hour:02}:00" for hour in (*range(9), *range(15, 24))}
    assert len(clean["trend"]) == 24 and clean["trend"][12]["v"]
    assert D(clean["completeness"]) < 1
    assert figures["national-2025/water_reuse"]["verdict"] == "no data"
    assert [one["id"] for one in page["excluded"]] == ["national-2025/residual_energy"]
    trace = page["trace"]
    assert (trace["own"], trace["storage"], trace["certified"]) == ("600", "0", "100")
    assert trace["issued"] == [
        {"label": "2026-11", "traded": 0, "held": 0, "traded_rest": "120", "held_rest": "600"}
    ]  # fmt: skip
    assert len(trace["hours"]) == 24 and trace["incomplete"] == 1


def number_text(value: float) -> str:
    return f"{value:.12g}"


class Reader(HTMLParser):
    """Looks that every element is closed, and that nothing is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href"} & {name for name, _ in attrs} and tag != "script"
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize(("language", "words"), [("en", "Clean-energy share"), ("zh", "清洁能源消费占比")])
def test_the_page_in_both_languages(language: str, words: str) -> None:
    text = html(made(), language)
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    shown = " ".join(reader.texts)
    assert words in shown and "<Park> 7" in shown and "no production <yet>" in shown, "escaped, not interpreted"
    assert "power.fossil.cn@2022" in shown and "0.8325" in shown
    if language == "zh":
        assert "Photovoltaics" not in shown and "光伏" in shown


def figure(**more: Any) -> dict[str, Any]:
    return {"verdict": "met", "v": "98.4", "u": "%", "completeness": "0.00706", **more}


def test_no_verdict_is_given_on_less_than_nine_tenths_of_a_period() -> None:
    """It said "met" in large green letters on 0.7 % of a day."""
    over = {"from": 0, "to": 86_400, "until": 86_400}
    assert (
        verdict_of(figure(), over) == verdict_of(figure(verdict="not met", completeness="0.8999"), over) == "not enough"
    )
    assert verdict_of(figure(completeness="0.9"), over) == "met"
    assert verdict_of(figure(verdict="no threshold"), over) == "no threshold"
    for until, verdict in ((1080, "not enough"), (77_000, "not enough"), (77_760, "met"), (0, "not enough")):
        assert verdict_of(figure(completeness="1"), over | {"until": until}) == verdict, "of a day that is not over"
    page = made()
    for one in page["figures"]:
        one["completeness"], one["verdict"] = "0.00706", "met"
    for language in ("en", "zh"):
        text = html(page, language)
        assert 'class="big met"' not in text and WORDS[language]["not enough"] in text


def test_what_no_device_has_a_role_for_is_not_a_known_nothing() -> None:
    """It said "0 kWh, known 100 %" of a park whose meters had no role."""
    period = period_of(CUT, "day", NOON, NOON + 86_400_000)
    reporter = Reporter(plan(), CUT, period, [])
    start = period.start_ms
    reporter.add([RoleSum("water.fresh", "volume", start, start + 900_000, D(1), "m3", D(1), D(0), Flag(0), ())])
    page = (
        reporter.page()
        | {"devices": []}
        | {"site": "park7", "gateway": "gw01", "label": "", "timezone": "Asia/Shanghai"}
    )
    consumption = next(one for one in page["figures"] if one["id"] == "plain/consumption")
    assert consumption["v"] == "0" and consumption["unmetered"], "the number itself is as in the pack"
    assert value_of(consumption) == "" and verdict_of(consumption, {"from": 0, "to": 1, "until": 1}) == "no data"
    assert "no device has a role that this needs" in html(page, "en")
    roleless = {"n": "inv1", "role": "", "flows": [], "known": "1", "missing": []}
    text = html(page | {"meters": [roleless]}, "zh")
    assert "（agent.toml 中未设角色）：inv1" in text


def test_the_csv_has_no_numbers_of_what_no_device_has_a_role_for() -> None:
    """It had the value 0 and the completeness 1, where the screen and the page show no value."""
    period = period_of(CUT, "day", NOON, NOON + 86_400_000)
    reporter = Reporter(plan(), CUT, period, [])
    start = period.start_ms
    reporter.add([RoleSum("water.fresh", "volume", start, start + 900_000, D(1), "m3", D(1), D(0), Flag(0), ())])
    page = reporter.page() | {"devices": []}
    figures_of = {one["id"]: one for one in page["figures"]}
    rows = {
        name: dict(zip(FIGURE_HEADS, _figure_row(one, page, "en"), strict=True)) for name, one in figures_of.items()
    }
    unmetered = rows["plain/consumption"]
    assert figures_of["plain/consumption"]["numerator"] == {"u": "kWh", "v": "0"}
    assert {unmetered[head] for head in ("value", "completeness", "numerator", "denominator")} == {""}
    assert unmetered["verdict"] == "no data" and unmetered["unit"] == "kWh"


@pytest.mark.parametrize("role", ["generation.pv", "generation.wind", "storage"])
def test_a_role_whose_first_amount_is_to_come_is_missing_and_not_nobodys(role: str) -> None:
    """Just after a start, other devices have amounts already."""
    period = period_of(CUT, "month", NOON, NOON + 86_400_000)
    reporter = Reporter(plan(), CUT, period, [], roles=["grid", role])
    reporter.add([one for one in day() if one.role == "grid"])
    page = made() | reporter.page() | {"devices": []}
    found = {one["id"]: one for one in page["figures"]}
    figure = found["plain/storage_efficiency" if role == "storage" else "plain/generation"]
    wanted = "Storage, charged (storage.charge)" if role == "storage" else "Generation, energy (generation.*.energy)"
    assert "v" not in figure and "unmetered" not in figure and figure["verdict"] == "no data"
    assert wanted in lacking(figure, "en") and lacking(figure, "zh").startswith("缺少：")
    assert not any(one["v"] for one in figure["trend"])
    mixed = Reporter(plan(), CUT, period, [], roles=["grid", role], late=[role])
    mixed.add([one for one in day() if one.role == "grid"])
    both = next(one for one in mixed.page()["figures"] if one["id"] == "plain/consumption")
    assert found["plain/consumption"]["v"] == "840", "of no device that was just added: its role counts as nothing"
    if role != "storage":
        assert "v" not in both and both["missing"] == ["generation.*.energy"], "a sum without it is none"
    other = found["plain/generation" if role == "storage" else "plain/storage_efficiency"]
    assert other["unmetered"] and lacking(other, "en") == "no device has a role that this needs"
    check_page(json.dumps(page | {"excluded": []}).encode())
    assert "missing: " in html(page, "en")


def test_the_curve_of_the_day_has_axes_a_legend_and_marks_what_is_unknown() -> None:
    page = made()
    curve = page["curve"]
    series = {one["n"]: one for one in curve["series"]}
    assert curve["u"] == "kW" and len(curve["slots"]) == 96 and curve["ends"][-1] == page["period"]["to"]
    assert series["grid.import"]["v"][0] == "40", "10 kWh in a quarter of an hour"
    assert set(series["grid.import"]["known"][12:16]) == {"0.5"}
    assert series["generation.pv.generation"]["v"][0] == "", "nothing is known of it at night"
    text = charts.curve(page, "zh", ZoneInfo(page["timezone"]))
    assert ">24:00<" in text and '<span class="u">kW</span>' in text and "光伏发电量" in text
    assert '<rect class="unknown"' in text and "数据不完整" in text
    month = page | {"period": page["period"] | {"kind": "month"}}
    assert charts.curve(month, "zh", ZoneInfo(page["timezone"])) == ""


@pytest.mark.parametrize(("language", "words"), [("en", "of the time known"), ("zh", "时间完整率")])
def test_the_trace_says_how_little_of_the_day_it_knows(
    language: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One hour of 24 was recorded: green to 100 % of what is known, which is next to nothing."""
    period = period_of(CUT, "day", NOON, NOON + 86_400_000)
    reporter = Reporter(plan(), CUT, period, [])
    grid = ("grid", "import", "kWh")
    hour = [one for one in day() if CUT.local(one.start_ms).hour == 12 and (one.role, one.flow, one.unit) != grid]
    reporter.add(hour)
    page = made() | reporter.page() | {"devices": []}
    trace = page["trace"]
    assert trace["at_the_time"] == "1" and trace["incomplete"] == 23
    assert trace["known"].startswith("0.0416")
    _show(page, language, 0, 900)
    shown = " ".join(capsys.readouterr().out.split())
    assert words in shown and "4.17 %" in shown
    rows = figures(page, "day", language, {})["trace"]["rows"]
    assert rows[-2:] == [(WORDS[language]["known"], "4.17 %"), (WORDS[language]["incomplete"], "23")]
    assert "".join(f"<tr><td>{name}</td><td>{text}</td></tr>" for name, text in rows[-2:]) in html(page, language)


def test_hours_that_have_not_been_yet_are_not_missing() -> None:
    period = period_of(CUT, "day", NOON, NOON)
    for by, empty in (("hour", 11), ("interval", 47)):
        reporter = Reporter(plan(), CUT, period, [], by)  # type: ignore[arg-type]
        reporter.add([one for one in day() if one.start_ms == NOON - 900_000])
        assert reporter.page()["trace"]["incomplete"] == empty


def test_every_chart_has_an_axis_with_a_unit_and_a_legend() -> None:
    text = html(made(), "en")
    assert text.count("<svg") == text.count('<span class="u">') >= 5
    for chart in text.split("<svg")[1:]:
        assert chart.partition("</svg>")[0].count('text-anchor="end"') >= 2, "numbers at the axis"


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [(0, 100, [0, 25, 50, 75, 100]), (0, 0, [0, 0.25]), (-48, 120, [-50, 0, 50, 100, 150]),
     (0, 0.0041, [0, 0.002, 0.004, 0.006]), (7, 7, [6, 8])],
)  # fmt: skip
def test_marks_of_an_axis_are_round_and_hold_all_values(low: float, high: float, marks: list[float]) -> None:
    found = charts.ticks(low, high)
    assert found[0] <= low and found[-1] >= high and len(found) <= 7
    assert found == marks


def test_a_text_of_the_site_in_both_languages_is_shown_in_that_of_the_page() -> None:
    both = "no gas here / 不用燃气"
    assert (own_text(both, "en"), own_text(both, "zh")) == ("no gas here", "不用燃气")
    assert own_text("t / h", "zh") == "t / h" and own_text("不用燃气", "en") == "不用燃气"
    assert (
        cited("发改环资〔2025〕910号 annex 3; accounting by annex 4", "zh")
        == "发改环资〔2025〕910号 附件3；核算按附件4"
    )


def test_each_source_of_a_factor_is_cited_in_chinese() -> None:
    """The names of publications and sites stay; nothing else of them is English."""
    names = ("GB/T", "daydaynews.cc")
    folder = Path(__file__).parents[2] / "agent" / "indicators" / "tables"
    tables = [tomllib.loads(path.read_text("utf-8")) for path in folder.glob("*.toml")]
    sources = {entry["source"] for table in tables for one in table["factor"] for entry in one["entry"]}
    assert len(sources) > 10
    for source in sources:
        found = cited(source, "zh")
        for name in names:
            found = found.replace(name, "")
        assert not re.search("[A-Za-z]{2}", found), source


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_csv_is_in_one_language(language: str) -> None:
    page = made()
    rows = [dict(zip(FIGURE_HEADS, _figure_row(one, page, language), strict=True)) for one in page["figures"]]
    trace = [_trace_row(hour, page["timezone"], language) for hour in _hours(page["trace"])]
    heads = [*csv_heads(FIGURE_HEADS, language), *csv_heads(TRACE_HEADS, language)]
    verdicts = {row["verdict"] for row in rows}
    if language == "en":
        assert heads == [*FIGURE_HEADS, *TRACE_HEADS] and "no threshold" in verdicts
        assert trace[0][-1] in ("true", "false")
    else:
        assert not [head for head in heads if re.search("[A-Za-z]", head.replace("kWh", ""))]
        assert not [one for one in verdicts if re.search("[A-Za-z]", one)]
        assert {row["official"] for row in rows} | {row[-1] for row in trace} <= {"是", "否"}


def test_both_languages_have_all_words() -> None:
    assert set(WORDS["en"]) == set(WORDS["zh"])


def test_the_months_of_the_last_365_days_begin_and_end_with_them() -> None:
    """A constant load and a constant output: each bar is the same, though the first and last month are not whole."""
    text = "schema = 1\nsets = []\n"
    text += '[[input]]\nname = "declared.output"\nunit = "t"\nkind = "amount"\ntitle = { en = "Output" }\n'
    text += '[[indicator]]\nid = "per_t"\ntitle = { en = "Energy per t" }\nnumerator = "grid.import"\n'
    text += 'denominator = "declared.output"\nunit = "kWh/t"\nperiods = ["rolling"]\nbetter = "lower"\n'
    text += '[[indicator]]\nid = "power"\ntitle = { en = "Power" }\nnumerator = "grid.import"\n'
    text += 'denominator = "period.duration"\nunit = "kWh/h"\nperiods = ["rolling"]\n'
    period = period_of(CUT, "rolling", NOON, NOON)
    whole = CUT.stretch("month", period.start_ms)[0], CUT.stretch("month", NOON)[1]
    entries = [
        Declaration("0" * 15 + f"{n:x}", "declared.output", f"{(end - start) // 86_400_000}", "t", start, end, "Li", n)
        for n, (start, end) in enumerate(CUT.stretches("month", *whole))
    ]
    reporter = Reporter(load_plan(text, "plan.toml"), CUT, period, entries)
    for start, end in CUT.stretches("day", period.start_ms, period.end_ms):
        reporter.add([RoleSum("grid", "import", start, end, D(240), "kWh", D(1), D(0), Flag(0), ())])
    for figure, value in zip(reporter.page()["figures"], ("240", "10"), strict=True):
        assert figure["v"] == value and "worst" not in figure
        assert [one["v"] for one in figure["trend"]] == [value] * 13


def test_the_demand_of_a_family_of_roles_is_that_of_their_sum() -> None:
    """It was 0, signed: no role is called `load.*`. A peak of two loads at different times is not the sum of both."""
    quarter, start, complete = 900_000, 1_795_449_600_000, Flag(0)

    def load(role: str, at: int, kwh: int, flags: Flag = complete) -> RoleSum:
        begin, source = start + at * quarter, Source("park7/gw01/x", role, 1, 2, None, None)
        known = D(0) if flags else D(1)
        return RoleSum(role, "consumption", begin, begin + quarter, D(kwh), "kWh", known, D(0), flags, (source,))

    parts = [load("load.press", 0, 100), load("load.oven.big", 0, 1)]
    parts += [load("load.press", 1, 10), load("load.oven.big", 1, 100)]
    parts += [load("load.press", 2, 300), load("load.oven.big", 2, 0, Flag.INCOMPLETE)]
    found = demands(parts)
    assert {name: one[0] for name, one in found.items()} == {
        "load.press": 1200,
        "load.oven.big": 400,
        "load.oven.big.*": 400,
        "load.oven.*": 400,
        "load.press.*": 1200,
        "load.*": 440,
    }
    assert {source.point for source in found["load.*"][1]} == {"load.press", "load.oven.big"}
    totals, period = PeriodTotals(), period_of(CUT, "day", NOON, NOON + 86_400_000)
    totals.add(parts)
    amount = totals.supply([], period).metered("load.*.demand", period)
    assert amount is not None and amount.value == 440 * 1000 and 0 < amount.completeness < 1


def test_adding_day_by_day_is_adding_at_once() -> None:
    parts = list(day())
    one, two = PeriodTotals(), PeriodTotals()
    one.add(parts)
    for at in range(0, len(parts), 7):
        two.add(parts[at : at + 7])
    period = period_of(CUT, "day", NOON, NOON + 86_400_000)
    assert one.figures(plan(), period, []) == two.figures(plan(), period, [])
    assert demands(parts)["grid"][0] == 40
    whole = merge([part for part in parts if part.role == "grid" and part.flow == "import"])
    assert (whole.amount, whole.start_ms, whole.end_ms) == (960, 1_795_449_600_000, 1_795_536_000_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ("day", "")), ("2026-11-24", ("day", "2026-11-24")), ("2026-11", ("month", "2026-11-01")),
     ("2026", ("year", "2026-01-01")), ("365d", ("rolling", ""))],
)  # fmt: skip
def test_periods(text: str, expected: tuple[str, str]) -> None:
    assert parse_period(text) == expected
    with pytest.raises(UsageError, match="invalid period"):
        parse_period(text + "x")


def test_numbers_for_people() -> None:
    assert [number(text) for text in ("", "0", "0.252681056114", "57748.13", "1234567.8", "-3.5", "100")] == [
        "–", "0", "0.2527", "57\u2009748", "1\u2009234\u2009568", "-3.5", "100"
    ]  # fmt: skip
    assert percent("0.89864") == "89.9 %" and percent("") == "–"
    assert spark(["1", "", "3"]) == "▃·█" and spark(["1"]) == ""


@pytest.mark.parametrize("language", ["en", "zh"])
def test_on_80_columns_no_word_and_no_amount_is_broken(
    language: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = made()
    _show(page, language, 0, 900)
    wide = capsys.readouterr().out
    monkeypatch.setattr("agent.cli.console_tables.PIPE_WIDTH", 80)
    _show(page, language, 0, 900)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(cell_len(line) for line in lines) <= 80
    for figure in page["figures"]:
        value = f"{number(value_of(figure))} {labels.unit(figure)}".replace("\u2009", " ")
        assert sum(value in line for line in lines), value
    if language == "en":
        words = {word for word in wide.split() if word.isalpha()} - {"figure"}
        assert words <= {word for line in lines for word in line.split()}


@pytest.mark.parametrize(("answered", "language", "words"), [
    (False, "en", "no usable answer since the agent's start"), (False, "zh", "启动或重载起无有效应答"),
    (True, "en", "no usable answer since 20"), (True, "zh", "自 20"),
])  # fmt: skip
@pytest.mark.process
def test_a_report_says_of_a_device_that_it_does_not_answer(
    tmp_path: Path, answered: bool, language: str, words: str
) -> None:
    """From the snapshot of the running agent: its gaps are stated a quarter of an hour later."""
    site = MeteredDays(tmp_path)
    now_s = time.time()
    site.commit(packs(site.calendar.midnight(site.calendar.day(int(now_s * 1000))) - 86_400_000, 60))
    site.close()
    (tmp_path / "run").mkdir()
    facts = {"pid": os.getpid(), "time": now_s, "ring": "ring.x"}
    silent = {"line": "roof", "life": "dead", "added": now_s - 7200, "last_answer": None}
    if answered:
        silent |= {"added": now_s - 9000, "last_answer": now_s - 7200}

    def report(pid: int, *more: object) -> tuple[str, dict[str, Any]]:
        (tmp_path / "run/snapshot.json").write_text(json.dumps(facts | {"pid": pid, "devices": {"m1": silent}}))
        args = ("report", *more, "-c", tmp_path / "agent.toml", "--lang", language)
        (code, shown, err), (_, plain, _) = mh(*args), mh(*args, "--json")
        assert code == 0, err
        return shown, json.loads(plain)

    shown, plain = report(os.getpid())
    silence = plain["devices"][0]["silent"]
    assert words in shown and silence == {"since_s": pytest.approx(now_s - 7200), "answered": answered}
    assert mh("report", "--html", tmp_path / "r.html", "-c", tmp_path / "agent.toml", "--lang", language)[0] == 0
    assert words in unescape((tmp_path / "r.html").read_text())
    assert words not in report(os.getpid(), f"{CUT.day(int(now_s * 1000)) - timedelta(days=2)}")[0], "asked later"
    assert words not in report(1 << 30)[0], "that agent is gone"


@pytest.mark.parametrize(("started", "end"), [(0, 900), (1, 1800), (899.9, 1800), (900, 1800), (901, 2700)])
def test_the_first_whole_interval_begins_after_the_start(started: float, end: float) -> None:
    assert first_whole_interval_s(started, CUT) == end


@pytest.mark.parametrize(
    ("timezone", "length_ms", "started", "end"),
    [("Asia/Kolkata", 3_600_000, "2026-11-24T10:10+05:30", "2026-11-24T12:00+05:30"),
     ("Asia/Shanghai", 86_400_000, "2026-11-24T10:10+08:00", "2026-11-26T00:00+08:00")],
)  # fmt: skip
def test_the_first_whole_interval_is_one_of_local_time(timezone: str, length_ms: int, started: str, end: str) -> None:
    """It was one of UTC, so that the report named an earlier or a later time."""
    start_s, end_s = (datetime.fromisoformat(text).timestamp() for text in (started, end))
    assert first_whole_interval_s(start_s, Calendar(timezone, length_ms)) == end_s


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_report_in_the_first_minutes_says_when_to_come_back(
    language: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not of a past period, nor once an interval could be there."""
    now = NOON / 1000 + 130
    period = {"from": NOON / 1000 - 43_200, "to": NOON / 1000 + 43_200, "until": now, "kind": "day", "label": "x"}
    page = made() | {"figures": [], "period": period}
    _show(page, language, first_whole_interval_s(now - 60, CUT), 900)
    assert "2026-11-24 12:31" in capsys.readouterr().out
    _show(page, language, NOON / 1000, 900)
    _show(page | {"period": period | {"until": period["to"]}}, language, first_whole_interval_s(now, CUT), 900)
    _show(page, language, 0.0, 900)
    assert "15" not in capsys.readouterr().out
