"""docs/indicators.md recomputes a day by hand: its tables are a run's, its sums are right, its figures were signed."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import tomllib
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from agent.indicators.figure import decimal_text
from agent.indicators.plan import load_plan
from bench.timelapse import PLAN, Timelapse
from tests.kits.lived import HOUR, Lived, mh

pytestmark = pytest.mark.process

PAGE = (Path(__file__).parents[2] / "docs" / "indicators.md").read_text(encoding="utf-8")
DAY = "2025-06-21"
COLUMNS = (
    "grid import", "grid export", "direct import", "generation.pv generation", "storage charge", "storage discharge",
    "load consumption", "gas volume", "heat.supplied heat", "heat.recovered heat", "water.fresh volume",
    "water.reused volume",
)  # fmt: skip
D, F = Decimal, Fraction


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """20 and 21 June 2025, read every quarter of an hour; of the second day certificates and an audit are declared."""
    folder = tmp_path_factory.mktemp("day")
    park = Timelapse(folder, date(2025, 6, 20), every_s=900)
    when = date(2025, 6, 21), date(2025, 6, 22)
    noon = park.calendar.midnight(when[0]) + 12 * HOUR
    entries = (
        park.declare("certificates", "400", "MWh", *when, "Li Wei", noon, "GEC-2025-0621"),
        park.declare("residual_available", "1300", "GJ", *when, "Zhang Min", noon, "energy audit 2024"),
    )
    for _ in park.until(when[1]):
        pass
    park.close()
    return Lived(folder, folder / "packs", park.kid, entries, park.calendar.midnight(when[0]))


def tables(first: str) -> list[list[str]]:
    """The rows of the table whose head begins with a word."""
    found = re.search(rf"^\| {first} \|.*\n\|[-:| ]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert found, first
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


def test_the_tables_are_those_of_the_run(day: Lived, tmp_path: Path) -> None:
    code, _, err = mh("export", "--intervals", tmp_path / "intervals.csv", "-c", day.config)
    assert code == 0, err
    rows = list(csv.DictReader((tmp_path / "intervals.csv").open(encoding="utf-8-sig")))
    hours: dict[tuple[str, str], D] = {}
    gate = []
    for row in rows:
        if row["from"].startswith(DAY):
            key = row["from"][11:13], f"{row['role']} {row['flow']}"
            hours[key] = hours.get(key, D(0)) + D(row["amount"])
            if row["device"] == "gate" and row["flow"] == "import" and row["from"][11:13] == "18":
                gate.append([row["from"][11:16], row["reading before"], row["reading after"], row["amount"]])
    assert gate == tables("from")
    assert all(D(after) - D(before) == D(amount) for _, before, after, amount in gate)
    *shown, whole = tables("hour")
    assert [row[0] for row in shown] == [f"{hour:02}" for hour in range(24)]
    for row in shown:
        assert [D(cell) for cell in row[1:]] == [hours[row[0], name] for name in COLUMNS]
    assert [D(cell) for cell in whole[1:]] == [sum(D(row[n]) for row in shown) for n in range(1, len(COLUMNS) + 1)]


def test_a_program_in_javascript_comes_to_every_interval_and_figure(day: Lived, tmp_path: Path) -> None:
    """docs/vectors/figures.mjs, on two days of a whole park: storage, loads, all media."""
    if not shutil.which("node"):
        pytest.skip("no Node here (apt: nodejs)")
    vectors = Path(__file__).parents[2] / "docs" / "vectors"
    code, _, err = mh("export", tmp_path / "park", "-c", day.config)
    assert code == 0, err
    shutil.copy(vectors / "figures" / "definitions.json", tmp_path)
    (tmp_path / "park.plan.json").write_text(json.dumps(tomllib.loads(PLAN)), encoding="utf-8")
    code, _, err = mh("export", "--intervals-flat", tmp_path / "park.csv", "-c", day.config)
    assert code == 0, err
    done = subprocess.run(
        ["node", str(vectors / "check.mjs"), str(tmp_path / "park"), day.kid, "--recompute"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    rows = (tmp_path / "park.csv").read_text(encoding="utf-8").count("\n") - 1
    assert done.returncode == 0 and f"intervals: {rows} agree, 0 differ" in done.stdout, done.stdout + done.stderr
    assert re.search(r"figures and traces: [0-9]{3} agree, 0 differ;", done.stdout) and rows > 3000


def totals() -> dict[str, F]:
    return {name: F(cell) for name, cell in zip(COLUMNS, tables("hour")[-1][1:], strict=True)}


def test_the_arithmetic_of_the_page() -> None:
    """From the day's totals, by the formulas as the page writes them; twelve digits."""
    t = totals()
    taken, given, sun = t["grid import"], t["grid export"], t["generation.pv generation"]
    assert taken + t["direct import"] + sun + t["storage discharge"] == given + t["storage charge"] + t[
        "load consumption"
    ], "it balances"  # fmt: skip
    used, own = taken - given + t["direct import"] + sun, sun - given
    gas, heat = t["gas volume"], t["heat.supplied heat"]
    co2 = (taken - 400_000) * F("0.8325"), gas * F("389.31") / 10**4 * F("0.0153") * F("0.99") * 44 / 12 * 1000
    co2_t = (sum(co2) + heat * 110) / 1000
    coal_t = (used * F("0.302") + gas * F("1.33") + heat * F("34.12")) / 1000
    clean_t = (own + t["direct import"] + 400_000) * F("0.302") / 1000
    peak = max(F(row[3]) for row in tables("from")) * 4
    water = t["water.reused volume"] / (t["water.fresh volume"] + t["water.reused volume"])
    wanted = {
        "plain/consumption": (used, "kWh"),
        "plain/self_consumption": (100 * own / sun, "%"),
        "plain/self_sufficiency": (100 * own / used, "%"),
        "plain/peak_demand": (peak, "kW"),
        "plain/co2_location": (taken * F("0.5306") / 1000, "tCO2"),
        "national-2025/water_reuse": (100 * water, "%"),
        "national-2025/residual_energy": (100 * t["heat.recovered heat"] / 1300, "%"),
    }
    assert {row[0].strip("`"): row[2] for row in tables("figure \\| by hand")} == {
        name: f"{decimal_text(value)} {unit}" for name, (value, unit) in wanted.items()
    }
    parts = {row[0]: row[2] for row in tables("part")}
    assert parts["CO2"] == decimal_text(co2_t) and parts["energy"] == decimal_text(coal_t)
    assert f"**{decimal_text(co2_t / coal_t)} tCO2/tce**" in PAGE
    assert f"= {decimal_text(clean_t)} tce" in PAGE and f"**{decimal_text(100 * clean_t / coal_t)} %**" in PAGE


