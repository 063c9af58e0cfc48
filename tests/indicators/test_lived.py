"""A park's days from the ring to the report: figures balance, are sealed, and can be repeated from exported packs."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from agent.cli.report.command import FIGURE_HEADS
from agent.indicators.compute import intervals_of
from agent.intervals.calendar import Calendar
from agent.intervals.gap_sums import added
from agent.intervals.ledger import Ledger, take_body
from agent.intervals.tracked_points import Rule
from agent.keys import load_key
from agent.store import Store
from ext.canon import dumps
from tests.kits.lived import Lived, mh

pytestmark = pytest.mark.process

DAY_MS = 86_400_000
D = Decimal


def sealed(folder: Path) -> list[dict[str, Any]]:
    """All results in the order of the packs."""
    lines = (folder / "packs" / "_indicators.packs.jsonl").read_text(encoding="utf-8").splitlines()
    return [result for line in lines for result in json.loads(line).get("results", ())]


def figure(lived: Lived, name: str, label: str) -> dict[str, Any]:
    found = [r for r in sealed(lived.packs) if r.get("id") == name and r["period"]["label"] == label]
    assert found
    return found[-1]


def inputs(one: dict[str, Any]) -> dict[str, D]:
    return {entry["n"]: D(entry["v"]) for entry in one["inputs"]}


@pytest.fixture(scope="module")
def sums(lived: Lived) -> dict[tuple[str, str], list[Any]]:
    """Role sums of all intervals of both days, by role and flow."""
    store, calendar = Store.open(lived.folder / "state" / "store.db"), Calendar("Asia/Shanghai")
    try:
        found: dict[tuple[str, str], list[Any]] = {}
        for one in intervals_of(store.intervals, calendar, lived.midnight_ms - DAY_MS, lived.midnight_ms + DAY_MS):
            found.setdefault((one.role, one.flow), []).append(one)
        return found
    finally:
        store.close()


def test_what_is_missing_follows_from_the_exported_packs(lived: Lived) -> None:
    """The agent counted it as its ring was sealed; the packs of each device say the same, to the millisecond."""
    store, calendar = Store.open(lived.folder / "state" / "store.db"), Calendar("Asia/Shanghai")
    kept = {
        stream: [row for _, row in store.intervals.gaps.rows(0, 1 << 50, [stream])] for stream in store.packs.heads()
    }
    store.close()
    seen = 0
    for stream, rows in kept.items():
        name = stream.rpartition("/")[2]
        if name.startswith("_"):
            assert rows == []
            continue
        ledger, found = Ledger(stream, calendar, Rule()), []
        for line in (lived.packs / "packs" / f"{name}.packs.jsonl").read_text(encoding="utf-8").splitlines():
            take_body(ledger, json.loads(line, parse_float=str))
            found += ledger.gap_rows()
        assert added(found) == rows, name
        seen += bool(rows)
    assert seen, "something was missing"


SUPPLY = (("generation.pv", "generation"), ("direct", "import"), ("grid", "import"), ("storage", "discharge"))
USE = (("load", "consumption"), ("grid", "export"), ("storage", "charge"))


def test_the_energy_of_every_interval_balances_to_the_count(sums: dict[tuple[str, str], list[Any]]) -> None:
    """Also where the gate's meter was silent for hours: its total is exact, and only its place in time was spread."""
    # field pain 34
    count = 2 * 96
    assert all(len(sums[key]) == count for key in (*SUPPLY, *USE))
    residuals = [sum(sums[k][n].amount for k in SUPPLY) - sum(sums[k][n].amount for k in USE) for n in range(count)]
    assert sum(residuals) == 0
    spread = {n for n, one in enumerate(sums["grid", "import"]) if one.estimated}
    assert [n for n, rest in enumerate(residuals) if rest and n not in spread] == []
    first_hours = set(range(8))  # until a counter has shown how it grows, a large step waits for the next
    assert spread - first_hours == set(range(89, 103)), "22:20 to 01:40, in quarters of an hour"


