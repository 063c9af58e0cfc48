"""Vectors of intervals and figures: our verifier and a program in JavaScript come to what was signed, to each digit."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from agent.recompute import recompute
from tests.kits.signed import Key, payload_hash, sign
from tests.verify import figure_vectors
from tests.verify.make_vectors import VECTORS

FIGURES = VECTORS / "figures"
NAMES = list(figure_vectors.VECTORS)
PIN = Key(1).kid
INDICATORS = "packs/_indicators.packs.jsonl"


def node(folder: Path, *more: str) -> tuple[int, str]:
    if not shutil.which("node"):
        pytest.skip("no Node here: apt-get install nodejs")
    done = subprocess.run(
        ["node", str(VECTORS / "check.mjs"), str(folder), PIN, "--recompute", *more],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def copied(name: str, to: Path) -> Path:
    """A vector with all that lies beside it."""
    to.mkdir(parents=True, exist_ok=True)
    shutil.copytree(FIGURES / name, to / name)
    for file in (*FIGURES.glob(f"{name}.*"), FIGURES / "definitions.json"):
        shutil.copy(file, to)
    return to / name


Change = Callable[[list[dict[str, Any]]], object]


def rewritten(folder: Path, file: str, change: Change) -> None:
    """A stream as the holder of the key would write it: changed, and every pack after that chained and signed anew."""
    path = folder / file
    packs = [json.loads(line) for line in path.read_bytes().splitlines()]
    change(packs)
    lines: list[bytes] = []
    birth = ""
    for pack in packs:
        del pack["sig"]
        pack["prev"] = payload_hash(lines[-1]) if lines else None
        if "birth" in pack:
            pack["birth"] = birth
        lines.append(sign(pack, Key(1)))
        if "table" in pack:
            birth = payload_hash(lines[-1])
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def figures_in(packs: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [r for pack in packs for r in pack.get("results", ()) if r["kind"] in (kinds or ("figure",))]


def signed(name: str, *kinds: str) -> list[dict[str, Any]]:
    return figures_in([json.loads(line) for line in (FIGURES / name / INDICATORS).read_bytes().splitlines()], *kinds)


def last_digit(text: str) -> str:
    """Another last digit."""
    return text[:-1] + ("1" if text[-1] != "1" else "2")


@pytest.mark.parametrize("name", NAMES)
def test_our_verifier_repeats_every_result(name: str) -> None:
    found = recompute([FIGURES / name], None)
    assert (found.counts, found.differ) == ({"differ": 0, "unknown": 0}, []) and found.agree >= len(signed(name))


def test_figures_of_streams_that_were_not_asked_for_are_not_repeated(tmp_path: Path) -> None:
    """They say so, and count apart from packs that should be here; the others are repeated as ever."""
    folder = copied("day", tmp_path)
    whole = recompute([folder])
    (folder / "packs" / "boiler.packs.jsonl").unlink()
    for streams in ([], ["boiler"]):
        found = recompute([folder], None, streams)
        assert found.counts["unknown"] and not found.not_asked and "gw01/boiler is not here" in found.unknown[0]
    found = recompute([folder], None, ["_indicators", "gate", "in*"])
    assert found.not_asked == found.counts["unknown"] > 0 == found.counts["differ"]
    assert found.agree + found.not_asked == whole.agree and found.as_dict()["not_asked"] == found.not_asked
    why = ": needs park7/gw01/boiler, which was not asked for"
    assert all(text.endswith(why) for text in found.unknown), found.unknown


@pytest.mark.process
@pytest.mark.parametrize("name", NAMES)
def test_javascript_comes_to_the_same_intervals_and_figures(name: str) -> None:
    code, out = node(FIGURES / name)
    rows = (FIGURES / f"{name}.csv").read_text(encoding="utf-8").count("\n") - 1
    assert code == 0 and re.match("verified: ", out), out
    assert f"intervals: {rows} agree, 0 differ\n" in out
    assert f"figures and traces: {len(signed(name, 'figure', 'trace'))} agree, 0 differ\n" in out
    assert len(signed(name)) >= 12 and rows >= 9


def test_the_vectors_hold_what_they_are_for() -> None:
    """Plain growth, one outage, one reset, one demand window, both sets: each where its name says."""
    rows = {name: (FIGURES / f"{name}.csv").read_text(encoding="utf-8").splitlines() for name in NAMES}
    flags = {name: {word for row in rows[name][1:] for word in row.split(",")[20].split()} for name in NAMES}
    assert flags["growth"] == flags["demand"] == {"incomplete"}, "the first interval begins before the first reading"
    assert flags["outage"] >= {"spread", "late"} and flags["reset"] == {"incomplete", "reset"}
    windows = [row.split(",")[33:35] for row in rows["demand"][1:]]
    assert any(slides and stands and float(slides) > float(stands) > 0 for slides, stands in windows)
    sets = {name: {one["id"].partition("/")[0] for one in signed(name)} for name in NAMES}
    assert sets["day"] == {"plain", "national-2025"} and sets["growth"] == {"plain"}
    core = [one for one in signed("day") if one["id"] == "national-2025/co2_per_energy"]
    assert {one["period"]["kind"] for one in core} == {"day", "month", "year"}
    assert "threshold" in core[0] and core[0]["verdict"] == "met"
    bases = {entry["basis"] for one in core for entry in one["inputs"]}
    assert bases == {"metered", "declared", "assumed", "absent"}
    assert any("estimated" in entry for one in core for entry in one["inputs"] if entry["basis"] == "declared")
    values = json.loads((FIGURES / "growth/packs/roof.packs.jsonl").read_bytes().splitlines()[1])["e"]
    ties = [record for record in values if re.fullmatch(r"\d+\.\d{3}5", str(record["v"]))]
    assert len(ties) > 1, "floats whose fourth decimal is a half: cut half to even"


def _value(one: dict[str, Any]) -> None:
    one["v"] = last_digit(one["v"])


def _numerator(one: dict[str, Any]) -> None:
    one["numerator"]["v"] = last_digit(one["numerator"]["v"])


def _input(one: dict[str, Any]) -> None:
    found = next(entry for entry in one["inputs"] if entry["v"] != "0")
    found["v"] = last_digit(found["v"])


def _completeness(one: dict[str, Any]) -> None:
    one["completeness"] = last_digit(one["completeness"])


def _hash(one: dict[str, Any]) -> None:
    one["formula"]["hash"] = "A" + one["formula"]["hash"][1:]


def _factor(one: dict[str, Any]) -> None:
    one["factors"][0]["v"] = last_digit(one["factors"][0]["v"])


def _trail(one: dict[str, Any]) -> None:
    next(entry for entry in one["inputs"] if entry["basis"] == "metered")["from"][0]["last"] += 1


CHANGES = (_factor, _value, _numerator, _input, _completeness, _hash, _trail)


def dealt_out(name: str) -> list[dict[int, Callable[[dict[str, Any]], None]]]:
    """Every kind of change to a figure of its own (by its place among the signed ones), in few rounds."""
    ours = signed(name)
    able = [n for n, one in enumerate(ours) if "v" in one and one["v"] != "0" and one["completeness"] != "1"]
    left = [change for change in CHANGES if change is not _factor or any(ours[n]["factors"] for n in able)]
    rounds = []
    while left:
        made: dict[int, Callable[[dict[str, Any]], None]] = {}
        for change in list(left):
            if fit := [n for n in able if n not in made and (change is not _factor or ours[n]["factors"])]:
                made[fit[-1]] = change
                left.remove(change)
        rounds.append(made)
    return rounds


@pytest.mark.process
@pytest.mark.parametrize("name", NAMES)
def test_javascript_sees_one_digit_of_a_signed_figure(name: str, tmp_path: Path) -> None:
    """Signed with the right key and in its place in the chain: the signatures hold, the figures do not follow."""
    ours, rounds = signed(name), dealt_out(name)
    assert sum(map(len, rounds)) == len(CHANGES) - (not any(one["factors"] for one in ours))
    for number, changes in enumerate(rounds):
        folder = copied(name, tmp_path / str(number))

        def alter(packs: list[dict[str, Any]], changes: Any = changes) -> None:
            for n, change in changes.items():
                change(figures_in(packs)[n])

        rewritten(folder, INDICATORS, alter)
        code, out = node(folder)
        assert code == 6 and (out.startswith("verified: ") or "\nverified: " in out), out
        for n in changes:
            assert f"differs: {ours[n]['id']} of {ours[n]['period']['label']}: " in out, (changes[n], out)
        assert f" agree, {len(changes)} differ\n" in out and "intervals" in out


@pytest.mark.process
@pytest.mark.parametrize("name", NAMES)
def test_javascript_sees_one_digit_of_an_interval_and_of_a_trace(name: str, tmp_path: Path) -> None:
    folder = copied(name, tmp_path)
    path = tmp_path / f"{name}.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    cells = lines[5].split(",")
    cells[13] = last_digit(cells[13])
    lines[5] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def alter(packs: list[dict[str, Any]]) -> None:
        hour = figures_in(packs, "trace")[0]["hours"][3]
        hour["grid"] = last_digit(hour["grid"])

    if name == "day":
        rewritten(folder, INDICATORS, alter)
    code, out = node(folder)
    assert code == 6 and f"differs: interval {cells[7]} {cells[9]} {cells[0]}: amount: signed" in out, out
    assert ("differs: green/hour of 2025-06-30: hours 3 grid: signed" in out) is (name == "day"), out
    assert out.count(" agree, 1 differ\n") == (2 if name == "day" else 1), out


@pytest.mark.process
@pytest.mark.parametrize("name", NAMES)
def test_javascript_sees_one_digit_of_a_reading(name: str, tmp_path: Path) -> None:
    """A reading at a boundary, changed and signed again: the figures of both sides do not follow any more."""
    folder = copied(name, tmp_path)

    length = 10_800 if name == "day" else 900

    def change(packs: list[dict[str, Any]]) -> None:
        of_import = [(record, pack) for pack in packs[5:] for record in pack.get("e", ()) if "import" in record["n"]]
        record = next(r for r, _ in of_import if (r["bt"] + 8 * 3600) % length < 2)
        record["v"] = round(record["v"] + (0.8 if name == "growth" else 0.01), 2)  # one count

    rewritten(folder, "packs/gate.packs.jsonl", change)
    code, out = node(folder)
    assert code == 6 and "differs: interval gate ac.energy.import" in out, out


def test_a_figure_that_was_made_before_a_device_wrote_its_interval_is_repeated(tmp_path: Path) -> None:
    """Packs of three hours: the first figures are due before the third pack of a boot, for which every stream waits."""
    park = figure_vectors.day()
    slow = figure_vectors.Park(**{**vars(park), "seal_s": 3 * 3600})
    for file, raw in figure_vectors.files_of("slow", slow).items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(raw)
    made = figures_in([json.loads(line) for line in (tmp_path / "slow" / INDICATORS).read_bytes().splitlines()])
    assert sum("v" not in one for one in made if one["period"]["kind"] == "interval") >= 8, "nothing was known then"
    found = recompute([tmp_path / "slow"], None)
    assert found.differ == [] and found.agree > 60 and not found.counts["unknown"]


FEW = {0, 1, 9, 11, 12, 14}  # each kind of counter, silence, restart, pace, pack and interval is among them


@pytest.mark.process
@pytest.mark.parametrize(
    "seed", [seed if seed in FEW else pytest.param(seed, marks=pytest.mark.slow) for seed in range(24)]
)
def test_javascript_agrees_on_parks_made_at_random(seed: int, tmp_path: Path) -> None:
    """The page is enough: whatever the pace of counters, silences, restarts, packs and intervals."""
    for file, raw in figure_vectors.files_of("park", figure_vectors.random_park(seed)).items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(raw)
    shutil.copy(FIGURES / "definitions.json", tmp_path)
    code, out = node(tmp_path / "park")
    assert code == 0 and out.count(" 0 differ") == 2, out
    assert recompute([tmp_path / "park"], None).counts == {"differ": 0, "unknown": 0}


def test_the_page_names_every_vector() -> None:
    page = (VECTORS / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"`{name}`" in page
    plan = json.loads((FIGURES / "day.plan.json").read_bytes())
    birth = json.loads((FIGURES / "day" / INDICATORS).read_bytes().splitlines()[0])["table"]["plan"]
    import tomllib

    assert tomllib.loads(birth["text"], parse_float=str) == plan
    assert rfc8785.dumps(plan)


def test_the_example_of_the_page_is_a_step_of_a_vector() -> None:
    """docs/intervals.md: what of a step comes together until a boundary, rounded down in thousandths of a count."""
    page = (VECTORS.parent / "intervals.md").read_text(encoding="utf-8")
    found = re.search(
        r"Example: one count is 0\.01 kWh, and the counter shows (\S+) at (\S+) and (\S+) at (\S+)\. "
        r"The amount until (\S+) is\n"
        r"floor\(1000 \* (\d+) \* (\d+) / (\d+)\) = (\d+) thousandths of a count, which is (\S+) kWh; "
        r"the next interval gets the remaining (\d+) ",
        page,
    )
    assert found
    first, at, last, until, boundary, growth, into, whole, part, amount, rest = found.groups()
    rows = [line.split(",") for line in (FIGURES / "reset.csv").read_text(encoding="utf-8").splitlines()[1:]]
    exported = [row for row in rows if row[9] == "ac.energy.export"]
    assert any(row[2][11:19] == boundary and row[21][14:23] == at[3:] and row[22] == first for row in exported)
    assert any(row[3][11:19] == boundary and row[24][14:23] == until[3:] and row[25] == last for row in exported)
    assert round((float(last) - float(first)) * 100) == int(growth)
    assert 1000 * int(growth) * int(into) // int(whole) == int(part) and int(part) + int(rest) == 1000 * int(growth)
    assert float(amount) == int(part) / 100_000
