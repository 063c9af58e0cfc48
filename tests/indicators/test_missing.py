"""A configured meter that is silent is missing: no figure without its energy, no zero in its place, nothing assumed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agent.cli.report.meters import rows
from bench.timelapse import PLAN, Silence, Timelapse
from tests.kits.lived import mh

pytestmark = pytest.mark.process

FIRST, NEXT, LAST = date(2025, 6, 21), date(2025, 6, 22), date(2025, 6, 23)
DAY_MS, HOUR_MS = 86_400_000, 3_600_000
MORE = f"""{PLAN}
[[indicator]]
id = "peak_of_all_loads"
title = {{ en = "Peak of all loads", zh = "总负荷最大值" }}
numerator = "load.*.demand"
unit = "kW"
better = "lower"
periods = ["interval", "day", "month", "year"]
"""
Results = list[Mapping[str, Any]]


class Day:
    """A day of the park in which some meters never answered; what was sealed of it, its report, and both once more."""

    def __init__(self, folder: Path, *silent: str, plan: str = PLAN) -> None:
        # nothing is written of them before night
        park = Timelapse(folder, FIRST, plan=plan, every_s=900, silent_every_ms=DAY_MS)
        self.folder, self.kid = folder, park.kid
        park.silences += [Silence(name, 0, 1 << 50) for name in silent]
        for now in park.until(LAST):
            if (
                now >= park.calendar.midnight(NEXT) + 6 * HOUR_MS
            ):  # results wait four packs of this park for a silent meter
                break
        park.close()
        config = folder / "agent.toml"
        code, _, err = mh("export", folder / "packs", "-c", config)
        assert code == 0, err
        code, out, err = mh("verify", folder / "packs", "--trust", park.kid, "--recompute", "--json")
        self.recomputed = json.loads(out)["recomputed"]
        lines = (folder / "packs" / "packs" / "_indicators.packs.jsonl").read_text(encoding="utf-8").splitlines()
        self.results: Results = [result for line in lines for result in json.loads(line).get("results", ())]
        code, out, err = mh("report", f"{FIRST}", "--json", "-c", config)
        assert code == 0, err
        self.report = json.loads(out)
        code, self.text, err = mh("report", f"{FIRST}", "-c", config, "--lang", "en")
        code, _, err = mh("report", f"{FIRST}", "-c", config, "--html", folder / "r.html", "--trace", folder / "t.csv")
        assert code == 0, err
        self.html = (folder / "r.html").read_text(encoding="utf-8")
        self.trace_rows = (folder / "t.csv").read_text(encoding="utf-8-sig").splitlines()

    def of(self, kind: str, period: str, name: str = "") -> Results:
        found = [r for r in self.results if r["kind"] == kind and r.get("period", {}).get("kind") == period]
        return [r for r in found if not name or r["id"] == name]


@pytest.fixture(scope="module")
def no_direct(tmp_path_factory: pytest.TempPathFactory) -> Day:
    return Day(tmp_path_factory.mktemp("direct"), "wind-line")


@pytest.fixture(scope="module")
def no_roof(tmp_path_factory: pytest.TempPathFactory) -> Day:
    return Day(tmp_path_factory.mktemp("roof"), "pv-canteen", plan=MORE)


@pytest.mark.parametrize("period", ["interval", "day", "month", "year"])
def test_a_figure_without_a_meter_has_no_value(no_direct: Day, period: str) -> None:
    found = no_direct.of("figure", period, "plain/consumption")
    assert len(found) > 96 if period == "interval" else len(found) == 1
    for figure in found:
        assert "v" not in figure and figure["verdict"] == "no data"
        assert figure["missing"] == ["direct.import"] and figure["completeness"] == "0"
        assert all(one["n"] != "direct.import" for one in figure["inputs"])
        assert all(one["basis"] != "assumed" for one in figure["inputs"])


def test_figures_that_do_not_need_the_meter_are_whole(no_direct: Day) -> None:
    (figure,) = no_direct.of("figure", "day", "plain/generation")
    assert Decimal(figure["v"]) > 0 and Decimal(figure["completeness"]) > Decimal("0.9")


def test_a_balance_without_a_meter_has_no_residual(no_direct: Day) -> None:
    for period in ("interval", "day"):
        for result in no_direct.of("balance", period):
            assert result["verdict"] == "incomplete" and result["missing"] == ["wind-line/ac"]
            assert "residual" not in result
            assert "direct.import" not in {one["n"] for one in result["inputs"]}


def test_an_hour_without_a_meter_has_no_consumption(no_direct: Day) -> None:
    (trace,) = no_direct.of("trace", "day")
    assert trace["hours"] == [] and trace["incomplete"] == 24 and trace["at_the_time"] == ""
    assert [hour["n"] for hour in trace["missing"]] == [["direct.import"]] * 24
    assert no_direct.trace_rows[1].endswith(",,,,,,,false")


def test_a_report_names_what_is_missing(no_direct: Day) -> None:
    (figure,) = [one for one in no_direct.report["figures"] if one["id"] == "plain/consumption"]
    assert "v" not in figure and figure["missing"] == ["direct.import"] and figure["completeness"] == "0"
    assert no_direct.report["balance"]["missing"] == ["wind-line/ac"]
    assert "not judged, as readings are missing: wind-line/ac" in no_direct.text


def test_a_meter_that_was_never_heard_counted_no_zero(no_direct: Day) -> None:
    meters = {one["n"]: one for one in no_direct.report["meters"]}
    silent = meters["wind-line/ac"]
    assert silent["known"] == "0" and {flow["v"] for flow in silent["flows"]} == {None}
    heard = meters["gate/ac"]
    assert all(Decimal(flow["v"]) >= 0 for flow in heard["flows"])
    (row,) = [line for line in no_direct.text.splitlines() if line.startswith("wind-line/ac")]
    assert " – " in row and "imported" not in row
    cells = no_direct.html.partition("<td>wind-line/ac")[2].partition("</tr>")[0].split("</td>")
    assert cells[2] == "<td>–"


def test_a_flow_of_which_nothing_is_known_has_no_number() -> None:
    flows = [{"n": "import", "v": "5", "u": "kWh"}, {"n": "export", "v": None, "u": "kWh"}]
    meter = {"n": "gate", "role": "grid", "flows": flows, "known": "0", "missing": []}
    page = {"timezone": "UTC", "period": {"kind": "day", "from": 0}, "meters": [meter], "devices": []}
    assert [next(rows(page, language))[2] for language in ("en", "zh")] == [
        "imported 5 kWh; exported –", "正向 5 kWh；反向 –"
    ]  # fmt: skip


def test_what_is_missing_can_be_repeated(no_direct: Day, no_roof: Day) -> None:
    for day in (no_direct, no_roof):
        assert day.recomputed["differ"] == 0 and day.recomputed["unknown"] == 0, day.recomputed
        assert day.recomputed["agree"] > 500


def test_one_silent_meter_of_several_is_named(no_roof: Day) -> None:
    """The others of its role still count: the figure is a lower bound, says how much of it is known, and names it."""
    silent = [{"point": "ac.energy.export", "stream": "park7/gw01/pv-canteen"}]
    for period in ("interval", "day", "month", "year"):
        for figure in no_roof.of("figure", period, "plain/generation"):
            (metered,) = figure["inputs"]
            assert metered["silent"] == silent
            assert Decimal(figure["completeness"]) <= Decimal(2) / 3
    for result in no_roof.of("balance", "day"):
        assert result["missing"] == ["pv-canteen/ac"] and "residual" not in result


def test_a_report_knows_the_silent_meter(no_roof: Day) -> None:
    (figure,) = [one for one in no_roof.report["figures"] if one["id"] == "plain/generation"]
    assert figure["inputs"][0]["silent"][0]["stream"] == "park7/gw01/pv-canteen"


def test_the_peak_of_a_family_of_roles_is_not_zero(no_roof: Day) -> None:
    for period in ("interval", "day"):
        for figure in no_roof.of("figure", period, "site/peak_of_all_loads"):
            assert Decimal(figure["v"]) > 0 and figure["inputs"][0]["from"]


def test_a_program_in_javascript_finds_what_was_known_in_the_next_pack(no_roof: Day, tmp_path: Path) -> None:
    """At midnight the figures fill a pack, so the packs that were known are named in the next one."""
    if not shutil.which("node"):
        pytest.skip("no Node here (apt: nodejs)")
    lines = (no_roof.folder / "packs" / "packs" / "_indicators.packs.jsonl").read_text(encoding="utf-8").splitlines()
    kinds = [{result["kind"] for result in json.loads(line).get("results", ())} for line in lines]
    assert any("figure" in found and "known" not in found for found in kinds)
    vectors = Path(__file__).parents[2] / "docs" / "vectors"
    shutil.copytree(no_roof.folder / "packs", tmp_path / "park")
    shutil.copy(vectors / "figures" / "definitions.json", tmp_path)
    (tmp_path / "park.plan.json").write_text(json.dumps(tomllib.loads(MORE)), encoding="utf-8")
    done = subprocess.run(
        ["node", str(vectors / "check.mjs"), str(tmp_path / "park"), no_roof.kid, "--recompute"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"figures and traces: [0-9]{3} agree, 0 differ;", done.stdout)