def test_a_day_is_the_sum_of_its_intervals_and_a_month_of_its_days(
    lived: Lived, sums: dict[tuple[str, str], list[Any]]
) -> None:
    year = inputs(figure(lived, "plain/consumption", "2025"))
    days = [inputs(figure(lived, "plain/consumption", f"2025-02-0{n}")) for n in (1,)]
    assert year["grid.import"] == sum(one.amount for one in sums["grid", "import"])
    assert year["direct.import"] == sum(one.amount for one in sums["direct", "import"])
    assert days[0]["grid.import"] == sum(one.amount for one in sums["grid", "import"][96:])
    assert days[0] == inputs(figure(lived, "plain/consumption", "2025-02"))
    page = json.loads(lived.report("2025-02-01", "--json"))
    shown = {one["id"]: one for one in page["figures"]}
    assert inputs(shown["plain/consumption"]) == days[0]


def test_a_figure_that_was_made_without_the_gate_says_so_and_stays(lived: Lived) -> None:
    """What comes later completes the report and later figures; what was signed is not changed."""
    then, now = (
        figure(lived, "plain/consumption", "2025-01-31"),
        json.loads(lived.report("2025-01-31", "--json"))["figures"],
    )
    later = next(one for one in now if one["id"] == "plain/consumption")
    assert D("0.9") < D(then["completeness"]) < 1 and D(then["v"]) < D(later["v"])
    assert later["completeness"] == "1" and D(later["estimated"]) > 0
    night = [r for r in sealed(lived.packs) if r.get("id") == "plain/consumption" and r["period"]["kind"] == "interval"]
    silent = [r for r in night if "v" not in r]
    assert len(silent) > 6 and all("grid.import" in r["missing"] for r in silent), "no figure, and never a zero"
    assert all(
        r["completeness"] == r["estimated"] == "1" for r in night if r["period"]["label"][:16] == "2025-02-01T01:15"
    )


def test_days_without_any_reading_are_not_known(lived: Lived) -> None:
    """Of a month of which the gateway saw one day, a thirty-first is known; of one before its time, nothing."""
    page = json.loads(lived.report("2025-01", "--json"))
    water = next(one for one in page["figures"] if one["id"] == "national-2025/water_reuse")
    assert abs(Fraction(water["completeness"]) - Fraction(1, 31)) < Fraction(1, 10**6)
    before = json.loads(lived.report("2024-12", "--json"))["figures"]
    assert {one["verdict"] for one in before} == {"no data"} and not any("v" in one for one in before)
    assert "There is no data for this period." in lived.report("2024-12", "--lang", "en")


def test_what_was_declared_is_sealed_and_told_apart(lived: Lived) -> None:
    entries = [r for r in sealed(lived.packs) if r["kind"] == "declaration"]
    assert [entry["id"] for entry in entries] == list(lived.entries), "once each"
    assert entries[1]["replaces"] == lived.entries[0] and entries[1]["document"] == "GEC-2025-0117"
    assert entries[1]["by"] == {"login": "anna", "uid": 1002} and "by" not in entries[0], (
        "who entered it, if it is known"
    )
    core = figure(lived, "national-2025/co2_per_energy", "2025-01-31")
    bases = {one["n"]: one for one in core["inputs"]}
    assert bases["declared.certificates"]["basis"] == "declared" and bases["declared.certificates"]["v"] == "310"
    assert bases["declared.certificates"]["entries"] == [lived.entries[1]], "the one that was replaced does not count"
    assert bases["grid.import"]["basis"] == "metered" and bases["grid.import"]["from"][0]["stream"] == "park7/gw01/gate"
    assert bases["generation.wind.energy"]["basis"] == "absent"
    assert bases["declared.process_co2"]["basis"] == "assumed"