def test_these_figures_were_signed_and_come_out_again(day: Lived, tmp_path: Path) -> None:
    code, _, err = mh("export", tmp_path / "june", "--from", "2025-06-19", "--to", "2025-06-23", "-c", day.config)
    assert code == 0, err
    lines = (tmp_path / "june" / "packs" / "_indicators.packs.jsonl").read_text(encoding="utf-8").splitlines()
    results = [result for line in lines for result in json.loads(line).get("results", ())]
    of_day = {r["id"]: r for r in results if r.get("period", {}).get("label") == DAY and r["kind"] == "figure"}
    for name, _, signed in tables("figure \\| by hand"):
        one = of_day[name.strip("`")]
        assert f"{one['v']} {one['u']}" == signed
    core, clean = of_day["national-2025/co2_per_energy"], of_day["national-2025/clean_share"]
    assert f"= **{core['v']} tCO2/tce**, above 0.2: not met" in PAGE and core["verdict"] == "not met"
    assert f"= **{clean['v']} %**: met" in PAGE and clean["verdict"] == "met"
    trace = next(r for r in results if r["kind"] == "trace" and r["period"]["label"] == DAY)
    assert all(f"{D(trace[name]):.2f} " in PAGE for name in ("own", "direct", "storage", "grid")), trace
    code, out, err = mh("verify", tmp_path / "june", "--trust", day.kid, "--recompute")
    said = re.search(r"^figures: .*$", PAGE, re.MULTILINE)
    assert code == 0 and said and said[0] in out, out


def test_an_export_that_begins_too_late_accuses_nobody(day: Lived, tmp_path: Path) -> None:
    """Its packs have no birth among them, and nobody knows what the counters did before."""
    code, _, err = mh("export", tmp_path / "late", "--from", DAY, "--to", "2025-06-22", "-c", day.config)
    assert code == 0, err
    code, out, err = mh("verify", tmp_path / "late", "--trust", day.kid, "--recompute")
    assert code == 0 and "figures: 0 agree, 0 differ, " in out
    assert (
        "its period begins too soon after the first pack; start the export two days earlier "
        "(the packs here are enough only for periods that begin at 2025-06-22 02:00 or later)"
    ) in out, out


def test_the_report_of_the_page(day: Lived) -> None:
    """Every line that the page shows is one that the command writes; columns are as wide as the terminal lets them."""
    found = re.search(r"## The report\n\n```\n(.*?)```", PAGE, re.DOTALL)
    assert found
    said = [" ".join(line.split()) for lang in ("en", "zh") for line in day.report(DAY, "--lang", lang).splitlines()]
    shown = [" ".join(line.split()) for line in found[1].splitlines() if line != "..." and not line.startswith("$")]
    assert len(shown) > 12 and [line for line in shown if line not in said] == []


def test_the_trace_by_the_quarter_of_an_hour(day: Lived, tmp_path: Path) -> None:
    sums: dict[str, dict[str, D]] = {}
    for by, count in (("hour", 24), ("interval", 96)):
        day.report(DAY, "--trace", tmp_path / f"{by}.csv", "--trace-by", by)
        rows: list[dict[str, Any]] = list(csv.DictReader((tmp_path / f"{by}.csv").open(encoding="utf-8-sig")))
        assert len(rows) == count
        sums[by] = {name: sum((D(row[name]) for row in rows), D(0)) for name in rows[0] if name.endswith("_kWh")}
    assert sums["hour"]["consumption_kWh"] == sums["interval"]["consumption_kWh"]
    assert sums["interval"]["own_kWh"] <= sums["hour"]["own_kWh"], "the finer, the less can be matched"


def test_the_plans_of_the_page_are_sound() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert blocks[0] == PLAN
    plan = load_plan(blocks[0] + blocks[1], "plan.toml")
    assert plan.indicators[-1].name == "site/compressed_air_share"