def test_a_changed_factor_makes_a_new_figure(lived: Lived) -> None:
    """The year so far, signed twice: each says with which entry of the factor; the first is as it was."""
    core = [r for r in sealed(lived.packs) if r.get("id") == "national-2025/co2_per_energy"]
    by_day = {r["period"]["label"]: {f["id"] for f in r["factors"]} for r in core if r["period"]["kind"] == "day"}
    assert "power.fossil.cn@2022" in by_day["2025-01-31"] and "power.fossil.cn@2023" in by_day["2025-02-01"]
    years = [r for r in core if r["period"]["kind"] == "year"]
    assert [sorted(f["v"] for f in r["factors"] if f["id"].startswith("power.fossil")) for r in years] == [
        ["0.8325"], ["0.8273"]
    ]  # fmt: skip
    assert len({r["formula"]["hash"] for r in core}) == 1, "the formula is the same"
    assert len({r["config"] for r in core}) == 2


# --- what a verifier does


def test_every_figure_comes_out_again_from_the_packs(lived: Lived) -> None:
    code, out, err = mh("verify", lived.packs, "--trust", lived.kid, "--recompute", "--json")
    assert code == 0, err
    found = json.loads(out)["recomputed"]
    count = sum(r["kind"] not in ("declaration", "restated", "known") for r in sealed(lived.packs))
    assert (found["agree"], found["differ"], found["unknown"]) == (count, 0, 0) and count > 800, found


def test_of_a_part_of_the_packs_what_can_be_repeated_is(lived: Lived, tmp_path: Path) -> None:
    shutil.copytree(lived.packs, tmp_path / "part")
    (tmp_path / "part" / "packs" / "reuse.packs.jsonl").unlink()
    code, out, _ = mh("verify", tmp_path / "part", "--trust", lived.kid, "--recompute")
    assert "of park7/gw01/reuse is not here" in out
    agree = re.search(r"figures: (\d+) agree, 0 differ", out)
    assert code == 0 and agree and int(agree[1]) > 500, "what has nothing to do with it"


Change = Callable[[dict[str, Any]], None]


def _lighter(one: dict[str, Any]) -> None:
    one["v"] = "0.19"


def _nothing_bought(one: dict[str, Any]) -> None:
    next(entry for entry in one["inputs"] if entry["n"] == "grid.import")["v"] = "0"


def _greener_factor(one: dict[str, Any]) -> None:
    next(entry for entry in one["factors"] if entry["id"].startswith("power.fossil"))["v"] = "0.2472"


def _metered(one: dict[str, Any]) -> None:
    next(entry for entry in one["inputs"] if entry["basis"] == "declared")["basis"] = "metered"


def _official(one: dict[str, Any]) -> None:
    one["official"] = True


FORGERIES: dict[tuple[str, str], tuple[Change, str]] = {
    ("national-2025/co2_per_energy", "year"): (_lighter, "2025: v: signed 0.19, recomputed "),
    ("national-2025/co2_per_energy", "month"): (
        _greener_factor, "2025-02: factors power.fossil.cn@2023 v: signed 0.2472, recomputed 0.8273"
    ),
    ("national-2025/clean_share", "year"): (
        _metered, "2025: inputs declared.certificates basis: signed metered, recomputed declared"
    ),
    ("national-2025/clean_share", "month"): (_official, "2025-02: official: signed true, recomputed false"),
    ("plain/consumption", "day"): (_nothing_bought, "2025-02-01: inputs grid.import v: signed 0, recomputed "),
}  # fmt: skip


def test_figures_that_do_not_follow_from_the_readings_are_found(lived: Lived, tmp_path: Path) -> None:
    """Signed with the right key, in their place in the chain: only whoever repeats them sees it."""
    shutil.copytree(lived.packs, tmp_path / "forged")
    path = tmp_path / "forged" / "packs" / "_indicators.packs.jsonl"
    lines = path.read_bytes().splitlines()
    last = max(n for n, line in enumerate(lines) if b'"kind":"year"' in line)
    pack = json.loads(lines[last])
    for result in pack["results"]:
        if (key := (result.get("id"), result.get("period", {}).get("kind"))) in FORGERIES:
            FORGERIES[key][0](result)
    del pack["sig"]
    pack["sig"] = load_key(lived.folder / "state" / "signing.key").signer("mh-pack")(dumps(pack))
    path.write_bytes(b"\n".join([*lines[:last], dumps(pack)]) + b"\n")  # nothing follows that would name its hash
    code, out, _ = mh("verify", tmp_path / "forged", "--trust", lived.kid, "--recompute")
    assert "\nverified: " in out and code == 6, out
    for (name, _), (_, complaint) in FORGERIES.items():
        assert f"differs: {name} of {complaint}" in out, out
    assert f" {len(FORGERIES)} differ, " in out


def _no_period(pack: dict[str, Any]) -> None:
    pack["results"][0]["period"] = ["2025"]


def _no_inputs(pack: dict[str, Any]) -> None:
    pack["results"][0]["inputs"] = 7


def _no_results(pack: dict[str, Any]) -> None:
    pack["results"][1] = "nothing"


@pytest.mark.parametrize("spoil", [_no_period, _no_inputs, _no_results])
def test_results_in_another_form_are_told(lived: Lived, tmp_path: Path, spoil: Change) -> None:
    """Signed, but no result: the verifier says so in words."""
    shutil.copytree(lived.packs, tmp_path / "spoilt")
    packs = tmp_path / "spoilt" / "packs"
    for path in packs.glob("[a-z]*.jsonl"):
        path.unlink()  # they would only take time
    path = packs / "_indicators.packs.jsonl"
    lines = path.read_bytes().splitlines()
    pack = json.loads(lines[1])
    assert pack["results"][0]["kind"] == "figure"
    spoil(pack)
    del pack["sig"]
    pack["sig"] = load_key(lived.folder / "state" / "signing.key").signer("mh-pack")(dumps(pack))
    path.write_bytes(b"\n".join([lines[0], dumps(pack)]) + b"\n")
    code, out, _ = mh("verify", tmp_path / "spoilt", "--trust", lived.kid, "--recompute")
    assert code == 6 and "malformed" in out and " 1 differ, " in out, out


# --- what people see


@pytest.mark.parametrize(
    ("language", "words"),
    [("en", ("Clean-energy share of consumption", "met", "not met")), ("zh", ("清洁能源消费占比", "达标", "未达标"))],
)
def test_the_report_of_a_store_at_rest(lived: Lived, tmp_path: Path, language: str, words: tuple[str, ...]) -> None:
    shown = lived.report("2025-02-01", "--lang", language)
    assert all(word in shown for word in words), shown
    out = lived.report("2025", "--lang", language, "--html", tmp_path / "year.html", "--csv", tmp_path / "year.csv")
    assert [line.rpartition("/")[2] for line in out.splitlines()] == ["year.html", "year.csv"]
    page = (tmp_path / "year.html").read_text(encoding="utf-8")
    assert words[0] in page and "power.fossil.cn@2023" in page
    heads, *rows = csv.DictReader((tmp_path / "year.csv").open(encoding="utf-8-sig"), FIGURE_HEADS)
    assert (tuple(heads.values()) == FIGURE_HEADS) == (language == "en")
    core = next(row for row in rows if row["id"] == "national-2025/co2_per_energy")
    assert core["period"] == "2025" and D(core["value"]) > 0 and core["unit"] == "tCO2/tce"


def test_the_trace_of_green_power_by_the_hour(lived: Lived, tmp_path: Path) -> None:
    lived.report("2025-02-01", "--trace", tmp_path / "green.csv")
    rows = list(csv.DictReader((tmp_path / "green.csv").open(encoding="utf-8-sig")))
    assert len(rows) == 24 and rows[0]["from"] == "2025-02-01T00:00:00+08:00"
    for row in rows:
        parts = sum(D(row[f"{name}_kWh"]) for name in ("own", "direct", "storage", "grid"))
        assert parts == D(row["consumption_kWh"])
    sealed_trace = next(r for r in sealed(lived.packs) if r["kind"] == "trace" and r["period"]["label"] == "2025-02-01")
    assert [hour["own"] for hour in sealed_trace["hours"]] == [row["own_kWh"] for row in rows]


# --- the verifier


def test_results_are_verified_as_readings_are(lived: Lived, tmp_path: Path) -> None:
    """Chained and complete like every stream: a pack of figures that is gone is missing, one digit is refused."""
    for n, (spoil, want) in enumerate(
        (
            (
                lambda lines: [*lines[:20], *lines[21:]],
                ("incomplete", "park7/gw01/_indicators: packs 21 to 21 are missing"),
            ),
            (_another_figure, ("failed", "first fault: park7/gw01/_indicators seq 21")),
            (
                lambda lines: [*lines[:20], lines[21], lines[20], *lines[22:]],
                ("verified", "1 pack arrived out of order"),
            ),
        )
    ):
        folder = tmp_path / str(n)
        shutil.copytree(lived.packs, folder)
        path = folder / "packs" / "_indicators.packs.jsonl"
        path.write_bytes(b"\n".join(spoil(path.read_bytes().splitlines())) + b"\n")
        code, out, _ = mh("verify", folder, "--trust", lived.kid)
        assert f"\n{want[0]}: " in out and want[1] in out, out
        assert code == (0 if want[0] == "verified" else 6)


def _another_figure(lines: list[bytes]) -> list[bytes]:
    lines[20] = lines[20].replace(b'"completeness":"1"', b'"completeness":"0"', 1)
    return lines


def test_the_schema_describes_packs_of_results(lived: Lived) -> None:
    import jsonschema

    schema = json.loads((Path(__file__).parents[2] / "docs" / "pack.schema.json").read_bytes())
    validator = jsonschema.Draft202012Validator({"$defs": schema["$defs"], "$ref": "#/$defs/pack"})
    for line in (lived.packs / "packs" / "_indicators.packs.jsonl").read_bytes().splitlines():
        assert [error.message for error in validator.iter_errors(json.loads(line))] == []


def test_what_is_declared_at_rest_falls_into_an_interval_to_come(lived: Lived, tmp_path: Path) -> None:
    """By whatever clock: an interval whose figures are out is closed, and an entry in it would never be signed."""
    for name in ("agent.toml", "plan.toml"):
        shutil.copy(lived.folder / name, tmp_path)
    for name in ("profiles", "state"):
        shutil.copytree(lived.folder / name, tmp_path / name)
    store = Store.open(tmp_path / "state" / "store.db")
    head_ms = store.packs.heads()["park7/gw01/_indicators"].to_ms
    store.close()
    say = ("declare", "certificates", "5", "MWh", "--from", "2025-02-01", "--to", "2025-02-02", "--who", "Li Wei")
    code, out, err = mh(*say, "--json", "-c", tmp_path / "agent.toml")
    assert code == 0 and json.loads(out)["entry"]["at"] * 1000 >= head_ms, err
    code, out, _ = mh("declare", "-c", tmp_path / "agent.toml")
    assert code == 0 and "5 MWh" in out and out.count("replaced") == 1, out
    for change, complaint in (
        (("certificats",), "the plan has no input declared.certificats"),
        ((None, "5", "m3"), "input declared.certificates cannot be given in the unit m3"),
        ((None, "five"), '"five" is not a plain decimal number'),
    ):
        words = [given or said for given, said in zip((*change, *[None] * 9), say[1:], strict=False)]
        code, _, err = mh("declare", *words, "-c", tmp_path / "agent.toml")
        assert code == 2 and complaint in err, err
